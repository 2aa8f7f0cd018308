"""Requests leave only while the run is ours."""

import asyncio

import pytest

from bulkgrok.core.errors import RunTakenOver
from bulkgrok.core.model import NotSent
from bulkgrok.engine.owning import OwnedTransport
from bulkgrok.testing import ScriptedTransport, VirtualTimeLoop


class Lease:
    """Holds when it is told to."""

    def __init__(self):
        self.held, self.lost = True, False

    def holds(self):
        return self.held and not self.lost

    def taken_over(self):
        return RunTakenOver("taken over")


def play(scenario, *, over=lambda: False):
    sent = []

    def api(asked):
        sent.append(asked)
        return NotSent(reason="asked")

    async def main():
        lease = Lease()
        return await scenario(OwnedTransport(ScriptedTransport(api), lease=lease, over=over), lease)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main()), len(sent)


def both(transport):
    return [transport.post("/p", b"{}", timeout_s=1.0, idle_s=None), transport.get("/g")]


def test_a_run_that_is_ours_asks_at_once():
    async def scenario(transport, _lease):
        return [found.reason for found in await asyncio.gather(*both(transport))]

    assert play(scenario) == (["asked", "asked"], 2)


def test_a_run_that_was_taken_over_sends_nothing():
    async def scenario(transport, lease):
        lease.lost = True
        return [found.reason for found in await asyncio.gather(*both(transport))]

    assert play(scenario) == (["another runner may own this run by now"] * 2, 0)


def test_a_request_waits_for_a_lease_that_may_be_renewed():
    async def scenario(transport, lease):
        lease.held = False
        waiting = asyncio.gather(*both(transport))
        await asyncio.sleep(100.0)
        assert not waiting.done()
        lease.held = True
        return [found.reason for found in await waiting]

    assert play(scenario) == (["asked", "asked"], 2)


def test_a_file_that_came_after_the_run_was_taken_over_is_not_put_in_its_place():
    class Web:
        async def fetch(self, url, *, offset, etag, write):
            lease.lost = True
            return "came"

    async def main():
        transport = OwnedTransport(Web(), lease=lease, over=lambda: False)
        with pytest.raises(RunTakenOver):
            await transport.fetch("u", offset=0, etag=None, write=print)

    lease = Lease()
    asyncio.run(main())


def test_nobody_waits_when_the_run_is_over():
    async def scenario(transport, lease):
        lease.held = False
        return isinstance(await transport.get("/g"), NotSent)

    assert play(scenario, over=lambda: True) == (True, 0)
