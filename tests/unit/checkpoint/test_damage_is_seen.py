"""Pages that were damaged on the disk, and changes that a damaged log lost, are seen before they are built upon."""

import os
import shutil

import apsw
import pytest

from bulkgrok.checkpoint import read_store
from bulkgrok.checkpoint.mark import Mark
from bulkgrok.checkpoint.sealing import RESERVED_BYTES, sealed
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core.errors import BulkgrokError, StorageFailed
from bulkgrok.core.lifecycle import Redeem, Submit, Succeed
from bulkgrok.core.model import Item, Mode

PAGE = 16_384


def changes(row, size=9_000):
    item = Item(
        row=row, line=None, custom_id=str(row), kind="chat", mode=Mode.DIRECT, model="m", stream=False, body=b"{}",
        digest=b"d", max_usd=0.0, tokens=1,
    )  # fmt: skip
    yield Submit(item=item, attempt=1, at=1.0)
    yield Redeem(row=row, at=2.0, status_code=200, raw=os.urandom(size // 2).hex().encode(), request_id=None)
    yield Succeed(row=row, model="m", cost_usd=0.5, usage=None, tokens=(1, 1, 1, 1))


def make(path, rows, *, size=9_000):
    store = SqliteStore(path)
    store.open()
    for row in range(rows):
        store.apply(list(changes(row, size)))
    return store


def killed(store, folder):
    """Return a copy of the checkpoint as a killed process leaves it."""
    folder.mkdir()
    for path in store.path.parent.glob("checkpoint.db*"):
        shutil.copyfile(path, folder / path.name)
    store.close()
    return folder / "checkpoint.db"


@pytest.fixture
def closed(tmp_path):
    """Return a checkpoint that was closed in order: all of it is in the file."""
    store = make(tmp_path / "checkpoint.db", 20)
    store.close()
    return store.path


def edit(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def everything(path):
    """Read every page of a checkpoint; return how many answers it holds."""
    store = read_store(path)
    try:
        store.recount()
        with store._mapped():
            assert store._connection.pragma("integrity_check") == "ok"
        return len(store.outbox(0, 1_000))
    finally:
        store.close()


def test_room_for_checksums_is_kept_on_every_page(closed):
    assert closed.read_bytes()[20] == RESERVED_BYTES
    assert everything(closed) == 20


def test_a_flipped_bit_is_seen_wherever_it_is(closed):
    whole = closed.read_bytes()
    for page in range(len(whole) // PAGE):
        for at in (101, PAGE // 2, PAGE - 10, PAGE - 1):
            edit(closed, lambda data, at=page * PAGE + at: data.__setitem__(at, data[at] ^ 16))
            with pytest.raises(StorageFailed, match="damaged"):
                everything(closed)
            closed.write_bytes(whole)


def test_no_bit_of_the_header_goes_unseen(closed):
    whole = closed.read_bytes()
    for at in range(100 * 8):
        edit(closed, lambda data, at=at: data.__setitem__(at // 8, data[at // 8] ^ 1 << at % 8))
        store = SqliteStore(closed)
        with pytest.raises(BulkgrokError):
            store.open()
        closed.write_bytes(whole)


def test_exchanged_pages_are_seen_though_both_are_whole(closed):
    pages = closed.stat().st_size // PAGE

    def swap(data):
        one, other = slice((pages - 2) * PAGE, (pages - 1) * PAGE), slice((pages - 1) * PAGE, pages * PAGE)
        data[one], data[other] = data[other], data[one]

    edit(closed, swap)
    with pytest.raises(StorageFailed, match="is not what was written"):
        everything(closed)


@pytest.mark.parametrize("left", [1.0, 0.5, 0.01])
def test_a_shortened_file_is_seen(closed, left):
    os.truncate(closed, int(closed.stat().st_size * left) // PAGE * PAGE - PAGE * (left == 1.0))
    with pytest.raises(StorageFailed, match="damaged"):
        everything(closed)
    with pytest.raises(StorageFailed, match="damaged"):
        SqliteStore(closed).open()


def test_other_programs_read_the_file(closed):
    connection = apsw.Connection(str(closed), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT count(*) FROM answer").get == 20
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()


def test_links_on_the_way_to_a_checkpoint_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = make(tmp_path / "link" / "checkpoint.db", 2)
    assert {path.name for path in (tmp_path / "real").iterdir()} >= {"checkpoint.db", "checkpoint.db-wal"}
    (tmp_path / "other.db").symlink_to("link/checkpoint.db")
    reader = read_store(tmp_path / "other.db")  # its log included
    assert reader.totals().succeeded == 2
    reader.close()
    store.close()


def test_the_process_keeps_its_default_way_to_files(closed):
    everything(closed)
    assert not apsw.vfs_names()[0].startswith("bulkgrok")
    assert sealed() in apsw.vfs_names()
    other = apsw.Connection(str(closed.with_name("other.db")))
    other.execute("CREATE TABLE t (a)")
    assert closed.with_name("other.db").read_bytes()[20] == 0
    other.close()


# The log


def frames(path):
    """Return where each frame of a log begins."""
    return range(32, path.stat().st_size, 24 + PAGE)


@pytest.mark.parametrize("part", ["header", "first", "middle", "last"])
def test_a_flipped_bit_in_the_log_is_seen(tmp_path, part):
    path = killed(make(tmp_path / "checkpoint.db", 8), tmp_path / "killed")
    log = path.with_name("checkpoint.db-wal")
    places = list(frames(log))
    at = {"header": 9, "first": places[0] + 500, "middle": places[len(places) // 2] + 3, "last": places[-1] + 40}[part]
    edit(log, lambda data: data.__setitem__(at, data[at] ^ 1))
    before = log.read_bytes()
    with pytest.raises(StorageFailed, match=r"\d of 8 groups of changes that were durable are missing"):
        SqliteStore(path).open()
    assert log.read_bytes() == before  # what may be rescued from it is left alone


@pytest.mark.parametrize("harm", ["removed", "emptied", "shortened"])
def test_a_log_that_is_gone_is_missed(tmp_path, harm):
    path = killed(make(tmp_path / "checkpoint.db", 8), tmp_path / "killed")
    log = path.with_name("checkpoint.db-wal")
    if harm == "removed":
        log.unlink()
    else:
        os.truncate(log, 0 if harm == "emptied" else log.stat().st_size - PAGE)
    with pytest.raises(StorageFailed, match="damaged"):
        SqliteStore(path).open()


@pytest.mark.parametrize("harm", ["removed", "emptied"])
def test_a_checkpoint_that_is_gone_is_not_begun_anew(tmp_path, harm):
    path = killed(make(tmp_path / "checkpoint.db", 3), tmp_path / "killed")
    if harm == "removed":
        path.unlink()
    else:
        os.truncate(path, 0)
    with pytest.raises(StorageFailed, match="3 of 3 groups of changes") as error:
        SqliteStore(path).open()
    assert str(path.with_name("checkpoint.db-mark")) in error.value.hint
    assert not path.exists() or path.stat().st_size == 0


def test_an_older_copy_in_its_place_is_refused_and_taken_without_the_mark(tmp_path):
    path = tmp_path / "checkpoint.db"
    make(path, 2).close()
    shutil.copyfile(path, tmp_path / "backup")
    store = SqliteStore(path)
    store.open()
    store.apply(list(changes(2)))
    store.close()
    shutil.copyfile(tmp_path / "backup", path)
    with pytest.raises(StorageFailed, match="1 of 3 groups"):
        SqliteStore(path).open()
    with pytest.raises(StorageFailed, match="1 of 3 groups"):
        read_store(path)
    path.with_name("checkpoint.db-mark").unlink()
    store.open()
    assert store.totals().succeeded == 2
    store.close()


def test_what_was_never_acknowledged_is_not_missed(tmp_path):
    """A power cut may tear the end of the log: changes nobody was told of."""
    store = make(tmp_path / "checkpoint.db", 3)
    acknowledged = store.path.with_name("checkpoint.db-mark").read_bytes()
    store.apply(list(changes(3)))
    path = killed(store, tmp_path / "killed")
    path.with_name("checkpoint.db-mark").write_bytes(acknowledged)
    os.truncate(path.with_name("checkpoint.db-wal"), path.with_name("checkpoint.db-wal").stat().st_size - 100)
    store = SqliteStore(path)
    store.open()
    assert store.totals().succeeded == 3
    store.close()


# The mark


def read(mark):
    mark.read()
    return mark.acknowledged


@pytest.mark.parametrize("text", [b"", b"9", b"%020d 00000000\n" % 99, b"x" * 30, b"\xff" * 30, b"%020d " % 99])
def test_a_mark_that_cannot_be_read_proves_nothing(tmp_path, text):
    mark = Mark(tmp_path / "checkpoint.db")
    mark.path.write_bytes(text)
    assert read(mark) == 0


def test_a_mark_comes_back_as_it_was_set(tmp_path):
    mark = Mark(tmp_path / "checkpoint.db")
    assert read(mark) == 0
    for number in (1, 7, 123_456_789_012):
        mark.write(number)
        assert read(mark) == number
    mark.close()


def test_a_mark_is_never_written_through_a_link_or_a_pipe(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    mark = Mark(tmp_path / "checkpoint.db")
    mark.path.symlink_to(victim)
    mark.write(5)
    mark.path.unlink()
    os.mkfifo(mark.path)
    mark.write(5)
    assert read(mark) == 0
    mark.close()
    assert victim.read_text() == "mine"
