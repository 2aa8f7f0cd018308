"""What every session has in common: it does nothing by itself."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Final

import aiohttp

from bulkgrok.transport.receiving import receive_with
from bulkgrok.transport.sending import Request

_LINE_BYTES: Final = 16_384
_HEADERS: Final = 256
#: Twice as much of a body may wait in each connection.
_BUFFER_BYTES: Final = 0x10000


def session(
    connector: aiohttp.TCPConnector, headers: dict[str, str], *, request: type[Request] = Request
) -> aiohttp.ClientSession:
    """Return a session with everything off that would send, follow, store or unpack something by itself."""
    receive_with(connector, asyncio.get_running_loop())
    opened = aiohttp.ClientSession(
        connector=connector,
        request_class=request,
        headers={"User-Agent": f"bulkgrok/{version('bulkgrok')}", "Accept-Encoding": "identity", **headers},
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=_LINE_BYTES,
        max_field_size=_LINE_BYTES,
        max_headers=_HEADERS,
        read_bufsize=_BUFFER_BYTES,
    )
    # Would send a GET again on a kept connection that was dropped: it may have consumed a result. No public switch.
    opened._retry_connection = False  # noqa: SLF001
    return opened
