"""What the transport reads from headers, and what it makes of broken ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.transport import reading
from bulkgrok.transport.failures import printable, reason

NOON = 1704110400.0  # Mon, 01 Jan 2024 12:00:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("7", 7.0), (" 7 ", 7.0), ("1.5", 1.5), ("604800", 604800.0), ("Mon, 01 Jan 2024 12:00:30 GMT", 30.0)],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert reading.retry_after_s(value, NOON) == seconds


def test_a_date_that_has_passed_asks_for_no_wait():
    assert reading.retry_after_s("Mon, 01 Jan 2024 11:00:00 GMT", NOON) == 0.0


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "-1",
        "nan",
        "inf",
        "1e9",
        "soon",
        "Mon, 99 Foo 2024",
        "7, 8",
        "\x00",
        "9" * 400,
        "Mon, 01 Jan 2999 00:00:00 GMT",
    ],
)
def test_a_retry_after_that_makes_no_sense_is_none(value):
    assert reading.retry_after_s(value, NOON) is None


@given(st.text(max_size=80))
def test_no_header_ever_raises(value):
    reading.retry_after_s(value, None)
    reading._date(value)
    reading._request_id(value)


@pytest.mark.parametrize(
    ("value", "kept"),
    [("abc-1_2", "abc-1_2"), ("a\x1b[31mb\u00e9 c", "a[31mbc"), ("x" * 5000, "x" * 256), ("\x00", None), ("", None)],
)
def test_a_request_id_is_printable_ascii_of_256_characters(value, kept):
    assert reading._request_id(value) == kept


def test_a_reason_is_one_short_printable_line():
    text = printable("a\r\nb\x1b[31m" + "c" * 1000)
    assert text.isprintable()
    assert len(text) <= 200


@pytest.mark.parametrize("error", [OSError(), OSError("x"), TimeoutError(), ConnectionResetError(104, "secret")])
def test_every_failure_has_words(error):
    assert reason(error)
    assert "secret" not in reason(error)
