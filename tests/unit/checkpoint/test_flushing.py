"""Flushing a checkpoint without stopping the rest of the process, and without letting go of anybody's locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from harness.disks import works

from bulkgrok.checkpoint.flushing import Flushing
from bulkgrok.checkpoint.sealing import sealed

FLUSH_S = 0.3
COMMITS = 5
#: Counts how often another thread has its turn while a transaction is committed on a disk that takes its time.
COUNTING = f"""
import sys, threading, time
import apsw
from bulkgrok.checkpoint.sealing import sealed

turns = 0

def take_turns():
    global turns
    while True:
        time.sleep(0.002)
        turns += 1

connection = apsw.Connection(sys.argv[1], vfs=sealed())
for sql in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE t (a)"):
    connection.execute(sql).fetchall()
threading.Thread(target=take_turns, daemon=True).start()
for _ in range({COMMITS}):
    before = turns
    connection.execute("INSERT INTO t VALUES (1)")
    print(turns - before)
"""
#: Tells whether another process may lock the bytes by which SQLite says that a file is read here.
LOCKING = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
    except OSError:
        print("held")
    else:
        print("free")
"""


def connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=sealed())
    for sql in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
        connection.execute(sql).fetchall()
    return connection


def locks_of(path: Path) -> str:
    """Return what another process finds."""
    return subprocess.run([sys.executable, "-c", LOCKING, path], capture_output=True, text=True, check=True).stdout


def descriptors_of(path: Path) -> int:
    """Return how many descriptors of a file this process has."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(link) == str(path.resolve()) for link in links)


def test_other_threads_run_while_a_disk_takes_its_time_to_flush(tmp_path: Path) -> None:
    if not works("strace", "-qq", "-o", "/dev/null", "-e", "inject=sync:error=EIO"):
        pytest.skip("strace is not here, or may not trace (Debian package strace)")
    delay = f"inject=fdatasync:delay_enter={int(FLUSH_S * 1e6)}"
    found = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", delay,
         sys.executable, "-c", COUNTING, tmp_path / "a.db"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    turns = [int(line) for line in found.stdout.split()]
    assert len(turns) == COMMITS
    assert min(turns) >= 20, f"turns in the {FLUSH_S} s of each flush: {turns}"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="where nothing tells of descriptors")
def test_a_connection_that_closes_lets_go_of_no_lock_of_another_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    writer = connect(path)
    writer.execute("CREATE TABLE t (a)")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    writer.execute("INSERT INTO t VALUES (1)")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    reader = connect(path)
    assert reader.execute("SELECT a FROM t").fetchall() == [(1,)]
    assert descriptors_of(path) == 3, "one of each connection, and the one that is flushed"

    writer.close()
    assert locks_of(path).strip() == "held"

    reader.close()
    assert locks_of(path).strip() == "free"
    assert descriptors_of(path) == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="where nothing tells of descriptors")
def test_what_is_flushed_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = connect(tmp_path / "a.db"), connect(tmp_path / "b.db")
    for connection in (first, second):
        connection.execute("CREATE TABLE t (a)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    flushed: list[str] = []
    flush = os.fdatasync

    def note(fd: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        flush(fd)

    monkeypatch.setattr(os, "fdatasync", note)
    first.execute("INSERT INTO t VALUES (1)")
    assert set(flushed) == {"a.db-wal"}
    flushed.clear()
    second.execute("INSERT INTO t VALUES (1)")
    assert set(flushed) == {"b.db-wal"}
    flushed.clear()
    first.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert flushed[:2] == ["a.db-wal", "a.db"]
    flushed.clear()
    first.execute("INSERT INTO t VALUES (1)")
    assert set(flushed) == {"a.db-wal"}
    first.close()
    second.close()


def test_a_flush_that_fails_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE t (a)")

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(apsw.IOError) as caught:
        connection.execute("INSERT INTO t VALUES (1)")
    assert caught.value.extendedresult == apsw.SQLITE_IOERR_FSYNC
    monkeypatch.undo()
    connection.close(True)


def test_a_file_that_was_exchanged_is_left_to_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    with path.open("rb"):  # as SQLite has it open: no other file can be taken for it
        flushing = Flushing(str(path))
        path.unlink()
        path.write_bytes(b"second")
        flushing.begin()
        assert not flushing.flush()
        flushing.end()
    assert descriptors_of(path) == 0
