"""Error bodies in every shape the API and its gateways were seen to use, and the texts that go with them.

Law: pure. What is refused is said in words a client can tell apart; the shape around the words is a setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

JSON_TYPE: Final = "application/json"
HTML_TYPE: Final = "text/html; charset=UTF-8"
STREAM_TYPE: Final = "text/event-stream"

#: short name -> (2026 code, the sentence older replies have in its place, the word gateways use).
CODES: Final = {
    "invalid": ("invalid-argument", "Client specified an invalid argument", "INVALID_ARGUMENT"),
    "denied": (
        "permission-denied",
        "The caller does not have permission to execute the specified operation",
        "PERMISSION_DENIED",
    ),
    "no-credentials": (
        "unauthenticated:no-credentials",
        "The request does not have valid authentication credentials",
        "UNAUTHENTICATED",
    ),
    "blocked": (
        "unauthorized:blocked-user",
        "The caller does not have permission to execute the specified operation",
        "PERMISSION_DENIED",
    ),
    "exhausted": ("resource-exhausted", "Some resource has been exhausted", "RESOURCE_EXHAUSTED"),
    "not-found": ("not-found", "Some requested entity was not found", "NOT_FOUND"),
    "unavailable": ("unavailable", "The service is currently unavailable", "UNAVAILABLE"),
    "internal": ("internal", "Internal error", "INTERNAL"),
    "deadline": ("deadline-exceeded", "Deadline expired before operation could complete", "DEADLINE_EXCEEDED"),
    "precondition": (
        "failed-precondition",
        "The system is not in a state required for the operation's execution",
        "FAILED_PRECONDITION",
    ),
    "gone": ("not-found", "Some requested entity was not found", "NOT_FOUND"),
}
TEAM: Final = "00000000-51ab-4000-8000-000000000001"

NO_CREDENTIALS: Final = (
    "No credentials presented. Please provide an API key in the 'Authorization: Bearer' header. "
    "You can obtain an API key from https://console.x.ai."
)
NO_CREDIT: Final = (
    f"Your team {TEAM} has either used all available credits or reached its monthly spending limit. "
    "To continue making API requests, please purchase more credits or raise your spending limit."
)
DENIED: Final = "Access to the chat endpoint is denied. Please ensure you're using the correct credentials."
STREAM_AND_DEFERRED: Final = "A request may either be streaming or deferred, but not both."
NO_SUCH_RESULT: Final = "No deferred completion could be found with the given request_id."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal before it has a shape.

    Args:
        status: HTTP status.
        code: A name in `CODES`.
        text: The API's words.
        shape: The shape it always has, whatever the settings say; empty where the setting decides.
        retry_after_s: What `Retry-After` says, None for no such header.
    """

    status: int
    code: str
    text: str
    shape: str = ""
    retry_after_s: float | None = None


def wrong_key(key: str) -> Refusal:
    """Return the refusal of a key, which the API answers with a 400."""
    shown = f"{key[:2]}***{key[-2:]}" if len(key) > 4 else "***"
    text = f"Incorrect API key provided: {shown}. You can obtain an API key from https://console.x.ai."
    return Refusal(400, "invalid", text)


def content_refused(form: int, model: str) -> Refusal:
    """Return one of the three ways in which content is refused: they share nothing but the text."""
    if form == 0:
        text = (
            f"Content violates usage guidelines. Team: {TEAM}, API key ID: 00000000-51ab-4000-8000-000000000002, "
            f"Model: {model}, Failed check: SAFETY_CHECK_TYPE_BIO"
        )
        return Refusal(403, "denied", text, shape="sentence")
    if form == 1:
        return Refusal(403, "denied", "Content violates usage guidelines. ", shape="kebab")
    return Refusal(400, "invalid", "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO")


def too_long(limit: int, tokens: int) -> Refusal:
    """Return the refusal of a prompt beyond the model's context."""
    text = f"This model's maximum prompt length is {limit} but the request contains {tokens} tokens."
    return Refusal(400, "invalid", text)


def over_limit(model: str, measure: str, actual: int, limit: float, *, retry_after_s: float) -> Refusal:
    """Return the 429 of a rate limit; `measure` is such as "Requests per Second"."""
    what = measure.partition(" ")[0].lower()
    text = (
        f"Too many {what} for team {TEAM} and model {model}. Your team's rate limit is — {measure} "
        f"(actual/limit): {actual}/{limit:g}. Your rate limit tier is determined based on your historical API spend. "
        "Visit https://console.x.ai/team/default/rate-limits."
    )
    return Refusal(429, "exhausted", text, retry_after_s=retry_after_s)


def no_credit(form: str) -> Refusal:
    """Return the refusal for lack of credit, old or new."""
    if form == "429-old":
        return Refusal(429, "exhausted", NO_CREDIT, shape="sentence")
    return Refusal(403, "denied", NO_CREDIT, shape="kebab")


def body_of(refusal: Refusal, shape: str) -> tuple[str, bytes]:
    """Return content type and body of a refusal in a shape."""
    kebab, sentence, word = CODES[refusal.code]
    text, status = refusal.text, refusal.status
    if shape == "html":
        return HTML_TYPE, html_page(status, text)
    shapes: dict[str, Any] = {
        "kebab": {"code": kebab, "error": text},
        "sentence": {"code": sentence, "error": text},
        "numeric": {"code": status, "error": text},
        "nested": {"error": {"message": text, "type": word.lower(), "param": None, "code": kebab}},
        "bare": text,
        "error-only": {"error": text},
        "array": [{"error": {"code": status, "message": text, "status": word}}],
        "detail": {"detail": text},
    }
    if shape == "double":
        inner = orjson.dumps({"type": "error", "error": {"type": word.lower(), "message": text, "code": kebab}})
        return JSON_TYPE, orjson.dumps({"error": inner.decode()})
    return JSON_TYPE, orjson.dumps(shapes[shape])


def html_page(status: int, text: str) -> bytes:
    """Return the page of a gateway in front of the API."""
    return (
        f'<!DOCTYPE html>\n<html lang="en-US"><head><title>api.x.ai | {status}: {text}</title>'
        "<style>body { margin: 0 } .error { color: #404040 }</style></head>"
        f'<body><div class="error"><h1>Error {status}</h1><p>{text}</p><p>Cloudflare Ray ID: <b>0</b></p></div>'
        "</body></html>\n"
    ).encode()
