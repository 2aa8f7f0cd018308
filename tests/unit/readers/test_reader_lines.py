"""Lines over the cap, and memory that stays flat whatever comes."""

import gzip
import tracemalloc
from itertools import repeat
from pathlib import Path

from bulkgrok.readers.jsonl import JsonlReader
from bulkgrok.readers.lines import rows
from bulkgrok.readers.text import TextReader

MIB = 1 << 20


def read(blocks, **arguments):
    return [raw for chunk in rows(blocks, Path("in"), **arguments) for raw in chunk]


def test_a_line_over_the_cap_is_one_defect_and_the_rest_goes_on():
    one, long, two = read([b"one\nxx", b"xxxxxxx", b"xxx\ntwo"], line_bytes=8)
    assert (one.row, one.line, one.value, one.defect) == (0, 1, b"one", None)
    assert (long.row, long.line, long.value) == (1, 2, b"")
    assert "longer than 8 bytes" in long.defect
    assert (two.row, two.line, two.value, two.defect) == (2, 3, b"two", None)


def test_a_line_of_exactly_the_cap_is_a_row():
    assert [raw.defect for raw in read([b"12345678\n", b"1234", b"5678\n12345678"], line_bytes=8)] == [None, None, None]


def test_a_blank_line_over_the_cap_is_no_row():
    blocks = [b" " * 7, b"\t" * 7, b"\n" + b" " * 30 + b"\nrow\n", b" " * 9]
    assert [(raw.row, raw.line) for raw in read(blocks, line_bytes=8)] == [(0, 3)]


def test_white_space_and_then_more_over_the_cap_is_a_row():
    assert [raw.defect is None for raw in read([b" " * 9, b"x", b" " * 9], line_bytes=8)] == [False]


def test_only_the_byte_0a_ends_a_line_and_only_one_cr_is_taken_off():
    text = "a\u2028b\x0bc\x0cd\x85e\u2029\x1cf\rg\r\r\n"
    assert [raw.value for raw in read([text.encode()])] == [text[:-2].encode()]


def test_nul_bytes_are_content():
    assert [raw.value for raw in read([b"\x00\n\x00\x00"])] == [b"\x00", b"\x00\x00"]


def test_an_endless_line_does_not_fill_the_memory():
    blocks = repeat(b"x" * MIB, 200)
    tracemalloc.start()
    (row,) = read((bytes(block) for block in blocks), line_bytes=2 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert row.defect
    assert peak < 8 * MIB


def test_a_bomb_of_gzip_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(100 * MIB)) + gzip.compress(b"\nnext"))
    tracemalloc.start()
    found = [raw for chunk in JsonlReader(path, compression="gzip", line_bytes=MIB).chunks() for raw in chunk]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [raw.defect is None for raw in found] == [False, True]
    assert peak < 16 * MIB


def test_a_prompt_that_is_no_utf8_is_a_defect_of_its_line_alone(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b" one \n\xff\xfe\n" + "zwei ü\r\n".encode() + b"\xed\xa0\x80\n")
    found = [raw for chunk in TextReader(path).chunks() for raw in chunk]
    assert [raw.value for raw in found] == [{"prompt": " one "}, b"", {"prompt": "zwei ü"}, b""]
    assert [raw.defect and "not UTF-8" in raw.defect for raw in found] == [None, True, None, True]


def test_a_prompt_over_the_cap_is_a_defect(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"123456789\n1")
    found = [raw for chunk in TextReader(path, line_bytes=8).chunks() for raw in chunk]
    assert [raw.defect is None for raw in found] == [False, True]
