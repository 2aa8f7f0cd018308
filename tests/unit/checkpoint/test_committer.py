"""Group commit: durable when it returns, in order, exactly once, whatever becomes of those who wait."""

import asyncio
import base64
import json
import threading

import pytest

from bulkgrok.checkpoint import Committer, open_store
from bulkgrok.checkpoint.memory import MemoryStore
from bulkgrok.core import failpoints
from bulkgrok.core.errors import RunMismatch, StorageFailed
from bulkgrok.core.lifecycle import Accept, Doubt, Redeem, Submit, Succeed, Unsent
from bulkgrok.core.model import Item, Mode, RequestId


def submit(row, attempt=1):
    item = Item(
        row=row, line=None, custom_id=str(row), kind="chat", mode=Mode.DIRECT, model="m", stream=False, body=b"{}",
        digest=b"d", max_usd=0.0, tokens=1,
    )  # fmt: skip
    return Submit(item=item, attempt=attempt, at=1.0)


def redeem(row, raw=b"{}"):
    return Redeem(row=row, at=2.0, status_code=200, raw=raw, request_id="x")


def succeed(row):
    return Succeed(row=row, model="m", cost_usd=None, usage=None, tokens=(0, 0, 0, 0))


class Gate(MemoryStore):
    """A store whose disk is as slow as the test wants, and which remembers its transactions."""

    def __init__(self):
        super().__init__()
        self.may_go = threading.Event()
        self.may_go.set()
        self.entered = threading.Event()
        self.groups = []
        self.threads = set()

    def apply(self, changes):
        self.entered.set()
        self.may_go.wait()
        self.groups.append(len(changes))
        self.threads.add(threading.get_ident())
        super().apply(changes)


class FullDisk(MemoryStore):
    """A store on a disk that is full from the n-th transaction on, and has room again when the ballast is gone."""

    def __init__(self, path, full_from=2, *, room_without_ballast=True):
        super().__init__()
        self.path = path
        self.applied = 0
        self.full_from = full_from
        self.room = room_without_ballast

    def apply(self, changes):
        full = self.applied + 1 >= self.full_from
        if full and not (self.room and not self.path.with_name("ballast").exists()):
            msg = "The checkpoint: the disk is full."
            raise StorageFailed(msg, hint="make room")
        super().apply(changes)
        self.applied += 1


async def held(gate):
    """Keep the writer busy with one commit; return its task."""
    gate.may_go.clear()
    gate.entered.clear()
    return asyncio.create_task(asyncio.to_thread(gate.entered.wait))


def test_a_commit_returns_when_it_is_durable(tmp_path):
    async def scenario():
        committer = Committer(open_store(tmp_path / "c.db"))
        await committer.start()
        await committer.commit(submit(1))
        other = open_store(tmp_path / "c.db")
        other.open()
        assert other.submitting() == [1]
        other.close()
        await committer.close()

    asyncio.run(scenario())


def test_commits_that_come_while_the_disk_is_busy_become_one_transaction():
    async def scenario():
        gate = Gate()
        committer = Committer(gate)
        await committer.start()
        entered = await held(gate)
        first = asyncio.ensure_future(committer.commit(submit(0)))
        await entered
        rest = [asyncio.ensure_future(committer.commit(submit(row))) for row in range(1, 50)]
        await asyncio.sleep(0)
        gate.may_go.set()
        await asyncio.gather(first, *rest)
        assert gate.groups == [1, 49]
        assert gate.threads.isdisjoint({threading.get_ident()})
        await committer.close()

    asyncio.run(scenario())


def test_a_group_has_a_size():
    async def scenario(changes, **limits):
        gate = Gate()
        committer = Committer(gate, **limits)
        await committer.start()
        await committer.commit(*(submit(row) for row in range(20)))
        entered = await held(gate)
        waiting = [committer.commit(submit(90))]
        await entered
        waiting += [committer.commit(*changes(row)) for row in range(20)]
        gate.may_go.set()
        await asyncio.gather(*waiting)
        await committer.close()
        return gate.groups[2:]

    assert asyncio.run(scenario(lambda row: [redeem(row)], max_ops=8)) == [8, 8, 4]
    assert asyncio.run(scenario(lambda row: [redeem(row, b"x" * 1000)], max_bytes=5000)) == [5] * 4
    assert asyncio.run(scenario(lambda row: [redeem(row), succeed(row)], max_ops=3)) == [4] * 10


def test_what_comes_in_at_one_time_is_one_transaction():
    async def scenario():
        gate = Gate()
        committer = Committer(gate)
        await committer.start()
        await asyncio.gather(*(committer.commit(submit(row)) for row in range(50)))
        assert gate.groups == [50]
        await committer.close()

    asyncio.run(scenario())


def test_what_those_who_were_told_hand_in_next_is_one_transaction():
    async def scenario():
        gate = Gate()
        committer = Committer(gate)
        await committer.start()

        async def work(row):
            await committer.commit(submit(row))
            await committer.commit(redeem(row), succeed(row))

        await asyncio.gather(*(work(row) for row in range(50)))
        assert gate.groups == [50, 100]
        await committer.close()

    asyncio.run(scenario())


def test_changes_are_applied_in_the_order_they_were_handed_in():
    async def scenario():
        store = MemoryStore()
        committer = Committer(store, max_ops=7)
        await committer.start()
        futures = []
        for row in range(100):
            futures += [committer.commit(submit(row)), committer.commit(redeem(row)), committer.commit(succeed(row))]
        await asyncio.gather(*futures)
        assert [found.row for found in await committer.call(store.outbox, 0, 1000)] == list(range(100))
        await committer.close()

    asyncio.run(scenario())


def test_a_call_sees_everything_that_was_handed_in_before_it():
    async def scenario():
        store = MemoryStore()
        committer = Committer(store)
        await committer.start()
        for row in range(50):
            committer.commit(submit(row))
            assert row in await committer.call(store.submitting)
        with pytest.raises(KeyError):
            await committer.call(store.record, 7)
        await committer.close()

    asyncio.run(scenario())


def test_only_the_guilty_one_of_a_group_fails():
    async def scenario():
        gate = Gate()
        committer = Committer(gate)
        await committer.start()
        entered = await held(gate)
        futures = [committer.commit(submit(0))]
        await entered
        futures += [
            committer.commit(submit(1)),
            committer.commit(submit(5), Unsent(row=9)),
            committer.commit(submit(2)),
        ]
        gate.may_go.set()
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), type(None), ValueError, type(None)]
        assert await committer.call(gate.submitting) == [0, 1, 2]
        assert committer.failed is None
        await committer.close()

    asyncio.run(scenario())


def test_cancelling_who_waits_neither_loses_nor_doubles_the_change():
    async def scenario():
        gate = Gate()
        committer = Committer(gate)
        await committer.start()
        entered = await held(gate)
        busy = asyncio.ensure_future(committer.commit(submit(0)))
        await entered
        tasks = [asyncio.ensure_future(committer.commit(submit(row))) for row in range(1, 9)]
        tasks.append(asyncio.create_task(committer.call(gate.submitting)))
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))
        gate.may_go.set()
        await busy
        assert await committer.call(gate.submitting) == list(range(9))
        assert gate.groups == [1, 8]
        await committer.close()

    asyncio.run(scenario())


def test_closing_finishes_what_was_handed_in():
    async def scenario():
        gate = Gate()
        committer = Committer(gate, max_ops=2)
        await committer.start()
        entered = await held(gate)
        futures = [committer.commit(submit(row)) for row in range(20)]
        await entered
        gate.may_go.set()
        await committer.close()
        await committer.close()
        await asyncio.gather(*futures)
        with pytest.raises(StorageFailed):
            await committer.commit(submit(99))
        gate.open()
        assert gate.submitting() == list(range(20))

    asyncio.run(scenario())


def test_nothing_to_commit_is_nothing():
    async def scenario():
        gate = Gate()
        committer = Committer(gate)
        await committer.start()
        await committer.commit()
        await committer.close()
        assert gate.groups == []

    asyncio.run(scenario())


def test_a_store_that_cannot_be_opened_says_so_and_leaves_no_thread(tmp_path):
    path = tmp_path / "c.db"
    store = open_store(path)
    store.open()
    store._connection.execute("PRAGMA user_version = 99")
    store.close()

    async def scenario():
        committer = Committer(open_store(path))
        with pytest.raises(RunMismatch, match="version 99"):
            await committer.start()
        with pytest.raises(StorageFailed):
            await committer.commit(submit(1))

    before = threading.active_count()
    asyncio.run(scenario())
    assert threading.active_count() == before


def test_inline_everything_happens_where_it_is_called():
    async def scenario():
        gate = Gate()
        committer = Committer(gate, inline=True)
        await committer.start()
        future = committer.commit(submit(1))
        assert future.done()
        await committer.commit(redeem(1), succeed(1))
        assert gate.threads == {threading.get_ident()}
        assert (await committer.call(gate.totals)).succeeded == 1
        with pytest.raises(ValueError, match="row 1"):
            await committer.commit(submit(1))
        await committer.close()

    asyncio.run(scenario())


def test_a_simulated_crash_in_a_commit_reaches_all_who_wait():
    class Crash(BaseException):
        pass

    def hit(name):
        if name == "store.after-commit":
            raise Crash

    async def scenario():
        committer = Committer(MemoryStore(), inline=True)
        await committer.start()
        failpoints.install(hit)
        with pytest.raises(Crash):
            await committer.commit(submit(1))

    try:
        asyncio.run(scenario())
    finally:
        failpoints.install(None)


# A full disk


def test_on_a_full_disk_what_is_on_its_way_takes_the_room_that_was_kept_and_nothing_new_is_begun(tmp_path):
    async def scenario():
        store = FullDisk(tmp_path / "checkpoint.db")
        committer = Committer(store)
        await committer.start()
        assert (tmp_path / "ballast").stat().st_size == 8 << 20
        await committer.commit(submit(1), submit(2), submit(3))
        with pytest.raises(StorageFailed, match="disk is full"):
            await committer.commit(redeem(1), succeed(1))
        assert committer.failed is not None
        assert not (tmp_path / "ballast").exists()
        for late in ([submit(4)], [redeem(2)], [Doubt(row=3, at=1.0, reason="x")]):
            with pytest.raises(StorageFailed, match="disk is full"):
                await committer.commit(*late)
        totals = await committer.call(store.totals)
        assert (totals.succeeded, totals.redeemed, totals.in_doubt, totals.submitting) == (1, 1, 1, 0)
        assert committer.unsaved == ()
        await committer.close()
        assert not (tmp_path / "spill.jsonl").exists()
        store.full_from = 99
        again = Committer(store)
        await again.start()
        assert (tmp_path / "ballast").exists()
        await again.close()

    asyncio.run(scenario())


def test_nothing_is_begun_for_whose_answer_the_disk_may_have_no_room_and_what_is_on_its_way_is_stored(tmp_path):
    async def scenario():
        store = open_store(tmp_path / "checkpoint.db")
        committer = Committer(store)
        await committer.start()
        await committer.commit(submit(1))
        await committer.call(committer.look)
        committer.keep_room(in_flight=1)
        await committer.commit(submit(2), redeem(1, b"x" * 100), succeed(1))
        assert committer.failed is None
        committer.keep_room(in_flight=1, answers=1 << 20)
        await committer.call(committer.look)
        assert committer.failed is None
        committer.keep_room(in_flight=1 << 50)
        with pytest.raises(StorageFailed, match="nearly full"):
            await committer.commit(submit(3))
        with pytest.raises(StorageFailed, match="nearly full"):
            await committer.commit(redeem(2), succeed(2))
        totals = await committer.call(store.totals)
        assert (totals.succeeded, totals.submitting) == (2, 0)
        assert committer.unsaved == ()
        assert (tmp_path / "ballast").exists(), "it is for a disk that is full"
        await committer.close()
        assert not (tmp_path / "ballast").exists()

    asyncio.run(scenario())


def test_answers_that_find_no_room_at_all_are_spilled_and_entered_by_the_next_run(tmp_path):
    async def scenario():
        store = FullDisk(tmp_path / "checkpoint.db", room_without_ballast=False)
        committer = Committer(store)
        await committer.start()
        await committer.commit(submit(1), submit(2), submit(3))
        with pytest.raises(StorageFailed, match=r"spill\.jsonl"):
            await committer.commit(redeem(1, b"\x00\xffpaid"), succeed(1))
        with pytest.raises(StorageFailed, match=r"spill\.jsonl"):
            await committer.commit(Accept(row=2, request_id=RequestId("r-2"), at=1.0, deadline_at=9.0))
        with pytest.raises(StorageFailed):
            await committer.commit(Unsent(row=3))
        assert committer.unsaved == (Unsent(row=3),)
        assert str(committer.failed).count("spill.jsonl") == 1
        lines = [json.loads(line) for line in (tmp_path / "spill.jsonl").read_bytes().splitlines()]
        assert base64.b64decode(lines[0]["raw"]) == b"\x00\xffpaid"
        assert (tmp_path / "spill.jsonl").stat().st_mode & 0o777 == 0o600
        await committer.close()

        store.full_from = 99
        again = Committer(store)
        await again.start()
        assert await again.call(store.redeemed) == [1]
        assert (await again.call(store.record, 1)).raw == b"\x00\xffpaid"
        assert [job.request_id for job in await again.call(lambda: list(store.jobs()))] == ["r-2"]
        assert not (tmp_path / "spill.jsonl").exists()
        assert (tmp_path / "spill.jsonl.applied").exists()
        await again.close()

    asyncio.run(scenario())


def test_what_finds_no_place_anywhere_can_still_be_had(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr("bulkgrok.checkpoint.spill._ANYWHERE", ())

    async def scenario():
        store = FullDisk(folder / "checkpoint.db", room_without_ballast=False)
        committer = Committer(store)
        await committer.start()
        await committer.commit(submit(1))
        (folder / "spill.jsonl").mkdir()
        with pytest.raises(StorageFailed, match="1 receipts or answers found no place"):
            await committer.commit(redeem(1))
        assert [change.row for change in committer.unsaved] == [1]
        await committer.close()

    asyncio.run(scenario())


def test_the_whole_group_on_a_full_disk_is_saved(tmp_path):
    async def scenario():
        store = FullDisk(tmp_path / "checkpoint.db")
        committer = Committer(store)
        await committer.start()
        await committer.commit(*(submit(row) for row in range(20)))
        futures = [committer.commit(redeem(row)) for row in range(20)]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert all(isinstance(result, StorageFailed) for result in results)
        assert await committer.call(store.redeemed) == list(range(20))
        await committer.close()

    asyncio.run(scenario())
