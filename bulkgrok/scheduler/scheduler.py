"""What goes next, and when.

Law: `_choose` decides, synchronously, and takes nothing that may not go now; `next` sleeps until it may. Rules:

1. never more than `concurrency` actions are out at once; without a rate to go by, at first only a few, then ever more;
2. in an outage only probes go out, one at a time: a poll or `GET /v1/api-key`, which are free, and once that got
   through a single row;
3. the user's rates hold for all (`limits`), a pause and a rate that 429s led to for the requests of one model
   (`governor`);
4. due polls go before new work, the earliest deadline first: they free what is already paid for; one whose time is
   nearly over goes in spite of a pause;
5. then rows whose back-off has ended, then new ones; deferred ones only while fewer than `max_outstanding` wait;
6. a row for which there are not tokens enough waits, and no other passes it; polls do;
7. rows that were refused for their rate too often go last and alone;
8. where money is limited, a row that it does not reach for waits, and no other is sent before it (see `purse`).

Knows no HTTP, no checkpoint and no kind. Callers of `next` stand in a FIFO gate: one waits at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from bulkgrok.core.model import Job, Mode, Work
from bulkgrok.core.money import Money
from bulkgrok.core.outcome import Action, Feedback, Poll, Probe, Send, Sign
from bulkgrok.core.part import Part
from bulkgrok.core.ports import Clock
from bulkgrok.core.retry import Health, RetryQuota
from bulkgrok.scheduler.estimates import Estimates
from bulkgrok.scheduler.governor import Governor
from bulkgrok.scheduler.lanes import Lane
from bulkgrok.scheduler.limits import LAG_S, Limits
from bulkgrok.scheduler.polling import LONGEST_S, PollSchedule
from bulkgrok.scheduler.purse import Purse
from bulkgrok.scheduler.waiting import Waiting
from bulkgrok.scheduler.window import Window

_FOREVER: Final = float("inf")
_DRAIN_S: Final = 6 * 3600.0
_GUESSED_RPS_A_SLOT: Final = 5.0
_MOST_OUTSTANDING: Final = 1_000_000
_URGENT_S: Final = 120.0
_URGENT_APART_S: Final = 5.0
_SOME: Final = 0.1
_SUSPENDED_S: Final = 10.0
_EARLIER_S: Final = 3_600.0
"""Before the first deadline: whoever comes back may have to wait for a place, and for many polls."""


class Scheduler:
    """Hands out actions to any number of workers.

    Args:
        concurrency: Actions out at once, at most.
        max_outstanding: Jobs accepted and not redeemed, at most; None for as many as can be redeemed in `drain_s`.
        drain_s: Less than results are kept.
        limits: The user's rates.
        polling: When to poll.
        health: Outage detection, shared with whoever asks it.
        clock: Both clocks.
        jitter: Returns uniform numbers in [0, 1).
        purse: Asked before a row is sent.
        part: What is done of the run: a start that only submits asks for no result.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        concurrency: int,
        max_outstanding: int | None,
        drain_s: float = _DRAIN_S,
        limits: Limits,
        polling: PollSchedule,
        health: Health,
        clock: Clock,
        jitter: Callable[[], float],
        purse: Purse,
        part: Part = Part.WHOLE,
    ) -> None:
        self._purse = purse
        self._part = part
        self._concurrency = concurrency
        self._max_outstanding = max_outstanding
        self._drain_s = drain_s
        self._limits = limits
        self._polling = polling
        self.health = health
        self._clock = clock
        self._jitter = jitter
        self._quota = RetryQuota(capacity=max(10.0, 2.0 * concurrency))
        self._window = Window(concurrency, feels=limits.requests_per_s is None)
        self._estimates = Estimates()
        self._gate = asyncio.Lock()
        self._wake = asyncio.Event()
        self._asleep = False
        """Whether somebody waits for it: nearly always nobody does."""
        self._lanes: dict[str, Lane] = {}
        self._order: deque[Lane] = deque()
        self._jobs = Waiting()
        self._retries: list[tuple[float, int, Work]] = []
        self._last: deque[Work] = deque()
        self._head: Work | None = None
        self._tie = 0
        self._exhausted = False
        self._closed = False
        self._stopped = False
        self._probe: Action | None = None
        self._turn = 0
        self._control_through = False
        self._wall_ahead_s: float | None = None
        self._sending_deferred = 0
        self._held: dict[int, int] = {}
        self.held_bytes = 0
        """Size of all bodies that were offered and are neither done with nor put last."""
        self.in_flight = 0
        self.outstanding = 0
        self.throttled = 0

    # What comes in

    def offer(self, work: Work) -> None:
        """Queue a row to be sent."""
        self._held[work.item.row] = len(work.item.body)
        self.held_bytes += len(work.item.body)
        self._lane(work.item.model).offer(work)
        self._changed()

    def watch(self, job: Job, *, delay_s: float | None = None) -> None:
        """Poll a job from now on; `delay_s` None leaves the time to the schedule. Who only submits counts it."""
        self.outstanding += 1
        if self._part.asks:
            self._sleep(job, delay_s)

    def _lane(self, model: str) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            governor = Governor() if self._limits.requests_per_s is None else Governor(lag_s=LAG_S)
            lane = self._lanes[model] = Lane(self._jobs.due(model), governor)
            self._order.append(lane)
        return lane

    @property
    def queued(self) -> int:
        """Rows waiting to be sent for the first time since they were offered."""
        found = 0
        for lane in self._order:  # asked for with each row: a generator would take longer than what it yields
            found += len(lane.direct) + len(lane.deferred)
        return found

    @property
    def waiting(self) -> int:
        """Requests in flight that are no probes: an outage does not end a run while one may still be answered."""
        return self.in_flight - (self._probe is not None)

    @property
    def next_deadline_at(self) -> float | None:
        """About when the first outstanding result expires, as UNIX seconds; None when none is outstanding."""
        return self._jobs.nearest_deadline_at(self._clock.monotonic())

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, waiting, outstanding or in flight."""
        queued = self._head or self._purse.waiting or self._retries or self._last or any(self._order)
        return not (self.in_flight or queued or len(self._jobs))

    @property
    def _has_room(self) -> bool:
        """Whether one more job may be outstanding."""
        return self.outstanding + self._sending_deferred < self.most_outstanding

    @property
    def blocked(self) -> bool:
        """Whether rows wait to be sent and none can be before a result is redeemed: for room, or for money."""
        if self.in_flight:
            return False
        if self._purse.waiting is not None:  # nothing is sent before it, whatever else has its time
            return True
        if self._head or self._retries:
            return False
        room = self.outstanding < self.most_outstanding
        return not room and any(self._order) and all(lane.only_deferred for lane in self._order)

    @property
    def waits_for_money(self) -> bool:
        """Whether a row waits for money that what is on its way may leave."""
        return self._purse.waiting is not None

    @property
    def resting(self) -> bool:
        """Whether results are outstanding and nothing can be done before the next of them is worth asking for."""
        if self.in_flight or self.health.outage_since is not None or not len(self._jobs):
            return False
        if self._jobs.next_at <= self._clock.monotonic() or any(lane.due for lane in self._order):
            return False
        waiting = self._head or self._retries or self._last or self._purse.waiting or any(self._order)
        return self.blocked or not waiting

    def learnt(self) -> list[Any]:
        """Return what was learnt of latencies, for a later start."""
        return self._polling.learnt()

    def recall(self, learnt: list[Any]) -> None:
        """Take over what an earlier start learnt of latencies."""
        self._polling.recall(learnt)

    def keep_time(self) -> None:
        """Notice, if asked now and then, that the machine was suspended: deadlines count that, its own clock does not.

        What waits for its poll then comes due as much earlier. A wall clock that was set forward looks the same, and
        costs a poll of each.
        """
        now = self._clock.monotonic()
        ahead_s, before_s = self._clock.wall() - now, self._wall_ahead_s
        self._wall_ahead_s = ahead_s
        if before_s is not None and ahead_s - before_s >= _SUSPENDED_S:
            self._jobs.hurry(ahead_s - before_s, now=now)
            self._changed()

    def rests_until(self) -> float:
        """Return when it pays to ask for results again, as UNIX seconds: one of ten is then likely to be ready.

        In any case long before the first of them expires. The schedule's own times count from a poll to the next in one
        process; who must come back first may be late, and asks for all: twice in half a minute is no use.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        first_s = max(self._jobs.due_at(_SOME) - now, self._polling.shortest_rest_s)
        deadline_at = self._jobs.nearest_deadline_at(now) or _FOREVER
        last_s = deadline_at - min(_EARLIER_S, self._drain_s) - wall
        return wall + min(first_s, max(last_s, min(LONGEST_S, self._polling.shortest_rest_s)))

    @property
    def most_outstanding(self) -> int:
        """How many jobs may be outstanding: what polls at the rate that is allowed redeem in time."""
        if self._max_outstanding is not None:
            return self._max_outstanding
        found = [lane.governor.per_s for lane in self._order]
        per_s = self._limits.requests_per_s or self._concurrency * _GUESSED_RPS_A_SLOT
        if found and None not in found:
            per_s = min(per_s, sum(rate for rate in found if rate is not None))
        return max(1, min(_MOST_OUTSTANDING, int(per_s / max(1.0, self._polling.polls_a_result) * self._drain_s)))

    def exhausted(self) -> None:
        """Say that the input was read once in whole: rows that go last may go when all others are done."""
        self._exhausted = True
        self._changed()

    def close(self) -> None:
        """Say that nothing more will be offered: `next` returns None once everything is done."""
        self._closed = True
        self._changed()

    def stop(self) -> None:
        """Hand out nothing more: `next` returns None at once."""
        self._stopped = True
        self._changed()

    # Money

    def counted(self, work: Work) -> None:
        """Say that a row's intent is durable: the checkpoint counts its money from now on."""
        if not self._purse.bottomless and self._purse.counted(work):
            self._wake_who_waits_for_money()

    def paid(self, money: Money) -> None:
        """Tell what the checkpoint counts now."""
        self._purse.paid(money)
        self._wake_who_waits_for_money()

    def _wake_who_waits_for_money(self) -> None:
        if self._purse.waiting is not None:
            self._changed()

    # What goes out

    async def next(self) -> Action | None:
        """Wait for the next action and return it; None when all is done or `stop` was called.

        Every action returned must be reported back once.
        """
        if not self._gate.locked():  # nobody waits: nearly always something may go at once
            over, action, _ = self._decide()
            if over or action is not None:
                return action
        async with self._gate:
            while True:
                over, action, at = self._decide()
                if over or action is not None:
                    return action
                await self._sleep_until(at)

    def _decide(self) -> tuple[bool, Action | None, float]:
        """Return whether all is over, what goes now, and the monotonic time at which to look again."""
        if self._over:
            return True, None, _FOREVER
        action, at = self._choose(self._clock.monotonic())
        if action is None:  # the last row may have been set aside just now
            return self._over, None, at
        self._count(action, 1)
        return False, action, at

    @property
    def _over(self) -> bool:
        return self._stopped or (self._closed and self.idle)

    def _count(self, action: Action, change: int) -> None:
        """Count an action that goes out (1) or comes back (-1)."""
        self.in_flight += change
        if isinstance(action, Send) and action.work.item.mode is Mode.DEFERRED:
            self._sending_deferred += change
        if change < 0 and action is self._probe:
            self._probe = None

    def _choose(self, now: float) -> tuple[Action | None, float]:
        """Return what may go now, or None and the monotonic time at which to look again (or be woken before)."""
        if self.in_flight >= self._concurrency:
            return None, _FOREVER
        if self.health.outage_since is not None:
            return self._choose_probe(now)
        if not self._window.open and self._window.full(self.in_flight, now):
            return None, self._window.next_at(now)
        if (at := self._limits.next_at) > now:
            return None, at
        if self._jobs.next_at <= now:
            self._jobs.wake(now)
        while (lane := self._lane_to_poll(now)) is not None:
            if (poll := self._poll(lane, now)) is not None:
                return poll, now
        if (work := self._choose_work(now)) is not None:
            return self._send(work, now), now
        return None, self._look_again_at(now)

    def _poll(self, lane: Lane, now: float) -> Poll | None:
        """Poll the first job that is due, unless by what was learnt meanwhile it is too early for that."""
        early_s = self._polling.early_s(self._jobs.look(lane.due), now=self._clock.wall())
        if early_s > 0.0:
            self._jobs.postpone(lane.due, at=now + early_s, now=now)
            return None
        job = self._jobs.pop(lane.due)
        limited = lane.governor.per_s is not None or self._limits.requests_per_s is not None
        self._polling.rate_is(full=self._limits.full(now) or lane.governor.full(now) if limited else None)
        self._limits.take(now)
        lane.governor.take(now)
        return Poll(job=job, at=now)

    def _send(self, work: Work, now: float) -> Send:
        governor = self._lane(work.item.model).governor
        self._limits.take(now)
        governor.take(now)
        common, own = self._limits.tokens, governor.tokens
        if common is None and own is None:
            return Send(work=work, at=now)
        tokens = self._tokens(work)
        for budget in (common, own):
            if budget is not None:
                budget.take(now, tokens)
        return Send(work=work, at=now, tokens=tokens)

    def _lane_to_poll(self, now: float) -> Lane | None:
        """Return the lane whose first due poll goes next."""
        found = None
        for lane in self._order:
            sooner = lane.due and (found is None or lane.due[0] < found.due[0])
            if sooner and (lane.governor.open_at <= now or self._urgent(lane, now)):
                found = lane
        return found

    def _urgent(self, lane: Lane, now: float) -> bool:
        """Whether a due poll goes in spite of a pause: its time is nearly over. One each 5 s, whatever comes back."""
        if now < self._urgent_at(lane, now):
            return False
        lane.urgent_at = now + _URGENT_APART_S
        return True

    def _urgent_at(self, lane: Lane, now: float) -> float:
        """Return when a due poll may go in spite of a pause."""
        return max(lane.urgent_at, now + self._jobs.deadline_at(lane.due) - self._clock.wall() - _URGENT_S)

    def _choose_work(self, now: float) -> Work | None:
        """Take the row whose turn it is, unless it must wait."""
        while True:
            work, self._head = self._head, None
            if work is None:
                bottomless = self._purse.bottomless
                work = self._next_work(now) if bottomless else self._purse.next(lambda: self._next_work(now))
            if work is None:
                return None
            if (lane := self._lane(work.item.model)).governor.open_at <= now:
                break
            lane.head = work  # rows of other models need not wait for this one's, nor for its money
            self._purse.counted(work)
        budget = self._limits.tokens
        if budget is not None and budget.ready_at(now, self._tokens(work)) > now:
            self._head, work = work, None
        return work

    def _next_work(self, now: float) -> Work | None:
        while self._retries and self._retries[0][0] <= now:
            work = heappop(self._retries)[2]
            self._lane(work.item.model).again.append(work)
        for turn, lane in enumerate(self._order):
            if not lane or lane.governor.open_at > now:
                continue
            room = not (lane.again or lane.deferred) or self._has_room
            if (found := self._row_of(lane, now, room=room)) is not None:
                self._order.rotate(-1 - turn)
                return found
        if self._last and self._exhausted and self.in_flight == 0 and not self._retries and not any(self._order):
            return self._last.popleft()
        return None

    def _row_of(self, lane: Lane, now: float, *, room: bool) -> Work | None:
        work = lane.pop(room=room)
        tokens = lane.governor.tokens
        if work is not None and tokens is not None and tokens.ready_at(now, self._tokens(work)) > now:
            lane.head, work = work, None
        return work

    def _look_again_at(self, now: float) -> float:
        """Return when something may go that may not go now."""
        at = self._jobs.next_at
        if self._head is not None and self._limits.tokens is not None:
            at = min(at, self._limits.tokens.ready_at(now, self._tokens(self._head)))
        held_up = self._head or self._purse.waiting
        if self._retries and not held_up:
            at = min(at, self._retries[0][0])
        for lane in self._order:
            if lane.due:
                at = min(at, max(lane.governor.open_at, now), self._urgent_at(lane, now))
            elif lane and not held_up:
                ready_at = lane.governor.open_at
                if lane.head is not None and lane.governor.tokens is not None:
                    ready_at = max(ready_at, lane.governor.tokens.ready_at(now, self._tokens(lane.head)))
                if ready_at > now:
                    at = min(at, ready_at)
        return at

    def _tokens(self, work: Work) -> float:
        item = work.item
        return self._estimates.of(item.model, item.kind, item.tokens)

    def _choose_probe(self, now: float) -> tuple[Action | None, float]:
        if self._probe is not None:
            return None, _FOREVER
        if now < self.health.next_probe_at:
            return None, self.health.next_probe_at
        self.health.probing(now)
        self._probe = self._probe_of(self._turn, now)
        self._turn += 1
        return self._probe, now

    def _probe_of(self, turn: int, now: float) -> Action:
        """Choose the n-th probe of an outage.

        Polls and control requests take turns: a job that alone gets a 5xx must not look like an outage for ever. A
        POST goes out only after a control request got through, or, for an API without one, every fourth time.
        """
        if turn % 2 == 0 and (job := self._jobs.pop_any()) is not None:
            return Poll(job=job, at=now)
        if (self._control_through or turn % 4 == 3) and (work := self._any_approved_work()) is not None:
            self._control_through = False
            return self._send(work, now)
        return Probe()

    def _any_approved_work(self) -> Work | None:
        """Take a row that waits to be sent, whatever it waits for but money."""
        if self._head is not None:
            work, self._head = self._head, None
            return work
        return self._purse.next(self._any_work)

    def _any_work(self) -> Work | None:
        if self._retries:
            return heappop(self._retries)[2]
        for lane in self._order:
            if (found := lane.pop_any()) is not None:
                return found
        return self._last.popleft() if self._last else None

    async def _sleep_until(self, at: float) -> None:
        """Wait until a monotonic time, or until something changes."""
        self._wake.clear()
        self._asleep = True
        timer = None
        if at != _FOREVER:
            delay = max(0.001, at - self._clock.monotonic())
            timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            self._asleep = False
            if timer is not None:
                timer.cancel()

    def _changed(self) -> None:
        """Wake whoever waits for something to change."""
        if self._asleep:
            self._wake.set()

    # What comes back

    def report(self, action: Action, feedback: Feedback) -> None:
        """Take back an action with what became of it."""
        now = self._clock.monotonic()
        self._count(action, -1)
        self._note_sign(action, feedback, now)
        if isinstance(action, Send):
            self.counted(action.work)
            if feedback.again is None or feedback.last:
                self.held_bytes -= self._held.pop(action.work.item.row, 0)
            self._note_tokens(action, feedback)
        elif isinstance(action, Poll):
            self._note_poll(action, feedback, now)
        if isinstance(action, Poll) and feedback.job is None:
            self.outstanding -= 1
            if feedback.tokens is not None and action.job.tokens:
                job = action.job
                self._estimates.learn(job.model, job.kind, estimated=job.tokens, actual=feedback.tokens)
        if feedback.again is not None:
            self._retry(feedback, feedback.again, now)
        elif feedback.job is not None:
            if isinstance(action, Send):
                self.watch(feedback.job, delay_s=feedback.delay_s)
            else:
                self._sleep(feedback.job, feedback.delay_s)
        self._changed()

    def _note_poll(self, action: Poll, feedback: Feedback, now: float) -> None:
        """Learn from a poll that told whether a result is ready, and not from others."""
        age_s = self._clock.wall() - (now - action.at) - action.job.submitted_at
        if feedback.sign is Sign.GOOD and feedback.stop is None:
            self._polling.saw(action.job, age_s=age_s, ready=feedback.job is None)
        else:
            self._polling.heard_nothing(action.job, age_s=age_s)

    def _note_tokens(self, action: Send, feedback: Feedback) -> None:
        """Correct what a request was let go for by what it took: nothing, where it was refused."""
        item = action.work.item
        taken = 0 if feedback.sign is Sign.THROTTLED else feedback.tokens
        if taken is None:
            return
        if action.tokens:
            for budget in (self._limits.tokens, self._lane(item.model).governor.tokens):
                if budget is not None:
                    budget.correct(action.at, taken - action.tokens)
        if feedback.tokens is not None:
            self._estimates.learn(item.model, item.kind, estimated=item.tokens, actual=feedback.tokens)

    def _note_sign(self, action: Action, feedback: Feedback, now: float) -> None:
        lane = self._lane_of(action)
        match feedback.sign:
            case Sign.GOOD | Sign.MISSING:
                self.health.good(now, answered=feedback.sign is Sign.GOOD)
                self._quota.refund()
                if not self._window.open:
                    self._window.good()
                if lane is not None:
                    lane.governor.good(action.at if not isinstance(action, Probe) else now)
            case Sign.THROTTLED:
                self.health.good(now, answered=False)
                self.throttled += 1
                if lane is not None and not isinstance(action, Probe):
                    self._throttled(lane, action.at, feedback, now)
            case Sign.THERE:
                self.health.there(now)
                self._control_through = True
            case Sign.BAD:
                self.health.bad(now, feedback.reason)

    def _throttled(self, lane: Lane, sent_at: float, feedback: Feedback, now: float) -> None:
        begins = lane.governor.throttled(
            now, sent_at, retry_after_s=feedback.retry_after_s, named=feedback.limit, jitter=self._jitter()
        )
        if begins and self._limits.requests_per_s is None:
            self._window.halve()

    def _lane_of(self, action: Action) -> Lane | None:
        if isinstance(action, Send):
            return self._lane(action.work.item.model)
        return self._lane(action.job.model) if isinstance(action, Poll) else None

    def _retry(self, feedback: Feedback, work: Work, now: float) -> None:
        if feedback.last:
            self._last.append(work)
            return
        delay = feedback.delay_s or 0.0
        if feedback.sign is Sign.BAD:
            delay = max(delay, self._quota.delay_s(now))
        self._tie += 1
        heappush(self._retries, (now + delay, self._tie, work))

    def _sleep(self, job: Job, delay_s: float | None) -> None:
        if delay_s is None:
            delay_s = self._polling.delay_s(job, now=self._clock.wall(), jitter=self._jitter())
        now = self._clock.monotonic()
        self._lane(job.model)
        self._jobs.put(job, at=now + delay_s, now=now)
        self._changed()
