"""How long results take, learnt from polls, and when to ask for them.

Law: pure and deterministic; ages are seconds since a request was sent. A poll tells that a result came between the last
age at which it was not there and now, or that it is still to come. From such intervals the hazard of each age is
estimated (how many of those that are not ready at an age become ready just after it), so that what is still outstanding
counts as well as what is done. Where little is known the hazards are those of the log-normal distribution that what is
known makes likeliest; where much is, no shape is assumed. What is old fades.

The times of polls are those that cost least: each second that a result lies ready costs 1, each poll a price, the same
part of the mean latency whatever that is (dynamic programming over the ages).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import erfc, log, sqrt
from typing import Any, Final

_FIRST_S: Final = 0.1
_RATIO: Final = 1.05
_BINS: Final = 320
"""The last one ends after a week."""
_LOG: Final = log(_RATIO)
_AGES: Final = tuple(_FIRST_S * _RATIO**number for number in range(_BINS))
_UNKNOWN: Final = 0.06
_ASSUMED_WEIGHT: Final = 20.0
"""How many jobs the log-normal counts for at each age."""
_USUAL_WEIGHT: Final = 8.0
"""How much it counts that the deviation is about the usual one."""
_ASSUMED_SIGMA: Final = 0.6 / _LOG
_STEP: Final = 0.8
_FINE: Final = 0.02
_LEAST: Final = 1e-6
_MOST: Final = 0.999
_GONE: Final = 1e-12
_ANCHOR: Final = 0.1
_ROOT_2: Final = sqrt(2.0)
_UNSEEN_BINS: Final = 22
"""How far beyond what was seen the mean is believed: three times the age."""
_REMEMBERED: Final = 450.0
_ROUNDS: Final = 2
_ENOUGH: Final = 6
_AGAIN_S: Final = 1.0
_WIDEST: Final = 6
_RARE: Final = 5e-4


def _bin(age_s: float) -> int:
    """Return the number of the bin whose end is nearest to an age."""
    if age_s <= _FIRST_S:
        return 0
    return min(_BINS - 1, int(log(age_s / _FIRST_S) / _LOG + 0.5))


def _hazard(number: int, middle: float, sigma: float) -> float:
    """Return how many of those that come to a bin become ready in it, if logarithms of latencies are normal.

    Args:
        number: The bin's.
        middle: The median, in bins.
        sigma: Their deviation, in bins.
    """
    before = erfc((number - 0.5 - middle) / sigma / _ROOT_2)
    if before < _GONE:
        return _MOST
    return min(_MOST, max(_LEAST, 1.0 - erfc((number + 0.5 - middle) / sigma / _ROOT_2) / before))


class Latency:
    """What is known of the latencies of one kind and model."""

    def __init__(self) -> None:
        self._ready: dict[tuple[int, int], float] = {}
        self._pending: dict[tuple[int, int], float] = {}
        self._hazard = [_UNKNOWN] * _BINS
        self._shape: tuple[float, float] | None = None
        """Median and deviation of the log-normal distribution that fits best, in bins."""
        self._total = 0.0
        self._new = 0
        self._ready_count = 0
        self.first_s = float("inf")
        """The least age at which a result was found ready."""
        self._planned_at = float("-inf")
        self._mean_s = 0.0
        self._plans: dict[float, list[int]] = {}

    @property
    def learnt(self) -> bool:
        """Whether there is something to go by."""
        return self._ready_count >= _ENOUGH

    @property
    def doubt(self) -> float:
        """How little is known: 1.0 for nothing to go by, less and less with each result."""
        return min(1.0, _ENOUGH / max(1, self._ready_count))

    @property
    def results(self) -> int:
        """How many results it was learnt from."""
        return self._ready_count

    def as_json(self) -> dict[str, Any]:
        """Return what is known, for another process."""
        ready, pending = (
            [[first, last, round(weight, 3)] for (first, last), weight in kept.items()]
            for kept in (self._ready, self._pending)
        )
        return {"ready": ready, "pending": pending, "total": self._total, "results": self._ready_count}

    def recall(self, known: Mapping[str, Any]) -> None:
        """Take over what `as_json` told."""
        self._ready = {(first, last): weight for first, last, weight in known["ready"]}
        self._pending = {(first, last): weight for first, last, weight in known["pending"]}
        self._total, self._ready_count = known["total"], known["results"]
        self._new = len(self._ready) + len(self._pending) + int(self._total)
        self.first_s = min((_AGES[last] for _, last in self._ready), default=self.first_s)

    def saw(self, since_s: float, age_s: float, *, ready: bool) -> None:
        """Note a poll at `age_s` of a job that was not ready at `since_s`."""
        if ready:
            self.first_s = min(self.first_s, age_s)
        first, last = _bin(since_s), _bin(age_s)
        if last <= first:
            if not ready:
                return
            first = last - 1
        kept = self._ready if ready else self._pending
        kept[first, last] = kept.get((first, last), 0.0) + 1.0
        self._new += 1
        self._ready_count += ready
        self._total += ready

    def next_age_s(self, age_s: float, *, price: float, now: float) -> float:
        """Return the age at which to ask next for what is not ready at an age.

        Args:
            age_s: That age.
            price: Of a poll, as a part of the mean latency.
            now: Monotonic; what was seen since is thought over once a second at most.
        """
        if self._new > 0.08 * self._total + 2.0 and now - self._planned_at >= _AGAIN_S:
            self._think(now)
        plan = self._plans.get(price)
        if plan is None:
            plan = self._plans[price] = self._plan(price * self._mean_s)
        return _AGES[plan[_bin(age_s)]]

    def _think(self, now: float) -> None:
        """Estimate the hazards anew."""
        self._planned_at, self._new = now, 0
        if self._total > _REMEMBERED:
            faded = _REMEMBERED / self._total
            self._total = _REMEMBERED
            for kept in (self._ready, self._pending):
                for key in list(kept):
                    kept[key] *= faded
                    if kept[key] < 1e-3:
                        del kept[key]
        passed = [0.0] * (_BINS + 1)
        for (first, last), weight in self._pending.items():
            passed[first + 1] += weight
            passed[last + 1] -= weight
        for number in range(1, _BINS + 1):
            passed[number] += passed[number - 1]
        shape = self._fit()
        assumed = self._hazard = [_hazard(number, *shape) for number in range(_BINS)]
        for _ in range(_ROUNDS):
            self._hazard = self._smooth(*self._expected(passed), assumed)
        self._mean_s = self._mean()
        self._plans.clear()

    def _expected(self, passed: list[float]) -> tuple[list[float], list[float]]:
        """Return, for each bin, how many became ready in it and how many came to it, by the hazards known so far."""
        came, ready = passed[:_BINS], [0.0] * _BINS
        hazard = self._hazard
        for (first, last), weight in self._ready.items():
            alive, shares = 1.0, []
            for number in range(first + 1, last + 1):
                share = alive * hazard[number]
                shares.append(share)
                alive -= share
            scale = weight / max(1e-12, 1.0 - alive)
            left = weight
            for number, share in enumerate(shares, first + 1):
                ready[number] += share * scale
                came[number] += left
                left -= share * scale
        return came, ready

    def _fit(self) -> tuple[float, float]:
        """Return the log-normal distribution that makes what was seen likeliest, from the last one on."""
        if self._shape is None:
            weight = max(1e-9, sum(self._ready.values()))
            middle = sum(last * some for (_, last), some in self._ready.items()) / weight
            self._shape = middle, _ASSUMED_SIGMA
        (middle, sigma), step, least = self._shape, _STEP, self._misfit(*self._shape)
        while step > _FINE:
            for around in (
                (middle + step * sigma, sigma), (middle - step * sigma, sigma),
                (middle, sigma * (1.0 + step)), (middle, sigma / (1.0 + step)),
                (middle + step * sigma, sigma * (1.0 + step)), (middle - step * sigma, sigma / (1.0 + step)),
            ):  # fmt: skip
                if (found := self._misfit(*around)) < least - 1e-9:
                    (middle, sigma), least = around, found
                    break
            else:
                step /= 2.0
        self._shape = middle, sigma
        return self._shape

    def _misfit(self, middle: float, sigma: float) -> float:
        """Return by how much a distribution makes what was seen unlikely, and how unusual its deviation is."""
        scale = 1.0 / (sigma * _ROOT_2)
        left = [max(_GONE, erfc((number + 0.5 - middle) * scale)) for number in range(_BINS)]
        unlikely = _USUAL_WEIGHT * log(sigma / _ASSUMED_SIGMA) ** 2
        for (first, last), weight in self._ready.items():
            # That it came so far counts a little where no poll told of it: else what is known of late ages alone, after
            # a restart, would fit the far end of any distribution.
            unlikely -= weight * (log(max(_LEAST, 1.0 - left[last] / left[first])) + _ANCHOR * log(left[first]))
        for (first, last), weight in self._pending.items():
            unlikely -= weight * log(left[last] / left[first])
        return unlikely

    def _smooth(self, came: list[float], ready: list[float], assumed: list[float]) -> list[float]:
        """Return hazards out of what was seen in bins around: the fewer there are, the more bins."""
        width = max(1, min(_WIDEST, round(60.0 / max(1.0, self._total))))
        hazard, some, all_of = [], sum(ready[:width]), sum(came[:width])
        for number in range(_BINS):
            if number + width < _BINS:
                some, all_of = some + ready[number + width], all_of + came[number + width]
            if number > width:
                some, all_of = some - ready[number - width - 1], all_of - came[number - width - 1]
            bins = min(_BINS - 1, number + width) - max(0, number - width) + 1
            found = (max(0.0, some) / bins + assumed[number] * _ASSUMED_WEIGHT) / (
                max(0.0, all_of) / bins + _ASSUMED_WEIGHT
            )
            hazard.append(min(_MOST, max(_LEAST, found)))
        return hazard

    def _mean(self) -> float:
        """Return the mean latency, as far as it can be believed."""
        seen = max((last for _, last in (*self._ready, *self._pending)), default=_BINS - 1)
        alive, mean, mass = 1.0, 0.0, 0.0
        for number in range(1, min(_BINS, seen + _UNSEEN_BINS)):
            share = alive * self._hazard[number]
            alive -= share
            mean += share * (_AGES[number - 1] + _AGES[number]) / 2
            mass += share
        return mean / mass if mass > 0 else _FIRST_S

    def _plan(self, price_s: float) -> list[int]:
        """Return, for each bin, the bin at whose end to poll next what is not ready at its end."""
        hazard = self._hazard
        following = [_BINS - 1] * _BINS
        costs = [0.0] * _BINS
        for start in range(_BINS - 2, -1, -1):
            if hazard[start + 1] < _RARE:  # nothing to be had just after it
                costs[start], following[start] = costs[start + 1], following[start + 1]
                continue
            best, alive, mass, moment = float("inf"), 1.0, 0.0, 0.0
            for end in range(start + 1, _BINS):
                share = alive * hazard[end]
                alive -= share
                mass += share
                moment += share * (_AGES[end - 1] + _AGES[end]) / 2
                lying_s = _AGES[end] * mass - moment
                if price_s + lying_s >= best:
                    break
                cost = price_s + lying_s + alive * costs[end]
                if cost < best:
                    best, following[start] = cost, end
            costs[start] = best
        return following
