"""What an accepted job takes in memory while it waits for its poll.

python -m benchmarks.outstanding N     prints the bytes each of n jobs takes in a process of its own
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from pathlib import Path
from uuid import UUID

from benchmarks.processes import run
from benchmarks.table import Table

_DAY_S = 86_400.0


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure the scheduler full of jobs."""
    del work
    table = Table(
        title="outstanding jobs",
        columns=["jobs", "bytes each", "us CPU to watch one"],
        notes=["growth of the resident memory of a process in which a scheduler is given so many jobs"],
    )
    for jobs in (100_000,) if short else (100_000, 1_000_000):
        spent = run([sys.executable, "-m", "benchmarks.outstanding", str(jobs)])
        each, cpu_us = json.loads(spent.output)
        table.add(jobs, each, cpu_us)
    return [table]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


async def _watch(jobs: int) -> None:
    from bulkgrok.core.model import Job, RequestId
    from bulkgrok.core.retry import Health
    from bulkgrok.engine.surroundings import SystemClock
    from bulkgrok.scheduler.limits import Limits
    from bulkgrok.scheduler.polling import PollSchedule
    from bulkgrok.scheduler.purse import Purse
    from bulkgrok.scheduler.scheduler import Scheduler

    scheduler = Scheduler(
        concurrency=100,
        max_outstanding=jobs,
        limits=Limits(rps=None, rpm=None, tpm=None),
        polling=PollSchedule(),
        health=Health(max_outage_s=60.0),
        clock=SystemClock(),
        jitter=random.random,
        purse=Purse(None, lambda: None),
    )
    gc.collect()
    before, began = _resident(), time.process_time()
    now = time.time()
    for row in range(jobs):
        request_id = RequestId(str(UUID(int=random.getrandbits(128))))
        scheduler.watch(
            Job(row=row, kind="chat", request_id=request_id, submitted_at=now + row, deadline_at=now + row + _DAY_S)
        )
    took = time.process_time() - began
    gc.collect()
    print(json.dumps([(_resident() - before) / jobs, took / jobs * 1e6]))


if __name__ == "__main__":
    asyncio.run(_watch(int(sys.argv[1])))
