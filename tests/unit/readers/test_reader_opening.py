"""What a file is: its name, its bytes, and what is said when they do not fit."""

import gzip
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from bulkgrok.core.errors import InputError
from bulkgrok.readers import open_reader


def rows_of(path, **arguments):
    return [raw for chunk in open_reader(path, **arguments).chunks() for raw in chunk]


def test_a_format_that_is_asked_for_beats_the_name(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"hello\n")
    assert rows_of(path, format="txt")[0].value == {"prompt": "hello"}
    with pytest.raises(InputError, match="no Parquet file"):
        open_reader(path, format="parquet")
    with pytest.raises(InputError, match="unknown input format 'csv'"):
        open_reader(path, format="csv")


def test_an_empty_file_has_no_rows(tmp_path):
    path = tmp_path / "in.jsonl"
    path.touch()
    assert rows_of(path) == []


@pytest.mark.parametrize(
    ("name", "content"), [("in.jsonl.gz", b"{}\n"), ("in.txt.zst", b"hello"), ("in.jsonl.gz", b"")]
)
def test_a_name_that_promises_compression_and_does_not_keep_it_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match="though its name says"):
        open_reader(path)


def test_the_other_compression_than_the_name_says_is_no_obstacle(tmp_path):
    path = tmp_path / "in.jsonl.zst"
    path.write_bytes(gzip.compress(b"{}\n"))
    assert [raw.value for raw in rows_of(path)] == [b"{}"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}\n", b"PAR1" + b"x" * 100, b"x" * 100 + b"PAR1"])
def test_a_parquet_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "in.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no Parquet file") as caught:
        open_reader(path)
    assert caught.value.hint


def test_a_parquet_packed_as_a_whole_is_refused(tmp_path):
    path = tmp_path / "in.parquet.gz"
    pq.write_table(pa.table({"prompt": ["x"]}), path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="compressed with gzip as a whole"):
        open_reader(path)


def test_a_parquet_with_a_broken_footer_is_refused(tmp_path):
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1" + b"\xff" * 100 + (90).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        open_reader(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_utf16_is_refused_with_the_way_to_convert_it(tmp_path, encoding):
    path = tmp_path / "in.jsonl"
    path.write_bytes(("" if encoding in {"utf-16", "utf-32"} else "\ufeff").encode(encoding) + "{}".encode(encoding))
    with pytest.raises(InputError, match="UTF-16") as caught:
        open_reader(path)
    assert "iconv" in caught.value.hint


def test_a_prompt_that_begins_like_parquet_is_a_prompt(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"PAR1 of the story\nand more")
    assert [raw.value["prompt"] for raw in rows_of(path)] == ["PAR1 of the story", "and more"]


def test_an_unreadable_path_is_an_input_error(tmp_path):
    for path in (tmp_path / "in.jsonl" / "x", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        (tmp_path / "in.jsonl").touch()
        with pytest.raises(InputError):
            open_reader(path)


def test_plain_files_are_read_without_pyarrow(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"{}\n")
    code = (
        "import sys, pathlib, bulkgrok.readers as r\n"
        f"assert sum(map(len, r.open_reader(pathlib.Path({str(path)!r})).chunks())) == 1\n"
        "assert 'pyarrow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["q.csv", "q.CSV.gz", "q.tsv", "q.xlsx"])
def test_a_table_of_another_program_is_not_taken_for_json_lines(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"id,prompt\n1,hello\n")
    with pytest.raises(InputError, match=rf"reads \.jsonl.* convert {name} first\. Nothing was sent\.$") as caught:
        open_reader(path)
    assert caught.value.hint
    path = path.rename(tmp_path / "q.csv")
    assert rows_of(path, format="txt")[0].value == {"prompt": "id,prompt"}
