"""A request's body on its way out: what is certain about its last byte.

Law: `written` stays False only while the last byte was certainly not handed to the socket, and never will be: a
connection whose buffer still holds a part of the body is aborted, not closed, because closing would flush it later.
What is handed to the socket may have arrived, so from there on nothing is certain.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp.client_proto import ResponseHandler

from bulkgrok.transport.failures import StaleConnection
from bulkgrok.transport.patience import Wait

#: What is written at once, behind the headers; more waits until the connection has taken the rest.
_AT_ONCE_BYTES: Final = 0x8000
_PIECE_BYTES: Final = 0x10000


class Body:
    """A JSON body that knows whether it was written in whole.

    Args:
        value: The bytes.
        wait: Told of each piece that has left.
    """

    def __init__(self, value: bytes, *, wait: Wait) -> None:
        self._value = value
        self._wait = wait
        self.small = len(value) <= _AT_ONCE_BYTES
        """Whether it is written at once."""
        self.written = False

    def head(self) -> bytes:
        """Return its headers, and the end of all headers."""
        return b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(self._value)

    def framed(self) -> bytes:
        """Return its headers and all of it."""
        return self.head() + self._value

    def left(self) -> None:
        """Note that its last byte was handed to the socket."""
        self.written = True
        self._wait.heard()

    async def leave(self, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
        """Write all of it, piece by piece. A connection that ends meanwhile tells whoever reads from it."""
        try:
            with suppress(OSError):
                await self._pieces(protocol, transport)
        finally:
            if not self.written:
                transport.abort()

    async def _pieces(self, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
        body = self._value
        last = (len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
        for start in range(0, last, _PIECE_BYTES):
            self._wait.heard()
            _write(transport, body[start : start + _PIECE_BYTES])
            await protocol._drain_helper()  # noqa: SLF001 - no public way to wait for a connection to take more
            await _let_the_loop_tell()
        # With a limit of zero the protocol is paused exactly while the buffer holds anything.
        transport.set_write_buffer_limits(high=0)
        _write(transport, body[last:])
        try:
            await protocol._drain_helper()  # noqa: SLF001 - as above
            self._wait.heard()
        finally:
            self.written = not protocol.writing_paused
            if self.written and not transport.is_closing():
                transport.set_write_buffer_limits()


def _write(transport: asyncio.Transport, piece: bytes) -> None:
    if transport.is_closing():
        raise StaleConnection
    transport.write(piece)


async def _let_the_loop_tell() -> None:
    """Give the loop the turns it takes to tell of a lost connection; until then TLS swallows what is written."""
    for _ in range(3):
        await asyncio.sleep(0)
