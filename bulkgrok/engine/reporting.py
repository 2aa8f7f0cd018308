"""What a run came to: counted from the checkpoint, told once, kept for those who ask later.

Law: the checkpoint's counts, not the engine's, are what is reported.
"""

from __future__ import annotations

from typing import assert_never

from bulkgrok.config import RunConfig
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.model import Progress, Totals
from bulkgrok.core.part import Part
from bulkgrok.core.ports import Store
from bulkgrok.core.report import Limits, Report
from bulkgrok.engine.opening import OpenRun


class Reporting:
    """Counts what is left of a run and words its report.

    Args:
        opened: The run.
        config: What was asked.
        progress: Counters; `rows` says how many rows the command covers, once that is known.
        part: What this start does of the run.
    """

    def __init__(self, opened: OpenRun, *, config: RunConfig, progress: Progress, part: Part = Part.WHOLE) -> None:
        self._opened = opened
        self._part = part
        self._config = config
        self._progress = progress

    async def refresh(self) -> Totals:
        """Set the counters to what the checkpoint holds, and return it."""
        totals = await self._opened.committer.call(self._opened.store.totals)
        progress = self._progress
        progress.succeeded = totals.succeeded
        progress.failed = totals.failed
        progress.failed_by_code = dict(totals.failed_by_code)
        progress.in_doubt = totals.in_doubt
        progress.lost = totals.lost
        progress.cost_usd = totals.cost_usd
        limits = Limits.of(self._config.budget, self._config.max_at_risk, totals.money)
        progress.taken_usd = None if limits is None else limits.taken_usd
        progress.tokens = dict(totals.tokens)
        progress.outstanding = totals.accepted + totals.redeemed
        progress.next_deadline_at = totals.next_deadline_at
        return totals

    async def complete(self) -> bool:
        """Whether every row that the command covers has its outcome."""
        return await self._opened.committer.call(self._left, self._opened.store) == (0, 0)

    def _left(self, store: Store) -> tuple[int | None, int]:
        """Return (n covered rows that are pending, None while rows are counted; n rows on their way)."""
        totals, rows = store.totals(), self._progress.rows
        outstanding = totals.accepted + totals.redeemed
        if rows is None:
            return None, outstanding
        if self._config.limit is None:
            return rows - totals.succeeded - totals.failed - outstanding, outstanding
        return rows - store.taken().below(rows), outstanding

    async def report(
        self, *, duration_s: float, error: BulkgrokError | None, drained: int | None, stopped_alike: bool
    ) -> Report:
        """Return the summary, and keep it in the checkpoint with why the run was stopped.

        Args:
            duration_s: How long the run took.
            error: What stopped it, if anything did.
            drained: The exit code of a run that was asked to end (130, 143), None for another.
            stopped_alike: Whether it was stopped because its first rows were all rejected alike.
        """
        opened, committer, store = self._opened, self._opened.committer, self._opened.store
        totals = await self.refresh()
        pending, outstanding = await committer.call(self._left, store)
        identity = await committer.call(store.identity)
        report = Report(
            run_id=identity.run_id if identity is not None else opened.places.run_id,
            rows=None if pending is None else totals.succeeded + totals.failed + outstanding + pending,
            succeeded=totals.succeeded,
            failed=totals.failed,
            pending=pending,
            outstanding=outstanding,
            failed_by_code=totals.failed_by_code,
            in_doubt=totals.in_doubt + totals.submitting,
            lost=totals.lost,
            cost_usd=totals.cost_usd,
            tokens=totals.tokens,
            output=str(opened.places.output),
            errors=str(opened.places.errors),
            run_dir=str(opened.places.run_dir),
            duration_s=round(duration_s, 3),
            exit_code=_exit_code(self._part, totals.failed, pending, outstanding, error, drained),
            stopped=error,
            limits=Limits.of(self._config.budget, self._config.max_at_risk, totals.money),
        )
        if committer.failed is None:
            if stopped_alike:
                await committer.call(store.note, "stopped_alike", True)
            await committer.call(store.note, "report", report.as_json())
            await committer.call(store.note, "stopped", self._why(error))
        return report

    def _why(self, error: BulkgrokError | None) -> dict[str, object] | None:
        """Return what `status` repeats of an early end; an API that says the key back does not get it onto the disk."""
        if error is None:
            return None
        return {"message": self._config.api_key.hide(error.message), "hint": error.hint, "exit_code": error.exit_code}


def _exit_code(  # noqa: PLR0913, PLR0917 - what an end is judged by
    part: Part, failed: int, pending: int | None, outstanding: int, error: BulkgrokError | None, drained: int | None
) -> int:
    """Return 0 or 3 where all that this part of the run had to do is done, and else why it is not."""
    if error is not None:
        return error.exit_code
    finished = pending == 0 and outstanding == 0
    match part:
        case Part.WHOLE:
            done = finished
        case Part.SUBMIT:
            done = pending == 0
        case Part.COLLECT:
            done, failed = outstanding == 0, failed or pending != 0
        case Part.ROUND:
            done = finished or drained is None
        case _:
            assert_never(part)
    if done:
        return 3 if failed else 0
    return drained or 1
