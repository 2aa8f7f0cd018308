"""How long a request may take and how long its server may be silent: one look around a second for all of them.

Law: a timer for each request would cost more than the request's own work (timers of the HTTP library take a quarter of
all CPU time at full speed). So everything in flight is looked at together, and what has taken too long has its
connection aborted: the request then ends as if the server had dropped it, only with another reason.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final, Self

_LOOK_S: Final = 1.0
_SOONEST_S: Final = 0.02


class Wait:
    """One request in flight: a context that lasts as long as it is.

    Args:
        waits: Everything in flight.
        loop: Its clock is used.
        timeout_s: How long it may take.
        idle_s: How long nothing may happen.
    """

    def __init__(
        self, waits: set[Wait], loop: asyncio.AbstractEventLoop, *, timeout_s: float | None, idle_s: float | None
    ) -> None:
        self._waits = waits
        self._clock = loop.time
        self.timeout_s = timeout_s
        self._deadline = math.inf if timeout_s is None else loop.time() + timeout_s
        self._idle_s = idle_s
        self._heard_at = math.inf
        self._transport: asyncio.Transport | None = None
        self.over: str | None = None
        """Why it was ended, None while it was not."""

    def __enter__(self) -> Self:
        self._waits.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._waits.discard(self)
        self._transport = None

    def on(self, transport: asyncio.Transport) -> None:
        """Name the connection that the request, which is not over, is about to use."""
        self._transport = transport

    def heard(self) -> None:
        """Note that a byte went or came: silence begins now."""
        if self._idle_s is not None:
            self._heard_at = self._clock()

    def hold(self) -> None:
        """Note that it is us who keep the server waiting: no silence is counted until the next byte."""
        self._heard_at = math.inf

    def look(self, now: float) -> None:
        """End the request if its time is over."""
        if self.over is not None:
            return
        if now >= self._deadline:
            self.over = f"not done within {self.timeout_s:g} s"
        elif self._idle_s is not None and now - self._heard_at >= self._idle_s:
            self.over = f"not a byte for {self._idle_s:g} s"
        if self.over is not None and self._transport is not None:
            self._transport.abort()


class Patience:
    """All requests of one transport that are in flight."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()
        self._shortest_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, *, timeout_s: float | None, idle_s: float | None) -> Wait:
        """Watch a new request for as long as the context that it is lasts."""
        loop = asyncio.get_running_loop()
        shortest_s = min(timeout_s or math.inf, idle_s or math.inf)
        if self._timer is None or shortest_s < self._shortest_s:
            self._shortest_s = min(self._shortest_s, shortest_s)
            self._again(loop)
        return Wait(self._waits, loop, timeout_s=timeout_s, idle_s=idle_s)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(min(_LOOK_S, max(_SOONEST_S, self._shortest_s / 8)), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for wait in tuple(self._waits):
            wait.look(now)
        self._timer = None
        if self._waits:
            self._again(loop)
