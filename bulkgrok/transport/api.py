"""The API's side of the transport: sessions, POST, GET, streams.

Law: see the package. The connections that the key is sent on lead to the base URL and are given paths below it only.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from bulkgrok.core.errors import UsageError
from bulkgrok.core.model import Exchange, Fetched, NoReply, NotSent
from bulkgrok.core.secret import Secret
from bulkgrok.transport.addresses import is_loopback
from bulkgrok.transport.asking import Origin, Response
from bulkgrok.transport.downloads import Downloading
from bulkgrok.transport.failures import FAILURES, UNCONNECTED, reason
from bulkgrok.transport.patience import Patience, Wait
from bulkgrok.transport.quoting import quoted
from bulkgrok.transport.reading import Reading, share_bytes
from bulkgrok.transport.sending import Body
from bulkgrok.transport.spilling import Spills
from bulkgrok.transport.streaming import streamed

_GET_IDLE_S: Final = 120.0
_GET_TOTAL_S: float = 3_600.0  # not Final, which would be compiled in: tests make it short
_DNS_S: Final = 60
_PROBES: Final = 4


class AiohttpTransport:
    """HTTP to one origin with one key, and downloads without it. Use it as a context manager, inside a running loop.

    Args:
        base_url: Where the API is, its version included, as in `https://api.x.ai/v1`.
        api_key: Sent to that origin only.
        concurrency: How many requests to the API may be in flight.
        ca_file: Certificates (PEM) to trust besides the system's.
        proxy: An http proxy for everything; a user name and password in it are sent to it.
        spill_dir: Where bodies too large for memory go; None for the system's folder for temporary files.
        memory_bytes: The largest body in memory; None for what is good for so many at once.
        max_asset_bytes: The largest file downloaded.

    Raises:
        UsageError: The base URL is neither https nor loopback, or a file or address cannot be used.
    """

    def __init__(  # noqa: PLR0913 - one seam
        self,
        *,
        base_url: str,
        api_key: Secret | str,
        concurrency: int,
        ca_file: Path | None = None,
        proxy: str | None = None,
        spill_dir: Path | None = None,
        memory_bytes: int | None = None,
        max_asset_bytes: int = 2 << 30,
    ) -> None:
        self._base = _base(base_url)
        self._loopback = is_loopback(URL(base_url).raw_host or "")
        self._api_key = api_key if isinstance(api_key, Secret) else Secret(api_key)
        self._concurrency = concurrency
        self._tls = _tls(ca_file)
        self._proxy = _proxy(proxy)
        self._max_asset_bytes = max_asset_bytes
        self._reading = Reading(memory_bytes=memory_bytes or share_bytes(concurrency), spills=Spills(spill_dir))
        self._patience = Patience()
        self._origin: Origin | None = None
        self._downloading: Downloading | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        self._patience.close()
        if self._origin is not None:
            await self._origin.close()
        if self._downloading is not None:
            await self._downloading.close()
        self._origin = self._downloading = None

    async def post(
        self, path: str, body: bytes, *, timeout_s: float | None, idle_s: float | None, keep: str = ""
    ) -> Exchange:
        """POST JSON once and return what became of it; see the port."""
        with self._patience.wait(timeout_s=timeout_s, idle_s=idle_s) as wait:
            response = await self._send(path, Body(body, wait=wait), wait)
            if isinstance(response, NotSent | NoReply):
                return response
            return quoted(await self._reading.read(response, wait, keep=keep), self._api_key)

    async def get(self, path: str, *, keep: str = "") -> Exchange:
        """GET once and return what became of it; see the port."""
        with self._patience.wait(timeout_s=_GET_TOTAL_S, idle_s=_GET_IDLE_S) as wait:
            response = await self._send(path, None, wait)
            if isinstance(response, NotSent | NoReply):
                return response
            return quoted(await self._reading.read(response, wait, keep=keep), self._api_key)

    def stream(
        self, path: str, body: bytes, *, timeout_s: float | None, idle_s: float | None
    ) -> AsyncGenerator[bytes | Exchange, None]:
        """POST JSON once and yield the blocks of a 2xx body as they come; see `streamed`."""

        def send(wait: Wait) -> Awaitable[Response | NotSent | NoReply]:
            return self._send(path, Body(body, wait=wait), wait)

        def patience() -> Wait:
            return self._patience.wait(timeout_s=timeout_s, idle_s=idle_s)

        return streamed(send, patience, self._reading, self._api_key)

    async def fetch(self, url: str, *, offset: int, etag: str | None, write: Callable[[bytes, int], None]) -> Fetched:
        """Download a file without the key; see the port. `write` is called on a thread, one call at a time."""
        if self._downloading is None:
            self._downloading = Downloading(
                loopback=self._loopback, tls=self._tls, proxy=self._proxy, max_bytes=self._max_asset_bytes
            )
        return await self._downloading.fetch(url, offset=offset, etag=etag, write=write)

    async def _send(self, path: str, body: Body | None, wait: Wait) -> Response | NotSent | NoReply:
        """Send a request and return its reply as far as the end of its headers."""
        try:
            return await (self._origin or self._opened()).ask(path, body, wait)
        except FAILURES as error:
            sent = not isinstance(error, UNCONNECTED) if body is None else body.written
            words = self._api_key.hide(wait.over or reason(error))
            return NoReply(reason=words) if sent else NotSent(reason=words)

    def _opened(self) -> Origin:
        connector = aiohttp.TCPConnector(
            limit=self._concurrency + _PROBES,
            ttl_dns_cache=_DNS_S,
            ssl=self._tls,
            resolver=ThreadedResolver(),
        )
        self._origin = Origin(URL(self._base), key=self._api_key, connector=connector, proxy=self._proxy)
        return self._origin


def _base(base_url: str) -> str:
    """Check a base URL and return it without a trailing slash."""
    try:
        url = URL(base_url)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host) and not (url.raw_query_string or url.fragment)
    except ValueError:
        usable = False
    if not usable:
        msg = "the base URL is not an https address"
        raise UsageError(msg, hint="give one like https://api.x.ai/v1")
    if url.user is not None or url.password is not None:
        msg = "the base URL holds a user name or password"
        raise UsageError(msg, hint="the key comes from XAI_API_KEY")
    if url.scheme == "http" and not is_loopback(url.raw_host or ""):
        msg = f"{url.host} is asked for over http: a key travels over https only, or to this machine"
        raise UsageError(msg, hint="write https://")
    return str(url).rstrip("/")


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies, from TLS 1.2 on."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            words = getattr(error, "reason", None) or getattr(error, "strerror", None) or "it holds no certificates"
            msg = f"--ca-file {ca_file} cannot be used: {words}. Nothing was sent."
            raise UsageError(msg, hint="give a file of certificates in PEM form") from error
    return context


def _proxy(proxy: str | None) -> URL | None:
    """Check a proxy's address. It may hold a password, so it is in no message."""
    if not proxy:
        return None
    try:
        url = URL(proxy)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host)
    except ValueError:
        usable = False
    if not usable:
        msg = "the proxy's address cannot be used. Nothing was sent."
        raise UsageError(msg, hint="give one like http://proxy.example:3128")
    return url
