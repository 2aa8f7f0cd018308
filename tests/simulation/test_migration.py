"""The power is cut at every moment of bringing an old checkpoint up: it is the old one or the new one, with a copy.

BULKGROK_CUTS=10 pytest -s tests/simulation/test_migration.py      # so many cuts at each moment, of both runs
"""

import os
import random
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
from histories.disk import Disk, watched

from bulkgrok.checkpoint import read_store
from bulkgrok.checkpoint.connecting import VERSION
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core import failpoints
from bulkgrok.core.errors import StorageFailed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoints" / "v1"
CUTS = int(os.environ.get("BULKGROK_CUTS", "0"))
EVERY = {"finished": 3, "killed": 9}
"""In the ordinary test run, every third moment, or every ninth of the one with the large log."""


class Cut(BaseException):
    """The power is gone."""


class Moments:
    """Counts the moments worth dying in, and dies in the one that was chosen."""

    def __init__(self):
        self.count = 0
        self.chosen = 0
        self.disk = None
        self.picture = None

    def reach(self, _point):
        self.count += 1
        if self.count == self.chosen:
            self.picture = self.disk.after_power_cut()
        if self.picture is not None:
            raise Cut  # nothing that a dead process does reaches the disk


def unpacked(name, folder):
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name / "in.bulkgrok"


def content(path):
    store = read_store(path)
    try:
        return [
            [store.outcome(row) for row in range(60)], store.submitting(), list(store.jobs()), store.redeemed(),
            list(store.ledger()), store.totals(), store.identity(), store.recall("rows"),
        ]  # fmt: skip
    finally:
        store.close()


def version(path):
    connection = apsw.Connection(f"file:{path}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        return connection.pragma("user_version")
    finally:
        connection.close()


def bring_up(path):
    store = SqliteStore(path)
    try:
        store.open()
        assert store.totals() == store.recount()
    finally:
        with suppress(StorageFailed):
            store.close()


@pytest.mark.parametrize("name", ["finished", "killed"])
def test_a_power_cut_at_any_moment_leaves_the_old_one_or_the_new_one_with_a_copy(tmp_path, name):
    origin = unpacked(name, tmp_path / "origin")
    before = content(origin / "checkpoint.db")
    chance, cuts, new, moment = random.Random(name), 0, 0, 0
    while True:
        moment += 1 if CUTS else EVERY[name]
        for number in range(max(1, CUTS)):
            root = (tmp_path / f"{moment}-{number}").resolve()
            shutil.copytree(origin, root, ignore=shutil.ignore_patterns("*-shm"))
            moments = Moments()
            disk = moments.disk = Disk(root, chance, moments.reach)
            path = root / "checkpoint.db"
            moments.chosen = moment
            failpoints.install(moments.reach)
            with watched(disk):
                try:
                    with suppress(Cut):
                        bring_up(path)
                finally:
                    failpoints.install(None)
            if moments.picture is None:
                assert version(path) == VERSION
                print(f"run={name} moments={moments.count} cuts={cuts} found_new={new} violations=0")
                assert cuts >= 7
                return
            cuts += 1
            disk.restore(moments.picture)
            new += hold(path, before)
            shutil.rmtree(root)


def hold(path, before):
    """Hold what a power cut left against what must be; return whether it is the new version."""
    found = version(path)
    assert content(path) == before
    copy = path.with_name("checkpoint.db.v1.backup")
    if found == VERSION:
        assert version(copy) == 1
        assert content(copy) == before
    bring_up(path)
    assert content(path) == before
    copies = [copy for copy in path.parent.glob("*.backup*") if not copy.name.endswith(".partial")]
    assert any(version(copy) == 1 and content(copy) == before for copy in copies)
    return found == VERSION
