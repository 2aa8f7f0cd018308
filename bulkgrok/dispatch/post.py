"""One POST: intent, request, verdict, and what the verdict means for the row.

Law: the intent is durable before the first byte leaves, the outcome before anybody acts on it. Only an answer is not
waited for: it is handed in before the next intent of its slot can be, so no crash leaves more rows in doubt than there
are slots. The reply of a request in flight is never thrown away: a worker that sends is not cancelled, it drains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import assert_never

from bulkgrok.core import failpoints
from bulkgrok.core.lifecycle import Accept, Change, Doubt, Fail, Redeem, Refuse, Submit
from bulkgrok.core.lifecycle import Unsent as TakeBack
from bulkgrok.core.model import Code, Entry, Exchange, Job, Mode, Progress, Record, Reply, RequestId, Work
from bulkgrok.core.outcome import Feedback, Sign
from bulkgrok.core.ports import Checkpoint, Clock, Events, Kind, Transport
from bulkgrok.core.retry import KEPT_OUT_FOR_S, KEPT_OUT_TIMES, Health, RowPolicy, backoff_s, wait_s
from bulkgrok.core.verdict import (
    Answered,
    InDoubt,
    Receipt,
    Refused,
    Rejected,
    Stop,
    Unsent,
    Why,
    judge_post,
)
from bulkgrok.dispatch.account import Rejections, count_failure, stopped
from bulkgrok.dispatch.large import LargeReplies, Resolved, TooLarge, Whole, is_large, name_of
from bulkgrok.dispatch.settle import Settler, item_failure

_IDLE_S = 120.0
_LONGEST_SUBMISSION_S = 3_600.0
"""A receipt that comes byte by byte ends all the same."""
_ANSWERED_LATELY_S = 60.0


class Poster:
    """Sends items.

    Args:
        transport: HTTP.
        checkpoint: Where every step becomes durable.
        kinds: Codecs by name.
        settler: Takes answers.
        rejections: Takes rejections.
        policy: When a row is given up.
        health: Whether other requests are answered.
        large: Resolves replies that are too large for memory.
        clock: Both clocks.
        jitter: Uniform in [0, 1).
        events: Told of what is unusual.
        progress: Counts it.
        timeout_s: A whole direct request.
        deferred_ttl_s: How long the server keeps a result.
        refusal_usd: What a request that is refused for its content costs at most.
        intended: Called with a row whose intent is durable, before its request leaves.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        transport: Transport,
        checkpoint: Checkpoint,
        kinds: Mapping[str, Kind],
        settler: Settler,
        rejections: Rejections,
        policy: RowPolicy,
        health: Health,
        large: LargeReplies,
        clock: Clock,
        jitter: Callable[[], float],
        events: Events,
        progress: Progress,
        timeout_s: float,
        deferred_ttl_s: float,
        refusal_usd: float,
        intended: Callable[[Work], None],
    ) -> None:
        self._transport = transport
        self._checkpoint = checkpoint
        self._kinds = kinds
        self._settler = settler
        self._rejections = rejections
        self._policy = policy
        self._health = health
        self._large = large
        self._clock = clock
        self._jitter = jitter
        self._events = events
        self._progress = progress
        self._timeout_s = timeout_s
        self._deferred_ttl_s = deferred_ttl_s
        self._refusal_usd = refusal_usd
        self._intended = intended

    async def send(self, work: Work) -> Feedback:
        """POST an item and carry out what its reply means."""
        item, kind = work.item, self._kinds[work.item.kind]
        submitted_at = self._clock.wall()
        await self._checkpoint.commit(Submit(item=item, attempt=work.posts + 1, at=submitted_at))
        work.posts += 1
        self._intended(work)
        failpoints.hit("post.intended")
        self._progress.requests += 1
        direct = item.mode is Mode.DIRECT
        exchange = await self._transport.post(
            kind.submit_path,
            item.body,
            timeout_s=self._timeout_s if direct else _LONGEST_SUBMISSION_S,
            idle_s=None if direct else _IDLE_S,
            keep=name_of(item.row),
        )
        failpoints.hit("post.replied")
        if is_large(exchange):
            async with self._large.resolved(exchange, kind, stream=item.stream) as found:
                return await self._carry_out_large(work, found, submitted_at)
        if item.stream and isinstance(exchange, Reply):
            exchange = kind.unstream(exchange)
        return await self._carry_out(work, exchange, submitted_at)

    async def _carry_out_large(self, work: Work, found: Resolved, submitted_at: float) -> Feedback:
        match found:
            case Whole():
                return await self._answered_at_length(work, found, submitted_at)
            case TooLarge():
                return await self._too_large(work, found, submitted_at)
            case Reply():
                return await self._carry_out(work, found, submitted_at)
            case _:
                assert_never(found)

    async def _carry_out(  # noqa: C901 - one arm a verdict
        self, work: Work, exchange: Exchange, submitted_at: float
    ) -> Feedback:
        item = work.item
        verdict = judge_post(exchange, mode=item.mode)
        throttled = isinstance(verdict, Refused) and verdict.why is Why.THROTTLED
        if not isinstance(verdict, Unsent | InDoubt | Refused) or throttled:
            work.failures = 0
        if not throttled and not isinstance(verdict, Unsent):
            work.kept_out = 0
        match verdict:
            case Answered() if isinstance(exchange, Reply):
                return await self._answered(work, exchange, submitted_at)
            case Receipt(request_id=request_id) if isinstance(exchange, Reply):
                return await self._accepted(work, request_id, exchange, submitted_at)
            case Unsent(reason=reason):
                return await self._unsent(work, reason)
            case Refused():
                return await self._refused(work, verdict)
            case Rejected():
                return await self._rejected(work, verdict, exchange)
            case Stop(status=status, message=message):
                await self._checkpoint.commit(Refuse(row=item.row, at=self._clock.wall(), counted=False))
                return Feedback(sign=Sign.GOOD, stop=stopped(status, message))
            case InDoubt(reason=reason):
                return await self._in_doubt(work, reason, served=isinstance(exchange, Reply) and exchange.complete)
            case Answered() | Receipt():
                msg = "a verdict of success needs a reply"
                raise AssertionError(msg)
            case _:
                assert_never(verdict)

    async def _answered(self, work: Work, reply: Reply, submitted_at: float) -> Feedback:
        redeem, record = self._redeem(work, reply, submitted_at)
        tokens = await self._settler.answered(redeem, record)
        if self._rejections.attentive:
            await self._rejections.other(submitted_at)
        return Feedback(sign=Sign.GOOD, tokens=tokens)

    async def _accepted(self, work: Work, request_id: RequestId, reply: Reply, submitted_at: float) -> Feedback:
        item = work.item
        server_now = submitted_at
        if reply.date_at is not None:
            server_now = reply.date_at
            self._health.told(reply.date_at, self._clock.monotonic())
        job = Job(
            row=item.row,
            kind=item.kind,
            request_id=request_id,
            submitted_at=submitted_at,
            deadline_at=server_now + self._deferred_ttl_s,
            model=item.model,
            tokens=item.tokens,
            pending_s=0.0,
        )
        accept = Accept(row=item.row, request_id=request_id, at=self._clock.wall(), deadline_at=job.deadline_at)
        repeated = False
        try:
            await self._checkpoint.commit(accept)
        except ValueError:
            repeated = True
        if repeated:
            self._events("request.id_repeated", row=item.row, request_id=request_id)
            return await self._in_doubt(work, "accepted with the request id of another row", served=True)
        failpoints.hit("post.accepted")
        if self._rejections.attentive:
            await self._rejections.other(submitted_at)
        return Feedback(sign=Sign.GOOD, job=job)

    def _redeem(self, work: Work, reply: Reply, submitted_at: float) -> tuple[Redeem, Record]:
        item, now = work.item, self._clock.wall()
        redeem = Redeem(row=item.row, at=now, status_code=reply.status, raw=reply.body, request_id=reply.request_id)
        record = Record(
            row=item.row,
            line=item.line,
            custom_id=item.custom_id,
            kind=item.kind,
            mode=item.mode,
            model=item.model,
            attempts=work.posts,
            counted=work.attempts,
            submitted_at=submitted_at,
            completed_at=now,
            request_id=reply.request_id,
            status_code=reply.status,
            raw=reply.body,
            max_usd=item.max_usd or 0.0,
        )
        return redeem, record

    async def _answered_at_length(self, work: Work, whole: Whole, submitted_at: float) -> Feedback:
        """Take an answer from its file: durable first, then settled like one that was redeemed."""
        item, head = work.item, whole.head
        if item.mode is not Mode.DIRECT and not await self._settler.is_answer(item.kind, whole.body):
            return await self._carry_out(work, head, submitted_at)  # a receipt of that size is none
        redeem, _ = self._redeem(work, head, submitted_at)
        work.failures = work.kept_out = 0
        await self._checkpoint.commit(replace(redeem, raw=whole.body))
        failpoints.hit("settle.redeemed")
        tokens = await self._settler.redeemed(item.row)
        await self._rejections.other(submitted_at)
        return Feedback(sign=Sign.GOOD, tokens=tokens)

    async def _too_large(self, work: Work, found: TooLarge, submitted_at: float) -> Feedback:
        redeem, _ = self._redeem(work, found.head, submitted_at)
        fail = item_failure(
            work.item, at=redeem.at, code=Code.TOO_LARGE, message=found.message, status=found.head.status
        )
        await self._fail(redeem, fail)
        await self._rejections.other(submitted_at)
        return Feedback(sign=Sign.GOOD)

    async def _refused(self, work: Work, refused: Refused) -> Feedback:
        item, now = work.item, self._clock.monotonic()
        if refused.why is Why.THROTTLED:
            return await self._throttled(work, refused)
        counted = self._health.answered_since(now - _ANSWERED_LATELY_S)
        entry = Entry.IN_DOUBT if refused.doubt else None
        refuse = Refuse(row=item.row, at=self._clock.wall(), counted=counted, entry=entry, reason=refused.reason)
        work.attempts += counted
        self._progress.in_doubt += refused.doubt
        if refused.doubt and not self._policy.resubmit_doubtful:
            await self._fail(refuse, self._failure(work, Code.IN_DOUBT, refused.reason))
            return Feedback(sign=Sign.BAD, reason=refused.reason)
        if counted and self._policy.spent(work.attempts):
            message = f"given up after {work.attempts} attempts; the last: {refused.reason}"
            await self._fail(refuse, self._failure(work, Code.GAVE_UP, message))
            return Feedback(sign=Sign.BAD, reason=refused.reason)
        await self._checkpoint.commit(refuse)
        return self._again(work, Sign.BAD, refused.reason, retry_after_s=refused.retry_after_s)

    async def _unsent(self, work: Work, reason: str) -> Feedback:
        take_back = TakeBack(row=work.item.row)
        if self._kept_out(work):
            message = f"could not be sent in {work.kept_out} tries, at last alone: {reason}"
            await self._fail(take_back, self._failure(work, Code.GAVE_UP, message))
            return Feedback(sign=Sign.BAD, reason=reason)
        await self._checkpoint.commit(take_back)
        return self._again(work, Sign.BAD, reason)

    async def _throttled(self, work: Work, refused: Refused) -> Feedback:
        refuse = Refuse(row=work.item.row, at=self._clock.wall(), counted=False, reason=refused.reason)
        if self._kept_out(work):
            message = f"refused for its rate {work.kept_out} times, at last when sent alone: {refused.reason}"
            await self._fail(refuse, self._failure(work, Code.GAVE_UP, message))
            return Feedback(
                sign=Sign.THROTTLED,
                reason=refused.reason,
                retry_after_s=refused.retry_after_s,
                limit=refused.limit,
            )
        await self._checkpoint.commit(refuse)
        return Feedback(
            sign=Sign.THROTTLED,
            reason=refused.reason,
            retry_after_s=refused.retry_after_s,
            limit=refused.limit,
            again=work,
            last=work.last,
            delay_s=backoff_s(work.kept_out, jitter=self._jitter(), base_s=0.1, cap_s=10.0),
        )

    def _kept_out(self, work: Work) -> bool:
        """Count a request that the API did not let in; return whether its row is given up.

        One that is kept out 8 times over 10 minutes while others are answered goes last and alone, with 8 more tries.
        """
        now = self._clock.monotonic()
        if work.kept_out == 0:
            work.kept_out_since = now
        work.kept_out += 1
        if work.last:
            return work.kept_out >= 2 * KEPT_OUT_TIMES
        long = work.kept_out >= KEPT_OUT_TIMES and now - work.kept_out_since >= KEPT_OUT_FOR_S
        if long and self._health.answered_since(work.kept_out_since):
            work.last, work.kept_out = True, KEPT_OUT_TIMES
        return False

    async def _rejected(self, work: Work, rejected: Rejected, exchange: Exchange) -> Feedback:
        moderated = rejected.code is Code.MODERATED
        refuse = Refuse(
            row=work.item.row,
            at=self._clock.wall(),
            counted=False,
            entry=Entry.POSSIBLE_FEE if moderated else None,
            reason=rejected.message,
            max_usd=self._refusal_usd if moderated else None,
        )
        fail = item_failure(
            work.item,
            at=self._clock.wall(),
            code=rejected.code,
            message=rejected.message,
            status=rejected.status,
            reply=exchange.body if isinstance(exchange, Reply) else None,
            request_id=exchange.request_id if isinstance(exchange, Reply) else None,
        )
        if moderated:
            await self._fail(refuse, fail)
            return Feedback(sign=Sign.GOOD)
        await self._checkpoint.commit(refuse)
        stop = await self._rejections.rejected(fail, account_question=rejected.account_question)
        return Feedback(sign=Sign.GOOD, stop=stop)

    async def _in_doubt(self, work: Work, reason: str, *, served: bool) -> Feedback:
        item = work.item
        work.doubts += 1
        work.attempts += 1
        self._progress.in_doubt += 1
        self._events("request.in_doubt", row=item.row, attempt=work.posts, reason=reason)
        doubt = Doubt(row=item.row, at=self._clock.wall(), reason=reason)
        sign = Sign.GOOD if served else Sign.BAD
        if not self._policy.doubtful_again(work.doubts) or self._policy.spent(work.attempts):
            message = f"sent {work.doubts} times without a usable reply; the last: {reason}"
            await self._fail(doubt, self._failure(work, Code.IN_DOUBT, message))
            return Feedback(sign=sign, reason=reason)
        await self._checkpoint.commit(doubt)
        return self._again(work, sign, reason)

    def _again(self, work: Work, sign: Sign, reason: str, *, retry_after_s: float | None = None) -> Feedback:
        delay = wait_s(retry_after_s, work.failures, jitter=self._jitter())
        work.failures += 1
        return Feedback(
            sign=sign, reason=reason, retry_after_s=retry_after_s, again=work, last=work.last, delay_s=delay
        )

    def _failure(self, work: Work, code: Code, message: str) -> Fail:
        return item_failure(work.item, at=self._clock.wall(), code=code, message=message)

    async def _fail(self, *changes: Change) -> None:
        await self._checkpoint.commit(*changes)
        for change in changes:
            if isinstance(change, Fail):
                count_failure(self._progress, change)
                self._events("item.failed", row=change.row, code=str(change.error.code))
