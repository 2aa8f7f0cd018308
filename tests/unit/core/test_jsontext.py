import json
import tracemalloc

import pytest

from bulkgrok.core.jsonscan import MAX_DEPTH, is_valid
from bulkgrok.core.jsontext import one_line, too_deep


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b'{"a": 1.0}', b'{"a": 1.0}'),
        (b' \r\n{"a":1e0}\n', b'{"a":1e0}'),
        (b'{\n  "a b": [1,\r\n 2.50, -0],\n "c\\"\\n  d": "x\\\\"\n}', b'{"a b":[1,2.50,-0],"c\\"\\n  d":"x\\\\"}'),
        (b'\xef\xbb\xbf{"a":1}', b'{"a":1}'),
        (b'{"a":1,"a":2}', b'{"a":1,"a":2}'),
        (b'"\\ud800"', b'"\\ud800"'),
        (b'{"n":' + b"9" * 5000 + b"}", b'{"n":' + b"9" * 5000 + b"}"),
        ('{"a":"\u2028é😀"}'.encode(), '{"a":"\u2028é😀"}'.encode()),
        (b"null", b"null"),
        (b'"a"', b'"a"'),
    ],
)
def test_values_stay_as_they_are_on_one_line(raw, line):
    assert one_line(raw) == line


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"{} {}",
        b"{}x",
        b"nul",
        b"NaN",
        b'{"a":Infinity}',
        b"[-Infinity]",
        b'{"a":01}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'{"a":"line\nbreak"}',
        b"{'a':1}",
        b"<html>",
        '{"a":1}'.encode("utf-16"),
        b"\x00",
        b"\xa0{}",
        b"[1,]",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    ],
)
def test_what_is_not_json_is_none(raw):
    assert one_line(raw) is None


def test_nesting_up_to_the_limit_passes():
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert one_line(deep) == deep


def test_brackets_inside_strings_are_no_nesting():
    text = json.dumps(["[{" * 2_000, '"' * 10]).encode()
    assert one_line(text) == text


def test_long_hostile_text_is_judged_too():
    assert one_line(b'"' + b"\\" * 200_000) is None
    assert one_line(b'\n["' + b"\\\\" * 200_000 + b'",\n1]') is not None
    assert one_line(b'"[' * 30_000) is None


QUARTER = 1 << 18
HOSTILE = {
    "escapes": b'"' + b"\\n" * (2 * QUARTER) + b'"',
    "lists": b"[" + b"[]," * QUARTER + b"0]",
    "digits": b"[" + b"1," * QUARTER + b"0]",
    "one number": b"9" * (4 * QUARTER),
    "names": b"{" + b'"a":1,' * (QUARTER // 2) + b'"b":0}',
    "other letters": '["é😀"]'.encode() + b" " * 10,
    "white space": b"[" + b"\n " * (2 * QUARTER) + b"0]",
    "lines": b"[" + b"0,\n" * QUARTER + b"0]",
    "brackets": b"[" * (4 * QUARTER),
    "not ended": b'["' + b"x" * (4 * QUARTER),
}


@pytest.mark.parametrize("judge", [is_valid, too_deep, one_line], ids=lambda judge: judge.__name__)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_judging_takes_no_more_memory_than_twice_the_text(judge, text):
    tracemalloc.start()
    try:
        judge(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(text) + (1 << 20)
