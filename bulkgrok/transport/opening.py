"""What every session has in common: it does nothing by itself."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import aiohttp

from bulkgrok.transport.receiving import BUFFER_BYTES, HEADERS, LINE_BYTES, receive_with
from bulkgrok.transport.sending import Request


def user_agent() -> str:
    """Return what servers are told of who asks."""
    return f"bulkgrok/{version('bulkgrok')}"


def session(connector: aiohttp.TCPConnector, headers: dict[str, str]) -> aiohttp.ClientSession:
    """Return a session with everything off that would send, follow, store or unpack something by itself."""
    receive_with(connector, asyncio.get_running_loop())
    opened = aiohttp.ClientSession(
        connector=connector,
        request_class=Request,
        headers={"User-Agent": user_agent(), "Accept-Encoding": "identity", **headers},
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=LINE_BYTES,
        max_field_size=LINE_BYTES,
        max_headers=HEADERS,
        read_bufsize=BUFFER_BYTES,
    )
    # Would send a GET again on a kept connection that was dropped: it may have consumed a result. No public switch.
    opened._retry_connection = False  # noqa: SLF001
    return opened
