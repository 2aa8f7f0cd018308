"""A reply on its way in: what its headers say, and its body within bounds.

Law: a broken header never raises. A body takes no more memory than its share; what is larger goes to a file as it
comes, so that no server waits for another's answer, and whoever asked gets it from there. Of a refusal, and of what
nobody wants to keep, the beginning is enough.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final

import aiohttp

from bulkgrok.core.jsonscan import is_whole
from bulkgrok.core.model import Reply
from bulkgrok.transport.asking import Response
from bulkgrok.transport.failures import FAILURES, printable
from bulkgrok.transport.patience import Wait
from bulkgrok.transport.spilling import SpilledBody, Spills
from bulkgrok.transport.unpacking import ZLIB, unpacked

BEGINNING_BYTES: Final = 1 << 16
"""How much is kept of a refusal, and of a large body beside its file."""
_MOST_BYTES: Final = 1 << 20
_LEAST_BYTES: Final = 1 << 16
_TOGETHER_BYTES: Final = 32 << 20
_PIECE_BYTES: Final = 1 << 18
_MOST_BLOCKS: Final = 256
_LONGEST_RETRY_AFTER_S: Final = 7 * 86_400.0
_EARLIEST_S: Final = 1.0e9
_LATEST_S: Final = 1.0e10
"""2001 to 2286: a clock that shows another time is none."""
_ID: Final = re.compile(r"[!-~]+")


def share_bytes(concurrency: int) -> int:
    """Return how large a body in memory may be where so many may come at once."""
    return min(_MOST_BYTES, max(_LEAST_BYTES, _TOGETHER_BYTES // concurrency))


_content_type: Final = lru_cache(maxsize=64)(printable)


def head(response: Response, body: bytes = b"", *, complete: bool = False) -> Reply:
    """Return status and headers of a reply, with as much of its body as there is."""
    headers = response.headers
    date_at = _date(headers.get("Date", ""))
    return Reply(
        status=response.status,
        body=body,
        complete=complete,
        content_type=_content_type(headers.get("Content-Type", "")),
        retry_after_s=retry_after_s(headers.get("Retry-After"), date_at),
        request_id=_request_id(headers.get("x-request-id")),
        date_at=date_at,
        limit_rpm=_number(headers.get("x-ratelimit-limit-requests")) if response.status == 429 else None,
    )


def _number(value: str | None) -> float | None:
    """Read a count in a header; nonsense is None."""
    return float(value) if value and len(value) <= 15 and value.isdecimal() and value.isascii() and int(value) else None


def retry_after_s(value: str | None, date_at: float | None) -> float | None:
    """Read `Retry-After`: seconds, or a date measured by the server's own clock. Nonsense is None."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = _date(value)
        if until is None:
            return None
        seconds = max(0.0, until - (date_at if date_at is not None else time.time()))
    return seconds if math.isfinite(seconds) and 0.0 <= seconds <= _LONGEST_RETRY_AFTER_S else None


@lru_cache(maxsize=64)  # a server's clock shows the same second in many replies
def _date(value: str) -> float | None:
    if not value or len(value) > 64:
        return None
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
    return at if _EARLIEST_S <= at < _LATEST_S else None


def _request_id(value: str | None) -> str | None:
    if not value:
        return None
    if len(value) <= 256 and _ID.fullmatch(value):
        return value
    return "".join(character for character in value[:1024] if "!" <= character <= "~")[:256] or None


class Incoming:
    """A body as far as it is in memory."""

    def __init__(self, content: aiohttp.StreamReader, wait: Wait) -> None:
        self.content = content
        self.wait = wait
        self.blocks: list[bytes] = []
        self.size = 0
        self.ended = False
        self.broken = False

    async def fill(self, limit: int) -> None:
        """Read on until the body ends, breaks or is larger than `limit`."""
        content = self.content
        try:
            if content.is_eof() and self.size <= limit and not self.ended:  # nearly always all came at once
                self.blocks.append(block := content.read_nowait())
                self.size += len(block)
                self.ended = True
                self.wait.heard()
            while self.size <= limit and not self.ended and not self.broken:
                block = await content.readany()
                self.wait.heard()
                self.blocks.append(block)
                self.size += len(block)
                self.ended = content.at_eof()
                if len(self.blocks) >= _MOST_BLOCKS:  # a server that sends byte by byte
                    self.peek()
        except FAILURES:
            self.broken = True
            # What arrived in the same moment as the end of the connection is still in the reader.
            left = getattr(content, "_buffer", ())
            self.blocks += left
            self.size += sum(map(len, left))
        if self.wait.over is not None and self.ended:
            self.broken = True  # where no length is told, the end that was made for it looks like its own

    def peek(self) -> bytes:
        """Return the bytes."""
        if len(self.blocks) != 1:
            self.blocks = [b"".join(self.blocks)]
        return self.blocks[0]

    def take(self) -> bytes:
        """Return the bytes and forget them."""
        body = self.peek()
        self.blocks, self.size = [], 0
        return body


class Reading:
    """Reads the replies of one transport.

    Args:
        memory_bytes: The largest body kept in memory.
        spills: Where larger ones go.
    """

    def __init__(self, *, memory_bytes: int, spills: Spills) -> None:
        self._memory_bytes = memory_bytes
        self._spills = spills

    async def read(self, response: Response, wait: Wait, *, keep: str = "") -> Reply:
        """Return the reply; its connection is given back, or closed if there is more to come.

        Args:
            response: As far as its headers came.
            wait: Told of each piece.
            keep: What to call the file of a large body; only its beginning is kept without.

        Raises:
            StorageFailed: The disk refused.
        """
        try:
            if not 200 <= response.status < 300:
                return await self._beginning(response, Incoming(response.content, wait))
            return await self._success(response, Incoming(response.content, wait), keep)
        finally:
            response.close()

    async def _beginning(self, response: Response, incoming: Incoming) -> Reply:
        await incoming.fill(BEGINNING_BYTES)
        ended, more = incoming.ended and not incoming.broken, incoming.size > BEGINNING_BYTES
        body = incoming.take()[:BEGINNING_BYTES]
        if _packing(response):
            body = _beginning_of(body)
        return replace(head(response, body, complete=ended and not more), oversized=more)

    async def _success(self, response: Response, incoming: Incoming, keep: str) -> Reply:
        await incoming.fill(0 if (response.content_length or 0) > self._memory_bytes else self._memory_bytes)
        if (incoming.ended or incoming.broken) and incoming.size <= self._memory_bytes:
            reply = self._in_memory(response, incoming)
            if reply is not None:
                return reply
        elif not keep:
            return replace(head(response, incoming.take()[:BEGINNING_BYTES]), oversized=True)
        if not keep:
            return replace(head(response), oversized=True)
        return await self._in_file(response, incoming, keep)

    def _in_memory(self, response: Response, incoming: Incoming) -> Reply | None:
        """Return the reply, None if what it unpacks to is too large for memory."""
        body, ended = incoming.peek(), not incoming.broken
        if _packing(response):
            try:
                found = unpacked(body, self._memory_bytes)
            except zlib.error:
                return head(response, body, complete=ended)  # not packed at all, or damaged: as it came
            if found is None:
                return None
            body, whole = found
            return head(response, body, complete=ended and whole)
        return head(response, body, complete=ended and (_framed(response) or _reads_whole(body)))

    async def _in_file(self, response: Response, incoming: Incoming, keep: str) -> Reply:
        packed = _packing(response)
        body = self._spills.begin(keep, packed=packed, framed=_framed(response))
        try:
            beginning, cut = await self._fill(body, incoming)
            body.close()
            reply = head(response, beginning, complete=not incoming.broken and not cut)
            if packed and not cut:
                found = await _on_thread(self._spills.unpacked, body)
                if found is None:
                    return replace(reply, complete=False, oversized=True, large=body)
                body, whole = found
                return replace(reply, complete=reply.complete and whole, large=body)
        except BaseException:
            body.close()
            raise
        return replace(reply, oversized=cut, large=body)

    async def _fill(self, body: SpilledBody, incoming: Incoming) -> tuple[bytes, bool]:
        """Write all that comes; return its beginning, and whether it was cut because it is too large."""
        beginning = b""
        while True:
            block = incoming.take()
            beginning = beginning or block[:BEGINNING_BYTES]
            incoming.wait.hold()
            more = await _on_thread(body.write, block)
            incoming.wait.heard()
            if incoming.ended or incoming.broken:
                return beginning, False
            if not more:
                return beginning, True
            await incoming.fill(min(_PIECE_BYTES, self._memory_bytes))


def _packing(response: Response) -> bool:
    """Tell whether a body is packed, though nobody asked for it, in a way that can be undone."""
    return response.headers.get("Content-Encoding", "").strip().lower() in ZLIB


def _beginning_of(packed: bytes) -> bytes:
    try:
        found = unpacked(packed, BEGINNING_BYTES)
    except zlib.error:
        return packed
    return packed if found is None else found[0]


def _framed(response: Response) -> bool:
    """Tell whether a reply says where its body ends.

    Where neither length nor chunks say so, a closed connection is the only end there is, and a cut one looks the same
    (RFC 9112, 8): then an answer is whole when it is JSON, and a stream of events tells by itself.
    """
    headers = response.headers
    told = "Content-Length" in headers or "Transfer-Encoding" in headers
    return told or "json" not in headers.get("Content-Type", "").lower()


def _reads_whole(body: bytes) -> bool:
    return not body or is_whole(body.strip())


async def _on_thread(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - what it returns
    """Call a function that waits for the disk; when cancelled, wait for it first: its file may be closed afterwards."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError as error:
        cancelled = error
    await asyncio.wait([working])
    raise cancelled
