"""Limits: how much of them is used, and what is refused, by a server that counts the seconds of its own clock."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from benchmarks import counting, inputs
from benchmarks.processes import CLIENT_CORE, ENVIRONMENT, KEY, command, pinned
from benchmarks.table import Table
from benchmarks.work import folder_of


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure with the limit given, and with none."""
    seconds = 15 if short else 60
    given = Table(
        title="--rps R against a server that allows R in each of its seconds",
        columns=["R", "seconds", "share of R used", "in the first second", "most in a second", "429s"],
        notes=["shares of what R allows from the first request on; refused requests are not counted as used"],
    )
    found = Table(
        title="no limit given, a server that allows R in each of its seconds",
        columns=["R", "concurrency", "seconds", "share of R used in the last half", "429s / requests"],
    )
    with folder_of(work) as folder:
        for rate in (20, 500) if short else (5, 50, 500, 2_000):
            _given(given, folder, rate, seconds)
        for rate, concurrency in ((200, 100),) if short else ((50, 100), (200, 100), (1_000, 500)):
            _not_given(found, folder, rate, concurrency, seconds)
    return [given, found]


def _given(table: Table, folder: Path, rate: int, seconds: int) -> None:
    first, counts = _counted(folder, rate, seconds, "--rps", str(rate))
    last = int(first) + seconds
    answered = sum(ok for second, ok, _ in counts if second < last)
    opening = next(ok for second, ok, _ in counts if second == int(first))
    allowed = rate * (last - first)
    table.add(
        rate, seconds, answered / allowed, opening / (rate * (int(first) + 1 - first)),
        max(ok + refused for _, ok, refused in counts), sum(refused for *_, refused in counts),
    )  # fmt: skip


def _not_given(table: Table, folder: Path, rate: int, concurrency: int, seconds: int) -> None:
    first, counts = _counted(folder, rate, seconds, concurrency=concurrency)
    last = int(first) + seconds
    late = [ok for second, ok, _ in counts if last - seconds // 2 <= second < last]
    refused = sum(refused for *_, refused in counts)
    share = sum(late) / (rate * (seconds // 2))
    table.add(rate, concurrency, seconds, share, refused / sum(ok + no for _, ok, no in counts))


def _counted(
    folder: Path, rate: int, seconds: int, *flags: str, concurrency: int = 100
) -> tuple[float, list[list[int]]]:
    """Run for a while; return when the first request came, and the counts."""
    source = inputs.jsonl(folder, rate * (seconds + 5))
    with folder_of(folder) as place, counting.serving(rate) as server:
        running = pinned(CLIENT_CORE, [*command(source, place, server.url, concurrency=concurrency), *flags])
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(running, env=ENVIRONMENT | KEY, **quiet) as process:
            first = server.first_at()
            time.sleep(int(first) + seconds + 0.5 - time.time())
            process.send_signal(signal.SIGTERM)
        return first, server.counts()
