"""An event loop on virtual time on which nothing may rely on the order of what is ready at the same moment.

Time moves a little with every turn of the loop, as a real clock does: who waits for the next instant gets there.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

from bulkgrok.testing import VirtualTimeLoop

_TURN_S = 1e-6


class ShuffledLoop(VirtualTimeLoop):
    """Runs what is ready in an order drawn from a seed.

    Args:
        chance: Where the order comes from.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    def _run_once(self) -> None:
        self._jumping.now += _TURN_S
        ready = self._ready
        if len(ready) > 1:
            shuffled = list(ready)
            self._chance.shuffle(shuffled)
            self._ready = deque(shuffled)
        elif not ready and not self._scheduled and not self._stopping:
            waiting = sorted(repr(task.get_coro()) for task in asyncio.all_tasks(self))
            msg = "nothing will ever happen again; waiting: " + "; ".join(waiting)
            raise RuntimeError(msg)
        super()._run_once()
