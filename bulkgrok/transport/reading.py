"""A reply on its way in: what its headers say, and its body within bounds.

Law: a broken header never raises and a body never takes more memory than its cap; of a larger one the beginning is
kept, and where the answer may be handed out only once, all of it goes to a file. At most one body at a time may be
larger than `_SMALL_BYTES`: the others wait, and TCP holds their servers back.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Final
from uuid import uuid4

import aiohttp

from bulkgrok.core.jsonscan import is_valid
from bulkgrok.core.model import Reply
from bulkgrok.transport.failures import FAILURES, printable
from bulkgrok.transport.patience import Wait

BEGINNING_BYTES: Final = 1 << 20
"""How much of an oversized body is kept in memory, and of a refusal at all."""
_SMALL_BYTES: Final = 4 << 20
_SPILL_BYTES: Final = 1 << 30
_LONGEST_RETRY_AFTER_S: Final = 7 * 86_400.0
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_ID: Final = re.compile(r"[!-~]+")
_ZLIB: Final = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP: Final = b"\x1f\x8b"


_content_type: Final = lru_cache(maxsize=64)(printable)


def head(response: aiohttp.ClientResponse, body: bytes = b"", *, complete: bool = False) -> Reply:
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
    )


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
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None


def _request_id(value: str | None) -> str | None:
    if not value:
        return None
    if len(value) <= 256 and _ID.fullmatch(value):
        return value
    return "".join(character for character in value[:1024] if "!" <= character <= "~")[:256] or None


@dataclass(slots=True)
class Incoming:
    """A body as far as it is in memory."""

    content: aiohttp.StreamReader
    wait: Wait
    blocks: list[bytes] = field(default_factory=list)
    size: int = 0
    ended: bool = False
    broken: bool = False

    async def fill(self, limit: int) -> None:
        """Read on until the body ends, breaks or is larger than `limit`."""
        content = self.content
        try:
            while self.size <= limit and not self.ended and not self.broken:
                block = await content.readany()
                self.wait.heard()
                self.blocks.append(block)
                self.size += len(block)
                self.ended = content.at_eof()
        except FAILURES:
            self.broken = True
            # What arrived in the same moment as the end of the connection is still in the reader.
            self.blocks += getattr(content, "_buffer", ())
        if self.wait.over is not None and self.ended:
            self.broken = True  # where no length is told, the end that was made for it looks like its own

    def take(self) -> bytes:
        """Return the bytes and forget them."""
        body = self.blocks[0] if len(self.blocks) == 1 else b"".join(self.blocks)
        self.blocks, self.size = [], 0
        return body


class Reading:
    """Reads the replies of one transport.

    Args:
        max_body_bytes: The largest body kept in memory.
        spill_dir: Where a larger one goes if its status is 2xx; None throws the rest away.
    """

    def __init__(self, *, max_body_bytes: int, spill_dir: Path | None) -> None:
        self._max_body_bytes = max_body_bytes
        self._spill_dir = spill_dir
        self._large = asyncio.Lock()

    async def read(self, response: aiohttp.ClientResponse, wait: Wait) -> Reply:
        """Return the whole reply; its connection is given back, or closed if there is more to come."""
        try:
            return await self._read(response, wait)
        finally:
            if not response.closed:
                response.close()

    async def _read(self, response: aiohttp.ClientResponse, wait: Wait) -> Reply:
        cap = self._cap(response)
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        incoming = Incoming(response.content, wait)
        await incoming.fill(min(_SMALL_BYTES, cap))
        if incoming.ended and not incoming.broken and incoming.size <= cap and not encoding:
            body = incoming.take()
            return head(response, body, complete=_whole(response, body))
        reply = head(response)
        wait.hold()
        async with self._large:
            wait.heard()
            await incoming.fill(cap)
            if incoming.size > cap:
                return await self._oversized(reply, incoming)
            body = incoming.take()
            if encoding in _ZLIB:
                return await asyncio.to_thread(self._unpacked, reply, body, not incoming.broken)
            return replace(reply, body=body, complete=not incoming.broken)

    def _cap(self, response: aiohttp.ClientResponse) -> int:
        """Return how many bytes to hold in memory: only a beginning where that is all that will be kept anyway."""
        declared = response.content_length or 0
        if not 200 <= response.status < 300 or declared > self._max_body_bytes:
            return min(BEGINNING_BYTES, self._max_body_bytes)
        return self._max_body_bytes

    async def _oversized(self, reply: Reply, incoming: Incoming) -> Reply:
        blocks = incoming.blocks
        beginning = b"".join(blocks)[: min(BEGINNING_BYTES, self._max_body_bytes)]
        path = self._spill_path(reply)
        if path is None:
            return replace(reply, body=beginning, oversized=True)
        written = 0
        try:
            with os.fdopen(os.open(path, _CREATE, 0o600), "wb", buffering=0) as file:
                while blocks and written < _SPILL_BYTES:
                    written += file.write(blocks.pop(0))
                    if not blocks and not incoming.ended and not incoming.broken:
                        await incoming.fill(incoming.size)
            await asyncio.to_thread(_sync, path)
        except OSError:  # the file is a courtesy: without room for it the beginning is still kept
            path.unlink(missing_ok=True)
            return replace(reply, body=beginning, oversized=True)
        return replace(reply, body=beginning, oversized=True, spill=str(path))

    def _unpacked(self, reply: Reply, packed: bytes, complete: bool) -> Reply:  # noqa: FBT001 - called by position
        """Undo gzip or deflate that nobody asked for. What cannot be undone stays as it came."""
        try:
            body, ended = _inflate(packed, self._max_body_bytes + 1)
        except zlib.error:
            return replace(reply, body=packed, complete=complete)
        if len(body) <= self._max_body_bytes:
            return replace(reply, body=body, complete=complete and ended)
        reply = replace(reply, body=body[:BEGINNING_BYTES], oversized=True)
        if (path := self._spill_path(reply, ".gz")) is not None:
            with suppress(OSError):
                with os.fdopen(os.open(path, _CREATE, 0o600), "wb", buffering=0) as file:
                    file.write(packed)
                _sync(path)
                return replace(reply, spill=str(path))
        return reply

    def _spill_path(self, reply: Reply, suffix: str = "") -> Path | None:
        if self._spill_dir is None or not 200 <= reply.status < 300:
            return None
        return self._spill_dir / f"oversized-{uuid4().hex}.reply{suffix}"


def _whole(response: aiohttp.ClientResponse, body: bytes) -> bool:
    """Tell whether a body that ended is all of it.

    Where neither length nor chunks say so, a closed connection is the only end there is, and a cut one looks the same
    (RFC 9112, 8): then an answer is whole when it is JSON.
    """
    headers = response.headers
    if not body or "Content-Length" in headers or "Transfer-Encoding" in headers or not 200 <= response.status < 300:
        return True
    return "json" not in headers.get("Content-Type", "").lower() or is_valid(body.strip())


def _inflate(packed: bytes, most: int) -> tuple[bytes, bool]:
    """Return at most `most` bytes of what gzip, zlib or bare deflate data holds, and whether it came to its end."""
    if not packed:
        return b"", True
    try:
        return _members(packed, most, zlib.MAX_WBITS | 32)
    except zlib.error:
        return _members(packed, most, -zlib.MAX_WBITS)


def _members(packed: bytes, most: int, wbits: int) -> tuple[bytes, bool]:
    body, ended = bytearray(), False
    while packed and len(body) < most:
        inflate = zlib.decompressobj(wbits)
        body += inflate.decompress(packed, most - len(body))
        ended, packed = inflate.eof, inflate.unused_data
        if not ended or not packed.startswith(_GZIP):
            break
    return bytes(body), ended


def _sync(path: Path) -> None:
    """Flush a file and its name to the disk."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
