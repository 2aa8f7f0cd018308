"""What a start does with what the last one left: each non-terminal state has one rule (core.lifecycle.RECOVERY).

Law: durable before anything is sent; running it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bulkgrok.core import failpoints
from bulkgrok.core.lifecycle import Change, Doubt, Fail, Redownload, Retry
from bulkgrok.core.model import RETRYABLE_CODES, Code, Mode, RowError, Settled
from bulkgrok.core.ports import Checkpoint, Store
from bulkgrok.core.retry import RowPolicy

_BATCH: Final = 1_000


async def recover(checkpoint: Checkpoint, store: Store, *, policy: RowPolicy, at: float) -> int:
    """Enter every intent without an outcome in the ledger as in doubt, at the time it was sent; return how many."""
    found = await checkpoint.call(store.pending_doubts)
    for entry in found:
        row = entry.row
        counts = await checkpoint.call(store.counts, row)
        changes: list[Change] = [Doubt(row=row, at=entry.at, reason=entry.reason)]
        doubts = counts.doubts + 1
        if not policy.doubtful_again(doubts) or policy.spent(counts.attempts + 1):
            message = f"sent {doubts} times without a usable reply; the last: {entry.reason}"
            changes.append(_fail(row, at, Code.IN_DOUBT, message))
        await checkpoint.commit(*changes)
        failpoints.hit("recovery.doubted")
    return len(found)


async def retry_failed(checkpoint: Checkpoint, store: Store, *, at: float) -> int:
    """Make failed rows pending with fresh counts; moderated ones stay, paid answers are only downloaded again."""
    changes: list[Change] = await checkpoint.call(lambda: [_retry(settled, at) for settled in _retryable(store)])
    for start in range(0, len(changes), _BATCH):
        await checkpoint.commit(*changes[start : start + _BATCH])
    return len(changes)


def _retryable(store: Store) -> Iterator[Settled]:
    return (found for found in store.failures() if found.error is not None and found.error.code is not Code.MODERATED)


def _retry(settled: Settled, at: float) -> Change:
    if settled.error is not None and settled.error.code is Code.DOWNLOAD_FAILED:
        return Redownload(row=settled.row)
    return Retry(row=settled.row, at=at)


def _fail(row: int, at: float, code: Code, message: str) -> Fail:
    """Word the failure of a row that the store knows."""
    return Fail(
        row=row,
        at=at,
        error=RowError(code=code, message=message, retryable=code in RETRYABLE_CODES),
        custom_id="",
        kind="",
        mode=Mode.DIRECT,
        model="",
        digest=b"",
    )


def owned_by(
    store: Store, speaks_of: Callable[[bytes, Settled], bool], row_of: Callable[[bytes], int | None]
) -> Callable[[bytes], bool]:
    """Return a test for whether a line of an output file is one that this run wrote."""

    def owned(line: bytes) -> bool:
        row = row_of(line)
        if row is None:
            return False
        outcome = store.outcome(row)
        return outcome is not None and speaks_of(line, outcome)

    return owned
