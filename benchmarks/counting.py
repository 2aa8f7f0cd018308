"""A server that counts what comes in each second of its own clock, refuses what is too much, and tells all of it.

    python -m benchmarks.counting [--limit R]

Prints `port N`, then `first T` (UNIX seconds) at its first request. `GET /counts` returns, for each second in which
something came, [second, answered, refused], and `GET /counts/forget` forgets them. A refusal reads as xAI's do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import uvloop

from benchmarks.nginx import ANSWER
from benchmarks.processes import SERVER_CORE, pinned

_ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Counting(asyncio.Protocol):
    """One connection; the counts belong to all."""

    limit: float = float("inf")
    counts: dict[int, list[int]] = {}  # noqa: RUF012 - one server a process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            del self._buffer[: end + 4 + length]
            if head.startswith(b"get /counts"):
                self._transport.write(self._told(forget=head.startswith(b"get /counts/forget")))
            else:
                self._transport.write(self._counted())

    def _counted(self) -> bytes:
        now = time.time()
        if not self.counts:
            print(f"first {now}", flush=True)
        count = self.counts.setdefault(int(now), [0, 0])
        if count[0] < self.limit:
            count[0] += 1
            return _ANSWERED % (len(ANSWER), ANSWER.encode())
        count[1] += 1
        text = (
            "Too many requests for team 0 and model grok-4.3. Your team's rate limit is — Requests per Second "
            f"(actual/limit): {sum(count)}/{self.limit:g}."
        )
        refusal = json.dumps({"code": "resource-exhausted", "error": text}).encode()
        return _REFUSED % (len(refusal), refusal)

    def _told(self, *, forget: bool) -> bytes:
        told = json.dumps([[second, *count] for second, count in sorted(self.counts.items())]).encode()
        if forget:
            self.counts.clear()
        return _ANSWERED % (len(told), told)


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own."""

    port: int
    output: TextIO

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def first_at(self) -> float:
        """Wait for the first request; return when it came, in UNIX seconds."""
        return float(self.output.readline().split()[1])

    def counts(self) -> list[list[int]]:
        """Return [second, answered, refused] in order."""
        return self._asked("/counts")

    def forget(self) -> None:
        """Begin anew: the next request is the first one again."""
        self._asked("/counts/forget")

    def _asked(self, path: str) -> list[list[int]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as reply:
            found: list[list[int]] = json.load(reply)
        return found


@contextmanager
def serving(limit: float | None = None) -> Iterator[Server]:
    """Serve from the server's core."""
    command = [sys.executable, "-m", "benchmarks.counting", *(["--limit", str(limit)] if limit else [])]
    with subprocess.Popen(pinned(SERVER_CORE, command), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline().split()[1]), process.stdout)
        finally:
            process.kill()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Counting, "127.0.0.1", 0, backlog=2048)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=float, default=float("inf"))
    Counting.limit = parser.parse_args().limit
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
