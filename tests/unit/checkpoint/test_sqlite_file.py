"""The file: private, safe by its settings, refused when not ours, readable while others write or after they died."""

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from bulkgrok.checkpoint import STORES, open_store, read_store
from bulkgrok.checkpoint.filereading import FileReading
from bulkgrok.checkpoint.sealing import RESERVED_BYTES
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core.errors import RunMismatch, StorageFailed, UsageError
from bulkgrok.core.lifecycle import Accept, Fail, Redeem, Redownload, Submit, Succeed, Unsent
from bulkgrok.core.model import Code, Item, Mode, RowError


def submit(row):
    item = Item(
        row=row, line=None, custom_id=str(row), kind="chat", mode=Mode.DIRECT, model="m", stream=False, body=b"{}",
        digest=b"d", max_usd=0.0, tokens=1,
    )  # fmt: skip
    return Submit(item=item, attempt=1, at=1.0)


def answer(row, raw=b"{}"):
    redeem = Redeem(row=row, at=2.0, status_code=200, raw=raw, request_id=None)
    return redeem, Succeed(row=row, model="m", cost_usd=0.5, usage=None, tokens=(1, 1, 1, 1))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.db"


@pytest.fixture
def store(path):
    found = SqliteStore(path)
    found.open()
    yield found
    found.close()


def fill(store, rows, size=3000):
    for row in range(rows):
        store.apply([submit(row), *answer(row, os.urandom(size // 2).hex().encode())])


# What was committed last


def test_the_outbox_gives_what_was_just_committed_without_reading_it(store):
    fill(store, 5)
    stored = FileReading.outbox(store, 0, 9)
    store._connection.execute("UPDATE item SET custom_id = 'read'")
    assert store.outbox(0, 3) == stored[:3]
    assert store.outbox(3, 9) == stored[3:]
    assert [found.custom_id for found in store.outbox(0, 1)] == ["read"]


def test_a_deferred_answer_between_direct_ones_is_not_passed_over(store):
    store.apply([submit(1), submit(2), submit(3)])
    store.apply([Accept(row=2, request_id="id", at=1.0, deadline_at=9.0)])
    redeem, succeed = answer(2, b"[2]")
    store.apply([*answer(1), redeem, succeed, *answer(3)])
    after, rows = 0, []
    while page := store.outbox(after, 9):
        after = page[-1].seq
        rows += [found.row for found in page]
    assert rows == [1, 2, 3]


def test_nothing_of_a_group_that_was_refused_is_in_the_outbox(store):
    refused = [submit(1), *answer(1, b"[1]"), submit(2), *answer(9)]
    with pytest.raises(ValueError, match="row 9"):
        store.apply(refused)
    store.note("key", "what is committed next")
    assert store.outbox(0, 9) == []
    store.apply([submit(3), *answer(3)])
    store.apply([submit(1), *answer(1, b"[2]")])
    assert [(found.seq, found.row, found.body) for found in store.outbox(0, 9)] == [(1, 3, b"{}"), (2, 1, b"[2]")]


def test_an_intent_that_was_rolled_back_is_not_taken_for_the_one_that_is_stored(store):
    store.apply([submit(1)])
    other = replace(submit(1), attempt=2)
    other = replace(other, item=replace(other.item, custom_id="other"))
    with pytest.raises(ValueError, match="row 9"):
        store.apply([Unsent(row=1), other, *answer(9)])
    store.apply(answer(1))
    assert [(found.custom_id, found.attempts) for found in store.outbox(0, 9)] == [("1", 1)]
    assert store.totals() == store.recount()


def test_long_names_count_among_what_is_remembered_of_the_outbox(store):
    for row in range(10):
        begun = submit(row)
        begun = replace(begun, item=replace(begun.item, custom_id=str(row) + "x" * (1 << 20)))
        store.apply([begun, *answer(row)])
    assert sum(len(found.custom_id) for found in store._recent._kept) <= 2 << 20


def test_what_is_remembered_of_the_outbox_is_bounded(store):
    fill(store, 40, size=1 << 19)
    assert sum(len(found.body) for found in store._recent._kept) <= 2 << 20
    after, rows = 0, []
    while page := store.outbox(after, 3):
        after = page[-1].seq
        rows += [found.row for found in page]
    assert rows == list(range(40))


def test_nothing_is_kept_of_a_request_once_its_reply_is_stored(store):
    """Else a run whose answers are unusable would keep the bodies of all its requests."""
    redeem = answer(1)[0]
    fail = Fail(
        row=1, at=1.0, error=RowError(code=Code.INVALID_RESPONSE, message="m"), custom_id="1", kind="chat",
        mode="direct", model="m", digest=b"d" * 16,
    )  # fmt: skip
    store.apply([submit(1), submit(2), submit(3)])
    store.apply([redeem, fail])
    store.apply([answer(2)[0]])
    store.apply(answer(3))
    assert store._writing._begun == {}
    store.apply([Redownload(row=1), answer(1)[1], answer(2)[1]])
    assert store.totals() == store.recount()
    assert [found.row for found in store.outbox(0, 9)] == [3]
    assert [found.row for found in store.outbox(1, 9)] == [1, 2]


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("page_size", 16_384),
        ("locking_mode", "normal"),
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("mmap_size", 0),
        ("temp_store", 2),
        ("journal_size_limit", 64 << 20),
        ("auto_vacuum", 0),
        ("application_id", 0x62676B31),
        ("user_version", 2),
    ],
)
def test_a_setting_is_in_force_at_once_and_after_reopening(path, store, name, value):
    assert store._connection.pragma(name) == value
    store.close()
    store.open()
    assert store._connection.pragma(name) == value


def test_a_setting_that_does_not_take_is_refused(path):
    other = apsw.Connection(str(path))
    other.execute("PRAGMA page_size = 4096")
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE t (a)")
    other.execute("DROP TABLE t")
    other.close()
    with pytest.raises(StorageFailed, match="page_size is 4096 and must be 16384"):
        SqliteStore(path).open()


def test_the_files_are_the_owners_alone_whatever_the_umask(path):
    old = os.umask(0)
    try:
        store = SqliteStore(path)
        store.open()
        store.apply([submit(1)])
        for suffix in ("", "-wal", "-shm", "-mark"):
            assert stat.S_IMODE(path.with_name(path.name + suffix).stat().st_mode) == 0o600
        store.close()
    finally:
        os.umask(old)


def test_closing_in_order_leaves_the_file_and_its_mark(path, store):
    fill(store, 5)
    store.close()
    assert {found.name for found in path.parent.iterdir()} == {"checkpoint.db", "checkpoint.db-mark"}


def test_a_file_left_empty_by_a_crash_is_begun_anew(path):
    path.touch()
    store = SqliteStore(path)
    store.open()
    assert store.totals().billed == 0
    store.close()


@pytest.mark.parametrize("left", [b"\x00" * 15_872, "all but its end", "the first sector"])
def test_a_first_page_that_a_power_cut_tore_is_begun_anew(path, left):
    if isinstance(left, str):
        other = apsw.Connection(str(path))
        other.reserve_bytes("main", RESERVED_BYTES)
        other.execute("PRAGMA page_size = 16384")
        other.execute("PRAGMA journal_mode = WAL")
        other.close()
        left = path.read_bytes()[: 15_872 if left == "all but its end" else 512]
        assert left[:6] == b"SQLite"
    path.write_bytes(left)
    store = SqliteStore(path)
    store.open()
    fill(store, 5)
    store.close()
    reader = read_store(path)
    assert reader.totals().succeeded == 5
    reader.close()


def test_zeros_where_something_was_acknowledged_are_refused(path, store):
    fill(store, 5)
    store.close()
    path.write_bytes(b"\x00" * 15_872)
    with pytest.raises(StorageFailed):
        SqliteStore(path).open()
    assert path.read_bytes() == b"\x00" * 15_872


def test_names_with_odd_characters_are_paths_like_others(tmp_path):
    folder = tmp_path / "a b%20#?é'\"\n"
    folder.mkdir()
    path = folder / "x?mode=memory&y#z.db"
    store = open_store(path)
    store.open()
    store.apply([submit(1)])
    reader = read_store(path)
    assert reader.submitting() == [1]
    reader.close()
    store.close()
    assert path.stat().st_size > 0


def test_there_are_no_stores_at_other_addresses():
    with pytest.raises(UsageError, match="mysql"):
        open_store("mysql://host/db")
    assert set(STORES) == {"", "postgresql", "postgres"}


def test_loading_the_package_loads_no_database():
    code = "import sys, bulkgrok.checkpoint; print([m for m in ('apsw', 'asyncio', 'orjson') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


# What is not ours


def test_a_newer_checkpoint_is_refused_and_left_as_it_was(path, store):
    fill(store, 3)
    store._connection.execute("PRAGMA user_version = 3")
    store.close()
    before = path.read_bytes()
    for opening in (lambda: SqliteStore(path).open(), lambda: read_store(path)):
        with pytest.raises(RunMismatch, match="version 3"):
            opening()
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left_as_it_was(path):
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE mine (a)")
    other.close()
    before = path.read_bytes()
    for opening in (lambda: SqliteStore(path).open(), lambda: read_store(path)):
        with pytest.raises(UsageError, match="another program"):
            opening()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"my notes\n", b"\x00" * 20_000, b"SQLite format 3\x00" + b"\xff" * 5000, b"{}" * 9000]
)
def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(path, content):
    path.write_bytes(content)
    with pytest.raises((StorageFailed, UsageError)) as refused:
        SqliteStore(path).open()
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere/at/all")])
def test_a_place_that_can_be_no_file_is_refused(path, make):
    make(path)
    with pytest.raises(StorageFailed):
        SqliteStore(path).open()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(StorageFailed, match="No such file"):
        SqliteStore(tmp_path / "a" / "b.db").open()


def test_a_store_that_was_refused_can_be_opened_when_the_cause_is_gone(tmp_path):
    store = SqliteStore(tmp_path / "a" / "b.db")
    with pytest.raises(StorageFailed):
        store.open()
    (tmp_path / "a").mkdir()
    store.open()
    store.close()


# Damage


def test_a_damaged_file_is_reported_never_guessed(path, store):
    fill(store, 200)
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(1, size // 16_384):
            file.seek(page * 16_384)
            file.write(os.urandom(200))
    with pytest.raises(StorageFailed, match="damaged"):
        SqliteStore(path).open()
    with pytest.raises(StorageFailed, match="damaged"):
        read_store(path).totals()


def test_damage_in_an_answer_is_found_when_the_crashed_run_is_opened(path, store):
    fill(store, 200)
    store.wind_up()
    root = store._connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'answer'").get
    store.apply([submit(1000)])
    log = path.with_name("checkpoint.db-wal").read_bytes()
    store.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 16_384)
        file.write(b"\x07" + os.urandom(300))
    path.with_name("checkpoint.db-wal").write_bytes(log)
    with pytest.raises(StorageFailed, match="damaged"):
        SqliteStore(path).open()


def test_a_file_cut_short_is_reported(path, store):
    fill(store, 200)
    store.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StorageFailed):
        SqliteStore(path).open()


# The ledger


@pytest.mark.parametrize(
    "statement", ["UPDATE ledger SET max_usd = 0", "DELETE FROM ledger", "DELETE FROM ledger WHERE row = 1"]
)
def test_the_ledger_cannot_be_rewritten(store, statement):
    from bulkgrok.core.lifecycle import Doubt  # noqa: PLC0415 - only here

    store.apply([submit(1), Doubt(row=1, at=1.0, reason="x")])
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        store._connection.execute(statement)
    assert len(list(store.ledger())) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE item SET posts = 2 WHERE row = 1",
        "UPDATE item SET refused = 1 WHERE row = 1",
        "UPDATE item SET state = 0, seq = NULL WHERE row = 1",
        "INSERT INTO ledger VALUES (1, 1, 'a', 1, 1, 'lost', '', 0, NULL, NULL)",
        "INSERT INTO ledger VALUES (1, 99, 'a', 1, 1, 'lost', '', 0, NULL, NULL)",
    ],
)
def test_a_tampered_row_is_not_explained(store, statement):
    store.apply([submit(1), *answer(1), submit(2)])
    assert store.unexplained() == []
    store._connection.execute(statement)
    (entry,) = store.unexplained()
    assert entry.row in {1, 99}
    assert "do not add up" in entry.reason


# Reading beside a runner


def test_a_reader_sees_the_run_as_it_stood_and_holds_nobody_up(path, store):
    store.apply([submit(1), *answer(1)])
    reader = read_store(path)
    assert reader.totals().succeeded == 1
    store.apply([submit(2), *answer(2)])
    assert reader.totals().succeeded == 1
    assert [found.row for found in reader.outbox(0, 9)] == [1]
    reader.close()
    again = read_store(path)
    assert again.totals().succeeded == 2
    again.close()


def test_a_reader_cannot_write(path, store):
    store.apply([submit(1)])
    reader = read_store(path)
    for write in (lambda: reader.apply([submit(2)]), lambda: reader.note("a", 1)):
        with pytest.raises(StorageFailed, match="read only"):
            write()
    with pytest.raises(apsw.ReadOnlyError):
        reader._connection.execute("UPDATE item SET posts = 9")
    reader.close()


def test_looking_at_a_run_that_ended_leaves_no_trace(path, store):
    fill(store, 3)
    store.close()
    before = path.read_bytes()
    reader = read_store(path)
    assert (reader.totals().succeeded, len(reader.outbox(0, 9))) == (3, 3)
    reader.close()
    assert {found.name for found in path.parent.iterdir()} == {"checkpoint.db", "checkpoint.db-mark"}
    assert path.read_bytes() == before


def test_a_run_that_goes_on_under_a_reader_without_locks_is_noticed(path, store):
    fill(store, 3)
    store.close()
    reader = read_store(path)
    store.open()
    store.apply([submit(100)])
    assert reader.totals().submitting == 0
    store.close()
    with pytest.raises(StorageFailed, match="while it was read"):
        reader.totals()
    reader.close()
    again = read_store(path)
    assert again.totals().submitting == 1
    again.close()


def test_a_missing_checkpoint_is_not_made_by_looking_at_it(path):
    with pytest.raises(StorageFailed, match="not there"):
        read_store(path)
    assert not path.exists()


def test_a_checkpoint_that_was_never_begun_cannot_be_read(path):
    path.touch()
    with pytest.raises(StorageFailed, match="not begun"):
        read_store(path)


@contextlib.contextmanager
def as_nobody():
    """Be a user who may read and not write, where the tests are run by one who may do all."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def crashed_copy(path, folder):
    """What a killed runner leaves: the file and its log, without the shared memory of the living."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            (folder / source.name).write_bytes(source.read_bytes())
    return folder / path.name


@pytest.fixture
def frozen():
    """A folder that nobody in particular may look into and not write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        inner = Path(folder) / "frozen"
        yield inner
        inner.chmod(0o755)


@pytest.mark.parametrize("crashed", [True, False])
def test_a_folder_that_may_not_be_written_can_be_read(frozen, path, store, crashed):
    store.apply([submit(1), *answer(1)])
    if not crashed:
        store.close()
    copy = crashed_copy(path, frozen)
    for found in frozen.iterdir():
        found.chmod(0o444)
    frozen.chmod(0o555)
    before = {found.name: found.read_bytes() for found in frozen.iterdir()}
    with as_nobody():
        reader = read_store(copy)
        assert reader.totals().succeeded == 1
        assert len(reader.outbox(0, 5)) == 1
        private = reader._copied_to
        assert (private is not None) == crashed
        reader.close()
        assert private is None or not private.exists()
    assert {found.name: found.read_bytes() for found in frozen.iterdir()} == before


def test_a_crashed_run_is_read_with_its_log(tmp_path, path, store):
    store.apply([submit(1), *answer(1)])
    copy = crashed_copy(path, tmp_path / "crashed")
    log = copy.with_name("checkpoint.db-wal").read_bytes()
    assert log
    reader = read_store(copy)
    assert reader.totals().succeeded == 1
    reader.close()
    assert copy.with_name("checkpoint.db-wal").read_bytes() == log
    again = SqliteStore(copy)
    again.open()
    assert again.totals().succeeded == 1
    again.close()


# Disk errors


def test_a_full_disk_applies_nothing_and_what_was_durable_stays(store):
    fill(store, 20)
    before = store.totals()
    pages = store._connection.pragma("page_count")
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFailed, match="disk is full") as refused:
        store.apply([submit(999), *answer(999, b"x" * 200_000)])
    assert "Make room" in refused.value.hint
    assert store.totals() == before == store.recount()
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.apply([submit(999), *answer(999, b"x" * 200_000)])
    assert store.totals().succeeded == 21


def test_after_an_error_of_the_disk_nothing_is_written_any_more(path):
    code = """
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_sqlite_file import SqliteStore, StorageFailed, answer, submit
        store = SqliteStore(Path(sys.argv[1]))
        store.open()
        told = 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, resource.RLIM_INFINITY))
        try:
            for row in range(1000):
                store.apply([submit(row), *answer(row, b"x" * 20_000)])
                told += 1
        except StorageFailed as error:
            first = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:
            store.apply([submit(5000)])
        except StorageFailed as error:
            assert str(error) == first
            print(told, store.totals().succeeded, first)
        store.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path), str(Path(__file__).parent)],
        capture_output=True,
        check=False,
    )
    told, counted, *message = done.stdout.decode().split(maxsplit=2) or [done.stderr.decode(), "", ""]
    assert told == counted
    assert "the disk reports an error" in message[0]
    store = SqliteStore(path)
    store.open()
    assert store.totals().succeeded == int(told)
    assert store.totals() == store.recount()
    store.close()


def test_a_database_another_program_holds_is_reported(path, store):
    store._connection.set_busy_timeout(1)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFailed, match="another program holds it"):
        store.apply([submit(1)])
    other.execute("ROLLBACK")
    store.apply([submit(1)])
    assert store.submitting() == [1]
    other.close()


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        ("UPDATE item SET mode = 'dir3ct'", lambda store: store.outcome(1)),
        ("UPDATE item SET assets = '[['", lambda store: read_store(store.path).outbox(0, 9)),
        ("UPDATE tally SET value = '{}'", lambda store: read_store(store.path).totals()),
        ("DELETE FROM tally", lambda store: read_store(store.path).totals()),
        ("INSERT INTO fact VALUES ('identity', '[1]')", lambda store: store.identity()),
        ("INSERT INTO fact VALUES ('rows', '{')", lambda store: store.recall("rows")),
        ("INSERT INTO sink VALUES ('out', 1, 'null')", lambda store: store.position("out")),
        ("INSERT INTO ledger VALUES (1, 1, 'a', 1, 1, 'won', '', 0, NULL, NULL)", lambda store: list(store.ledger())),
    ],
)
def test_what_was_never_written_is_reported_as_damage(store, statement, ask):
    store.apply([submit(1), *answer(1)])
    store._connection.execute(statement)
    with pytest.raises(StorageFailed, match="damaged"):
        ask(store)
