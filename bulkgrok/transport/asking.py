"""One origin's connections: a request is written to one, and the head of its reply returned.

Law: of the HTTP library this uses the connections (names, TLS, proxies, keeping alive) and the parser, not its client:
that copies headers into many variables, starts tasks, may follow, repeat and store, and takes twice as long as all of
this. A request is written once, to one connection, whole; headers are always the same bytes, and the key stands in no
variable but its Secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Final, cast

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from bulkgrok.core.secret import Secret
from bulkgrok.transport.failures import NoHttp, StaleConnection
from bulkgrok.transport.opening import user_agent
from bulkgrok.transport.patience import Wait
from bulkgrok.transport.receiving import Receiver, receive_with
from bulkgrok.transport.sending import Body

_CONNECT_S: Final = 30.0
#: A server that closes idle connections must not meet a POST on its way: it would be in doubt.
_KEEP_ALIVE_S: Final = 5.0


class Response:
    """A reply as far as its head; its body comes through `content`. Close it in any case."""

    def __init__(  # noqa: PLR0913, PLR0917 - made once a request: names would cost
        self,
        status: int,
        headers: CIMultiDictProxy[str],
        content: aiohttp.StreamReader,
        connection: Connection,
        protocol: Receiver,
        idle: _Idle,
        writing: asyncio.Task[None] | None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection: Connection | None = connection
        self._protocol = protocol
        self._idle = idle
        self._writing = writing

    @property
    def content_length(self) -> int | None:
        """How many bytes the body has, where that is told."""
        told = self.headers.get("Content-Length", "")
        return int(told) if told.isdecimal() else None

    def close(self) -> None:
        """Give the connection back, or end it if there is more to come, or to be written. Harmless when repeated."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._writing is None or self._writing.done():
            self._idle.keep(connection, self._protocol)
        else:
            self._writing.cancel()
            connection.close()


class _Idle:
    """Connections that wait for the next request, the one used last in front.

    To the connector they are in use: giving them back and asking for them again took it as long as the rest of a
    request.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: list[tuple[Connection, Receiver, float]] = []

    def keep(self, connection: Connection, protocol: Receiver) -> None:
        """Keep a connection whose reply was read, or end it if it cannot be used again."""
        if protocol.should_close:
            connection.close()
        else:
            self._kept.append((connection, protocol, self._clock()))

    def take(self) -> tuple[Connection, Receiver] | None:
        """Return one that was used lately and is ready for a request."""
        while self._kept:
            connection, protocol, since = self._kept.pop()
            if protocol.ready() and self._clock() - since <= _KEEP_ALIVE_S:
                return connection, protocol
            connection.close()
        return None

    def give_back(self) -> None:
        """Give all to the connector, which awaits their ends."""
        while self._kept:
            self._kept.pop()[0].release()


class Origin:
    """Sends requests to one origin.

    Args:
        base: Where its paths begin.
        key: Sent with each request.
        connector: Its connections.
        proxy: What they go through.
    """

    def __init__(self, base: URL, *, key: Secret, connector: aiohttp.TCPConnector, proxy: URL | None) -> None:
        loop = asyncio.get_running_loop()
        receive_with(connector, loop)
        self._connector = connector
        self._idle = _Idle(loop.time)
        self._key = key
        # Says to the connector where to; never sent.
        self._to = aiohttp.ClientRequest("GET", base, loop=loop, proxy=proxy)
        self._absolute = proxy is not None and not self._to.is_ssl()
        self._before_path = str(base) if self._absolute else base.raw_path_qs.rstrip("/")
        self._common = (
            f"Host: {self._to.headers['Host']}\r\nUser-Agent: {user_agent()}\r\nAccept-Encoding: identity\r\n"
            "Accept: application/json, text/event-stream\r\n"
        ).encode()

    async def close(self) -> None:
        """Close all connections."""
        self._idle.give_back()
        await self._connector.close()

    async def ask(self, path: str, body: Body | None, wait: Wait) -> Response:
        """Send a request, a GET where there is no body, and return its reply as far as the end of its head.

        Raises:
            OSError, aiohttp.ClientError: See `failures`. Those in UNCONNECTED: not a byte was written.
        """
        first = _first_line("GET" if body is None else "POST", self._before_path, path)
        connection, protocol = self._idle.take() or await self._connected(wait)
        writing = None
        try:
            writing = self._write(protocol, first, body, wait)
            message, content = await protocol.read()
        except BaseException as error:
            connection.close()
            if writing is not None:
                writing.cancel()
            if isinstance(error, HttpProcessingError):
                raise NoHttp(error.message) from None
            raise
        return Response(message.code, message.headers, content, connection, protocol, self._idle, writing)

    async def _connected(self, wait: Wait) -> tuple[Connection, Receiver]:
        """Return a new connection, if the server does not drop it at once."""
        connection = await self._connector.connect(self._to, [], _connecting(wait.timeout_s))
        protocol = cast("Receiver", connection.protocol)
        if not protocol.ready():
            connection.close()
            raise StaleConnection
        return connection, protocol

    def _write(self, protocol: Receiver, first: bytes, body: Body | None, wait: Wait) -> asyncio.Task[None] | None:
        """Write a request; return what writes the rest of it, where that is large."""
        transport = protocol.transport
        if transport is None or wait.over is not None:  # while it was connected
            raise StaleConnection
        wait.on(transport)
        protocol.expect()
        if body is None:
            transport.write(self._head(first) + b"\r\n")
            wait.heard()
            return None
        if body.small:
            transport.write(self._head(first) + body.framed())
            body.left()
            return None
        transport.write(self._head(first) + body.head())
        return asyncio.ensure_future(body.leave(protocol, transport))

    def _head(self, first: bytes) -> bytes:
        """Return the headers that all requests have. Not to be put in a variable: it holds the key."""
        proxied = self._to.headers.get("Proxy-Authorization") if self._absolute else None
        login = b"" if proxied is None else f"Proxy-Authorization: {proxied}\r\n".encode()
        return b"%b%bAuthorization: Bearer %b\r\n%b" % (first, self._common, self._key.reveal().encode(), login)


@lru_cache(maxsize=64)
def _first_line(method: str, before_path: str, path: str) -> bytes:
    """Return the first line of a request to a path below what stands before it.

    Raises:
        InvalidURL: The path holds what no address can.
    """
    found = before_path + path
    if not (found.isascii() and found.isprintable() and " " not in found):
        raise aiohttp.InvalidURL(path)
    return f"{method} {found} HTTP/1.1\r\n".encode()


@lru_cache(maxsize=8)
def _connecting(timeout_s: float | None) -> aiohttp.ClientTimeout:
    """Bound only what happens before there is a connection; all else is `Patience`'s."""
    connect_s = _CONNECT_S if timeout_s is None else min(timeout_s, _CONNECT_S)
    return aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=None)
