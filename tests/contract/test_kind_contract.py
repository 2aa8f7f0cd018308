"""What the engine relies on, for every registered kind."""

import json

import pytest

from bulkgrok.core.errors import InvalidRow
from bulkgrok.core.model import Answer, Reply, Unusable
from bulkgrok.kinds import KINDS, get
from bulkgrok.kinds.prices import Prices

MINIMAL = {
    "chat": {"messages": [{"role": "user", "content": "x"}]},
    "video": {"prompt": "x"},
    "video-edit": {"prompt": "x", "video": "https://v"},
    "video-extension": {"prompt": "x", "video": "https://v"},
}
ANSWERS = {"chat": {"choices": [{"message": {"content": "x"}}]}}
VIDEO_ANSWER = {"status": "done", "video": {"url": "https://v"}}

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@kinds
def test_it_is_registered_under_its_name(kind):
    assert get(kind.name) is kind
    assert kind.name in MINIMAL


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(KeyError, match="chat, video, video-edit, video-extension"):
        get("audio")


@kinds
def test_its_paths_lie_below_the_base_url(kind):
    for path in (kind.submit_path, kind.result_path("a-1")):
        assert path.startswith("/")
        assert not path.startswith("/v1")
        assert not path.endswith("/")


@kinds
def test_no_request_id_leads_elsewhere(kind):
    path = kind.result_path("../é?a=b#c/%2e d")
    assert path.isascii()
    assert not set("?# ") & set(path)
    assert path.count("/") == kind.result_path("a").count("/")


@kinds
def test_only_a_deferred_chat_is_consumed_by_its_redemption(kind):
    assert kind.once_only is (kind.name == "chat")


@kinds
def test_preparing_does_not_change_what_it_is_given(kind):
    fields = json.loads(json.dumps(MINIMAL[kind.name]))
    assert kind.prepare(fields)
    assert fields == MINIMAL[kind.name]


@kinds
def test_an_empty_body_is_refused(kind):
    with pytest.raises(InvalidRow):
        kind.prepare({})


@kinds
def test_what_it_may_cost_is_known_beforehand(kind):
    body = kind.prepare(dict(MINIMAL[kind.name]))
    encoded = json.dumps(body).encode()
    usd, tokens = kind.appraise(body, encoded, kind.default_model, Prices.shipped())
    assert 0.01 < usd < 5
    assert tokens >= 0
    assert kind.appraise(body, encoded, "unknown", Prices.shipped()) == (None, tokens)


@kinds
def test_a_good_answer_is_an_answer(kind):
    assert isinstance(kind.decode(json.dumps(ANSWERS.get(kind.name, VIDEO_ANSWER)).encode()), Answer)


@kinds
@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"error":{"error":{"error":[[]]}}}'])
def test_rubbish_is_unusable_and_says_why(kind, raw):
    found = kind.decode(raw)
    assert isinstance(found, Unusable)
    assert found.message


@kinds
def test_an_ordinary_reply_is_not_a_stream(kind):
    reply = Reply(status=200, body=b'{"a":1}', content_type="application/json")
    assert kind.unstream(reply) is reply
