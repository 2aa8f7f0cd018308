"""One change of a row's state as SQL.

Law: every change goes along an arc of core.lifecycle.ARCS or raises ValueError. The statements carry the state they
start from, so the common changes need no look at the row before; only what must know more of the row's past reads it.
Runs inside a transaction that the caller began; `undo` follows if it is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import apsw

from bulkgrok.checkpoint import blobs
from bulkgrok.checkpoint.statements import load
from bulkgrok.checkpoint.tally import Tally
from bulkgrok.checkpoint.values import (
    money,
    small,
    stored_assets,
    stored_optional,
    stored_text,
    token_counts,
)
from bulkgrok.core.lifecycle import (
    ARCS,
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
    State,
    Submit,
    Succeed,
    Unsent,
    after,
)
from bulkgrok.core.model import Entry, Mode, Settled
from bulkgrok.core.money import ticks

_SQL: Final = load("writes.sql")
#: change -> (state that a row leaves, state that it comes to, how the first is stored). Of a row not begun here,
#: or was accepted, the last is the likely one.
_ARCS: Final = {change: [(source, target, source.value) for source, target in arcs] for change, arcs in ARCS.items()}

#: What the reply kept for a row is to it now (item.held).
NOTHING: Final = 0
ANSWER: Final = 1
REFUSAL: Final = 2


class _Past(NamedTuple):
    """What a change may need to know of a row."""

    state: int
    posts: int
    held: int
    cost_usd: float | None
    max_usd: float
    error_code: str | None
    completed_at: float | None
    status_code: int | None


class Writing:
    """Applies changes to the tables and to the tally.

    Args:
        connection: Inside a transaction whenever `write` is called.
        tally: Counts along.
        seq: The last sequence number given.
    """

    def __init__(self, connection: apsw.Connection, tally: Tally, seq: int) -> None:
        self.tally = tally
        self.seq = seq
        self._connection = connection
        self._execute = connection.cursor().execute
        self.answered: list[Settled] = []
        """Outcomes as the outbox reads them: those of this transaction of which all is known here."""
        self._begun: dict[int, tuple[int, Submit]] = {}
        """Row -> what its request costs at most, in ticks, and its intent: of those that were begun here and are on
        their way to a reply."""
        self._writers: Final[dict[type, Callable[[Any], None]]] = {
            Unsent: self._unsent,
            Refuse: self._refuse,
            Doubt: self._doubt,
            Accept: self._accept,
            Lose: self._lose,
            Expire: self._expire,
            JobFailed: self._job_failed,
            Succeed: self._succeed,
            Fail: self._fail,
            Retry: self._retry,
            Redownload: self._redownload,
        }

    def write(self, changes: Sequence[Change]) -> None:
        """Apply changes in order, and store the tally.

        Raises:
            ValueError: The lifecycle table does not allow one, or its attempt is not the row's next one.
        """
        redeemed: Redeem | None = None
        for change in changes:
            if redeemed is not None:
                # A direct answer is redeemed and settled in one breath: one statement instead of two.
                if isinstance(change, Succeed) and change.row == redeemed.row:
                    self._answer(redeemed, change)
                    redeemed = None
                    continue
                self._redeem(redeemed)
                redeemed = None
            if isinstance(change, Redeem):
                redeemed = change
            elif isinstance(change, Submit):
                self._submit(change)
            else:
                self._writers[type(change)](change)
        if redeemed is not None:
            self._redeem(redeemed)
        self.tally.groups += 1
        self._execute(_SQL["tally"], (self.tally.dumps(),))

    def undo(self, tally: Tally, seq: int) -> None:
        """Go back to the sums before a transaction that was rolled back; what it began is looked up from now on."""
        self.tally, self.seq = tally, seq
        self.answered = []
        self._begun.clear()

    # Moving along an arc

    def _move(self, change: Change, row: int, statement: str, columns: tuple[object, ...] = ()) -> State:
        """Run a statement that ends in `WHERE row = ? AND state = ?`; return the state that the row left."""
        arcs = _ARCS[type(change)]
        for source, target, state in arcs if len(arcs) == 1 or row in self._begun else reversed(arcs):
            self._execute(_SQL[statement], (*columns, row, state))
            if self._connection.changes():
                self.tally.move(source, target)
                return source
        raise self._refused(change, row)

    def _leave(self, change: Change, row: int, statement: str, columns: tuple[object, ...] = ()) -> int:
        """Move a row whose request is on its way no more; return what that costs at most, in ticks."""
        begun = self._begun.get(row)
        most = ticks(self._execute(_SQL["most"], (row,)).get) if begun is None else begun[0]
        self._move(change, row, statement, columns)
        self._begun.pop(row, None)
        self.tally.on_its_way -= most
        return most

    def _refused(self, change: Change, row: int) -> ValueError:
        """Return why a change that found nothing to do is refused."""
        past = self._past(row)
        state = State.PENDING if past is None else State(past.state)
        try:
            after(state, type(change))
        except ValueError as error:
            return ValueError(f"row {row}: {error}")
        if isinstance(change, Submit):
            posts = 0 if past is None else past.posts
            return ValueError(f"row {row}: attempt {change.attempt} does not follow {posts} posts")
        return ValueError(f"row {row}: {type(change).__name__} of a row that was never begun")

    def _past(self, row: int) -> _Past | None:
        found = self._execute(_SQL["facts_of_row"], (row,)).fetchone()
        return None if found is None else _Past(*found)

    def _enter(  # noqa: PLR0913 - the columns of an entry
        self,
        row: int,
        at: float,
        entry: Entry,
        reason: str,
        *,
        most: int,
        max_usd: float | None = None,
        cost_usd: float | None = None,
    ) -> None:
        """Enter a row's present attempt; `max_usd` None is as much as the row's, which is `most` ticks."""
        self._execute(_SQL["enter"], (at, entry.value, stored_text(reason), max_usd, cost_usd, row))
        self.tally.enter(entry, most if max_usd is None else ticks(max_usd), cost_usd)

    # A POST and what became of it

    def _submit(self, change: Submit) -> None:
        item = change.item
        digest, custom_id, model = bytes(item.digest), stored_text(item.custom_id), stored_text(item.model)
        kind, mode, max_usd, row = item.kind, item.mode._value_, money(item.max_usd) or 0.0, item.row
        if change.attempt == 1:
            self._execute(
                _SQL["submit_new"], (row, digest, item.line, custom_id, kind, mode, model, max_usd, change.at)
            )
            if self._connection.changes():
                self.tally.move(None, State.SUBMITTING)
                self._on_its_way(change, max_usd)
                return
        self._execute(
            _SQL["submit_again"],
            (digest, item.line, custom_id, kind, mode, model, max_usd, change.at, row, change.attempt - 1),
        )
        if not self._connection.changes():
            raise self._refused(change, row)
        self.tally.move(State.PENDING, State.SUBMITTING)
        self._on_its_way(change, max_usd)

    def _on_its_way(self, change: Submit, max_usd: float) -> None:
        most = ticks(max_usd)
        self._begun[change.item.row] = most, change
        self.tally.on_its_way += most

    def _unsent(self, change: Unsent) -> None:
        self._leave(change, change.row, "unsent")

    def _refuse(self, change: Refuse) -> None:
        most = self._leave(change, change.row, "refuse", (int(change.entry is None), int(change.counted)))
        if change.entry is not None:
            max_usd = money(change.max_usd)
            self._enter(change.row, change.at, change.entry, change.reason, most=most, max_usd=max_usd)

    def _doubt(self, change: Doubt) -> None:
        most = self._leave(change, change.row, "doubt")
        self._enter(change.row, change.at, Entry.IN_DOUBT, change.reason, most=most)

    def _accept(self, change: Accept) -> None:
        request_id = stored_text(change.request_id)
        try:
            self._move(change, change.row, "accept", (request_id, change.deadline_at))
        except apsw.ConstraintError:  # the index item_receipt
            holder = self._execute(_SQL["holder"], (request_id, change.row)).fetchone()
            if holder is None:
                raise
            msg = f"row {change.row}: the request id {change.request_id!r} is that of row {holder[0]}"
            raise ValueError(msg) from None
        self._begun.pop(change.row, None)  # there may be a million of them

    # An answer

    def _redeem(self, change: Redeem) -> None:
        reply = (change.at, change.status_code, stored_optional(change.request_id))
        self._move(change, change.row, "redeem", reply)
        self._begun.pop(change.row, None)  # it may fail, or wait for files: its intent holds the request's body
        self._keep(change)

    def _answer(self, redeem: Redeem, succeed: Succeed) -> None:
        begun = self._begun.get(redeem.row)
        reply = (redeem.at, redeem.status_code, stored_optional(redeem.request_id))
        most = self._leave(redeem, redeem.row, "answer", (*reply, *self._settle(succeed)))
        self.tally.answer(most, money(succeed.cost_usd))
        self.tally.move(State.REDEEMED, after(State.REDEEMED, Succeed))
        self._keep(redeem)
        raw = redeem.raw
        if begun is not None and isinstance(raw, bytes):
            self.answered.append(_outcome(self.seq, begun[1], redeem, raw, succeed))

    def _keep(self, change: Redeem) -> None:
        if isinstance(change.raw, bytes) and len(change.raw) <= blobs.LARGE_BYTES:
            self._execute(_SQL["keep"], (change.row, change.raw))
            return
        self._execute(_SQL["keep"], (change.row, apsw.zeroblob(blobs.size_of(change.raw))))
        blobs.fill(self._connection, change.row, change.raw)

    def _succeed(self, change: Succeed) -> None:
        most = self._leave(change, change.row, "succeed", self._settle(change))
        self.tally.answer(most, money(change.cost_usd))

    def _settle(self, change: Succeed) -> tuple[object, ...]:
        """Count a success and return its columns."""
        cost_usd, tokens = money(change.cost_usd), token_counts(change.tokens)
        self.seq += 1
        self.tally.used(tokens)
        model, assets = stored_text(change.model), stored_assets(change.assets)
        return (model, cost_usd, change.usage, *tokens, assets, self.seq)

    # A job that ended without one

    def _lose(self, change: Lose) -> None:
        self._close_job(change, Entry.LOST, losses=1)

    def _expire(self, change: Expire) -> None:
        self._close_job(change, Entry.EXPIRED, cost_usd=money(change.cost_usd))

    def _job_failed(self, change: JobFailed) -> None:
        self._close_job(change, Entry.JOB_FAILED, attempts=1, cost_usd=money(change.cost_usd))

    def _close_job(
        self,
        change: Lose | Expire | JobFailed,
        entry: Entry,
        *,
        losses: int = 0,
        attempts: int = 0,
        cost_usd: float | None = None,
    ) -> None:
        most = self._leave(change, change.row, "close_job", (losses, attempts, ticks(cost_usd)))
        self._enter(change.row, change.at, entry, change.reason, most=most, cost_usd=cost_usd)
        self.tally.ticks += ticks(cost_usd)

    # Failing, and leaving failure

    def _fail(self, change: Fail) -> None:
        past = self._past(change.row)
        state = State.PENDING if past is None else State(past.state)
        try:
            after(state, Fail)
        except ValueError as error:
            msg = f"row {change.row}: {error}"
            raise ValueError(msg) from None
        answered = past is not None and state is State.REDEEMED
        held = ANSWER if answered else NOTHING if change.reply is None else REFUSAL
        cost_usd, error_status = money(change.cost_usd), small(change.error.status_code)
        code = change.error.code.value
        rest = (
            held,
            stored_optional(change.request_id),
            past.completed_at if past is not None and answered else change.at,
            past.status_code if past is not None and answered else error_status,
            cost_usd,
            change.usage,
            stored_assets(change.assets),
            code,
            stored_text(change.error.message),
            error_status,
            int(change.error.retryable),
        )
        line = change.line if change.line is not None else change.error.line
        names = (
            stored_text(change.custom_id), stored_text(change.kind), Mode(change.mode).value, stored_text(change.model),
        )  # fmt: skip
        if past is None:
            self._execute(_SQL["fail_new"], (change.row, bytes(change.digest), line, *names, *rest))
            self.tally.move(None, State.FAILED)
        else:
            self._move(change, change.row, "fail", (line, *rest))
            if answered:
                self.tally.on_its_way -= ticks(past.max_usd)
            if change.digest and not answered:  # the caller knows the row as it is now, maybe under other settings
                self._execute(_SQL["rename"], (bytes(change.digest), *names, change.row))
        if held == REFUSAL:
            self._execute(_SQL["keep"], (change.row, change.reply))
        self.tally.failed(code, 1, answered=answered)
        self.tally.answer(ticks(past.max_usd) if past is not None and answered else 0, cost_usd)

    def _retry(self, change: Retry) -> None:
        past = self._failed_past(change)
        most = ticks(past.max_usd)
        if past.held == ANSWER:
            # Before the row forgets its receipt.
            self._enter(change.row, change.at, Entry.REPLACED, "asked for again", most=most, cost_usd=past.cost_usd)
            if past.cost_usd is None:
                self.tally.untold -= most
        self._move(change, change.row, "retry", (ticks(past.cost_usd),))
        self.tally.failed(past.error_code or "", -1, answered=past.held == ANSWER)

    def _redownload(self, change: Redownload) -> None:
        past = self._failed_past(change)
        if past.held != ANSWER:
            msg = f"row {change.row}: there is no answer whose files could be downloaded again"
            raise ValueError(msg)
        most = ticks(past.max_usd)
        self._move(change, change.row, "redownload")
        self.tally.failed(past.error_code or "", -1, answered=True)
        self.tally.unanswer(most, past.cost_usd)
        self.tally.on_its_way += most

    def _failed_past(self, change: Retry | Redownload) -> _Past:
        past = self._past(change.row)
        if past is None or past.state != State.FAILED:
            raise self._refused(change, change.row)
        return past


def _outcome(seq: int, submit: Submit, redeem: Redeem, body: bytes, succeed: Succeed) -> Settled:
    """Return the outcome of a request that one intent, one reply and what that says are all there is to."""
    item = submit.item
    return Settled(
        seq=seq,
        row=item.row,
        line=item.line,
        custom_id=item.custom_id,
        kind=item.kind,
        mode=item.mode,
        model=succeed.model,
        attempts=submit.attempt,
        submitted_at=submit.at,
        completed_at=redeem.at,
        request_id=redeem.request_id,
        status_code=redeem.status_code,
        body=body,
        cost_usd=money(succeed.cost_usd),
        usage=succeed.usage,
        assets=succeed.assets,
    )
