"""What the simulated API does to one connection: a reply as a value, and what becomes of it on the way.

Law: frozen values. Whoever carries them out (a server, a simulation in virtual time) tells the world with `sent` or
`lost` how it ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bulkgrok.simulator.ledger import Entry


class Wire(Enum):
    """What happens to a connection."""

    WHOLE = "whole"
    """The reply is sent as it is."""
    DROP = "drop"
    """The connection is closed without a byte of reply."""
    CUT = "cut"
    """The head promises the whole body, `cut_after` bytes of it are sent, then the connection is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply of the API."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    """All but Content-Length."""
    body: bytes = b""
    frames: tuple[bytes, ...] = ()
    """Of a stream, instead of `body`: sent one by one, `interval_s` apart, without a Content-Length."""
    interval_s: float = 0.0
    delay_s: float = 0.0
    """Time before the first byte (or before the connection is closed)."""
    dribble_s: float = 0.0
    """Time over which the body is sent in pieces."""
    wire: Wire = Wire.WHOLE
    cut_after: int = 0
    """Bytes of body (of a stream: frames) that a cut reply still brings."""
    entry: Entry | None = None
    """The request in the ledger that this reply is about."""
    answers: bool = False
    """Whether the reply is a result; one that is sent whole counts as delivered."""
    accepts: bool = False
    """Whether the reply answers the POST that created `entry`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A reply of the media host; the bytes are `media.content(key, size, start, stop)`."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    """Of a refusal."""
    key: bytes = b""
    size: int = 0
    start: int = 0
    stop: int = 0
    """0-based byte positions; `stop` is exclusive, and equal to `start` when nothing is sent."""
    wire: Wire = Wire.WHOLE
    cut_after: int = 0
    entry: Entry | None = None
