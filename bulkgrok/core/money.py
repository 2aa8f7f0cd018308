"""Money as a run counts it: what was paid, what may have been, and what is on its way.

Law: sums are whole ticks, so that they do not depend on the order of their parts; 1 USD is 10,000,000,000 ticks
(docs.x.ai, cost tracking). Where the API did not tell what a request cost, it counts with what it costs at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

TICKS: Final = 10_000_000_000


def ticks(usd: float | None) -> int:
    """Return money in ticks, 0 where it is not known."""
    return 0 if usd is None else round(usd * TICKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """The money of one run, over all its starts, as its checkpoint counts it. All amounts are ticks."""

    paid: int = 0
    """What answers cost, as the API told it."""
    untold: int = 0
    """What answers cost at most of which the API did not tell it."""
    written_off: int = 0
    """What requests cost at most that brought no answer: lost, expired, failed jobs, replaced, possible fees."""
    in_doubt: int = 0
    """What requests in doubt cost at most."""
    on_its_way: int = 0
    """What requests cost at most that are being sent, were accepted, or whose answer is not settled."""

    @property
    def spent(self) -> int:
        """What is spent, or must be taken for spent: it never comes back."""
        return self.paid + self.untold + self.written_off + self.in_doubt

    @property
    def at_risk(self) -> int:
        """What would be lost if everything on its way were."""
        return self.on_its_way + self.in_doubt


class Leave(Enum):
    """What a budget says to a request."""

    GO = "go"
    WAIT = "wait"
    """It does not fit now; it may when what is on its way turns out cheaper, or comes to an end."""
    NEVER = "never"
    """It does not fit even if everything on its way costs nothing, or nobody knows what it costs."""


class Budget:
    """Decides whether a request may be sent: what `--budget` and `--max-at-risk` leave for it.

    A request counts with what it costs at most from the moment it is let go, and with what it cost in fact once that
    is known. What it was let go for is held here until its intent is durable; from then on the checkpoint counts it.

    Args:
        budget_usd: What the run may spend in its whole life, None for no limit.
        max_at_risk_usd: What may be on its way and in doubt at once, None for no limit.
    """

    #: After so many requests in a row that do not fit it is not worth looking for one that does.
    ENOUGH: Final = 1_000

    def __init__(self, *, budget_usd: float | None, max_at_risk_usd: float | None) -> None:
        self.budget_usd = budget_usd
        self.max_at_risk_usd = max_at_risk_usd
        self._budget = None if budget_usd is None else ticks(budget_usd)
        self._max_at_risk = None if max_at_risk_usd is None else ticks(max_at_risk_usd)
        self.money = Money()
        self._let_go: dict[int, int] = {}
        self._letting_go = 0
        self.refused = 0
        """Requests that never fit."""
        self.least: int | None = None
        """What the cheapest of them costs at most, in ticks; None while there is none with a price."""
        self.unpriced: tuple[int, str] | None = None
        """Row and model of the first request whose price is not known."""
        self._in_a_row = 0

    @property
    def on_its_way(self) -> int:
        """What requests cost at most that are let go, being sent, accepted or not settled, in ticks."""
        return self.money.on_its_way + self._letting_go

    @property
    def closed(self) -> bool:
        """Whether it is not worth looking for another request that fits."""
        return self._in_a_row >= self.ENOUGH or (self._budget is not None and self.money.spent >= self._budget)

    def ask(self, max_usd: float | None) -> Leave:
        """Return whether a request that costs at most so much may be sent now."""
        if max_usd is None:
            return Leave.NEVER
        most, spent, in_doubt = ticks(max_usd), self.money.spent, self.money.in_doubt
        limits = (
            (self._budget, spent + most),
            (self._max_at_risk, in_doubt + most),
        )
        if any(limit is not None and least > limit for limit, least in limits):
            return Leave.NEVER
        if any(limit is not None and least + self.on_its_way > limit for limit, least in limits):
            return Leave.WAIT
        return Leave.GO

    def let_go(self, row: int, max_usd: float | None) -> None:
        """Hold what a row's request costs at most, until `counted`."""
        self._let_go[row] = most = ticks(max_usd)
        self._letting_go += most
        self._in_a_row = 0

    def counted(self, row: int) -> bool:
        """Hold nothing more for a row: its intent is durable, or it was not sent. Return whether anything was held."""
        most = self._let_go.pop(row, None)
        self._letting_go -= most or 0
        return most is not None

    def refuse(self, row: int, model: str, max_usd: float | None) -> None:
        """Note a request that never fits."""
        self.refused += 1
        self._in_a_row += 1
        if max_usd is None:
            self.unpriced = self.unpriced or (row, model)
        elif self.least is None or ticks(max_usd) < self.least:
            self.least = ticks(max_usd)
