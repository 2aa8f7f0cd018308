"""One row of a store that works on whole rows, and what changes make of it.

Law: no more than the words of core.lifecycle; the store decides what is allowed and in which order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bulkgrok.checkpoint.tally import Tally
from bulkgrok.checkpoint.values import money
from bulkgrok.core.lifecycle import Fail, State, Submit
from bulkgrok.core.model import Asset, Counts, Entry, LedgerEntry, Mode, Record, RowError, Settled
from bulkgrok.core.money import ticks
from bulkgrok.core.ports import LargeBody


@dataclass(slots=True, kw_only=True)
class StoredRow:
    """All that is known of a row."""

    row: int
    state: State = State.PENDING
    digest: bytes = b""
    line: int | None = None
    custom_id: str = ""
    kind: str = ""
    mode: Mode = Mode.DIRECT
    model: str = ""
    posts: int = 0
    refused: int = 0
    attempts: int = 0
    doubts: int = 0
    losses: int = 0
    max_usd: float = 0.0
    request_id: str | None = None
    submitted_at: float | None = None
    deadline_at: float | None = None
    completed_at: float | None = None
    status_code: int | None = None
    answered: bool = False
    body: bytes | LargeBody | None = None
    """The answer, or the reply that refused."""
    seq: int = 0
    cost_usd: float | None = None
    spent_ticks: int = 0
    """What answers cost that were replaced."""
    usage: bytes | None = None
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)
    assets: tuple[Asset, ...] = ()
    error: RowError | None = None

    @property
    def stands(self) -> bool:
        """Whether the state stands on a request: one under way, accepted or answered."""
        return State.PENDING < self.state < State.FAILED or (self.state is State.FAILED and self.answered)


def record(found: StoredRow) -> Record:
    """Return the answer of a row that has one."""
    return Record(
        row=found.row,
        line=found.line,
        custom_id=found.custom_id,
        kind=found.kind,
        mode=found.mode,
        model=found.model,
        attempts=found.posts,
        counted=found.attempts,
        submitted_at=found.submitted_at or 0.0,
        completed_at=found.completed_at or 0.0,
        request_id=found.request_id,
        status_code=found.status_code or 0,
        raw=_whole(found.body) or b"",
        max_usd=found.max_usd,
    )


def forget(found: StoredRow) -> None:
    """Forget an outcome."""
    found.cost_usd, found.usage, found.assets, found.error = None, None, (), None


def submit(found: StoredRow, change: Submit) -> None:
    """Begin an attempt with an item."""
    if change.attempt != found.posts + 1:
        msg = f"row {found.row}: attempt {change.attempt} does not follow {found.posts} posts"
        raise ValueError(msg)
    item = change.item
    forget(found)
    found.digest, found.line, found.custom_id, found.kind = item.digest, item.line, item.custom_id, item.kind
    found.mode, found.model, found.max_usd = item.mode, item.model, money(item.max_usd) or 0.0
    found.posts, found.submitted_at = change.attempt, change.at
    found.request_id = found.deadline_at = found.completed_at = found.status_code = None


def fail(found: StoredRow, change: Fail, *, known: bool) -> None:
    """Fail, keeping an answer there may be."""
    if change.line is not None or change.error.line is not None:
        found.line = change.line if change.line is not None else change.error.line
    if not found.answered:
        found.body, found.completed_at, found.status_code = change.reply, change.at, change.error.status_code
        if change.digest or not known:
            found.custom_id, found.kind, found.mode = change.custom_id, change.kind, Mode(change.mode)
            found.model, found.digest = change.model, change.digest
    found.request_id = change.request_id if change.request_id is not None else found.request_id
    found.cost_usd, found.usage, found.assets = money(change.cost_usd), change.usage, change.assets
    found.error = replace(change.error, line=found.line)


def redownload(found: StoredRow) -> None:
    """Go back to the stored answer."""
    if not found.answered:
        msg = f"row {found.row}: there is no answer whose files could be downloaded again"
        raise ValueError(msg)
    forget(found)


def counts(found: StoredRow) -> Counts:
    """Return the durable counts of a row."""
    return Counts(
        posts=found.posts, attempts=found.attempts, doubts=found.doubts, losses=found.losses, digest=found.digest
    )


def settled(found: StoredRow) -> Settled:
    """Return the outcome of a row."""
    return Settled(
        seq=found.seq,
        row=found.row,
        line=found.line,
        custom_id=found.custom_id,
        kind=found.kind,
        mode=found.mode,
        model=found.model,
        attempts=found.posts,
        submitted_at=found.submitted_at,
        completed_at=found.completed_at,
        request_id=found.request_id,
        status_code=found.status_code,
        body=_whole(found.body),
        cost_usd=found.cost_usd,
        usage=found.usage,
        assets=found.assets,
        error=None if found.error is None else replace(found.error, line=found.line),
    )


def unclear(found: StoredRow, reason: str) -> LedgerEntry:
    """Return an entry in doubt about a row."""
    return LedgerEntry(
        row=found.row,
        custom_id=found.custom_id,
        attempt=found.posts,
        at=found.submitted_at or 0.0,
        entry=Entry.IN_DOUBT,
        reason=reason,
        max_usd=found.max_usd,
        request_id=found.request_id,
    )


def weigh(tally: Tally, found: StoredRow, times: int) -> None:
    """Add what a row is to the sums (times 1), or take it from them (times -1)."""
    state = found.state
    tally.states[state] += times
    tally.ticks += times * (ticks(found.cost_usd) + found.spent_ticks)
    if State.PENDING < state < State.SUCCEEDED:
        tally.on_its_way += times * ticks(found.max_usd)
    if state is State.SUCCEEDED:
        tally.used([times * number for number in found.tokens])
    if state is State.FAILED and found.error is not None:
        tally.failed(found.error.code.value, times, answered=found.answered)
    if found.cost_usd is None and (state is State.SUCCEEDED or (state is State.FAILED and found.answered)):
        tally.untold += times * ticks(found.max_usd)


def _whole(body: bytes | LargeBody | None) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else body.read()
