"""`bulkgrok simulator`: the built-in API on loopback ports, until Ctrl-C.

Law: standard output carries one line, `base_url=…`, so that scripts can wait for it; everything else goes to standard
error. A flag for every setting; `--settings` reads them from a file, flags come before it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from bulkgrok.cli.messages import say, write_out
from bulkgrok.core.errors import StorageFailed, UsageError
from bulkgrok.simulator.settings import FIELDS, SimulatorSettings
from bulkgrok.telemetry.wording import printable

if TYPE_CHECKING:
    from bulkgrok.simulator.server import SimulatorServer

_PANELS: Final = {
    "duration": "Time",
    "number": "Time",
    "limit": "Limits",
    "limits": "Limits",
    "choice": "Shapes",
    "switch": "Shapes",
    "before": "Faults before a request is accepted (shares from 0 to 1)",
    "rate": "Faults before a request is accepted (shares from 0 to 1)",
    "after": "Faults after it is accepted (shares from 0 to 1)",
    "fate": "What becomes of accepted work (shares from 0 to 1)",
    "media": "The media host (shares from 0 to 1)",
}
_METAVARS: Final = {
    "duration": "DURATION",
    "number": "N",
    "whole": "N",
    "count": "N",
    "limit": "N",
    "limits": "JSON",
    "words": "KEYS",
    "before": "SHARE",
    "rate": "SHARE",
    "after": "SHARE",
    "fate": "SHARE",
    "media": "SHARE",
}


def _option(name: str) -> click.Option:
    field = FIELDS[name]
    kind, choices, default = field.metadata["kind"], field.metadata["choices"], field.default
    flag = name.replace("_", "-")
    shown = "" if default in (None, ()) else f" Default: {_shown(default, kind)}."
    text = field.metadata["help"] + shown
    panel = _PANELS.get(kind, "Behaviour")
    if kind == "switch":
        text += f" --no-{flag} switches it off." if default else ""
        return _Switch([f"--{flag}/--no-{flag}", name], default=None, help=text, panel=panel)
    if choices:  # the words stand in the text: as a metavar they would leave it no room
        return click.RichOption(
            [f"--{flag}", name], metavar="WORD", help=f"{text} One of {', '.join(choices)}.", panel=panel
        )
    metavar = "BYTES" if flag == "media-size" else _METAVARS[kind]
    return click.RichOption([f"--{flag}", name], metavar=metavar, help=text, panel=panel)


class _Switch(click.RichOption):
    """A switch that help shows by one name: two of them break in the middle of words on a narrow terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **kwargs)
        self._off, self.secondary_opts = self.secondary_opts, []

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:  # noqa: ANN401 - a private type of click
        """Accept both names."""
        self.secondary_opts = self._off
        super().add_to_parser(parser, ctx)
        self.secondary_opts = []


def _shown(default: object, kind: str) -> str:
    if kind == "duration" and isinstance(default, float) and default >= 3600 and default % 3600 == 0:
        return f"{default / 3600:g}h"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _callback(
    port: int, media_port: int, settings: str | None, journal: str | None, ledger_file: str | None, **flags: object
) -> int:
    from bulkgrok.simulator.server import SimulatorServer  # noqa: PLC0415 - help must not wait for it

    wanted = _settings(settings, {name: value for name, value in flags.items() if value is not None})
    server = SimulatorServer(wanted, journal=Path(journal) if journal else None)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(server, port, media_port, Path(ledger_file) if ledger_file else None))


simulator = click.RichCommand(
    name="simulator",
    callback=_callback,
    params=[
        click.RichOption(
            ["--port"], type=click.IntRange(0, 65_535), default=0, help="Port of the API. Default: any free one."
        ),
        click.RichOption(
            ["--media-port"],
            type=click.IntRange(0, 65_535),
            default=0,
            help="Port of the media host. Default: any free one.",
        ),
        click.RichOption(["--settings"], metavar="FILE", help="A .json or .toml file; flags come before it."),
        click.RichOption(
            ["--journal"],
            metavar="PATH",
            help="Where to keep accepted jobs and what became of them, so that the next simulator goes on with them.",
        ),
        click.RichOption(["--ledger-file"], metavar="PATH", help="Where to write the ledger as JSON at the end."),
        *(_option(name) for name in FIELDS),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="Play the xAI API on a loopback port.",
    help="Play the xAI API on a loopback port: no key of yours, no cost, answers made up.\n\n"
    "It prints base_url=… and runs until Ctrl-C. Faults, latencies and limits are flags, and can be changed while it "
    "runs: POST them as JSON to /_simulator/settings. GET /_simulator/ledger tells what it accepted, billed and "
    "delivered.",
)


def _settings(path: str | None, flags: dict[str, object]) -> SimulatorSettings:
    """Return the settings of a file and of flags.

    Raises:
        UsageError: The file cannot be read, or a value cannot be.
    """
    found = SimulatorSettings()
    try:
        if path is not None:
            found = found.merged(_read_file(Path(path)))
        return found.merged(flags)
    except ValueError as error:
        where = f" ({path})" if path is not None else ""
        msg = f"The simulator cannot be set so{printable(where)}: {printable(str(error))}. It was not started."
        raise UsageError(msg, hint="bulkgrok simulator --help") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"The settings file {printable(path)} cannot be read: {error.strerror or error}. Nothing was started."
        raise UsageError(msg) from None
    text = data.decode("utf-8-sig", "strict")
    try:
        value = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except RecursionError:
        value = None
    if not isinstance(value, dict):
        msg = "the file must hold one object of settings"
        raise ValueError(msg)  # noqa: TRY004 - told like any other value that cannot be
    return value


def _loop_factory() -> Any:  # noqa: ANN401 - uvloop's, or None
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(server: SimulatorServer, port: int, media_port: int, ledger_file: Path | None) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        await server.start(port=port, media_port=media_port)
    except OSError as error:
        msg = f"The simulator cannot listen on 127.0.0.1: {error.strerror or error}. It was not started."
        raise UsageError(msg, hint="bulkgrok simulator   (without --port it takes a free one)") from None
    try:
        write_out(f"base_url={server.base_url}")
        _explain(server)
        await ended.wait()
    finally:
        await server.stop()
        if ledger_file is not None:
            _write_ledger(server, ledger_file)
    return 0


def _explain(server: SimulatorServer) -> None:
    control = server.base_url.removesuffix("/v1") + "/_simulator"
    say(
        f"The xAI API is simulated at {server.base_url}, its videos at {server.media_url}. Any key will do.\n"
        f"  try:      XAI_API_KEY=any bulkgrok run inputs.jsonl --base-url {server.base_url}\n"
        f"  ledger:   curl {control}/ledger\n"
        f"  settings: curl {control}/settings   (POST changes them)\n"
        "  end:      Ctrl-C"
    )


def _write_ledger(server: SimulatorServer, path: Path) -> None:
    try:
        path.write_text(json.dumps(server.world.ledger.as_json()), encoding="utf-8")
    except OSError as error:
        msg = f"The ledger could not be written to {printable(path)}: {error.strerror or error}."
        raise StorageFailed(msg) from None
