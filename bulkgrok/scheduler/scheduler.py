"""What goes next, and when.

Law: `_choose` decides, synchronously; `next` waits for what it decided. Rules, in order:

1. never more than `concurrency` actions are out at once, and fewer after a 429 (the window halves, then grows again);
2. in an outage only probes go out, one at a time: a poll or `GET /v1/api-key`, which are free, and once that got
   through a single row;
3. a pause after a 429 holds for everybody;
4. due polls go before new work, the earliest deadline first: they free what is already paid for;
5. then rows whose back-off has ended, then new ones; deferred ones only while fewer than `max_outstanding` wait;
6. rows that were refused for their rate too often go last and alone;
7. where money is limited, a row that it does not reach for waits, and no other is sent before it (see `purse`).

Knows no HTTP, no checkpoint and no kind. Callers of `next` stand in a FIFO gate: one waits at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from bulkgrok.core.model import Job, Mode, Work
from bulkgrok.core.money import Money
from bulkgrok.core.outcome import Action, Feedback, Poll, Probe, Send, Sign
from bulkgrok.core.ports import Clock
from bulkgrok.core.retry import Brake, Health, RetryQuota
from bulkgrok.scheduler.limits import Limits
from bulkgrok.scheduler.polling import PollSchedule
from bulkgrok.scheduler.purse import Purse

_FOREVER: Final = float("inf")


class Scheduler:
    """Hands out actions to any number of workers.

    Args:
        concurrency: Actions out at once, at most.
        max_outstanding: Jobs accepted and not redeemed, at most.
        limits: Rates.
        polling: When to poll.
        health: Outage detection, shared with whoever asks it.
        clock: Both clocks.
        jitter: Returns uniform numbers in [0, 1).
        purse: Asked before a row is sent.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        concurrency: int,
        max_outstanding: int,
        limits: Limits,
        polling: PollSchedule,
        health: Health,
        clock: Clock,
        jitter: Callable[[], float],
        purse: Purse,
    ) -> None:
        self._purse = purse
        self._concurrency = concurrency
        self._max_outstanding = max_outstanding
        self._limits = limits
        self._polling = polling
        self.health = health
        self._clock = clock
        self._jitter = jitter
        self._brake = Brake()
        self._quota = RetryQuota(capacity=max(10.0, 2.0 * concurrency))
        self._gate = asyncio.Lock()
        self._wake = asyncio.Event()
        self._window = float(concurrency)
        self._direct: deque[Work] = deque()
        self._deferred: deque[Work] = deque()
        self._retries: list[tuple[float, int, Work]] = []
        self._last: deque[Work] = deque()
        self._sleeping: list[tuple[float, int, Job]] = []
        self._due: list[tuple[float, int, Job]] = []
        self._tie = 0
        self._exhausted = False
        self._closed = False
        self._stopped = False
        self._probe: Action | None = None
        self._turn = 0
        self._control_through = False
        self._sending_deferred = 0
        self._halt: asyncio.Future[None] | None = None
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
        (self._deferred if work.item.mode is Mode.DEFERRED else self._direct).append(work)
        self._wake.set()

    def watch(self, job: Job, *, delay_s: float | None = None) -> None:
        """Poll a job from now on; `delay_s` None leaves the time to the schedule."""
        self.outstanding += 1
        self._sleep(job, delay_s)

    @property
    def queued(self) -> int:
        """Rows waiting to be sent for the first time since they were offered."""
        return len(self._direct) + len(self._deferred)

    @property
    def waiting(self) -> int:
        """Requests in flight that are no probes: an outage does not end a run while one may still be answered."""
        return self.in_flight - (self._probe is not None)

    @property
    def next_deadline_at(self) -> float | None:
        """About when the first outstanding result expires, as UNIX seconds; None when none is outstanding."""
        nearest = [heap[0][2].deadline_at for heap in (self._due, self._sleeping) if heap]
        return min(nearest) if nearest else None

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, waiting, outstanding or in flight."""
        return not (
            self.in_flight
            or self._direct
            or self._deferred
            or self._retries
            or self._last
            or self._purse.waiting
            or self._sleeping
            or self._due
        )

    def exhausted(self) -> None:
        """Say that the input was read once in whole: rows that go last may go when all others are done."""
        self._exhausted = True
        self._wake.set()

    def close(self) -> None:
        """Say that nothing more will be offered: `next` returns None once everything is done."""
        self._closed = True
        self._wake.set()

    def stop(self) -> None:
        """Hand out nothing more: `next` returns None at once."""
        self._stopped = True
        self._wake.set()
        if self._halt is not None and not self._halt.done():
            self._halt.set_result(None)

    # Money

    def counted(self, work: Work) -> None:
        """Say that a row's intent is durable: the checkpoint counts its money from now on."""
        if self._purse.counted(work):
            self._wake_who_waits_for_money()

    def paid(self, money: Money) -> None:
        """Tell what the checkpoint counts now."""
        self._purse.paid(money)
        self._wake_who_waits_for_money()

    def _wake_who_waits_for_money(self) -> None:
        if self._purse.waiting is not None:
            self._wake.set()

    # What goes out

    async def next(self) -> Action | None:
        """Wait for the next action and return it; None when all is done or `stop` was called.

        Every action returned must be reported back once.
        """
        async with self._gate:
            while True:
                if self._stopped or (self._closed and self.idle):
                    return None
                now = self._clock.monotonic()
                action, at = self._choose(now)
                if action is None:
                    await self._sleep_until(at)
                    continue
                self._count(action, 1)
                if await self._admitted(action):
                    return action

    def _count(self, action: Action, change: int) -> None:
        """Count an action that goes out (1) or comes back (-1)."""
        self.in_flight += change
        if isinstance(action, Send) and action.work.item.mode is Mode.DEFERRED:
            self._sending_deferred += change
        if change < 0 and action is self._probe:
            self._probe = None

    async def _admitted(self, action: Action) -> bool:
        """Wait for the rate limits; take the action back if the world changed meanwhile."""
        if isinstance(action, Probe):
            return True
        if self._limits.limited:
            try:
                await self._acquire(action.work.item.tokens if isinstance(action, Send) else 0)
            except BaseException:
                self._undo(action)
                raise
        if self._stopped or (self._clock.monotonic() < self._brake.until and action is not self._probe):
            self._undo(action)
            return False
        return True

    async def _acquire(self, tokens: int) -> None:
        """Wait for the rate limits, or for `stop`."""
        if self._halt is None:
            self._halt = asyncio.get_running_loop().create_future()
        acquiring = asyncio.ensure_future(self._limits.acquire(tokens))
        try:
            await asyncio.wait({acquiring, self._halt}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            acquiring.cancel()

    def _choose(self, now: float) -> tuple[Action | None, float]:
        """Return what may go now, or None and the monotonic time at which to look again (or be woken before)."""
        self._wake.clear()
        if self.in_flight >= self._concurrency:
            return None, _FOREVER
        if self.health.outage_since is not None:
            return self._choose_probe(now)
        if self.in_flight >= max(1, int(self._window)):
            return None, _FOREVER
        if now < self._brake.until:
            return None, self._brake.until
        while self._sleeping and self._sleeping[0][0] <= now:
            _, _, job = heappop(self._sleeping)
            self._tie += 1
            heappush(self._due, (job.deadline_at, self._tie, job))
        if self._due:
            return Poll(job=heappop(self._due)[2]), now
        if (work := self._purse.next(lambda: self._choose_work(now))) is not None:
            return Send(work=work), now
        wake_at = min(
            self._sleeping[0][0] if self._sleeping else _FOREVER,
            self._retries[0][0] if self._retries and self._purse.waiting is None else _FOREVER,
        )
        return None, wake_at

    def _choose_work(self, now: float) -> Work | None:
        room = self.outstanding + self._sending_deferred < self._max_outstanding
        while self._retries and self._retries[0][0] <= now:
            work = heappop(self._retries)[2]
            if room or work.item.mode is Mode.DIRECT:
                return work
            self._deferred.appendleft(work)
        if self._direct:
            return self._direct.popleft()
        if self._deferred and room:
            return self._deferred.popleft()
        if self._last and self._exhausted and self.in_flight == 0 and not self._retries and not self._deferred:
            return self._last.popleft()
        return None

    def _choose_probe(self, now: float) -> tuple[Action | None, float]:
        if self._probe is not None:
            return None, _FOREVER
        if now < self.health.next_probe_at:
            return None, self.health.next_probe_at
        self.health.probing(now)
        self._probe = self._probe_of(self._turn)
        self._turn += 1
        return self._probe, now

    def _probe_of(self, turn: int) -> Action:
        """Choose the n-th probe of an outage.

        Polls and control requests take turns: a job that alone gets a 5xx must not look like an outage for ever. A
        POST goes out only after a control request got through, or, for an API without one, every fourth time.
        """
        heap = self._due or self._sleeping
        if heap and turn % 2 == 0:
            return Poll(job=heappop(heap)[2])
        if (self._control_through or turn % 4 == 3) and (work := self._purse.next(self._any_work)) is not None:
            self._control_through = False
            return Send(work=work)
        return Probe()

    def _any_work(self) -> Work | None:
        """Take a row that waits to be sent, whatever it waits for."""
        if self._retries:
            return heappop(self._retries)[2]
        for queue in (self._direct, self._deferred, self._last):
            if queue:
                return queue.popleft()
        return None

    def _undo(self, action: Action) -> None:
        """Put an action back that was chosen and not handed out."""
        self._count(action, -1)
        if isinstance(action, Send):
            self.counted(action.work)
            self._tie += 1
            heappush(self._retries, (0.0, self._tie, action.work))
        elif isinstance(action, Poll):
            self._tie += 1
            heappush(self._due, (action.job.deadline_at, self._tie, action.job))

    async def _sleep_until(self, at: float) -> None:
        """Wait until a monotonic time, or until something changes."""
        if at == _FOREVER:
            await self._wake.wait()
            return
        loop = asyncio.get_running_loop()
        delay = max(0.001, at - self._clock.monotonic())
        timer = loop.call_later(delay, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    # What comes back

    def report(self, action: Action, feedback: Feedback) -> None:
        """Take back an action with what became of it."""
        now = self._clock.monotonic()
        self._count(action, -1)
        self._note_sign(feedback, now)
        if isinstance(action, Send):
            self.counted(action.work)
            if feedback.again is None or feedback.last:
                self.held_bytes -= self._held.pop(action.work.item.row, 0)
            if feedback.tokens is not None:
                self._limits.correct(estimated=action.work.item.tokens, actual=feedback.tokens)
        elif isinstance(action, Poll) and feedback.job is None:
            self.outstanding -= 1
        if feedback.again is not None:
            self._retry(feedback, feedback.again, now)
        elif feedback.job is not None:
            if isinstance(action, Send):
                self.watch(feedback.job, delay_s=feedback.delay_s)
            else:
                self._sleep(feedback.job, feedback.delay_s)
        self._wake.set()

    def _note_sign(self, feedback: Feedback, now: float) -> None:
        match feedback.sign:
            case Sign.GOOD | Sign.MISSING:
                self.health.good(now, answered=feedback.sign is Sign.GOOD)
                self._brake.good()
                self._quota.refund()
                self._window = min(float(self._concurrency), self._window + 0.5)
            case Sign.THROTTLED:
                self.health.good(now, answered=False)
                self.throttled += 1
                if self._brake.throttled(now, feedback.retry_after_s, jitter=self._jitter()):
                    self._window = max(1.0, self._window / 2.0)
            case Sign.THERE:
                self.health.there(now)
                self._control_through = True
            case Sign.BAD:
                self.health.bad(now, feedback.reason)

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
        self._tie += 1
        heappush(self._sleeping, (self._clock.monotonic() + delay_s, self._tie, job))
        self._wake.set()
