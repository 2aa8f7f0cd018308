import json

import pytest

from bulkgrok.core.model import Answer, Code, Unusable
from bulkgrok.kinds import get, pending

CHAT = get("chat")


def decode(body):
    return CHAT.decode(body if isinstance(body, bytes) else json.dumps(body).encode())


def answer(**message):
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


def test_a_completion_is_read_in_whole():
    found = decode({
        "id": "a3d1008e", "model": "grok-4-0709", "service_tier": "default",
        **answer(content="303.", reasoning_content="hm"),
        "usage": {
            "prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
            "prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 94},
            "cost_in_usd_ticks": 1_176_500,
        },
    })  # fmt: skip
    assert isinstance(found, Answer)
    assert (found.model, found.content, found.reasoning, found.finish_reason) == ("grok-4-0709", "303.", "hm", "stop")
    assert (found.tokens, found.ticks, found.service_tier) == ((32, 9, 94, 6), 1_176_500, "default")
    assert found.usage["total_tokens"] == 135


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": None, "tool_calls": [{"id": "t"}]}, None),
        ({"content": [{"type": "text", "text": "a"}, "b", {"text": 5}, 7]}, "ab"),
        ({"content": []}, None),
        ({"content": 5}, None),
        ({}, None),
        ({"content": ""}, ""),
    ],
)
def test_content_of_any_form_is_an_answer(message, content):
    found = decode(answer(**message))
    assert isinstance(found, Answer)
    assert found.content == content


def test_wrong_types_are_read_as_absent():
    body = {**answer(content="x", reasoning_content=[]), "model": 5, "usage": {
        "prompt_tokens": "7", "completion_tokens": -1, "prompt_tokens_details": [], "completion_tokens_details": 5,
        "cost_in_usd_ticks": {},
    }}  # fmt: skip
    found = decode(body)
    assert (found.model, found.tokens, found.ticks, found.reasoning) == (None, (0, 0, 0, 0), None, None)
    assert decode({**answer(content="x"), "usage": "none"}).usage is None


def test_a_paid_answer_with_half_a_surrogate_pair_stays_an_answer():
    found = decode(
        b'{"choices":[{"message":{"content":"a\\ud83d b\\ud83d\\ude00"}}],"usage":{"n":' + b"9" * 400 + b"}}"
    )
    assert isinstance(found, Answer)
    assert found.content == "a\ufffd b\U0001f600"


def test_deep_nesting_beside_the_answer_stops_nothing():
    for depth, odd in ((900, b""), (400, b'"\\ud800",'), (499, b'"\\ud800",')):
        nested = b"[" * depth + b"]" * depth
        raw = b'{"choices":[{"message":{"content":"x"}}],"more":[' + odd + nested + b"]}"
        assert isinstance(decode(raw), Answer | Unusable)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b'"x"', b"5", b"{}", b"<html>", b"\xff", b"{", b'{"choices":[]}', b'{"choices":[null]}',
        b'{"choices":{"0":1}}', b'{"choices":[{}]}', b'{"choices":[{"message":"x"}]}', b'{"choices":NaN}',
        b'{"request_id":"x"}', b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_completion_is_an_invalid_response(raw):
    found = decode(raw)
    assert isinstance(found, Unusable)
    assert found.code is Code.INVALID_RESPONSE
    assert found.message


@pytest.mark.parametrize(
    ("body", "code", "again"),
    [
        ({"code": "The service is currently unavailable", "error": "x"}, Code.FAILED, True),
        ({"error": {"code": "service_unavailable", "message": "x"}}, Code.FAILED, True),
        ({"error": {"code": "internal_error", "message": "x"}}, Code.FAILED, True),
        ({"error": {"code": "internal-error", "message": "x"}}, Code.FAILED, True),
        ({"code": "invalid-argument", "error": "x"}, Code.FAILED, False),
        ({"error": "x"}, Code.FAILED, False),
        ({"code": 3, "message": "x"}, Code.FAILED, False),
        ({"code": "permission-denied", "error": "Content violates usage guidelines. "}, Code.MODERATED, False),
        ({"error": "… Failed check: SAFETY_CHECK_TYPE_BIO"}, Code.MODERATED, False),
        ({"id": "i", "object": "chat.completion", "choices": [], "error": "x"}, Code.FAILED, False),
    ],
)
def test_an_error_inside_a_200_is_a_failed_job(body, code, again):
    found = decode(body)
    assert (found.code, found.again) == (code, again)


@pytest.mark.parametrize(
    ("raw", "waits"),
    [
        (b"", True),
        (b" \r\n", True),
        (b"{}", True),
        (b'{"status":"pending"}', True),
        (b'{"status":"PROCESSING","progress":3,"video":{"url":""}}', True),
        (b'{"status":"a word nobody knows","x":1}', True),
        (b'{"id":"i","object":"chat.completion","created":1,"model":"m","choices":[]}', True),
        (b'{"id":"i","choices":null}', True),
        (b'{"request_id":"i"}', True),
        (b'{"status":"pending","video":{"url":"https://v"}}', False),
        (b'{"status":"pending","error":"x"}', False),
        (b'{"status":"done"}', False),
        (b'{"status":"failed"}', False),
        (b'{"status":"expired"}', False),
        (b'{"choices":[{}]}', False),
        (b'{"error":"x"}', False),
        (b'{"answer":"x"}', False),
        (b"null", False),
        (b"[]", False),
        (b'"pending"', False),
        (b"{", False),
        (b"\xff", False),
        (b"[" * 10_000, False),
        (b'{"status":"pending"}' + b" " * 65_536, False),
    ],
)
def test_only_a_body_that_says_nothing_yet_is_pending(raw, waits):
    assert pending(raw) is waits
