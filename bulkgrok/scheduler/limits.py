"""Token buckets on requests and tokens.

Law: one waiter at a time. aiolimiter keeps its waiters in a heap by amount, so large requests starve behind small ones,
and it refuses amounts above its capacity; callers stand in the scheduler's FIFO gate instead and take large amounts in
pieces. Buckets are small, so that no burst follows an idle moment: the API counts single seconds.
"""

from __future__ import annotations

from typing import Final

from aiolimiter import AsyncLimiter

_REQUEST_BURST_S: Final = 0.05
_TOKEN_BURST_S: Final = 2.0


def _bucket(per_second: float, burst_s: float) -> AsyncLimiter:
    capacity = max(1.0, per_second * burst_s)
    return AsyncLimiter(capacity, capacity / per_second)


class Limits:
    """The rates of one run, for POST and GET alike.

    Args:
        rps: Requests a second, None for no limit.
        rpm: Requests a minute, spread evenly over it.
        tpm: Tokens a minute.
    """

    def __init__(self, *, rps: float | None, rpm: float | None, tpm: float | None) -> None:
        rates = [rate for rate in (rps, rpm / 60.0 if rpm else None) if rate]
        self.requests_per_s: float | None = min(rates) if rates else None
        self._requests = _bucket(self.requests_per_s, _REQUEST_BURST_S) if self.requests_per_s else None
        self._tokens = _bucket(tpm / 60.0, _TOKEN_BURST_S) if tpm else None
        self._owed = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self._requests is not None or self._tokens is not None

    async def acquire(self, tokens: int) -> None:
        """Wait until a request that takes about so many tokens may go."""
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None and (tokens or self._owed > 0):
            due, self._owed = tokens + self._owed, 0.0
            if due < 0:
                self._owed = due
            while due > 0:
                piece = min(due, self._tokens.max_rate)
                await self._tokens.acquire(piece)
                due -= piece

    def correct(self, *, estimated: int, actual: int) -> None:
        """Charge (or credit) the next request with what the last one took more (or less) than estimated."""
        if self._tokens is not None:
            limit = self._tokens.max_rate * 30.0
            self._owed = max(-limit, min(limit, self._owed + actual - estimated))
