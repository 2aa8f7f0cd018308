"""A request on its way out: what is certain about its last byte.

Law: `written` stays False only while the last byte was certainly not handed to the socket, and never will be: a
connection whose buffer still holds a part of the body is aborted, not closed, because closing would flush it later.
What is handed to the socket may have arrived, so from there on nothing is certain.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_writer import StreamWriter

from bulkgrok.core.secret import Secret
from bulkgrok.transport.failures import StaleConnection
from bulkgrok.transport.patience import CURRENT, Wait
from bulkgrok.transport.receiving import Receiver

#: With its headers still under aiohttp's limit for draining, so that writing it does not suspend.
_AT_ONCE_BYTES: Final = 0x8000
_PIECE_BYTES: Final = 0x10000


class Body(aiohttp.Payload):
    """A JSON body that knows whether it was written in whole.

    Args:
        value: The bytes.
        wait: Told of each piece that has left.
    """

    _value: bytes
    _autoclose = True

    def __init__(self, value: bytes, *, wait: Wait) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)
        self._wait = wait
        self.written = False

    @property
    def small(self) -> bool:
        """Whether writing it does not suspend."""
        return len(self._value) <= _AT_ONCE_BYTES

    def leave(self, transport: asyncio.Transport) -> None:
        """Write all of it at once, behind headers that were just written.

        Raises:
            StaleConnection: The connection takes nothing more, and the last byte was not written.
        """
        if transport.is_closing():
            raise StaleConnection
        transport.write(self._value)
        self.written = True
        self._wait.heard()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002 - aiohttp's
        """Write all of it; `content_length` is its own length."""
        if self.small:
            await writer.write(self._value)
            self.written = True
            self._wait.heard()
            return
        stream = cast("StreamWriter", writer)
        transport = stream.transport
        if transport is None:
            raise StaleConnection
        try:
            await self._pieces(stream, transport)
        finally:
            if not self.written:
                transport.abort()

    async def _pieces(self, writer: StreamWriter, transport: asyncio.Transport) -> None:
        body = self._value
        last = (len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, last, _PIECE_BYTES):
            self._wait.heard()
            await writer.write(body[start : start + _PIECE_BYTES])
            await _let_the_loop_tell()
        # With a limit of zero the protocol is paused exactly while the buffer holds anything.
        transport.set_write_buffer_limits(high=0)
        await writer.write(body[last:], drain=False)  # does not suspend
        try:
            await writer.drain()
            self._wait.heard()
        finally:
            self.written = not writer.protocol.writing_paused
            if self.written and not transport.is_closing():
                transport.set_write_buffer_limits()


async def _let_the_loop_tell() -> None:
    """Give the loop the turns it takes to tell of a lost connection; until then TLS swallows what is written."""
    for _ in range(3):
        await asyncio.sleep(0)


class Request(aiohttp.ClientRequest):
    """A request that looks at a kept connection once more before it writes to it."""

    key: ClassVar[Secret | None] = None
    """Put in when the headers are written and taken out again: the library keeps headers in many variables and in the
    errors it raises, where a traceback could show them."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request.

        Raises:
            StaleConnection: The server has closed the connection, or sent something nobody asked for; nothing was
                written.
        """
        protocol = conn.protocol
        if protocol is None or protocol.should_close or cast("Receiver", protocol).closed_by_peer():
            raise StaleConnection
        wait = CURRENT.get()
        if wait is not None:
            wait.on(protocol.transport)
            if self.method == "GET":  # a body tells by itself when it has left
                wait.heard()
        if self.key is None:
            return await super().send(conn)
        self.headers["Authorization"] = f"Bearer {self.key.reveal()}"
        try:
            return await self._sent(conn, protocol)
        finally:
            self.headers.popall("Authorization", None)

    async def _sent(self, conn: Connection, protocol: ResponseHandler) -> aiohttp.ClientResponse:
        """Write headers and body. A small body goes right behind the headers: the library starts a task for it."""
        body, transport = self._body, protocol.transport
        if not isinstance(body, Body) or not body.small or protocol.writing_paused or transport is None:
            return await super().send(conn)
        self._body = None
        response = await super().send(conn)  # does not suspend
        body.leave(transport)
        return response


def with_key(key: Secret) -> type[Request]:
    """Return requests that carry a key."""
    return type("KeyedRequest", (Request,), {"key": key})
