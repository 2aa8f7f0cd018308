"""What is shown while a run goes on."""

import io
import json

import pytest

from bulkgrok.core.model import Progress
from bulkgrok.telemetry.pace import Pace
from bulkgrok.telemetry.progress import JsonDisplay, PlainDisplay, QuietDisplay, RichDisplay, make_display


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Gone(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError


def running(**changes):
    return Progress(**{"state": "running", "rows": 100, "succeeded": 10, "failed": 2, **changes})


def test_auto_is_a_bar_on_a_terminal_and_lines_elsewhere():
    assert isinstance(make_display("auto", Terminal()), RichDisplay)
    assert isinstance(make_display("auto", io.StringIO()), PlainDisplay)
    closed = io.StringIO()
    closed.close()
    assert isinstance(make_display("auto", closed), PlainDisplay)
    assert isinstance(make_display("json", Terminal()), JsonDisplay)
    assert isinstance(make_display("none", Terminal()), QuietDisplay)


def test_plain_writes_each_30_s_and_when_the_state_changes():
    clock, out = Clock(), io.StringIO()
    display = PlainDisplay(out, monotonic=clock)
    for _ in range(240):
        display.update(running())
        clock.now += 0.25
    assert len(out.getvalue().splitlines()) == 2
    display.update(running(state="draining", note="waiting for 3 requests"))
    assert out.getvalue().splitlines()[-1].endswith("waiting for 3 requests")
    assert "draining" in out.getvalue()


def test_plain_leaves_the_end_to_the_summary():
    out = io.StringIO()
    display = PlainDisplay(out, monotonic=Clock())
    display.update(running())
    display.update(running(state="finished", succeeded=98))
    assert len(out.getvalue().splitlines()) == 1


def test_a_line_tells_how_far_a_budget_is_taken():
    out = io.StringIO()
    PlainDisplay(out, monotonic=Clock()).update(running(budget_usd=5.0, taken_usd=4.9))
    assert "$4.90 of $5.00 taken" in out.getvalue()


def test_a_line_tells_rows_share_failures_money_and_pace():
    clock, out = Clock(), io.StringIO()
    display = PlainDisplay(out, monotonic=clock)
    display.update(running())
    clock.now += 30
    display.update(running(succeeded=70, in_flight=20, outstanding=5, cost_usd=0.5, in_doubt=1, lost=2, throttled=3))
    line = out.getvalue().splitlines()[-1]
    for part in (
        "72 of 100 rows",
        "72%",
        "2.0/s",
        "14.0 s left",
        "2 failed",
        "20 in flight",
        "5 outstanding",
        "$0.5000",
    ):
        assert part in line
    for part in ("1 in doubt", "2 lost", "3 x 429"):
        assert part in line


def test_rows_that_are_still_being_counted_are_shown_without_a_share():
    out = io.StringIO()
    PlainDisplay(out, monotonic=Clock()).update(running(rows=None))
    assert out.getvalue() == "12 rows  2 failed\n"


def test_json_writes_objects():
    clock, out = Clock(), io.StringIO()
    display = JsonDisplay(out, monotonic=clock)
    for _ in range(17):
        display.update(running())
        clock.now += 0.25
    display.message("stopping\n")
    objects = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [item["type"] for item in objects] == ["progress"] * 3 + ["message"]
    assert (objects[0]["succeeded"], objects[0]["rows"]) == (10, 100)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_bar_fits_any_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    clock, out = Clock(), Terminal()
    display = RichDisplay(out, color=False, monotonic=clock)
    for rows in (None, 0, 100):
        display.update(running(rows=rows, note="waiting \x1b[2J for the API, 3 of its words", outstanding=1_000_000))
        clock.now += 1
    display.message("a sentence \x1b[31m")
    display.close()
    display.close()
    shown = out.getvalue()
    assert "\x1b[2J" not in shown
    assert "\x1b[31m" not in shown
    assert "12 of 100 rows"[: width // 2] in shown


@pytest.mark.parametrize("choice", ["rich", "plain", "json", "none"])
def test_a_stream_that_is_gone_stops_nothing(choice):
    clock = Clock()
    display = make_display(choice, Gone(), monotonic=clock)
    for _ in range(3):
        display.update(running())
        display.message("x")
        clock.now += 60
    display.close()


def test_a_stream_that_knows_only_ascii_gets_escapes():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    PlainDisplay(stream, monotonic=Clock()).message("naïve …")
    assert raw.getvalue() == b"na\\xefve \\u2026\n"


def test_the_pace_is_that_of_the_last_minute():
    pace = Pace()
    for second in range(300):
        pace.add(float(second), second if second < 200 else 200 + (second - 200) * 10)
    assert pace.per_second == pytest.approx(10, rel=0.01)
    assert pace.left_s(100) == pytest.approx(10, rel=0.01)
    assert pace.left_s(None) is None


def test_a_pace_starts_afresh_when_counts_go_back():
    pace = Pace()
    pace.add(1.0, 100)
    pace.add(2.0, 50)
    assert pace.per_second == 0


@pytest.mark.parametrize("display_of", [PlainDisplay, JsonDisplay])
def test_a_note_in_which_only_figures_move_is_no_news(display_of):
    clock, out = Clock(), io.StringIO()
    display = display_of(out, monotonic=clock)
    for number in range(1_000):
        display.update(running(state="outage", note=f"503; gives up in {1000 - number} s"))
        clock.now += 0.001
    assert len(out.getvalue().splitlines()) == 1
    display.update(running(state="outage", note="refused"))
    assert len(out.getvalue().splitlines()) == 2
