"""Feeds rows to the scheduler, again and again until nothing is left to do.

Law: what the checkpoint does not hold is pending; a row is encoded when it is about to be sent and forgotten when it is
accepted. Rows that become pending later (lost results, failed jobs) are read from the input again, all together, when
the first reading is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bulkgrok.core.errors import BulkgrokError, InputError, RunMismatch, UsageError
from bulkgrok.core.lifecycle import Fail
from bulkgrok.core.model import BadRow, Code, Counts, Item, Mode, Progress, RawRow, RowError, RowSet, Work
from bulkgrok.core.money import Budget
from bulkgrok.core.part import Part
from bulkgrok.core.ports import Checkpoint, Encoder, Events, Passing, Store
from bulkgrok.dispatch.account import Rejections, count_failure
from bulkgrok.engine.spending import limit_reached, room_reached
from bulkgrok.scheduler.scheduler import Scheduler
from bulkgrok.telemetry.wording import printable

_TEMPLATE_ROWS: Final = 20
_NAMES_REMEMBERED: Final = 50_000
_QUIET_S: Final = 0.5
_COUNT_AFTER_S: Final = 0.5
#: Bodies in memory together. Rows of many megabytes are fewer at once than `--concurrency` allows.
_HELD_BYTES: int = 256 << 20  # not Final, which would be compiled in: tests make it small


class Source(Protocol):
    """The input, as often as it is asked for."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    @property
    def fixed(self) -> bool:
        """Whether its rows are known to be the same at every start."""
        ...

    def chunks(self, *, again: bool, passing: Passing | None = None) -> AsyncIterator[Sequence[RawRow]]:
        """Yield all rows from the first; `again` tells that they were all read before.

        Those for which `passing` says yes may be left out. It is asked on another thread, but never while a chunk is
        worked on.
        """
        ...


@dataclass(slots=True, kw_only=True)
class Known:
    """What the checkpoint knew when the run began."""

    taken: RowSet
    waiting: dict[int, Counts]
    rebound: bool
    rows: int | None
    """n rows of the input, where it was read in whole before."""


class Conductor:
    """Reads, encodes and offers rows.

    Args:
        source: The input.
        encoder: Turns raw rows into requests.
        scheduler: Takes work.
        checkpoint: Where bad rows are committed.
        store: Read through the checkpoint.
        rejections: Settled at the end of the input.
        known: What need not be sent.
        settling: How many rows are being settled outside the scheduler.
        progress: Counts rows.
        events: Told of what is unusual.
        say: Told it in words.
        prefetch: n rows encoded ahead.
        limit: Only the first n rows, None for all.
        budget: What may be spent, None for any amount.
        part: What is done of the run: rows are not read where none is sent, and a start that leaves results outstanding
            looks whether there is anything to wait for.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        source: Source,
        encoder: Encoder,
        scheduler: Scheduler,
        checkpoint: Checkpoint,
        store: Store,
        rejections: Rejections,
        known: Known,
        settling: Callable[[], int],
        progress: Progress,
        events: Events,
        say: Callable[[str], None],
        prefetch: int,
        limit: int | None,
        budget: Budget | None,
        part: Part = Part.WHOLE,
    ) -> None:
        self._source = source
        self._part = part
        self._rested = False
        self._encoder = encoder
        self._scheduler = scheduler
        self._checkpoint = checkpoint
        self._store = store
        self._rejections = rejections
        self._known = known
        self._progress = progress
        self._events = events
        self._settling = settling
        self._say = say
        self._prefetch = prefetch
        self._limit = limit
        self._budget = budget
        self._cut_short = False
        self._again: set[int] = set()
        self._changed = asyncio.Event()
        self._full = False
        """Whether it waits for rows to leave."""
        self._begun = asyncio.Event()
        """Whether a row was offered, or none will be."""
        self._stopped = False
        self._templates_failed: list[BadRow] | None = []
        self._names: set[int] | None = set()

    @property
    def settling(self) -> int:
        """Rows being settled outside the scheduler."""
        return self._settling()

    @property
    def rested(self) -> bool:
        """Whether rows or results are left for another start, because this one had nothing to do but wait."""
        return self._rested

    def again(self, row: int) -> None:
        """Note a row that became pending and must be read again."""
        if self._part.sends:
            self._again.add(row)
        self._changed.set()

    def changed(self) -> None:
        """Wake up: something was reported, settled or stopped.

        Not while enough rows wait to be sent: woken for each one that leaves, it would do little else.
        """
        if not self._full or self._scheduler.queued <= self._prefetch // 2:
            self._changed.set()

    def stop(self) -> None:
        """Offer nothing more."""
        self._stopped = True
        self._changed.set()

    async def conduct(self) -> BulkgrokError | None:
        """Feed until every row has its outcome, or until stopped; return why the run must stop, if it must.

        Raises:
            InputError: The input breaks off in the middle; what was read before it is done and settled.
            UsageError: A template failed on each of the first rows.
            RunMismatch: A row read again is not the row that was sent.
        """
        broken: InputError | None = None
        try:
            if not self._all_known():
                await self._first_reading()
        except InputError as error:
            broken = error
        self._begun.set()
        self._scheduler.exhausted()
        stop = await self._until_dry()
        self._scheduler.close()
        if broken is not None:
            raise broken
        return stop or (None if self._rested else self._out_of_money())

    def _out_of_money(self) -> BulkgrokError | None:
        """Return why rows were not sent for money; None when none was."""
        budget = self._budget
        if budget is None or self._stopped or not (self._cut_short or budget.refused):
            return None
        return limit_reached(budget, sent=self._progress.requests > 0)

    def _is_enough(self) -> bool:
        """Whether no more rows need be read, because the money reaches for none.

        Who gives rows one by one and waits for each must be told at the first one.
        """
        budget = self._budget
        return budget is not None and (budget.closed or (not self._source.fixed and budget.refused > 0))

    async def count(self) -> None:
        """Count the rows of an input that was not read in whole before, beside the work, so that its end shows."""
        if not self._source.fixed or self._known.rows is not None:
            return
        await self._begun.wait()  # the first requests must not wait for it
        await asyncio.sleep(_COUNT_AFTER_S)
        rows = 0

        def counted(first: int, end: int) -> bool:
            nonlocal rows
            rows += end - first
            return self._progress.rows is None and not self._stopped

        with contextlib.suppress(BulkgrokError):  # whoever reads for sending tells of it
            async for chunk in self._source.chunks(again=True, passing=counted):
                rows = chunk[-1].row + 1
                if self._progress.rows is not None or self._stopped:
                    return
            self._progress.rows = rows if self._limit is None else min(rows, self._limit)
            await self._checkpoint.call(self._store.note, "rows", rows)

    async def _until_dry(self) -> BulkgrokError | None:
        while not self._stopped:
            self._changed.clear()
            if self._again:
                rows, self._again = self._again, set()
                await self._read_again(rows)
            elif self._rests():
                return await self._rest()
            elif self._scheduler.idle and not self.settling:
                return await self._rejections.finish()
            else:
                await self._wait()
        return None

    def _rests(self) -> bool:
        """Whether a start that leaves results outstanding has nothing more to do."""
        if not self._part.leaves or self.settling:
            return False
        return self._scheduler.resting if self._part.asks else self._scheduler.blocked

    async def _rest(self) -> BulkgrokError | None:
        """Leave what is outstanding to another start; of one that only submits, say why rows are left too."""
        self._rested = True
        self._scheduler.stop()
        stop = await self._rejections.finish()
        if stop is None and not self._part.asks:
            stop = room_reached(self._scheduler.outstanding, for_money=self._scheduler.waits_for_money)
        return stop

    async def _wait(self) -> None:
        """Wait until something changes; where rest must be noticed, which nobody tells, not for long."""
        if not self._part.leaves:
            await self._changed.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_QUIET_S):  # wait_for may swallow a cancellation
                await self._changed.wait()

    def _all_known(self) -> bool:
        """Whether the checkpoint has taken every row, or none is to be sent, so that the input need not be read."""
        rows = self._known.rows
        if not self._part.sends:
            self._progress.rows = rows
            return True
        if rows is None or not self._source.fixed:
            return False
        self._progress.rows = rows if self._limit is None else min(rows, self._limit)
        return not self._known.waiting and len(self._known.taken) >= rows

    async def _first_reading(self) -> None:
        rows = 0
        whole = True

        def taken(first: int, end: int) -> bool:
            nonlocal rows
            found = self._known.taken.holds(first, end)
            rows = end if found else rows
            return found

        chunks = self._source.chunks(again=False, passing=taken)
        while (chunk := await self._next_of(chunks)) is not None:
            for raw in chunk:
                if self._limit is not None and raw.row >= self._limit:
                    whole = False
                    break
                rows = raw.row + 1
                if raw.row not in self._known.taken:
                    self._cut_short = self._is_enough()
                    if not self._cut_short:
                        await self._admit(raw, self._known.waiting.get(raw.row))
                if self._stopped or self._cut_short or self._rested:
                    return
            if not whole:
                break
        await self._end_of_input()
        await self._counted(rows, whole=whole)

    async def _counted(self, rows: int, *, whole: bool) -> None:
        """Note how many rows were read, and whether they are all there are."""
        self._progress.rows = rows if self._limit is None else min(rows, self._limit)
        if whole and self._source.fixed:
            if rows == 0:
                self._say(f"note: {self._source.name} holds no rows")
            await self._checkpoint.call(self._store.note, "rows", rows)

    async def _next_of(self, chunks: AsyncIterator[Sequence[RawRow]]) -> Sequence[RawRow] | None:
        """Return the rows that come next, None where none will; while none comes, settle what is held back.

        A caller may wait for one row's outcome before it gives the next: then nothing may wait for the end of the rows.
        """
        if self._source.fixed:
            return await anext(chunks, None)
        if self._stopped or self._is_enough():
            return None
        step = asyncio.ensure_future(anext(chunks, None))
        try:
            while not step.done() and not self._stopped and not self._is_enough():
                self._changed.clear()
                changed = asyncio.ensure_future(self._changed.wait())
                waiting: set[asyncio.Future[Any]] = {step, changed}
                await asyncio.wait(waiting, timeout=_QUIET_S, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if not step.done() and self._scheduler.idle and not self._settling():
                    await self._settle_held()
        finally:
            if not step.done():
                step.cancel()
        return None if self._stopped or not step.done() else step.result()

    async def _settle_held(self) -> None:
        if self._again:
            rows, self._again = self._again, set()
            await self._read_again(rows)
        elif self._rejections.pending and (stop := await self._rejections.finish()) is not None:
            raise stop

    async def _end_of_input(self) -> None:
        """Settle rows on which the template failed; if it failed on every row, it is the template that is wrong."""
        failed, self._templates_failed = self._templates_failed, None
        if failed:
            raise self._template_error(failed)

    async def _read_again(self, rows: set[int]) -> None:
        left = {row for row in rows if self._limit is None or row < self._limit}
        if not left:
            return
        wanted = sorted(left)

        def unwanted(first: int, end: int) -> bool:
            return bisect_left(wanted, first) == bisect_left(wanted, end)

        async for chunk in self._source.chunks(again=True, passing=unwanted):
            for raw in chunk:
                if raw.row in left:
                    left.discard(raw.row)
                    await self._admit(raw, await self._checkpoint.call(self._store.counts, raw.row), again=True)
                if self._stopped or self._rested:
                    return
            if not left:
                return
        if left:
            raise self._other_row(min(left))

    async def _admit(self, raw: RawRow, counts: Counts | None, *, again: bool = False) -> None:
        encoded = self._encoder.encode(raw)
        if isinstance(encoded, BadRow):
            await self._bad_row(encoded)
            return
        if self._templates_failed is not None:
            await self._templates_work(self._templates_failed)
        if counts is not None and counts.posts and counts.digest != encoded.digest and not self._known.rebound:
            raise self._other_row(raw.row)
        if not again:
            self._note_name(encoded)
        while not (self._stopped or self._has_room(encoded)):
            self._full = True
            self._changed.clear()
            self._rested = self._rests()
            if self._rested:
                break
            await self._wait()
        self._full = False
        if self._rested:
            return
        if counts is None:
            work = Work(item=encoded)
        else:
            work = Work(
                item=encoded,
                posts=counts.posts,
                attempts=counts.attempts,
                doubts=counts.doubts,
                losses=counts.losses,
            )
        self._scheduler.offer(work)
        self._begun.set()

    def _has_room(self, item: Item) -> bool:
        """Tell whether a row may be held until it is sent: not too many are, nor too many bytes together."""
        scheduler = self._scheduler
        if scheduler.queued >= self._prefetch:
            return False
        return scheduler.held_bytes == 0 or scheduler.held_bytes + len(item.body) <= _HELD_BYTES

    async def _bad_row(self, bad: BadRow) -> None:
        if bad.template and self._templates_failed is not None:
            self._templates_failed.append(bad)
            if len(self._templates_failed) >= _TEMPLATE_ROWS:
                raise self._template_error(self._templates_failed)
            return
        await self._commit_bad(bad)

    async def _templates_work(self, failed: list[BadRow]) -> None:
        """Note that a row could be encoded: rows on which the template failed before are bad rows."""
        self._templates_failed = None
        for bad in failed:
            await self._commit_bad(bad)

    async def _commit_bad(self, bad: BadRow) -> None:
        fail = Fail(
            row=bad.row,
            at=0.0,
            error=RowError(code=Code.INVALID_ROW, message=bad.message, line=bad.line),
            custom_id=bad.custom_id,
            kind=bad.kind,
            mode=Mode.DIRECT,
            model=bad.model,
            digest=bad.digest,
            line=bad.line,
        )
        await self._checkpoint.commit(fail)
        count_failure(self._progress, fail)
        self._events("item.failed", row=bad.row, code=str(Code.INVALID_ROW), line=bad.line)

    def _template_error(self, failed: list[BadRow]) -> UsageError:
        which = f"each of the first {len(failed)} rows" if len(failed) > 1 else "the only row"
        return UsageError(
            f"The template failed on {which} of {self._source.name}: {failed[0].message}. Nothing was sent.",
            hint="Look at what would be sent with --preview 3.",
        )

    def _other_row(self, row: int) -> RunMismatch:
        return RunMismatch(
            f"{self._source.name}: row {row} is not the row that was sent before; the input has changed while it ran. "
            "What was sent is in the checkpoint.",
            hint="Put the old input back and type the command again, or start afresh with -o OTHER.jsonl",
        )

    def _note_name(self, item: Item) -> None:
        """Warn once when a custom_id comes twice, among the first 50,000: more would be the largest thing in memory."""
        if self._names is None or item.custom_id == str(item.row):
            return
        name = hash(item.custom_id)
        if name in self._names:
            self._events("input.duplicate_custom_id", row=item.row)
            self._say(
                f"note: custom_id {printable(item.custom_id)} of row {item.row} came before; duplicates are allowed, "
                "and `row` tells them apart in the output."
            )
            self._names = None
        elif len(self._names) < _NAMES_REMEMBERED:
            self._names.add(name)
        else:
            self._names = None
