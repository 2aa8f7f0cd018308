"""Rates against a server that counts, in virtual time: what a disk and a network do to even spacing included."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from bulkgrok.core.model import Item, Job, Mode, Reply, RequestId, Work
from bulkgrok.core.outcome import Feedback, Poll, Send, Sign
from bulkgrok.core.retry import Health
from bulkgrok.core.verdict import named_limit
from bulkgrok.scheduler.estimates import Estimates
from bulkgrok.scheduler.limits import Limits
from bulkgrok.scheduler.polling import PollSchedule
from bulkgrok.scheduler.purse import Purse
from bulkgrok.scheduler.scheduler import Scheduler
from bulkgrok.simulator.limits import Limiter
from bulkgrok.simulator.refusals import Refusal
from bulkgrok.simulator.settings import SimulatorSettings
from bulkgrok.testing import VirtualTimeLoop

STORM = Refusal(429, "exhausted", "The service is temporarily at capacity. Please try again later.")


class LoopClock:
    def wall(self):
        return asyncio.get_running_loop().time() + 1_000_000.0

    def monotonic(self):
        return asyncio.get_running_loop().time()


def work(row, *, tokens=10, model="m", mode=Mode.DIRECT):
    return Work(
        item=Item(
            row=row, line=None, custom_id=str(row), kind="chat", mode=mode, model=model, stream=False, body=b"{}",
            digest=b"", max_usd=0.0, tokens=tokens,
        )
    )  # fmt: skip


@dataclass(kw_only=True)
class Day:
    """A run of the scheduler against the simulator's limiter.

    `commit_s` bounds what a commit takes, `way_s` the way to the server; `stalls` are (at, until) of a disk that hangs.
    """

    flags: dict
    server: dict
    concurrency: int = 200
    latency_s: float = 0.5
    commit_s: float = 0.0
    way_s: float = 0.0
    named: bool = True
    taken: object = None
    stalls: tuple = ()
    until: float = 61.0
    supply: object = None
    storm: tuple = (0.0, 0.0)
    later: tuple = ()
    admitted: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    sent: dict = field(default_factory=dict)

    def play(self, seed=0):
        self.chance = random.Random(seed)
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(self._play())
        return self

    async def _play(self):
        limits = Limits(**self.flags)
        self.scheduler = Scheduler(
            concurrency=self.concurrency, max_outstanding=10**6, limits=limits, polling=PollSchedule(interval_s=5.0),
            health=Health(max_outage_s=7200.0), clock=LoopClock(), jitter=self.chance.random,
            purse=Purse(None, lambda: None),
        )  # fmt: skip
        self.door = limits.door()
        self.limiter = Limiter()
        self.settings = SimulatorSettings().merged(self.server)
        self.rows = iter(range(10**9))
        self.offer = self.supply or (work)
        tasks = [self._supply(), *(self._work() for _ in range(self.concurrency))]
        workers = [asyncio.ensure_future(task) for task in tasks]
        await asyncio.sleep(self.until)
        for worker in workers:
            worker.cancel()
        for ended in await asyncio.gather(*workers, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise ended

    async def _work(self):
        loop = asyncio.get_running_loop()
        while (action := await self.scheduler.next()) is not None:
            if self.commit_s:
                done = loop.time() + self.chance.random() * self.commit_s
                done = next((ends for begins, ends in self.stalls if begins <= done < ends), done)
                await asyncio.sleep(done - loop.time())
            if self.door is not None:
                await self.door.depart()
            await asyncio.sleep(self.way_s * self.chance.random())
            now = loop.time()
            model = action.work.item.model if isinstance(action, Send) else action.job.model
            tokens = 0 if isinstance(action, Poll) else self._tokens(action.work)
            if self.storm[0] <= now < self.storm[1]:
                refusal = STORM
            else:
                refusal = self.limiter.admit(model, tokens, 1_000_000.0 + now, self._settings(now))
            if refusal is not None:
                self.refused.append(now)
                limit = named_limit(refusal.text, Reply(status=429)) if self.named else None
                await asyncio.sleep(0.05)
                again = action.work if isinstance(action, Send) else None
                waiting = action.job if isinstance(action, Poll) else None
                feedback = Feedback(sign=Sign.THROTTLED, again=again, job=waiting, delay_s=0.1, limit=limit)
            else:
                self.admitted.append(now)
                if isinstance(action, Send):
                    self.sent[action.work.item.row] = now
                await asyncio.sleep(self.latency_s)
                taken = self._tokens(action.work) if isinstance(action, Send) else None
                feedback = Feedback(sign=Sign.GOOD, tokens=taken)
            self.scheduler.report(action, feedback)

    async def _supply(self):
        while True:
            while self.scheduler.queued < 200:
                self.scheduler.offer(self.offer(next(self.rows)))
            await asyncio.sleep(0.05)

    def _settings(self, now):
        merged = [server for begins, server in self.later if begins <= now]
        return self.settings.merged(merged[-1]) if merged else self.settings

    def _tokens(self, row):
        return self.taken(row) if self.taken is not None else row.item.tokens

    def count(self, first, last):
        return sum(first <= at < last for at in self.admitted)


@pytest.mark.parametrize("window", ["fixed", "sliding"])
@pytest.mark.parametrize("rps", [1, 7, 20, 100])
def test_a_named_rate_is_used_in_full_from_the_first_second_and_never_refused(rps, window):
    """Commits of up to 30 ms, a way of up to 15 ms, a disk that hangs twice: what is bunched leaves evenly."""
    day = Day(
        flags={"rps": rps}, server={"rps": rps, "limit_window": window}, commit_s=0.03, way_s=0.015,
        concurrency=max(200, rps), stalls=((10.3, 10.35), (30.7, 30.78)),
    ).play()  # fmt: skip
    assert day.refused == []
    assert day.count(0.0, 60.0) >= 0.98 * rps * 60 - 1
    assert day.count(0.0, 1.0) <= rps


@pytest.mark.parametrize("window", ["fixed", "sliding"])
def test_a_rate_a_minute_is_spread_evenly(window):
    day = Day(flags={"rpm": 300}, server={"rpm": 300, "limit_window": window}, commit_s=0.03, way_s=0.01).play()
    assert day.refused == []
    assert day.count(0.0, 60.0) >= 0.98 * 300
    assert max(day.count(second, second + 1) for second in range(60)) <= 6


def test_an_idle_while_is_no_licence_for_a_burst():
    async def scenario():
        limits, loop = Limits(rps=20), asyncio.get_running_loop()
        door = limits.door()
        await door.depart()
        await asyncio.sleep(100.0)
        departed = []
        for _ in range(60):
            await door.depart()
            departed.append(loop.time())
        return departed

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        departed = runner.run(scenario())
    assert all(late - early >= 1.0 for early, late in zip(departed, departed[20:], strict=False))
    assert departed[9] - departed[0] > 0.2


@pytest.mark.parametrize("seed", range(3))
def test_a_large_request_waits_its_share_of_the_token_budget_behind_a_stream_of_small_ones(seed):
    """30 s of the budget wait 30 s; at most 1.2 times that."""
    large = 2_000

    def supply(row):
        return work(row, tokens=30_000 if row == large else 100)

    day = Day(
        flags={"tpm": 60_000}, server={"tpm": 60_000}, supply=supply, concurrency=50, latency_s=2.0, until=400.0,
        commit_s=0.02,
    ).play(seed)  # fmt: skip
    before = max(at for row, at in day.sent.items() if row < large)
    assert day.refused == []
    assert day.sent[large] - before <= 1.2 * 30.0
    assert len(day.admitted) > large


def test_large_requests_that_follow_each_other_wait_their_share_too():
    """What went around the first is no burst that the second one must wait for."""
    large = (112, 337, 562)

    def supply(row):
        return work(row, tokens=30_000 if row in large else 400)

    day = Day(
        flags={"tpm": 60_000}, server={"tpm": 60_000}, supply=supply, concurrency=50, latency_s=2.0, until=600.0,
        commit_s=0.02,
    ).play()  # fmt: skip
    assert day.refused == []
    for row in large:
        assert day.sent[row] - day.sent[row - 1] <= 1.2 * 30.0
    assert max(day.sent) > max(large)


def test_a_large_request_waits_its_share_where_the_budget_is_hundreds_of_requests_a_second():
    """Its room comes free as late as the first small ones went: a slow start would be waited for here."""
    large = 11_250

    def supply(row):
        return work(row, tokens=3_000_000 if row == large else 400)

    day = Day(
        flags={"tpm": 6_000_000}, server={"tpm": 6_000_000}, supply=supply, concurrency=2_000, latency_s=2.0,
        until=85.0, commit_s=0.02, way_s=0.02,
    ).play()  # fmt: skip
    assert day.refused == []
    assert day.sent[large] - day.sent[large - 1] <= 1.1 * 30.0


def test_a_request_much_longer_than_those_seen_is_not_underestimated():
    """Each of those took 40 less than was thought: so will this one, not a tenth less."""
    estimates = Estimates()
    for _ in range(50):
        estimates.learn("m", "chat", estimated=440, actual=400)
    assert estimates.of("m", "chat", 30_040) == 30_000


def test_polls_go_while_a_large_request_waits_for_its_tokens():
    async def scenario():
        limits = Limits(tpm=60_000)
        under_test = Scheduler(
            concurrency=50, max_outstanding=10, limits=limits, polling=PollSchedule(interval_s=5.0),
            health=Health(max_outage_s=7200.0), clock=LoopClock(), jitter=lambda: 0.5, purse=Purse(None, lambda: None),
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        under_test.offer(work(0, tokens=50_000))
        under_test.offer(work(1, tokens=50_000))
        assert (await under_test.next()).work.item.row == 0
        job = Job(row=7, kind="chat", request_id=RequestId("r7"), submitted_at=0.0, deadline_at=2e9, model="m")
        under_test.watch(job, delay_s=1.0)
        polled = await under_test.next()
        assert isinstance(polled, Poll)
        assert loop.time() < 1.1
        assert (await under_test.next()).work.item.row == 1
        assert loop.time() > 40.0

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())


def test_tokens_are_estimated_by_what_requests_really_took():
    """The API adds 700 to each prompt and answers take a tenth of their room: soon the budget is used and kept to."""

    def supply(row):
        return work(row, tokens=1_000 + 40 * (row % 50))

    day = Day(
        flags={"tpm": 600_000}, server={"tpm": 600_000}, supply=supply, latency_s=1.0, until=180.0,
        taken=lambda row: 700 + row.item.tokens // 10,
    ).play()  # fmt: skip
    per_minute = sum(700 + (1_000 + 40 * (row % 50)) // 10 for row, at in day.sent.items() if 100.0 <= at < 160.0)
    assert day.refused == []
    assert per_minute >= 0.97 * 600_000


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("window", ["fixed", "sliding"])
@pytest.mark.parametrize(("rps", "latency_s"), [(5, 0.05), (5, 20.0), (20, 0.05), (20, 2.0), (40, 20.0)])
def test_a_limit_that_nobody_told_of_is_found(rps, window, named, latency_s):
    """Whether its 429s name it or not; after 30 s it is used, and few requests are refused on the way."""
    day = Day(
        flags={}, server={"rps": rps, "limit_window": window}, commit_s=0.01, way_s=0.01, latency_s=latency_s,
        named=named, until=121.0, concurrency=max(50, int(2 * rps * latency_s)),
    ).play()  # fmt: skip
    refused = len(day.refused) / (len(day.refused) + len(day.admitted))
    assert day.count(30.0, 120.0) >= 0.9 * 90 * rps
    assert refused <= 0.02


@pytest.mark.parametrize(
    ("window", "latency_s", "seed"),
    [
        ("fixed", 0.05, 1003),
        ("fixed", 0.05, 1018),
        ("sliding", 0.05, 1006),
        ("fixed", 1.0, 1050),
        ("sliding", 20.0, 1014),
    ],
)
def test_a_limit_of_a_few_requests_a_second_is_not_taken_for_one_less(window, latency_s, seed):
    """A lone refusal leaves four in the second it fell into, where five may go."""
    day = Day(
        flags={}, server={"rps": 5, "limit_window": window}, commit_s=0.01, way_s=0.01, latency_s=latency_s,
        named=False, until=121.0, concurrency=max(50, int(10 * latency_s)),
    ).play(seed)  # fmt: skip
    refused = len(day.refused) / (len(day.refused) + len(day.admitted))
    assert day.count(30.0, 120.0) >= 0.9 * 90 * 5
    assert refused <= 0.02


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("named", [True, False])
def test_a_storm_is_waited_for_with_few_requests_and_the_rate_is_back_within_a_minute(named, seed):
    """One request a pause. From 8 s after its begin on each lasts 25 s at least, and 11 s the one before those."""
    day = Day(
        flags={}, server={"rps": 20}, named=named, latency_s=1.0, until=1_021.0, storm=(100.0, 900.0), concurrency=80
    ).play(seed)
    assert sum(110.0 <= at < 900.0 for at in day.refused) <= 790 / 25 + 1
    assert day.count(960.0, 1_020.0) >= 0.9 * 60 * 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("window", "latency_s"), [("fixed", 1.0), ("sliding", 1.0), ("fixed", 10.0)])
def test_a_limit_that_was_lifted_is_found_within_a_minute_and_a_lowered_one_at_once(window, latency_s, seed):
    """A lowered one is used in full however much went before: what is refused then is the rate's fault too."""
    day = Day(
        flags={}, server={"rps": 20, "limit_window": window}, named=False, latency_s=latency_s, until=401.0,
        concurrency=int(200 * max(1.0, latency_s / 2)), later=((100.0, {"rps": 60}), (250.0, {"rps": 10})),
    ).play(seed)  # fmt: skip
    assert day.count(160.0, 240.0) >= 0.9 * 80 * 60
    assert day.count(280.0, 400.0) >= 0.9 * 120 * 10
    assert len(day.refused) <= 0.02 * len(day.admitted)


def test_tokens_that_a_429_names_are_kept_to():
    day = Day(
        flags={}, server={"tpm": 60_000}, latency_s=1.0, until=400.0, concurrency=50,
        supply=lambda row: work(row, tokens=200),
    ).play()  # fmt: skip
    assert day.count(200.0, 380.0) * 200 >= 0.9 * 180_000
    assert len(day.refused) <= 0.03 * len(day.admitted)


def test_models_have_limits_of_their_own():
    """One model at its limit neither slows nor is slowed by another."""
    day = Day(
        flags={}, server={"model_limits": {"slow": {"rps": 2}, "fast": {"rps": 40}}}, latency_s=0.5, until=121.0,
        supply=lambda row: work(row, model="slow" if row % 21 == 0 else "fast"),
    ).play()  # fmt: skip
    slow = sum(30.0 <= at < 120.0 for row, at in day.sent.items() if row % 21 == 0)
    fast = sum(30.0 <= at < 120.0 for row, at in day.sent.items() if row % 21)
    assert slow >= 0.9 * 90 * 2
    assert fast >= 0.9 * 90 * 39


def test_a_poll_whose_time_is_nearly_over_goes_in_spite_of_a_pause():
    async def scenario():
        loop = asyncio.get_running_loop()
        under_test = Scheduler(
            concurrency=5, max_outstanding=10, limits=Limits(), polling=PollSchedule(interval_s=5.0),
            health=Health(max_outage_s=7200.0), clock=LoopClock(), jitter=lambda: 0.5, purse=Purse(None, lambda: None),
        )  # fmt: skip
        under_test.offer(work(0))
        sent = await under_test.next()
        refused = Feedback(sign=Sign.THROTTLED, again=sent.work, delay_s=0.0, retry_after_s=120.0)
        under_test.report(sent, refused)
        for row, deadline_at in ((1, 1_000_100.0), (2, 2_000_000.0)):
            job = Job(row=row, kind="chat", request_id=RequestId(str(row)), submitted_at=0.0, deadline_at=deadline_at)
            job.model = "m"
            under_test.watch(job, delay_s=1.0)
        assert (await under_test.next()).job.row == 1
        assert loop.time() < 2.0
        assert (await under_test.next()).job.row == 2
        assert loop.time() >= 120.0

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())
