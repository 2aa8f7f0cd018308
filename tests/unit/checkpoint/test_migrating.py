"""An older checkpoint becomes one of this version: whole or not at all, and never without a copy."""

import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import apsw
import pytest

from bulkgrok.checkpoint import from_version_1, migrating, read_store
from bulkgrok.checkpoint.connecting import OLDEST, VERSION
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core import failpoints
from bulkgrok.core.errors import StorageFailed

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"
POINTS = ("copying", "copied", "changed", "verified", "committed")
COPY = "checkpoint.db.v1.backup"
SINK = "jsonl:/tmp/bulkgrok-fixture/finished/in.results.jsonl"


def unpacked(name, folder):
    """Unpack a run of version 1 and return its checkpoint."""
    with tarfile.open(FIXTURES / "v1" / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name / "in.bulkgrok" / "checkpoint.db"


@pytest.fixture(params=["finished", "killed"])
def old(request, tmp_path):
    return unpacked(request.param, tmp_path)


def content(path):
    """All that a run holds, as a reader of this version sees it."""
    store = read_store(path)
    try:
        return {
            "rows": [(row, store.outcome(row)) for row in range(80)],
            "open": [store.submitting(), store.redeemed(), list(store.jobs()), store.waiting()],
            "ledger": list(store.ledger()),
            "unexplained": store.unexplained(),
            "totals": store.totals(),
            "facts": [store.identity(), *map(store.recall, ("rows", "report", "stopped", "asset_base", "verified"))],
            "positions": [store.position(SINK), store.position(SINK.replace("finished", "killed"))],
        }
    finally:
        store.close()


def version(path):
    connection = apsw.Connection(f"file:{path}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        return connection.pragma("user_version")
    finally:
        connection.close()


def opened(path):
    store = SqliteStore(path)
    store.open()
    return store


def data(path):
    """The bytes of everything that lies in a run directory, but for what readers of a log share."""
    return {found.name: found.read_bytes() for found in path.parent.iterdir() if not found.name.endswith("-shm")}


@pytest.fixture
def point():
    """Return a function that installs a handler for one failpoint."""

    def install(name, act):
        failpoints.install(lambda reached: act() if reached == f"migration.{name}" else None)

    yield install
    failpoints.install(None)


# What becomes of it


def test_there_is_a_step_from_each_older_version():
    assert set(migrating.STEPS) == set(range(OLDEST, VERSION))
    assert {int(found.name[1:]) for found in FIXTURES.glob("v*")} == set(migrating.STEPS) | {VERSION}


def test_looked_at_it_reads_like_one_of_this_version_and_is_left_as_it_was(old):
    before = data(old)
    assert content(old)["unexplained"] == []
    assert data(old) == before


def test_opened_it_holds_what_it_did_and_its_sums_are_those_of_its_rows(old):
    before = content(old)
    store = opened(old)
    assert store.totals() == store.recount() == before["totals"]
    (note,) = store.warnings
    assert note.endswith(f"from version 1 to {VERSION}; the old one is kept as {old.with_name(COPY)}")
    store.close()
    assert content(old) == before
    assert version(old) == VERSION
    assert opened(old).warnings == []


def test_its_tables_are_those_of_a_new_one(tmp_path, old):
    new = opened(tmp_path / "new.db")
    store = opened(old)
    columns = "SELECT s.name, c.name, c.type, c.[notnull], c.pk FROM sqlite_schema s, pragma_table_info(s.name) c"
    others = "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 2"
    for question in (columns, others):
        assert store._connection.execute(question).fetchall() == new._connection.execute(question).fetchall()


def test_its_ledger_cannot_be_rewritten_afterwards(old):
    store = opened(old)
    store._connection.execute("INSERT INTO ledger VALUES (NULL, 0, 'a', 99, 1, 'lost', '', 0, NULL, NULL)")
    for statement in ("UPDATE ledger SET cost_usd = 1", "DELETE FROM ledger"):
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            store._connection.execute(statement)


def test_the_copy_is_the_old_one_and_the_owners_alone(old):
    umask = os.umask(0)
    try:
        opened(old).close()
    finally:
        os.umask(umask)
    copy = old.with_name(COPY)
    assert version(copy) == 1
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not list(old.parent.glob("*.partial"))
    copy.rename(old.with_name("again.db"))
    assert content(old.with_name("again.db")) == content(old)


@pytest.mark.parametrize(
    ("spent", "costs", "known"),
    [
        (5_000_000_000, [0.5], [0.5]),
        (0, [0.5], [None]),
        (7_500_000_000, [0.5, 0.25], [0.5, 0.25]),
        (5_000_000_000, [0.5, 0.25], [None, None]),
    ],
    ids=["its cost", "at most", "both", "one of two"],
)
def test_what_a_replaced_answer_cost_is_known_only_where_the_sum_of_its_row_proves_it(tmp_path, spent, costs, known):
    old = unpacked("finished", tmp_path)
    connection = apsw.Connection(str(old))
    connection.execute(
        "UPDATE item SET posts = posts + ?, spent_ticks = spent_ticks + ? WHERE row = 3", (len(costs), spent)
    )
    for number, cost in enumerate(costs):
        connection.execute(
            "INSERT INTO ledger SELECT NULL, row, custom_id, ?, 1, 'replaced', '', ?, NULL FROM item WHERE row = 3",
            (90 + number, cost),
        )
    sums = json.loads(connection.execute("SELECT value FROM tally").get)
    sums["entries"]["replaced"] = sums["entries"].get("replaced", 0) + len(costs)
    sums["ticks"] += spent
    connection.execute("UPDATE tally SET value = ?", (json.dumps(sums),))
    connection.close()
    store = opened(old)
    assert [entry.cost_usd for entry in store.ledger() if entry.attempt >= 90] == known
    assert store.totals() == store.recount()


# A crash at any point of it


KILLED = """
import os, signal, sys
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core import failpoints
failpoints.install(lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == "migration." + sys.argv[2] else None)
SqliteStore(__import__("pathlib").Path(sys.argv[1])).open()
"""


@pytest.mark.parametrize("where", POINTS)
def test_killed_at_any_point_it_is_the_old_one_or_the_new_one(old, where):
    before = content(old)
    ended = subprocess.run([sys.executable, "-c", KILLED, old, where], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert version(old) == (VERSION if where == "committed" else 1)
    assert content(old) == before
    store = opened(old)
    assert store.totals() == store.recount()
    store.close()
    assert content(old) == before
    assert sorted(found.name for found in old.parent.glob("*backup*")) == [COPY]
    assert version(old.with_name(COPY)) == 1


@pytest.mark.parametrize("where", POINTS[:-1])
@pytest.mark.parametrize(
    "error", [apsw.FullError("disk full"), apsw.IOError("I/O error"), OSError(28, "No space left")]
)
def test_a_disk_that_refuses_leaves_the_old_one(tmp_path, point, where, error):
    old = unpacked("finished", tmp_path)
    before, held = content(old), old.read_bytes()

    def refuse():
        raise error

    point(where, refuse)
    with pytest.raises(StorageFailed, match="It was to be brought from version 1 to 2, and is as it was") as caught:
        opened(old)
    assert caught.value.exit_code == 8
    failpoints.install(None)
    assert (version(old), old.read_bytes()) == (1, held)
    assert content(old) == before
    assert opened(old).totals() == before["totals"]


LIMITED = """
import resource, sys
from pathlib import Path
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core.errors import StorageFailed
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    SqliteStore(Path(sys.argv[1])).open()
except StorageFailed as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("limit", [0, 4096, 100_000, 200_000])
def test_a_copy_that_finds_no_room_is_none(tmp_path, limit):
    old = unpacked("finished", tmp_path)
    before = content(old)
    assert subprocess.run([sys.executable, "-c", LIMITED, old, str(limit)], check=False).returncode == 8
    assert version(old) == 1
    assert content(old) == before
    assert not list(old.parent.glob("*backup*"))


@pytest.fixture
def public_folder():
    """A folder that nobody in particular may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_folder_that_may_not_be_written_is_refused_and_can_be_looked_at(public_folder):
    old = unpacked("finished", public_folder)
    before = content(old)
    old.chmod(0o444)
    old.parent.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        with pytest.raises(StorageFailed) as caught:
            opened(old)
        assert content(old) == before
    finally:
        if root:
            os.seteuid(0)
        old.parent.chmod(0o700)
    assert caught.value.exit_code == 8
    assert version(old) == 1
    assert not list(old.parent.glob("*backup*"))


# What lies there already


def test_the_copy_of_an_earlier_try_is_used_again(old, point):
    def crash():
        raise KeyboardInterrupt

    point("changed", crash)
    with pytest.raises(KeyboardInterrupt):
        opened(old)
    failpoints.install(None)
    copy = old.with_name(COPY)
    before = copy.stat()
    opened(old).close()
    after = copy.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [found.name for found in old.parent.glob("*backup*")] == [COPY]


@pytest.mark.parametrize("kind", ["rubbish", "another moment"])
def test_another_copy_is_never_overwritten(tmp_path, kind):
    old = unpacked("finished", tmp_path)
    copy = old.with_name(COPY)
    if kind == "rubbish":
        copy.write_bytes(b"mine")
    else:
        copy.write_bytes(old.read_bytes())
        connection = apsw.Connection(str(copy))
        connection.execute("UPDATE fact SET value = '7' WHERE key = 'rows'")
        connection.close()
    before = copy.read_bytes()
    opened(old).close()
    assert copy.read_bytes() == before
    assert version(old.with_name(f"{COPY}-2")) == 1


# Damage


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE item SET state = 0 WHERE row = 3",
        "UPDATE item SET cost_usd = 1 WHERE row = 3",
        "INSERT INTO ledger VALUES (NULL, 3, 'a', 99, 1, 'lost', '', 0, NULL)",
        "UPDATE tally SET value = '{}'",
        "UPDATE tally SET value = 'no JSON'",
        "DELETE FROM tally",
        "DROP TABLE sink",
    ],
)
def test_what_does_not_add_up_is_refused_and_left_as_it_was(tmp_path, statement):
    old = unpacked("finished", tmp_path)
    connection = apsw.Connection(str(old))
    connection.execute(statement)
    connection.close()
    before = old.read_bytes()
    with pytest.raises(StorageFailed, match="damaged"):
        opened(old)
    assert old.read_bytes() == before
    assert version(old) == 1


def test_a_step_that_lost_something_is_undone(tmp_path, monkeypatch):
    old = unpacked("finished", tmp_path)

    def lossy(connection):
        from_version_1.upgrade(connection)
        connection.execute("DELETE FROM sink")

    step = migrating.STEPS[1]
    monkeypatch.setattr(
        migrating, "STEPS", {1: migrating.Step(damage=step.damage, kept=step.kept, upgrade=lossy, show=step.show)}
    )
    with pytest.raises(StorageFailed, match="does not hold what version 1 did"):
        opened(old)
    assert version(old) == 1
    monkeypatch.undo()
    assert opened(old).position(SINK) is not None
