"""The folders of a run are durable before anything is put into them, whoever made them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bulkgrok.core.errors import StorageFailed
from bulkgrok.engine.folders import make_private


def test_folders_that_an_earlier_start_made_and_could_not_flush_are_flushed_by_the_next(tmp_path, monkeypatch):
    wanted = tmp_path / "new" / "er" / "out.bulkgrok"
    flush = os.fsync

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFailed):
        make_private(wanted, flag="--run-dir")

    flushed = []

    def note(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)
        flush(fd)

    monkeypatch.setattr(os, "fsync", note)
    make_private(wanted, flag="--run-dir")
    lineage = [wanted, *wanted.parents]
    of_it = [place for place in lineage if place.is_relative_to(tmp_path)]
    assert {place.stat().st_ino for place in of_it} <= set(flushed)
    assert all(place.stat().st_mode & 0o777 == 0o700 for place in (wanted,))


def test_no_folder_of_another_file_system_is_flushed(tmp_path, monkeypatch):
    devices = []
    flush = os.fsync

    def note(fd: int) -> None:
        devices.append(os.fstat(fd).st_dev)
        flush(fd)

    monkeypatch.setattr(os, "fsync", note)
    make_private(Path(tmp_path) / "run", flag="--run-dir")
    assert set(devices) == {tmp_path.stat().st_dev}
