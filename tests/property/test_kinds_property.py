import itertools
import json
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkgrok.core.errors import UsageError
from bulkgrok.core.jsontext import one_line
from bulkgrok.core.model import Answer, BadRow, Item, RawRow, Reply, Unusable
from bulkgrok.core.money import ticks
from bulkgrok.kinds import KINDS, pending, sse
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.replies import ticks_of, tokens_of
from bulkgrok.kinds.rows import RowEncoder, RowSettings
from bulkgrok.kinds.templates import PromptTemplate
from bulkgrok.simulator import answers, catalogue, clips

PRICES = Prices.shipped()
ENCODERS = [
    RowEncoder(RowSettings(), PRICES),
    RowEncoder(RowSettings(kind="video", mode="deferred", params={"n": 2}, stream=True), PRICES),
    RowEncoder(RowSettings(prompt="{{ prompt }}{{ row.a }}", system="{{ system }}"), PRICES),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["chat", "video", "video-edit", "deferred", "direct", "POST", "/v1/videos", "https://v", "7"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = """
prompt messages system kind mode deferred stream body url method model n duration seconds video image custom_id id
choices message content delta index tool_calls function finish_reason logprobs error code status usage data
prompt_tokens cost_in_usd_ticks request_id tools file_ids max_tokens a
"""
keys = st.sampled_from(KEYS.split())
objects = st.recursive(
    st.dictionaries(keys, values, max_size=6),
    lambda inner: st.dictionaries(keys, values | inner | st.lists(inner, max_size=2), max_size=6),
    max_leaves=6,
)
odd_cells = scalars | st.binary(max_size=4) | st.floats() | st.dates() | st.decimals() | st.timedeltas() | values


def check(raw):
    for encoder in ENCODERS:
        result = encoder.encode(raw)
        assert isinstance(result, Item | BadRow)
        assert isinstance(result.custom_id, str)
        assert len(result.digest) == 16
        if isinstance(result, BadRow):
            assert result.message
            assert "cannot be encoded" not in result.message
        else:
            assert orjson.loads(result.body)["model"] == result.model
            assert result.max_usd is None or result.max_usd >= 0
            assert result.tokens >= 0
            assert encoder.encode(raw) == result


@settings(deadline=None)
@given(objects)
def test_every_json_row_is_a_request_or_a_bad_row(row):
    check(RawRow(row=0, line=1, value=json.dumps(row).encode()))


@settings(deadline=None)
@given(st.dictionaries(keys | st.text(max_size=3), odd_cells, max_size=6))
def test_every_table_row_is_a_request_or_a_bad_row(cells):
    check(RawRow(row=0, line=None, value=cells))


conversations = st.fixed_dictionaries(
    {},
    optional={
        "prompt": scalars,
        "messages": values | st.lists(st.fixed_dictionaries({"role": scalars, "content": scalars}), max_size=2),
        "model": scalars,
        "n": scalars,
        "method": st.just("POST"),
        "custom_id": scalars,
    },
)


@settings(deadline=None)
@given(conversations, st.sampled_from([["kind"], ["mode"], ["deferred"], ["system"], ["kind", "mode", "system"]]))
def test_a_row_that_steers_nothing_is_the_row_that_says_so_key_by_key(row, keys):
    plain, told = (json.dumps(found).encode() for found in (row, row | dict.fromkeys(keys)))
    for encoder in ENCODERS[:2]:
        found, reference = (encoder.encode(RawRow(row=0, line=1, value=line)) for line in (plain, told))
        if isinstance(found, Item):
            assert found == reference
        else:  # a message may name the keys there are
            assert isinstance(reference, BadRow)


@settings(deadline=None)
@given(st.lists(objects, min_size=1, max_size=4))
def test_a_digest_does_not_depend_on_the_rows_before(rows):
    raws = [RawRow(row=0, line=1, value=json.dumps(row).encode()) for row in rows]
    seasoned = RowEncoder(RowSettings(), PRICES)
    for raw in raws:
        found = seasoned.encode(raw)
        assert found == RowEncoder(RowSettings(), PRICES).encode(raw)
        if isinstance(found, Item):
            head = f"{KINDS[found.kind].submit_path} {found.mode.value} {found.stream:d}\n".encode()
            assert found.digest == blake2b(head + found.body, digest_size=16).digest()


@settings(deadline=None)
@given(st.binary(max_size=60) | objects.map(lambda row: json.dumps(row).encode()[:-1]))
def test_every_line_is_a_request_or_a_bad_row(line):
    check(RawRow(row=0, line=1, value=line))


@settings(deadline=None)
@given(objects | values, st.sampled_from(list(KINDS.values())))
def test_every_reply_is_an_answer_or_unusable(body, kind):
    raw = json.dumps(body).encode()
    found = kind.decode(raw)
    assert isinstance(found, Answer | Unusable)
    orjson.dumps([found.usage, found.model])
    cost = PRICES.cost_usd(kind.name, kind.default_model, found, 0.1)
    assert cost is None or 0 <= cost < 1e9
    assert pending(raw) in {True, False}


@settings(deadline=None)
@given(objects | values, st.sampled_from(list(KINDS.values())))
def test_what_counts_is_read_without_the_text_too(body, kind):
    raw = json.dumps(body).encode()
    found = kind.decode(raw)
    if isinstance(found, Answer):
        found = replace(found, content=None, reasoning=None)
    assert kind.decode(raw, text=False) == found


@given(st.lists(st.integers(-1, 2**53) | st.integers(10**14 - 1, 10**14 + 1), min_size=5, max_size=5))
def test_an_integer_counts_like_the_same_number_as_a_float(numbers):
    whole, broken = usage_of(*numbers), usage_of(*map(float, numbers))
    assert (tokens_of(whole), ticks_of(whole)) == (tokens_of(broken), ticks_of(broken))


def usage_of(prompt, completion, reasoning, cached, ticks):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "prompt_tokens_details": {"cached_tokens": cached},
        "cost_in_usd_ticks": ticks,
    }


@settings(deadline=None)
@given(st.lists(st.sampled_from(["é", "a ", "\n", "{", "}", "{#", "#}", "{{ a }}", "{% raw %}", "{% endraw %}"])))
def test_a_template_of_text_alone_says_what_it_would_say_rendered_for_each_row(pieces):
    text = "".join(pieces)
    with suppress(UsageError):
        plain = PromptTemplate(text, flag="--system")
        rendered = PromptTemplate("{{ '' }}" + text, flag="--system")
        assert plain.render({"a": 1}) == rendered.render({"a": 1})
        assert plain.columns == rendered.columns


@settings(deadline=None)
@given(st.lists(objects, max_size=5), st.booleans(), st.integers(0, 40))
def test_every_stream_is_whole_or_incomplete_and_never_an_error(chunks, complete, cut):
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    for sent in (body, body[: len(body) - cut]):
        reply = KINDS["chat"].unstream(
            Reply(status=200, body=sent, complete=complete, content_type="text/event-stream")
        )
        assert 200 <= reply.status < 600
        if reply.complete:
            orjson.loads(reply.body)


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_a_text_cut_into_pieces_comes_back_whole(content, reasoning, cuts):
    bounds = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})
    pieces = [content[a:b] for a, b in itertools.pairwise(bounds)]
    deltas = [{"role": "assistant", "reasoning_content": reasoning}, *({"content": piece} for piece in pieces)]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)
    found = KINDS["chat"].decode(KINDS["chat"].unstream(Reply(status=200, body=body)).body)
    assert (found.content or "", found.reasoning) == (content, reasoning)


@settings(deadline=None)
@given(objects | values, st.sampled_from([None, 0, 2]), st.booleans())
def test_one_line_keeps_every_value(value, indent, ascii_only):
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    line = one_line(raw)
    assert b"\n" not in line
    assert json.loads(line) == value


contents = st.text(max_size=300) | st.lists(
    st.text(max_size=100).map(lambda text: {"type": "text", "text": text})
    | st.just({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
    min_size=1,
    max_size=4,
)
chats = st.fixed_dictionaries(
    {"messages": st.lists(st.builds(lambda content: {"role": "user", "content": content}, contents), min_size=1)},
    optional={
        "model": st.sampled_from(["grok-4.3", "grok-4.7", "grok-4", "grok-3-mini", "grok-4.20-0309-reasoning"]),
        "max_completion_tokens": st.integers(1, 5_000),
        "max_tokens": st.integers(1, 5_000),
        "n": st.integers(1, 5),
        "service_tier": st.sampled_from(["auto", "default", "priority", "fast"]),
    },
)


@settings(deadline=None)
@given(chats)
def test_the_api_charges_for_a_chat_no_more_than_its_most_but_for_reasoning(body):
    item = ENCODERS[0].encode(RawRow(row=0, line=1, value=json.dumps(body).encode()))
    ask = answers.read_ask(orjson.loads(item.body))
    completion, _, _ = answers._spent(ask)
    charged = catalogue.completion_ticks(
        ask.model, prompt=ask.prompt_tokens, cached=0, generated=completion, priority=ask.priority
    )
    assert charged <= ticks(item.max_usd)


clips_asked = st.fixed_dictionaries(
    {"kind": st.just("video"), "prompt": st.text(min_size=1).filter(str.strip)},
    optional={
        "model": st.sampled_from(list(catalogue.VIDEO_MODELS)),
        "duration": st.integers(1, 15),
        "resolution": st.sampled_from(["480p", "720p", "1080p"]),
        "image": st.just("https://example.com/a.png"),
        "reference_images": st.lists(st.just({"url": "https://example.com/b.png"}), max_size=7),
        "last_frame": st.just("https://example.com/c.png"),
    },
) | st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["video", "video-extension"]),
        "prompt": st.just("x"),
        "video": st.just("https://v/a.mp4"),
    },
    optional={"model": st.sampled_from(list(catalogue.VIDEO_MODELS)), "duration": st.integers(2, 8)},
)


@settings(deadline=None)
@given(clips_asked)
def test_the_api_charges_for_a_video_no_more_than_its_most(row):
    item = ENCODERS[0].encode(RawRow(row=0, line=1, value=json.dumps(row).encode()))
    assert isinstance(item, Item), item
    clip = clips.read_clip(orjson.loads(item.body), item.kind)
    if isinstance(clip, clips.Clip):
        assert clip.ticks <= ticks(item.max_usd)


PIECE = st.one_of(st.none(), st.text(max_size=5), st.just("x" * 1_100), st.integers(0, 1))
CHUNK = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 1, None, True])},
    optional={
        "delta": st.dictionaries(st.sampled_from(["role", "content", "refusal"]), PIECE, max_size=3),
        "finish_reason": st.sampled_from([None, None, "stop"]),
    },
)
FIELDS = {"id": PIECE, "object": PIECE, "created": PIECE, "model": PIECE, "system_fingerprint": PIECE}
ODD = st.fixed_dictionaries({"choices": st.lists(CHUNK, max_size=2)}, optional=FIELDS)
DELTA = st.fixed_dictionaries(
    {"content": st.text(max_size=5)}, optional={"role": st.sampled_from(["assistant", "bot"])}
)
USUAL = st.builds(
    lambda delta, fields: {"choices": [{"index": 0, "delta": delta}], **fields},
    DELTA,
    st.fixed_dictionaries({}, optional=FIELDS),
)
CHUNKS = st.tuples(st.lists(USUAL, max_size=4), st.lists(st.one_of(USUAL, ODD), max_size=4)).map(
    lambda parts: [*parts[0], *parts[1]]
)


@given(CHUNKS, st.booleans())
def test_a_stream_says_the_same_with_names_that_hold_nothing(chunks, done):
    def assembled(extra):
        data = [json.dumps({**chunk, **extra}) for chunk in chunks] + (["[DONE]"] if done else [])
        body = "".join(f"data: {text}\n\n" for text in data).encode()
        return sse.assemble(Reply(status=200, body=body, content_type="text/event-stream"))

    plain, padded = assembled({}), assembled({"nothing": None})
    assert plain.complete == padded.complete
    if plain.complete:
        assert plain.body == padded.body
