"""Finds the rate that the API allows one model, where it refuses requests for their rate.

Law: pure; times are monotonic seconds. Until the first 429 there is no limit here. A 429 pauses everybody together;
then requests go, evenly spaced,

- at the limit the API named in it, less a little;
- where it names none, at what it let through just before, less a little, and from there slowly up to that and past it:
  faster and faster, so that a limit that was lifted is found within a minute.

In a storm (nothing let through between two pauses) pauses double up to 30 s and one request at a time feels whether it
is over; what the rate was before it is kept. So it is when requests went at less than half the rate they may, and one
was refused all the same: it was not their rate. A request that was not refused within a second counts as let through: a
429 is quick, an answer may take an hour.
"""

from __future__ import annotations

from typing import Final

from bulkgrok.core.model import RateLimit
from bulkgrok.core.retry import RETRY_AFTER_CAP_S
from bulkgrok.scheduler.pace import Pace, TokenBudget

FOUND: Final = 0.97
"""Of a limit the API named: nothing evens out here what the disk and the way bunch together."""
_CUT: Final = 0.93
_NEAR_S: Final = 15.0
_PAST_S: Final = 35.0
_FASTER: Final = 1.05
_EVEN_AT: Final = 5.0
"""Requests a second below which growth is slower where no limit was named: each step past it costs a refusal."""
_FORGOTTEN_S: Final = 900.0
_LONGEST_PAUSE_S: Final = 30.0
_SPREAD_S: Final = 5.0
"""By how much the longest pauses differ, so that programs that were refused together do not come back together."""
_FEEL_S: Final = 1.0
_LAG_S: Final = 0.02
_SLOWEST: Final = 1.0 / 60.0
_OFTEN_S: Final = 30.0
_STILL_S: Final = 3.0
"""After a pause the server may still count what went before it: that says nothing of the new rate, unless a second of
it was let through already."""
_STORM: Final = 3
"""Pauses in a row with nothing let through between them."""
_CUT_AGAIN: Final = 0.9
_SLOT_S: Final = 0.25
_SLOTS: Final = 16
_LOOK_BACK: Final = 8


def _growth(seconds: float) -> float:
    """Return the rate, as a part of the one that was refused, after so many seconds at full pace."""
    if seconds < _NEAR_S:
        return _CUT + (0.98 - _CUT) * seconds / _NEAR_S
    if seconds < _PAST_S:
        return 0.98 + 0.04 * (seconds - _NEAR_S) / (_PAST_S - _NEAR_S)
    return float(1.02 * _FASTER ** min(200.0, seconds - _PAST_S))


class Governor:
    """One model's rate.

    Args:
        lag_s: What a busy loop may cost and is caught up with. Little, where no door evens out what leaves.
    """

    def __init__(self, *, lag_s: float = _LAG_S) -> None:
        self._lag_s = lag_s
        self.until = 0.0
        """When the pause ends."""
        self.tokens: TokenBudget | None = None
        self._pace: Pace | None = None
        self._knee = self._grown_s = 0.0
        self._before = self._kept = float("inf")
        self._ceilings: dict[str, float] = {}
        self._named_at = self._cut_at = self._sent_at = float("-inf")
        self._opened_at, self._first_at = -1.0, -2.0
        self._since_s = 0.0
        self._most = 0
        self._innocent = False
        self._pauses = 0
        self._heard = True
        self._feeling = False
        self._feel_at = 0.0
        self._now = 0
        self._sent = [0] * _SLOTS
        self._refused = [0] * _SLOTS

    @property
    def per_s(self) -> float | None:
        """Requests a second, None while no limit is known."""
        return self._pace.per_s if self._pace is not None else None

    @property
    def open_at(self) -> float:
        """When the next request may go."""
        at = self.until
        if self._feeling and self._feel_at > at:
            at = self._feel_at
        if self._pace is not None and self._pace.at > at:
            at = self._pace.at
        return at

    def full(self, now: float) -> bool:
        """Whether as many requests go as may."""
        return now < self.until or (self._pace is not None and self._pace.full(now))

    def take(self, now: float) -> None:
        """Note a request that goes now."""
        slot = int(now / _SLOT_S)
        if slot != self._now:
            self._turn_to(slot)
        self._sent[slot % _SLOTS] += 1
        if self._first_at < self._opened_at:
            self._first_at = now
        if self._feeling:
            if self._feel_at <= self.until:
                self._feel_at = now + _FEEL_S
            else:
                self._feeling, self._heard = False, True
        if self._pace is not None:
            self._grow(self._pace, now)
            self._pace.take(now)
        self._sent_at = now

    def good(self, sent_at: float) -> None:
        """Note a reply that was not refused for its rate, to a request that went at `sent_at`."""
        if sent_at > self._cut_at:
            self._heard, self._feeling = True, False

    def throttled(
        self, now: float, sent_at: float, *, retry_after_s: float | None, named: RateLimit | None, jitter: float
    ) -> bool:
        """Note a 429 to a request that went at `sent_at`; return whether it begins a new pause.

        Args:
            now: The time.
            sent_at: When the refused request went: those that were out together are refused together.
            retry_after_s: What the reply asks for.
            named: The limit that the reply names.
            jitter: Uniform in [0, 1).
        """
        slot = int(sent_at / _SLOT_S)
        if self._now - slot < _SLOTS:
            self._refused[slot % _SLOTS] += 1
        begins = sent_at > self._cut_at
        if begins:
            self._begin(now, sent_at, jitter)
        if retry_after_s is not None:
            self.until = max(self.until, now + min(retry_after_s, RETRY_AFTER_CAP_S))
        if named is not None:
            self._name(named, now)
        if self._feeling:
            self._feel_at = self.until
        self._opened_at = self.until
        if named is None or named.what == "requests":
            self._slow(now, begins=begins)
        return begins

    def _begin(self, now: float, sent_at: float, jitter: float) -> None:
        """Begin a pause."""
        heard = self._heard or (self._first_at >= self._opened_at and sent_at - self._first_at > _FEEL_S)
        self._since_s, self._cut_at = sent_at - self._cut_at, now
        self._before = self._pace.per_s if self._pace is not None else float("inf")
        # What was let through before a limit was lowered is no measure of few: the rate would never be cut.
        self._innocent = heard and self._since_s > _OFTEN_S and 2 * self._lately() < min(self._most, self._before)
        self._pauses = 0 if heard else self._pauses + 1
        self._heard, self._feeling = False, not heard
        if heard:
            self._kept = self._before
        pause_s = min(_LONGEST_PAUSE_S, 0.5 * 2.0 ** min(self._pauses, 10))
        self.until = max(self.until, now + pause_s - (1.0 - jitter) * min(pause_s / 2.0, _SPREAD_S))

    def _turn_to(self, slot: int) -> None:
        self._most = max(self._most, self._lately())
        for passed in range(max(self._now + 1, slot - _SLOTS + 1), slot + 1):
            self._sent[passed % _SLOTS] = self._refused[passed % _SLOTS] = 0
        self._now = slot

    def _lately(self) -> int:
        """Return how many requests were let through in the last second."""
        return sum(
            self._sent[slot % _SLOTS] - self._refused[slot % _SLOTS] for slot in range(self._now - 3, self._now + 1)
        )

    def _name(self, named: RateLimit, now: float) -> None:
        """Take a limit the API named; one that only its headers name is believed where it fits what was let through."""
        if named.what == "tokens":
            tpm = named.per_s * 60.0 * FOUND
            if named.said and (self.tokens is None or self.tokens.tpm != tpm):
                self.tokens = TokenBudget(tpm)
            return
        through = self._through()
        if named.said or 0.5 * through <= named.per_s <= 2.0 * through:
            ceiling = max(_SLOWEST, named.per_s * FOUND)
            if self._ceilings.get(named.measure) != ceiling and named.measure.endswith("second"):
                self.until = max(self.until, now + 1.0)  # until the server has forgotten what was too much
            self._ceilings[named.measure] = ceiling
            self._named_at = now

    def _through(self) -> float:
        """Return how many requests a second were let through before the pause.

        In the last two seconds, or in the last one where that is more: rather too many than too few. Too much is soon
        refused again; to climb up to the limit takes a while.
        """
        last = int(self._cut_at / _SLOT_S)
        slots = [
            self._sent[slot % _SLOTS] - self._refused[slot % _SLOTS]
            for slot in range(max(0, last - _LOOK_BACK + 1, self._now - _SLOTS + 1), last + 1)
        ]
        return max(0.0, sum(slots) * _SLOT_S**-1 / _LOOK_BACK, float(sum(slots[-5:])))

    def _slow(self, now: float, *, begins: bool) -> None:
        ceiling = min(self._ceilings.values(), default=None)
        through = self._through()
        if ceiling is not None and self._before > ceiling:
            self._knee, self._grown_s = ceiling / FOUND, _PAST_S
        elif self._pauses >= _STORM and self._pace is not None:
            if self._kept == float("inf") and ceiling is None:
                self._pace = None
                return
            self._knee, self._grown_s = min(self._kept, ceiling or self._kept), _NEAR_S
        elif self._since_s < _STILL_S and self._pace is not None and (through < self._before or ceiling is not None):
            if not begins or self._knee * FOUND == ceiling:
                return
            self._knee, self._grown_s = max(_SLOWEST, min(self._knee, self._before) * _CUT_AGAIN), 0.0
        elif through > 0.0 and not self._innocent:
            self._knee, self._grown_s = max(_SLOWEST, self._known(through)), 0.0
        elif self._pace is None:
            return  # it was not the rate, or nothing tells what the rate is
        if self._pace is None:
            self._pace = Pace(1.0, lag_s=self._lag_s)
        self._set(self._pace)
        self._pace.at = max(self._pace.at, now)

    def _known(self, through: float) -> float:
        """Return what a refusal shows the limit to be about, in requests a second.

        Among requests that went evenly the refused one is counted too: without it five a second would be taken for
        four. One that is refused before anything was let through since the pause says nothing of the pace after it.
        """
        if self._pauses:
            return min(through, max(self._knee, self._before))
        paced = self._before < float("inf") and self._since_s >= _STILL_S
        return min(through + 1.0 if paced else through, self._before)

    def _grow(self, pace: Pace, now: float) -> None:
        """Go faster for each second that requests went as fast as they might."""
        if self._ceilings and now - self._named_at > _FORGOTTEN_S:
            self._ceilings.clear()
            self._grown_s = _NEAR_S
        if pace.full(now):
            slower = 1.0 if self._ceilings else min(1.0, pace.per_s / _EVEN_AT)
            self._grown_s += min(1.0, now - self._sent_at) * slower
            self._set(pace)

    def _set(self, pace: Pace) -> None:
        wanted = self._knee * _growth(self._grown_s)
        pace.per_s = max(_SLOWEST, min(wanted, *self._ceilings.values()) if self._ceilings else wanted)
