"""Requests a second and CPU a request, against a bare aiohttp loop that does the same with nothing on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import inputs
from benchmarks.nginx import Nginx
from benchmarks.processes import CONCURRENCY, Spent, bulkgrok, run, succeeded
from benchmarks.table import Table, middle
from benchmarks.work import folder_of, turns_of

_BARE = Path(__file__).parent / "clients" / "bare.py"
_FLAGS = {"direct": (), "streaming": ("--stream",), "deferred": ("--mode", "deferred", "--poll-interval", "0.2")}
_SHARE_OF_ROWS = {"direct": 1.0, "streaming": 0.4, "deferred": 0.5}


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure all three ways."""
    table = Table(
        title="throughput against a bare tuned aiohttp loop",
        columns=[
            "mode", "rows", "bulkgrok rows/s", "bare rows/s", "rate ratio", "bulkgrok CPU us/row", "bare CPU us/row",
            "CPU ratio", "server ceiling / bare",
        ],
        notes=[
            f"concurrency {CONCURRENCY}; rate ratio: bulkgrok / bare; CPU ratio: bulkgrok / bare; medians of turns",
            "on a machine that others use, believe the CPU ratio: a core of its own gives the rate ratio 1 / CPU ratio",
            "server: nginx on the other core; its ceiling is what wrk gets from it (a deferred row is two requests)",
            "streaming: the bare loop reads the body and looks at nothing; deferred: one POST and one GET a row",
        ],
    )  # fmt: skip
    rows = 20_000 if short else 100_000
    with folder_of(work) as folder:
        server = Nginx(folder)
        with server.serving():
            for mode, share in _SHARE_OF_ROWS.items():
                _mode(table, folder, server, mode, rows=int(rows * share), turns=turns_of(short=short))
    return [table]


def _mode(table: Table, folder: Path, server: Nginx, mode: str, *, rows: int, turns: int) -> None:
    ceiling = server.ceiling(mode)
    mine, bare = _mine(folder, server, mode), _bare(server, mode)
    mine_start, bare_start = mine(1), bare(1)
    rates: list[tuple[float, float]] = []
    cpus: list[tuple[float, float]] = []
    for _ in range(turns):
        theirs, ours = bare(rows).less(bare_start), mine(rows).less(mine_start)
        rates.append(((rows - 1) / ours.seconds, (rows - 1) / theirs.seconds))
        cpus.append((ours.cpu_s / (rows - 1) * 1e6, theirs.cpu_s / (rows - 1) * 1e6))
    bare_rate = middle([theirs for _, theirs in rates])
    requests = 2 if mode == "deferred" else 1
    table.add(
        mode, rows, middle([ours for ours, _ in rates]), bare_rate, middle([ours / theirs for ours, theirs in rates]),
        middle([ours for ours, _ in cpus]), middle([theirs for _, theirs in cpus]),
        middle([ours / theirs for ours, theirs in cpus]), None if ceiling is None else ceiling / bare_rate / requests,
    )  # fmt: skip


def _mine(folder: Path, server: Nginx, mode: str) -> Callable[[int], Spent]:
    def measured(rows: int) -> Spent:
        source = inputs.jsonl(folder, rows)
        with folder_of(folder) as place:
            spent = bulkgrok(source, place, server.url(mode), *_FLAGS[mode])
        return succeeded(spent, rows)

    return measured


def _bare(server: Nginx, mode: str) -> Callable[[int], Spent]:
    return lambda rows: run([sys.executable, _BARE, mode, server.url(mode), str(rows), str(CONCURRENCY)])
