"""The last thing before the wire where the user named a rate: no second sees more requests than it may.

Law: first come, first gone. Between the scheduler's choice and a request's departure stands a commit to the
checkpoint, and commits come in groups and take as long as the disk does: what was evenly spaced arrives in bunches. So
the last R departures are remembered, and none follows the R-th before it within a second and the slack of the way to
the server.

aiolimiter keeps bunches apart here. It is asked only for what it has and never waited in: its waiters stand by amount,
so that large ones starve; its timers round to nothing under uvloop and never come in virtual time. It cannot do the
rest alone: its bucket lets through what it holds on top of the rate, and what a stall costs is lost to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from aiolimiter import AsyncLimiter

_WINDOW: Final = 1.016
_CATCH_UP: Final = 1.5
_BUNCH_S: Final = 0.005
_LEAST_SLEEP_S: Final = 0.001


class Door:
    """Lets requests depart one by one.

    Args:
        per_s: Requests in any second, at most.
    """

    def __init__(self, per_s: float) -> None:
        most = max(1, int(per_s))
        self._window_s = most / per_s * _WINDOW
        self._departed: deque[float] = deque([float("-inf")] * most, maxlen=most)
        fastest = per_s * _CATCH_UP
        bunch = 1.0 + fastest * _BUNCH_S
        self._spacing = AsyncLimiter(bunch, bunch / fastest)
        self._apart_s = max(_LEAST_SLEEP_S, 1.0 / fastest)
        self._turn = asyncio.Lock()

    async def depart(self) -> None:
        """Wait until a request may go."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            while (early_s := self._departed[0] + self._window_s - loop.time()) > 0:  # noqa: ASYNC110 - it is time alone
                await asyncio.sleep(max(_LEAST_SLEEP_S, early_s))
            while not self._spacing.has_capacity():  # noqa: ASYNC110 - as above
                await asyncio.sleep(self._apart_s)
            await self._spacing.acquire()
            self._departed.append(loop.time())
