"""Output in an object store: nothing of another's is replaced, and a store that is away is waited for."""

import json

import pytest
from pyarrow import fs as pafs

from bulkgrok.core.address import Address
from bulkgrok.core.errors import StorageFailed, UsageError
from bulkgrok.core.model import Code, Mode, RowError, Settled
from bulkgrok.objects import Denied, ObjectStore, Unreachable
from bulkgrok.sinks import patience
from bulkgrok.sinks.errors import ErrorsFile
from bulkgrok.sinks.parts import JsonlParts
from bulkgrok.sinks.remote import Bucket


def settled(n, **changes):
    values = {
        "seq": n, "row": n, "line": n, "custom_id": str(n), "kind": "chat", "mode": Mode.DIRECT, "model": "m",
        "attempts": 1, "submitted_at": 1.0, "completed_at": 2.0, "request_id": None, "status_code": 200, "body": b"{}",
        "cost_usd": None, "usage": None,
    }  # fmt: skip
    return Settled(**(values | changes))


def nobody(line):
    return False


class Store(ObjectStore):
    """A folder as a bucket, which can be away, or lose the reply to a put."""

    def __init__(self, root):
        super().__init__(pafs.LocalFileSystem(), str(root))
        self.away = self.deaf = False
        self.puts = 0

    def _ask(self):
        if self.away:
            msg = "away"
            raise Unreachable(msg)

    def look(self, key):
        self._ask()
        return super().look(key)

    def put(self, key, blocks, *, size):
        self._ask()
        self.puts += 1
        found = super().put(key, blocks, size=size)
        if self.deaf:
            self.deaf = False
            msg = "the reply was lost"
            raise Unreachable(msg)
        return found


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store(tmp_path):
    (tmp_path / "bucket" / "out").mkdir(parents=True)
    return Store(tmp_path / "bucket")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "bucket" / "out"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def place(tmp_path, store):
    address = Address(scheme="s3", root="b", key="out")
    return Bucket(address, scratch=tmp_path / "scratch", stores=lambda _: store)


@pytest.fixture
def sink(place, clock):
    return JsonlParts(
        place, simulated=False, summarise=lambda kind, body: None, rows_a_part=2, seconds_a_part=10.0, monotonic=clock
    )


def finished(sink):
    position = sink.finish(complete=True)
    while sink.unfinished:
        position = sink.finish(complete=True)
    return position


def test_an_object_that_appears_during_the_run_is_not_written_over(sink, out):
    sink.check(None, nobody)
    sink.restore(None)
    (out / "part-00000000.jsonl").write_bytes(b'{"mine":1}\n')
    sink.write([settled(1), settled(2)])
    sink.commit()
    with pytest.raises(StorageFailed, match="put there during the run"):
        sink.commit()
    assert (out / "part-00000000.jsonl").read_bytes() == b'{"mine":1}\n'


def test_a_put_whose_reply_is_lost_is_found_to_be_done(sink, store, clock):
    sink.restore(None)
    sink.write([settled(1), settled(2)])
    sink.commit()
    store.deaf = True
    assert sink.commit().seq == 0
    assert sink.unfinished
    clock.now += 5
    assert sink.commit().seq == 2
    assert store.puts == 1


def test_a_store_that_is_away_is_asked_again_with_pauses_and_then_ends_the_run(sink, store, clock):
    sink.restore(None)
    sink.write([settled(1), settled(2)])
    planned = sink.commit()
    store.away = True
    tries = 0
    with pytest.raises(StorageFailed, match="away"):  # noqa: PT012 - how often it is asked is the point
        while True:
            tries += 1
            assert sink.commit() == planned
            assert sink.unfinished
            clock.now += 1.0
    assert patience.LONGEST_S <= clock.now < patience.LONGEST_S + 60
    assert tries > 100


def test_a_store_that_comes_back_gets_what_it_missed(sink, store, clock, out):
    sink.restore(None)
    sink.write([settled(1), settled(2)])
    sink.commit()
    store.away = True
    sink.commit()
    clock.now += 60
    sink.commit()
    store.away = False
    assert sink.commit().seq == 0  # not asked before its time
    clock.now += 60
    assert sink.commit().seq == 2
    assert not sink.unfinished
    assert (out / "part-00000000.jsonl").read_bytes().count(b"\n") == 2


def test_a_run_that_is_stopped_does_not_wait_for_a_store_that_is_away(sink, store):
    sink.restore(None)
    sink.write([settled(1), settled(2)])
    sink.commit()
    store.away = True
    sink.commit()
    with pytest.raises(StorageFailed, match="away"):
        sink.finish(complete=False)


def test_a_part_is_closed_when_it_has_been_open_for_long(sink, clock, out):
    sink.restore(None)
    sink.write([settled(1)])
    assert not sink.unfinished
    clock.now += 11
    assert sink.unfinished
    assert sink.commit().seq == 0
    assert sink.commit().seq == 1
    assert (out / "part-00000000.jsonl").exists()


def test_parts_that_are_still_there_are_not_put_again(sink, store, out):
    sink.restore(None)
    sink.write([settled(n) for n in range(1, 9)])
    position = finished(sink)
    sink.close()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "part-00000001.jsonl").unlink()
    store.puts = 0
    position = sink.restore(position)
    assert position.seq == 2
    sink.write([settled(n) for n in range(3, 9)])
    finished(sink)
    sink.close()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert store.puts == 2  # the part, and the manifest, which was gone meanwhile


def test_a_store_that_is_away_at_the_start_is_a_usage_error(sink, store):
    store.away = True
    with pytest.raises(UsageError, match="nothing was sent") as caught:
        sink._place.probe("x")
    assert caught.value.hint


def test_the_errors_file_is_probed_written_and_known_again(place, out, clock, store):
    failure = settled(1, seq=0, error=RowError(code=Code.REJECTED, message="no", status_code=400))
    errors = ErrorsFile(out / "_errors.jsonl", simulated=False, place=place, monotonic=clock)
    states = []
    errors.check(None, nobody)
    errors.probe()
    assert (out / "_errors.jsonl").read_bytes() == b""
    store.away = True
    assert not errors.replace([failure], states.append)
    store.away = False
    assert not errors.replace([failure], states.append)  # not before its time
    clock.now += 5
    assert errors.replace([failure], states.append)
    assert json.loads((out / "_errors.jsonl").read_bytes())["row"] == 1
    again = ErrorsFile(out / "_errors.jsonl", simulated=False, place=place)
    again.check(states[-1], nobody)
    (out / "_errors.jsonl").write_bytes(b'{"mine":1}\n')
    with pytest.raises(UsageError):
        again.check(states[-1], nobody)


def test_a_permission_that_is_taken_away_ends_the_run_at_once_in_words(sink, store, monkeypatch):
    sink.restore(None)
    sink.write([settled(1), settled(2)])
    sink.commit()

    def denied(key):
        msg = "the credentials do not allow it (ACCESS_DENIED)"
        raise Denied(msg)

    monkeypatch.setattr(store, "look", denied)
    with pytest.raises(StorageFailed, match="ACCESS_DENIED") as caught:
        sink.commit()
    assert "kept in the checkpoint" in caught.value.message
    assert "credentials" in caught.value.hint
