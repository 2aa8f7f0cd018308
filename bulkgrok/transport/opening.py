"""What every session has in common: it does nothing by itself."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from bulkgrok.transport.failures import StaleConnection
from bulkgrok.transport.receiving import BUFFER_BYTES, HEADERS, LINE_BYTES, Receiver, receive_with


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


class Request(aiohttp.ClientRequest):
    """A request of the library's own that looks at a kept connection once more before it writes to it."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request.

        Raises:
            StaleConnection: The server has closed the connection, or sent something nobody asked for; nothing was
                written.
        """
        protocol = conn.protocol
        if protocol is None or protocol.should_close or _ended(protocol):
            raise StaleConnection
        return await super().send(conn)


def _ended(protocol: ResponseHandler) -> bool:
    return isinstance(protocol, Receiver) and protocol.closed_by_peer()
