"""When to ask for a deferred result.

Law: never later than shortly before the deadline, so that a result is redeemed while it exists; and once after it,
because the server's answer, not the local clock, decides what has expired.

In between, when it pays: by what was learnt of the latencies of the job's kind and model (see `latency`), more often
where the rate has room to spare, less often where it has none. While nothing is learnt a few jobs, others each time if
there are any, are asked for at ages that grow by three fifths, and at closer ones from the age on at which a first
result was ready; the rest is left alone, but not for long.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any, Final

from bulkgrok.core.model import Job
from bulkgrok.scheduler.latency import Latency

FIRST_POLL_S: Final = 1.0
LONGEST_S: Final = 30.0
_GROWTH: Final = 1.5
_LAST_CALL_S: Final = 60.0
_LAST_CALLS: Final[tuple[tuple[float, float], ...]] = ((_LAST_CALL_S, 0.1), (5.0, 0.01))
"""Seconds before the deadline at which a result is asked for in any case, at most such a part of its whole time: with
room for a poll that is dropped, and for what becomes ready at the last moment."""
_SCOUTS: Final = 8
_STEP: Final = log(1.6)
"""Jobs asked for at each step of age while nothing is learnt, and the step: before the age of the first result. There a
poll only tells that it is too early, which few tell as well as many."""
_SCOUTS_SOON: Final = 16
_STEP_SOON: Final = log(1.12)
"""The same from that age on: it must not hang on what a single age tells when all the others are asked for."""
_SCOUTS_STEP: Final = 0.45
"""Longer than the rest is left alone, so that others come to the next step first, if any are left."""
_LEFT_ALONE_STEP: Final = 0.15
_LEFT_ALONE_S: Final = 600.0
_FRESH_S: Final = 60.0
"""Age from which on a job that was not heard of for half its life is asked for again soon."""
_GOLDEN: Final = 0.6180339887498949
_SPREAD: Final = 0.9
"""Of the times of polls, as a part of the age, where one result is known: it shrinks as the error of what is learnt."""
_LEAST_SPREAD: Final = 0.03
_DOUBT: Final = 0.02
_LONGEST_PART: Final = 0.1
"""Of the whole time of a result: as long as it is, no longer is it left alone."""
_PRICES: Final = {"spare": 0.04, "even": 0.19, "short": 0.6}
"""Of a poll, as a part of the mean latency: with sigma 0.5, about 3.4, 1.9 and 1.4 polls a result at best."""
_NEW_WEIGHT: Final = 0.02


class PollSchedule:
    """Poll when results are likely to be ready; or every `interval_s`.

    Args:
        interval_s: Fixed, None for a learnt schedule.
        asks_all: Whether jobs are asked for once whatever was learnt, because this is a round: it came when it paid.
    """

    def __init__(self, *, interval_s: float | None = None, asks_all: bool = False) -> None:
        self.interval_s = interval_s
        self._asks_all = asks_all
        self._known: dict[tuple[str, str], Latency] = {}
        self._scouts: dict[tuple[str, str], dict[tuple[bool, int], int]] = {}
        self._full = 0.5
        self._polls = self._results = 0.0

    @property
    def polls_a_result(self) -> float:
        """How many polls a result took lately, 2.0 while that is not known."""
        return self._polls / self._results if self._results >= 1.0 else 2.0

    @property
    def shortest_rest_s(self) -> float:
        """How long a process stays away at least between two rounds of polls."""
        return LONGEST_S if self.interval_s is None else self.interval_s

    def learnt(self) -> list[Any]:
        """Return what was learnt of latencies, for another process."""
        return [[kind, model, known.as_json()] for (kind, model), known in self._known.items()]

    def recall(self, learnt: list[Any]) -> None:
        """Take over what another process learnt."""
        for kind, model, known in learnt:
            self._known.setdefault((kind, model), Latency()).recall(known)

    def delay_s(self, job: Job, *, now: float, jitter: float) -> float:
        """Return how long to wait before the next poll of a job.

        Args:
            job: The job, with the number of its polls so far.
            now: UNIX seconds, on the clock that set the job's deadline.
            jitter: Uniform in [0, 1): polls are spread so that jobs accepted together do not come together.
        """
        left = job.deadline_at - now
        delay = self._wanted_s(job, now, jitter)
        if self.interval_s is None:  # more than one chance before the last call: a poll may be dropped
            delay = min(delay, max(LONGEST_S, left / 2))
        if left <= 0:
            return 0.0 if job.polls == 0 else min(delay, LONGEST_S)
        whole = job.deadline_at - job.submitted_at
        for before_s, part in _LAST_CALLS:
            last_call = left - min(before_s, part * whole)
            if delay <= last_call:
                return delay
            if last_call > 0.0:
                return last_call
        return left

    def early_s(self, job: Job, *, now: float) -> float:
        """Return how much longer to wait for a job whose time has come, by what was learnt meanwhile; 0.0 for not."""
        if self.interval_s is not None or job.pending_s < 0.0 or job.missing or job.errors or job.overdue:
            return 0.0
        if self._asks_all and job.polls == 0:
            return 0.0
        known = self._latency(job)
        age_s = now - job.submitted_at
        if age_s < 0.0:  # the clock was set back: nothing can be said of its time
            return 0.0
        if not known.learnt:
            if age_s > _LEFT_ALONE_S or self._is_scout(job, age_s, known):
                return 0.0
            return self._bounded(job, now, max(FIRST_POLL_S, _LEFT_ALONE_STEP * age_s))
        wait_s = self._planned_s(known, job, now) - age_s
        return self._bounded(job, now, self._look_again_s(known, wait_s, age_s)) if wait_s > 0.03 * age_s else 0.0

    def saw(self, job: Job, *, age_s: float, ready: bool) -> None:
        """Note what a poll of a job told at an age in seconds, and that age in a job that is not ready."""
        self._polls = self._polls * (1.0 - _NEW_WEIGHT / 2) + 1.0
        self._results = self._results * (1.0 - _NEW_WEIGHT / 2) + ready
        if self.interval_s is None and 0.0 <= job.pending_s < age_s:
            self._latency(job).saw(job.pending_s, age_s, ready=ready)
        if not ready:
            job.pending_s = max(0.0, age_s)

    def heard_nothing(self, job: Job, *, age_s: float) -> None:
        """Note that a poll of a job at an age told nothing: another one may be asked for at that age."""
        asked = self._scouts.get((job.kind, job.model), {})
        step = _step(age_s, self._latency(job))
        if asked.get(step):
            asked[step] -= 1

    def rate_is(self, *, full: bool | None) -> None:
        """Note whether requests go as fast as they may; None where nobody limits them."""
        self._full += _NEW_WEIGHT * ((0.5 if full is None else full) - self._full)

    @property
    def _price(self) -> float:
        return _PRICES["short" if self._full > 0.85 else "spare" if self._full < 0.25 else "even"]

    def _wanted_s(self, job: Job, now: float, jitter: float) -> float:
        if self.interval_s is not None:
            return self.interval_s
        age_s = now - job.submitted_at
        stale = job.polls > 0 and age_s > _FRESH_S and job.pending_s < age_s / 2  # the last polls told nothing of it
        if stale or job.pending_s < 0.0 or age_s < 0.0:  # the clock was set back, or nothing is known of it
            return min(LONGEST_S, FIRST_POLL_S * _GROWTH ** min(job.polls, 12)) * (0.9 + 0.2 * jitter)
        known = self._latency(job)
        if known.learnt:
            wait_s = self._look_again_s(known, self._planned_s(known, job, now) - age_s, age_s)
        else:
            wait_s = _SCOUTS_STEP * age_s
        return min(max(FIRST_POLL_S * (0.9 + 0.2 * jitter), wait_s), self._longest_s(job))

    @staticmethod
    def _longest_s(job: Job) -> float:
        return max(LONGEST_S, _LONGEST_PART * (job.deadline_at - job.submitted_at))

    def _planned_s(self, known: Latency, job: Job, now: float) -> float:
        """Return the age at which to poll a job.

        Its own: the less is known, the more those ahead are asked early for the sake of those behind.
        """
        own = (job.row * _GOLDEN + job.polls * 0.5) % 1.0
        spread = max(_LEAST_SPREAD, _SPREAD / sqrt(known.results))
        return known.next_age_s(max(0.0, job.pending_s), price=self._price, now=now) * (1.0 - spread * own)

    def _look_again_s(self, known: Latency, wait_s: float, age_s: float) -> float:
        """Shorten a wait for a poll while what is known changes fast."""
        return min(wait_s, max(FIRST_POLL_S, _LEFT_ALONE_STEP * age_s)) if known.doubt > _DOUBT else wait_s

    def _bounded(self, job: Job, now: float, wait_s: float) -> float:
        """Shorten a wait so that it ends before the last call."""
        left = job.deadline_at - now
        wait_s = min(wait_s, max(LONGEST_S, left / 2), self._longest_s(job))
        return max(0.0, min(wait_s, left - min(2 * _LAST_CALL_S, (job.deadline_at - job.submitted_at) / 5)))

    def _latency(self, job: Job) -> Latency:
        key = job.kind, job.model
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Latency()
        return known

    def _is_scout(self, job: Job, age_s: float, known: Latency) -> bool:
        """Tell whether a job is asked for though nothing is learnt: too few were at about its age; count it then."""
        asked = self._scouts.setdefault((job.kind, job.model), {})
        step = _step(age_s, known)
        if asked.get(step, 0) >= (_SCOUTS_SOON if step[0] else _SCOUTS):
            return False
        asked[step] = asked.get(step, 0) + 1
        return True


def _step(age_s: float, known: Latency) -> tuple[bool, int]:
    """Return whether an age is that of the first result or more, and the number of its step."""
    soon = age_s >= known.first_s
    return soon, int(log(max(FIRST_POLL_S, age_s)) / (_STEP_SOON if soon else _STEP))
