"""One start of a run on a thread of its own, so that the task's main thread can be told to end it.

Law: a task that is killed sends nothing new, keeps what arrives within 4 s and has ended within 5: then Airflow sends
SIGKILL. Whatever else takes the task off (a time-out, Ctrl-C) ends the run in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bulkgrok.airflow.tasklog import TaskLog
from bulkgrok.config import RunConfig, load
from bulkgrok.core.errors import RunLocked, UsageError
from bulkgrok.core.part import Part
from bulkgrok.core.report import Report
from bulkgrok.core.secret import Secret
from bulkgrok.engine import Engine

_DRAINS_S: Final = 4.0
_ENDS_S: Final = 4.8
_LOOKS_S: Final = 0.5
_LOCKED_S: Final = 60.0
_LOCKED_LOOKS_S: Final = 2.0
#: Options that the task gives in another way, or that are for the command line.
_NOT_OPTIONS: Final = frozenset({"input", "output", "checkpoint", "run_id", "preview", "progress", "json"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a start of a run ended."""

    report: Report
    next_at: float | None
    """UNIX seconds at which the next round pays; None when there is none to be."""


def run_id_of(context: Mapping[str, Any]) -> str:
    """Return the name of a task's run: the same at every try."""
    task = context["ti"]
    return f"{task.dag_id}/{task.task_id}/{task.run_id}/{task.map_index}"


def config_of(  # noqa: PLR0913 - what a task is told
    *,
    input: str,  # noqa: A002 - the public name
    output: str | None,
    checkpoint: str | None,
    run_id: str,
    options: Mapping[str, Any],
    api_key: Secret | None,
) -> RunConfig:
    """Return the configuration of a task's run.

    Raises:
        UsageError: An option cannot be used.
    """
    if wrong := sorted(_NOT_OPTIONS.intersection(options)):
        msg = f"options has {', '.join(wrong)}: the task's own arguments say that, or nothing does. Nothing was sent."
        raise UsageError(msg)
    own = {"input": input, "output": output, "checkpoint": checkpoint, "run_id": run_id}
    config = load({**options, **own}, api_key=api_key)
    remote = config.output is not None and "://" in str(config.output)
    if config.run_dir is None and remote and not isinstance(config.checkpoint, Path | None):
        # Nothing that lies there is needed by the next try, which may be on another machine.
        name = hashlib.sha256(f"{config.checkpoint}\n{run_id}".encode()).hexdigest()[:24]
        config = replace(config, run_dir=Path(tempfile.gettempdir()) / f"bulkgrok-{name}.bulkgrok")
    return config


class Running:
    """One start of a run, or several while another runner holds it.

    Args:
        config: What is run.
        part: All of it, or a round.
        log: Told what happens.
    """

    def __init__(self, config: RunConfig, part: Part, *, log: TaskLog) -> None:
        self._config = config
        self._part = part
        self._log = log
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.ended = False
        """Whether it was told to end."""

    def run(self) -> Ended:
        """Run, and wait up to a minute for a runner that holds the run.

        Raises:
            BulkgrokError: As the engine's.
        """
        until = time.monotonic() + _LOCKED_S
        while True:
            try:
                return self._once()
            except RunLocked as error:
                if self.ended or time.monotonic() >= until:
                    raise
                self._log.say(f"{error.message} Waiting for it.")
                time.sleep(_LOCKED_LOOKS_S)

    def _once(self) -> Ended:
        results: list[Ended | BaseException] = []

        def body() -> None:
            try:
                results.append(asyncio.run(self._start()))
            except BaseException as error:  # noqa: BLE001 - raised again in the task's thread
                results.append(error)

        self._thread = thread = threading.Thread(target=body, name="bulkgrok")
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_LOOKS_S)
        except BaseException:
            self.end()
            raise
        result = results[0]
        if isinstance(result, BaseException):
            raise result
        return result

    async def _start(self) -> Ended:
        self._loop = asyncio.get_running_loop()
        self._engine = Engine(self._config, events=self._log, say=self._log.say, part=self._part)
        if self.ended:
            self._engine.drain(143)
        report = await self._engine.run()
        return Ended(report=report, next_at=self._engine.next_at)

    def end(self) -> None:
        """Send nothing new, keep what arrives in time, and return when the run has ended: within 5 s. May come twice.

        Called on the task's main thread, also from inside of a signal handler that interrupted `run`.
        """
        self.ended = True
        thread, loop = self._thread, self._loop
        if thread is None or not thread.is_alive():
            return
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it ended in this moment
                loop.call_soon_threadsafe(self._drain)
        thread.join(_ENDS_S)

    def _drain(self) -> None:
        engine = self._engine
        if engine is not None:
            engine.drain(143)
            asyncio.get_running_loop().call_later(_DRAINS_S, engine.abort)
