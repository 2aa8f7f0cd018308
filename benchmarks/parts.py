"""The checkpoint and the sinks alone.

python -m benchmarks.parts PART ROWS CONCURRENCY FOLDER     one of them, in a process of its own
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.nginx import ANSWER
from benchmarks.processes import run
from benchmarks.table import Table, middle
from benchmarks.work import folder_of, turns_of

_BODY = ANSWER.encode()
_USAGE = b'{"prompt_tokens":132,"completion_tokens":309,"total_tokens":441}'
_BATCH = 1_000


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure each against a bare file on the same disk."""
    rows = 20_000 if short else 100_000
    checkpoint = Table(
        title="checkpoint alone: intent and answer of each row, each durable before the next",
        columns=["how", "rows", "rows/s", "us CPU/row", "rate / bare file, one flush a row"],
        notes=[f"answers of {len(_BODY):,} bytes"],
    )
    sinks = Table(
        title="sinks alone: outcomes rendered, written and flushed, 1,000 at a time",
        columns=["sink", "rows", "rows/s", "us CPU/row", "rate / the answers' bytes to a bare file"],
    )
    with folder_of(work) as folder:
        few = rows // 20
        plans = [("one by one", few, 1), *((f"committer, concurrency {n}", rows, n) for n in (20, 100, 500))]
        for name, count, concurrency in plans:
            part = "alone" if concurrency == 1 else "committer"
            _compared(checkpoint, folder, name, ("flushed", few, 1), (part, count, concurrency), short=short)
        for part in ("jsonl", "parquet"):
            _compared(sinks, folder, part, ("batches", rows, 1), (part, rows, 1), short=short)
    return [checkpoint, sinks]


def _compared(
    table: Table, folder: Path, name: str, bare: tuple[str, int, int], plan: tuple[str, int, int], *, short: bool
) -> None:
    turns = [(_measured(folder, *plan), _measured(folder, *bare)) for _ in range(turns_of(short=short))]
    rate, cpu_us = middle([ours[0] for ours, _ in turns]), middle([ours[1] for ours, _ in turns])
    table.add(name, plan[1], rate, cpu_us, middle([ours[0] / bare[0] for ours, bare in turns]))


def _measured(folder: Path, part: str, rows: int, concurrency: int) -> tuple[float, float]:
    with folder_of(folder) as place:
        spent = run([sys.executable, "-m", "benchmarks.parts", part, str(rows), str(concurrency), place])
    rate, cpu_us = json.loads(spent.output)
    return rate, cpu_us


# In the process that is measured


def _changes(row: int) -> Sequence[object]:
    from bulkgrok.core.lifecycle import Redeem, Submit, Succeed
    from bulkgrok.core.model import Item, Mode

    item = Item(
        row=row, line=row + 1, custom_id=f"q-{row}", kind="chat", mode=Mode.DIRECT, model="grok-4.3", stream=False,
        body=b"{}", digest=row.to_bytes(16), max_usd=0.01, tokens=100,
    )  # fmt: skip
    return (
        Submit(item=item, attempt=1, at=1_790_000_000.5),
        Redeem(row=row, at=1_790_000_002.5, status_code=200, raw=_BODY, request_id="5f0c9a3e-22d1"),
        Succeed(row=row, model="grok-4.3", cost_usd=0.000123, usage=_USAGE, tokens=(132, 309, 0, 0)),
    )


async def _through_committer(folder: Path, rows: int, concurrency: int) -> None:
    from bulkgrok.checkpoint import Committer, open_store

    committer = Committer(open_store(folder / "checkpoint.db"))
    await committer.start()
    numbers = iter(range(rows))

    async def worker() -> None:
        for row in numbers:
            submit, *answer = _changes(row)
            await committer.commit(submit)
            await committer.commit(*answer)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    await committer.close()


def _alone(folder: Path, rows: int) -> None:
    from bulkgrok.checkpoint import open_store

    store = open_store(folder / "checkpoint.db")
    store.open()
    for row in range(rows):
        submit, *answer = _changes(row)
        store.apply([submit])
        store.apply(answer)
    store.close()


def _bare_file(folder: Path, rows: int, batch: int) -> None:
    fd = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for _ in range(0, rows, batch):
        os.write(fd, _BODY * batch)
        os.fdatasync(fd)
    os.close(fd)


def _sink(folder: Path, rows: int, form: str) -> None:
    from bulkgrok import kinds
    from bulkgrok.core.model import Mode, Settled
    from bulkgrok.sinks import open_sink

    sink = open_sink(
        output=folder / f"out.{form}",
        folder=False,
        output_format=form,
        simulated=False,
        summarise=lambda kind, body: kinds.get(kind).decode(body),
    )
    sink.restore(None)
    for first in range(0, rows, _BATCH):
        sink.write(
            [
                Settled(
                    seq=row + 1, row=row, line=row + 1, custom_id=f"q-{row}", kind="chat", mode=Mode.DIRECT,
                    model="grok-4.3", attempts=1, submitted_at=1_790_000_000.5, completed_at=1_790_000_002.5,
                    request_id="5f0c9a3e-22d1", status_code=200, body=_BODY, cost_usd=0.000123, usage=_USAGE,
                    assets=(), error=None,
                )
                for row in range(first, min(first + _BATCH, rows))
            ]
        )  # fmt: skip
        sink.commit()
    sink.finish(complete=True)
    sink.close()


def _main() -> None:
    part, rows, concurrency, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    if part in {"jsonl", "parquet"}:
        import bulkgrok.sinks.jsonl
        import bulkgrok.sinks.parquet  # noqa: F401 - loading is not what is measured
    began, burnt = time.perf_counter(), time.process_time()
    match part:
        case "flushed":
            _bare_file(folder, rows, 1)
        case "batches":
            _bare_file(folder, rows, _BATCH)
        case "alone":
            _alone(folder, rows)
        case "committer":
            asyncio.run(_through_committer(folder, rows, concurrency))
        case _:
            _sink(folder, rows, part)
    took, cpu_s = time.perf_counter() - began, time.process_time() - burnt
    print(json.dumps([rows / took, cpu_s / rows * 1e6]))


if __name__ == "__main__":
    _main()
