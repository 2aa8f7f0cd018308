"""The last resorts on a full disk, and where a checkpoint may lie."""

import os
import tempfile
from pathlib import Path

import pytest

from bulkgrok.checkpoint import filesystem
from bulkgrok.checkpoint import spill as spilling
from bulkgrok.checkpoint.ballast import Ballast, Room
from bulkgrok.checkpoint.filesystem import examine
from bulkgrok.checkpoint.memory import MemoryStore
from bulkgrok.checkpoint.spill import Spill
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import Accept, Redeem, Submit, Succeed, Unsent
from bulkgrok.core.model import Item, Mode, RequestId
from bulkgrok.transport.spilling import Spills


def submit(row):
    item = Item(
        row=row, line=None, custom_id=str(row), kind="chat", mode=Mode.DIRECT, model="m", stream=False, body=b"{}",
        digest=b"d", max_usd=0.0, tokens=1,
    )  # fmt: skip
    return Submit(item=item, attempt=1, at=1.0)


def redeem(row, raw=b"\x00\xff"):
    return Redeem(row=row, at=2.5, status_code=200, raw=raw, request_id=None)


def accept(row):
    return Accept(row=row, request_id=RequestId("r"), at=1.0, deadline_at=9.0)


@pytest.fixture
def store():
    found = MemoryStore()
    found.open()
    return found


@pytest.fixture
def spill(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(spilling, "_ANYWHERE", ())
    return Spill(tmp_path / "run" / "checkpoint.db")


def test_only_what_cannot_be_had_again_is_spilled(spill):
    succeed = Succeed(row=1, model="m", cost_usd=None, usage=None, tokens=(0, 0, 0, 0))
    assert spill.save([submit(1), Unsent(row=1), succeed]) == (None, 0)
    assert spill.save([redeem(1), succeed, accept(2)]) == (spill.places[0], 2)


def test_spilled_rows_are_entered_once_where_they_still_wait(spill, store):
    store.apply([submit(row) for row in range(4)])
    store.apply([redeem(3, b"stored after all")])
    spill.save([redeem(0), accept(1)])
    spill.save([redeem(1), redeem(3), redeem(77)])
    assert spill.recover(store) == 3
    assert store.redeemed() == [0, 1, 3]
    assert (store.record(0).raw, store.record(1).request_id) == (b"\x00\xff", "r")
    assert store.record(3).raw == b"stored after all"
    assert spill.recover(store) == 0


@pytest.fixture
def large(tmp_path):
    """A large answer on the disk."""
    body = Spills(tmp_path / "run" / "replies").begin("row-1")
    body.write(b"large" * 300_000)
    return body


def test_a_large_answer_stays_in_its_own_file_and_is_entered_from_there(spill, store, large):
    store.apply([submit(row) for row in range(2)])
    assert spill.save([redeem(0), redeem(1, large)]) == (spill.places[0], 2)
    assert spill.places[0].stat().st_size < 1_000
    assert spill.recover(store) == 2
    assert store.record(1).raw == b"large" * 300_000
    assert not list(large.path.parent.iterdir())


@pytest.mark.parametrize("harm", ["changed", "shorter", "gone", "replaced by a link"])
def test_a_large_answer_whose_file_is_damaged_is_told_and_not_entered(spill, store, large, harm, tmp_path):
    store.apply([submit(1)])
    spill.save([redeem(1, large)])
    content = large.path.read_bytes()
    match harm:
        case "changed":
            large.path.write_bytes(content[:-1] + b"X")
        case "shorter":
            large.path.write_bytes(content[:-1])
        case "gone":
            large.path.unlink()
        case _:
            (tmp_path / "other").write_bytes(content)
            large.path.unlink()
            large.path.symlink_to(tmp_path / "other")
    with pytest.raises(StorageFailed, match="line 1 is damaged"):
        spill.recover(store)
    assert spill.places[0].exists()


def test_a_large_answer_whose_file_cannot_be_made_durable_finds_no_place(spill, large):
    large.path.parent.chmod(0o500)
    large.path.unlink() if os.geteuid() == 0 else None
    assert spill.save([redeem(1, large)]) == (None, 1)
    large.path.parent.chmod(0o700)


def test_the_folder_for_temporary_files_is_the_second_place(spill, store):
    spill.places[0].mkdir()
    store.apply([submit(1)])
    assert spill.save([redeem(1)]) == (spill.places[1], 1)
    assert spill.places[1].stat().st_mode & 0o777 == 0o600
    assert spill.recover(store) == 1
    assert store.redeemed() == [1]


def test_another_checkpoint_has_another_spill(tmp_path):
    names = {place for name in ("checkpoint.db", "a.db", "b.db") for place in Spill(tmp_path / name).places}
    assert len(names) == 3 * len(Spill(tmp_path / "checkpoint.db").places) >= 6


def test_what_was_spilled_is_found_with_another_folder_for_temporary_files(tmp_path, store, monkeypatch):
    for name in ("a", "b", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(spilling, "_ANYWHERE", (tmp_path / "a", tmp_path / "b"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "b"))
    spilled = Spill(tmp_path / "run" / "checkpoint.db")
    spilled.places[0].mkdir()
    store.apply([submit(1)])
    assert spilled.save([redeem(1)]) == (tmp_path / "b" / spilled.places[1].name, 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a"))
    assert Spill(tmp_path / "run" / "checkpoint.db").recover(store) == 1


def test_a_line_that_was_torn_takes_none_with_it(spill, store):
    store.apply([submit(1), submit(2)])
    spill.save([redeem(1)])
    with spill.places[0].open("ab") as file:
        file.write(b'{"row": 7, "at')
    spill.save([redeem(2)])
    assert spill.recover(store) == 2


def test_a_torn_last_line_is_passed_over(spill, store):
    store.apply([submit(1), submit(2)])
    spill.save([redeem(1)])
    whole = spill.places[0].read_bytes()
    spill.places[0].write_bytes(b"\n" + whole + whole[:-9])
    assert spill.recover(store) == 1
    assert store.redeemed() == [1]


@pytest.mark.parametrize(
    "rubbish",
    [b"{", b"null", b"[1]", b'"raw"', b'{"raw": 1}', b'{"raw": "!"}', b'{"row": 1}', b"\xff", b"[" * 100_000,
     b'{"row": 1, "at": 2.5, "status_code": 200, "request_id": null, "raw": "AP8="}'],
)  # fmt: skip
def test_a_damaged_line_stops_the_start_and_leaves_everything_as_it_is(spill, store, rubbish):
    store.apply([submit(1), submit(2)])
    spill.save([redeem(1)])
    whole = spill.places[0].read_bytes()
    spill.places[0].write_bytes(whole + rubbish + b"\n" + whole)
    with pytest.raises(StorageFailed, match="line 2 is damaged"):
        spill.recover(store)
    assert store.redeemed() == []
    assert spill.places[0].exists()


def test_no_flipped_bit_of_a_spill_goes_unnoticed(spill, store):
    store.apply([submit(1), submit(2)])
    spill.save([redeem(1, b"an answer that was paid for"), accept(2)])
    whole = spill.places[0].read_bytes()
    for at in range(len(whole) * 8):
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        if data == whole or b"\n" not in data[-1:]:
            continue  # the end of the last line is gone: it counts as torn
        spill.places[0].write_bytes(data)
        with pytest.raises(StorageFailed, match="is damaged"):
            spill.recover(store)


def test_a_spill_that_somebody_else_laid_out_is_neither_written_nor_read(spill, store, tmp_path):
    target = tmp_path / "victim"
    target.write_bytes(b"theirs")
    spill.places[0].symlink_to(target)
    spill.places[1].symlink_to(target)
    assert spill.save([redeem(1)]) == (None, 1)
    assert spill.recover(store) == 0
    assert target.read_bytes() == b"theirs"


def test_a_spill_stays_until_the_checkpoint_has_taken_it(spill):
    class Full(MemoryStore):
        def apply(self, changes):
            msg = "full"
            raise StorageFailed(msg)

    spill.save([redeem(1)])
    with pytest.raises(StorageFailed):
        spill.recover(Full())
    assert spill.places[0].exists()


# Ballast


def test_ballast_keeps_real_room_and_gives_it_up_once(tmp_path):
    ballast = Ballast(tmp_path / "checkpoint.db", 1 << 20)
    assert not ballast.release()
    ballast.take_on()
    found = (tmp_path / "ballast").stat()
    assert found.st_blocks * 512 >= 1 << 20
    assert found.st_mode & 0o777 == 0o600
    ballast.take_on()
    assert ballast.release()
    assert not ballast.release()
    assert not (tmp_path / "ballast").exists()


def test_ballast_is_never_taken_on_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"theirs")
    (tmp_path / "ballast").symlink_to(victim)
    Ballast(tmp_path / "checkpoint.db", 1 << 20).take_on()
    assert victim.read_bytes() == b"theirs"


def test_ballast_grows_on_demand_and_keeps_what_it_has_where_there_is_no_more(tmp_path):
    ballast = Ballast(tmp_path / "checkpoint.db", 1 << 20)
    ballast.take_on()
    ballast.take_on(3 << 20)
    assert ballast.held_bytes == (tmp_path / "ballast").stat().st_blocks * 512 >= 3 << 20
    ballast.take_on(1 << 60)
    assert ballast.held_bytes >= 3 << 20
    assert Ballast(tmp_path / "checkpoint.db", 1 << 20).held_bytes == 0  # until it is taken on
    assert ballast.release()
    assert ballast.held_bytes == 0


def test_the_room_that_is_kept_grows_with_the_answers_and_with_those_in_flight():
    room = Room()
    room.seen(1 << 20)
    assert room.needed_bytes == 0  # nothing is in flight
    few, many = Room(), Room()
    few.in_flight, many.in_flight = 1, 1000
    assert 0 < few.needed_bytes < many.needed_bytes < 10 << 20
    for found in (few, many):
        for size in [2_000] * 99 + [1_000_000]:
            found.seen(size)
    assert few.needed_bytes > 1_000_000
    assert 1000 * 2_000 < many.needed_bytes < 1000 * 100_000, (
        "one giant among the small does not count a thousand times"
    )


@pytest.mark.parametrize("content", [b"notes of mine", bytes(100) + b"x"])
def test_a_file_of_the_users_that_is_called_ballast_is_neither_filled_nor_removed(tmp_path, content):
    (tmp_path / "ballast").write_bytes(content)
    ballast = Ballast(tmp_path / "checkpoint.db", 1 << 20)
    ballast.take_on()
    assert not ballast.release()
    assert (tmp_path / "ballast").read_bytes() == content


def test_a_second_name_of_another_file_is_no_ballast(tmp_path):
    (tmp_path / "zeros").write_bytes(bytes(100))
    (tmp_path / "ballast").hardlink_to(tmp_path / "zeros")
    ballast = Ballast(tmp_path / "checkpoint.db", 1 << 20)
    ballast.take_on()
    assert not ballast.release()
    assert (tmp_path / "zeros").stat().st_size == 100


def test_each_checkpoint_of_a_folder_has_its_own_ballast(tmp_path):
    for name in ("checkpoint.db", "a.db", "b.db"):
        Ballast(tmp_path / name, 1 << 20).take_on()
    assert {path.name for path in tmp_path.iterdir()} == {"ballast", "a.db.ballast", "b.db.ballast"}


def test_ballast_of_an_earlier_start_is_taken_over(tmp_path):
    Ballast(tmp_path / "checkpoint.db", 1 << 20).take_on()
    ballast = Ballast(tmp_path / "checkpoint.db", 1 << 20)
    ballast.take_on()
    assert ballast.release()


def test_a_pipe_called_ballast_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "ballast")
    ballast = Ballast(tmp_path / "checkpoint.db", 1 << 20)
    ballast.take_on()
    assert not ballast.release()


def test_no_ballast_is_no_harm(tmp_path):
    for ballast in (Ballast(tmp_path / "checkpoint.db", 0), Ballast(tmp_path / "none" / "checkpoint.db")):
        ballast.take_on()
        assert not ballast.release()


# Where a checkpoint may lie


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("nfs4", "refused"), ("cifs", "refused"), ("fuse.sshfs", "refused"), ("9p", "refused"), ("tmpfs", "warned"),
     ("ext4", "fine"), ("overlay", "fine"), ("fuse.fuse-overlayfs", "fine"), ("fuseblk", "fine"), ("xfs", "fine")],
)  # fmt: skip
def test_the_file_system_decides(tmp_path, monkeypatch, kind, verdict):
    folder = tmp_path / "a b" / "run"
    folder.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    where = os.path.realpath(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(
        f"none / overlay rw 0 0\nserver:/x {where} ext2 rw 0 0\nserver:/x {where} {kind} rw 0 0\n"
        f"x {where}/ru nfs rw 0 0\nx /elsewhere/very/long/name/indeed nfs rw 0 0\n"
    )
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)
    if verdict == "refused":
        with pytest.raises(StorageFailed, match=f"network file system .{kind}"):
            examine(folder)
    else:
        assert [("tmpfs" in warning) for warning in examine(folder)] == ([True] if verdict == "warned" else [])


def test_a_root_on_a_network_is_not_refused_because_nothing_else_is_there(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text("none / 9p rw 0 0\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)
    assert examine(tmp_path) == []


def test_where_nothing_is_known_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "_MOUNTS", Path("/nowhere/mounts"))
    assert examine(tmp_path) == []
