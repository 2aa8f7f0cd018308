"""What a run finds in its checkpoint, and what observers read; the same for every database.

Law: changes nothing. Long lists come page by page, each page a statement of its own that ends before the page is handed
out: no cursor stays open while somebody writes. Knows the names of statements and the columns they return, and no
database: that is a subclass's.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final, TypeVar

import orjson

from bulkgrok.checkpoint.tally import Tally
from bulkgrok.checkpoint.values import (
    Columns,
    counts_from,
    identity_from,
    job_from,
    ledger_entry_from,
    record_from,
    settled_from,
    text,
)
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import State
from bulkgrok.core.model import (
    Counts,
    Entry,
    Job,
    LedgerEntry,
    Position,
    Record,
    RowSet,
    RunIdentity,
    Settled,
    Totals,
)
from bulkgrok.core.money import Money, ticks

T = TypeVar("T")

_PAGE: Final = 1_000
_BULK: Final = 50_000
_PAGE_OF_BODIES: Final = 50
_BODIES_BYTES: Final = 8 << 20
#: Where columns hold an answer, or its size where it is large.
_RECORD_BODY: Final = 12
_OUTCOME_BODY: Final = 12
IDENTITY: Final = "identity"


class Reading(ABC):
    """The reading half of a store."""

    @abstractmethod
    def _all(self, statement: str, *parameters: object) -> list[Any]:
        """Return all rows of a statement. Raises StorageFailed."""

    @abstractmethod
    def _sized(self, statement: str, *parameters: object) -> Iterator[Columns]:
        """Yield columns of outcomes one by one; the statement ends with the iteration. Raises StorageFailed."""

    @abstractmethod
    def _large(self, row: int) -> bytes:
        """Return the answer of a row whose size stands in its place. Raises StorageFailed."""

    @abstractmethod
    def _damaged(self, detail: str) -> StorageFailed:
        """Return the error for tables that hold what was never written."""

    def _first(self, statement: str, *parameters: object) -> Any:  # noqa: ANN401 - columns of a row
        found = self._all(statement, *parameters)
        return found[0] if found else None

    def _made(self, make: Callable[[Any], T], columns: Any) -> T:  # noqa: ANN401 - columns of a row
        """Return the value of columns, which may hold what was never written when the file is damaged."""
        try:
            return make(columns)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise self._damaged(detail) from error

    def _pages(self, statement: str, make: Callable[[Columns], T], size: int = _PAGE, *fixed: object) -> Iterator[T]:
        """Yield the values of all rows of a statement whose last parameters are (last key, page size)."""
        last = -1
        while page := self._all(statement, *fixed, last, size):
            last = page[-1][0]
            for columns in page:
                yield self._made(make, columns)

    # Admission

    def taken(self) -> RowSet:
        """Rows that need not be sent: accepted, redeemed, succeeded, failed."""
        taken = RowSet()
        for first in range(1, self._last_seq() + 1, _BULK):
            rows = self._first("succeeded_rows", first, first + _BULK - 1)[0]
            taken.add_all(sorted(orjson.loads(rows)))
        taken.update(chain(*(self._rows_in(state) for state in (State.ACCEPTED, State.REDEEMED, State.FAILED))))
        return taken

    def _last_seq(self) -> int:
        found: int = self._first("last_seq")[0]
        return found

    def _rows_in(self, state: State) -> Iterator[int]:
        return self._pages("open_rows", lambda columns: columns[0], _BULK, state.value)

    def submitting(self) -> list[int]:
        """Rows whose intent is durable and whose outcome is not, in order."""
        return list(self._rows_in(State.SUBMITTING))

    def waiting(self) -> dict[int, Counts]:
        """Rows that are pending and were begun before, with their counts."""
        return dict(self._pages("waiting", lambda columns: (columns[0], counts_from(columns[1:]))))

    def jobs(self) -> Iterator[Job]:
        """Accepted requests, earliest deadline first."""
        deadline_at, row = float("-inf"), -1
        while page := self._all("jobs", deadline_at, row, _PAGE):
            for columns in page:
                yield self._made(job_from, columns)
            row, deadline_at = page[-1][0], page[-1][4]

    def redeemed(self) -> list[int]:
        """Rows whose answer is durable and not settled, in order."""
        return list(self._rows_in(State.REDEEMED))

    def record(self, row: int) -> Record:
        """The stored answer of a row. KeyError if there is none."""
        found = self._first("record", row)
        if found is None:
            raise KeyError(row)
        return self._made(record_from, self._with_body(found, _RECORD_BODY, row))

    def _with_body(self, columns: Columns, at: int, row: int) -> Columns:
        """Return columns with a large answer in the place of its size."""
        if not isinstance(columns[at], int):
            return columns
        return (*columns[:at], self._large(row), *columns[at + 1 :])

    def counts(self, row: int) -> Counts:
        """The durable counts of a row. KeyError if it was never begun."""
        found = self._first("counts", row)
        if found is None:
            raise KeyError(row)
        return self._made(counts_from, found)

    # Outbox

    def outbox(self, after: int, limit: int) -> list[Settled]:
        """At most `limit` successes with seq > after, in order; fewer when they are large."""
        return self._made(lambda _: self._batch(after, limit), ())

    def _batch(self, after: int, limit: int) -> list[Settled]:
        settled: list[Settled] = []
        size = 0
        for columns in self._sized("outbox", after, limit):
            size += _size(columns)
            if settled and size > _BODIES_BYTES:
                break
            if isinstance(columns[_OUTCOME_BODY], int):
                settled.append(self._outcome(columns))
            else:  # nearly always
                settled.append(settled_from(columns))
        return settled

    def _outcome(self, columns: Columns) -> Settled:
        return self._made(settled_from, self._with_body(columns, _OUTCOME_BODY, columns[1]))

    def failures(self) -> Iterator[Settled]:
        """The rows that are failed now, in row order (their seq is 0)."""
        last = -1
        while page := self._page_of_failures(last):
            last = page[-1].row
            while page:
                yield page.pop(0)

    def _page_of_failures(self, last: int) -> list[Settled]:
        page: list[Settled] = []
        size = 0
        for columns in self._sized("failures", last, _PAGE_OF_BODIES):
            size += _size(columns)
            if page and size > _BODIES_BYTES:
                break
            page.append(self._outcome(columns))
        return page

    def outcome(self, row: int) -> Settled | None:
        """The outcome of one row, if it has one."""
        found = self._first("outcome", row) if abs(row) < 1 << 63 else None
        return None if found is None else self._outcome(found)

    def position(self, sink: str) -> Position | None:
        """How far the named sink got; None for a new one."""
        found = self._first("position", sink)
        return None if found is None else self._made(_position, found)

    # Accounts

    def totals(self) -> Totals:
        """Count everything."""
        return self._tally().totals(self._first("next_deadline")[0])

    def money(self) -> Money:
        """Return what was paid, may have been, and is on its way."""
        return self._tally().money

    def stored(self) -> Tally:
        """Return the sums as they are stored."""
        found = self._first("tally")
        return self._made(lambda columns: Tally.loads(columns[0]), found)

    def _tally(self) -> Tally:
        """Return the sums as they are now."""
        return self.stored()

    def recount(self) -> Totals:
        """Count everything again, from the rows themselves: slow, and always equal to `totals`."""
        return self.recounted().totals(self._first("next_deadline")[0])

    def recounted(self) -> Tally:
        """Return the sums as the rows themselves come to."""
        return self._made(lambda _: self._recounted(), ())

    def _recounted(self) -> Tally:
        tally = Tally()
        for state, count in self._all("count_states"):
            tally.states[state] = count
        for code, count, answered in self._all("count_codes"):
            tally.codes[code] = count
            tally.answered_failures += answered
        tally.entries.update(dict(self._all("count_entries")))
        for cost_usd, spent in self._all("count_costs"):
            tally.ticks += ticks(cost_usd) + spent
        for (max_usd,) in self._all("count_untold"):
            tally.untold += ticks(max_usd)
        for (max_usd,) in self._all("count_on_its_way"):
            tally.on_its_way += ticks(max_usd)
        for entry, max_usd in self._all("count_written_off"):
            tally.entry_ticks[entry] += ticks(max_usd)
        for tokens in self._all("count_tokens"):
            tally.used(tokens)
        return tally

    def ledger(self) -> Iterator[LedgerEntry]:
        """All entries in order of time."""
        return self._pages("ledger", lambda columns: ledger_entry_from(columns[1:]))

    def pending_doubts(self) -> list[LedgerEntry]:
        """Requests of a run that is not running: intents without an outcome, as they would enter the ledger."""
        return [self._made(_unanswered, columns) for columns in self._all("submitting")]

    def unexplained(self) -> list[LedgerEntry]:
        """Rows whose POSTs do not add up to refusals, ledger entries and the present state."""
        return [self._made(_unexplained, columns) for columns in self._all("unexplained")]

    # Facts

    def identity(self) -> RunIdentity | None:
        """Return what the checkpoint belongs to, None for a new one."""
        found = self.recall(IDENTITY)
        return None if found is None else self._made(identity_from, found)

    def recall(self, key: str) -> object:
        """Return the value stored under a key, or None."""
        found = self._first("fact", key)
        return None if found is None else self._made(lambda columns: json.loads(columns[0]), found)


def _size(columns: Columns) -> int:
    """Return the size of an outcome's body."""
    body = columns[_OUTCOME_BODY]
    return body if isinstance(body, int) else len(body or b"")


def _position(columns: Columns) -> Position:
    seq, state = columns
    return Position(seq=seq, state=dict(json.loads(state)))


def _unanswered(columns: Columns) -> LedgerEntry:
    return _unclear(columns, "the process ended before a reply was recorded")


def _unexplained(columns: Columns) -> LedgerEntry:
    refused, entries, stands = columns[6:]
    reason = (
        f"{columns[2]} requests were begun; {refused} refused, {entries} in the ledger and {stands} in the row's state "
        "do not add up to that"
    )
    return _unclear(columns[:6], reason)


def _unclear(columns: Columns, reason: str) -> LedgerEntry:
    """Return an entry in doubt from row, custom_id, attempt, at, max_usd, request_id."""
    row, custom_id, attempt, at, max_usd, request_id = columns
    return LedgerEntry(
        row=row,
        custom_id=text(custom_id),
        attempt=attempt,
        at=at or 0.0,
        entry=Entry.IN_DOUBT,
        reason=reason,
        max_usd=max_usd,
        request_id=None if request_id is None else text(request_id),
    )
