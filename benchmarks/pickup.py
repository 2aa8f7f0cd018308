"""Polls a result, and how late a result is picked up: whole runs in virtual time against an API in the same process.

    python -m benchmarks.pickup SPREAD MEAN_S JOBS INTERVAL_S     prints [polls a result, mean delay / mean latency]

Latencies are log-normal. A figure is the mean of several runs, each with its own: all jobs of a run are as old as each
other, so when most of them are asked for depends on what a few dozen told. One run differs from the next by some 0.06
polls and 0.015 of the latency, in opposite directions; a fixed schedule learns nothing, and differs by less.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.nginx import ANSWER
from benchmarks.processes import run
from benchmarks.table import Table
from benchmarks.virtual import RTT_S, play, reply
from bulkgrok.core.model import Reply

_SEEDS = range(7, 19)
_SEEDS_OF_A_FIXED_ONE = range(7, 9)
_CASES = ((0.5, 10.0), (0.5, 60.0), (0.5, 600.0), (0.25, 60.0), (1.0, 60.0))


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure several distributions."""
    table = Table(
        title="polls and pick-up delay (deferred, log-normal latencies, virtual time)",
        columns=["mean latency s", "sigma", "jobs", "schedule", "polls/result", "mean delay / mean latency"],
        notes=[
            "means of 12 runs, of 2 with a fixed schedule; the whole engine; no rate limit is given",
            "delay: from ready to fetched; 50 ms to the API and back",
        ],
    )
    jobs = 500 if short else 3_000
    for sigma, mean_s in _CASES[:2] if short else _CASES:
        for schedule, interval in (("learnt", ""), ("every 5 s", "5")):
            spent = run([sys.executable, "-m", "benchmarks.pickup", str(sigma), str(mean_s), str(jobs), interval])
            polls, delay = json.loads(spent.output)
            table.add(mean_s, sigma, jobs, schedule, polls, delay)
    del work
    return [table]


# In the process that is measured


class _Api:
    """Accepts everything, and has each answer ready after its latency."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._ready_at: list[float] = []
        self.latencies: list[float] = []
        self.delays: list[float] = []
        self.polls = 0

    async def post(self, path: str, body: bytes, **_: object) -> Reply:
        del path, body
        await asyncio.sleep(RTT_S)
        latency = self._draw()
        self.latencies.append(latency)
        self._ready_at.append(asyncio.get_running_loop().time() + latency)
        return reply(200, json.dumps({"request_id": f"job-{len(self._ready_at) - 1}"}).encode())

    async def get(self, path: str, **_: object) -> Reply:
        await asyncio.sleep(RTT_S)
        if not path.startswith("/chat/deferred-completion/"):
            return reply(200, b"{}")
        self.polls += 1
        late = asyncio.get_running_loop().time() - self._ready_at[int(path.rpartition("-")[2])]
        if late < 0:
            return reply(202, b"")
        self.delays.append(late)
        return reply(200, ANSWER.encode())


def _main() -> None:
    sigma, mean_s, rows = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    interval_s = float(sys.argv[4]) if len(sys.argv) > 4 and sys.argv[4] else None
    seeds = _SEEDS if interval_s is None else _SEEDS_OF_A_FIXED_ONE
    runs = [_run(random.Random(seed), sigma, mean_s, rows, interval_s) for seed in seeds]
    print(json.dumps([sum(figures) / len(runs) for figures in zip(*runs, strict=True)]))


def _run(
    chance: random.Random, sigma: float, mean_s: float, rows: int, interval_s: float | None
) -> tuple[float, float]:
    api = _Api(lambda: chance.lognormvariate(math.log(mean_s) - sigma**2 / 2, sigma))
    prompts = ({"prompt": f"prompt {row}"} for row in range(rows))
    play(api, prompts, mode="deferred", poll_interval=interval_s, concurrency=100)
    mean = sum(api.latencies) / rows
    return api.polls / rows, sum(api.delays) / rows / mean


if __name__ == "__main__":
    _main()
