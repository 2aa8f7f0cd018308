import asyncio
import threading

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
