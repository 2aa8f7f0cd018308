"""What each reply means: the table of docs/guarantees.md, line by line."""

import json

import pytest

from bulkgrok.core.model import Code, Mode, NoReply, NotSent, Reply
from bulkgrok.core.verdict import (
    Answered,
    InDoubt,
    JobRefused,
    Missing,
    Pending,
    Receipt,
    Refused,
    Rejected,
    ServerError,
    Stop,
    Unsent,
    Why,
    api_error,
    judge_get,
    judge_post,
)

CREDIT = (
    "Your team 1a2b has either used all available credits or reached its monthly spending limit. "
    "To continue making API requests, please purchase more credits or raise your spending limit."
)
REFUSED_CONTENT = (
    "Content violates usage guidelines. Team: t, API key ID: k, Model: grok-4-0709, Failed check: SAFETY_CHECK_TYPE_BIO"
)
PERMISSION = "The caller does not have permission to execute the specified operation"


def post(status, value=None, *, mode=Mode.DIRECT, raw=None, **more):
    body = raw if raw is not None else json.dumps(value).encode()
    return judge_post(Reply(status=status, body=body, **more), mode=mode)


def get(status, value=None, *, pending=False, raw=None, **more):
    body = raw if raw is not None else b"" if value is None else json.dumps(value).encode()
    return judge_get(Reply(status=status, body=body, **more), pending=pending)


SHAPES = {
    "kebab": {"code": "resource-exhausted", "error": "slow down"},
    "sentence": {"code": "Some resource has been exhausted", "error": "slow down"},
    "numeric": {"code": 429, "error": "slow down"},
    "nested": {"error": {"message": "slow down", "type": "x", "param": None, "code": "y"}},
    "error only": {"error": "slow down"},
    "bare string": "slow down",
    "gateway array": [{"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}],
    "double-encoded": {"error": json.dumps({"type": "error", "error": {"message": "slow down"}})},
    "detail": {"detail": "slow down"},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_message_is_found_in_every_error_shape(shape):
    assert api_error(json.dumps(shape).encode()).message == "slow down"


def test_an_html_page_is_told_in_its_words():
    page = b"<html><head><style>b{}</style><title>520</title></head><body><h1>Web server error</h1></body></html>"
    assert api_error(page).message == "520 Web server error"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"1" * 6_000, b'{"error":{}}']
)
def test_rubbish_still_gives_a_message(body):
    assert api_error(body).message


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_429_is_throttled_whatever_its_shape(shape):
    verdict = post(429, shape, retry_after_s=7.0)
    assert isinstance(verdict, Refused)
    assert (verdict.why, verdict.retry_after_s, verdict.doubt) == (Why.THROTTLED, 7.0, False)


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (429, {"code": "Some resource has been exhausted", "error": CREDIT}),
        (403, {"code": "permission-denied", "error": CREDIT}),
        (200, {"code": "permission-denied", "error": CREDIT}),
        (400, {"code": "400", "error": "denied [WKE=personal-team-blocked:spending-limit]"}),
        (402, {"error": "pay"}),
        (401, {"code": "unauthenticated:no-credentials", "error": "No credentials presented."}),
        (401, "what"),
        (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: na***ys."}),
        (403, {"code": "unauthenticated:bad-credentials", "error": "The OAuth2 access token could not be validated."}),
        (403, {"code": "unauthorized:blocked-user", "error": "no"}),
        (403, {"code": "permission-denied", "error": "Your team is blocked."}),
    ],
)
def test_money_and_keys_end_the_run(status, value):
    assert isinstance(post(status, value), Stop)
    if status >= 400:
        assert isinstance(get(status, value), Stop)


@pytest.mark.parametrize(("status", "code"), [(403, PERMISSION), (403, "permission-denied"), (400, "invalid-argument")])
def test_refused_content_is_one_rows_failure_though_the_code_says_permission(status, code):
    verdict = post(status, {"code": code, "error": REFUSED_CONTENT})
    assert isinstance(verdict, Rejected)
    assert (verdict.code, verdict.account_question) == (Code.MODERATED, False)


def test_any_other_403_is_rejected_and_asks_about_the_account():
    verdict = post(403, {"code": PERMISSION, "error": "Access to the chat endpoint is denied"})
    assert isinstance(verdict, Rejected)
    assert verdict.code is Code.REJECTED
    assert verdict.account_question


@pytest.mark.parametrize("status", [301, 307, 400, 404, 405, 409, 410, 413, 415, 422])
def test_other_4xx_and_redirects_are_the_rows_failure_in_the_apis_words(status):
    verdict = post(status, {"code": "invalid-argument", "error": "Model x does not support parameter y."})
    assert isinstance(verdict, Rejected)
    assert verdict.message == "Model x does not support parameter y."
    assert not verdict.account_question


@pytest.mark.parametrize(
    ("status", "doubt"), [(503, False), (529, False), (500, True), (502, True), (504, True), (520, True), (408, True)]
)
def test_5xx_are_refused_and_only_503_and_529_are_free_for_certain(status, doubt):
    verdict = post(status, raw=b"<html>down</html>")
    assert isinstance(verdict, Refused)
    assert (verdict.why, verdict.doubt) == (Why.UNAVAILABLE, doubt)


@pytest.mark.parametrize(
    "value",
    [
        {"code": "The service is currently unavailable", "error": "try again"},
        {"error": {"message": "overloaded", "type": "server_error"}},
    ],
)
@pytest.mark.parametrize("mode", list(Mode))
def test_a_200_that_carries_an_error_is_refused(value, mode):
    verdict = post(200, value, mode=mode)
    assert isinstance(verdict, Refused)
    assert not verdict.doubt


def test_an_answer_that_talks_about_money_is_an_answer():
    assert isinstance(post(200, {"id": "x", "choices": [{"message": {"content": CREDIT}}]}), Answered)


@pytest.mark.parametrize("raw", [b"not json", b"", b"{}", b'{"choices": []}', b"\xff", b"[" * 100_000])
def test_a_complete_200_to_a_direct_post_is_answered_whatever_it_holds(raw):
    assert isinstance(post(200, raw=raw), Answered)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_200_cut_short_is_in_doubt(mode):
    assert isinstance(post(200, {"request_id": "abc"}, mode=mode, complete=False), InDoubt)


@pytest.mark.parametrize("key", ["request_id", "id"])
@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_receipt_is_an_id_under_either_name(key, status):
    assert post(status, {key: "f15c114e-f47d_us-east-1"}, mode=Mode.DEFERRED) == Receipt(
        request_id="f15c114e-f47d_us-east-1"
    )


@pytest.mark.parametrize("found", [None, 17, "", "a/b", "x" * 257, "..", "a b", "ä", ["a"]])
def test_an_unusable_id_is_in_doubt_and_never_guessed(found):
    assert isinstance(post(200, {"request_id": found}, mode=Mode.DEFERRED), InDoubt)


def test_a_deferred_post_that_is_answered_at_once_is_answered():
    value = {"id": "x", "choices": [{"message": {"content": "hi"}}]}
    assert isinstance(post(200, value, mode=Mode.DEFERRED), Answered)


def test_what_did_not_leave_is_free_and_what_was_not_answered_is_in_doubt():
    assert isinstance(judge_post(NotSent(reason="refused"), mode=Mode.DIRECT), Unsent)
    assert isinstance(judge_post(NoReply(reason="dropped"), mode=Mode.DEFERRED), InDoubt)


# Polls


@pytest.mark.parametrize(
    "exchange", [NotSent(reason="x"), NoReply(reason="x"), Reply(status=200, body=b"{", complete=False)]
)
def test_a_poll_without_a_whole_reply_is_asked_again(exchange):
    verdict = judge_get(exchange, pending=False)
    assert isinstance(verdict, Pending)
    assert not verdict.served


def test_202_is_pending_whatever_its_body():
    assert isinstance(get(202, {"choices": [1]}), Pending)


def test_a_200_is_an_answer_unless_the_kind_says_pending():
    assert isinstance(get(200, {"x": 1}), Answered)
    assert isinstance(get(200, {"status": "processing"}, pending=True), Pending)


def test_a_404_is_missing_and_a_429_is_pending():
    assert isinstance(get(404, {"code": "not-found", "error": "gone"}), Missing)
    verdict = get(429, SHAPES["kebab"], retry_after_s=3.0)
    assert isinstance(verdict, Pending)
    assert verdict.throttled


@pytest.mark.parametrize("status", [400, 403, 410, 422])
def test_a_refusal_that_is_not_about_the_key_says_that_the_job_failed(status):
    verdict = get(status, {"code": "failed-precondition", "error": "The request failed"})
    assert isinstance(verdict, JobRefused)
    assert not verdict.again


@pytest.mark.parametrize("code", ["service_unavailable", "internal_error", "service-unavailable", "Internal error"])
def test_a_passing_fault_of_the_service_lets_the_job_be_sent_again(code):
    verdict = get(400, {"code": code, "error": "The request failed due to an internal service error."})
    assert isinstance(verdict, JobRefused)
    assert verdict.again


def test_a_job_refused_for_its_content_is_moderated():
    verdict = get(403, {"code": "permission-denied", "error": REFUSED_CONTENT})
    assert isinstance(verdict, JobRefused)
    assert verdict.code is Code.MODERATED


@pytest.mark.parametrize("status", [500, 502, 503, 520, 302, 409])
def test_server_errors_to_a_poll_are_asked_again(status):
    assert isinstance(get(status, raw=b"oops"), ServerError)
