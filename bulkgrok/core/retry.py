"""How often and how soon something is tried again: pure policies, fed with times and jitter.

Law: no clock and no chance of its own. Times are monotonic seconds; `jitter` is uniform in [0, 1).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

RETRY_AFTER_CAP_S: Final = 120.0
PROBE_EVERY_S: Final = 30.0
RESUBMISSIONS: Final = 2
"""How often a row in doubt, or lost, is sent again."""
KEPT_OUT_TIMES: Final = 8
KEPT_OUT_FOR_S: Final = 600.0


def backoff_s(failures: int, *, jitter: float, base_s: float = 1.0, cap_s: float = 60.0) -> float:
    """Exponential back-off with full jitter: uniform in [0, min(cap, base·2^n)), as AWS recommends."""
    return jitter * min(cap_s, base_s * 2.0 ** min(failures, 30))


def wait_s(retry_after_s: float | None, failures: int, *, jitter: float) -> float:
    """Return how long to wait: what the server asked for, capped, or back-off; never less than the server asked for."""
    if retry_after_s is None:
        return backoff_s(failures, jitter=jitter)
    return min(retry_after_s, RETRY_AFTER_CAP_S) + backoff_s(0, jitter=jitter, base_s=0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPolicy:
    """What the user decided about rows that went wrong."""

    max_attempts: int
    resubmit_doubtful: bool
    resubmit_lost: bool

    def spent(self, attempts: int) -> bool:
        """Whether a row with so many counted attempts is given up."""
        return attempts >= self.max_attempts

    def doubtful_again(self, doubts: int) -> bool:
        """Whether a row that is in doubt for the n-th time is sent again."""
        return self.resubmit_doubtful and doubts <= RESUBMISSIONS

    def lost_again(self, losses: int) -> bool:
        """Whether a row lost for the n-th time is sent again."""
        return self.resubmit_lost and losses <= RESUBMISSIONS


class RetryQuota:
    """A bucket of retries that good replies refill, so that an ailing API is not stormed.

    Up to every second request may be a retry for ever; beyond that retries trickle at `trickle_per_s`.
    """

    def __init__(self, *, capacity: float, trickle_per_s: float = 5.0) -> None:
        self._capacity = capacity
        self._tokens = capacity
        self._trickle = trickle_per_s
        self._at = 0.0

    def refund(self) -> None:
        """Note a good reply."""
        self._tokens = min(self._capacity, self._tokens + 1.0)

    def delay_s(self, now: float) -> float:
        """Take one retry and return how long it must wait for its turn, 0.0 when the bucket holds one."""
        self._tokens = min(self._capacity, self._tokens + max(0.0, now - self._at) * self._trickle)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._trickle)


class Health:
    """Tells an outage (every request fails) from bad luck and from slow answers.

    During an outage only one probe at a time is let through: after 1 s, 2 s, 4 s … then one each 30 s.
    """

    THRESHOLD: Final = 5
    NEVER_ANSWERED_S: Final = 60.0

    def __init__(self, *, max_outage_s: float) -> None:
        self._max_outage_s = max_outage_s
        self._failures = 0
        self._first_failure_at = 0.0
        self._probes = 0
        self.last_good_at: float | None = None
        self.last_answer_at: float | None = None
        self.last_control_at: float | None = None
        self.outage_since: float | None = None
        self.next_probe_at = 0.0
        self.reason = ""
        self._told_at: tuple[float, float] | None = None

    def told(self, date_at: float, now: float) -> None:
        """Note what the API's clock showed, in UNIX seconds, and when."""
        self._told_at = date_at, now

    def server_time(self, now: float) -> float | None:
        """Return what the API's clock shows, None where it never told; earlier, if this machine slept since."""
        return None if self._told_at is None else self._told_at[0] + now - self._told_at[1]

    def good(self, now: float, *, answered: bool = True) -> bool:
        """Note a usable reply of any kind; return whether it ended an outage.

        `answered` is False for a 429 and for a 404 to a poll: the API is there, which is all they prove.
        """
        ended = self.outage_since is not None
        self._failures = self._probes = 0
        self.outage_since = None
        self.last_good_at = now
        if answered:
            self.last_answer_at = now
        return ended

    def bad(self, now: float, reason: str) -> bool:
        """Note a request that failed to connect, was dropped or got a 5xx; return whether an outage begins with it."""
        self.reason = reason
        if self._failures == 0:
            self._first_failure_at = now
        self._failures += 1
        if self.outage_since is None:
            if self._failures < self.THRESHOLD:
                return False
            self.outage_since = self._first_failure_at
            self.next_probe_at = now + 1.0
            return True
        return False

    def probing(self, now: float) -> None:
        """Note that a probe is sent now; the next one follows later and later."""
        self._probes += 1
        self.next_probe_at = now + min(PROBE_EVERY_S, 2.0 ** min(self._probes, 10))

    def there(self, now: float) -> None:
        """Note that a control request got through: host and key are well, which ends no outage of what is billable."""
        self.last_good_at = self.last_control_at = now

    def answered_since(self, moment: float) -> bool:
        """Whether any billable request or poll was answered after `moment`."""
        return self.last_answer_at is not None and self.last_answer_at > moment

    def well_since(self, moment: float) -> bool:
        """Whether any request was answered after `moment`, a control request included."""
        control = self.last_control_at is not None and self.last_control_at > moment
        return control or self.answered_since(moment)

    def ends_run_at(self) -> float | None:
        """When an outage that lasts ends the run; None while there is none."""
        if self.outage_since is None:
            return None
        limit = self._max_outage_s if self.last_good_at is not None else min(self.NEVER_ANSWERED_S, self._max_outage_s)
        return self.outage_since + limit


class FirstRejections(Generic[T]):
    """Holds back the first rejections of a run: 20 that are alike say that the request is wrong, not the rows."""

    LIMIT: Final = 20

    def __init__(self, *, armed: bool) -> None:
        self.armed = armed
        self._alike: Hashable = None
        self._held: list[T] = []

    def rejected(self, alike: Hashable, entry: T) -> list[T]:
        """Take a rejection; return those that may fail now. `full` tells when the run must stop instead."""
        if not self.armed:
            return [entry]
        if self._held and alike != self._alike:
            return [*self.release(), entry]
        self._alike = alike
        self._held.append(entry)
        return []

    @property
    def full(self) -> bool:
        """Whether the first 20 rows were all rejected alike."""
        return self.armed and len(self._held) >= self.LIMIT

    @property
    def held(self) -> int:
        """How many rejections are held back."""
        return len(self._held)

    def release(self) -> list[T]:
        """Disarm: something else happened, or the input ended; return what was held."""
        self.armed = False
        held, self._held = self._held, []
        return held
