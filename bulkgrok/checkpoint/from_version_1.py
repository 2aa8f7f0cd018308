"""From version 1 to 2: the ledger knows what a request cost, and the sums know what may have been spent.

Law: as in `migrating`. Where version 1 did not keep whether a cost in the ledger is in the sum of all costs, it is
taken not to be: money may be counted twice for such a request, never not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import apsw

from bulkgrok.checkpoint.statements import load
from bulkgrok.core.money import ticks

_SQL: Final = load("from_version_1.sql")
_STATES: Final = 6
_SUMS: Final = ("states", "codes", "entries", "answered_failures", "ticks", "tokens")


def kept(connection: apsw.Connection) -> object:
    """Return what must be the same afterwards."""
    sums = _stored(connection)
    return connection.execute(_SQL["rows"]).fetchall(), [sums[name] for name in _SUMS]


def damage(connection: apsw.Connection) -> str | None:
    """Return what does not add up, None if everything does."""
    stored = _stored(connection)
    wrong = [name for name, value in _counted(connection).items() if stored.get(name) != value]
    return f"its sums are not those of its rows: {', '.join(wrong)}" if wrong else None


def show(connection: apsw.Connection) -> None:
    """Let a reader of version 2 see this connection's file as one; the file is not written."""
    connection.execute(_SQL["shown_ledger"])
    sums = _stored(connection) | _money(connection)
    connection.execute(_SQL["shown_tally"])
    connection.execute("INSERT INTO temp.tally (one, value) VALUES (1, ?)", (_json(sums),))


def upgrade(connection: apsw.Connection) -> None:
    """Make the tables those of version 2, inside a transaction."""
    connection.execute(_SQL["shown_ledger"])
    sums = _stored(connection) | _money(connection)
    known = connection.execute(_SQL["known"]).fetchall()
    for name in ("hide", "cost_column", "unlock"):
        connection.execute(_SQL[name])
    connection.executemany(_SQL["cost"], ((cost_usd, number) for number, cost_usd in known))
    connection.execute(_SQL["lock"])
    connection.execute(_SQL["sums"], (_json(sums),))


def _stored(connection: apsw.Connection) -> dict[str, Any]:
    return dict(json.loads(connection.execute(_SQL["tally"]).get))


def _counted(connection: apsw.Connection) -> dict[str, Any]:
    """Return the sums of version 1, named in _SUMS, as the rows come to."""
    states = [0] * _STATES
    for state, count in connection.execute(_SQL["states"]):
        states[state] = count
    codes = connection.execute(_SQL["codes"]).fetchall()
    tokens = [0, 0, 0, 0]
    for used in connection.execute(_SQL["tokens"]):
        tokens = [before + more for before, more in zip(tokens, used, strict=True)]
    return {
        "states": states,
        "codes": {code: count for code, count, _ in codes},
        "entries": dict(connection.execute(_SQL["entries"])),
        "answered_failures": sum(answered for _, _, answered in codes),
        "ticks": sum(ticks(cost_usd) + spent for cost_usd, spent in connection.execute(_SQL["costs"])),
        "tokens": tokens,
    }


def _money(connection: apsw.Connection) -> dict[str, Any]:
    """Return the sums that version 2 added; the ledger must be shown."""
    entry_ticks: Counter[str] = Counter()
    for entry, max_usd in connection.execute(_SQL["written_off"]):
        entry_ticks[entry] += ticks(max_usd)
    return {
        "untold": _sum(connection.execute(_SQL["untold"])),
        "entry_ticks": {entry: number for entry, number in sorted(entry_ticks.items()) if number},
        "on_its_way": _sum(connection.execute(_SQL["on_its_way"])),
    }


def _sum(amounts: Iterable[Any]) -> int:
    return sum(ticks(max_usd) for (max_usd,) in amounts)


def _json(sums: dict[str, Any]) -> str:
    return json.dumps(sums, separators=(",", ":"))
