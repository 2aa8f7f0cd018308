import asyncio
import contextlib
import threading

import pytest

from bulkgrok.core.errors import RunTakenOver, StorageFailed
from bulkgrok.core.model import Mode, Settled
from bulkgrok.engine.projector import Projector
from bulkgrok.testing import MemorySink


def outcome(seq):
    return Settled(
        seq=seq, row=seq, line=None, custom_id=str(seq), kind="chat", mode=Mode.DIRECT, model="m", attempts=1,
        submitted_at=0.0, completed_at=0.0, request_id=None, status_code=200, body=b"{}", cost_usd=None, usage=None,
    )  # fmt: skip


class SlowSink(MemorySink):
    """Writes when it is let, as a slow disk does."""

    def __init__(self):
        super().__init__()
        self.entered, self.gate = threading.Event(), threading.Event()
        self.happened = []

    def write(self, outcomes):
        self.entered.set()
        self.gate.wait()
        self.happened.append("write")
        super().write(outcomes)

    def close(self):
        self.happened.append("closed")


class Outbox:
    """The store and the checkpoint of a run that is over."""

    def __init__(self, count):
        self.outcomes = [outcome(seq) for seq in range(1, count + 1)]
        self.positions = {}

    async def call(self, function, *args):
        return function(*args)

    def outbox(self, after, limit):
        return [found for found in self.outcomes if found.seq > after][:limit]

    def position(self, sink):
        return self.positions.get(sink)

    def advance(self, sink, position):
        self.positions[sink] = position


def test_a_step_that_is_cancelled_in_the_middle_of_a_batch_is_not_written_again():
    async def main():
        outbox, sink = Outbox(5), SlowSink()
        projector = Projector(store=outbox, checkpoint=outbox, sink=sink, offload=asyncio.to_thread)
        await projector.restore()
        step = asyncio.ensure_future(projector.catch_up())
        await asyncio.to_thread(sink.entered.wait)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        sink.gate.set()
        await projector.finish(complete=True)
        return [found.seq for found in sink.rows], outbox.positions["memory"].seq

    assert asyncio.run(main()) == ([1, 2, 3, 4, 5], 5)


def test_an_output_is_let_go_of_behind_the_step_that_was_abandoned_and_no_step_follows():
    async def main():
        outbox, sink = Outbox(5), SlowSink()
        projector = Projector(store=outbox, checkpoint=outbox, sink=sink, offload=asyncio.to_thread)
        await projector.restore()
        step = asyncio.ensure_future(projector.catch_up())
        await asyncio.to_thread(sink.entered.wait)
        step.cancel()
        late = asyncio.ensure_future(projector.catch_up())
        closing = asyncio.ensure_future(projector.close())
        await asyncio.sleep(0)
        sink.gate.set()
        await asyncio.gather(step, late, closing, return_exceptions=True)
        return sink.happened

    assert asyncio.run(main()) == ["write", "closed"]


class NoNewThread:
    """Runs blocking calls; of one it says that no thread could be begun, though an old one takes it up later."""

    def __init__(self, fails_at):
        self.calls, self.fails_at, self.late = 0, fails_at, None

    async def __call__(self, function, *args):
        self.calls += 1
        if self.calls == self.fails_at:
            self.late = lambda: function(*args)
            msg = "can't start new thread"
            raise RuntimeError(msg)
        return function(*args)

    def take_up(self):
        if self.late is not None:
            with contextlib.suppress(RuntimeError):
                self.late()


@pytest.mark.parametrize("at_once", [True, False], ids=["taken up at once", "taken up later"])
@pytest.mark.parametrize("fails_at", range(1, 4))
def test_a_call_that_found_no_thread_and_was_carried_out_all_the_same_writes_no_row_twice(fails_at, at_once):
    async def main():
        outbox, sink, offload = Outbox(5), MemorySink(), NoNewThread(fails_at)
        projector = Projector(store=outbox, checkpoint=outbox, sink=sink, offload=offload)
        try:
            await projector.restore()
            await projector.catch_up()
        except RuntimeError:
            if at_once:
                offload.take_up()
        outbox.outcomes.append(outcome(6))
        await projector.finish(complete=True)
        offload.take_up()
        return [found.seq for found in sink.rows]

    assert asyncio.run(main()) == [1, 2, 3, 4, 5, 6]


class TornSink(MemorySink):
    """Takes a part of its rows when the disk is full."""

    def __init__(self):
        super().__init__()
        self.full = True

    def write(self, outcomes):
        if self.full:
            super().write(outcomes[:2])
            self.full = False
            msg = "full"
            raise StorageFailed(msg)
        super().write(outcomes)


def test_what_a_failed_write_left_is_discarded_before_rows_are_written_again():
    async def main():
        outbox, sink = Outbox(5), TornSink()
        projector = Projector(store=outbox, checkpoint=outbox, sink=sink, offload=asyncio.to_thread)
        await projector.restore()
        with pytest.raises(StorageFailed):
            await projector.catch_up()
        await projector.finish(complete=False)
        return [found.seq for found in sink.rows]

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


class Lease:
    """Ours until it is told otherwise."""

    def __init__(self):
        self.ours = True

    def holds(self):
        return self.ours


class Taken(Outbox):
    """A checkpoint that another runner owns, once the lease is over."""

    def __init__(self, count, lease):
        super().__init__(count)
        self.lease = lease

    def advance(self, sink, position):
        if not self.lease.ours:
            msg = "taken over"
            raise RunTakenOver(msg)
        super().advance(sink, position)


@pytest.mark.parametrize("step", ["catch_up", "finish"])
def test_an_output_is_not_touched_once_the_run_is_another_runners(step):
    async def main():
        lease, sink = Lease(), SlowSink()
        sink.gate.set()
        outbox = Taken(5, lease)
        projector = Projector(store=outbox, checkpoint=outbox, sink=sink, offload=asyncio.to_thread, lease=lease)
        await projector.restore()
        lease.ours = False
        with pytest.raises(RunTakenOver):
            await (projector.catch_up() if step == "catch_up" else projector.finish(complete=True))
        return sink.happened, sink.rows

    assert asyncio.run(main()) == ([], [])


def test_a_process_that_was_stopped_on_the_way_to_the_disk_writes_nothing_there():
    async def main():
        lease, sink = Lease(), SlowSink()
        sink.gate.set()
        outbox = Taken(5, lease)

        async def offload(function, /, *args):
            lease.ours = sink.happened == ["never"]  # it is stopped here, and taken over
            return function(*args)

        projector = Projector(store=outbox, checkpoint=outbox, sink=sink, offload=asyncio.to_thread, lease=lease)
        await projector.restore()
        projector._offload = offload
        with pytest.raises(RunTakenOver):
            await projector.catch_up()
        return sink.happened, sink.rows

    assert asyncio.run(main()) == ([], [])
