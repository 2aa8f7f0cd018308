"""Files from addresses the API names: without the key, from the public internet only, every hop checked.

Law: the address is hostile until shown otherwise; so are length, range and type. What `write` is given is one file's
bytes in order from the position it names. Disk errors are the caller's: whatever `write` raises passes through.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from bulkgrok.core.model import Fetched
from bulkgrok.transport.addresses import Forbidden, PublicResolver, objection
from bulkgrok.transport.failures import FAILURES, reason
from bulkgrok.transport.opening import session

_HOPS: Final = 5
_AT_ONCE: Final = 8
_BLOCK_BYTES: Final = 1 << 20
_IDLE_S: Final = 60.0
_HEAD_S: Final = 120.0
#: At least so much in so long, or the download is tried again from where it got to.
_PACE_S: Final = 60.0
_PACE_BYTES: Final = 60_000
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=30.0, sock_connect=30.0, sock_read=_IDLE_S)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
_STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{0,512}"')
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_PAGES: Final = frozenset({"text/html", "application/json", "application/xhtml+xml", "text/xml", "application/xml"})


@dataclass(slots=True, kw_only=True)
class _Wanted:
    """What is asked of the server that has the file."""

    url: URL
    offset: int
    etag: str | None
    write: Callable[[bytes, int], None]


class Downloading:
    """Downloads of one transport.

    Args:
        loopback: Whether this machine may be asked, over http as well.
        tls: The context for https.
        proxy: Asked for everything; it looks names up itself, so behind one only literal addresses are checked.
        max_bytes: The largest file.
    """

    def __init__(self, *, loopback: bool, tls: ssl.SSLContext, proxy: URL | None, max_bytes: int) -> None:
        self._loopback = loopback
        self._proxy = proxy
        self._max_bytes = max_bytes
        connector = aiohttp.TCPConnector(
            limit=_AT_ONCE, resolver=PublicResolver(loopback=loopback), ssl=tls, keepalive_timeout=5.0
        )
        self._session = session(connector, headers={"Accept": "*/*"})

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def fetch(self, url: str, *, offset: int, etag: str | None, write: Callable[[bytes, int], None]) -> Fetched:
        """Try once to get a file, or what is missing of it."""
        try:
            address = _address(url)
        except ValueError:
            return Fetched(status=None, complete=False, reason="not a usable address", forbidden=True)
        resumable = offset > 0 and etag is not None and _STRONG_ETAG.fullmatch(etag) is not None
        wanted = _Wanted(url=address, offset=offset if resumable else 0, etag=etag if resumable else None, write=write)
        fetched = await self._hops(wanted)
        if fetched is None:
            wanted.offset, wanted.etag = 0, None
            fetched = await self._hops(wanted)
        return fetched or Fetched(status=None, complete=False, reason="the server answers a range nobody asked for")

    async def _hops(self, wanted: _Wanted) -> Fetched | None:
        """Follow redirects to the file; None asks for the whole file instead of a range."""
        url = wanted.url
        for _ in range(_HOPS + 1):
            if (problem := objection(url, loopback=self._loopback)) is not None:
                return Fetched(status=None, complete=False, reason=problem, forbidden=True)
            try:
                response = await self._ask(url, wanted)
            except FAILURES as error:
                return _failed(error)
            try:
                if response.status not in _REDIRECTS:
                    return await self._receive(response, wanted)
                location = response.headers.get("Location", "")
            finally:
                response.close()
            try:
                url = url.join(_address(location)).with_fragment(None)
            except ValueError:
                return Fetched(status=response.status, complete=False, reason="a redirect to no usable address")
        return Fetched(status=response.status, complete=False, reason=f"more than {_HOPS} redirects")

    async def _ask(self, url: URL, wanted: _Wanted) -> aiohttp.ClientResponse:
        headers = {}
        if wanted.offset and wanted.etag:
            headers = {"Range": f"bytes={wanted.offset}-", "If-Range": wanted.etag}
        async with asyncio.timeout(_HEAD_S):
            return await self._session.get(
                url, headers=headers, allow_redirects=False, timeout=_TIMEOUT, proxy=self._proxy
            )

    async def _receive(self, response: aiohttp.ClientResponse, wanted: _Wanted) -> Fetched | None:
        """Judge status and headers, then write the body."""
        status, etag = response.status, _etag(response)
        start, total = 0, response.content_length
        if wanted.offset and status in {206, 416}:
            begin, size = _range(response)
            if status == 416 and size == wanted.offset and etag in {None, wanted.etag}:
                return Fetched(status=status, complete=True, etag=wanted.etag)
            if status == 416 or begin != wanted.offset or etag not in {None, wanted.etag}:
                return None
            start, etag = wanted.offset, wanted.etag
            total = size if size is not None or total is None else start + total
        elif status != 200:
            return Fetched(status=status, complete=False, reason=f"HTTP {status}")
        if (problem := _no_file(response)) is not None:
            return Fetched(status=status, complete=False, reason=problem)
        if max(total or 0, start) > self._max_bytes:
            return self._too_large(status)
        return await self._write(response, wanted, start=start, total=total, etag=etag)

    async def _write(
        self, response: aiohttp.ClientResponse, wanted: _Wanted, *, start: int, total: int | None, etag: str | None
    ) -> Fetched:
        position, problem, ended = start, "", False
        pace = _Pace(asyncio.get_running_loop().time)
        while not ended and not problem:
            block = bytearray()
            try:
                while not ended and len(block) < _BLOCK_BYTES and position + len(block) <= self._max_bytes:
                    block += await response.content.readany()
                    ended = response.content.at_eof()
                    pace.look(position + len(block))
            except FAILURES as error:
                problem = _words(error)
            if position + len(block) > self._max_bytes:
                return self._too_large(response.status)
            if block or (ended and position == 0):
                await _uninterrupted(wanted.write, bytes(block), position)
                position += len(block)
        if ended and total is not None and position != total:
            problem = f"{position} bytes came of {total}"
        return Fetched(status=response.status, complete=not problem, reason=problem, etag=etag)

    def _too_large(self, status: int) -> Fetched:
        message = f"larger than {self._max_bytes} bytes"
        return Fetched(status=status, complete=False, reason=message, too_large=True)


class _Pace:
    """Ends a download that goes on for ever because something comes now and then."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._from: int | None = None

    def look(self, position: int) -> None:
        """Look on, given how far the file has come.

        Raises:
            TimeoutError: Too little of it came in the last minute.
        """
        if self._from is None:
            self._from = position
        now = self._clock()
        if now - self._since < _PACE_S:
            return
        if position - self._from < _PACE_BYTES:
            raise TimeoutError
        self._since, self._from = now, position


def _address(text: str) -> URL:
    """Read an address as it stands: a signature covers every character of it. ValueError if it is none."""
    return URL(text, encoded=_PRINTABLE.fullmatch(text) is not None)


def _failed(error: BaseException) -> Fetched:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Forbidden):
            return Fetched(status=None, complete=False, reason="not a public address", forbidden=True)
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    return Fetched(status=None, complete=False, reason=_words(error), forbidden=isinstance(error, aiohttp.InvalidURL))


def _words(error: BaseException) -> str:
    """Say why a download failed, without the server's words: they may repeat the address, which is a secret."""
    if isinstance(error, aiohttp.ClientResponseError) and not isinstance(error, aiohttp.ClientHttpProxyError):
        return "the reply is not HTTP"
    return reason(error)


def _etag(response: aiohttp.ClientResponse) -> str | None:
    value = response.headers.get("ETag", "").strip()
    return value if _STRONG_ETAG.fullmatch(value) else None


def _range(response: aiohttp.ClientResponse) -> tuple[int | None, int | None]:
    """Return first byte and whole size as `Content-Range` tells them, None for what it does not."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None:
        return None, None
    begin, end, size = found.groups()
    if begin is not None and end is not None and int(end) < int(begin):
        return None, None
    return int(begin) if begin else None, int(size) if size.isdigit() else None


def _no_file(response: aiohttp.ClientResponse) -> str | None:
    """Say why a reply with a good status is no file."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        return "a packed reply that was not asked for"
    if response.headers.get("Content-Type", "").split(";")[0].strip().lower() in _PAGES:
        return "a page of text instead of a file"
    return None


async def _uninterrupted(write: Callable[[bytes, int], None], block: bytes, position: int) -> None:
    """Write on a thread; when cancelled, wait for the thread first: the file may be closed afterwards."""
    writing = asyncio.ensure_future(asyncio.to_thread(write, block, position))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        if not writing.cancelled():
            writing.exception()  # nobody is told of it any more, and asyncio would tell everybody
        raise
