"""The simulated API on two loopback ports: one for the API, one for its media host.

Law: decides nothing. A request is read, given to the world with the time, and the world's reply is carried out: late,
in pieces, cut or not at all. Only loopback addresses are listened on. A client that leaves ends its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from bulkgrok.core.errors import StorageFailed
from bulkgrok.simulator import media
from bulkgrok.simulator.journal import Journal
from bulkgrok.simulator.settings import SimulatorSettings
from bulkgrok.simulator.wire import File, Reply, Wire
from bulkgrok.simulator.world import CONTROL, World

MAX_BODY_BYTES: Final = 256 << 20
_DRIBBLES: Final = 8
_SERVER: Final = "bulkgrok-simulator"
_BACKLOG: Final = 1024


class _Closed(Exception):
    """The connection was closed on purpose."""


class SimulatorServer:
    """Serves one world over HTTP.

    Args:
        settings: How the API behaves; the defaults without.
        journal: Where the world is kept, so that another server goes on with it; without one, nothing is written.
        clock: UNIX seconds.
    """

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        journal: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        settings = settings or SimulatorSettings()
        self._journal = Journal(journal) if journal is not None else None
        self.world = World(settings, record=self._journal.append if self._journal is not None else None)
        self._clock = clock
        self._runners: list[web.ServerRunner] = []
        self._port = self._media_port = 0
        self._host = "127.0.0.1"

    @property
    def base_url(self) -> str:
        """The API's address, version included."""
        return f"http://{_literal(self._host)}:{self._port}/v1"

    @property
    def media_url(self) -> str:
        """The media host's address."""
        return f"http://{_literal(self._host)}:{self._media_port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0, media_port: int = 0) -> None:
        """Read the journal and listen; port 0 takes any free one.

        Raises:
            ValueError: The host is not a loopback address.
            OSError: A port cannot be had.
            StorageFailed: The journal cannot be used.
        """
        if not ipaddress.ip_address(host).is_loopback:
            msg = f"the simulator listens on loopback addresses only, not on {host}"
            raise ValueError(msg)
        self._host = host
        before = self._resume()
        try:
            self._port = await self._listen(self._api, host, port or before[0])
            self._media_port = await self._listen(self._media, host, media_port or before[1])
        except BaseException:
            await self.stop()
            raise
        self.world.media.base_url = self.media_url
        if self._journal is not None and before != (self._port, self._media_port):
            self._journal.append({"t": "ports", "api": self._port, "media": self._media_port})

    def _resume(self) -> tuple[int, int]:
        """Take up the journal; return the ports of the last life, so that addresses given out then stay good."""
        if self._journal is None:
            return 0, 0
        found = self._journal.open()
        ports = [record for record in found if record.get("t") == "ports"]
        self.world.restore(record for record in found if record.get("t") != "ports")
        self.world.begin()
        last = ports[-1] if ports else {}
        return _free(last.get("api"), self._host), _free(last.get("media"), self._host)

    async def stop(self) -> None:
        """Stop listening and close every connection at once."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        if self._journal is not None:
            self._journal.close()

    async def _listen(self, handler: Callable[[web.BaseRequest], object], host: str, port: int) -> int:
        server = web.Server(handler, handler_cancellation=True, access_log=None)  # type: ignore[arg-type]
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.0)
        await runner.setup()
        self._runners.append(runner)
        listener = _socket(host, port)
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        found: int = listener.getsockname()[1]
        return found

    async def _api(self, request: web.BaseRequest) -> web.StreamResponse:
        counted = not request.raw_path.startswith(CONTROL)
        flight = _Flight(self.world, counted=counted)
        try:
            body = await _body_of(request)
            reply = self.world.handle(request.method, request.raw_path, request.headers, body, self._clock())
            try:
                response = await _Carrier(request, reply, flight).carry()
            except BaseException:
                self.world.lost(reply)
                raise
            if reply.wire is Wire.WHOLE:
                self.world.sent(reply)
        except (_Closed, StorageFailed, ConnectionError):
            _close(request)
            return web.Response(status=500)
        else:
            return response
        finally:
            flight.land()

    async def _media(self, request: web.BaseRequest) -> web.StreamResponse:
        await _body_of(request)
        file = self.world.fetch(request.method, request.raw_path, request.headers, self._clock())
        try:
            response = await _send_file(request, file)
            self.world.sent(file)
        except (_Closed, ConnectionError):
            _close(request)
            return web.Response(status=500)
        return response


class _Flight:
    """One request in flight, counted from its head to just before the end of its reply."""

    def __init__(self, world: World, *, counted: bool) -> None:
        self._world = world
        self._flies = counted
        if counted:
            world.arrived()

    def land(self) -> None:
        if self._flies:
            self._flies = False
            self._world.left()


class _Carrier:
    """Carries out one reply."""

    def __init__(self, request: web.BaseRequest, reply: Reply, flight: _Flight) -> None:
        self._request = request
        self._reply = reply
        self._flight = flight

    async def carry(self) -> web.StreamResponse:
        reply = self._reply
        if reply.delay_s > 0:
            await asyncio.sleep(reply.delay_s)
        if reply.wire is Wire.DROP:
            self._flight.land()
            raise _Closed
        if reply.frames:
            return await self._stream()
        if reply.wire is Wire.WHOLE and reply.dribble_s <= 0:
            self._flight.land()
            response = web.Response(status=reply.status, body=reply.body, headers=_headers(reply.headers))
            return await _finished(self._request, response)
        return await self._pieces()

    async def _pieces(self) -> web.StreamResponse:
        """Send a body slowly, or only its beginning under a head that promises all of it."""
        reply = self._reply
        body = reply.body if reply.wire is Wire.WHOLE else reply.body[: reply.cut_after]
        response = web.StreamResponse(status=reply.status, headers=_headers(reply.headers))
        response.content_length = len(reply.body)
        await response.prepare(self._request)
        size = max(1, -(-len(body) // _DRIBBLES)) if reply.dribble_s > 0 else max(1, len(body))
        for start in range(0, len(body), size):
            if reply.dribble_s > 0:
                await asyncio.sleep(reply.dribble_s / _DRIBBLES)
            if start + size >= len(body):
                self._flight.land()
            await response.write(body[start : start + size])
        if reply.wire is Wire.CUT:
            raise _Closed
        await response.write_eof()
        return response

    async def _stream(self) -> web.StreamResponse:
        """Send frames one by one; a cut stream ends without the end that chunked encoding asks for."""
        reply = self._reply
        whole = reply.wire is Wire.WHOLE
        response = web.StreamResponse(status=reply.status, headers=_headers(reply.headers))
        response.enable_chunked_encoding()
        await response.prepare(self._request)
        pause_s = reply.interval_s + (reply.dribble_s / len(reply.frames))
        pieces = reply.frames if whole else (b"".join(reply.frames)[: reply.cut_after],)
        if pause_s <= 0:
            pieces = (b"".join(pieces),)
        for number, piece in enumerate(pieces, 1):
            if number == len(pieces):
                self._flight.land()
            if piece:
                await response.write(piece)
            if pause_s > 0 and number < len(pieces):
                await asyncio.sleep(pause_s)
        if not whole:
            raise _Closed
        await response.write_eof()
        return response


async def _finished(request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
    """Send a response now, so that an error on the way is seen here."""
    await response.prepare(request)
    await response.write_eof()
    return response


async def _send_file(request: web.BaseRequest, file: File) -> web.StreamResponse:
    if file.wire is Wire.DROP:
        raise _Closed
    if not file.key:
        headers = _headers(file.headers)
        return await _finished(request, web.Response(status=file.status, body=file.body, headers=headers))
    response = web.StreamResponse(status=file.status, headers=_headers(file.headers))
    response.content_length = file.stop - file.start
    await response.prepare(request)
    stop = file.start + file.cut_after if file.wire is Wire.CUT else file.stop
    if request.method != "HEAD":
        for piece in media.content(file.key, file.size, file.start, stop):
            await response.write(piece)
    if file.wire is Wire.CUT:
        raise _Closed
    await response.write_eof()
    return response


async def _body_of(request: web.BaseRequest) -> bytes | None:
    """Read a whole body; None is one that is too large."""
    if not request.body_exists:
        return b""
    if (request.headers.get("Expect") or "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces: list[bytes] = []
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _headers(found: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [*found, ("Server", _SERVER)]


def _close(request: web.BaseRequest) -> None:
    """Close a connection as a broken one is: at once; what was written still goes out."""
    if request.transport is not None:
        with contextlib.suppress(OSError):
            request.transport.close()


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _free(port: object, host: str) -> int:
    """Return a port of an earlier life if it can be had again, else 0 for any other."""
    if not isinstance(port, int) or not 1024 <= port <= 65_535:
        return 0
    try:
        _socket(host, port).close()
    except OSError:
        return 0
    return port


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host else host
