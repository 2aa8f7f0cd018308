"""Memory and start on inputs of 10,000 to 1,000,000 rows: flat, and immediate.

    python benchmarks/million.py [ROWS ...]

Starts a minimal server that answers every POST with the same completion, runs the command against it, and prints for
each size: rows a second, peak resident memory of the command, and the time from its start to the first request.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import apsw

ANSWER = json.dumps(
    {
        "id": "a3d1008e-4544-40d4-d075-11527e794e4a",
        "object": "chat.completion",
        "created": 1752854522,
        "model": "grok-4.3",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "42. " * 300, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 41, "cost_in_usd_ticks": 625000},
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


class Server(asyncio.Protocol):
    """Answers each request as soon as its body is complete."""

    first_at: float | None = None

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
            if Server.first_at is None:
                Server.first_at = time.time()
                print(f"first {Server.first_at}", flush=True)
            self._transport.write(REPLY)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def write_input(path: Path, rows: int) -> None:
    text = "Tell me about the history of this number and of its neighbours in some detail, please. " * 5
    with path.open("w") as file:
        for row in range(rows):
            file.write(json.dumps({"custom_id": f"q{row}", "prompt": f"{row}: {text}"}) + "\n")


def measure(rows: int, folder: Path) -> tuple[float, int, float]:
    """Return (rows a second, peak memory in bytes, seconds from start to first request)."""
    source = folder / f"in-{rows}.jsonl"
    write_input(source, rows)
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    port = server.stdout.readline().split()[1]
    command = [
        sys.executable, "-m", "bulkgrok", "run", str(source), "--concurrency", "100",
        "--base-url", f"http://127.0.0.1:{port}/v1", "--progress", "none", "--json",
    ]  # fmt: skip
    began = time.time()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"XAI_API_KEY": "k"}) as run:
        first = float(server.stdout.readline().split()[1]) - began
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        took = time.time() - began
        summary = json.loads(run.stdout.read())
    server.kill()
    server.wait()
    assert run.returncode == 0, summary
    assert summary["succeeded"] == rows, summary
    return rows / took, usage.ru_maxrss * 1024, first


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(serve())
        return
    sizes = [int(size) for size in sys.argv[1:]] or [10_000, 100_000, 1_000_000]
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", end=", ")
    print(f"aiohttp {aiohttp.__version__}, SQLite {apsw.sqlite_lib_version()}")
    print(f"{'rows':>10} {'rows/s':>8} {'peak MB':>8} {'ratio':>6} {'first request s':>16}")
    smallest = None
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            rate, peak, first = measure(rows, Path(folder))
            smallest = smallest or peak
            print(f"{rows:>10,} {rate:>8,.0f} {peak / 1e6:>8.1f} {peak / smallest:>6.2f} {first:>16.2f}", flush=True)


if __name__ == "__main__":
    main()
