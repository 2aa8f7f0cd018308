"""Direct chat completions of the simulated API."""

import json

import pytest

from bulkgrok.simulator import catalogue


def events(reply):
    assert all(frame.startswith(b"data: ") and frame.endswith(b"\n\n") for frame in reply.frames)
    assert reply.frames[-1] == b"data: [DONE]\n\n"
    return [json.loads(frame[6:]) for frame in reply.frames[:-1]]


def test_an_answer_has_every_field_of_a_completion_and_repeats_the_prompt(api):
    world = api()
    reply = world.chat("what is two and two?")
    body = world.json(reply)
    assert reply.status == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "grok-4.3"
    assert body["created"] == int(world.now)
    (choice,) = body["choices"]
    assert "what is two and two?" in choice["message"]["content"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    assert {"x-request-id", "date", "content-type"} <= world.headers(reply).keys()


def test_usage_adds_up_and_its_price_is_that_of_its_tokens(api):
    world = api()
    usage = world.json(world.chat("x" * 900))["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] + reasoning
    assert 0 < cached < usage["prompt_tokens"]
    dollars = (
        (usage["prompt_tokens"] - cached) * 1.25 + cached * 0.20 + (usage["completion_tokens"] + reasoning) * 2.50
    ) / 1e6
    assert usage["cost_in_usd_ticks"] == pytest.approx(dollars * catalogue.TICKS_PER_USD)
    assert world.ledger["usd"] == pytest.approx(dollars)


def test_a_published_bill_comes_out_to_the_tick():
    """The figures of a recorded reply of grok-3-mini."""
    assert catalogue.completion_ticks("grok-3-mini", prompt=12, cached=2, generated=229, priority=False) == 1_176_500


def test_a_long_prompt_and_the_priority_tier_double_the_price(api):
    short = catalogue.completion_ticks("grok-4.3", prompt=1000, cached=0, generated=0, priority=False)
    assert catalogue.completion_ticks("grok-4.3", prompt=1000, cached=0, generated=0, priority=True) == 2 * short
    assert catalogue.completion_ticks("grok-4.3", prompt=200_000, cached=0, generated=0, priority=False) == 400 * short
    world = api()
    assert world.json(world.chat(service_tier="priority"))["service_tier"] == "priority"


def test_the_price_can_be_left_out(api):
    world = api(cost_ticks=False)
    assert "cost_in_usd_ticks" not in world.json(world.chat())["usage"]
    assert world.ledger["usd"] > 0


def test_ids_differ_even_for_equal_requests_and_answers_do_not(api):
    world = api()
    replies = [world.chat("same") for _ in range(50)]
    bodies = [world.json(reply) for reply in replies]
    assert len({body["id"] for body in bodies}) == 50
    assert len({world.headers(reply)["x-request-id"] for reply in replies}) == 50
    assert len({body["choices"][0]["message"]["content"] for body in bodies}) == 1


@pytest.mark.parametrize("model", ["grok-4-0709", "grok-4-fast-reasoning", "grok-code-fast-1", "grok-3"])
def test_a_retired_model_is_served_and_billed_by_another(api, model):
    world = api()
    assert world.json(world.chat(model=model))["model"] == "grok-4.3"


def test_n_answers_are_n_choices(api):
    world = api()
    body = world.json(world.chat(n=3))
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 3 * world.json(world.chat())["usage"]["completion_tokens"]


def test_an_answer_is_cut_at_the_asked_length(api):
    world = api()
    body = world.json(world.chat("x" * 500, max_completion_tokens=3))
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


def test_a_json_answer_is_json(api):
    world = api()
    body = world.json(world.chat(response_format={"type": "json_object"}))
    assert json.loads(body["choices"][0]["message"]["content"])["answer"]


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_a_tool_is_called_when_it_is_asked_for(api):
    world = api()
    for fields in ({"tool_choice": "required"}, {"tool_choice": {"type": "function", "function": {"name": "weather"}}}):
        choice = world.json(world.chat(tools=[TOOL], **fields))["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
        json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
    assert world.json(world.chat("use weather", tools=[TOOL]))["choices"][0]["finish_reason"] == "tool_calls"
    assert world.json(world.chat("hello", tools=[TOOL]))["choices"][0]["finish_reason"] == "stop"
    assert world.json(world.chat("weather", tools=[TOOL], tool_choice="none"))["choices"][0]["finish_reason"] == "stop"


def test_a_stream_brings_the_same_words_as_the_whole_answer(api):
    world = api()
    whole = world.json(world.chat("stream this"))["choices"][0]["message"]
    found = events(world.chat("stream this", stream=True, n=2))
    for index in range(2):
        deltas = [each["choices"][0]["delta"] for each in found if each["choices"][0]["index"] == index]
        for key in ("content", "reasoning_content"):
            assert "".join(delta.get(key, "") for delta in deltas) == whole[key]
    assert {each["object"] for each in found} == {"chat.completion.chunk"}
    assert found[-1]["choices"][0] == {"index": 1, "delta": {}, "finish_reason": "stop"}
    assert not any("usage" in each for each in found)


def test_a_stream_ends_with_usage_where_it_is_asked_for(api):
    world = api()
    last = events(world.chat(stream=True, stream_options={"include_usage": True}))[-1]
    assert last["choices"] == []
    assert last["usage"] == world.json(world.chat())["usage"]


def test_a_stream_brings_tool_calls(api):
    world = api()
    found = events(world.chat("weather", tools=[TOOL], stream=True))
    (call,) = [call for each in found for choice in each["choices"] for call in choice["delta"].get("tool_calls", ())]
    assert call["index"] == 0
    assert call["function"]["name"] == "weather"


def test_streaming_and_deferred_exclude_each_other(api):
    reply = api().chat(stream=True, deferred=True)
    assert reply.status == 400
    assert json.loads(reply.body) == "A request may either be streaming or deferred, but not both."


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b"{"),
        (400, b'{"model": "grok-4.3", "messages": "\\ud800"}'),
        (400, b"[" * 100_000),
        (422, b"[]"),
        (422, b"null"),
        (422, b"{}"),
        (422, b'{"model": "grok-4.3"}'),
        (422, b'{"messages": []}'),
        (422, b'{"model": 3, "messages": []}'),
        (422, b'{"model": "grok-4.3", "messages": {}}'),
        (422, b'{"model": "grok-4.3", "messages": [3]}'),
        (422, b'{"model": "grok-4.3", "messages": [{"content": "x"}]}'),
        (422, b'{"model": "grok-4.3", "messages": [{"role": ["user"], "content": "x"}]}'),
        (422, b'{"model": "grok-4.3", "messages": [{"role": "user", "content": 3}]}'),
        (422, b'{"model": "grok-4.3", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}'),
        (422, b'{"model": "grok-4.3", "messages": [{"role": "user", "content": "x"}], "n": true}'),
        (400, b'{"model": "grok-4.3", "messages": []}'),
        (400, b'{"model": "grok-4.3", "messages": [{"role": "user", "content": "x"}], "n": 0}'),
        (400, b'{"model": "grok-4.3", "messages": [{"role": "user", "content": "x"}], "temperature": 3}'),
        (400, b'{"model": "grok-4.3", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}'),
        (404, b'{"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}'),
        (410, b'{"model": "grok-4.3", "messages": [{"role": "user", "content": "x"}], "search_parameters": {}}'),
    ],
)
def test_what_cannot_be_answered_is_refused_and_costs_nothing(api, status, body):
    world = api()
    reply = world.post("/chat/completions", body)
    assert reply.status == status
    assert json.loads(reply.body)
    assert world.ledger["accepted"] == world.ledger["billed"] == 0
    assert world.ledger["posts_refused"] == {str(status): 1}


def test_a_reasoning_model_refuses_what_it_does_not_support(api):
    reply = api().chat(model="grok-4.20-0309-reasoning", stop=["x"])
    assert reply.status == 400
    assert b"does not support parameter stop" in reply.body


def test_a_prompt_beyond_the_context_is_refused(api):
    reply = api().chat("x" * 700_000, model="grok-3-mini")
    assert reply.status == 400
    assert b"maximum prompt length is 131072" in reply.body
    assert b"maximum prompt length" in api().chat("[[long]]").body


def test_parts_of_a_message_are_read(api):
    world = api()
    parts = [
        {"type": "text", "text": "look at "},
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"text": "this"},
    ]
    body = world.json(world.chat(parts))
    assert body["choices"][0]["message"]["content"].endswith("look at this")
    assert body["usage"]["prompt_tokens"] > 250


def test_the_address_and_the_method_must_exist(api):
    world = api()
    assert world.get("/nothing").status == 404
    assert world.get("/chat/completions").status == 405
    assert world.headers(world.get("/videos/generations"))["allow"] == "POST"
    assert world.post("/models", {}).status == 405
    assert world.request("GET", "/").status == 404
    assert world.post("/chat/completions", b"{}", headers={"content-type": "text/plain"}).status == 415
    assert world.request("POST", "/v1/v1/chat/completions", {}).status == 404


def test_a_body_that_is_too_large_is_refused(api):
    world = api()
    reply = world.world.handle("POST", "/v1/chat/completions", {"authorization": "Bearer x"}, None, world.now)
    assert reply.status == 413


def test_keys_are_looked_at_before_anything_else(api):
    world = api()
    missing = world.post("/chat/completions", {}, key="")
    assert missing.status == 401
    assert world.json(missing)["code"] == "The request does not have valid authentication credentials"
    assert "No credentials presented" in world.json(missing)["error"]
    wrong = world.get("/models", key="bad-key-1234")
    assert wrong.status == 400
    assert world.json(wrong)["code"] == "Client specified an invalid argument"
    assert world.json(wrong)["error"].startswith("Incorrect API key provided: ba***34.")
    assert world.get("/models", key="blocked").status == 403
    assert api(accepted_keys=("a", "b")).get("/models", key="b").status == 200
    assert api(accepted_keys=("a", "b")).get("/models", key="c").status == 400


def test_models_and_key_can_be_asked_for(api):
    world = api()
    assert "grok-4.3" in {model["id"] for model in world.json(world.get("/models"))["data"]}
    assert world.json(world.get("/models/grok-4.3"))["object"] == "model"
    assert world.get("/models/other").status == 404
    prices = {model["id"]: model for model in world.json(world.get("/language-models"))["models"]}
    assert prices["grok-3-mini"]["completion_text_token_price"] == 5000
    assert world.json(world.get("/api-key"))["team_blocked"] is False
    assert world.get("/me").status == 200
    assert world.ledger["gets"] == 6
    assert world.ledger["posts"] == 0
