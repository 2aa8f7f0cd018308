"""Whatever is sent to the simulated API, it answers and its books are right."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from bulkgrok.simulator import records
from bulkgrok.simulator.settings import FIELDS, SimulatorSettings
from bulkgrok.simulator.wire import Reply
from bulkgrok.simulator.world import World

PATHS = [
    "/v1/chat/completions", "/v1/videos/generations", "/v1/videos/edits", "/v1/videos/extensions", "/v1/models",
    "/v1/chat/deferred-completion/", "/v1/chat/deferred-completion/%ff", "/v1/videos/x", "/_simulator/settings",
    "/_simulator/clock", "/_simulator/ledger", "/", "", "*",
]  # fmt: skip
KEYS = [
    "model",
    "messages",
    "stream",
    "deferred",
    "n",
    "max_tokens",
    "temperature",
    "tools",
    "tool_choice",
    "prompt",
    "video",
    "image",
    "duration",
    "resolution",
    "reference_images",
    "role",
    "content",
    "function",
    "name",
    "stream_options",
    "response_format",
    "type",
    "text",
    "advance_s",
    "error_503",
    "seed",
    "rps",
    "accepted_keys",
    "model_limits",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "grok-4.3"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=25,
)
CHAT = st.fixed_dictionaries(
    {"model": st.just("grok-4.3"), "messages": st.just([{"role": "user", "content": "x"}])},
    optional={key: VALUES for key in KEYS if key not in {"model", "messages"}},
)
FILM = st.fixed_dictionaries({"prompt": st.just("x")}, optional={key: VALUES for key in KEYS if key != "prompt"})
BODIES = (VALUES | CHAT | FILM).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)


@given(
    path=st.sampled_from(PATHS) | st.text(max_size=20).map(lambda text: "/v1/" + text),
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE"]),
    body=BODIES,
    key=st.sampled_from(["Bearer x", "Bearer", "bad", "Bearer bad", "Basic x", ""]) | st.text(max_size=10),
)
@settings(max_examples=400, deadline=None)
def test_every_request_gets_a_reply(path, method, body, key):
    world = World(SimulatorSettings(error_shape="mixed", video_shape="mixed", pending_shape="mixed", rps=5))
    headers = {"authorization": key, "content-type": "application/json"}
    for _ in range(2):
        reply = world.handle(method, path, headers, body, 1e9)
        assert isinstance(reply, Reply)
        assert 200 <= reply.status <= 529
    world.fetch(method, path, {"range": key}, 1e9)
    json.dumps(world.ledger.as_json())


RATES = [name for name, field in FIELDS.items() if field.metadata["kind"] in {"before", "after", "fate", "rate"}]


@given(
    rates=st.dictionaries(st.sampled_from(RATES), st.floats(0, 0.09), max_size=8),
    seed=st.integers(0, 2**40),
    steps=st.lists(
        st.tuples(st.sampled_from(["direct", "stream", "defer", "film", "poll"]), st.integers(0, 5)), max_size=60
    ),
)
@settings(max_examples=150, deadline=None)
def test_the_books_add_up_and_a_once_only_result_is_handed_out_once(rates, seed, steps):
    written = []
    world = World(SimulatorSettings(seed=seed, deferred_latency=2, video_latency=2, **rates), record=written.append)
    headers = {"authorization": "Bearer x", "content-type": "application/json"}
    for now, (what, number) in enumerate(steps):
        if what == "poll":
            for entry in list(world.ledger.jobs.values()):
                path = "/v1/chat/deferred-completion/" if entry.kind == "deferred" else "/v1/videos/"
                reply = world.handle("GET", path + entry.id, headers, b"", 1e9 + now)
                world.sent(reply) if reply.wire.value == "whole" else world.lost(reply)
            continue
        body = {"model": "grok-4.3", "messages": [{"role": "user", "content": str(number)}], "prompt": str(number)}
        body |= {"stream": True} if what == "stream" else {"deferred": True} if what == "defer" else {}
        path = "/v1/videos/generations" if what == "film" else "/v1/chat/completions"
        reply = world.handle("POST", path, headers, json.dumps(body).encode(), 1e9 + now)
        world.sent(reply) if reply.wire.value == "whole" else world.lost(reply)
    ledger = world.ledger.as_json()
    entries = ledger["requests"]
    assert ledger["accepted"] == len(entries) == len({entry["id"] for entry in entries})
    assert ledger["billed"] == sum(entry["billed"] for entry in entries)
    assert abs(ledger["usd"] - sum(entry["usd"] for entry in entries)) < 1e-9
    assert ledger["consumed"] == sum(entry["consumed"] for entry in entries)
    assert ledger["deliveries_max"] <= 1
    assert ledger["replies_lost"] == sum(entry["reply_lost"] for entry in entries)
    assert all(
        entry["consumed"] == (entry["delivered"] + entry["result_lost"] == 1)
        for entry in entries
        if entry["kind"] == "deferred"
    )
    again = World(SimulatorSettings(seed=seed))
    assert again.restore(json.loads(json.dumps(written))) == 0
    assert {key: entry.as_json()["consumed"] for key, entry in again.ledger.jobs.items()} == {
        key: entry.consumed for key, entry in world.ledger.jobs.items()
    }
    assert again.ledger.as_json()["billed"] == ledger["billed"]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["t", "id", "ask", "ticks", "kind", "marker", "skew_s"]), VALUES, max_size=5),
        max_size=8,
    )
)
def test_rubbish_in_a_journal_is_counted_and_left_out(found):
    assert World().restore([*found, records.refused_content()]) <= len(found)
