"""The simulated disk forgets what a real one may forget, and the store keeps what it acknowledged all the same."""

import os
import random

import pytest
from histories.disk import Disk, Trouble, watched

from bulkgrok.checkpoint import read_store
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core.errors import StorageFailed


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path.resolve(), random.Random(1), lambda _: None)


def cut(disk, store=None):
    """Cut the power: what the store's process still does goes nowhere."""
    picture = disk.after_power_cut(luck=0.0)
    if store is not None:
        store.close()
    disk.restore(picture)


def test_bytes_that_were_not_flushed_are_gone_after_a_power_cut(disk):
    path = disk.root / "file"
    with watched(disk):
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.write(fd, b"kept")
        os.fsync(fd)
        folder = os.open(disk.root, os.O_RDONLY)
        os.fsync(folder)
        os.write(fd, b"lost")
        cut(disk)
    assert path.read_bytes() == b"kept"


def test_a_name_whose_folder_was_not_flushed_is_gone_after_a_power_cut(disk):
    with watched(disk):
        fd = os.open(disk.root / "file", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"flushed, and nowhere")
        os.fsync(fd)
        cut(disk)
    assert not (disk.root / "file").exists()


def noted(path):
    store = read_store(path)
    try:
        return [store.recall(name) for name in ("one", "two", "three")]
    finally:
        store.close()


def test_what_a_store_acknowledged_is_there_after_a_power_cut(disk):
    path = disk.root / "checkpoint.db"
    with watched(disk):
        store = SqliteStore(path)
        store.open()
        store.note("one", 1)
        store.note("two", 2)
        cut(disk, store)
        assert noted(path) == [1, 2, None]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_acknowledged_after_a_flush_that_failed_survives_a_power_cut(tmp_path, seed):
    """The system shows what it could not flush as if it were there; what comes behind must not hang on it."""
    disk = Disk(tmp_path.resolve(), random.Random(seed), lambda _: None)
    path = disk.root / "checkpoint.db"
    with watched(disk):
        store = SqliteStore(path)
        store.open()
        store.note("one", 1)
        disk.trouble = Trouble("sync", after=1, lasts=1_000)
        with pytest.raises(StorageFailed):
            store.note("two", 2)
        store.close()
        disk.trouble = None
        store = SqliteStore(path)
        store.open()
        store.note("three", 3)
        cut(disk, store)
        assert noted(path)[::2] == [1, 3]
