"""How fast a run goes and when it will be done, from a short history of counts. Pure: time is an argument."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0


class Pace:
    """Rows settled each second over the last minute.

    A sample is kept at most each half second, so that the history stays short however often it is fed.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Take note of n rows done at a monotonic time."""
        samples = self._samples
        if samples and (done < samples[-1][1] or now < samples[-1][0]):
            samples.clear()
        if len(samples) < 2 or now - samples[-2][0] >= 0.5:
            samples.append((now, done))
        else:
            samples[-1] = (now, done)
        while len(samples) > 2 and now - samples[1][0] >= self._window_s:
            samples.popleft()

    @property
    def per_second(self) -> float:
        """Rows each second, 0.0 while nothing is known."""
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now - then) if now > then else 0.0

    def left_s(self, remaining: int | None) -> float | None:
        """Return how many seconds `remaining` rows will take at this pace, None while nobody knows."""
        per_second = self.per_second
        return remaining / per_second if remaining is not None and per_second > 0 else None
