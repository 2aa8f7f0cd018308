"""What the replies of all kinds have in common: "not ready yet", errors inside a 200, and what was billed.

Law: reads only; anything of a wrong type is taken as absent, because an answer that is paid for is not thrown away
over a field nobody needs.
"""

from __future__ import annotations

from typing import Final

import orjson

from bulkgrok.core.model import Code, JsonObject, Unusable
from bulkgrok.core.verdict import ApiText, api_error, is_refused_content, names_passing_fault
from bulkgrok.kinds.jsonread import loads

#: The words of a video job's `status`, with those older documents use for the same.
DONE_WORDS: Final = frozenset({"done", "completed", "complete", "succeeded", "success"})
FAILED_WORDS: Final = frozenset({"failed", "error", "failure"})
EXPIRED_WORDS: Final = frozenset({"expired"})
CANCELLED_WORDS: Final = frozenset({"cancelled", "canceled"})
TERMINAL_WORDS: Final = DONE_WORDS | FAILED_WORDS | EXPIRED_WORDS | CANCELLED_WORDS

_EXAMINED_BYTES: Final = 65_536
_WAITING_KEYS: Final = frozenset({"id", "request_id", "object", "created", "model", "status", "progress", "choices"})
#: More than 10,000 USD for one request is no price but a defect.
_MAX_TICKS: Final = 10**14


def pending(raw: bytes) -> bool:
    """Tell whether the body of a 200 to a poll says "not ready yet".

    That is an empty body, an object whose status is no final word (and that brings no choices, URL or error), or an
    object with nothing in it but names and an empty `choices`. Bodies of 64 KiB and more are answers.
    """
    if len(raw) >= _EXAMINED_BYTES:
        return False
    if not raw.strip():
        return True
    try:
        value = loads(raw)
    except ValueError:
        return False
    if not isinstance(value, dict) or value.get("choices") or value.get("error") or asset_url(value):
        return False
    word = status_word(value)
    return word not in TERMINAL_WORDS if word else value.keys() <= _WAITING_KEYS


def status_word(body: JsonObject) -> str:
    """Return `status` in lower case, empty if there is none."""
    status = body.get("status")
    return status.strip().lower() if isinstance(status, str) else ""


def asset_url(body: JsonObject) -> str | None:
    """Return where the finished video lies: `video.url`, `data[0].url` or `url`."""
    video, data = body.get("video"), body.get("data")
    places = [video, data[0] if isinstance(data, list) and data else data, body]
    for place in places:
        url = place.get("url") if isinstance(place, dict) else None
        if isinstance(url, str) and url.strip():
            return url
    return None


def usage_of(body: JsonObject) -> JsonObject | None:
    """Return the usage object, if there is one that can be stored; beyond 64 KiB it is no count of anything."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    try:
        return usage if len(orjson.dumps(usage)) <= _EXAMINED_BYTES else None
    except TypeError:
        return None


def ticks_of(usage: JsonObject | None) -> int | None:
    """Return `cost_in_usd_ticks`, None where it is missing or cannot be a price."""
    found = usage.get("cost_in_usd_ticks") if usage else None
    if type(found) is int and 0 <= found <= _MAX_TICKS:
        return found
    if found is None:
        return None
    if isinstance(found, str) and found.strip().isdecimal() and len(found) <= 20:
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= _MAX_TICKS:
        return None
    return int(found)


def tokens_of(usage: JsonObject | None) -> tuple[int, int, int, int]:
    """Return (prompt, completion, reasoning, cached) tokens, each 0 where it is missing or cannot be a count."""
    if not usage:
        return 0, 0, 0, 0
    thought, kept = usage.get("completion_tokens_details"), usage.get("prompt_tokens_details")
    return (
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(thought.get("reasoning_tokens")) if isinstance(thought, dict) else 0,
        _count(kept.get("cached_tokens")) if isinstance(kept, dict) else 0,
    )


def _count(found: object) -> int:
    if type(found) is int and 0 <= found < 2**53:
        return found
    if found is None:
        return 0
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 2**53:
        return 0
    return int(found)


def text_or_none(value: object) -> str | None:
    """Return a string, None for anything else."""
    return value if isinstance(value, str) else None


def job_failed(body: JsonObject, raw: bytes) -> Unusable:
    """Return what an error inside a 200 means: refused content, a fault that may pass, or simply failed."""
    error = body.get("error")
    mute = not body.get("message") and (
        not error or (isinstance(error, dict) and not any(map(error.get, ("message", "error", "detail"))))
    )
    text = _silent(body, error) if mute else api_error(raw)
    usage = usage_of(body)
    code = Code.MODERATED if is_refused_content(text) else Code.FAILED
    return Unusable(
        code=code,
        message=text.message,
        again=code is Code.FAILED and names_passing_fault(text),
        usage=usage,
        ticks=ticks_of(usage),
        model=text_or_none(body.get("model")),
    )


def _silent(body: JsonObject, error: object) -> ApiText:
    """Return the words of a failure that says none: its code at most."""
    codes = [error.get("code") if isinstance(error, dict) else None, body.get("code"), status_word(body)]
    word = next((code for code in codes if isinstance(code, str) and code), "failed")[:200]
    return ApiText(code=word.strip().lower(), message=f"the API says {word!r} and gives no reason")


def unreadable(why: str) -> Unusable:
    """Return the verdict on a reply that is no answer at all."""
    return Unusable(code=Code.INVALID_RESPONSE, message=why)
