"""One poll of a deferred request, and the redemption of its result.

Law: one GET at a time for each id; a complete 200 is durable before it is read and nothing is asked for after it. A 404
is believed only twice, 5 s apart, and when the API is known to be well in between; what has expired is decided by the
server's answer to a final GET.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, assert_never

from bulkgrok.core import failpoints
from bulkgrok.core.lifecycle import Change, Expire, Fail, JobFailed, Lose, Redeem
from bulkgrok.core.model import RETRYABLE_CODES, Code, Exchange, Job, Mode, Progress, Reply, RowError
from bulkgrok.core.outcome import Feedback, Sign
from bulkgrok.core.ports import Checkpoint, Clock, Events, Kind, LargeBody, Store, Transport
from bulkgrok.core.retry import Health, RowPolicy
from bulkgrok.core.verdict import Answered, JobRefused, Missing, Pending, ServerError, Stop, judge_get
from bulkgrok.dispatch.account import Account, Standing, count_failure, stopped
from bulkgrok.dispatch.large import LargeReplies, Resolved, TooLarge, Whole, is_large, name_of
from bulkgrok.dispatch.settle import Settler

_MISSING_APART_S: Final = 5.0
_MISSING_MOST_S: Final = 60.0
"""Between polls of a missing result while nothing tells whether the API is well."""
_ERROR_TIMES: Final = 8
_ERROR_FOR_S: Final = 300.0
_NOT_READY: Final = frozenset({202, 204})


class Redeemer:
    """Polls jobs.

    Args:
        transport: HTTP.
        checkpoint: Where every step becomes durable.
        store: Read through the checkpoint, for a row's counts and names.
        kinds: Codecs by name.
        says_pending: Tells whether a 200 body means "not ready yet".
        settler: Takes redeemed rows.
        account: Asked when a 404 or 403 may be about the key.
        policy: When a row is given up.
        health: Whether other requests are answered.
        large: Resolves replies that are too large for memory.
        clock: Both clocks.
        jitter: Uniform in [0, 1).
        events: Told of what is unusual.
        progress: Counts it.
        again: Called with a row that became pending and must be read from the input again.
        unclear_until: Monotonic seconds; before that, an earlier runner may still hand in a result that is gone here.
            None where no earlier one can be alive.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        transport: Transport,
        checkpoint: Checkpoint,
        store: Store,
        kinds: Mapping[str, Kind],
        says_pending: Callable[[bytes], bool],
        settler: Settler,
        account: Account,
        policy: RowPolicy,
        health: Health,
        large: LargeReplies,
        clock: Clock,
        jitter: Callable[[], float],
        events: Events,
        progress: Progress,
        again: Callable[[int], None],
        unclear_until: float | None = None,
    ) -> None:
        self._transport = transport
        self._checkpoint = checkpoint
        self._store = store
        self._kinds = kinds
        self._says_pending = says_pending
        self._settler = settler
        self._account = account
        self._policy = policy
        self._health = health
        self._large = large
        self._clock = clock
        self._jitter = jitter
        self._events = events
        self._progress = progress
        self._again = again
        """The server's clock at a moment of the monotonic one, as its last reply told it."""
        self._unclear_until = unclear_until

    async def poll(self, job: Job) -> Feedback:
        """GET a job's result once and carry out what the reply means."""
        if self._settler.at_stake:  # a slot puts one request at stake: no result while its last answer may be lost too
            await self._settler.finish()
        asked_at = self._clock.wall()
        self._progress.requests += 1
        job.polls += 1
        kind = self._kinds[job.kind]
        exchange = await self._transport.get(kind.result_path(job.request_id), keep=name_of(job.row))
        failpoints.hit("poll.replied")
        try:
            if is_large(exchange):
                async with self._large.resolved(exchange, kind, stream=False) as found:
                    return await self._carry_out_large(job, found, asked_at)
            return await self._carry_out(job, exchange, asked_at)
        except ValueError as error:
            refused = error
        if not await self._was_handed_in(job):
            raise refused
        return await self._settle(job)

    async def _was_handed_in(self, job: Job) -> bool:
        """Tell whether the runner before this one handed the result in after all: it had it in hand."""
        try:
            record = await self._checkpoint.call(self._store.record, job.row)
        except KeyError:
            return False
        return record.request_id == job.request_id

    async def _settle(self, job: Job) -> Feedback:
        """Settle a row whose answer is durable."""
        return Feedback(sign=Sign.GOOD, tokens=await self._settler.redeemed(job.row))

    async def _carry_out_large(self, job: Job, found: Resolved, asked_at: float) -> Feedback:
        match found:
            case Whole(head=head) | TooLarge(head=head) if head.status in _NOT_READY:
                return await self._carry_out(job, head, asked_at)
            case Whole(head=head, body=body):
                return await self._redeem(job, head.status, body)
            case TooLarge():
                return await self._too_large(job, found)
            case Reply():
                return await self._carry_out(job, found, asked_at)
            case _:
                assert_never(found)

    async def _carry_out(  # noqa: C901 - one arm a verdict
        self, job: Job, exchange: Exchange, asked_at: float
    ) -> Feedback:
        complete = isinstance(exchange, Reply) and exchange.complete and 200 <= exchange.status < 300
        pending = complete and isinstance(exchange, Reply) and self._says_pending(exchange.body)
        verdict, final = judge_get(exchange, pending=pending), self._is_final(job, exchange, asked_at)
        if not final:
            job.overdue = 0
        if not isinstance(verdict, Missing):
            job.missing = 0
        if not isinstance(verdict, ServerError):
            job.errors = 0
        match verdict:
            case Answered() if isinstance(exchange, Reply):
                return await self._redeem(job, exchange.status, exchange.body)
            case Pending():
                return await self._pending(job, verdict, final=final)
            case Missing(message=message):
                return await self._missing(job, message, final=final)
            case ServerError():
                return await self._server_error(job, verdict, final=final)
            case JobRefused():
                return await self._job_refused(job, verdict)
            case Stop(status=status, message=message):
                return Feedback(sign=Sign.GOOD, job=job, stop=stopped(status, message))
            case Answered():
                msg = "an answer needs a reply"
                raise AssertionError(msg)
            case _:
                assert_never(verdict)

    def _is_final(self, job: Job, exchange: Exchange, asked_at: float) -> bool:
        """Whether the server had passed the job's deadline when it answered, by its own clock where it ever told it.

        This machine's clock may be set at any time; the monotonic one stands still at most while the machine sleeps.
        """
        now = self._clock.monotonic()
        if isinstance(exchange, Reply) and exchange.date_at is not None:
            self._health.told(exchange.date_at, now)
        server_time = self._health.server_time(now)
        return (asked_at if server_time is None else server_time) >= job.deadline_at

    async def _redeem(self, job: Job, status: int, raw: bytes | LargeBody) -> Feedback:
        redeem = Redeem(row=job.row, at=self._clock.wall(), status_code=status, raw=raw, request_id=job.request_id)
        job.missing = job.errors = 0
        return Feedback(sign=Sign.GOOD, tokens=await self._settler.received(job, redeem))

    async def _too_large(self, job: Job, found: TooLarge) -> Feedback:
        head = found.head
        redeem = Redeem(
            row=job.row,
            at=self._clock.wall(),
            status_code=head.status,
            raw=head.body,
            request_id=job.request_id,
        )
        await self._fail(job, redeem, Code.TOO_LARGE, found.message, status=head.status)
        return Feedback(sign=Sign.GOOD)

    async def _pending(self, job: Job, pending: Pending, *, final: bool) -> Feedback:
        if final and not pending.served and self._is_overdue(job):
            return await self._expire(job, pending.reason or "no poll after its deadline was answered")
        if pending.throttled:
            return Feedback(
                sign=Sign.THROTTLED,
                job=job,
                retry_after_s=pending.retry_after_s,
                reason=pending.reason,
                limit=pending.limit,
            )
        if not pending.served:
            return Feedback(sign=Sign.THERE if pending.cut else Sign.BAD, job=job, reason=pending.reason)
        if final:
            return await self._expire(job, "still not ready when its time was over")
        delay = min(pending.retry_after_s, 60.0) if pending.retry_after_s else None
        return Feedback(sign=Sign.GOOD, job=job, delay_s=delay)

    def _is_overdue(self, job: Job) -> bool:
        """Count a poll after the deadline that told nothing; return whether it was the last that is worth it."""
        now = self._clock.monotonic()
        if job.overdue == 0:
            job.overdue_since = now
        job.overdue += 1
        return job.overdue >= _ERROR_TIMES and self._health.well_since(job.overdue_since)

    async def _missing(self, job: Job, message: str, *, final: bool) -> Feedback:
        now = self._clock.monotonic()
        if self._unclear_until is not None:
            if await self._was_handed_in(job):
                return await self._settle(job)
            if now < self._unclear_until:
                wait_s = min(_MISSING_APART_S, self._unclear_until - now)
                return Feedback(sign=Sign.MISSING, job=job, delay_s=wait_s + self._jitter() / 4)
        if final:
            return await self._expire(job, message)
        if job.missing == 0:
            job.missing, job.missing_since = 1, now
        waited = now - job.missing_since
        if waited < _MISSING_APART_S:
            return Feedback(sign=Sign.MISSING, job=job, delay_s=_MISSING_APART_S - waited + self._jitter() / 4)
        if not self._health.well_since(job.missing_since):
            standing = await self._account.standing()
            if standing is Standing.BAD:
                return Feedback(sign=Sign.GOOD, job=job, stop=self._account.stop)
            if standing is not Standing.GOOD:
                return Feedback(sign=Sign.MISSING, job=job, delay_s=min(_MISSING_MOST_S, waited))
        return await self._lose(job, message)

    async def _lose(self, job: Job, message: str) -> Feedback:
        reason = f"the result is gone (HTTP 404): {message}"
        losses = (await self._checkpoint.call(self._store.counts, job.row)).losses + 1
        self._progress.lost += 1
        self._events("result.lost", row=job.row, request_id=job.request_id)
        lose = Lose(row=job.row, at=self._clock.wall(), reason=reason)
        if self._policy.lost_again(losses):
            await self._checkpoint.commit(lose)
            self._again(job.row)
        else:
            await self._fail(job, lose, Code.LOST, reason)
        return Feedback(sign=Sign.MISSING)

    async def _expire(self, job: Job, message: str) -> Feedback:
        reason = f"not redeemed before its time was over: {message}"
        self._events("result.expired", row=job.row, request_id=job.request_id)
        await self._fail(job, Expire(row=job.row, at=self._clock.wall(), reason=reason), Code.EXPIRED, reason)
        return Feedback(sign=Sign.MISSING)

    async def _server_error(self, job: Job, error: ServerError, *, final: bool) -> Feedback:
        if final and self._is_overdue(job):
            return await self._expire(job, f"{error.reason}: {error.message}")
        now = self._clock.monotonic()
        if job.errors == 0:
            job.errors_since = now
        job.errors += 1
        alone = job.errors >= _ERROR_TIMES and now - job.errors_since >= _ERROR_FOR_S
        if alone and self._health.well_since(job.errors_since):
            message = f"{error.reason} to {job.errors} polls in a row: {error.message}"
            refused = JobRefused(code=Code.FAILED, status=error.status, message=message, again=error.again)
            return await self._job_failed(job, refused)
        return Feedback(sign=Sign.BAD, job=job, reason=error.reason, retry_after_s=error.retry_after_s)

    async def _job_refused(self, job: Job, refused: JobRefused) -> Feedback:
        if refused.status == 403 and refused.code is not Code.MODERATED:
            standing = await self._account.standing()
            if standing is Standing.BAD:
                return Feedback(sign=Sign.GOOD, job=job, stop=self._account.stop)
            if standing is not Standing.GOOD:
                return Feedback(sign=Sign.MISSING, job=job)
        return await self._job_failed(job, refused)

    async def _job_failed(self, job: Job, refused: JobRefused) -> Feedback:
        failed = JobFailed(row=job.row, at=self._clock.wall(), reason=refused.message)
        attempts = (await self._checkpoint.call(self._store.counts, job.row)).attempts + 1
        self._events("job.failed", row=job.row, request_id=job.request_id)
        if refused.again and not self._policy.spent(attempts):
            await self._checkpoint.commit(failed)
            self._again(job.row)
        else:
            await self._fail(job, failed, refused.code, refused.message, status=refused.status)
        return Feedback(sign=Sign.GOOD)

    async def _fail(self, job: Job, change: Change, code: Code, message: str, *, status: int | None = None) -> None:
        """Commit what happened to the job together with the row's failure."""
        fail = Fail(
            row=job.row,
            at=self._clock.wall(),
            error=RowError(code=code, message=message, status_code=status, retryable=code in RETRYABLE_CODES),
            custom_id="",
            kind=job.kind,
            mode=Mode.DEFERRED,
            model="",
            digest=b"",
            request_id=job.request_id,
        )
        await self._checkpoint.commit(change, fail)
        count_failure(self._progress, fail)
        self._events("item.failed", row=job.row, code=str(code))
