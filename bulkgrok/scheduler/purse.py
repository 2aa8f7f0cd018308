"""Whose turn it is for money: rows go in the order they came, and the one that must wait holds up those behind it.

Law: a row that does not fit now waits until what is on its way is settled, and no other is sent before it: money that
comes free is its own, so it cannot be starved by smaller ones. A row that can never fit is set aside (it stays pending
in the checkpoint), and those behind it go on.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkgrok.core.model import Work
from bulkgrok.core.money import Budget, Leave, Money


class Purse:
    """Lets rows go as far as the money reaches.

    Args:
        budget: What may be spent, None for any amount.
        set_aside: Called when a row is set aside.
    """

    def __init__(self, budget: Budget | None, set_aside: Callable[[], None]) -> None:
        self._budget = budget
        self._set_aside = set_aside
        self.waiting: Work | None = None
        """The row that waits for money."""
        self.bottomless = budget is None

    def next(self, following: Callable[[], Work | None]) -> Work | None:
        """Return the row that waits, or else the one that follows, if there is money for it; None where one waits.

        What is returned is let go: its money is held until `counted`.
        """
        budget = self._budget
        if budget is None:
            return following()
        while (work := self.waiting or following()) is not None:
            self.waiting = None
            item = work.item
            match budget.ask(item.max_usd):
                case Leave.GO:
                    budget.let_go(item.row, item.max_usd)
                    return work
                case Leave.WAIT:
                    self.waiting = work
                    return None
                case Leave.NEVER:
                    budget.refuse(item.row, item.model, item.max_usd)
                    self._set_aside()
        return None

    def counted(self, work: Work) -> bool:
        """Hold nothing more for a row: its intent is durable, or it was not sent. Return whether anything was held."""
        return self._budget is not None and self._budget.counted(work.item.row)

    def paid(self, money: Money) -> None:
        """Take what the checkpoint counts now."""
        if self._budget is not None:
            self._budget.money = money
