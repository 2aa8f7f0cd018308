"""The rows and jobs of one model, and the rate it is allowed: the API's limits are a model's own."""

from __future__ import annotations

from collections import deque

from bulkgrok.core.model import Mode, Work
from bulkgrok.scheduler.governor import Governor


class Lane:
    """What waits for one model.

    Args:
        due: The heap of its jobs that are due (see `Waiting`).
        governor: What is known of its rate.
    """

    def __init__(self, due: list[int], governor: Governor) -> None:
        self.governor = governor
        self.due = due
        self.head: Work | None = None
        """The row whose turn it is, while its tokens are not there: no other passes it."""
        self.again: deque[Work] = deque()
        """Rows to be sent again whose time has come."""
        self.direct: deque[Work] = deque()
        self.deferred: deque[Work] = deque()
        self.urgent_at = 0.0
        """When a poll that cannot wait may go although all pause."""

    def __bool__(self) -> bool:
        """Whether anything waits here to be sent."""
        return bool(self.head or self.again or self.direct or self.deferred)

    @property
    def only_deferred(self) -> bool:
        """Whether nothing waits here that could go while no more may be outstanding."""
        return self.head is None and not self.direct and all(work.item.mode is Mode.DEFERRED for work in self.again)

    def offer(self, work: Work) -> None:
        """Queue a row."""
        (self.deferred if work.item.mode is Mode.DEFERRED else self.direct).append(work)

    def pop(self, *, room: bool) -> Work | None:
        """Take the next row; `room` tells whether it may be a deferred one."""
        if self.head is not None:
            work, self.head = self.head, None
            return work
        while self.again:
            work = self.again.popleft()
            if room or work.item.mode is Mode.DIRECT:
                return work
            self.deferred.appendleft(work)
        if self.direct:
            return self.direct.popleft()
        return self.deferred.popleft() if self.deferred and room else None

    def pop_any(self) -> Work | None:
        """Take a row, whatever it waits for."""
        return self.pop(room=True)
