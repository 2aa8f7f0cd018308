"""How fast: requests spaced evenly, and tokens of a sliding minute. Pure; times are monotonic seconds.

Law: nothing is saved up before the first request, so no burst follows the start; what waiting timers and a busy loop
cost is caught up with, because a pace may lag behind its own schedule for a while.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SLACK: Final = 1.0175
"""Requests and tokens go this much slower than the limit says. On the way to the server they are delayed by more or
less; 16 of these 17.5 ms in each second are what the difference may be."""
_MINUTE_S: Final = 60.0
_BUCKET_S: Final = 0.25
_BUCKETS: Final = int(_MINUTE_S / _BUCKET_S) + 2
_CATCH_UP: Final = 2.0
_BULKY: Final = 1 / 20
"""The share of a minute's tokens from which on a request is a lump that others are spread around."""
_WEIGHT: Final = 0.75
"""How much of a lump others make room for: with all of it, room is left unused that a sliding minute would have given;
with half, a large request waits for 1.25 times its share of the budget."""
_LEAST: Final = 1 / 8
"""The share of the rate that is left to others, however many lumps went."""


class Pace:
    """One request each `1 / per_s` seconds (GCRA).

    Args:
        per_s: Requests a second.
        lag_s: How far it may be behind its schedule and still catch up.
    """

    def __init__(self, per_s: float, *, lag_s: float) -> None:
        self._spacing_s = 1.0 / per_s
        self._lag_s = lag_s
        self.at = float("-inf")
        """When the next request may go."""

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return 1.0 / self._spacing_s

    @per_s.setter
    def per_s(self, per_s: float) -> None:
        self._spacing_s = 1.0 / per_s

    def full(self, now: float) -> bool:
        """Whether requests have gone as fast as they may."""
        return now - self.at <= 2.0 * self._spacing_s + 0.05

    def take(self, now: float) -> None:
        """Note a request that goes now."""
        if self.at == float("-inf"):
            self.at = now + self._spacing_s
        else:
            self.at = max(self.at, now - self._lag_s) + self._spacing_s


class TokenBudget:
    """So many tokens in any 60 s, spread evenly.

    A request larger than what is left waits for its room, and whoever asks must not let smaller ones pass it: then it
    waits as long as its share of the budget takes to come free. One above the whole budget goes when nothing else was
    sent for a minute. What a large one leaves of the minute after it is spread over that minute too: small ones that
    filled it at once would stand still until it is over, hurry then, and let the next large one wait for their hurry.

    Args:
        tpm: Tokens a minute.
    """

    def __init__(self, tpm: float) -> None:
        self._limit = tpm
        self._per_s = tpm / _MINUTE_S / SLACK
        self._sums = [0.0] * _BUCKETS
        self._lumps: deque[tuple[float, float]] = deque()
        self._now = 0
        self._total = 0.0
        self._slow_at = self._fast_at = float("-inf")

    @property
    def tpm(self) -> float:
        """Tokens a minute."""
        return self._limit

    def ready_at(self, now: float, tokens: float) -> float:
        """Return when a request of so many tokens may go: `now` or before it if it may go at once."""
        self._advance(now)
        at = max(self._slow_at, self._fast_at)
        excess = self._total + min(tokens, self._limit) - self._limit
        if excess > 0 and self._total > 0:
            at = max(at, self._freed_at(min(excess, self._total)))
        return at

    def take(self, now: float, tokens: float) -> None:
        """Note a request that goes now."""
        self._advance(now)
        self._sums[self._now % _BUCKETS] += tokens
        self._total += tokens
        share_s = tokens / (self._per_s * self._share_of(now, tokens))
        # What room was left unused for a while is caught up with, at twice the rate at most.
        self._slow_at = (now if self._slow_at == float("-inf") else max(self._slow_at, now - _MINUTE_S)) + share_s
        self._fast_at = max(self._fast_at, now) + share_s / _CATCH_UP

    def _share_of(self, now: float, tokens: float) -> float:
        """Return the share of the rate that a request may use; note it if it is a lump."""
        while self._lumps and now - self._lumps[0][0] >= _MINUTE_S:
            self._lumps.popleft()
        if tokens >= _BULKY * self._limit:
            self._lumps.append((now, tokens))
            return 1.0
        return max(_LEAST, 1.0 - _WEIGHT * sum(lump for _, lump in self._lumps) / self._limit)

    def correct(self, at: float, change: float) -> None:
        """Note that a request which went at `at` took so many tokens more (or less) than was assumed."""
        bucket = int(at / _BUCKET_S)
        if self._now - bucket >= _BUCKETS:
            return
        change = max(change, -self._sums[bucket % _BUCKETS])
        self._sums[bucket % _BUCKETS] += change
        self._total += change
        self._slow_at += change / self._per_s
        self._fast_at += change / self._per_s / _CATCH_UP

    def _advance(self, now: float) -> None:
        bucket = int(now / _BUCKET_S)
        if bucket - self._now >= _BUCKETS:
            self._sums, self._total, self._now = [0.0] * _BUCKETS, 0.0, bucket
        while self._now < bucket:
            self._now += 1
            self._total -= self._sums[self._now % _BUCKETS]
            self._sums[self._now % _BUCKETS] = 0.0
        if self._total < 1e-6:
            self._total = 0.0

    def _freed_at(self, tokens: float) -> float:
        """Return when so many tokens will have left the window."""
        for bucket in range(self._now - _BUCKETS + 1, self._now + 1):
            tokens -= self._sums[bucket % _BUCKETS]
            if tokens <= 1e-6:
                return (bucket + _BUCKETS) * _BUCKET_S
        return (self._now + _BUCKETS) * _BUCKET_S
