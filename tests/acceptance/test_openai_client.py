"""Somebody else's idea of the protocol: the openai client talks to the simulator."""

import asyncio
import threading

import openai
import pytest

from bulkgrok.simulator.server import SimulatorServer
from bulkgrok.simulator.settings import SimulatorSettings

MESSAGES = [{"role": "user", "content": "What is two and two?"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"input": {"type": "string"}}}},
}


class Served:
    """A simulator on a thread of its own."""

    def __init__(self, **settings):
        self.server = SimulatorServer(SimulatorSettings(**settings))
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)
        self.base_url = self.server.base_url

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        await self.server.start()
        self._ready.set()
        await self._over.wait()
        await self.server.stop()

    def stop(self):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)


@pytest.fixture
def served():
    """Return a function that starts a simulator and returns a client of it."""
    started = []

    def start(*, api_key="any", **settings):
        found = Served(**settings)
        client = openai.OpenAI(base_url=found.base_url, api_key=api_key, max_retries=0)
        started.append((found, client))
        return client

    yield start
    for found, client in started:
        client.close()
        found.stop()


def ask(client, **fields):
    return client.chat.completions.create(**({"model": "grok-4.3", "messages": MESSAGES} | fields))


def test_it_reads_a_completion(served):
    answer = ask(served())
    assert "two and two" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    reasoning = usage.completion_tokens_details.reasoning_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens + reasoning
    assert answer._request_id
    openai.types.chat.ChatCompletion.model_validate(answer.model_dump(), strict=False)


def test_it_reads_a_stream_with_usage_at_its_end(served):
    client = served()
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = ask(client)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_it_reads_tool_calls_whole_and_streamed(served):
    client = served()
    (call,) = ask(client, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls
    assert call.function.name == "weather"
    chunks = ask(client, tools=[TOOL], tool_choice="required", stream=True)
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function.name) for call in calls] == [(0, "weather")]


def test_it_reads_several_choices_and_json(served):
    client = served()
    assert len(ask(client, n=3).choices) == 3
    assert ask(client, response_format={"type": "json_object"}).choices[0].message.content.startswith("{")


def test_it_lists_models(served):
    client = served()
    assert "grok-4.3" in {model.id for model in client.models.list()}
    assert client.models.retrieve("grok-4.3").owned_by == "xai"


def test_it_works_from_asyncio(served):
    client = served()

    async def scenario():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="any", max_retries=0) as found:
            answers = await asyncio.gather(*(ask(found) for _ in range(5)))
            assert len({answer.id for answer in answers}) == 5
            stream = await ask(found, stream=True)
            assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "fields", "error", "status"),
    [
        ({"api_key": "bad-key"}, {}, openai.BadRequestError, 400),
        ({"accepted_keys": ("other",)}, {}, openai.BadRequestError, 400),
        ({"api_key": "blocked"}, {}, openai.PermissionDeniedError, 403),
        ({}, {"messages": [{"role": "user", "content": "[[long]]"}]}, openai.BadRequestError, 400),
        ({}, {"model": "no-such-model"}, openai.NotFoundError, 404),
        ({}, {"messages": [{"role": "alien", "content": "x"}]}, openai.UnprocessableEntityError, 422),
        ({}, {"stream": True, "extra_body": {"deferred": True}}, openai.BadRequestError, 400),
        ({"error_429": 1.0}, {}, openai.RateLimitError, 429),
        ({"error_503": 1.0}, {}, openai.InternalServerError, 503),
        ({"error_520": 1.0}, {}, openai.InternalServerError, 520),
        ({"error_529": 1.0, "error_shape": "nested"}, {}, openai.InternalServerError, 529),
        ({"drop_before": 1.0}, {}, openai.APIConnectionError, None),
        ({"drop_after": 1.0}, {}, openai.APIConnectionError, None),
    ],
)  # fmt: skip
def test_it_knows_every_error_for_what_it_is(served, settings, fields, error, status):
    with pytest.raises(error) as found:
        ask(served(**settings), **fields)
    assert status is None or found.value.status_code == status


def test_it_reads_the_words_of_a_nested_error(served):
    with pytest.raises(openai.RateLimitError, match="temporarily at capacity"):
        ask(served(error_429=1.0, error_shape="nested"))


def test_it_is_refused_without_a_key(served):
    client = served()
    with pytest.raises(openai.AuthenticationError) as found:
        ask(client, extra_headers={"Authorization": ""})
    assert found.value.status_code == 401
    assert "No credentials presented" in found.value.body


def test_its_own_retries_get_through_a_limit(served):
    client = served(rps=50, retry_after="off").with_options(max_retries=5)
    assert all(ask(client).choices for _ in range(10))


def test_an_error_within_a_stream_is_raised(served):
    with pytest.raises(openai.APIError):
        list(ask(served(stream_error=1.0, seed=1), stream=True))
