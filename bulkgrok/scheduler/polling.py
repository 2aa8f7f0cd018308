"""When to ask for a deferred result.

Law: never later than shortly before the deadline, so that a result is redeemed while it exists; and once after it,
because the server's answer, not the local clock, decides what has expired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bulkgrok.core.model import Job

FIRST_POLL_S: Final = 1.0
LONGEST_S: Final = 30.0
_GROWTH: Final = 1.5
_LAST_CALL_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSchedule:
    """Poll after 1 s, then less and less often up to every 30 s; or every `interval_s`."""

    interval_s: float | None = None

    def delay_s(self, job: Job, *, now: float, jitter: float) -> float:
        """Return how long to wait before the next poll of a job.

        Args:
            job: The job, with the number of its polls so far.
            now: UNIX seconds, on the clock that set the job's deadline.
            jitter: Uniform in [0, 1): polls spread by up to 20 % so that jobs accepted together do not come together.
        """
        if self.interval_s is not None:
            delay = self.interval_s
        else:
            delay = min(LONGEST_S, FIRST_POLL_S * _GROWTH ** min(job.polls, 12)) * (0.9 + 0.2 * jitter)
        left = job.deadline_at - now
        if left <= 0:
            return 0.0 if job.polls == 0 else min(delay, LONGEST_S)
        last_call = left - min(_LAST_CALL_S, (job.deadline_at - job.submitted_at) / 10)
        if delay <= last_call:
            return delay
        return last_call if last_call > 0 else left
