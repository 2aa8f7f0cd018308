"""A day of deferred jobs in one process, in virtual time: memory and polls as all of them are outstanding.

    python -m benchmarks.day [JOBS [RPS [MEAN_S]]]      1,000,000 jobs, 60 requests/s, mean latency 8 h, sigma 0.5

The scheduler is the real one, with its limits and its learnt schedule; the API is an array of times and answers at
once.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from array import array
from pathlib import Path
from uuid import UUID

from benchmarks.virtual import Clock
from bulkgrok.core.model import Item, Job, Mode, RequestId, Work
from bulkgrok.core.outcome import Feedback, Poll, Send, Sign
from bulkgrok.core.retry import Health
from bulkgrok.scheduler.limits import Limits
from bulkgrok.scheduler.polling import PollSchedule
from bulkgrok.scheduler.purse import Purse
from bulkgrok.scheduler.scheduler import Scheduler
from bulkgrok.testing import VirtualTimeLoop

_DAY_S = 86_400.0
_SIGMA = 0.5


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


def _work(row: int) -> Work:
    item = Item(
        row=row, line=None, custom_id=str(row), kind="chat", mode=Mode.DEFERRED, model="m", stream=False, body=b"",
        digest=b"", max_usd=0.0, tokens=1_000,
    )  # fmt: skip
    return Work(item=item)


async def _day(jobs: int, rps: float, mean_s: float) -> None:
    chance, clock = random.Random(1), Clock()
    scheduler = Scheduler(
        concurrency=100, max_outstanding=jobs, limits=Limits(rps=rps), polling=PollSchedule(),
        health=Health(max_outage_s=60.0), clock=clock, jitter=chance.random, purse=Purse(None, lambda: None),
    )  # fmt: skip
    ready_at = array("d", bytes(8 * jobs))
    before, began, cpu = _resident(), time.monotonic(), time.process_time()
    sent = polls = redeemed = expired = missed = peak = peak_bytes = 0
    measured = 1
    lay_s = latest_s = 0.0
    offered = 0
    while True:
        while offered < jobs and scheduler.queued < 100:
            scheduler.offer(_work(offered))
            offered += 1
        if offered == jobs:
            scheduler.close()
        action = await scheduler.next()
        now = clock.wall()
        match action:
            case Send(work=work):
                row, sent = work.item.row, sent + 1
                ready_at[row] = now + chance.lognormvariate(math.log(mean_s) - _SIGMA**2 / 2, _SIGMA)
                job = Job(
                    row=row, kind="chat", request_id=RequestId(str(UUID(int=chance.getrandbits(128)))),
                    submitted_at=now, deadline_at=now + _DAY_S, model="m", tokens=1_000, pending_s=0.0,
                )  # fmt: skip
                feedback = Feedback(sign=Sign.GOOD, job=job)
            case Poll(job=job):
                polls += 1
                job.polls += 1
                ready = now >= ready_at[job.row]
                over = now >= job.deadline_at
                redeemed += ready and not over
                expired += over
                missed += over and ready_at[job.row] <= job.deadline_at
                if ready:
                    lay_s += now - ready_at[job.row]
                    latest_s = max(latest_s, now - job.submitted_at)
                feedback = Feedback(sign=Sign.GOOD, job=None if ready or over else job)
            case _:
                break
        scheduler.report(action, feedback)
        if scheduler.outstanding > peak:
            peak = scheduler.outstanding
            if peak % 10_000 == 0:
                peak_bytes, measured = _resident(), peak
    hours = asyncio.get_running_loop().time() / 3600
    print(f"jobs={jobs} rps={rps:g} mean_latency={mean_s / 3600:g} h sigma={_SIGMA} virtual={hours:.1f} h")
    print(
        f"sent={sent} redeemed={redeemed} never_ready_in_time={expired - missed} missed={missed} "
        f"most_outstanding={peak} oldest={latest_s / 3600:.1f} h"
    )
    print(f"polls/result={polls / redeemed:.3f} pick-up delay/mean latency={lay_s / redeemed / mean_s:.3f}")
    print(f"bytes an outstanding job={(peak_bytes - before) / measured:.0f}")
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f"took={took:.0f} s cpu={cpu:.0f} s, {cpu / (sent + polls) * 1e6:.1f} us an action")


def _main() -> None:
    given = [float(each) for each in sys.argv[1:]]
    jobs, rps, mean_s = given + [1_000_000.0, 60.0, 28_800.0][len(given) :]
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(_day(int(jobs), rps, mean_s))


if __name__ == "__main__":
    _main()
