import json
import tracemalloc

import pytest

from bulkgrok.core.model import Answer, Reply
from bulkgrok.kinds import get, sse
from bulkgrok.kinds.sse import assemble, events

CHAT = get("chat")
DONE = b"data: [DONE]\n\n"


def chunk(delta=None, *, finish=None, index=0, **top):
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    body = {"id": "i", "object": "chat.completion.chunk", "created": 5, "model": "grok-4.3", "choices": [choice], **top}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def unstream(*frames, complete=True, content_type="text/event-stream; charset=utf-8", status=200):
    body = b"".join(frames)
    return CHAT.unstream(Reply(status=status, body=body, complete=complete, content_type=content_type, request_id="x"))


def whole(reply):
    assert reply.complete
    assert reply.status == 200
    return json.loads(reply.body)


TEXT = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "h"}),
    chunk({"reasoning_content": "m"}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo é😀"}),
    chunk({}, finish="stop", system_fingerprint="fp"),
]
USAGE = (
    b'data: {"id":"i","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":3,"total_tokens":9}}\n\n'
)


def test_a_stream_becomes_the_ordinary_completion():
    reply = unstream(*TEXT, USAGE, DONE)
    assert whole(reply) == {
        "id": "i",
        "object": "chat.completion",
        "created": 5,
        "model": "grok-4.3",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello é😀", "reasoning_content": "hm", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "system_fingerprint": "fp",
        "usage": {"prompt_tokens": 3, "total_tokens": 9},
    }
    assert (reply.request_id, reply.content_type) == ("x", "application/json")
    assert isinstance(CHAT.decode(reply.body), Answer)


def test_tool_calls_are_joined_by_index():
    frames = [
        chunk(
            {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}
        ),
        chunk(
            {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}
        ),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}, finish="tool_calls"),
    ]
    message = whole(unstream(*frames, DONE))["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_several_choices_and_their_logprobs_are_kept_apart():
    def piece(index, text):
        delta = {"index": index, "delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}
        return b"data: " + json.dumps({"choices": [delta]}).encode() + b"\n\n"

    reply = unstream(piece(1, "b"), piece(0, "a"), piece(1, "c"), chunk(finish="stop", index=1), chunk(finish="stop"))
    first, second = whole(reply)["choices"]
    assert (first["message"]["content"], second["message"]["content"]) == ("a", "bc")
    assert second["logprobs"] == {"content": [{"token": "b"}, {"token": "c"}]}


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_all_line_ends_comments_and_a_byte_order_mark_are_understood(newline):
    body = b"\xef\xbb\xbf: hi\n\n" + b"".join(TEXT) + b": ping\n\nevent: message\nid: 5\nretry: 3\n" + DONE
    assert whole(unstream(body.replace(b"\n", newline)))["choices"][0]["message"]["content"] == "Hello é😀"


def test_events_of_several_lines_and_without_a_last_line_break_are_read():
    assert list(events([b"data:a\ndata: b\n\ndata\n\ndata: c"])) == [b"a\nb", b"", b"c"]


def test_a_stream_that_says_done_needs_no_last_line_break():
    assert unstream(*TEXT, b"data: [DONE]").complete


def test_a_stream_whose_choices_are_finished_is_whole_even_if_cut():
    assert unstream(*TEXT).complete
    assert unstream(*TEXT, b'data: {"id":"i","usa', complete=False).complete
    assert unstream(*TEXT, DONE, complete=False).complete


@pytest.mark.parametrize("kept", range(5))
def test_a_stream_that_breaks_is_incomplete(kept):
    for complete in (True, False):
        assert not unstream(*TEXT[:kept], complete=complete).complete
        assert not unstream(*TEXT[:kept], b'data: {"id":', complete=complete).complete


ERRORS = [
    b'{"code":"The service is currently unavailable","error":"x"}',
    b'{"error":{"message":"x","type":"server_error"}}',
    b'{"code":"internal","message":"x"}',
]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_before_any_content_is_that_error(error):
    for before in ([], TEXT[:1]):
        reply = unstream(*before, b"event: error\ndata: " + error + b"\n\n")
        assert (reply.status, reply.body, reply.complete) == (200, error, True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (b'{"code":429,"error":"x"}', 429),
        (b'{"code":"503","error":"x"}', 503),
        (b'{"error":{"message":"x","code":400}}', 400),
        (b'{"status":529,"error":"x"}', 529),
        (b'{"code":200,"error":"x"}', 200),
        (b'{"code":true,"error":"x"}', 200),
    ],
)
def test_an_error_event_keeps_the_status_it_names(error, status):
    assert unstream(b"data: " + error).status == status


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "first", [TEXT[1], TEXT[3], chunk({"tool_calls": [{"index": 0, "id": "a"}]}), chunk({"refusal": "no"})]
)
def test_an_error_after_the_first_content_is_incomplete(error, first):
    assert not unstream(first, b"data: " + error + b"\n\n", DONE).complete


def test_a_surrogate_pair_split_between_chunks_is_joined():
    halves = [
        b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\n',
    ]
    assert whole(unstream(*halves, DONE))["choices"][0]["message"]["content"] == "\U0001f600"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\n\n\n", b": ping\n\n", b"data: [DONE]\n\n", b"data: {}\n\n", b"data: []\n\ndata: 5\n\n",
        b"data: \xff\n\n", b'data: {"choices":5}\n\n', b'data: {"choices":[5,null,{"delta":7,"index":"x"}]}\n\n',
        b"event: error\n\n", b'data: {"choices":[{"delta":{"x":' + b"[" * 600 + b"]" * 600 + b"}}]}\n\n" + DONE,
        b'data: {"choices":[{"delta":{"tool_calls":[5,{"index":{}},{"function":7}]}}]}\n\n', b"data: " + b"[" * 9_999,
    ],
)  # fmt: skip
def test_a_stream_of_rubbish_is_incomplete(body):
    assert not unstream(body).complete


def test_a_reply_that_is_no_stream_passes_unchanged():
    for reply in (
        Reply(status=200, body=b'{"choices":[]}', content_type="application/json"),
        Reply(status=200, body=b'{"choices":[]}'),
        Reply(status=500, body=b"data: x", content_type="text/event-stream"),
        Reply(status=200, body=b"", complete=False),
    ):
        assert CHAT.unstream(reply) is reply


def test_a_stream_without_a_content_type_is_known_by_its_first_bytes():
    assert unstream(*TEXT, DONE, content_type="").complete


# --- Bounds --------------------------------------------------------------------------------------------------------

HEAD = Reply(status=200, content_type="text/event-stream")
MEGABYTE = 1 << 20


def frame(**choice):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {}, **choice}]}).encode() + b"\n\n"


def endless(block):
    """Yield a block for ever, and fail a test that does not end."""
    for _ in range(2_000):
        yield block
    pytest.fail("it was not ended")


@pytest.mark.parametrize(
    "block",
    [
        b"data: " + b"x" * MEGABYTE,
        b"x" * MEGABYTE,
        b"data: x\n" * 20_000,
        b"data\n" * 20_000,
        frame(delta={"content": "x" * 1_000}) * 1_000,
        frame(delta={"content": "\U0001f600" * 1_000}) * 1_000,
        frame(delta={"odd": [1] * 1_000}) * 300,
        frame(delta={"tool_calls": [{"id": "a", "function": {"arguments": "x" * 100}}]}) * 1_000,
        frame(logprobs={"content": [{"token": "x", "logprob": -1.5}]}) * 1_000,
        b"".join(b'data: {"choices":[{"index":%d,"delta":{}}]}\n\n' % number for number in range(10_000)),
        b"".join(b'data: {"k%d":1}\n\n' % number for number in range(10_000)),
        b'data: {"usage":{"x":"' + b"x" * 10_000 + b'"}}\n\n' + b'data: {"model":["' + b"y" * 10_000 + b'"]}\n\n',
    ],
    ids=[
        "event",
        "line",
        "lines",
        "empty lines",
        "text",
        "wide",
        "lists",
        "calls",
        "logprobs",
        "choices",
        "keys",
        "usage",
    ],
)
def test_a_stream_without_end_takes_bounded_memory_and_is_too_large(block, monkeypatch):
    monkeypatch.setattr(sse, "_MOST_BYTES", MEGABYTE)
    monkeypatch.setattr(sse, "_MOST_OTHER_BYTES", MEGABYTE // 2)
    tracemalloc.start()
    try:
        found = assemble(HEAD, endless(block))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.oversized
    assert peak < 20 * MEGABYTE  # mostly the lines of a block


@pytest.mark.parametrize("line", [b":comment\n", b"\n", b"event: ping\n\n", b"data: 1\n\n"])
def test_what_says_nothing_takes_no_memory(line):
    tracemalloc.start()
    try:
        found = assemble(HEAD, [line * 2_000] * 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not found.complete
    assert peak < 2 * MEGABYTE


def test_a_long_stream_of_small_pieces_is_put_together():
    text = ["word ", "\u00e9", "\n"] * 5_000
    found = assemble(HEAD, (frame(delta={"content": piece}) for piece in [*text, ""]))
    assert not found.complete
    found = assemble(HEAD, [*(frame(delta={"content": piece}) for piece in text), frame(finish_reason="stop")])
    assert json.loads(found.body)["choices"][0]["message"]["content"] == "".join(text)


def test_what_comes_after_the_end_is_not_read():
    def blocks():
        yield (
            frame(delta={"content": "a"})
            + frame(finish_reason="stop")
            + b"data: [DONE]\n\n"
            + frame(delta={"content": "b"})
        )
        pytest.fail("it went on")

    assert json.loads(assemble(HEAD, blocks()).body)["choices"][0]["message"]["content"] == "a"
