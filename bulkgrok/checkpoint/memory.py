"""The checkpoint in a dict: the contract of a store in its plainest words, for tests and simulations.

Law: passes the contract suite of the real stores, and serves as the model they are compared with. Durable as long as
the object lives: `close` and `open` keep everything, like a process that ends and starts again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bulkgrok.checkpoint.blobs import size_of
from bulkgrok.checkpoint.changing import Changing, change_row
from bulkgrok.checkpoint.rows import StoredRow, counts, record, settled, unclear
from bulkgrok.checkpoint.tally import TOKENS
from bulkgrok.checkpoint.values import TTL
from bulkgrok.core import failpoints
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import (
    Change,
    Redeem,
    State,
)
from bulkgrok.core.model import (
    Counts,
    Entry,
    Job,
    LedgerEntry,
    Position,
    Record,
    RequestId,
    RowSet,
    RunIdentity,
    Settled,
    Totals,
)
from bulkgrok.core.money import TICKS, Money, ticks

_BILLED_STATES: Final = (State.ACCEPTED, State.REDEEMED, State.SUCCEEDED)
_BILLED_ENTRIES: Final = (Entry.LOST, Entry.EXPIRED, Entry.JOB_FAILED, Entry.REPLACED)
_BODIES_BYTES: Final = 8 << 20


@dataclass(slots=True, kw_only=True)
class _Data:
    """What a transaction changes."""

    rows: dict[int, StoredRow] = field(default_factory=dict)
    ledger: list[LedgerEntry] = field(default_factory=list)
    seq: int = 0


class MemoryStore:
    """One run's checkpoint in memory."""

    lease: Final = None
    unclear_s: Final = 0.0

    def __init__(self) -> None:
        self._data = _Data()
        self._positions: dict[str, Position] = {}
        self._facts: dict[str, str] = {}
        self._identity: RunIdentity | None = None
        self._open = False

    def open(self) -> None:
        """Open what is there."""
        self._open = True

    @property
    def spill_place(self) -> Path | None:
        """Nothing: it takes everything."""
        return None

    def retire(self) -> None:
        """Do nothing: it holds one run, and has no name."""

    def wind_up(self) -> None:
        """Do nothing: it takes no room on a disk."""

    def write_back(self) -> bool:
        """Tell that nothing was written: there is no file that could be removed."""
        return False

    def close(self) -> None:
        """Keep everything for the next `open`."""
        self._open = False

    # Changes

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply all changes in order, or none."""
        self._check_open()
        rows = self._data.rows
        old = {change_row(change): copy.copy(rows.get(change_row(change))) for change in changes}
        changing = Changing(rows, seq=self._data.seq, holder=self._holder)
        try:
            for change in changes:
                changing.apply(_in_memory(change))
            failpoints.hit("store.before-commit")
        except BaseException:
            for row, value in old.items():
                if value is None:
                    rows.pop(row, None)
                else:
                    rows[row] = value
            raise
        self._data.seq = changing.seq
        self._data.ledger += changing.ledger
        if changes:
            failpoints.hit("store.after-commit")

    def _holder(self, request_id: str, row: int) -> int | None:
        for other in self._data.rows.values():
            if other.row != row and other.request_id == request_id and other.deadline_at is not None:
                return other.row
        return None

    def _check_open(self) -> None:
        if not self._open:
            msg = "The checkpoint is not open."
            raise StorageFailed(msg)

    # Admission

    def taken(self) -> RowSet:
        """Rows that need not be sent: accepted, redeemed, succeeded, failed."""
        taken = RowSet()
        taken.update(found.row for found in self._rows() if found.state >= State.ACCEPTED)
        return taken

    def submitting(self) -> list[int]:
        """Rows whose intent is durable and whose outcome is not, in order."""
        return [found.row for found in self._rows(State.SUBMITTING)]

    def waiting(self) -> dict[int, Counts]:
        """Rows that are pending and were begun before, with their counts."""
        return {found.row: counts(found) for found in self._rows(State.PENDING)}

    def jobs(self) -> Iterator[Job]:
        """Accepted requests, earliest deadline first."""
        accepted = self._rows(State.ACCEPTED)
        for found in sorted(accepted, key=lambda each: (each.deadline_at or 0.0, each.row)):
            yield Job(
                row=found.row,
                kind=found.kind,
                request_id=RequestId(found.request_id or ""),
                submitted_at=found.submitted_at or 0.0,
                deadline_at=found.deadline_at or 0.0,
                model=found.model,
            )

    def redeemed(self) -> list[int]:
        """Rows whose answer is durable and not settled, in order."""
        return [found.row for found in self._rows(State.REDEEMED)]

    def record(self, row: int) -> Record:
        """The stored answer of a row. KeyError if there is none."""
        self._check_open()
        found = self._data.rows[row]
        if not found.answered or found.body is None:
            raise KeyError(row)
        return record(found)

    def counts(self, row: int) -> Counts:
        """The durable counts of a row. KeyError if it was never begun."""
        self._check_open()
        return counts(self._data.rows[row])

    # Outbox

    def outbox(self, after: int, limit: int) -> list[Settled]:
        """At most `limit` successes with seq > after, in order; fewer when they are large."""
        waiting = sorted(
            (found for found in self._rows(State.SUCCEEDED) if found.seq > after), key=lambda each: each.seq
        )
        page, size = list[Settled](), 0
        for found in waiting[:limit]:
            size += 0 if found.body is None else size_of(found.body)
            if page and size > _BODIES_BYTES:
                break
            page.append(settled(found))
        return page

    def failures(self) -> Iterator[Settled]:
        """The rows that are failed now, in row order (their seq is 0)."""
        return iter([self._settled(found) for found in self._rows(State.FAILED)])

    def outcome(self, row: int) -> Settled | None:
        """The outcome of one row, if it has one."""
        self._check_open()
        found = self._data.rows.get(row)
        return None if found is None or found.state < State.SUCCEEDED else self._settled(found)

    def _settled(self, found: StoredRow) -> Settled:
        """Return an outcome; of a failure without an answer, what its last request cost stands in the ledger."""
        outcome = settled(found)
        if outcome.cost_usd is None:
            for entry in self._data.ledger:
                if (entry.row, entry.attempt) == (found.row, found.posts):
                    return replace(outcome, cost_usd=entry.cost_usd)
        return outcome

    def position(self, sink: str) -> Position | None:
        """How far the named sink got; None for a new one."""
        self._check_open()
        return self._positions.get(sink)

    def advance(self, sink: str, position: Position) -> None:
        """Store a sink's position."""
        self._check_open()
        self._positions[sink] = replace(position, state=json.loads(json.dumps(dict(position.state))))

    # Accounts

    def totals(self) -> Totals:
        """Count everything."""
        rows = self._rows()
        states = [sum(found.state is state for found in rows) for state in State]
        failed = [found for found in rows if found.state is State.FAILED]
        codes = sorted(found.error.code.value for found in failed if found.error is not None)
        entries = [entry.entry for entry in self._data.ledger]
        sums = self.money()
        tokens = [found.tokens for found in rows if found.state is State.SUCCEEDED]
        return Totals(
            succeeded=states[State.SUCCEEDED],
            failed=states[State.FAILED],
            accepted=states[State.ACCEPTED],
            submitting=states[State.SUBMITTING],
            redeemed=states[State.REDEEMED],
            pending_known=states[State.PENDING],
            failed_by_code={code: codes.count(code) for code in codes},
            in_doubt=entries.count(Entry.IN_DOUBT),
            lost=entries.count(Entry.LOST),
            expired=entries.count(Entry.EXPIRED),
            billed=sum(entry in _BILLED_ENTRIES for entry in entries)
            + sum(states[state] for state in _BILLED_STATES)
            + sum(found.answered for found in failed),
            cost_usd=sums.paid / TICKS,
            money=sums,
            tokens={name: sum(each[index] for each in tokens) for index, name in enumerate(TOKENS)},
            next_deadline_at=min(
                (
                    found.deadline_at
                    for found in rows
                    if found.state is State.ACCEPTED and found.deadline_at is not None
                ),
                default=None,
            ),
        )

    def money(self) -> Money:
        """Return what was paid, may have been, and is on its way."""
        rows = self._rows()
        unknown = [entry for entry in self._data.ledger if entry.cost_usd is None]
        answered = (State.SUCCEEDED, State.FAILED)
        return Money(
            paid=sum(ticks(found.cost_usd) + found.spent_ticks for found in rows),
            untold=sum(
                ticks(found.max_usd)
                for found in rows
                if found.state in answered and found.answered and found.cost_usd is None
            ),
            written_off=sum(ticks(entry.max_usd) for entry in unknown if entry.entry is not Entry.IN_DOUBT),
            in_doubt=sum(ticks(entry.max_usd) for entry in unknown if entry.entry is Entry.IN_DOUBT),
            on_its_way=sum(ticks(found.max_usd) for found in rows if State.PENDING < found.state < State.SUCCEEDED),
        )

    def ledger(self) -> Iterator[LedgerEntry]:
        """All entries in order of time."""
        return iter(list(self._data.ledger))

    def pending_doubts(self) -> list[LedgerEntry]:
        """Requests of a run that is not running: intents without an outcome, as they would enter the ledger."""
        reason = "the process ended before a reply was recorded"
        return [unclear(found, reason) for found in self._rows(State.SUBMITTING)]

    def unexplained(self) -> list[LedgerEntry]:
        """Rows whose POSTs do not add up to refusals, ledger entries and the present state."""
        closed = [entry.row for entry in self._data.ledger]
        return [
            unclear(found, f"{found.posts} requests do not add up")
            for found in self._rows()
            if found.posts != found.refused + closed.count(found.row) + found.stands
        ]

    # Facts

    def identity(self) -> RunIdentity | None:
        """Return what the checkpoint belongs to, None for a new one."""
        self._check_open()
        return self._identity

    def bind(self, identity: RunIdentity) -> None:
        """Store the identity, replacing an older one."""
        self._check_open()
        self._identity = identity

    def note(self, key: str, value: object) -> None:
        """Store a JSON value under a key."""
        self._check_open()
        self._facts[key] = json.dumps(value)

    def recall(self, key: str) -> object:
        """Return the value stored under a key, or None."""
        self._check_open()
        return json.loads(self._facts[key]) if key in self._facts else None

    def keep_for(self, ttl_s: float) -> None:
        """Note how long results are kept, and move the deadlines of what is accepted along."""
        before = self.recall(TTL)
        for row in self._rows(State.ACCEPTED):
            if isinstance(before, float) and row.deadline_at is not None:
                row.deadline_at += ttl_s - before
        self.note(TTL, ttl_s)

    def _rows(self, state: State | None = None) -> list[StoredRow]:
        self._check_open()
        rows = self._data.rows
        return [rows[row] for row in sorted(rows) if state is None or rows[row].state is state]


def _in_memory(change: Change) -> Change:
    """Return a change that holds its answer itself: the file of a large one is removed by whoever made it."""
    if isinstance(change, Redeem) and not isinstance(change.raw, bytes):
        return replace(change, raw=change.raw.read())
    return change
