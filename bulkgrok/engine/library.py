"""bulkgrok as a library: `run`, `arun` and `stream`.

Law: installs no signal handlers, configures no logging, prints nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from bulkgrok.config import RunConfig, from_keywords, places
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.model import JsonObject, Position, Report, Settled
from bulkgrok.engine.run import Engine
from bulkgrok.sinks.line import as_dict
from bulkgrok.telemetry.logging import EventLog
from bulkgrok.telemetry.redaction import Redaction

_RAISED: Final = frozenset({2, 5, 6, 7, 8})
_WAITING: Final = 256


def run(input: str | Path, **flags: object) -> Report:  # noqa: A002 - the public name of the argument
    """Send every row of a file to the xAI API and write one answer a row; blocks until it is done.

    Works inside a running event loop too: the run has a thread and a loop of its own.

    Args:
        input: Path of a .jsonl, .parquet or .txt file (also .gz, .zst), or "-" for standard input.
        **flags: Every flag of `bulkgrok run` in snake case: output, concurrency=20, mode="deferred", …

    Returns:
        The summary; `exit_code` is 0, or 3 when some rows failed.

    Raises:
        BulkgrokError: The run could not begin or was stopped; `exit_code` is 2, 5, 6, 7 or 8. The same call resumes it.
    """
    config = from_keywords(input, **flags)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run(config))
    return _in_thread(config)


async def arun(input: str | Path, **flags: object) -> Report:  # noqa: A002 - the public name of the argument
    """Like `run`, on the running event loop. Cancelling it drains: what is in flight is awaited, then it ends."""
    return await _run(from_keywords(input, **flags))


def _in_thread(config: RunConfig) -> Report:
    results: list[Report | BaseException] = []

    def body() -> None:
        try:
            results.append(asyncio.run(_run(config)))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.append(error)

    thread = threading.Thread(target=body, name="bulkgrok")
    thread.start()
    thread.join()
    result = results[0]
    if isinstance(result, BaseException):
        raise result
    return result


async def _run(config: RunConfig) -> Report:
    log = _log(config)
    try:
        engine = Engine(config, events=log)
        report = await _drained_when_cancelled(engine)
    finally:
        log.close()
    if isinstance(report.stopped, BulkgrokError) and report.exit_code in _RAISED:
        raise report.stopped
    return report


def _log(config: RunConfig) -> EventLog:
    redact = Redaction([config.api_key.reveal()] if config.api_key and not config.simulate else [])
    return EventLog(config.log_file or places(config).run_dir / "log.jsonl", level=config.log_level, redact=redact)


async def _drained_when_cancelled(engine: Engine) -> Report:
    task = asyncio.create_task(engine.run())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        engine.drain(130)
        with contextlib.suppress(Exception):
            await task
        raise


async def stream(
    rows: Iterable[Mapping[str, object]] | AsyncIterable[Mapping[str, object]],
    *,
    run_dir: str | Path | None = None,
    **flags: object,
) -> AsyncIterator[JsonObject]:
    """Send rows as they come and yield an outcome for each as it settles, in the shape of the results and errors files.

    Args:
        rows: Dicts in any of the row shapes; taken as fast as they can be sent, spooled to disk as they are taken.
        run_dir: Where the checkpoint is kept. A later call with the same directory compares its rows with the earlier
            ones, yields the stored outcomes again, then goes on. None: a temporary place, removed at the end.
        **flags: Flags of `bulkgrok run` in snake case, but those that name files.

    Yields:
        One dict a row, in order of completion; `row` (0-based) restores the order of `rows`.

    Raises:
        BulkgrokError: As for `run`; code 6 when a row differs from that of the earlier call.
    """
    async with AsyncExitStack() as stack:
        folder = Path(run_dir) if run_dir is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = from_keywords("-", run_dir=folder / "run", output=folder / "outcomes.jsonl", **flags)
        async for outcome in _Streaming(replace(config, input="rows"), _asynchronous(rows)).outcomes():
            yield outcome


async def _asynchronous(
    rows: Iterable[Mapping[str, object]] | AsyncIterable[Mapping[str, object]],
) -> AsyncIterator[Mapping[str, object]]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
        return
    for row in rows:
        yield row


class _Streaming:
    """One `stream`: an engine whose sink hands outcomes to the caller at the caller's pace."""

    def __init__(self, config: RunConfig, rows: AsyncIterator[Mapping[str, object]]) -> None:
        self._config = config
        self._log = _log(config)
        self._sink = HandingSink()
        self._engine = Engine(config, events=self._log, rows=rows, sink=self._sink, failures=self._sink.fail)

    async def outcomes(self) -> AsyncIterator[JsonObject]:
        """Yield outcomes until the engine is done; leaving early drains it."""
        task = asyncio.create_task(self._engine.run())
        try:
            async for settled in self._sink.taken(task):
                yield as_dict(settled, simulated=self._config.simulate)
            report = await task
            if isinstance(report.stopped, BulkgrokError):
                raise report.stopped
        finally:
            if not task.done():
                self._engine.drain(130)
                self._sink.abandon()
                with contextlib.suppress(BulkgrokError, asyncio.CancelledError):
                    await task
            self._log.close()


class HandingSink:
    """A sink that hands outcomes to an iterator. Its position is never kept: each call sees every outcome again."""

    name = "stream"
    appendable = True

    def __init__(self) -> None:
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
            self._room.wait_for(lambda: self._abandoned or len(self._ready) < _WAITING)
            if not self._abandoned:
                self._ready.extend(outcomes)

    def commit(self) -> Position:
        """Nothing is durable here."""
        return Position(seq=0)

    def finish(self, *, complete: bool) -> Position:  # noqa: ARG002 - there is nothing to close
        """Nothing is durable here."""
        return Position(seq=0)

    def close(self) -> None:
        """Nothing to release."""

    def abandon(self) -> None:
        """Drop what nobody will take."""
        with self._room:
            self._abandoned = True
            self._ready.clear()
            self._room.notify_all()

    def fail(self, failures: Sequence[Settled]) -> None:
        """Take the rows that are failed now; hand over those that were not before."""
        with self._room:
            if not self._abandoned:
                self._ready.extend(found for found in failures if found.row not in self._failed)
                self._failed.update(found.row for found in failures)

    async def taken(self, task: asyncio.Task[Report]) -> AsyncIterator[Settled]:
        """Yield outcomes as they come, until the engine has ended."""
        while True:
            ended = task.done()
            with self._room:
                batch, self._ready = self._ready, []
                self._room.notify_all()
            for settled in batch:
                yield settled
            if ended:
                return
            if not batch:
                await asyncio.wait({task}, timeout=0.05)
