"""A reply too large to be parsed reads as it would if it were parsed; a stream in blocks as it would in one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkgrok import kinds
from bulkgrok.core.model import Answer, Reply
from bulkgrok.kinds import chat, sse, video

SCALARS = st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5)
RUBBISH = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
TEXT = st.text(max_size=20) | RUBBISH


def some(names, values):
    """Return objects with some of these members, in any order, among others; names may be escaped or repeated."""
    member = st.tuples(st.sampled_from(names) | st.text(max_size=3), values)
    return st.lists(member, max_size=6)


def written(value, draw):
    """Write a value; an object, given as a list of members, keeps their order and repetitions."""
    if isinstance(value, list) and value and all(isinstance(part, tuple) for part in value):
        inner = ",".join(f"{json.dumps(name)}:{written(part, draw)}" for name, part in value)
        return "{" + inner + "}"
    if isinstance(value, list) and len(value) == 1:
        return f"[{written(value[0], draw)}]"
    if isinstance(value, list) and not value:
        return draw(st.sampled_from(["[]", "{}"]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))


def listed(name, value):
    """Return a member whose value is a list of one where the API has a list."""
    return (name, [value]) if name in {"choices", "data"} else (name, value)


MESSAGE = some(["content", "reasoning_content", "role"], TEXT) | RUBBISH
CHOICE = some(["message", "text", "finish_reason", "index"], MESSAGE | TEXT) | RUBBISH
NAMES = ["choices", "code", "error", "message", "model", "service_tier", "status", "usage"]
ANSWER = st.tuples(some(NAMES[1:], TEXT), some(["content", "reasoning_content"], TEXT), some(NAMES, TEXT)).map(
    lambda parts: [*parts[0], ("choices", [[("message", parts[1]), ("finish_reason", "stop")]]), *parts[2]]
)
BODY = ANSWER | some(NAMES, CHOICE | TEXT) | TEXT
JOB = some(["video", "data", "url", "status", "error", "usage", "model", "code", "message"], BODY) | TEXT


@st.composite
def texts(draw, body):
    """Draw the text of a reply, now and then damaged."""
    value = draw(body)
    if isinstance(value, list) and draw(st.booleans()) and all(isinstance(part, tuple) for part in value):
        value = [listed(*member) for member in value]
    raw = written(value, draw).encode("utf-8", "surrogatepass")
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw


def parsed(kind, raw):
    """Return what decoding says, without the parser's words for what is no JSON."""
    found = kinds.get(kind).decode(raw)
    return found if isinstance(found, Answer) or "not JSON" not in found.message else "not JSON"


def skimmed(kind, raw, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(chat, "PARSED_BYTES", -1)
        patch.setattr(video, "PARSED_BYTES", -1)
        return parsed(kind, raw)


@pytest.fixture(scope="module")
def monkeypatching():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@given(texts(BODY))
def test_a_chat_answer_reads_the_same(monkeypatching, raw):
    assert skimmed("chat", raw, monkeypatching) == parsed("chat", raw)


@given(texts(JOB))
def test_a_video_job_reads_the_same(monkeypatching, raw):
    assert skimmed("video", raw, monkeypatching) == parsed("video", raw)


@given(texts(BODY))
def test_without_its_text_an_answer_is_the_same_otherwise(raw):
    whole, rest = (kinds.get("chat").decode(raw, text=text) for text in (True, False))
    if isinstance(whole, Answer):
        assert (rest.model, rest.usage, rest.tokens, rest.finish_reason) == (
            whole.model,
            whole.usage,
            whole.tokens,
            whole.finish_reason,
        )
    else:
        assert rest == whole


PIECES = [
    b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"}}]}', b"data:", b":c", b"\r\n", b"\n\n", b"\r", b"\n",
    b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00","x":[1]}}]}', b"data: [DONE]", b"event: e", b"data: {",
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', b'data: {"error":"e"}', b"\xef\xbb\xbf", b"}",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=15).map(b"".join), st.lists(st.integers(1, 40), max_size=10))
def test_a_stream_in_blocks_is_the_stream_in_one(body, sizes):
    blocks, rest = [], body
    for size in sizes:
        blocks.append(rest[:size])
        rest = rest[size:]
    head = Reply(status=200, content_type="text/event-stream")
    whole = sse.assemble(Reply(status=200, content_type="text/event-stream", body=body))
    in_blocks = sse.assemble(head, [*blocks, rest])
    assert (in_blocks.complete, in_blocks.status) == (whole.complete, whole.status)
    assert not whole.complete or in_blocks.body == whole.body
    assert list(sse.events([*blocks, rest])) == list(sse.events([body]))
