"""What carries out the scheduler's actions, one at a time each: as many as requests may be in flight.

Law: whatever an action comes to is reported to the scheduler, so that its books are right and nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkgrok.checkpoint.committer import Committer
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.model import Progress
from bulkgrok.core.outcome import Action, Feedback, Poll, Send, Sign
from bulkgrok.dispatch.account import Standing
from bulkgrok.engine.stages import Stages


class Worker:
    """Works on a run.

    Args:
        stages: What does the work.
        committer: Keeps what comes of it; where it has failed, nothing more is asked for.
        progress: Counters.
        stop: Called with what must stop the run, or with a defect.
    """

    def __init__(
        self, stages: Stages, *, committer: Committer, progress: Progress, stop: Callable[[BaseException], None]
    ) -> None:
        self._stages = stages
        self._committer = committer
        self._progress = progress
        self._stop = stop

    async def work(self) -> None:
        """Carry out what the scheduler hands out, to its end."""
        try:
            await self._work()
        except Exception as error:  # noqa: BLE001 - a defect of its books: drain, then tell
            self._stop(error)

    async def _work(self) -> None:
        stages = self._stages
        while (action := await stages.scheduler.next()) is not None:
            try:
                feedback = await self._carry_out(action)
            except BulkgrokError as error:
                feedback = Feedback(sign=Sign.GOOD, stop=error)
            except Exception as error:  # noqa: BLE001 - a defect: drain, then tell
                self._stop(error)
                feedback = Feedback(sign=Sign.GOOD)
            stages.scheduler.report(action, feedback)
            if feedback.stop is not None:
                self._stop(feedback.stop)
            stages.conductor.changed()

    async def _carry_out(self, action: Action) -> Feedback:
        if self._committer.failed is not None:  # nothing is asked for that could not be kept
            return Feedback(sign=Sign.GOOD, stop=self._committer.failed)
        if isinstance(action, Send):
            return await self._stages.poster.send(action.work)
        if isinstance(action, Poll):
            return await self._stages.redeemer.poll(action.job)
        return await self._probe()

    async def _probe(self) -> Feedback:
        self._progress.requests += 1
        account = self._stages.account
        standing = await account.standing()
        if standing is Standing.BAD:
            return Feedback(sign=Sign.GOOD, stop=account.stop)
        if standing is Standing.UNKNOWN:
            return Feedback(sign=Sign.BAD, reason=self._stages.health.reason)
        return Feedback(sign=Sign.THERE)
