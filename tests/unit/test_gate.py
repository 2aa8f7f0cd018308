"""What stands between stages and the API: no more at once than was allowed, whoever asks."""

import asyncio
from contextlib import suppress

import pytest

from bulkgrok.core.model import Fetched, NoReply
from bulkgrok.engine.stages import Gate


class Api:
    """Counts what is in flight until it is told to answer."""

    def __init__(self):
        self.in_flight = self.most = 0
        self.answers = asyncio.Event()

    async def post(self, path, body, *, timeout_s, idle_s, keep=""):
        return await self._asked()

    async def get(self, path, *, keep=""):
        return await self._asked()

    async def fetch(self, url, *, offset, etag, write):
        await self._asked()
        return Fetched(status=None, complete=False, reason="of no matter")

    async def _asked(self):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await self.answers.wait()
        finally:
            self.in_flight -= 1
        return NoReply(reason="of no matter")


def ask(gate, number):
    if number % 2:
        return asyncio.ensure_future(gate.get(f"/{number}"))
    return asyncio.ensure_future(gate.post(f"/{number}", b"", timeout_s=None, idle_s=None))


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_no_more_requests_are_in_flight_than_were_allowed(concurrency):
    async def scenario():
        api = Api()
        gate = Gate(api, concurrency=concurrency, door=None)
        asked = [ask(gate, number) for number in range(3 * concurrency)]
        await turns()
        assert api.in_flight == concurrency
        api.answers.set()
        await asyncio.gather(*asked)
        assert api.most == concurrency

    asyncio.run(scenario())


def test_one_that_is_given_up_while_it_waits_takes_no_place():
    async def scenario():
        api = Api()
        gate = Gate(api, concurrency=2, door=None)
        asked = [ask(gate, number) for number in range(6)]
        await turns()
        for task in asked[1:4]:  # one in flight, two that wait
            task.cancel()
        await turns()
        assert api.in_flight == 2
        api.answers.set()
        for task in asked:
            with suppress(asyncio.CancelledError):
                await task
        assert (api.in_flight, api.most) == (0, 2)
        last = ask(gate, 7)
        assert isinstance(await last, NoReply)

    asyncio.run(scenario())


def test_downloads_need_no_place():
    async def scenario():
        api = Api()
        gate = Gate(api, concurrency=1, door=None)
        asked = ask(gate, 0)
        await turns()
        fetched = asyncio.ensure_future(gate.fetch("https://x", offset=0, etag=None, write=lambda *_: None))
        await turns()
        assert api.in_flight == 2
        api.answers.set()
        await asyncio.gather(asked, fetched)

    asyncio.run(scenario())
