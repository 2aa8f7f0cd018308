"""How fast rows go through the checkpoint: intent, answer and outcome of each, through the committer, durably.

    python benchmarks/checkpoint.py [ROWS]

Prints the machine and, in one run on one disk: rows a second and CPU microseconds a row at several concurrencies, with
a flush for each group; the same rows as one transaction each; and what the disk gives a bare file with one flush a row.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from bulkgrok.checkpoint import Committer, open_store
from bulkgrok.core.lifecycle import Redeem, Submit, Succeed
from bulkgrok.core.model import Item, Mode

BODY = b'{"id":"x","object":"chat.completion","choices":[{"message":{"content":"' + b"y" * 1900 + b'"}}]}'
USAGE = b'{"prompt_tokens":32,"completion_tokens":9,"total_tokens":41}'


def changes(row: int) -> tuple[Submit, Redeem, Succeed]:
    item = Item(
        row=row, line=row + 1, custom_id=f"q-{row}", kind="chat", mode=Mode.DIRECT, model="grok-4.3", stream=False,
        body=b"{}", digest=row.to_bytes(16), max_usd=0.01, tokens=100,
    )  # fmt: skip
    return (
        Submit(item=item, attempt=1, at=1_790_000_000.5),
        Redeem(row=row, at=1_790_000_002.5, status_code=200, raw=BODY, request_id="5f0c9a3e-22d1"),
        Succeed(row=row, model="grok-4.3", cost_usd=0.000123, usage=USAGE, tokens=(32, 9, 0, 0)),
    )


async def through_committer(folder: Path, rows: int, concurrency: int) -> None:
    committer = Committer(open_store(folder / "checkpoint.db"))
    await committer.start()
    numbers = iter(range(rows))

    async def worker() -> None:
        for row in numbers:
            submit, *answer = changes(row)
            await committer.commit(submit)
            await committer.commit(*answer)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    await committer.close()


def one_by_one(folder: Path, rows: int) -> None:
    store = open_store(folder / "checkpoint.db")
    store.open()
    for row in range(rows):
        submit, *answer = changes(row)
        store.apply([submit])
        store.apply(answer)
    store.close()


def bare_file(folder: Path, rows: int) -> None:
    fd = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for _ in range(rows):
        os.write(fd, BODY)
        os.fdatasync(fd)
    os.close(fd)


def measured(name: str, rows: int, run: Callable[[Path], None]) -> float:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        run(Path(folder))
        seconds, burnt = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:<44} {rows / seconds:>9,.0f} rows/s {burnt / rows * 1e6:>8.1f} us CPU a row")
    return rows / seconds


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    few = max(rows // 25, 500)
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"apsw {apsw.apsw_version()}, SQLite {apsw.sqlite_lib_version()}, bodies of {len(BODY):,} bytes\n")
    bare = measured("bare file, one flush a row", few, lambda folder: bare_file(folder, few))
    alone = measured("store, two transactions a row", few, lambda folder: one_by_one(folder, few))
    for concurrency in (1, 20, 100, 500):
        count = few if concurrency == 1 else rows
        rate = measured(
            f"committer, concurrency {concurrency}",
            count,
            lambda folder, count=count, concurrency=concurrency: asyncio.run(
                through_committer(folder, count, concurrency)
            ),
        )
        print(f"{'':<44} {rate / alone:>9.1f} x one by one, {rate / bare:.1f} x the bare file")


if __name__ == "__main__":
    main()
