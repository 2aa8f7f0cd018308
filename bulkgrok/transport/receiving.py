"""A connection on its way in: what a server says before, between and after the replies that were asked for is bounded.

Law: the HTTP library parses whatever arrives and queues it, whether anybody waits for it or not: interim replies (1xx)
without end, or replies to nobody on a kept connection, would fill the memory. So bytes are handed to it in small
pieces, and a server that says more than it can have been asked for loses the connection.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

LINE_BYTES: Final = 16_384
HEADERS: Final = 256
#: Twice as much of a body may wait in each connection.
BUFFER_BYTES: Final = 0x10000
#: Small enough that the replies in it, each some kilobytes of objects, are no burden; a header line may be as long.
_PIECE_BYTES: Final = 0x4000
#: Replies that nobody has taken yet: the one that was asked for, and what came with it.
_MOST_QUEUED: Final = 8
_MOST_INTERIM: Final = 32
#: More than headers can take: lines and their number are bounded by the session.
_MOST_HEAD_BYTES: Final = 8 << 20
_CLOSED: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
_SPOKEN: Final = _CLOSED | select.POLLIN


class Receiver(ResponseHandler):
    """One connection's parser and queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._interim = 0
        self._head_bytes = 0
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None

    def expect(self) -> None:
        """Get ready for the reply to a request that is about to be written."""
        self.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
            max_line_size=LINE_BYTES,
            max_field_size=LINE_BYTES,
            max_headers=HEADERS,
        )

    def ready(self) -> bool:
        """Tell whether a request may be written: all is read and written, and the server is still there.

        On a kept connection nothing may have arrived either: it would be taken for the reply. On a new one TLS talks.
        """
        kept = self._parser is not None
        return not (self.should_close or self._paused or self._arrived(_SPOKEN if kept else _CLOSED))

    def closed_by_peer(self) -> bool:
        """Tell whether the server's farewell has arrived, though the loop has not come to read it yet."""
        return self._arrived(_CLOSED)

    def _arrived(self, events: int) -> bool:
        """Tell whether the system knows of such events, whatever the loop has read."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return True
        if self._poll is None:
            socket = transport.get_extra_info("socket")
            if socket is None:
                return False
            poll = select.poll()
            poll.register(socket.fileno(), _SPOKEN)
            self._poll = poll.poll
        found = self._poll(0)
        return bool(found and found[0][1] & events)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - the library's
        """Read on, where reading was paused: the library asks for it with every block that is taken."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        """Take bytes that arrived."""
        if len(data) <= _PIECE_BYTES:
            self._take(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), _PIECE_BYTES):
            if start and (self._eof or self.transport is None):
                return
            self._take(bytes(view[start : start + _PIECE_BYTES]))

    def _take(self, piece: bytes) -> None:
        payload = self._payload
        if payload is not None and not payload.is_eof():
            super().data_received(piece)
            return
        self._head_bytes += len(piece)  # until a reply is queued
        super().data_received(piece)
        if self._head_bytes > _MOST_HEAD_BYTES:
            self._refuse("a head without end")

    def feed_data(self, data: Any, size: int = 0) -> None:  # noqa: ANN401 - the library's
        """Queue a reply that was parsed; interim ones (1xx) are only counted, since nobody waits for them."""
        code = data[0].code
        if 100 <= code < 200 and code != 101:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                self._refuse("interim replies without end")
            return
        self._interim = self._head_bytes = 0
        if len(self) < _MOST_QUEUED:
            super().feed_data(data, size)
        else:
            self._refuse("more replies than requests")

    def _refuse(self, message: str) -> None:
        if self.exception() is None:
            self.set_exception(HttpProcessingError(message=message))
        if self.transport is not None:
            self.transport.abort()


def receive_with(connector: aiohttp.BaseConnector, loop: asyncio.AbstractEventLoop) -> None:
    """Make a connector's connections Receivers. There is no public way to name the class."""
    connector._factory = partial(Receiver, loop)  # type: ignore[assignment] # noqa: SLF001
