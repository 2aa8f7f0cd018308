"""From durable bytes to an outcome: decode, download, settle.

Law: what settles an answer is what is stored of its row, so that recovery and the running engine come to the same.
Where all of that is at hand it is not read back: of a direct answer always, of a deferred one when it is a plain
success. Nothing here asks the API for an answer again; only a file's address may be asked for anew.

An outcome that is an answer's is handed in and not waited for. With a direct answer that is at stake until then goes
the answer itself: the checkpoint takes changes in order, so the next intent of the same slot is durable only with it or
after it, and needs one flush with it instead of two. It counts once it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from bulkgrok.core import failpoints
from bulkgrok.core.lifecycle import Change, Expire, Fail, JobFailed, Redeem, Succeed
from bulkgrok.core.model import (
    RETRYABLE_CODES,
    Answer,
    Asset,
    Code,
    Item,
    Job,
    JsonObject,
    Progress,
    Record,
    RowError,
    Unusable,
)
from bulkgrok.core.ports import Checkpoint, Clock, Events, Kind, LargeBody, Offload
from bulkgrok.core.retry import RowPolicy
from bulkgrok.dispatch.account import count_failure
from bulkgrok.dispatch.large import Memory

_BEGINNING_BYTES: Final = 65_536
_AT_ONCE_BYTES: Final = 1 << 18
"""What takes no longer to read than the loop can wait."""


class Cost(Protocol):
    """Prices an answer."""

    def __call__(self, kind: str, model: str, decoded: Answer | Unusable, max_usd: float, /) -> float | None:
        """Return USD, None when the price is not known. `max_usd` is what the request cost at most."""
        ...


def item_failure(  # noqa: PLR0913 - the columns of a failure
    item: Item,
    *,
    at: float,
    code: Code,
    message: str,
    status: int | None = None,
    reply: bytes | None = None,
    request_id: str | None = None,
) -> Fail:
    """Word the failure of a row that has no answer."""
    return Fail(
        row=item.row,
        at=at,
        error=RowError(
            code=code, message=message, status_code=status, retryable=code in RETRYABLE_CODES, line=item.line
        ),
        custom_id=item.custom_id,
        kind=item.kind,
        mode=item.mode,
        model=item.model,
        digest=item.digest,
        line=item.line,
        reply=reply[:_BEGINNING_BYTES] if reply is not None else None,
        request_id=request_id,
    )


class Settler:
    """Settles redeemed rows.

    Args:
        checkpoint: Where outcomes are committed.
        load: Reads a stored answer (the store's `record`).
        kinds: Codecs by name.
        cost: Prices answers.
        policy: When a row is given up.
        memory: Where large answers wait for their turn.
        offload: Runs what takes long.
        clock: For the time of an outcome.
        encode_json: Serialises the API's usage object.
        events: Told of outcomes.
        progress: Counts them.
        again: Called with a row that became pending and must be read from the input again.
        hide: Takes the key out of words of the API's.
        download: Called with a row whose files must be fetched before it counts; None when downloads are off.
        settled: Called when all that was handed in is durable, with None, or could not be made so.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        checkpoint: Checkpoint,
        load: Callable[[int], Record],
        kinds: Mapping[str, Kind],
        cost: Cost,
        policy: RowPolicy,
        memory: Memory,
        offload: Offload,
        clock: Clock,
        encode_json: Callable[[object], bytes],
        events: Events,
        progress: Progress,
        again: Callable[[int], None],
        hide: Callable[[str], str],
        download: Callable[[int], None] | None,
        settled: Callable[[BaseException | None], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._record = load
        self._kinds = kinds
        self._cost = cost
        self._policy = policy
        self._memory = memory
        self._offload = offload
        self._clock = clock
        self._encode_json = encode_json
        self._events = events
        self._progress = progress
        self._again = again
        self._hide = hide
        self._download = download
        self._settled = settled
        self.open = 0
        """Outcomes handed in that are not durable yet."""
        self.at_stake = 0
        """Those of them whose answer is not durable either."""

    async def answered(self, redeem: Redeem, record: Record) -> int | None:
        """Settle a direct answer in one transaction with its bytes; return the tokens it took."""
        decoded = self._kinds[record.kind].decode(record.raw, text=False)
        if isinstance(decoded, Answer) and decoded.assets and self._download is not None:
            await self._checkpoint.commit(redeem)
            self._download(record.row)
            return None
        if isinstance(decoded, Unusable):
            await self._commit_all(record, [redeem, *self._unusable(record, decoded)])
            return None
        self._hand_in(self._succeed(record, decoded, ()), record.kind, redeem)
        return _taken(decoded)

    def _hand_in(self, succeed: Succeed, kind: str, redeem: Redeem | None = None) -> None:
        """Hand in an answer's outcome, with the answer where that is not durable yet."""
        staked = redeem is not None

        def then(error: BaseException | None) -> None:
            self.open -= 1
            self.at_stake -= staked
            if error is None:
                self._count_success(succeed, kind)
            if error is not None or not self.open:
                self._settled(error)

        self.open += 1
        self.at_stake += staked
        if redeem is None:
            self._checkpoint.post(succeed, then=then)
        else:
            self._checkpoint.post(redeem, succeed, then=then)

    async def finish(self) -> None:
        """Return when everything that was handed in is durable, or could not be made so."""
        await self._checkpoint.call(lambda: None)

    async def received(self, job: Job, redeem: Redeem) -> int | None:
        """Make a deferred answer durable, then read and settle it; return the tokens it took.

        For a large answer, hold room for it.
        """
        await self._checkpoint.commit(redeem)
        failpoints.hit("settle.redeemed")
        raw = redeem.raw
        if isinstance(raw, bytes) and len(raw) <= _AT_ONCE_BYTES:
            decoded = self._kinds[job.kind].decode(raw, text=False)
            # What has files is priced by its request, and what is no answer is named by its row: both are stored.
            if isinstance(decoded, Answer) and not decoded.assets:
                cost_usd = self._cost(job.kind, job.model, decoded, 0.0)
                self._hand_in(self._success(job.row, decoded.model or job.model, decoded, cost_usd), job.kind)
                return _taken(decoded)
        return await self.redeemed(job.row)

    async def redeemed(self, row: int) -> int | None:
        """Settle a row whose bytes are durable; return the tokens it took. For a large answer, hold room for it."""
        record, decoded = await self._loaded(row)
        if isinstance(decoded, Unusable):
            await self._commit_all(record, self._unusable(record, decoded))
            return None
        if decoded.assets and self._download is not None:
            self._download(row)
            return None
        self._hand_in(self._succeed(record, decoded, ()), record.kind)
        return _taken(decoded)

    async def resume(self, row: int) -> None:
        """Settle a row that an earlier run redeemed."""
        async with self._memory.room():
            await self.redeemed(row)

    async def is_answer(self, kind: str, body: LargeBody) -> bool:
        """Tell whether a large body is an answer. Hold room for it."""
        decoded = await self._offload(lambda: self._kinds[kind].decode(body.read(), text=False))
        return isinstance(decoded, Answer)

    async def record(self, row: int) -> tuple[Record, Answer | Unusable]:
        """Return a redeemed row and what its bytes say."""
        async with self._memory.room():
            return await self._loaded(row)

    async def _loaded(self, row: int) -> tuple[Record, Answer | Unusable]:
        """Read a stored answer; many bytes are let go of before anything else is done."""
        record = await self._checkpoint.call(self._record, row)
        kind = self._kinds[record.kind]
        if len(record.raw) <= _AT_ONCE_BYTES:
            return record, kind.decode(record.raw, text=False)
        decoded = await self._offload(lambda: kind.decode(record.raw, text=False))
        return replace(record, raw=b""), decoded

    async def downloaded(self, record: Record, answer: Answer | Unusable, assets: tuple[Asset, ...]) -> None:
        """Settle a row whose files are in place."""
        await self._commit(record, answer, assets)

    async def download_failed(self, record: Record, answer: Answer | Unusable, *, code: Code, message: str) -> None:
        """Fail a row whose files cannot be had; its paid answer is kept."""
        await self._commit_all(record, [self._failure(record, answer, code=code, message=message)])

    async def _commit(self, record: Record, decoded: Answer | Unusable, assets: tuple[Asset, ...]) -> None:
        if isinstance(decoded, Unusable):
            await self._commit_all(record, self._unusable(record, decoded))
            return
        succeed = self._succeed(record, decoded, assets)
        await self._checkpoint.commit(succeed)
        self._count_success(succeed, record.kind)

    def _succeed(self, record: Record, answer: Answer, assets: tuple[Asset, ...]) -> Succeed:
        model, cost_usd = answer.model or record.model, self._cost_of(record, answer)
        return self._success(record.row, model, answer, cost_usd, assets)

    def _cost_of(self, record: Record, decoded: Answer | Unusable) -> float | None:
        return self._cost(record.kind, record.model, decoded, record.max_usd)

    def _success(
        self, row: int, model: str, answer: Answer, cost_usd: float | None, assets: tuple[Asset, ...] = ()
    ) -> Succeed:
        return Succeed(
            row=row,
            model=model,
            cost_usd=cost_usd,
            usage=self._json(answer.usage),
            tokens=answer.tokens,
            assets=assets or tuple(Asset(url=ref.url) for ref in answer.assets),
        )

    def _count_success(self, succeed: Succeed, kind: str) -> None:
        progress = self._progress
        progress.succeeded += 1
        progress.cost_usd += succeed.cost_usd or 0.0
        prompt, completion, reasoning, cached = succeed.tokens
        tokens = progress.tokens
        tokens["prompt"] = tokens.get("prompt", 0) + prompt
        tokens["completion"] = tokens.get("completion", 0) + completion
        tokens["reasoning"] = tokens.get("reasoning", 0) + reasoning
        tokens["cached"] = tokens.get("cached", 0) + cached
        self._events("item.succeeded", row=succeed.row, kind=kind)

    def _unusable(self, record: Record, decoded: Unusable) -> list[Change]:
        """Decide what becomes of a complete reply that is no answer."""
        at, cost_usd = self._clock.wall(), self._cost_of(record, decoded)
        message = self._hide(decoded.message)
        failure = self._failure(record, decoded, code=decoded.code, message=message)
        match decoded.code:
            case Code.FAILED | Code.CANCELLED:
                failed = JobFailed(row=record.row, at=at, reason=message, cost_usd=cost_usd)
                if decoded.again and not self._policy.spent(record.counted + 1):
                    return [failed]
                return [failed, replace(failure, cost_usd=None)]  # the ledger has it
            case Code.EXPIRED:
                expire = Expire(row=record.row, at=at, reason=message, cost_usd=cost_usd)
                return [expire, replace(failure, cost_usd=None)]
            case _:
                return [failure]

    def _failure(self, record: Record, decoded: Answer | Unusable, *, code: Code, message: str) -> Fail:
        return Fail(
            row=record.row,
            at=self._clock.wall(),
            error=RowError(
                code=code,
                message=message,
                status_code=record.status_code,
                retryable=code in RETRYABLE_CODES,
                line=record.line,
            ),
            custom_id=record.custom_id,
            kind=record.kind,
            mode=record.mode,
            model=decoded.model or record.model,
            digest=b"",
            line=record.line,
            request_id=record.request_id,
            cost_usd=self._cost_of(record, decoded),
            usage=self._json(decoded.usage),
        )

    async def _commit_all(self, record: Record, changes: list[Change]) -> None:
        await self._checkpoint.commit(*changes)
        for change in changes:
            if isinstance(change, JobFailed | Expire):
                self._progress.cost_usd += change.cost_usd or 0.0
        last = changes[-1]
        if isinstance(last, Fail):
            count_failure(self._progress, last)
            self._events("item.failed", row=record.row, code=str(last.error.code))
        else:
            self._events("item.again", row=record.row)
            self._again(record.row)

    def _json(self, usage: JsonObject | None) -> bytes | None:
        return None if usage is None else self._encode_json(usage)


def _taken(answer: Answer) -> int | None:
    """Return the tokens that an answer took of a limit, None where it does not tell."""
    return sum(answer.tokens[:3]) if answer.usage is not None else None
