"""The scanner against a parser: the same verdict on any text, the same places in any JSON."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from bulkgrok.core import jsonscan

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=40
)
FEW = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=6)
TOKENS = st.lists(
    st.sampled_from([
        b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b'"\\n"', b'"\\u00e9"', b'"\\ud800"', b'"\\x"', b"\\", b"0",
        b"-", b"-0", b"01", b"1.5", b"1.", b".5", b"1e5", b"1E+", b"null", b"true", b"nul", b"NaN", b"-Infinity",
        b" ", b"\n", b"\t", b"\r", b"\x00", b"\x0b", b"\xc3\xa9", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"'",
    ])
).map(b"".join)  # fmt: skip


def refused(name):
    raise ValueError(name)


DECODER = json.JSONDecoder(parse_constant=refused, parse_int=str)


def parsed(text):
    """Return whether the standard library takes bytes for one JSON value without outer white space."""
    try:
        decoded = text.decode()
        return DECODER.raw_decode(decoded)[1] == len(decoded)
    except ValueError:
        return False


def judged(text):
    """Return the verdict, which is the same for a text that is not parsed because it may nest too deeply."""
    verdict = jsonscan.is_valid(text)
    assert jsonscan.is_valid(b"[" + b"[]," * jsonscan.MAX_DEPTH + text + b"]") is (
        verdict or parsed(b"[0," + text + b"]")
    )
    return verdict


@given(TOKENS | st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(b"")
@example(b"[1,]")
@example(b'{"a":1,}')
@example(b'{"a"}')
@example(b'{"a":}')
@example(b"[1 2]")
@example(b"[}")
@example(b"[[],[]]")
@example(b"[" + b"0," * 70 + b"[]]")
@example(b"[" + b"0," * 70 + b"]")
def test_the_verdict_is_the_parser_s(text):
    assert judged(text) is parsed(text)


@given(VALUES, st.sampled_from([None, 0, 1]), st.booleans(), st.data())
def test_a_text_cut_or_changed_anywhere_gets_the_parser_s_verdict(value, indent, ascii_only, data):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    at = data.draw(st.integers(0, len(text)))
    for changed in (
        text[:at],
        text[:at] + data.draw(st.sampled_from([b",", b"]", b"}", b'"', b"\\", b"0"])) + text[at:],
    ):
        assert judged(changed) is parsed(changed)


@given(VALUES, st.sampled_from([None, 0, 1]), st.booleans())
def test_every_value_ends_where_it_ends(value, indent, ascii_only):
    text = json.dumps({"before": [0], "value": value, "after": {}}, indent=indent, ensure_ascii=ascii_only).encode()
    spans = jsonscan.find_members(text, 0, {"value", "after", "missing"})
    assert spans.keys() == {"value", "after"}
    assert json.loads(text[slice(*spans["value"])]) == value
    assert text[slice(*spans["after"])] == b"{}"


@given(st.dictionaries(st.text(max_size=4), FEW, max_size=6), st.booleans())
def test_all_members_are_found_in_order(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = [(json.loads(name), json.loads(text[slice(*span)])) for name, span in jsonscan.members(text, 0)]
    assert found == list(value.items())


@given(st.lists(FEW, max_size=4), st.sampled_from([None, 1]))
def test_the_first_element_is_found(value, indent):
    text = json.dumps(value, indent=indent).encode()
    span = jsonscan.first_element(text, 0)
    assert (span is None) if not value else json.loads(text[slice(*span)]) == value[0]


@given(st.dictionaries(st.text('{}[]"\\:, a', max_size=4), st.text('{}[]"\\:, a') | FEW, max_size=4), st.booleans())
def test_an_object_ends_where_it_ends_whatever_its_strings_hold(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert jsonscan.end_of(b"[" + text + b',{"}":"}"}]', 1) == 1 + len(text)
