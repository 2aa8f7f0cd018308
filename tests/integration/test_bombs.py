"""Small inputs that unpack to much: read in bounded memory, or refused in words. Peaks are measured in processes."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulkgrok.core.errors import InputError
from bulkgrok.core.model import Reply
from bulkgrok.engine import conductor
from bulkgrok.readers import open_reader, unpacking, verify

READ = """
import resource, sys
from pathlib import Path
from bulkgrok.readers import open_reader, verify
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path, most = Path(sys.argv[1]), int(sys.argv[2])
verify(path)
rows = defects = 0
for chunk in open_reader(path).chunks():
    rows += len(chunk)
    defects += sum(raw.defect is not None for raw in chunk)
    del chunk
    if rows >= most:
        break
print(rows, defects, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def read(path, most=1_000_000_000):
    """Return rows, defects and how many MB reading took at most, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", READ, path, str(most)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def packed(path, unit, times):
    """Write a text that is `unit`, many times, compressed."""
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(times):
                file.write(unit)
    else:
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
            for _ in range(times):
                file.write(unit)
    return path


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_line_without_end_takes_no_memory(tmp_path, suffix):
    path = packed(tmp_path / f"in.jsonl{suffix}", b"x" * (1 << 20), 300)
    assert path.stat().st_size < 3 << 20
    rows, defects, megabytes = read(path)
    assert (rows, defects) == (1, 1)
    assert megabytes < 220  # up to the longest line is kept, and joined once


def test_blank_lines_without_end_take_no_memory(tmp_path):
    rows, _, megabytes = read(packed(tmp_path / "in.jsonl.gz", b"\n" * (1 << 20), 20))
    assert rows == 0
    assert megabytes < 100


def test_millions_of_rows_from_a_few_bytes_are_read_like_any_others(tmp_path):
    rows, _, megabytes = read(packed(tmp_path / "in.jsonl.zst", b'{"prompt":"a"}\n' * (1 << 16), 20))
    assert rows == 20 << 16
    assert megabytes < 100


def test_only_one_layer_is_unpacked(tmp_path):
    inner = packed(tmp_path / "inner.gz", b'{"prompt": "a"}\n', 10).read_bytes()
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(inner))
    found = [raw for chunk in open_reader(tmp_path / "in.jsonl.gz").chunks() for raw in chunk]
    assert [raw.value for raw in found] == inner.splitlines() or len(found) >= 1
    assert all(b"prompt" not in raw.value for raw in found)


def test_a_window_larger_than_any_file_needs_is_refused(tmp_path):
    # A frame whose header asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2).
    (tmp_path / "in.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x01\x00\x00")
    with pytest.raises(InputError):
        verify(tmp_path / "in.jsonl.zst")


# Parquet


def test_a_list_of_one_value_a_billion_times_is_refused_before_anything_is_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "_MANY", 1 << 20)  # or making it would take longest
    count = 1 << 21
    column = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(np.zeros(count, "int8")))
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "bomb": column}), path, compression="zstd")
    assert path.stat().st_size < 2_000
    with pytest.raises(InputError, match=r"column bomb.* 2,097,152 values") as error:
        open_reader(path)
    assert "Nothing was sent" in error.value.message
    (raw,) = next(open_reader(path, columns=frozenset({"prompt"})).chunks())
    assert raw.value == {"prompt": "a"}


def test_one_long_value_that_all_rows_share_is_never_held_many_times(tmp_path):
    path, long = tmp_path / "in.parquet", "a" * (20 << 20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 50 + [1] * 300, pa.int32()), ["short", long])
    pq.write_table(pa.table({"prompt": column}), path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 10_000
    rows, defects, megabytes = read(path, most=120)
    assert (rows >= 120, defects) == (True, 0)
    assert megabytes < 400


def test_a_value_larger_than_any_request_is_a_defect_of_its_row(tmp_path):
    path = tmp_path / "in.parquet"
    values = ["first", "b" * (65 << 20), "last"]
    pq.write_table(pa.table({"prompt": values}), path, compression="zstd", use_dictionary=False)
    found = [raw for chunk in open_reader(path).chunks() for raw in chunk]
    assert [raw.row for raw in found] == [0, 1, 2]
    assert "larger than 67108864 bytes" in found[1].defect
    assert [raw.value.get("prompt") for raw in found] == ["first", None, "last"]


def test_lists_as_they_are_met_in_data_are_read(tmp_path):
    path = tmp_path / "in.parquet"
    table = pa.table({"prompt": ["a"] * 1_000, "mask": [[1] * 512] * 1_000, "vector": [[0.0] * 1_024] * 1_000})
    pq.write_table(table, path, compression="zstd")
    found = [raw for chunk in open_reader(path).chunks() for raw in chunk]
    assert len(found) == 1_000
    assert found[-1].value["mask"] == [1] * 512


def test_large_rows_are_not_all_held_at_once(alone, tmp_path, monkeypatch):
    """A few kilobytes of input must not become gigabytes of bodies that wait to be sent."""
    monkeypatch.setattr(conductor, "_HELD_BYTES", 1 << 20)
    row = json.dumps({"prompt": "a" * (200 << 10)}).encode() + b"\n"
    path = packed(tmp_path / "in.jsonl.zst", row, 25)
    most = []

    def look(_api, engine):
        most.append(engine.stages.scheduler.held_bytes)

    def answer(_asked):
        busy = len(most) % 3 == 0  # rows that are tried again are held as well
        return Reply(status=503 if busy else 200, body=b'{"id": "a", "choices": [{"message": {"content": "yes"}}]}')

    report = alone(answer, hook=look, input=path, output=tmp_path / "out.jsonl", concurrency=20, max_attempts=100).run()
    assert (report.exit_code, report.succeeded) == (0, 25)
    assert 800 << 10 < max(most) <= 1 << 20


def test_a_row_larger_than_all_that_may_be_held_is_sent_alone(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(conductor, "_HELD_BYTES", 1 << 10)
    (tmp_path / "in.jsonl").write_text(f'{{"prompt": "{"a" * 5_000}"}}\n' * 3)
    reply = Reply(status=200, body=b'{"id": "a", "choices": [{"message": {"content": "yes"}}]}')
    assert alone(lambda _: reply, input=tmp_path / "in.jsonl").run().succeeded == 3
