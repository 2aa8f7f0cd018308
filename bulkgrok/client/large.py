"""Replies too large for memory while they come, as single calls see them: read afterwards, or left in a file.

Law: what a call returns is the caller's to hold, so its size is bounded: in bytes, and in values, since parsed JSON
takes ten times the memory of its text and more. What is beyond that may have been paid for: it is not thrown away.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final
from uuid import uuid4

from bulkgrok.core.errors import ApiError
from bulkgrok.core.jsonscan import is_valid
from bulkgrok.core.model import Exchange, Reply
from bulkgrok.core.ports import LargeBody

LARGEST_BYTES: Final = 32 << 20
"""As in the official client."""
_MOST_VALUES: Final = 1_000_000


def new_name() -> str:
    """Return what to call a file among other programs'."""
    return f"bulkgrok-reply-{uuid4().hex}"


async def in_memory(exchange: Exchange) -> Exchange:
    """Return a reply with all of its body in memory.

    Raises:
        ApiError: It is too large for that; the message names the file that has it.
        StorageFailed: The disk refused.
    """
    if not isinstance(exchange, Reply) or exchange.large is None:
        return exchange
    return await asyncio.to_thread(_read, exchange, exchange.large)


def _read(reply: Reply, body: LargeBody) -> Reply:
    reply = replace(reply, large=None)
    if reply.oversized or (reply.complete and body.size_bytes > LARGEST_BYTES):
        raise _too_large(reply, body, f"it is larger than {LARGEST_BYTES >> 20} MiB")
    if not reply.complete:
        body.discard()
        return reply
    raw = body.read()
    if sum(map(raw.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise _too_large(reply, body, f"it holds more than {_MOST_VALUES:,} values")
    whole = body.framed or is_valid(raw.strip())
    body.discard()
    return replace(reply, body=raw, complete=whole)


def _too_large(reply: Reply, body: LargeBody, why: str) -> ApiError:
    path = body.keep()
    return ApiError(f"the reply is not read: {why}; it was written to {path}", status=reply.status)
