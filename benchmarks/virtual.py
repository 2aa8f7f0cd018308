"""Whole runs in virtual time against an API in the same process: the engine itself, its checkpoint in memory.

Law: what is measured here is a schedule, not speed: nothing costs time but what the API is said to take.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from bulkgrok.checkpoint import Committer
from bulkgrok.config import RunConfig
from bulkgrok.config.values import Secret
from bulkgrok.core.model import Reply
from bulkgrok.engine import Engine
from bulkgrok.engine.surroundings import Surroundings
from bulkgrok.testing import VirtualTimeLoop

BEGAN_AT = 1_790_000_000.0
"""UNIX seconds at which every run begins."""
RTT_S = 0.05
"""To the API and back."""


class Clock:
    """The loop's time on both clocks."""

    def wall(self) -> float:
        """UNIX seconds."""
        return BEGAN_AT + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        """Seconds since the loop began."""
        return asyncio.get_running_loop().time()


def reply(status: int, body: bytes) -> Reply:
    """Return a complete reply in JSON."""
    return Reply(
        status=status, body=body, complete=True, content_type="application/json", retry_after_s=None, request_id=None,
        date_at=None,
    )  # fmt: skip


def play(api: Any, rows: Iterable[dict[str, object]], **flags: Any) -> None:  # noqa: ANN401 - a Transport, flags
    """Run rows to their end, all of them answered."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        source = Path(folder) / "in.jsonl"
        source.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        runner.run(_run(source, api, flags))


async def _inline(function: Any, /, *args: object) -> Any:  # noqa: ANN401 - an Offload
    await asyncio.sleep(0)
    return function(*args)


async def _run(source: Path, api: Any, flags: dict[str, Any]) -> None:  # noqa: ANN401 - see above
    async def connect(config: RunConfig, run_dir: Path, stack: AsyncExitStack) -> Any:  # noqa: ANN401 - see above
        del config, run_dir, stack
        return api

    outside = Surroundings(
        clock=Clock(),
        jitter=random.Random(1).random,
        offload=_inline,
        committer=lambda store: Committer(store, inline=True, ballast_bytes=0),
        connect=connect,
        tick_s=5.0,
        status_s=3_600.0,
    )
    config = RunConfig(input=str(source), api_key=Secret("benchmark"), **flags)
    report = await Engine(config, events=lambda *_, **__: None, surroundings=outside).run()
    assert report.succeeded == report.rows, report
