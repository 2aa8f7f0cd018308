"""`bulkgrok run INPUT`: run, or resume.

Law: flags become one RunConfig, the engine does the work, this module shows it. The first Ctrl-C or SIGTERM drains:
nothing new is sent and what is in flight is awaited; the second stops at once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from bulkgrok.cli.messages import again, error_stream, say, say_crash, say_error, unwrap, write_out
from bulkgrok.cli.shielding import shield
from bulkgrok.config import FLAGS, Flag, RunConfig, color_wanted, load, places
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.part import Part
from bulkgrok.telemetry.wording import duration, json_printable, noun, printable

if TYPE_CHECKING:
    from bulkgrok.core.model import Progress
    from bulkgrok.core.report import Report
    from bulkgrok.engine import Engine
    from bulkgrok.telemetry.logging import EventLog
    from bulkgrok.telemetry.progress import Display
    from bulkgrok.telemetry.redaction import Redaction

TICK_S: Final = 0.25
FIRST_COMMAND: Final = "type the first command (`bulkgrok submit …` or `run …`) again with --retry-failed"


def _option(flag: Flag) -> click.Option:
    names = [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])]
    if flag.switch:
        return click.RichOption([*names, flag.keyword], is_flag=True, default=None, help=flag.help, panel=flag.section)
    return click.RichOption(
        [*names, flag.keyword],
        metavar=flag.metavar,
        multiple=flag.many,
        help=flag.help + _default(flag),
        panel=flag.section,
    )


def _default(flag: Flag) -> str:
    """Return a flag's default as help shows it, where the configuration has one that says something."""
    if flag.many or "Default:" in flag.help or flag.field not in _DEFAULTS:
        return ""
    value = _DEFAULTS[flag.field]
    if flag.metavar == "DURATION" and isinstance(value, float):
        value = f"{value / 3600:g}h"
    return "" if value is None else f" Default: {value}."


_DEFAULTS: Final[dict[str, Any]] = {
    name: getattr(RunConfig(input="-"), name) for name in RunConfig.__dataclass_fields__ if name != "api_key"
}


def command(  # noqa: PLR0913 - the parts of a command
    name: str,
    callback: Callable[..., int],
    *,
    argument: str,
    flags: Iterable[Flag],
    short_help: str,
    help: str,  # noqa: A002 - click's name
) -> click.RichCommand:
    """Return a command that runs a part of a run.

    Args:
        name: What is typed.
        callback: Given the argument (`input` or `run`) and every flag by its keyword.
        argument: INPUT or RUN.
        flags: Its flags.
        short_help: Its line in the list of commands.
        help: What its own help says.
    """
    return click.RichCommand(
        name=name,
        callback=callback,
        params=[click.Argument([argument.lower()], metavar=argument, type=str), *(_option(flag) for flag in flags)],
        context_settings={"help_option_names": ["-h", "--help"]},
        short_help=short_help,
        help=help,
    )


def loaded(flags: dict[str, object]) -> RunConfig:
    """Return the configuration that a command line with an INPUT asks for."""
    config_file = flags.pop("config", None)
    return load(flags, config_file=str(config_file) if config_file else None)


def _callback(**flags: object) -> int:
    shield()
    return execute(loaded(flags))


run = command(
    "run",
    _callback,
    argument="INPUT",
    flags=FLAGS,
    short_help="Run, or resume: the same command again continues where it stopped.",
    help="Send every row of INPUT to the xAI API and write one answer a row.\n\n"
    "INPUT is .jsonl, .parquet or .txt (one prompt a line), also .gz or .zst; - is JSON lines on standard "
    "input. The same command again continues where it stopped. Every flag also reads BULKGROK_<FLAG>, and TOML "
    "(--config) below that. Durations are seconds, or 90s, 15m, 24h.",
)


def execute(config: RunConfig, part: Part = Part.WHOLE) -> int:
    """Do a part of the run of one configuration to its end and return the exit code."""
    from bulkgrok.telemetry.logging import EventLog  # noqa: PLC0415 - help must not wait for it
    from bulkgrok.telemetry.progress import make_display  # noqa: PLC0415 - as above
    from bulkgrok.telemetry.redaction import Redaction  # noqa: PLC0415 - as above

    redact = Redaction(config.secrets)
    for warning in config.warnings:
        say(f"note: {printable(warning)}")
    if config.preview is not None:
        return _preview(config)
    from bulkgrok.engine import openfiles  # noqa: PLC0415 - help must not wait for it

    openfiles.raise_limit(config)
    openfiles.verify(config)
    # What the end of a run needs is loaded at its beginning: in between, days may go by, and an upgrade.
    import_module("bulkgrok.cli.summary")
    log = EventLog(
        config.log_file or places(config).run_dir / "log.jsonl",
        level=config.log_level,
        redact=redact,
        links=config.log_file is not None,
    )
    log("run.starting", input=config.input, endpoint="simulator" if config.simulate else config.base_url)
    display = make_display(config.progress, error_stream(), color=color_wanted())
    try:
        report, progress = _run(config, log, display, part)
    except Exception as error:  # noqa: BLE001 - the boundary of a run: told in words, the traceback goes to the log
        known = unwrap(error)
        if isinstance(known, BulkgrokError):
            log("run.refused", error=type(known).__name__, message=known.message, exit_code=known.exit_code)
            display.close()
            say_error(known, redact)
            return known.exit_code
        display.close()
        say_crash(error, log=log.path if log.crashed(error) else None, redact=redact)
        return 1
    finally:
        display.close()
        log.close()
        if log.broken is not None:
            say(f"note: the log {printable(log.path)} could not be written: {printable(log.broken)}")
    return _conclude(config, report, progress, redact, part)


def _conclude(config: RunConfig, report: Report, progress: Progress, redact: Redaction, part: Part) -> int:
    """Say how a run ended: the summary to standard output, what to do next to standard error."""
    from bulkgrok.cli.summary import after_failures, after_half, summary_text  # noqa: PLC0415 - help must not wait for it

    if isinstance(report.stopped, BulkgrokError):
        say_error(report.stopped, redact)
    text = summary_text(
        report, requests=progress.requests, simulated=config.simulate, deadline_at=progress.next_deadline_at, part=part
    )
    write_out(json.dumps(report.as_json()) if config.json else text)
    if report.exit_code in {130, 143} or (report.exit_code >= 4 and not getattr(report.stopped, "hint", None)):
        say(f"next: {again()}   (continues where it stopped)")
    elif report.exit_code in {0, 3}:
        retry = FIRST_COMMAND if part is Part.COLLECT else again("--retry-failed")
        lines = []
        if report.failed:
            lines = after_failures(report, source=config.input, again=retry, template=config.prompt is not None)
        for line in [*lines, *after_half(report, part)]:
            say(line)
    return report.exit_code


def _preview(config: RunConfig) -> int:
    from bulkgrok.engine import preview  # noqa: PLC0415 - help must not wait for it

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        requests = runner.run(preview(config, config.preview or 0))
    for request in requests:
        write_out(json_printable(json.dumps(request, ensure_ascii=False)))
    return 0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where it is installed, else None for the standard one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _run(config: RunConfig, log: EventLog, display: Display, part: Part) -> tuple[Report, Progress]:
    from bulkgrok.engine import Engine  # noqa: PLC0415 - help must not wait for it

    _collect_seldom()
    _keep_small()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        engine = Engine(config, events=log, say=display.message, part=part)
        report = runner.run(_drive(engine, display))
        return report, engine.progress


def _collect_seldom() -> None:
    """Let the search for cyclic garbage pass over what stays for good, and come less often.

    A row leaves no cycles behind; with the defaults the search took a tenth of all CPU time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _keep_small() -> None:
    """Keep out of memory what Parquet needs not, where that is not the caller's to choose, as it is in a library.

    pyarrow loads pandas wherever that is installed (50 MB), and its own allocator keeps 40 MB of what is given back.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas())


class _NoPandas(MetaPathFinder):
    """Says that pandas is not installed."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:  # noqa: ARG002 - the protocol's
        """Refuse pandas, and leave everything else to others."""
        if fullname == "pandas":
            raise ModuleNotFoundError(name=fullname)


async def _drive(engine: Engine, display: Display) -> Report:
    """Run the engine with signals and a display attached."""
    stop = Stopping(engine, display)
    stop.attach(asyncio.get_running_loop())
    ticker = asyncio.create_task(_tick(engine, display))
    try:
        report = await engine.run()
        display.update(engine.look())
    finally:
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)
        stop.detach()
    return report


async def _tick(engine: Engine, display: Display) -> None:
    while True:
        display.update(engine.look())
        await asyncio.sleep(TICK_S)


class Stopping:
    """What signals do: the first drains, the second gives up what is in flight, the third ends the process.

    Before the first request there is nothing to drain, and a run that reads a pipe must not take the death of the
    pipe's other end, which the same Ctrl-C kills, for the end of its input: the process ends at once.

    Args:
        engine: What is stopped.
        display: Where it is told.
        leave: Ends the process at once. A run survives that at any moment.
    """

    def __init__(self, engine: Engine, display: Display, *, leave: Callable[[int], object] = os._exit) -> None:
        self._engine = engine
        self._display = display
        self._leave = leave
        self._signals = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._attached: list[tuple[int, Callable[[int, FrameType | None], Any] | int | None]] = []

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen. A hang-up counts as SIGTERM, unless it is ignored (nohup)."""
        self._loop = loop
        codes = {signal.SIGINT: 130, signal.SIGTERM: 143}
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            codes[signal.SIGHUP] = 143
        for number, code in codes.items():
            self._attached.append((number, signal.getsignal(number)))
            loop.add_signal_handler(number, self._on_signal, number, code)

    def detach(self) -> None:
        """Stop listening."""
        for number, before in self._attached:
            if self._loop is not None:
                self._loop.remove_signal_handler(number)
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._attached.clear()

    def _on_signal(self, number: int, code: int) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._signals += 1
        if self._engine.progress.state == "starting" or self._signals > 2:
            nothing = "" if self._signals > 2 else " Nothing was sent."
            self._display.message(f"{name}: stopped at once.{nothing}")
            self._display.close()
            self._leave(code)
        elif self._signals == 1:
            self._engine.drain(code)
            self._display.message(f"{name}: {draining(self._engine.look())}")
        else:
            self._display.message(f"{name} again: stopping at once.")
            self._engine.abort()


def draining(progress: Progress) -> str:
    """Return what a drain waits for, and what a second signal would do."""
    parts = ["nothing new is sent"]
    if progress.in_flight:
        parts.append(f"waiting for {noun(progress.in_flight, 'request')} in flight")
    if progress.downloads:
        parts.append(f"{noun(progress.downloads, 'download')} will begin again after a restart")
    if progress.outstanding:
        waits = f"{noun(progress.outstanding, 'accepted request')} can be fetched after a restart"
        if progress.next_deadline_at is not None:
            waits += f" until {_clock(progress.next_deadline_at)}"
        parts.append(waits)
    return "; ".join(parts) + ". Once more stops at once, and what is in flight may be paid and lost."


def _clock(at: float) -> str:
    import time  # noqa: PLC0415 - only here

    left = max(at - time.time(), 0)
    return f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(at))} (in {duration(left)})"
