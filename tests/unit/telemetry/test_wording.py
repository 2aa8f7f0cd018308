"""Texts for people."""

import pytest

from bulkgrok.telemetry.wording import duration, money, noun, printable, rate


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
        ("naïve 日本 👩\u200d🚀", "naïve 日本 👩\u200d🚀"),
        (3, "3"),
    ],
)
def test_what_steers_a_terminal_is_made_visible(given, shown):
    assert printable(given) == shown


def test_long_text_is_cut_and_line_breaks_stay_where_they_may():
    assert printable("x" * 1000, limit=10) == "x" * 9 + "…"
    assert printable("a\nb", lines=True) == "a\n    b"


def test_figures_are_short():
    assert [money(usd) for usd in (0, 12.345, 1234.5, 0.0123, 0.0000025)] == [
        "$0.00",
        "$12.35",
        "$1,234.50",
        "$0.0123",
        "$0.0000025",
    ]
    assert [duration(s) for s in (0, 3.21, 65, 3600, 86_399, 100_000)] == [
        "0.0 s",
        "3.2 s",
        "1 min 5 s",
        "1 h",
        "23 h 59 min",
        "1 d 3 h",
    ]
    assert [rate(r) for r in (0, 0.5, 3.21, 1234.5)] == ["0.0/s", "30.0/min", "3.2/s", "1,234/s"]
    assert [noun(1, "row"), noun(2, "row"), noun(2_000, "query", "queries")] == ["1 row", "2 rows", "2,000 queries"]
