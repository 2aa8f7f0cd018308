"""Polls a result, and how late a result is picked up: whole runs in virtual time against an API in the same process.

    python -m benchmarks.pickup SPREAD MEAN_S JOBS     one run; prints [polls a result, mean delay / mean latency]

Latencies are log-normal.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.processes import run
from benchmarks.table import Table

_BEGAN_AT = 1_790_000_000.0
_RTT_S = 0.05
_CASES = ((0.5, 10.0), (0.5, 60.0), (0.5, 600.0), (0.25, 60.0), (1.0, 60.0))


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure several distributions."""
    table = Table(
        title="polls and pick-up delay (deferred, log-normal latencies, virtual time)",
        columns=["mean latency s", "sigma", "jobs", "schedule", "polls/result", "mean delay / mean latency"],
        notes=[
            "the whole engine, its checkpoint in memory; delay: from ready to fetched; 50 ms to the API and back",
            "no rate limit is given",
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


class _Clock:
    def wall(self) -> float:
        return _BEGAN_AT + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class _Api:
    """Accepts everything, and has each answer ready after its latency."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._ready_at: list[float] = []
        self.latencies: list[float] = []
        self.delays: list[float] = []
        self.polls = 0

    async def post(self, path: str, body: bytes, **_: object) -> Any:  # noqa: ANN401 - an Exchange
        del path, body
        await asyncio.sleep(_RTT_S)
        latency = self._draw()
        self.latencies.append(latency)
        self._ready_at.append(asyncio.get_running_loop().time() + latency)
        return self._reply(200, json.dumps({"request_id": f"job-{len(self._ready_at) - 1}"}).encode())

    async def get(self, path: str, **_: object) -> Any:  # noqa: ANN401 - an Exchange
        from benchmarks.nginx import ANSWER

        await asyncio.sleep(_RTT_S)
        if not path.startswith("/chat/deferred-completion/"):
            return self._reply(200, b"{}")
        self.polls += 1
        late = asyncio.get_running_loop().time() - self._ready_at[int(path.rpartition("-")[2])]
        if late < 0:
            return self._reply(202, b"")
        self.delays.append(late)
        return self._reply(200, ANSWER.encode())

    @staticmethod
    def _reply(status: int, body: bytes) -> Any:  # noqa: ANN401 - a Reply
        from bulkgrok.core.model import Reply

        return Reply(
            status=status, body=body, complete=True, content_type="application/json", retry_after_s=None,
            request_id=None, date_at=None,
        )  # fmt: skip


async def _inline(function: Callable[..., object], /, *args: object) -> object:
    await asyncio.sleep(0)
    return function(*args)


async def _run(folder: Path, api: _Api, interval_s: float | None, rows: int) -> None:
    from bulkgrok.checkpoint import Committer
    from bulkgrok.config import RunConfig
    from bulkgrok.config.values import Secret
    from bulkgrok.engine import Engine
    from bulkgrok.engine.surroundings import Surroundings

    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"prompt {row}"}) + "\n" for row in range(rows)))

    async def connect(config: RunConfig, run_dir: Path, stack: AsyncExitStack) -> _Api:
        del config, run_dir, stack
        return api

    outside = Surroundings(
        clock=_Clock(),
        jitter=random.Random(1).random,
        offload=_inline,
        committer=lambda store: Committer(store, inline=True, ballast_bytes=0),
        connect=connect,
        tick_s=5.0,
        status_s=3_600.0,
    )
    config = RunConfig(
        input=str(source), api_key=Secret("benchmark"), mode="deferred", poll_interval=interval_s, concurrency=100
    )
    report = await Engine(config, events=lambda *_, **__: None, surroundings=outside).run()
    assert report.succeeded == rows, report


def _main() -> None:
    from bulkgrok.testing import VirtualTimeLoop

    sigma, mean_s, rows = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    interval_s = float(sys.argv[4]) if sys.argv[4] else None
    chance = random.Random(7)
    api = _Api(lambda: chance.lognormvariate(math.log(mean_s) - sigma**2 / 2, sigma))
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(_run(Path(folder), api, interval_s, rows))
    mean = sum(api.latencies) / rows
    print(json.dumps([api.polls / rows, sum(api.delays) / rows / mean]))


if __name__ == "__main__":
    _main()
