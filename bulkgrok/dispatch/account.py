"""Is it the rows or the account? Holds rejections back until that is known.

Law: a rejection is committed as a row's failure only when it cannot be the account's or the whole request's fault:

- a 403 that may be about the account waits for a good reply, or for `GET /v1/api-key` when several come in a row;
- the first 20 rejections of a run, all alike, are no rows' failure: the run stops and the rows stay pending.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Final

from bulkgrok.core.errors import ApiUnavailable, BulkgrokError, StoppedByApi
from bulkgrok.core.lifecycle import Fail
from bulkgrok.core.model import Mode, Progress, Reply
from bulkgrok.core.ports import Checkpoint, Transport
from bulkgrok.core.retry import FirstRejections
from bulkgrok.core.verdict import Rejected, Stop, api_error, judge_post

_IN_A_ROW: Final = 3
_ASKED_AFTER_S: Final[tuple[float, ...]] = (0.0, 1.0, 4.0, 15.0, 30.0)
_FLAGS: Final = (b'"team_blocked":true', b'"api_key_blocked":true', b'"api_key_disabled":true')


class Standing(Enum):
    """What `GET /v1/api-key` says."""

    GOOD = "good"
    BAD = "bad"
    BUSY = "busy"
    """The API is there and says nothing about the key (429)."""
    UNKNOWN = "unknown"


def stopped(status: int, message: str) -> StoppedByApi:
    """Word the end of a run that the API refuses to serve."""
    return StoppedByApi(
        f"The API refuses this key or account (HTTP {status}): {message}\n"
        "Nothing was lost: unfinished rows stay pending and accepted requests can still be redeemed.",
        hint="Mend the key, permission or credit, then type the same command again.",
    )


class Account:
    """Asks the API about the key, without a billable request."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.stop: StoppedByApi | None = None

    async def standing(self) -> Standing:
        """GET /v1/api-key (docs.x.ai, API key). A 404 counts as good: not every endpoint has the call."""
        reply = await self._transport.get("/api-key")
        if not isinstance(reply, Reply) or not (200 <= reply.status < 300 or 400 <= reply.status < 500):
            return Standing.UNKNOWN
        if reply.status == 408 or not (reply.complete or reply.oversized):
            return Standing.UNKNOWN
        verdict = judge_post(reply, mode=Mode.DIRECT) if reply.status >= 400 else None
        if isinstance(verdict, Stop):
            self.stop = stopped(verdict.status, verdict.message)
            return Standing.BAD
        if reply.status == 429:
            return Standing.BUSY
        if isinstance(verdict, Rejected) and reply.status in {400, 403}:
            self.stop = stopped(reply.status, api_error(reply.body).message)
            return Standing.BAD
        compact = b"".join(reply.body[:65_536].split())
        blocked = next((flag for flag in _FLAGS if flag in compact), None) if reply.status == 200 else None
        if blocked is not None:
            self.stop = stopped(reply.status, f"GET /v1/api-key says {blocked.decode().partition(':')[0]} is true")
            return Standing.BAD
        return Standing.GOOD


class Rejections:
    """Takes every rejection, and the news that something else happened.

    Args:
        checkpoint: Where failures are committed.
        account: Whom to ask.
        armed: Whether 20 rejections alike stop the run.
        progress: Counts failures.
    """

    def __init__(self, *, checkpoint: Checkpoint, account: Account, armed: bool, progress: Progress) -> None:
        self._checkpoint = checkpoint
        self._account = account
        self._first: FirstRejections[Fail] = FirstRejections(armed=armed)
        self._questioned: list[Fail] = []
        self._progress = progress

    @property
    def pending(self) -> int:
        """Rows whose rejection is held back."""
        return self._first.held + len(self._questioned)

    @property
    def stopped_alike(self) -> bool:
        """Whether the first rows were all rejected alike."""
        return self._first.full

    async def rejected(self, fail: Fail, *, account_question: bool) -> StoppedByApi | None:
        """Take a row's rejection; return why the run must stop, if it must."""
        if not account_question:
            return await self._take([fail])
        self._questioned.append(fail)
        return await self._ask() if len(self._questioned) % _IN_A_ROW == 0 else None

    @property
    def attentive(self) -> bool:
        """Whether it makes a difference that a request was accepted or answered: nearly never."""
        return bool(self._questioned) or self._first.armed

    async def other(self, submitted_at: float) -> None:
        """Note that a request was accepted or answered, and when it was sent (UNIX seconds).

        What was held back before that are rows' failures: the account is well. An answer to what was sent before a
        403 came says nothing about it.
        """
        if self.attentive:
            cleared = [fail for fail in self._questioned if fail.at < submitted_at]
            self._questioned = [fail for fail in self._questioned if fail.at >= submitted_at]
            await self._commit([*self._first.release(), *cleared])

    async def finish(self) -> BulkgrokError | None:
        """Settle what is held back, when nothing else is left to be sent."""
        for delay_s in _ASKED_AFTER_S:
            if not self._questioned:
                break
            await asyncio.sleep(delay_s)
            if (stop := await self._ask()) is not None:
                return stop
        if self._questioned:
            return ApiUnavailable(
                f"{len(self._questioned)} rows were refused with 403, and GET /v1/api-key does not tell if the key "
                "is well. Nothing was billed for them; they stay pending.",
                hint="Type the same command again later.",
            )
        if not self._first.full:
            await self._commit(self._first.release())
        return None

    async def _ask(self) -> StoppedByApi | None:
        standing = await self._account.standing()
        if standing is Standing.BAD:
            return self._account.stop
        if standing is not Standing.GOOD:
            return None
        held, self._questioned = self._questioned, []
        return await self._take(held)

    async def _take(self, fails: list[Fail]) -> StoppedByApi | None:
        for fail in fails:
            alike = (fail.error.status_code, fail.error.message)
            await self._commit(self._first.rejected(alike, fail))
        if not self._first.full:
            return None
        error = fails[-1].error
        return StoppedByApi(
            f"The first {self._first.held} rows were all rejected alike (HTTP {error.status_code}): {error.message}\n"
            "That looks like the request, not the rows, so the run stopped. Nothing was billed; the rows stay pending.",
            hint="Change the flags or the input and type the command again; typed again unchanged, "
            "each row is tried and fails by itself.",
        )

    async def _commit(self, fails: list[Fail]) -> None:
        if fails:
            await self._checkpoint.commit(*fails)
            for fail in fails:
                count_failure(self._progress, fail)


def count_failure(progress: Progress, fail: Fail) -> None:
    """Count a committed failure."""
    progress.failed += 1
    code = str(fail.error.code)
    progress.failed_by_code[code] = progress.failed_by_code.get(code, 0) + 1
    progress.cost_usd += fail.cost_usd or 0.0
