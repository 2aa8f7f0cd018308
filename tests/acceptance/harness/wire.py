"""A wire between the command and the simulator that can be cut or held: a TCP relay on loopback.

A cut closes every connection at once, as a firewall or a restarted load balancer does; whoever connects afterwards gets
through. The simulator knows nothing of it: a reply that left it and lay in the wire is gone. While the wire is held
nothing passes and nobody is told, as in a network that is unplugged.
"""

import asyncio
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path


def sender(port):
    """Return the process whose end of a connection on this machine has a port, -1 for one that is gone."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            wanted = f"socket:[{fields[9]}]"
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with suppress(OSError):
                    if str(link.readlink()) == wanted:
                        return int(link.parts[2])
    return -1


class Wire:
    """Relays connections to a port of this machine.

    Args:
        port: Where to.
    """

    def __init__(self, port):
        self._to = port
        self._open = set()
        self._relays = 0
        self.sent_bytes = Counter()
        """Process -> bytes that it sent so far."""
        self._passing = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.release()
        self._server = self._call(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _relay(self, reader, writer):
        self._relays += 1  # from now on: what a process wrote before it died may still come through
        try:
            await self._relayed(reader, writer)
        finally:
            self._relays -= 1

    async def _relayed(self, reader, writer):
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._open |= both
        try:
            client = sender(writer.get_extra_info("peername")[1])
            await asyncio.gather(self._copy(reader, back, client=client), self._copy(there, writer))
        finally:
            self._open -= both
            for end in both:
                end.transport.abort()

    async def _copy(self, reader, writer, *, client=None):
        with suppress(OSError):
            while data := await reader.read(65_536):
                if client is not None:
                    self.sent_bytes[client] += len(data)
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self):
        """Close every connection."""

        async def cut():
            for end in self._open:
                end.transport.abort()

        self._call(cut())

    def unplug(self):
        """Cut, and let nobody through any more: who connects is hung up on."""
        self._to = 0
        self.cut()

    def rest(self):
        """Wait until nobody is connected any more: whoever died is gone at the other end too."""
        until = time.monotonic() + 30
        while self._call(self._busy()):
            assert time.monotonic() < until
            time.sleep(0.001)

    async def _busy(self):
        """Tell whether anybody is connected, or has connected and was not noticed yet."""
        for _ in range(3):  # the loop looks who has connected
            await asyncio.sleep(0)
        return self._relays > 0

    def hold(self):
        """Let nothing pass."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def release(self):
        """Let everything pass, and what was held first."""
        self._loop.call_soon_threadsafe(self._passing.set)

    def stop(self):
        """Close everything, for good."""

        async def stop():
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

        self._call(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
