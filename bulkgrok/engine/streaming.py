"""`bulkgrok.stream`: rows from the caller's iterable, outcomes to the caller's loop.

Law: the engine has a thread and a loop of its own, so that whatever becomes of the caller's loop (a `break`, a
cancellation, the end of `asyncio.run`) it drains in order. The caller's iterable is only ever touched on the caller's
thread, and outcomes wait there for the caller: who is slow slows the run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from bulkgrok.config import RunConfig
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.model import JsonObject, Position, Settled
from bulkgrok.core.report import Report
from bulkgrok.engine.run import Engine
from bulkgrok.sinks.line import as_dict
from bulkgrok.telemetry.logging import EventLog

_WAITING: Final = 256
_WAITING_BYTES: Final = 8 << 20
_WHOLE_BYTES: Final = 1 << 20
_BEGINNING_BYTES: Final = 65_536
_AT_ONCE: Final = 32
_AT_ONCE_S: Final = 0.01

Rows = Iterable[Mapping[str, object]] | AsyncIterable[Mapping[str, object]]


class Streaming:
    """One `stream`.

    Args:
        config: What to do; its input is not read.
        rows: The caller's rows.
        log: The run's log, closed at the end.
    """

    def __init__(self, config: RunConfig, rows: Rows, *, log: EventLog) -> None:
        self._config = config
        self._rows = rows
        self._log = log
        self._caller = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._sink = HandingSink(self._notify)
        self._done: Future[Report] = Future()
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left: asyncio.Event | None = None
        self._begun = threading.Event()

    async def outcomes(self) -> AsyncGenerator[JsonObject, None]:
        """Yield outcomes until the engine is done; leaving early drains it."""
        thread = threading.Thread(target=self._work, name="bulkgrok")
        thread.start()
        try:
            while True:
                ended = self._done.done()
                self._news.clear()
                batch = self._sink.take()
                for settled in batch:
                    yield as_dict(settled, simulated=self._config.simulate)
                if ended:
                    break
                if not batch:
                    await self._news.wait()
        finally:
            self._leave()
            try:
                await self._drained(thread)
            finally:
                self._log.close()
        report = self._done.result()
        if isinstance(report.stopped, BulkgrokError):
            raise report.stopped

    async def _drained(self, thread: threading.Thread) -> None:
        """Wait for the engine's end; where even that is cut off (the end of `asyncio.run`), wait in spite of it."""
        done = asyncio.wrap_future(self._done)
        done.add_done_callback(_seen)
        try:
            await asyncio.wait({done})
        except asyncio.CancelledError:
            thread.join()
            raise
        thread.join()

    def _notify(self) -> None:
        """Wake the caller, from the engine's thread; a caller that is gone needs no waking."""
        if not self._caller.is_closed():
            self._caller.call_soon_threadsafe(self._news.set)

    def _leave(self) -> None:
        """Drain the engine; harmless when it is done."""
        self._begun.wait()
        self._sink.abandon()
        if self._done.done() or self._loop is None or self._engine is None or self._left is None:
            return
        engine, left = self._engine, self._left

        def leave() -> None:
            left.set()
            engine.drain(130)

        try:
            self._loop.call_soon_threadsafe(leave)
        except RuntimeError:  # it ended in this moment
            return

    # On the engine's thread

    def _work(self) -> None:
        try:
            self._done.set_result(asyncio.run(self._run()))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._done.set_exception(error)
        finally:
            self._begun.set()
            self._notify()

    async def _run(self) -> Report:
        self._loop, self._left = asyncio.get_running_loop(), asyncio.Event()
        self._engine = Engine(
            self._config, events=self._log, rows=self._taken(self._left), sink=self._sink, failures=self._sink.fail
        )
        self._begun.set()
        return await self._engine.run()

    async def _taken(self, left: asyncio.Event) -> AsyncIterator[Mapping[str, object]]:
        """Yield the caller's rows, taken on the caller's loop, until the caller leaves."""
        next_rows = self._stepping()
        leaving = asyncio.ensure_future(left.wait())
        try:
            while not left.is_set():
                step = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(next_rows(), self._caller))
                either: set[asyncio.Future[Any]] = {step, leaving}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    step.cancel()
                    return
                batch = step.result()
                if not batch:
                    return
                for row in batch:
                    yield row
        finally:
            leaving.cancel()

    def _stepping(self) -> Callable[[], Coroutine[None, None, list[Mapping[str, object]]]]:
        """Return a coroutine function that takes the next rows, none at the end; to be run on the caller's loop."""
        if isinstance(self._rows, AsyncIterable):
            source = aiter(self._rows)

            async def one() -> list[Mapping[str, object]]:
                async for row in source:
                    return [row]
                return []

            return one
        iterator: Iterator[Mapping[str, object]] = iter(self._rows)

        failed: list[BaseException] = []

        async def some() -> list[Mapping[str, object]]:
            """Take some rows, fewer where they come slowly; an error of the caller's comes after the rows before it."""
            if failed:
                raise failed[0]
            taken: list[Mapping[str, object]] = []
            until = self._caller.time() + _AT_ONCE_S
            try:
                for row in islice(iterator, _AT_ONCE):
                    taken.append(row)
                    if self._caller.time() > until:
                        break
            except Exception as error:
                failed.append(error)
                if not taken:
                    raise
            return taken

        return some


def _seen(done: asyncio.Future[Report]) -> None:
    """Look at an error that is raised elsewhere, or the loop would print it."""
    if not done.cancelled():
        done.exception()


def _size(settled: Settled) -> int:
    return len(settled.body or b"")


def _shortened(failure: Settled) -> Settled:
    if failure.body is None or len(failure.body) <= _WHOLE_BYTES:
        return failure
    return replace(failure, body=failure.body[:_BEGINNING_BYTES])


class HandingSink:
    """A sink that hands outcomes to another thread. Its position is never kept: each call sees every outcome again.

    Args:
        notify: Called, on the engine's threads, when there is something to take.
    """

    name = "stream"
    appendable = True
    unfinished = False

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._ready: list[Settled] = []
        self._room = threading.Condition()
        self._abandoned = False
        self._failed: set[int] = set()

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Nothing to refuse."""

    def restore(self, position: Position | None) -> Position:  # noqa: ARG002 - everything is handed out again
        """Begin at the first outcome."""
        return Position(seq=0)

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Hand outcomes over; waits while the caller is slow."""
        with self._room:
            self._room.wait_for(lambda: self._abandoned or self._has_room)
        self._hand(outcomes)

    @property
    def _has_room(self) -> bool:
        return len(self._ready) < _WAITING and sum(map(_size, self._ready)) < _WAITING_BYTES

    def commit(self) -> Position:
        """Nothing is durable here."""
        return Position(seq=0)

    def finish(self, *, complete: bool) -> Position:  # noqa: ARG002 - there is nothing to close
        """Nothing is durable here."""
        return Position(seq=0)

    def close(self) -> None:
        """Nothing to release."""

    def fail(self, failures: Iterable[Settled]) -> None:
        """Take the rows that are failed now; hand over those that were not before.

        This does not wait for the caller, so of a large reply that is no answer only the beginning is handed over.
        """
        fresh = [_shortened(found) for found in failures if found.row not in self._failed]
        self._failed.update(found.row for found in fresh)
        self._hand(fresh)

    def _hand(self, outcomes: Sequence[Settled]) -> None:
        with self._room:
            if self._abandoned or not outcomes:
                return
            self._ready.extend(outcomes)
        self._notify()

    def take(self) -> list[Settled]:
        """Take what is ready."""
        with self._room:
            ready, self._ready = self._ready, []
            self._room.notify_all()
        return ready

    def abandon(self) -> None:
        """Drop what nobody will take."""
        with self._room:
            self._abandoned = True
            self._ready.clear()
            self._room.notify_all()
