"""The simulator's world in the same process, reached through the Transport port, under all kinds of weather.

Law: only the world decides what is accepted, billed and handed out; this link decides what reaches it and what comes
back, and remembers what it saw arrive. A request whose sender dies on the way may still arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from bulkgrok.core.model import Exchange, Fetched, NoReply, NotSent
from bulkgrok.core.model import Reply as Received
from bulkgrok.simulator import media
from bulkgrok.simulator.wire import File, Reply, Wire
from bulkgrok.simulator.world import World
from bulkgrok.transport.reading import retry_after_s

MEDIA: Final = "https://vidgen.example"
_KEY: Final = {"authorization": "Bearer xai-simulation", "content-type": "application/json"}
_IDLE_S: Final = 120.0
_RTT_S: Final = 0.05
_FINISHED: Final = re.compile(rb'"finish_reason":"')
"""A stream that came so far is whole, whatever becomes of its connection."""


@dataclass(frozen=True, slots=True)
class Spell:
    """A while in which the API is not itself. Times are seconds of the world, from its beginning."""

    kind: str
    """Unreachable, dropping, hanging, failing (503), storm (429)."""
    begins: float
    ends: float


@dataclass(eq=False, slots=True)
class Flight:
    """A request on its way: `reply` is set once it has reached the world."""

    method: str
    path: str
    body: bytes
    reply: Reply | None = None


class Api:
    """One API for all lives of a run.

    Args:
        world: What decides.
        now: Seconds of the world's time, from the beginning of the history.
        began_at: That beginning in UNIX seconds.
        weather: When the API is not itself.
        chance: Decides what arrives of those who died.
    """

    def __init__(
        self,
        world: World,
        *,
        now: Callable[[], float],
        began_at: float,
        weather: tuple[Spell, ...],
        chance: random.Random,
    ) -> None:
        self.world = world
        world.media.base_url = MEDIA
        self.now = now
        self.weather = weather
        self.chance = chance
        self.arrived: defaultdict[str, list[bytes]] = defaultdict(list)
        """Id of a job, or SHA-256 of a direct request's body -> digests of the answers that came back whole."""
        self.bodies: dict[str, bytes] = {}
        """SHA-256 of a request's body (hex) -> the body."""
        self.asked_at: list[float] = []
        """When clients sent requests (seconds of the world), whatever became of them."""
        self.in_flight_most = 0
        self._began_at = began_at

    @property
    def asked(self) -> int:
        """How many requests clients sent."""
        return len(self.asked_at)

    @property
    def unix(self) -> float:
        """The world's time in UNIX seconds."""
        return self._began_at + self.now()

    def spell(self) -> Spell | None:
        """Return what the weather is now, None when it is fine."""
        now = self.now()
        return next((spell for spell in self.weather if spell.begins <= now < spell.ends), None)

    def link(self) -> Link:
        """Return a client's way to the API."""
        return Link(self)

    def takes(self, flight: Flight) -> Reply:
        """Let a request reach the world, once."""
        assert flight.reply is None
        headers = _KEY if flight.method == "POST" else {"authorization": _KEY["authorization"]}
        flight.reply = self.world.handle(flight.method, f"/v1{flight.path}", headers, flight.body, self.unix)
        return flight.reply

    def abandon(self, flight: Flight) -> None:
        """Let a request's sender be gone: it may still arrive, its reply does not."""
        if flight.reply is None and self.spell() is None and self.chance.random() < 0.5:
            self.takes(flight)
        if flight.reply is not None and flight.reply.wire is Wire.WHOLE:
            self.world.lost(flight.reply)


class Link:
    """A Transport. `cut` ends it: what is in flight is abandoned, and nothing more is sent."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._flights: set[Flight] = set()
        self.posts_in_flight = 0
        self.gets_in_flight = 0
        self.requests = 0
        self.whole: set[str] = set()
        """Paths of once-only results that this client got whole."""
        self.asked_after_whole = 0
        """GETs for a once-only result after this client got it whole."""
        self.gone = False
        self.first: Link | None = None
        """The way of another runner, which must be silent once this one speaks."""
        self.silent = False
        self.spoke_beside = 0
        """Requests sent while another runner had begun to send."""
        self.posting: Callable[[], None] = lambda: None
        """Called before a POST leaves."""
        self.asking: Callable[[str], None] = lambda _: None
        """Called with the path of a GET before it leaves."""

    def cut(self) -> None:
        """Let the client be dead."""
        self.gone = True
        for flight in sorted(self._flights, key=lambda flight: (flight.method, flight.path, flight.body)):
            self._api.abandon(flight)
        self._flights.clear()

    async def post(
        self, path: str, body: bytes, *, timeout_s: float | None, idle_s: float | None, keep: str = ""
    ) -> Exchange:
        """POST to the world."""
        self.posting()
        self._api.bodies[hashlib.sha256(body).hexdigest()] = body
        self.posts_in_flight += 1
        try:
            return await self._patiently(Flight("POST", path, body), timeout_s, idle_s)
        finally:
            if not self.gone:
                self.posts_in_flight -= 1

    async def get(self, path: str, *, keep: str = "") -> Exchange:
        """GET from the world."""
        self.asking(path)
        self.asked_after_whole += path in self.whole
        self.gets_in_flight += 1
        try:
            return await self._patiently(Flight("GET", path, b""), None, _IDLE_S)
        finally:
            if not self.gone:
                self.gets_in_flight -= 1

    async def _patiently(self, flight: Flight, timeout_s: float | None, idle_s: float | None) -> Exchange:
        if self.gone:
            await asyncio.get_running_loop().create_future()
        self.requests += 1
        self.spoke_beside += self.silent
        if self.first is not None:
            self.first.silent = True
        self._api.asked_at.append(self._api.now())
        self._flights.add(flight)
        self._api.in_flight_most = max(self._api.in_flight_most, len(self._flights))
        limits = [limit for limit in (timeout_s, idle_s) if limit is not None]
        try:
            async with asyncio.timeout(min(limits) if limits else None):
                return await self._exchange(flight)
        except TimeoutError:
            self._given_up(flight)
            return NoReply(reason="timed out")
        except asyncio.CancelledError:
            self._given_up(flight)
            raise
        finally:
            self._flights.discard(flight)

    def _given_up(self, flight: Flight) -> None:
        if not self.gone:
            self._api.abandon(flight)

    async def _exchange(self, flight: Flight) -> Exchange:
        api = self._api
        await asyncio.sleep(_RTT_S * api.chance.random())
        if self.gone:  # died in this very moment: `cut` has decided whether it arrives
            await asyncio.get_running_loop().create_future()
        spell = api.spell()
        if spell is not None and (exchange := await self._in_weather(spell)) is not None:
            return exchange
        reply = api.takes(flight)
        await asyncio.sleep(reply.delay_s + reply.dribble_s + _RTT_S * api.chance.random())
        if reply.wire is Wire.DROP:
            return NoReply(reason="the connection was closed")
        received = _received(reply)
        if received.complete or (reply.frames and _FINISHED.search(received.body)):
            self._note(flight, reply, received)
        return received

    async def _in_weather(self, spell: Spell) -> Exchange | None:
        match spell.kind:
            case "unreachable":
                return NotSent(reason="connection refused")
            case "dropping":
                return NoReply(reason="the connection was closed")
            case "hanging":
                await asyncio.get_running_loop().create_future()
            case "failing":
                return Received(status=503, body=b'{"code":"The service is currently unavailable","error":"down"}')
            case "storm":
                text = b'{"code":"resource-exhausted","error":"Too many requests for team x. (actual/limit): 9/2."}'
                return Received(status=429, body=text, retry_after_s=self._api.chance.choice((None, 1.0, 30.0)))
        return None

    def _note(self, flight: Flight, reply: Reply, received: Received) -> None:
        """Remember what came back whole."""
        if received.complete:
            self._api.world.sent(reply)
        if not reply.answers or reply.entry is None:
            return
        entry = reply.entry
        key = entry.marker.hex() if entry.kind == "chat" else entry.id
        self._api.arrived[key].append(hashlib.sha256(received.body).digest())
        if entry.kind == "deferred" and flight.method == "GET":
            self.whole.add(flight.path)

    async def fetch(self, url: str, *, offset: int, etag: str | None, write: Callable[[bytes, int], None]) -> Fetched:
        """Download from the media host."""
        api = self._api
        await asyncio.sleep(_RTT_S * api.chance.random())
        spell = api.spell()
        if spell is not None and spell.kind in {"unreachable", "dropping", "hanging"}:
            return Fetched(status=None, complete=False, reason="the connection was closed")
        headers = {"range": f"bytes={offset}-", "if-range": etag} if offset and etag else {}
        file = api.world.fetch("GET", url.removeprefix(MEDIA), headers, api.unix)
        if file.wire is Wire.DROP:
            return Fetched(status=None, complete=False, reason="the connection was closed")
        if not file.key:
            return Fetched(status=file.status, complete=False, reason=f"HTTP {file.status}")
        return await self._download(file, write)

    async def _download(self, file: File, write: Callable[[bytes, int], None]) -> Fetched:
        stop = file.start + file.cut_after if file.wire is Wire.CUT else file.stop
        place = file.start
        for piece in media.content(file.key, file.size, file.start, stop):
            await asyncio.sleep(0)
            if not self.gone:
                write(piece, place)
            place += len(piece)
        whole = file.wire is Wire.WHOLE
        if whole:
            self._api.world.sent(file)
        tag = dict(file.headers).get("ETag")
        return Fetched(status=file.status, complete=whole, etag=tag, reason="" if whole else "cut short")


def _received(reply: Reply) -> Received:
    headers = {name.lower(): value for name, value in reply.headers}
    body = b"".join(reply.frames) or reply.body
    complete = reply.wire is Wire.WHOLE
    date_at = None
    with suppress(KeyError, ValueError):
        date_at = parsedate_to_datetime(headers["date"]).timestamp()
    return Received(
        status=reply.status,
        body=body if complete else body[: reply.cut_after],
        complete=complete,
        content_type=headers.get("content-type", ""),
        retry_after_s=retry_after_s(headers.get("retry-after"), date_at),
        request_id=headers.get("x-request-id"),
        date_at=date_at,
    )
