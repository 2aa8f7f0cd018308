"""Progress on standard error: a bar on a terminal, plain lines elsewhere, JSON lines, or nothing.

Law: a display is told `update(progress)` several times a second, and once when the run has ended; it decides itself
when to draw. A terminal that has gone away or refuses a character stops nothing. Foreign text is made printable before
it is shown.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from bulkgrok.core.model import Progress
from bulkgrok.telemetry.pace import Pace
from bulkgrok.telemetry.wording import count, duration, money, printable, rate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

REDRAW_S = 0.25
PLAIN_S = 30.0
JSON_S = 2.0

Monotonic = Callable[[], float]


class Display(Protocol):
    """Shows a run while it goes on."""

    def update(self, progress: Progress) -> None:
        """Take the live counters; called about four times a second, cheap when nothing is due."""
        ...

    def message(self, text: str) -> None:
        """Show a sentence at once."""
        ...

    def close(self) -> None:
        """Take down what is on the screen. Harmless twice."""
        ...


def make_display(choice: str, stream: TextIO, *, color: bool = True, monotonic: Monotonic = time.monotonic) -> Display:
    """Return the display for `--progress`: `auto` is a bar on a terminal and plain lines elsewhere.

    Args:
        choice: auto, rich, plain, json or none.
        stream: Where it is shown.
        color: Whether the environment allows colours and cursor movements (NO_COLOR, TERM=dumb).
        monotonic: The clock, in seconds.
    """
    if choice == "auto":
        choice = "rich" if color_terminal(stream) else "plain"
    match choice:
        case "rich":
            return RichDisplay(stream, color=color, monotonic=monotonic)
        case "json":
            return JsonDisplay(stream, monotonic=monotonic)
        case "none":
            return QuietDisplay(stream)
        case _:
            return PlainDisplay(stream, monotonic=monotonic)


def color_terminal(stream: TextIO) -> bool:
    """Tell whether the stream is a terminal (a closed one is none)."""
    try:
        return stream.isatty()
    except ValueError:
        return False


class _Lines:
    """Writes whole lines; a stream that fails once is left alone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def write(self, line: str) -> None:
        if self._gone:
            return
        try:
            try:
                self._stream.write(line + "\n")
            except UnicodeEncodeError:
                self._stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._gone = True


class QuietDisplay:
    """`--progress none`: only messages."""

    def __init__(self, stream: TextIO) -> None:
        self._lines = _Lines(stream)

    def update(self, progress: Progress) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show a sentence."""
        self._lines.write(printable(text, limit=2000, lines=True))

    def close(self) -> None:
        """Do nothing."""


def _gist(progress: Progress) -> tuple[str, str]:
    """Return state and note without figures: a clock or a count that moves in a note is no news."""
    return progress.state, "".join(character for character in progress.note if not character.isdigit())


class PlainDisplay:
    """A line every 30 s and whenever the run's state or its note changes; its end is told by the summary."""

    def __init__(self, stream: TextIO, *, monotonic: Monotonic = time.monotonic) -> None:
        self._lines = _Lines(stream)
        self._monotonic = monotonic
        self._pace = Pace()
        self._due = 0.0
        self._told = ("starting", "")

    def update(self, progress: Progress) -> None:
        """Write a line if one is due."""
        if progress.state == "finished":
            return
        now = self._monotonic()
        self._pace.add(now, progress.succeeded + progress.failed - progress.done_before)
        told = _gist(progress)
        if told == self._told and now < self._due:
            return
        first = self._due == 0.0
        self._told, self._due = told, now + PLAIN_S
        if not (first and progress.state == "starting" and not progress.note):
            self._lines.write(describe(progress, self._pace))

    def message(self, text: str) -> None:
        """Write a sentence."""
        self._lines.write(printable(text, limit=2000, lines=True))

    def close(self) -> None:
        """Do nothing."""


class JsonDisplay:
    """A JSON object with every counter, each 2 s and whenever state or note change; messages are objects too.

    The last one is of the state "finished" and holds the final counts, however the run ended.
    """

    def __init__(self, stream: TextIO, *, monotonic: Monotonic = time.monotonic) -> None:
        self._lines = _Lines(stream)
        self._monotonic = monotonic
        self._due = 0.0
        self._told = ("", "")

    def update(self, progress: Progress) -> None:
        """Write an object if one is due."""
        now = self._monotonic()
        told = _gist(progress)
        if told != self._told or now >= self._due:
            self._told, self._due = told, now + JSON_S
            self._lines.write(json.dumps({"type": "progress", **dataclasses.asdict(progress)}))

    def message(self, text: str) -> None:
        """Write a sentence as an object."""
        self._lines.write(json.dumps({"type": "message", "message": text}))

    def close(self) -> None:
        """Do nothing."""


class RichDisplay:
    """A bar with figures, redrawn at most four times a second."""

    def __init__(self, stream: TextIO, *, color: bool = True, monotonic: Monotonic = time.monotonic) -> None:
        self._console = _console(stream, color=color)
        self._monotonic = monotonic
        self._pace = Pace()
        self._due = 0.0
        self._live: Live | None = None
        self._gone = False

    def update(self, progress: Progress) -> None:
        """Redraw if it is time."""
        now = self._monotonic()
        if self._gone or now < self._due:
            return
        self._due = now + REDRAW_S
        self._pace.add(now, progress.succeeded + progress.failed - progress.done_before)
        self._guarded(lambda: self._draw(progress))

    def message(self, text: str) -> None:
        """Print a sentence above the bar."""
        from rich.text import Text  # noqa: PLC0415 - as above

        self._guarded(lambda: self._console.print(Text(printable(text, limit=2000, lines=True)), soft_wrap=True))

    def close(self) -> None:
        """Take the bar away; the summary follows."""
        live, self._live = self._live, None
        if live is not None:
            self._guarded(live.stop)

    def _guarded(self, act: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            act()
        except (OSError, ValueError):
            self._gone = True

    def _draw(self, progress: Progress) -> None:
        from rich.live import Live  # noqa: PLC0415 - as above

        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
                              redirect_stderr=False)  # fmt: skip
            self._live.start()
        self._live.update(self._table(progress), refresh=True)

    def _table(self, progress: Progress) -> Table:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415 - as above
        from rich.table import Table  # noqa: PLC0415 - as above
        from rich.text import Text  # noqa: PLC0415 - as above

        done = progress.succeeded + progress.failed
        width = self._console.width
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=progress.rows or 1, completed=min(done, progress.rows or 0), width=max(width // 4, 8))
        table.add_row(bar, Text(headline(progress, self._pace)))
        figures = details(progress)
        outer = Table.grid()
        outer.add_column(no_wrap=True, overflow="ellipsis")
        outer.add_row(table)
        if figures:
            outer.add_row(Text(figures, style="dim"))
        if progress.note:
            outer.add_row(Text(printable(progress.note, limit=max(width, 20)), style="yellow"))
        return outer


def _console(stream: TextIO, *, color: bool) -> Console:
    from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal needs

    class Patient(Console):
        """rich ends the process when its terminal hangs up; a run must go on."""

        def on_broken_pipe(self) -> None:
            """Leave it to the caller."""
            raise BrokenPipeError

    return Patient(file=stream, no_color=not color, highlight=False)


def headline(progress: Progress, pace: Pace) -> str:
    """Return how far a run is: rows done of all, the share, the pace and the time left."""
    done = progress.succeeded + progress.failed
    parts = [f"{count(done)} of {count(progress.rows)} rows" if progress.rows is not None else f"{count(done)} rows"]
    if progress.rows:
        parts.append(f"{min(done / progress.rows, 1):.0%}")
    if progress.state not in {"running", "starting"}:
        parts.append(progress.state)
    if pace.per_second:
        parts.append(rate(pace.per_second))
    left = pace.left_s(None if progress.rows is None else max(progress.rows - done, 0))
    if left and progress.state == "running":
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def details(progress: Progress) -> str:
    """Return the other figures that are not nought."""
    figures = (
        (progress.failed, f"{count(progress.failed)} failed"),
        (progress.in_flight, f"{count(progress.in_flight)} in flight"),
        (progress.outstanding, f"{count(progress.outstanding)} outstanding"),
        (progress.downloads, f"{count(progress.downloads)} downloading"),
        (progress.in_doubt, f"{count(progress.in_doubt)} in doubt"),
        (progress.lost, f"{count(progress.lost)} lost"),
        (progress.throttled, f"{count(progress.throttled)} x 429"),
        (progress.cost_usd, money(progress.cost_usd)),
        (
            progress.budget_usd is not None,
            f"{money(progress.taken_usd or 0.0)} of {money(progress.budget_usd or 0.0)} taken",
        ),
    )
    return "  ".join(text for number, text in figures if number)


def describe(progress: Progress, pace: Pace) -> str:
    """Return one plain line with everything."""
    parts = (headline(progress, pace), details(progress), printable(progress.note, limit=300))
    return "  ".join(part for part in parts if part)
