"""What each reply means, before anything is done about it.

Law: pure. `judge_post` and `judge_get` turn what happened on the wire into one verdict; the tables they implement are
"What each reply means" of docs/guarantees.md. Where sources contradict each other, the text decides (a refused prompt
and a blocked account share a code), and what is unclear is never called free.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from bulkgrok.core.model import Code, Exchange, Mode, NoReply, NotSent, RateLimit, Reply, RequestId

_EXAMINED_BYTES: Final = 65_536
_REMEMBERED_BYTES: Final = 4_096
_MESSAGE_CHARS: Final = 2_000

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,256}")
_CREDIT: Final = re.compile(
    r"used all available credits|(?:monthly|reached its|over your|your) spending limit|purchase more credits"
    r"|spending-limit|insufficient (?:credits|funds|balance)",
    re.IGNORECASE,
)
_KEY: Final = re.compile(
    r"incorrect api key|invalid api key|api key (?:is )?(?:invalid|expired|revoked)", re.IGNORECASE
)
_BLOCKED: Final = re.compile(
    r"blocked[- ](?:user|team|key|api key)|team-blocked|(?:user|team|api key|key|account) (?:is|has been|was) "
    r"(?:blocked|disabled|suspended|deactivated)",
    re.IGNORECASE,
)
_CONTENT: Final = re.compile(r"content violates usage guidelines|SAFETY_CHECK_TYPE", re.IGNORECASE)
_AGAIN_CODES: Final = frozenset({
    "service_unavailable", "internal_error", "unavailable", "internal", "the service is currently unavailable",
    "internal error",
})  # fmt: skip
_LIMIT: Final = re.compile(
    r"(?P<what>requests|tokens) per (?P<period>second|minute|hour|day) \(actual/limit\): \d+/(?P<limit>\d+)",
    re.IGNORECASE,
)
_PERIODS_S: Final = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
#: Each takes a time that grows with the page and no faster, whatever it holds.
_UNSEEN: Final = re.compile(r"<(script|style)\b", re.IGNORECASE)
_ENDS: Final = {name: re.compile(f"</{name}>", re.IGNORECASE) for name in ("script", "style")}
_TAG: Final = re.compile(r"<[^<>]*+>")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiText:
    """The API's own words, whatever shape they came in."""

    code: str
    """Its code in lower case, with any `:detail`; empty when there is none."""
    message: str
    """One line, at most 2,000 characters; never empty."""


class Why(Enum):
    """Why a refused request may be sent again."""

    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """The request did not leave in whole: free."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Definitely not done (`doubt`: probably not, so the ledger keeps it); send it again later."""

    why: Why
    reason: str
    retry_after_s: float | None = None
    doubt: bool = False
    limit: RateLimit | None = None
    """The limit that a 429 names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The row's own failure, in the API's own words."""

    code: Code
    status: int
    message: str
    account_question: bool = False
    """A 403 that may be about the account: several in a row are settled by a look at `GET /v1/api-key`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Key, permission or credit: nothing more will be served, the run ends and no row is failed."""

    status: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """Sent, and no usable reply."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A deferred request was accepted."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A complete reply that is an answer, whatever it turns out to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Not ready; `served` is False when the reply was a refusal or none at all, which says nothing about the job."""

    throttled: bool = False
    served: bool = True
    cut: bool = False
    """A 2xx that broke off: the API is there, and the result may be."""
    retry_after_s: float | None = None
    reason: str = ""
    limit: RateLimit | None = None
    """The limit that a 429 names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerError:
    """A 5xx to a poll: asked again; 8 of them for one id alone, while others are answered, are a failed job."""

    reason: str
    status: int
    message: str
    again: bool
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """404: twice, with proof that the API is well, means that the result is gone."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRefused:
    """The API says that the job failed. `again` when it names a passing fault of its own."""

    code: Code
    status: int
    message: str
    again: bool


PostVerdict = Unsent | Refused | Rejected | Stop | InDoubt | Receipt | Answered
GetVerdict = Answered | Pending | ServerError | Missing | JobRefused | Stop


def api_error(body: bytes) -> ApiText:
    """Read an error body in any of the shapes the API and its gateways are known to use."""
    value = _loads(body)
    code, message = _error_fields(value)
    if not message:
        text = body[:_EXAMINED_BYTES].decode("utf-8", "replace")
        message = _seen(text) if value is None else text
    message = " ".join(message.split())[:_MESSAGE_CHARS]
    return ApiText(code=code.strip().lower()[:200], message=message or "(the API gave no reason)")


def _seen(page: str) -> str:
    """Return what of a page of HTML is there to be read."""
    kept, at = list[str](), 0
    unended: set[str] = set()
    for begin in _UNSEEN.finditer(page):
        name = begin[1].lower()
        if begin.start() < at or name in unended:
            continue
        end = _ENDS[name].search(page, begin.end())
        if end is None:
            unended.add(name)
            continue
        kept.append(page[at : begin.start()])
        at = end.end()
    return _TAG.sub(" ", " ".join([*kept, page[at:]]))


def is_error_object(body: bytes) -> bool:
    """Tell whether a 200 body is an error: an error object with no choices and no id."""
    if b'"choices"' in body or len(body) > _EXAMINED_BYTES:
        return False
    value = _loads(body)
    if isinstance(value, list):
        value = value[0] if value else None
    if (
        not isinstance(value, dict)
        or value.get("id")
        or value.get("request_id")
        or value.get("status")
        or value.get("video")
    ):
        return False
    return bool(value.get("error")) or bool(value.get("code") and value.get("message"))


def usable_request_id(body: bytes) -> RequestId | None:
    """Return the id of an accepted deferred request (`request_id`, or `id`), None if there is no usable one."""
    value = _loads(body)
    if not isinstance(value, dict):
        return None
    for key in ("request_id", "id"):
        found = value.get(key)
        if isinstance(found, str) and _REQUEST_ID.fullmatch(found) and found.strip("."):
            return RequestId(found)
    return None


def judge_post(exchange: Exchange, *, mode: Mode) -> PostVerdict:
    """Decide what became of a billable POST. A stream must have been assembled before (`Kind.unstream`)."""
    match exchange:
        case NotSent(reason=reason):
            return Unsent(reason=reason)
        case NoReply(reason=reason):
            return InDoubt(reason=reason)
        case Reply(status=status) if 200 <= status < 300:
            return _judge_success(exchange, mode)
        case Reply(status=status) if status < 200:
            return InDoubt(reason=f"the reply (HTTP {status}) is none to a request")
        case Reply():
            return _judge_refusal(exchange)


def _judge_success(reply: Reply, mode: Mode) -> PostVerdict:
    if not reply.complete:
        return InDoubt(reason=f"the reply (HTTP {reply.status}) was cut short")
    if is_error_object(reply.body):
        return _judge_error_in_200(reply)
    if mode is Mode.DIRECT:
        return Answered()
    if b'"choices"' in reply.body and _has_choices(reply.body):
        return Answered()
    request_id = usable_request_id(reply.body)
    if request_id is None:
        return InDoubt(reason=f"accepted (HTTP {reply.status}) without a usable request id")
    return Receipt(request_id=request_id)


def _judge_error_in_200(reply: Reply) -> PostVerdict:
    text = api_error(reply.body)
    if (verdict := _by_text(reply.status, text)) is not None:
        return verdict
    if text.code in {"429", "resource-exhausted", "some resource has been exhausted"}:
        return _throttled(reply, text)
    return Refused(
        why=Why.UNAVAILABLE, reason=f"HTTP 200 with an error: {text.message}", retry_after_s=reply.retry_after_s
    )


def _judge_refusal(reply: Reply) -> PostVerdict:
    status, text = reply.status, api_error(reply.body)
    if (verdict := _by_text(status, text)) is not None:
        return verdict
    if status == 429:
        return _throttled(reply, text)
    if status == 408 or status >= 500:
        doubt = status not in {503, 529}
        return Refused(
            why=Why.UNAVAILABLE, reason=f"HTTP {status}: {text.message}", retry_after_s=reply.retry_after_s, doubt=doubt
        )
    return Rejected(code=Code.REJECTED, status=status, message=text.message, account_question=status == 403)


def _throttled(reply: Reply, text: ApiText) -> Refused:
    return Refused(
        why=Why.THROTTLED,
        reason=text.message,
        retry_after_s=reply.retry_after_s,
        limit=named_limit(text.message, reply),
    )


def named_limit(message: str, reply: Reply) -> RateLimit | None:
    """Return the limit that a 429 names in its text, or else in its headers; None where it names none."""
    if (found := _LIMIT.search(message)) is not None:
        what, period, limit = found["what"].lower(), found["period"].lower(), int(found["limit"][:15])
        if limit > 0:
            measure = f"{what} per {period}"
            return RateLimit(
                what="tokens" if what == "tokens" else "requests", per_s=limit / _PERIODS_S[period], measure=measure
            )
    if reply.limit_rpm is not None:
        return RateLimit(what="requests", per_s=reply.limit_rpm / 60.0, measure="headers", said=False)
    return None


def _by_text(status: int, text: ApiText) -> Rejected | Stop | None:
    """Judge by the words: refused content is one row's failure, money and keys end the run."""
    words = f"{text.code} {text.message}"
    if status < 500 and status != 429 and _CONTENT.search(words):
        return Rejected(code=Code.MODERATED, status=status, message=text.message)
    if status in {401, 402} or _CREDIT.search(words):
        return Stop(status=status, message=text.message)
    if text.code.startswith(("unauthenticated", "unauthorized:blocked")):
        return Stop(status=status, message=text.message)
    if status < 500 and status != 429 and (_KEY.search(words) or _BLOCKED.search(words)):
        return Stop(status=status, message=text.message)
    return None


def judge_get(exchange: Exchange, *, pending: bool) -> GetVerdict:
    """Decide what a poll of a deferred request told.

    Args:
        exchange: What happened.
        pending: Whether a complete 200 body says "not ready yet" (the kind knows how it says so).
    """
    match exchange:
        case NotSent(reason=reason) | NoReply(reason=reason):
            return Pending(served=False, reason=reason)
        case Reply(status=202 | 204):
            return Pending(retry_after_s=exchange.retry_after_s)
        case Reply(status=status, complete=complete) if 200 <= status < 300:
            if not complete:
                return Pending(served=False, cut=True, reason=f"the reply (HTTP {status}) was cut short")
            return Pending(retry_after_s=exchange.retry_after_s) if pending else Answered()
        case Reply(status=status) if status < 200:
            return Pending(served=False, reason=f"the reply (HTTP {status}) is none to a request")
        case Reply():
            return _judge_get_refusal(exchange)


def _judge_get_refusal(reply: Reply) -> GetVerdict:
    status, text = reply.status, api_error(reply.body)
    by_text = _by_text(status, text)
    if isinstance(by_text, Stop):
        return by_text
    if by_text is not None:
        return JobRefused(code=Code.MODERATED, status=status, message=text.message, again=False)
    if status == 429:
        return Pending(
            throttled=True,
            served=False,
            retry_after_s=reply.retry_after_s,
            reason=text.message,
            limit=named_limit(text.message, reply),
        )
    if status == 404:
        return Missing(message=text.message)
    again = text.code.replace("-", "_") in _AGAIN_CODES
    if status in {400, 403, 410, 422}:
        return JobRefused(code=Code.FAILED, status=status, message=text.message, again=again)
    return ServerError(
        reason=f"HTTP {status}", status=status, message=text.message, again=again, retry_after_s=reply.retry_after_s
    )


def _loads(body: bytes) -> object:
    """Parse what may be JSON; None for everything else. Hostile depth and size end here."""
    if len(body) > _EXAMINED_BYTES:
        return None
    return _parsed(body) if len(body) <= _REMEMBERED_BYTES else _parsed.__wrapped__(body)


@lru_cache(maxsize=8)  # a reply is looked at from several sides, one after the other
def _parsed(body: bytes) -> object:
    """Parse what may be JSON; None for everything else. What comes out is not to be changed."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _has_choices(body: bytes) -> bool:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value.get("choices"))


def _error_fields(value: object, depth: int = 0) -> tuple[str, str]:
    """Return (code, message) of a parsed error body, empty strings where there is none."""
    if depth > 4:
        return "", ""
    if isinstance(value, list):
        return _error_fields(value[0], depth + 1) if value else ("", "")
    if isinstance(value, str):
        nested = _loads(value.encode("utf-8", "replace")) if value.lstrip()[:1] in {"{", "["} else None
        if isinstance(nested, dict | list):
            return _error_fields(nested, depth + 1)
        return "", value
    if not isinstance(value, dict):
        return "", ""
    code = _code(value)
    for key in ("error", "message", "detail", "error_message"):
        if value.get(key):
            inner_code, message = _error_fields(value[key], depth + 1)
            if message:
                return inner_code or code, message
    return code, ""


def _code(value: dict[str, object]) -> str:
    for key in ("code", "status", "type"):
        found = value.get(key)
        if isinstance(found, str) and found:
            return found
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
    return ""


def is_refused_content(text: ApiText) -> bool:
    """Tell whether the words refuse one prompt for its content, whatever code they come with."""
    return _CONTENT.search(f"{text.code} {text.message}") is not None


def names_passing_fault(text: ApiText) -> bool:
    """Tell whether the code is one of the API's own faults (service_unavailable, internal_error): ask once more."""
    return text.code.replace("-", "_") in _AGAIN_CODES or text.code in _AGAIN_CODES
