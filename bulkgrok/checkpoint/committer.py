"""The store as stages on the event loop see it: one writer on one thread, and groups of changes in one flush.

Law: what `commit` returned from is durable. A change that was handed in is applied exactly once or fails, whatever
becomes of the task that waits for it. Changes are applied in the order they came in; those that arrive while the disk
is busy become the next group. Backpressure is the waiting itself: whoever commits waits for the disk.

Threads meet once a group, not once a change: what comes in is gathered on the loop and handed over when the writer has
nothing to do, and the writer tells of a whole group at once. Waking a thread for each change took more of the processor
than the change itself.

When the disk fails, or is about to be full, the run is over (`failed`): then only saving counts, see `rescue`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from bulkgrok.checkpoint.ballast import SIZE_BYTES
from bulkgrok.checkpoint.blobs import size_of
from bulkgrok.checkpoint.rescue import Rescue
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import Change, Redeem
from bulkgrok.core.money import Money
from bulkgrok.core.ports import Store

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Entry:
    """Something to do on the writer's thread, and who is told: changes, or a function."""

    changes: Sequence[Change] = ()
    function: Callable[[], object] | None = None
    cost: int = 0
    then: Callable[[BaseException | None], None] | None = None
    """Told in place of the future."""
    future: asyncio.Future[Any] | None = None
    result: Any = None
    error: BaseException | None = None


class Committer:
    """Commits changes in groups.

    Args:
        store: Not yet open; from `start` to `close` it belongs to the committer's thread.
        max_ops: n changes of one group, about.
        max_bytes: Bytes of answers in one group, about.
        ballast_bytes: Room kept on the disk for the time when it is full; 0 for none.
        inline: No thread: everything runs at once where it is called, for simulations with a clock of their own.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_ops: int = 256,
        max_bytes: int = 8 << 20,
        ballast_bytes: int = SIZE_BYTES,
        inline: bool = False,
    ) -> None:
        self._store = store
        self._max_ops = max_ops
        self._max_bytes = max_bytes
        self._at_once = inline
        self._rescue = Rescue(store, ballast_bytes=ballast_bytes)
        self._gathered: deque[_Entry] = deque()
        self._busy = False
        """Whether the writer has a group, or is about to be given one."""
        self._groups: SimpleQueue[list[_Entry] | None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: Callable[[Money], None] | None = None
        self._closed = True

    @property
    def failed(self) -> StorageFailed | None:
        """Why nothing more is taken, None while all is well. The run must stop."""
        return self._rescue.failed

    @property
    def unsaved(self) -> Sequence[Change]:
        """Changes that were handed in and are neither in the checkpoint nor in a spill file."""
        return tuple(self._rescue.unsaved)

    def keep_room(self, *, in_flight: int, answers: int = 0) -> None:
        """From now on, let the run be over while the disk still has room for the answers of n requests in flight.

        Args:
            in_flight: n requests.
            answers: n answers that the checkpoint holds already; its size tells how large they are.
        """
        self._rescue.keep_room(in_flight=in_flight, answers=answers)

    def look(self) -> None:
        """Let the run be over if the disk has too little room. For `call`; costs one call of the system."""
        self._rescue.look()

    def write_back(self) -> None:
        """Put the checkpoint back in its place if its file was removed. For `call`, at the end of a run."""
        self._rescue.write_back()

    async def start(self) -> None:
        """Open the store, and enter what an earlier run had to spill.

        Raises:
            StorageFailed, RunMismatch, UsageError: As the store's `open`.
        """
        self._loop = asyncio.get_running_loop()
        self._closed = False
        if not self._at_once:
            self._worker = threading.Thread(target=self._work, name="bulkgrok-checkpoint", daemon=True)
            self._worker.start()
        failed: BaseException | None = None
        try:
            await self.call(self._open)
        except BaseException as error:  # noqa: BLE001 - raised below, when the store is closed
            failed = error
        if failed is not None:
            await self.close()
            raise failed

    def _open(self) -> None:
        self._store.open()
        self._rescue.prepare()

    def commit(self, *changes: Change) -> asyncio.Future[None]:
        """Apply changes in one transaction; return once they are durable. Cancelling the caller loses nothing.

        Raises:
            StorageFailed: They could not be made durable, or nothing more is taken; the run must stop.
            ValueError: The lifecycle table does not allow one of them; none of them was applied.
        """
        # Not shielded: what cancelling does to the future says nothing to the thread that has the changes.
        return self._hand_in(_Entry(changes, cost=_cost(changes)))

    def post(self, *changes: Change, then: Callable[[BaseException | None], None]) -> None:
        """Hand in changes; `then` is called with None once they are durable, else with what `commit` would raise."""
        self._take(_Entry(changes, cost=_cost(changes), then=then))

    async def call(self, function: Callable[..., T], /, *args: object) -> T:
        """Run a function of the store after everything that was handed in before."""
        result: T = await self._hand_in(_Entry(function=lambda: function(*args)))
        return result

    async def watch_money(self, told: Callable[[Money], None]) -> None:
        """Tell what was paid and is on its way: now, and with every group before those who wait for it."""
        told(await self.call(self._store.money))
        self._told = told

    async def close(self) -> None:
        """Finish what was handed in, then close the store. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        if self._worker is None:
            self._end()
            return
        while self._gathered:
            self._groups.put(self._group())
        self._groups.put(None)
        thread, self._worker = self._worker, None
        await asyncio.shield(asyncio.to_thread(thread.join))

    def _hand_in(self, entry: _Entry) -> asyncio.Future[Any]:
        future = entry.future = asyncio.get_running_loop().create_future()
        self._take(entry)
        return future

    def _take(self, entry: _Entry) -> None:
        if self._loop is None or self._closed:
            msg = "The checkpoint is closed."
            raise StorageFailed(msg)
        if self._at_once:
            money = self._carry_out([entry])
            if entry.then is None:
                self._deliver([entry], money)
            else:  # whoever hands in is told later, never at once; of the money at once, or it would be out of date
                self._deliver([], money)
                self._loop.call_soon(self._deliver, [entry], None)
        else:
            self._gathered.append(entry)
            if not self._busy:
                self._busy = True
                self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Give the writer the next group, if there is one."""
        self._busy = bool(self._gathered)
        if self._busy:
            self._groups.put(self._group())

    def _group(self) -> list[_Entry]:
        """Return what came in first, up to the size of a group."""
        group: list[_Entry] = []
        ops, size = 0, 0
        while self._gathered and ops < self._max_ops and size < self._max_bytes:
            entry = self._gathered.popleft()
            group.append(entry)
            ops += len(entry.changes)
            size += entry.cost
        return group

    def _carried_out(self, group: list[_Entry], money: Money | None) -> None:
        """Tell those who wait, then hand over what came in meanwhile, with what they hand in now."""
        self._deliver(group, money)
        assert self._loop is not None  # noqa: S101 - it runs this
        self._loop.call_soon(self._hand_over)

    # On the writer's thread

    def _work(self) -> None:
        """Carry out what is handed over, group by group, until told to end."""
        while (group := self._groups.get()) is not None:
            money = self._carry_out(group)
            assert self._loop is not None  # noqa: S101 - set before the thread starts
            with suppress(RuntimeError):  # the loop is gone, and with it everybody who waited
                self._loop.call_soon_threadsafe(self._carried_out, group, money)
        self._end()

    def _end(self) -> None:
        self._rescue.leave()
        self._store.close()

    def _carry_out(self, group: list[_Entry]) -> Money | None:
        """Apply all changes of a group, then run its functions, which thereby see everything handed in before them.

        Returns:
            What was paid and is on its way then, if anybody asked for that.
        """
        writers = [entry for entry in group if entry.changes]
        if writers:
            self._apply_group(writers)
        for entry in group:
            if not entry.changes:
                _run(entry)
        return self._store.money() if writers and self._told is not None else None

    def _deliver(self, group: list[_Entry], money: Money | None) -> None:
        """Tell those who wait. Runs on the loop, once for each group."""
        if money is not None and self._told is not None:
            self._told(money)
        for entry in group:
            if entry.then is not None:
                self._tell(entry.then, entry.error)
            elif entry.future is not None and not entry.future.done():
                if entry.error is None:
                    entry.future.set_result(entry.result)
                else:
                    entry.future.set_exception(entry.error)

    def _tell(self, then: Callable[[BaseException | None], None], error: BaseException | None) -> None:
        """Tell one; a defect of its is no reason to leave the others waiting."""
        try:
            then(error)
        except Exception as defect:  # noqa: BLE001 - see above
            assert self._loop is not None  # noqa: S101 - it runs this
            self._loop.call_exception_handler({"message": "a change was not taken note of", "exception": defect})

    def _apply_group(self, writers: list[_Entry]) -> None:
        self._rescue.look()
        if self._rescue.failed is not None:
            self._save(writers)
            return
        try:
            self._store.apply([change for entry in writers for change in entry.changes])
        except ValueError:
            for entry in writers:
                self._apply_alone(entry)
        except StorageFailed as error:
            self._rescue.disk_failed(error)
            self._save(writers)
        except BaseException as error:  # noqa: BLE001 - a simulated crash, or a defect: nobody may believe in success
            for entry in writers:
                entry.error = error
        else:
            self._rescue.room.seen(max(entry.cost for entry in writers))

    def _apply_alone(self, entry: _Entry) -> None:
        """Apply one waiter's changes, so that only the one who asked for the impossible is told so."""
        try:
            self._store.apply(entry.changes)
        except StorageFailed as error:
            self._rescue.disk_failed(error)
            self._save([entry])
        except BaseException as error:  # noqa: BLE001 - ValueError is the caller's; see above for others
            entry.error = error

    def _save(self, writers: list[_Entry]) -> None:
        for entry in writers:
            entry.error = self._rescue.save(entry.changes)


def _run(entry: _Entry) -> None:
    if entry.function is not None:
        try:
            entry.result = entry.function()
        except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
            entry.error = error


def _cost(changes: Sequence[Change]) -> int:
    size = 0
    for change in changes:  # called for each change there is: a generator would take longer than what it yields
        if isinstance(change, Redeem):
            raw = change.raw
            size += len(raw) if isinstance(raw, bytes) else size_of(raw)
    return size
