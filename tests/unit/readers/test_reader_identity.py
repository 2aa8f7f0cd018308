"""Fingerprints are those of the stored bytes; a stamp tells that a file was touched."""

import hashlib
import os

import pytest

from bulkgrok.core.errors import InputError
from bulkgrok.readers import fingerprint, stamp


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_fingerprint_is_size_and_sha256_of_the_stored_bytes(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "in").write_bytes(data)
    found = fingerprint(tmp_path / "in")
    assert (found.size, found.sha256) == (size, hashlib.sha256(data).hexdigest())


def test_progress_goes_up_to_the_whole(tmp_path):
    (tmp_path / "in").write_bytes(bytes(2_500_000))
    seen = []
    fingerprint(tmp_path / "in", progress=lambda done, whole: seen.append((done, whole)))
    assert seen == [(1 << 20, 2_500_000), (2 << 20, 2_500_000), (2_500_000, 2_500_000)]


def test_what_progress_raises_ends_the_hashing(tmp_path):
    (tmp_path / "in").write_bytes(bytes(10))

    def stop(done, whole):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fingerprint(tmp_path / "in", progress=stop)


@pytest.mark.parametrize("change", ["append", "overwrite"])
def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path, change):
    path = tmp_path / "in"
    path.write_bytes(bytes(2_500_000))
    os.utime(path, ns=(0, 0))

    def write(done, whole):
        if done == 1 << 20:
            with path.open("ab" if change == "append" else "r+b") as file:
                file.write(b"x")

    with pytest.raises(InputError, match="changed while it was read"):
        fingerprint(path, progress=write)


def test_a_missing_file_has_no_fingerprint(tmp_path):
    with pytest.raises(InputError, match="no input"):
        fingerprint(tmp_path / "in")
    with pytest.raises(InputError, match="folder"):
        fingerprint(tmp_path)


def test_a_stamp_tells_that_a_file_was_touched_whatever_its_size_and_time_of_writing_say(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 0))
    before = stamp(path)
    assert stamp(path) == before
    while path.stat().st_ctime_ns == before.ctime_ns:  # until the file system's clock has ticked
        path.write_bytes(b"two")
        os.utime(path, ns=(0, 0))
    assert stamp(path) != before
    path.unlink()
    with pytest.raises(InputError):
        stamp(path)


def hint_for(folder):
    with pytest.raises(InputError) as refused:
        fingerprint(folder)
    return refused.value.hint


def test_for_a_folder_a_file_that_lies_in_it_is_proposed(tmp_path):
    (tmp_path / "a.parquet").mkdir()
    for name in ("_errors.jsonl", ".b.jsonl", "a.results.jsonl", "a.errors.jsonl", "a.csv", "a.parquet.gz", "z.txt"):
        (tmp_path / name).touch()
    assert hint_for(tmp_path).endswith(f": {tmp_path}/z.txt")
    (tmp_path / "PART-3.Jsonl.GZ").touch()
    assert hint_for(tmp_path).endswith(f": {tmp_path}/PART-3.Jsonl.GZ")


@pytest.mark.parametrize("name", [None, "_SUCCESS", "table.csv", "a.results.parquet"])
def test_for_a_folder_without_inputs_no_file_is_proposed(tmp_path, name):
    if name is not None:
        (tmp_path / name).touch()
    assert str(tmp_path) not in hint_for(tmp_path)
    assert ".jsonl, .parquet or .txt" in hint_for(tmp_path)
