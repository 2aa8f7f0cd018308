"""How many requests may be out at once. Pure; times are monotonic seconds.

Law: never more than the user allowed. Where no rate is known the first requests feel their way: the window grows with
each fourth good reply, and doubles each second that it is full. So a server that answers at once is used in full after
milliseconds, one that takes minutes after seconds, and a limit met on the way refuses a few requests, not all that may
be out. A 429 halves it.
"""

from __future__ import annotations

from typing import Final

_FOREVER: Final = float("inf")
_FIRST: Final = 4.0
_DOUBLES_S: Final = 1.0
_STEP_S: Final = 0.05
_A_REPLY: Final = 0.25


class Window:
    """The window.

    Args:
        most: Its ceiling.
        feels: Whether it begins small.
    """

    def __init__(self, most: int, *, feels: bool) -> None:
        self._most = float(most)
        self._size = min(self._most, _FIRST) if feels else self._most
        self._full_at: float | None = None
        self._full_s = 0.0
        self.open = self._size >= self._most
        """Whether it is as wide as may be."""

    @property
    def size(self) -> int:
        """Requests out at once."""
        return int(self._size)

    def full(self, out: int, now: float) -> bool:
        """Tell whether no more may go than the requests that are out. Time spent full lets it grow.

        A reply that makes room ends no such time for long: the next look may find it full again at once. So all of it
        is added up, however often it is interrupted. What passed since a look that nobody followed for long (in an
        outage) counts as one doubling at most.
        """
        if self._full_at is not None:
            self._full_s += min(now - self._full_at, _DOUBLES_S)
            if self._full_s >= _STEP_S:
                self._set(self._size * 2.0 ** (self._full_s / _DOUBLES_S))
                self._full_s = 0.0
        full = out >= int(self._size)
        self._full_at = now if full else None
        return full

    def next_at(self, now: float) -> float:
        """Return when to look again while it is full."""
        return _FOREVER if self.open else now + _STEP_S

    def good(self) -> None:
        """Note a reply that was not refused for its rate."""
        if not self.open:
            self._set(self._size + _A_REPLY)

    def halve(self) -> None:
        """Note that a pause begins."""
        self._set(max(1.0, self._size / 2.0))
        self._full_at, self._full_s = None, 0.0

    def _set(self, size: float) -> None:
        self._size = min(self._most, size)
        self.open = self._size >= self._most
