"""Lines survive the reader whatever they hold and whatever the sizes of the blocks they come in."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.readers.lines import rows

BOM = b"\xef\xbb\xbf"
pieces = st.sampled_from(
    [b"\r", b" ", b"\t", b"\x0b", b"\x00", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"ab", b"{}"]
)
line = st.one_of(st.binary(max_size=12), st.lists(pieces, max_size=5).map(b"".join)).map(
    lambda text: text.replace(b"\n", b"")
)


def blocks(text, sizes):
    """Cut a text into pieces of the given sizes, over and over."""
    at = 0
    while at < len(text):
        for size in sizes:
            if text[at : at + size]:
                yield text[at : at + size]
            at += size


@given(st.lists(line), st.booleans(), st.booleans(), st.lists(st.integers(1, 40), min_size=1), st.integers(1, 15))
def test_lines_round_trip_in_blocks_of_any_size(lines, ended, marked, sizes, cap):
    text = b"\n".join(lines) + (b"\n" if ended else b"")
    first = text.removeprefix(BOM) if not marked else text
    expected = [
        (number, content.removesuffix(b"\r") if len(content) <= cap else b"", len(content) > cap)
        for number, content in enumerate(first.split(b"\n"), start=1)
        if content.strip()
    ]
    data = blocks(BOM + text if marked else text, sizes)
    found = [raw for chunk in rows(data, Path("in"), line_bytes=cap) for raw in chunk]
    assert [(raw.line, raw.value, raw.defect is not None) for raw in found] == expected
    assert [raw.row for raw in found] == list(range(len(expected)))


@given(
    st.lists(line),
    st.lists(st.integers(1, 40), min_size=1),
    st.integers(1, 15),
    st.sets(st.integers(0, 40)),
)
def test_rows_passed_over_are_unwanted_and_the_others_are_what_they_were(lines, sizes, cap, wanted):
    text = b"\n".join(lines)
    passed = []

    def passing(first, end):
        unwanted = wanted.isdisjoint(range(first, end))
        passed.extend(range(first, end) if unwanted else ())
        return unwanted

    def read(asked):
        data = blocks(text, sizes)
        return [raw for chunk in rows(data, Path("in"), line_bytes=cap, passing=asked) for raw in chunk]

    every = read(None)
    some = read(passing)
    assert [raw for raw in every if raw.row not in set(passed)] == some
    assert sorted(passed + [raw.row for raw in some]) == [raw.row for raw in every]
    assert wanted.isdisjoint(passed)
