"""The bare loop that bulkgrok is measured against: aiohttp on uvloop, tuned, without disk, retries or anything else.

    python benchmarks/clients/bare.py MODE BASE_URL ROWS CONCURRENCY

Tuned: bodies as bytes, no cookies, no decompression, no automatic headers, no timer for a whole request.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import aiohttp
import uvloop

BODY = (
    b'{"messages":[{"role":"user","content":"' + b"Tell me about the history of this number and of its neighbours. " * 8
    + b'"}],"model":"grok-4.3"}'
)  # fmt: skip


async def worker(session: aiohttp.ClientSession, url: str, numbers: Iterator[int], *, deferred: bool) -> None:
    headers = {"Content-Type": "application/json"}
    for _ in numbers:
        async with session.post(f"{url}/chat/completions", data=BODY, headers=headers) as response:
            answer = await response.read()
        if deferred:
            receipt = answer[15:47].decode()
            async with session.get(f"{url}/chat/deferred-completion/{receipt}") as response:
                await response.read()


async def main() -> None:
    mode, url, rows, concurrency = sys.argv[1:]
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=int(concurrency)),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Authorization": "Bearer benchmark"},
    )
    async with session:
        numbers = iter(range(int(rows)))
        workers = (worker(session, url, numbers, deferred=mode == "deferred") for _ in range(int(concurrency)))
        await asyncio.gather(*workers)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
