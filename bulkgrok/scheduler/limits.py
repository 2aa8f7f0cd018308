"""The rates that the user named: for POST and GET, for all models of the run together.

Law: pure. Requests are spaced evenly from the first on; tokens are counted over a sliding minute, as the API counts
them. What was let go is noted at once and corrected when its reply tells what it took.
"""

from __future__ import annotations

from typing import Final

from bulkgrok.scheduler.door import Door
from bulkgrok.scheduler.pace import SLACK, Pace, TokenBudget

LAG_S: Final = 0.25
"""How far requests may be behind their schedule and catch up; the door sees to it that this is no burst."""


class Limits:
    """The rates of one run.

    Args:
        rps: Requests a second, None for no limit.
        rpm: Requests a minute, spread evenly over it.
        tpm: Tokens a minute.
    """

    def __init__(self, *, rps: float | None = None, rpm: float | None = None, tpm: float | None = None) -> None:
        rates = [rate for rate in (rps, rpm / 60.0 if rpm else None) if rate]
        self.requests_per_s: float | None = min(rates) if rates else None
        self._pace = Pace(self.requests_per_s / SLACK, lag_s=LAG_S) if self.requests_per_s else None
        self.tokens = TokenBudget(tpm) if tpm else None

    @property
    def next_at(self) -> float:
        """When the next request may go, whatever it is."""
        return self._pace.at if self._pace is not None else float("-inf")

    def full(self, now: float) -> bool:
        """Whether as many requests go as may."""
        return self._pace is not None and self._pace.full(now)

    def take(self, now: float) -> None:
        """Note a request that goes now."""
        if self._pace is not None:
            self._pace.take(now)

    def door(self) -> Door | None:
        """Return what holds requests to the rate where they leave; None where there is no limit."""
        return Door(self.requests_per_s) if self.requests_per_s else None
