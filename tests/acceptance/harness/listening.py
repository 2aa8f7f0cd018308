"""A server of raw bytes in a thread of its own, for replies that no HTTP library would send."""

import asyncio
import contextlib
import re
import threading

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


class Listener:
    """Listens on loopback while it is entered, and hands each request to `answer`."""

    def __init__(self):
        self._began = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self):
        self._thread.start()
        self._began.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def answer(self, head, body, writer):
        """Answer a request, given its head and its body."""
        raise NotImplementedError

    async def _serve(self):
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._began.set()
        await self._ended.wait()
        server.close()

    async def _connected(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                await self.answer(head, body, writer)
        writer.close()
