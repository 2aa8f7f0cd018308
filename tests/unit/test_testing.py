import asyncio

from bulkgrok.core.model import NoReply, Position, Reply
from bulkgrok.testing import Asked, MemorySink, ScriptedTransport, VirtualTimeLoop


def run(main):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def test_a_day_of_waiting_takes_no_time_and_timers_keep_their_order():
    async def main():
        order = []

        async def after(delay, name):
            await asyncio.sleep(delay)
            order.append((name, asyncio.get_running_loop().time()))

        await asyncio.gather(after(86_400, "day"), after(60, "minute"), after(3_600, "hour"))
        return order

    assert [(name, round(at)) for name, at in run(main())] == [("minute", 60), ("hour", 3_600), ("day", 86_400)]


def test_a_time_out_in_virtual_time_is_a_time_out():
    async def main():
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 600)
        except TimeoutError:
            return asyncio.get_running_loop().time()

    assert run(main()) == 600


def test_a_scripted_transport_answers_in_order_and_remembers():
    async def main():
        api = ScriptedTransport([Reply(status=200, body=b"{}")])
        first = await api.post("/chat/completions", b"body", timeout_s=None, idle_s=None)
        second = await api.get("/models")
        return api, first, second

    api, first, second = run(main())
    assert first == Reply(status=200, body=b"{}")
    assert isinstance(second, NoReply)
    assert api.asked == [
        Asked(method="POST", path="/chat/completions", body=b"body"),
        Asked(method="GET", path="/models"),
    ]


def test_a_memory_sink_goes_back_to_a_position_and_begins_anew_where_it_does_not_have_it():
    sink = MemorySink()
    assert sink.restore(None) == Position(seq=0)
    assert sink.restore(Position(seq=7)) == Position(seq=0)
