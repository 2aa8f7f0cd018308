"""Replies as single calls see them: a JSON object, or an ApiError that says whether it may have cost something."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from bulkgrok.core.errors import ApiError, UsageError
from bulkgrok.core.model import Exchange, JsonObject, NoReply, NotSent, Reply
from bulkgrok.core.verdict import api_error, is_error_object, usable_request_id

_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,256}")


def checked(exchange: Exchange) -> Reply:
    """Return a whole 2xx reply; everything else is an ApiError."""
    match exchange:
        case NotSent(reason=reason):
            msg = f"nothing was sent: {reason}"
            raise ApiError(msg, hint="try again: it cost nothing")
        case NoReply(reason=reason):
            msg = f"sent, and no reply came: {reason}"
            raise ApiError(msg, hint="it may have been done, and billed, all the same")
        case Reply(status=status) if not 200 <= status < 300:
            raise ApiError(api_error(exchange.body).message, status=status)
        case Reply(oversized=True, status=status):
            msg = "the reply is larger than this client keeps"
            raise ApiError(msg, status=status)
        case Reply(complete=False, status=status):
            msg = "the reply was cut short; it may have been billed all the same"
            raise ApiError(msg, status=status)
        case Reply():
            return exchange


def as_object(reply: Reply) -> JsonObject:
    """Return a reply's JSON object; an error with status 200 is an ApiError."""
    if is_error_object(reply.body):
        raise ApiError(api_error(reply.body).message, status=reply.status)
    value = loads(reply.body)
    if not isinstance(value, dict):
        msg = "the reply is not a JSON object"
        raise ApiError(msg, status=reply.status)
    return value


def loads(raw: bytes) -> object:
    """Parse JSON; None for what is none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def encode(body: Mapping[str, object]) -> bytes:
    """Return a request body as JSON; UsageError if it cannot be."""
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the request cannot be written as JSON: {error}"
        raise UsageError(msg) from error


def request_id_of(reply: Reply) -> str:
    """Return the id of an accepted request; ApiError if there is none that can be used."""
    request_id = usable_request_id(reply.body)
    if request_id is None:
        as_object(reply)
        msg = "the API accepted it without an id that can be used; it may have been billed"
        raise ApiError(msg, status=reply.status)
    return request_id


def segment(request_id: str) -> str:
    """Return a request_id as a part of a path; UsageError if it is none."""
    if not _ID.fullmatch(request_id) or not request_id.strip("."):
        msg = f"{request_id[:80]!r} is not a request_id"
        raise UsageError(msg)
    return request_id
