import json
from collections import UserDict
from types import MappingProxyType

import pytest

from bulkgrok.core.errors import UsageError
from bulkgrok.core.model import BadRow, Item, RawRow
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings

ENCODER = RowEncoder(RowSettings(), Prices.shipped())


def refusal(line):
    bad = ENCODER.encode(RawRow(row=0, line=1, value=line))
    assert isinstance(bad, BadRow), bad
    bad.message.encode()
    assert "\n" not in bad.message
    assert len(bad.message) <= 2_000
    return bad.message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "empty"),
        (b"   ", "empty"),
        (b"hello", "not JSON"),
        (b"[1]", "not an array"),
        (b"null", "not null"),
        (b'"x"', "not a string"),
        (b"5", "not a number"),
        (b"true", "not a boolean"),
        (b'{"prompt": "x"', "not JSON"),
        (b'{"prompt": "x"} {}', "not JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8 text: byte 13 is 0xff"),
        (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16"), "not UTF-8"),
        (b"\x00\x00", "NUL"),
        (b'{"prompt": "x", "a": NaN}', "not JSON"),
        (b'{"prompt": "x", "a": -Infinity}', "not JSON"),
        (b'{"prompt": "x", "a": 1e999}', "not JSON"),
        (b'{"prompt": "x", "a": 1e999, "b": 1111111111111111111}', "too large"),
        (b'{"prompt": "x", "a": NaN, "b": 1111111111111111111}', "NaN"),
        (b'{"prompt": "x", "a": "\\ud800"}', "surrogate"),
        (b'{"prompt": "x", "a": ["\\udc00", 1111111111111111111]}', "a[0] holds half a surrogate pair"),
        (b'{"prompt": "x", "custom_id": "\\ud800", "a": 1111111111111111111}', "custom_id holds half"),
        (b'{"prompt": "x", "seed": 18446744073709551616}', "seed is an integer beyond 64 bits"),
        (b'{"prompt": "x", "a": {"b": [1, -9223372036854775809]}}', "a.b[1] is an integer beyond 64 bits"),
        (b'{"prompt": "x", "a": ' + b"9" * 5_000 + b"}", "5000 digits"),
        (b'{"prompt": "x", "a": ' + b"[" * 300 + b"]" * 300 + b"}", "250 deep"),
        (b'{"prompt": ' + b"[" * 200_000, "not JSON"),
        (b'{"prompt": 1111111111111111111, "a":' + b"[" * 200_000, "too deeply"),
        (b'{"prompt": 1111111111111111111, "a":' + b'{"a":' * 900 + b"1" + b"}" * 901, ""),
    ],
)
def test_rubbish_is_a_bad_row_that_says_what_it_is(line, words):
    assert words in refusal(line)


@pytest.mark.parametrize(
    ("line", "at"),
    [
        (b"hello", 1),
        (b'{"prompt": "x"', 15),
        ('{"prompt": "é"} {}'.encode(), 17),
        (b'{"prompt": x, "a": 1111111111111111111}', 12),
        (b'{"messages": "[x]"}', 2),
    ],
)
def test_where_json_breaks_off_is_a_character_of_the_row_and_no_line_beside_that_of_the_file(line, at):
    message = refusal(line)
    assert message.endswith(f" at character {at}")
    assert "line" not in message
    assert "char " not in message


@pytest.mark.parametrize(
    "number", [b"18446744073709551615", b"-9223372036854775808", b"0.1", b"1e22", b"1234567890123456789.5"]
)
def test_numbers_a_double_or_64_bits_can_hold_are_sent_with_their_value(number):
    item = ENCODER.encode(RawRow(row=0, line=1, value=b'{"prompt": "x", "a": ' + number + b"}"))
    assert isinstance(item, Item)
    assert json.loads(item.body)["a"] == json.loads(number)


def test_digits_in_text_are_no_numbers():
    item = ENCODER.encode(RawRow(row=0, line=1, value=json.dumps({"prompt": "9" * 6_000}).encode()))
    assert isinstance(item, Item)


def test_a_byte_order_mark_is_skipped():
    item = ENCODER.encode(RawRow(row=0, line=1, value=b'\xef\xbb\xbf{"prompt": "x"}'))
    assert isinstance(item, Item)


def test_of_a_name_given_twice_the_last_value_counts():
    item = ENCODER.encode(RawRow(row=0, line=1, value=b'{"prompt": "a", "prompt": "b"}'))
    assert json.loads(item.body)["messages"][0]["content"] == "b"


def test_what_the_reader_could_not_offer_is_a_bad_row_with_its_words():
    bad = ENCODER.encode(RawRow(row=3, line=9, value=b"", defect="the line is longer than 64 MiB"))
    assert (bad.row, bad.line, bad.custom_id, bad.message) == (3, 9, "3", "the line is longer than 64 MiB")


def test_bad_rows_with_the_same_bytes_have_the_same_digest():
    for values in ([b"a", b"a", b"b"], [{"a": 1}, {"a": 1}, {"a": "\ud800"}]):
        bad = [ENCODER.encode(RawRow(row=row, line=None, value=value)) for row, value in enumerate(values)]
        assert bad[0].digest == bad[1].digest != bad[2].digest


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": "{{ x"}, "of --prompt is malformed: line 1"),
        ({"system": "{% if %}"}, "--system is malformed"),
        ({"prompt": "\udcff"}, "not UTF-8"),
        ({"prompt": "{{ x | nofilter }}"}, "nofilter"),
        ({"kind": "audio"}, "--kind audio"),
        ({"mode": "batch"}, "--mode batch"),
        ({"params": {"prompt": "x"}}, "use --prompt"),
        ({"params": {"deferred": True}}, "use --mode"),
        ({"params": {"a": float("nan")}}, "--param a"),
        ({"params": {"a": 2**70}}, "--param a"),
        ({"params": {"a": "\ud800"}}, "--param a"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_once(settings, words):
    with pytest.raises(UsageError) as caught:
        RowEncoder(RowSettings(**settings), Prices.shipped())
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("row", "known"),
    [
        (b'{"kind": "video", "prompt": "p", "duration": 999}', ("video", "grok-imagine-video")),
        (b'{"kind": "video", "prompt": "p", "duration": 999, "model": "m"}', ("video", "m")),
        (b'{"prompt": "", "model": "m"}', ("", "")),
        (b'{"messages": [], "model": "m"}', ("chat", "m")),
        (b'{"messages": [], "model": 7}', ("chat", "")),
        (b'{"messages": [], "model": "\\ud800"}', ("", "")),
        (b"{", ("", "")),
        ({"kind": "video", "prompt": "p", "duration": 999, "model": None}, ("video", "grok-imagine-video")),
        ({"a": float("nan")}, ("", "")),
    ],
)
def test_a_bad_row_tells_its_kind_and_model_where_they_are_known(row, known):
    bad = RowEncoder(RowSettings(), Prices.shipped()).encode(RawRow(row=0, line=1, value=row))
    assert isinstance(bad, BadRow)
    assert (bad.kind, bad.model) == known


@pytest.mark.parametrize("kind", [MappingProxyType, UserDict])
def test_a_table_row_may_be_any_mapping(kind):
    item = ENCODER.encode(RawRow(row=0, line=None, value=kind({"prompt": "p", "id": 7, "metadata": kind({"a": 1})})))
    assert isinstance(item, Item), item
    assert item.custom_id == "7"
    assert json.loads(item.body)["metadata"] == {"a": 1}


def test_cells_nested_however_deeply_make_a_bad_row():
    deep, circle = [], {}
    circle["a"] = circle
    for _ in range(200_000):
        deep = [deep]
    for cell in (deep, circle):
        for name in ("a", "custom_id"):
            bad = ENCODER.encode(RawRow(row=0, line=None, value={"prompt": "p", name: cell}))
            assert isinstance(bad, BadRow)
            assert "deep" in bad.message
