"""bulkgrok as a library: `run`, its halves `submit` and `collect`, and `stream`.

Law: installs no signal handlers, configures no logging, prints nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bulkgrok.config import RunConfig, from_keywords, places
from bulkgrok.core.errors import BulkgrokError, UsageError
from bulkgrok.core.part import Part
from bulkgrok.core.report import Report
from bulkgrok.engine.collecting import collecting
from bulkgrok.engine.run import Engine
from bulkgrok.engine.streaming import Streaming
from bulkgrok.telemetry.logging import EventLog
from bulkgrok.telemetry.redaction import Redaction

_RAISED: Final = frozenset({2, 5, 6, 7, 8})
_FILES: Final = frozenset({"input", "output"})


def run(input: str | Path, **flags: object) -> Report:  # noqa: A002 - the public name of the argument
    """Send every row of a file to the xAI API and write one answer a row; blocks until it is done.

    Works inside a running event loop too: the run has a thread and a loop of its own.

    Args:
        input: Path of a .jsonl, .parquet or .txt file (also .gz, .zst), or "-" for standard input.
        **flags: Every flag of `bulkgrok run` in snake case: output, concurrency=20, mode="deferred", …

    Returns:
        The summary; `exit_code` is 0, 3 when some rows failed, or 4 when `budget` or `max_at_risk` ended the run; the
        same call with larger ones goes on.

    Raises:
        BulkgrokError: The run could not begin or was stopped; `exit_code` is 2, 5, 6, 7 or 8. The same call resumes it.
    """
    return _blocking(from_keywords(input, **flags), Part.WHOLE)


async def arun(input: str | Path, **flags: object) -> Report:  # noqa: A002 - the public name of the argument
    """Like `run`, on the running event loop. Cancelling it drains: what is in flight is awaited, then it ends."""
    return await _run(from_keywords(input, **flags), Part.WHOLE)


def submit(input: str | Path, **flags: object) -> Report:  # noqa: A002 - the public name of the argument
    """Send every deferred row of a file to the xAI API and ask for no result: `collect` does that, from anywhere.

    Args:
        input: As for `run`.
        **flags: As for `run`; rows are direct unless they, or mode="deferred", say otherwise.

    Returns:
        The summary; `exit_code` is 0 once all is accepted, 3 when some rows failed, or 4 when no more may be
        outstanding (`max_outstanding`, `budget`, `max_at_risk`): rows that were not sent are pending.

    Raises:
        BulkgrokError: As for `run`; code 2 when a row is direct, before anything is sent.
    """
    return _blocking(from_keywords(input, **flags), Part.SUBMIT)


async def asubmit(input: str | Path, **flags: object) -> Report:  # noqa: A002 - the public name of the argument
    """Like `submit`, on the running event loop. Cancelling it drains."""
    return await _run(from_keywords(input, **flags), Part.SUBMIT)


def collect(run: str | Path, **flags: object) -> Report:
    """Ask for results until none is outstanding, and write them; sends nothing and reads no input.

    Args:
        run: A run directory, a checkpoint, or the input or output path it belongs to.
        **flags: Flags of `bulkgrok collect` in snake case: output, concurrency=20, poll_interval=5, …

    Returns:
        The summary; `exit_code` is 0 when every row succeeded, 3 when some failed or are pending: `submit` or `run`
        sends those.

    Raises:
        BulkgrokError: As for `run`.
    """
    return _blocking(collecting(run, flags), Part.COLLECT)


async def acollect(run: str | Path, **flags: object) -> Report:
    """Like `collect`, on the running event loop. Cancelling it drains."""
    return await _run(collecting(run, flags), Part.COLLECT)


def _blocking(config: RunConfig, part: Part) -> Report:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run(config, part))
    return _in_thread(config, part)


def _in_thread(config: RunConfig, part: Part) -> Report:
    results: list[Report | BaseException] = []

    def body() -> None:
        try:
            results.append(asyncio.run(_run(config, part)))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.append(error)

    thread = threading.Thread(target=body, name="bulkgrok")
    thread.start()
    thread.join()
    result = results[0]
    if isinstance(result, BaseException):
        raise result
    return result


async def _run(config: RunConfig, part: Part) -> Report:
    log = _log(config)
    try:
        engine = Engine(config, events=log, part=part)
        report = await _drained_when_cancelled(engine)
    finally:
        log.close()
    if isinstance(report.stopped, BulkgrokError) and report.exit_code in _RAISED:
        raise report.stopped
    return report


def _log(config: RunConfig) -> EventLog:
    redact = Redaction(config.secrets)
    return EventLog(
        config.log_file or places(config).run_dir / "log.jsonl",
        level=config.log_level,
        redact=redact,
        links=config.log_file is not None,
    )


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
) -> AsyncIterator[dict[str, Any]]:
    """Send rows as they come and yield an outcome for each as it settles, in the shape of the results and errors files.

    Args:
        rows: Dicts in any of the row shapes; taken as fast as they can be sent, spooled to disk as they are taken.
        run_dir: Where the checkpoint is kept. A later call with the same directory compares its rows with the earlier
            ones, yields the stored outcomes again, then goes on. None: a temporary place, removed at the end.
        **flags: Flags of `bulkgrok run` in snake case, but those that name files.

    Yields:
        One dict a row, in order of completion; `row` (0-based) restores the order of `rows`.

    Raises:
        BulkgrokError: As for `run`; code 4 after the last outcome when the money is used up; code 6 when a row differs
            from that of the earlier call.
    """
    if files := _FILES & flags.keys():
        msg = f"stream() has no {min(files)}: rows come from `rows`, outcomes to the caller. Nothing was sent."
        raise UsageError(msg, hint="bulkgrok.run(input, output=...) reads and writes files.")
    async with AsyncExitStack() as stack:
        folder = Path(run_dir) if run_dir is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = from_keywords("-", run_dir=folder / "run", output=folder / "outcomes.jsonl", **flags)
        streaming = Streaming(replace(config, input="rows"), rows, log=_log(config))
        async with aclosing(streaming.outcomes()) as outcomes:
            async for outcome in outcomes:
                yield outcome
