import json

import pytest

from bulkgrok.core.model import Answer, Code, Unusable
from bulkgrok.kinds import get

VIDEO = get("video")


def decode(body):
    return VIDEO.decode(body if isinstance(body, bytes) else json.dumps(body).encode())


URL = "https://vidgen.example/a.mp4"


@pytest.mark.parametrize(
    "body",
    [
        {"status": "done", "video": {"url": URL, "duration": 6, "respect_moderation": True}},
        {"status": "Completed", "data": [{"url": URL}]},
        {"status": "succeeded", "url": URL},
        {"video": {"url": URL, "duration": 6}, "model": "m"},
        {"status": "pending", "video": {"url": URL}},
        {"status": "a new word", "video": {"url": URL}},
        {"status": 5, "video": {"url": 5}, "data": [{"url": URL}]},
        {"status": "done", "video": {"url": URL}, "error": "storage failed"},
    ],
)
def test_a_url_is_an_answer(body):
    found = decode({**body, "usage": {"cost_in_usd_ticks": 3_000_000_000}})
    assert isinstance(found, Answer)
    assert [asset.url for asset in found.assets] == [URL]
    assert found.ticks == 3_000_000_000
    assert found.content is None


@pytest.mark.parametrize(
    ("body", "code", "again", "words"),
    [
        ({"status": "failed", "error": {"code": "invalid_argument", "message": "no"}}, Code.FAILED, False, "no"),
        ({"status": "failed", "error": {"code": "service_unavailable", "message": "no"}}, Code.FAILED, True, "no"),
        ({"status": "error", "error": {"code": "internal_error", "message": ""}}, Code.FAILED, True, ""),
        ({"status": "failed", "error": "no"}, Code.FAILED, False, "no"),
        ({"status": "failed"}, Code.FAILED, False, "no reason"),
        ({"status": "failed", "video": {"url": URL}}, Code.FAILED, False, "no reason"),
        ({"error": {"code": "internal_error", "message": "no"}}, Code.FAILED, True, "no"),
        (
            {
                "status": "failed",
                "error": {"code": "permission_denied", "message": "Content violates usage guidelines"},
            },
            Code.MODERATED,
            False,
            "violates",
        ),
        ({"status": "failed", "error": {"code": "permission_denied", "message": "team"}}, Code.FAILED, False, "team"),
        ({"status": "expired"}, Code.EXPIRED, False, "expired"),
        ({"status": "canceled"}, Code.CANCELLED, False, "cancelled"),
        ({"status": "done", "video": {"url": None, "respect_moderation": False}}, Code.MODERATED, False, "withheld"),
        ({"status": "done", "video": {"url": "", "respect_moderation": False}}, Code.MODERATED, False, "withheld"),
        ({"status": "done"}, Code.INVALID_RESPONSE, False, "no URL"),
        ({"status": "done", "video": {"url": ["x"]}}, Code.INVALID_RESPONSE, False, "no URL"),
        ({"status": "done", "video": [], "data": {}, "url": 5}, Code.INVALID_RESPONSE, False, "no URL"),
        ({"status": "pending"}, Code.INVALID_RESPONSE, False, "pending"),
        (b"[]", Code.INVALID_RESPONSE, False, "list"),
        (b"", Code.INVALID_RESPONSE, False, "not JSON"),
        (b"\xff\xfe", Code.INVALID_RESPONSE, False, "not JSON"),
        (b"[" * 99_999, Code.INVALID_RESPONSE, False, "not JSON"),
    ],
)
def test_a_job_without_a_video_says_why(body, code, again, words):
    found = decode(body)
    assert isinstance(found, Unusable)
    assert (found.code, found.again) == (code, again)
    assert words in found.message
    assert found.message


def test_a_withheld_video_is_billed():
    usage = {"cost_in_usd_ticks": 3_000_000_000}
    found = decode(
        {"status": "done", "video": {"url": None, "respect_moderation": False}, "usage": usage, "model": "m"}
    )
    assert (found.ticks, found.usage, found.model) == (3_000_000_000, usage, "m")
    assert decode({"status": "done", "video": {"respect_moderation": False}}).usage == {}
