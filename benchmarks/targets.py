"""The figures to reach, each beside what this run measured.

Law: a figure is the worst of the cases its row stands for, and one that was not measured is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.table import Table

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """One figure to reach.

    Args:
        what: In words.
        goal: What to reach.
        most: Whether it is the most it may be; else the least.
        table: How the title of the table begins that holds it.
        column: Where in it.
        of: Which rows count.
    """

    what: str
    goal: float
    most: bool
    table: str
    column: str
    of: Callable[[Row], bool] = lambda _: True

    def measured(self, tables: Iterable[Table]) -> float | None:
        """Return the worst case, None where there is none."""
        cells = [
            float(row[self.column])
            for table in tables
            if table.title.startswith(self.table)
            for row in (dict(zip(table.columns, cells, strict=True)) for cells in table.rows)
            if self.of(row) and row[self.column] is not None
        ]
        return (max if self.most else min)(cells, default=None)


def _is(column: str, value: object) -> Callable[[Row], bool]:
    return lambda row: row[column] == value


_RATIO = "throughput against a bare"
_PEERS = "throughput against other clients"
_MEMORY = "memory as the input grows"
_POLLS = "polls and pick-up delay"


def _learnt(row: Row) -> bool:
    return row["schedule"] == "learnt" and row["sigma"] == 0.5


TARGETS = (
    Target("direct: rate / bare loop's", 0.65, False, _RATIO, "rate ratio", _is("mode", "direct")),
    Target("direct: CPU / bare loop's", 1 / 0.65, True, _RATIO, "CPU ratio", _is("mode", "direct")),
    Target("deferred: CPU / bare loop's", 1.5, True, _RATIO, "CPU ratio", _is("mode", "deferred")),
    Target("rate / lm-deluge's", 2.5, False, _PEERS, "rate ratio", _is("client", "lm-deluge")),
    Target("lm-deluge's memory / ours", 8.0, False, _PEERS, "memory ratio", _is("client", "lm-deluge")),
    Target("rate / openai SDK's", 15.0, False, _PEERS, "rate ratio", _is("client", "openai SDK + semaphore")),
    Target("rate / curator's", 15.0, False, _PEERS, "rate ratio", _is("client", "bespokelabs-curator")),
    Target("JSONL: peak of the largest / smallest", 1.2, True, _MEMORY, "peak / smallest", _is("from, to", "JSONL")),
    Target("JSONL: peak MB", 120.0, True, _MEMORY, "peak MB", _is("from, to", "JSONL")),
    Target("Parquet: peak MB", 200.0, True, _MEMORY, "peak MB", _is("from, to", "Parquet")),
    Target("bytes an outstanding job", 200.0, True, "outstanding jobs", "bytes each"),
    Target("resume: first request after s", 1.5, True, "resume", "first request after s"),
    Target("start: s beyond hashing the input", 1.0, True, "start on a large input", "beyond the hashing s"),
    Target("--rps: share of R used", 0.98, False, "--rps R", "share of R used"),
    Target("--rps: answers 429", 0.0, True, "--rps R", "429s"),
    Target("no limit given: share of R used", 0.9, False, "no limit given", "share of R used in the last half"),
    Target("no limit given: 429s / requests", 0.02, True, "no limit given", "429s / requests"),
    Target("--tpm: wait of a large request / fair", 1.2, True, "--tpm with mixed sizes", "large wait / fair time"),
    Target("polls a result (sigma 0.5)", 2.0, True, _POLLS, "polls/result", _learnt),
    Target("pick-up delay / mean latency (sigma 0.5)", 0.25, True, _POLLS, "mean delay / mean latency", _learnt),
    Target("bulkgrok --version, ms", 150.0, True, "start of the command", "ms"),
)


def compared(tables: list[Table]) -> Table:
    """Return the figures to reach beside the measured ones."""
    verdicts = Table(title="figures to reach", columns=["figure", "to reach", "measured", "reached"])
    for target in TARGETS:
        measured = target.measured(tables)
        reached = measured is not None and (measured <= target.goal if target.most else measured >= target.goal)
        goal = f"{'<=' if target.most else '>='} {target.goal:.3g}"
        verdicts.add(target.what, goal, measured, "not measured" if measured is None else "yes" if reached else "NO")
    return verdicts
