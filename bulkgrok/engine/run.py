"""One run, from its first look at the disk to its report.

Order at the start: configuration, lock, input, checkpoint, outputs; only when all of these agree is anything sent.
Order at the end: workers, downloads, sinks, errors file, checkpoint, lock. A stop drains: what is in flight is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Final

from bulkgrok.checkpoint import Committer
from bulkgrok.config import Places, RunConfig, places
from bulkgrok.core.errors import ApiUnavailable, BulkgrokError, InputError, RunMismatch, StorageFailed, UsageError
from bulkgrok.core.model import Progress, Settled
from bulkgrok.core.money import TICKS
from bulkgrok.core.part import Part
from bulkgrok.core.ports import Events, Sink
from bulkgrok.core.report import Report
from bulkgrok.core.retry import RowPolicy
from bulkgrok.engine.opening import Opening, OpenRun
from bulkgrok.engine.projector import Projector, rebasing
from bulkgrok.engine.recovery import recover, retry_failed
from bulkgrok.engine.reporting import Reporting
from bulkgrok.engine.spending import note_limits
from bulkgrok.engine.stages import ROUND, Building, Stages
from bulkgrok.engine.status import write_status
from bulkgrok.engine.surroundings import Surroundings
from bulkgrok.engine.working import Worker
from bulkgrok.telemetry.wording import duration

_LOOK_TICKS: Final = 4
#: Between two questions whether a store that is away is back.
_AWAY_S: Final = 1.0
_ERRORS: Final = "errors"
_NO_MONEY: Final = "the money reaches for no more requests; what was accepted is fetched"


def _silent(_: str) -> None:
    """Say nothing: the library does not print."""


class Engine:
    """Runs one configuration once.

    Args:
        config: What to do.
        events: Told what happens, for the log.
        say: Told, in words, what a user should know at once.
        rows: Rows from the caller in place of the input file.
        sink: Where outcomes go in place of the output file.
        failures: Given the rows that are failed, whenever their number changes; called on the checkpoint's thread.
        surroundings: The outside; the real one unless something else is given.
        part: What is done of the run: all of it unless something else is given.
    """

    def __init__(  # noqa: PLR0913 - the seams of a whole run
        self,
        config: RunConfig,
        *,
        events: Events,
        say: Callable[[str], None] | None = None,
        rows: AsyncIterable[Mapping[str, object]] | None = None,
        sink: Sink | None = None,
        failures: Callable[[Iterable[Settled]], None] | None = None,
        surroundings: Surroundings | None = None,
        part: Part = Part.WHOLE,
    ) -> None:
        self.config = config
        self.next_at: float | None = None
        """Of a round that left results outstanding: when the next one pays, as UNIX seconds."""
        self._part = part
        self.progress = Progress()
        self.stages: Stages | None = None
        self._events = events
        self._say = say or _silent
        self._rows = rows
        self._sink = sink
        self._failures = failures
        self._failures_given = 0
        self._outside = surroundings or Surroundings()
        self._clock = self._outside.clock
        self._places = places(config)
        self._drained: int | None = None
        self._error: BulkgrokError | None = None
        self._crash: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._worked = asyncio.Event()
        self._aborted = False

    @property
    def places(self) -> Places:
        """Where the files of the run lie."""
        return self._places

    def look(self) -> Progress:
        """Return the counters, all of this moment; in between, some are older than others."""
        if self.stages is not None and self._task is not None and not self._task.done():
            self._count(self.stages)
        return self.progress

    def drain(self, exit_code: int) -> None:
        """Send nothing new, await what is in flight, then end with `exit_code` (130 or 143)."""
        if self._drained is None:
            self._drained = exit_code
        self.progress.state = "draining"
        self._halt()

    def abort(self) -> None:
        """Stop at once: requests in flight are given up and will be in doubt."""
        self._aborted = True
        if self._drained is None:
            self._drained = 130
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> Report:
        """Run to the end, or until drained or stopped, and report.

        Returns:
            The summary. If the API or a disk stopped the run, `stopped` holds the error and `exit_code` its code.

        Raises:
            UsageError, InputError: Exit 2; nothing was sent.
            RunLocked, RunMismatch: Exit 6; nothing was sent.
            StorageFailed: Exit 8; the run could not begin.
        """
        began = self._clock.monotonic()
        self.progress.started_at = self._clock.wall()
        self.progress.budget_usd = self.config.budget
        async with AsyncExitStack() as stack:
            opening = Opening(
                config=self.config,
                stack=stack,
                surroundings=self._outside,
                say=self._say,
                rows=self._rows,
                sink=self._sink,
                part=self._part,
            )
            opened = await opening.open()
            self._task = asyncio.create_task(self._whole(opened, stack))
            if self._aborted:
                self._task.cancel()
            try:
                await self._task
            except asyncio.CancelledError:
                if not self._aborted:
                    raise
            if self._crash is not None:
                raise self._crash
            if self._error is not None and self._refused:
                raise self._error
            if isinstance(self._error, StorageFailed) and opened.committer.failed is not None:
                self._error = opened.committer.failed  # it tells what became of all that was in flight
            if self.stages is not None:
                self._count(self.stages)
            self.progress.in_flight = self.progress.downloads = 0  # what was cut off is neither any more
            report = await self._reporting(opened).report(
                duration_s=self._clock.monotonic() - began,
                error=self._error,
                drained=self._drained,
                stopped_alike=self.stages is not None and self.stages.note_stopped_alike,
            )
        self.progress.state = "finished"
        self._write_status(report)
        self._events("run.finished", exit_code=report.exit_code, succeeded=report.succeeded, failed=report.failed)
        return report

    def _reporting(self, opened: OpenRun) -> Reporting:
        return Reporting(opened, config=self.config, progress=self.progress, part=self._part)

    # The run itself

    async def _whole(self, opened: OpenRun, stack: AsyncExitStack) -> None:
        policy = RowPolicy(
            max_attempts=self.config.max_attempts,
            resubmit_doubtful=self.config.on_ambiguous == "resubmit",
            resubmit_lost=self.config.on_lost == "resubmit",
        )
        await self._recover(opened, policy)
        building = Building(
            opened,
            config=self.config,
            policy=policy,
            surroundings=self._outside,
            events=self._events,
            say=self._say,
            progress=self.progress,
            stop=self._stop,
            part=self._part,
        )
        self.stages = stages = await building.build(stack)
        opened.committer.keep_room(in_flight=self.config.concurrency, answers=self.progress.done_before)
        projector = Projector(
            store=opened.store,
            checkpoint=opened.committer,
            sink=opened.sink,
            offload=self._outside.offload,
            lease=opened.store.lease,
            rebase=rebasing(opened.asset_base, opened.places.asset_base),
        )
        stack.push_async_callback(projector.close)
        await projector.restore()
        self.progress.state = "running" if self._drained is None else "draining"
        began_at = self._clock.wall()
        await self._work_until_done(opened, stages, projector)
        if self._part is Part.ROUND and self._error is None and self._drained is None:
            await self._note_round(opened, stages, began_at)
        await self._conclude(opened, projector)

    async def _note_round(self, opened: OpenRun, stages: Stages, began_at: float) -> None:
        """Leave to the next round what this one learnt, and tell when that pays."""
        if stages.conductor.rested:
            self.next_at = stages.scheduler.rests_until() if stages.scheduler.outstanding else self._clock.wall()
            note = {"asked_at": began_at, "latencies": stages.scheduler.learnt()}
            await opened.committer.call(opened.store.note, ROUND, note)

    async def _recover(self, opened: OpenRun, policy: RowPolicy) -> None:
        """Do with every row what its state asks for."""
        store, committer, at = opened.store, opened.committer, self._clock.wall()
        doubtful = await recover(committer, store, policy=policy, at=at)
        if doubtful:
            self._events("run.recovered", in_doubt=doubtful)
        if self.config.retry_failed:
            retried = await retry_failed(committer, store, at=at)
            self._events("run.retrying", rows=retried)
        if self._part.sends:
            await committer.call(note_limits, store, self.config)
        totals = await self._reporting(opened).refresh()
        self.progress.done_before = totals.succeeded + totals.failed

    async def _work_until_done(self, opened: OpenRun, stages: Stages, projector: Projector) -> None:
        if self._drained is not None:
            self._halt()
        projecting = asyncio.create_task(self._project(opened, projector))
        side = [
            asyncio.create_task(self._tick(stages)),
            asyncio.create_task(self._watch_disk(opened.committer)),
            *(asyncio.create_task(work()) for work in stages.side_work),
        ]
        worker = Worker(stages, committer=opened.committer, progress=self.progress, stop=self._stop)
        workers = [asyncio.create_task(worker.work()) for _ in range(self.config.concurrency)]
        try:
            try:
                stop = await stages.conductor.conduct()
                if stop is not None:
                    self._stop(stop)
            except Exception as error:  # noqa: BLE001 - stop for it, or drain and tell if it is a defect
                self._stop(error)
            await asyncio.gather(*workers)
            await stages.settler.finish()
            self._worked.set()
            await projecting
        finally:
            for task in (projecting, *side, *workers):
                task.cancel()
            await asyncio.gather(projecting, *side, *workers, return_exceptions=True)

    async def _project(self, opened: OpenRun, projector: Projector) -> None:
        """Keep the output up to date while the run goes on."""
        try:
            while not self._worked.is_set():
                await projector.catch_up()
                await self._give_failures(opened)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._worked.wait(), self._outside.tick_s)
        except BulkgrokError as error:
            self._stop(error)
        except Exception as error:  # noqa: BLE001 - a defect: drain, then tell
            self._crashed(error)

    async def _give_failures(self, opened: OpenRun) -> None:
        give = self._failures
        if give is not None and self._failures_given != self.progress.failed:
            self._failures_given = self.progress.failed
            await opened.committer.call(lambda: give(opened.store.failures()))

    async def _tick(self, stages: Stages) -> None:
        """Keep the counters and status.json fresh, and end an outage that lasts too long."""
        written_at = -self._outside.status_s
        try:
            while True:
                self._observe(stages)
                stages.scheduler.keep_time()
                now = self._clock.monotonic()
                if now - written_at >= self._outside.status_s:
                    self._write_status(None)
                    written_at = now
                await asyncio.sleep(self._outside.tick_s)
        except Exception as error:  # noqa: BLE001 - a defect: drain, then tell
            self._crashed(error)

    async def _watch_disk(self, committer: Committer) -> None:
        """Stop while there is room for what is in flight: polls commit nothing as long as nothing is ready."""
        try:
            while committer.failed is None:
                await asyncio.sleep(_LOOK_TICKS * self._outside.tick_s)
                await committer.call(committer.look)
            self._stop(committer.failed)
        except Exception as error:  # noqa: BLE001 - stop for it, or drain and tell if it is a defect
            self._stop(error)

    def _write_status(self, report: Report | None) -> None:
        write_status(
            self._places,
            progress=self.progress,
            report=report,
            at=self._clock.wall(),
        )

    def _count(self, stages: Stages) -> None:
        progress, scheduler = self.progress, stages.scheduler
        progress.in_flight = scheduler.in_flight
        progress.outstanding = scheduler.outstanding + stages.unsettled()
        progress.downloads = stages.downloading()
        progress.throttled = scheduler.throttled
        progress.next_deadline_at = scheduler.next_deadline_at
        if (budget := stages.budget) is not None:
            progress.taken_usd = (budget.money.spent + budget.on_its_way) / TICKS

    def _observe(self, stages: Stages) -> None:
        self._count(stages)
        progress, scheduler, health = self.progress, stages.scheduler, stages.health
        now, ends_at = self._clock.monotonic(), health.ends_run_at()
        if self._drained is not None or self._error is not None:
            progress.state = "draining"
        elif ends_at is None:
            if progress.state == "outage":
                self._events("outage.ended")
            enough = stages.budget is not None and stages.budget.closed
            progress.state, progress.note = "running", _NO_MONEY if enough else ""
        else:
            if progress.state != "outage":
                self._events("outage.began", reason=health.reason)
            progress.state = "outage"
            until = time.strftime("%H:%M", time.localtime(self._clock.wall() + max(0.0, ends_at - now)))
            progress.note = f"the API does not answer ({health.reason}); gives up at {until}"
            if now >= ends_at and scheduler.waiting == 0:
                self._stop(self._unavailable(health.reason, now - (health.outage_since or now)))

    def _unavailable(self, reason: str, lasted_s: float) -> ApiUnavailable:
        return ApiUnavailable(
            f"The API at {self.config.base_url} has not answered for {duration(lasted_s)}; the last try: {reason}\n"
            "Nothing was lost: unfinished rows stay pending and accepted requests can be redeemed within their time.",
            hint="Type the same command again when it is back, or wait longer with --max-outage 12h.",
        )

    async def _conclude(self, opened: OpenRun, projector: Projector) -> None:
        """Write what the run has reached: the output, then the errors file; of a failing disk what it takes."""
        self.progress.state = "finishing"
        if self._refused:
            return
        try:
            complete = self._error is None and await self._reporting(opened).complete()
            await projector.finish(complete=complete)
            await self._give_failures(opened)
            if self._rows is None:
                while not await opened.committer.call(self._replace_errors, opened):  # noqa: ASYNC110 - as the sink
                    await asyncio.sleep(_AWAY_S)
        except BulkgrokError as error:
            self._stop(error)
        await opened.committer.call(opened.committer.write_back)

    def _replace_errors(self, opened: OpenRun) -> bool:
        return opened.errors.replace(opened.store.failures(), lambda position: opened.store.advance(_ERRORS, position))

    # Stopping

    @property
    def _refused(self) -> bool:
        """Whether the input or the template was refused before anything was sent."""
        return isinstance(self._error, UsageError | InputError | RunMismatch) and self.progress.requests == 0

    def _halt(self) -> None:
        if self.stages is not None:
            self.stages.scheduler.stop()
            self.stages.conductor.stop()
            self.stages.source.give_up()

    def _stop(self, error: BaseException) -> None:
        """End the run for a reason; the first one counts."""
        if not isinstance(error, BulkgrokError):
            self._crashed(error)
            return
        if self._error is None:
            self._error = error
            self._events("run.stopped", error=type(error).__name__, exit_code=error.exit_code)
            if self.stages is not None and self.stages.rejections.stopped_alike:
                self.stages.note_stopped_alike = True
        self._halt()

    def _crashed(self, error: BaseException) -> None:
        if self._crash is None:
            self._crash = error
        self._halt()
