"""What a change makes of a whole row and of the ledger, for stores that work on rows in memory.

Law: every change goes along an arc of core.lifecycle.ARCS or raises ValueError; then a row may be half changed, and the
caller throws it away. Knows no transaction and no database.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkgrok.checkpoint.rows import StoredRow, fail, forget, redownload, submit
from bulkgrok.checkpoint.values import money, token_counts
from bulkgrok.core.lifecycle import (
    Accept,
    Change,
    Doubt,
    Expire,
    Fail,
    JobFailed,
    Lose,
    Redeem,
    Redownload,
    Refuse,
    Retry,
    Submit,
    Succeed,
    Unsent,
    after,
)
from bulkgrok.core.model import Entry, LedgerEntry
from bulkgrok.core.money import ticks


class Changing:
    """Applies changes to rows.

    Args:
        rows: Every row that the changes may be about, where it was begun; changed in place.
        seq: The last sequence number given.
        holder: Tells which other row was given a request id; None for none.
    """

    def __init__(self, rows: dict[int, StoredRow], *, seq: int, holder: Callable[[str, int], int | None]) -> None:
        self.rows = rows
        self.seq = seq
        self.ledger: list[LedgerEntry] = []
        """Entries to be added."""
        self._holder = holder

    def _refuse_repeated(self, number: int, change: Accept) -> None:
        holder = self._holder(change.request_id, number)
        if holder is not None:
            msg = f"row {number}: the request id {change.request_id!r} is that of row {holder}"
            raise ValueError(msg)

    def apply(self, change: Change) -> None:  # noqa: C901, PLR0912 - one arm a change
        """Apply one change.

        Raises:
            ValueError: The lifecycle table does not allow it, its attempt is not the row's next one, or its receipt is
                another row's.
        """
        number = change_row(change)
        known = number in self.rows
        found = self.rows.get(number) or StoredRow(row=number)
        try:
            state = after(found.state, type(change))
        except ValueError as error:
            msg = f"row {number}: {error}"
            raise ValueError(msg) from None
        match change:
            case Submit():
                submit(found, change)
            case Unsent():
                found.refused += 1
            case Refuse():
                found.attempts += change.counted
                if change.entry is None:
                    found.refused += 1
                else:
                    self._enter(found, change.at, change.entry, change.reason, max_usd=money(change.max_usd))
            case Doubt():
                found.doubts += 1
                found.attempts += 1
                self._enter(found, change.at, Entry.IN_DOUBT, change.reason)
            case Accept():
                self._refuse_repeated(number, change)
                found.request_id, found.deadline_at = change.request_id, change.deadline_at
            case Redeem():
                found.answered, found.body, found.completed_at = True, change.raw, change.at
                found.status_code = change.status_code
                found.request_id = change.request_id if change.request_id is not None else found.request_id
            case Lose() | Expire() | JobFailed():
                self._close_job(found, change)
            case Succeed():
                self.seq += 1
                found.seq, found.model, found.cost_usd = self.seq, change.model, money(change.cost_usd)
                found.usage, found.tokens, found.assets = change.usage, token_counts(change.tokens), change.assets
            case Fail():
                fail(found, change, known=known)
            case Retry():
                self._retry(found, change)
            case Redownload():
                redownload(found)
        found.state = state
        self.rows[number] = found

    def _enter(  # noqa: PLR0913 - the columns of an entry
        self,
        found: StoredRow,
        at: float,
        entry: Entry,
        reason: str,
        *,
        max_usd: float | None = None,
        cost_usd: float | None = None,
    ) -> None:
        self.ledger.append(
            LedgerEntry(
                row=found.row,
                custom_id=found.custom_id,
                attempt=found.posts,
                at=at,
                entry=entry,
                reason=reason,
                max_usd=found.max_usd if max_usd is None else max_usd,
                request_id=found.request_id,
                cost_usd=cost_usd,
            )
        )

    def _close_job(self, found: StoredRow, change: Lose | Expire | JobFailed) -> None:
        entry = {Lose: Entry.LOST, Expire: Entry.EXPIRED, JobFailed: Entry.JOB_FAILED}[type(change)]
        cost_usd = None if isinstance(change, Lose) else money(change.cost_usd)
        self._enter(found, change.at, entry, change.reason, cost_usd=cost_usd)
        found.spent_ticks += ticks(cost_usd)
        found.losses += isinstance(change, Lose)
        found.attempts += isinstance(change, JobFailed)
        found.answered, found.body = False, None

    def _retry(self, found: StoredRow, change: Retry) -> None:
        if found.answered:
            self._enter(found, change.at, Entry.REPLACED, "asked for again", cost_usd=found.cost_usd)
        found.spent_ticks += ticks(found.cost_usd)
        found.attempts = found.doubts = found.losses = 0
        forget(found)
        found.answered, found.body, found.request_id = False, None, None
        found.completed_at = found.status_code = None


def change_row(change: Change) -> int:
    """Return the row that a change is about."""
    return change.item.row if isinstance(change, Submit) else change.row
