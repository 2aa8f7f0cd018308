"""What goes next, and when: on a loop whose time is the test's own."""

import asyncio

import pytest

from bulkgrok.core.model import Item, Job, Mode, RateLimit, RequestId, Work
from bulkgrok.core.money import Budget, Money, ticks
from bulkgrok.core.outcome import Feedback, Poll, Probe, Send, Sign
from bulkgrok.core.part import Part
from bulkgrok.core.retry import Health
from bulkgrok.scheduler.limits import Limits
from bulkgrok.scheduler.polling import PollSchedule
from bulkgrok.scheduler.purse import Purse
from bulkgrok.scheduler.scheduler import Scheduler


class LoopClock:
    def wall(self):
        return asyncio.get_running_loop().time() + 1_000_000.0

    def monotonic(self):
        return asyncio.get_running_loop().time()


def scheduler(
    *,
    concurrency=4,
    max_outstanding=100,
    polling=None,
    budget=None,
    set_aside=lambda: None,
    part=Part.WHOLE,
    clock=None,
):
    return Scheduler(
        concurrency=concurrency,
        max_outstanding=max_outstanding,
        limits=Limits(rps=None, rpm=None, tpm=None),
        polling=polling or PollSchedule(interval_s=0.01),
        health=Health(max_outage_s=7200.0),
        clock=clock or LoopClock(),
        jitter=lambda: 0.5,
        purse=Purse(budget, set_aside),
        part=part,
    )


def work(row, mode=Mode.DIRECT, max_usd=0.0, model="m"):
    return Work(
        item=Item(
            row=row,
            line=row + 1,
            custom_id=str(row),
            kind="chat",
            mode=mode,
            model=model,
            stream=False,
            body=b"{}",
            digest=b"",
            max_usd=max_usd,
            tokens=10,
        )
    )


def job(row, deadline_at=1e9):
    return Job(row=row, kind="chat", request_id=RequestId(f"r{row}"), submitted_at=0.0, deadline_at=deadline_at)


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario(), 10))


def waits(awaitable_task):
    return not awaitable_task.done()


def test_no_more_actions_are_out_than_the_concurrency():
    async def scenario():
        under_test = scheduler(concurrency=2)
        for row in range(5):
            under_test.offer(work(row))
        first, second = await under_test.next(), await under_test.next()
        third = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(third)
        assert under_test.in_flight == 2
        under_test.report(first, Feedback(sign=Sign.GOOD))
        assert isinstance(await third, Send)
        under_test.report(second, Feedback(sign=Sign.GOOD))

    run(scenario)


def test_due_polls_go_before_new_work_and_the_earliest_deadline_first():
    async def scenario():
        under_test = scheduler()
        under_test.offer(work(9))
        under_test.watch(job(1, deadline_at=2e9), delay_s=0.0)
        under_test.watch(job(2, deadline_at=1e9), delay_s=0.0)
        actions = [await under_test.next() for _ in range(3)]
        assert [action.job.row for action in actions[:2]] == [2, 1]
        assert isinstance(actions[2], Send)

    run(scenario)


def test_next_returns_none_once_everything_offered_is_done():
    async def scenario():
        under_test = scheduler()
        under_test.offer(work(0))
        under_test.close()
        action = await under_test.next()
        waiting = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(waiting)
        under_test.report(action, Feedback(sign=Sign.GOOD))
        assert await waiting is None

    run(scenario)


def test_stop_hands_out_nothing_more():
    async def scenario():
        under_test = scheduler()
        waiting = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        under_test.stop()
        assert await waiting is None
        under_test.offer(work(0))
        assert await under_test.next() is None

    run(scenario)


def test_an_accepted_job_is_polled_and_leaves_when_it_is_redeemed():
    async def scenario():
        under_test = scheduler()
        under_test.offer(work(0, Mode.DEFERRED))
        sent = await under_test.next()
        under_test.report(sent, Feedback(sign=Sign.GOOD, job=job(0)))
        assert under_test.outstanding == 1
        polled = await under_test.next()
        assert isinstance(polled, Poll)
        under_test.report(polled, Feedback(sign=Sign.GOOD, job=polled.job))
        assert under_test.outstanding == 1
        polled = await under_test.next()
        under_test.report(polled, Feedback(sign=Sign.GOOD))
        assert under_test.outstanding == 0
        assert under_test.idle

    run(scenario)


def test_deferred_work_waits_while_too_many_are_outstanding_and_direct_work_does_not():
    async def scenario():
        under_test = scheduler(max_outstanding=1)
        under_test.watch(job(7), delay_s=100.0)
        under_test.offer(work(0, Mode.DEFERRED))
        under_test.offer(work(1))
        action = await under_test.next()
        assert action.work.item.row == 1
        waiting = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(waiting)
        waiting.cancel()

    run(scenario)


def test_in_an_outage_one_probe_at_a_time_goes_out_and_no_post():
    async def scenario():
        under_test = scheduler()
        for row in range(4):
            under_test.offer(work(row))
        sent = [await under_test.next() for _ in range(4)]
        for action in sent:
            under_test.report(action, Feedback(sign=Sign.BAD, reason="refused", again=action.work, delay_s=0.0))
        resent = await under_test.next()
        under_test.report(resent, Feedback(sign=Sign.BAD, reason="refused", again=resent.work, delay_s=0.0))
        assert under_test.health.outage_since is not None
        under_test.health.next_probe_at = 0.0
        probe = await under_test.next()
        assert isinstance(probe, Probe)
        second = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(second)
        under_test.report(probe, Feedback(sign=Sign.GOOD))
        assert isinstance(await second, Send)

    run(scenario)


def test_a_waiting_job_is_the_probe_of_choice():
    async def scenario():
        under_test = scheduler()
        under_test.watch(job(3), delay_s=1000.0)
        for at in range(5):
            under_test.health.bad(float(at), "refused")
        under_test.health.next_probe_at = 0.0
        probe = await under_test.next()
        assert isinstance(probe, Poll)
        assert under_test.waiting == 0

    run(scenario)


def test_a_429_pauses_all_requests_of_its_model_and_no_others():
    async def scenario():
        under_test = scheduler(concurrency=8)
        for row in range(3):
            under_test.offer(work(row))
        action = await under_test.next()
        under_test.report(action, Feedback(sign=Sign.THROTTLED, again=action.work, delay_s=0.0, retry_after_s=100.0))
        second = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(second)
        under_test.offer(work(9, model="other"))
        assert (await second).work.item.row == 9
        assert under_test.throttled == 1

    run(scenario)


def test_a_row_that_goes_last_waits_until_nothing_else_is_left():
    async def scenario():
        under_test = scheduler()
        under_test.offer(work(0))
        under_test.offer(work(1))
        first, second = await under_test.next(), await under_test.next()
        under_test.report(first, Feedback(sign=Sign.GOOD, again=first.work, last=True))
        waiting = asyncio.ensure_future(under_test.next())
        under_test.exhausted()
        await asyncio.sleep(0)
        assert waits(waiting)
        under_test.report(second, Feedback(sign=Sign.GOOD))
        assert (await waiting).work.item.row == 0

    run(scenario)


def test_polls_grow_from_one_second_to_thirty():
    schedule, under_test = PollSchedule(), job(0, deadline_at=86_400.0)
    delays = []
    for polls in range(15):
        under_test.polls = polls
        delays.append(schedule.delay_s(under_test, now=0.0, jitter=0.5))
    assert delays[0] == 1.0
    assert delays == sorted(delays)
    assert delays[-1] == 30.0


def test_a_job_is_asked_for_twice_shortly_before_its_deadline_and_once_after_it():
    schedule, under_test = PollSchedule(interval_s=3600.0), job(0, deadline_at=86_400.0)
    under_test.polls = 5
    assert schedule.delay_s(under_test, now=86_000.0, jitter=0.5) == 340.0
    assert schedule.delay_s(under_test, now=86_350.0, jitter=0.5) == 45.0
    assert schedule.delay_s(under_test, now=86_395.0, jitter=0.5) == 5.0
    under_test.polls = 0
    assert schedule.delay_s(under_test, now=90_000.0, jitter=0.5) == 0.0


def test_a_job_that_slept_with_the_machine_is_asked_for_when_it_wakes():
    async def scenario():
        clock = LoopClock()
        clock.slept_s = 0.0
        clock.wall = lambda: asyncio.get_running_loop().time() + 1_000_000.0 + clock.slept_s
        under_test = scheduler(clock=clock)
        under_test.keep_time()
        under_test.watch(job(1), delay_s=15_840.0)
        under_test.watch(job(2), delay_s=100_000.0)
        asked = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        under_test.keep_time()
        await asyncio.sleep(0)
        assert waits(asked)
        clock.slept_s = 72_000.0
        under_test.keep_time()
        assert (await asked).job.row == 1
        other = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(other)
        clock.slept_s = 0.0  # set back: nothing comes later for it
        under_test.keep_time()
        clock.slept_s = 72_000.0
        under_test.keep_time()
        assert (await other).job.row == 2

    run(scenario)


def test_probes_take_turns_so_that_one_ailing_job_does_not_pass_for_an_outage():
    async def scenario():
        under_test = scheduler()
        under_test.watch(job(3), delay_s=1000.0)
        for at in range(5):
            under_test.health.bad(float(at), "HTTP 500")
        kinds = []
        for _ in range(4):
            under_test.health.next_probe_at = 0.0
            probe = await under_test.next()
            kinds.append(type(probe))
            waiting = probe.job if isinstance(probe, Poll) else None
            under_test.report(probe, Feedback(sign=Sign.BAD, job=waiting))
        assert kinds == [Poll, Probe, Poll, Probe]

    run(scenario)


def all_bad(under_test):
    for at in range(5):
        under_test.health.bad(float(at), "HTTP 503")
    under_test.health.next_probe_at = 0.0


def test_a_control_request_that_gets_through_ends_no_outage_but_lets_one_row_try():
    async def scenario():
        under_test = scheduler()
        for row in range(3):
            under_test.offer(work(row))
        all_bad(under_test)
        probe = await under_test.next()
        assert isinstance(probe, Probe)
        under_test.report(probe, Feedback(sign=Sign.THERE))
        assert under_test.health.outage_since is not None
        under_test.health.next_probe_at = 0.0
        tried = await under_test.next()
        assert isinstance(tried, Send)
        second = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(second)
        under_test.report(tried, Feedback(sign=Sign.BAD, reason="HTTP 503", again=tried.work, delay_s=0.0))
        under_test.health.next_probe_at = 0.0
        assert isinstance(await second, Probe)

    run(scenario)


def test_an_answered_row_ends_the_outage():
    async def scenario():
        under_test = scheduler()
        under_test.offer(work(0))
        under_test.offer(work(1))
        all_bad(under_test)
        under_test.report(await under_test.next(), Feedback(sign=Sign.THERE))
        under_test.health.next_probe_at = 0.0
        under_test.report(await under_test.next(), Feedback(sign=Sign.GOOD))
        assert under_test.health.outage_since is None
        assert isinstance(await under_test.next(), Send)

    run(scenario)


def test_no_more_jobs_are_accepted_than_may_be_outstanding_even_while_posts_are_in_flight():
    async def scenario():
        under_test = scheduler(max_outstanding=2)
        for row in range(4):
            under_test.offer(work(row, Mode.DEFERRED))
        await under_test.next()
        sent = await under_test.next()
        third = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0)
        assert waits(third)
        under_test.report(sent, Feedback(sign=Sign.THROTTLED, again=sent.work, delay_s=0.0))
        assert isinstance(await third, Send)

    run(scenario)


def test_a_due_retry_without_room_neither_spins_nor_holds_up_direct_rows():
    async def scenario():
        under_test = scheduler(max_outstanding=1)
        under_test.watch(job(9), delay_s=1000.0)
        under_test.offer(work(0, Mode.DEFERRED))
        under_test._retries.append((0.0, 0, work(1, Mode.DEFERRED)))
        under_test.offer(work(2))
        assert (await under_test.next()).work.item.row == 2
        _, wake_at = under_test._choose(asyncio.get_running_loop().time())
        assert wake_at > asyncio.get_running_loop().time() + 100

    run(scenario)


def test_stop_does_not_wait_for_the_rate_limit():
    async def scenario():
        under_test = scheduler()
        under_test._limits = Limits(rps=None, rpm=1, tpm=None)
        for row in range(3):
            under_test.offer(work(row))
        await under_test.next()
        waiting = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0.01)
        assert waits(waiting)
        under_test.stop()
        assert await asyncio.wait_for(waiting, 1) is None
        assert under_test.in_flight == 1

    run(scenario)


# Money


def budget(usd):
    return Budget(budget_usd=usd, max_at_risk_usd=None)


def test_polls_go_on_while_a_row_waits_for_money():
    async def scenario():
        found = scheduler(budget=budget(1.0))
        found.paid(Money(on_its_way=ticks(0.5)))
        found.watch(job(7), delay_s=0.0)
        found.offer(work(0, max_usd=0.75))
        found.offer(work(1, max_usd=0.1))
        poll = await found.next()
        assert poll.job.row == 7
        assert not found.idle
        waiting = asyncio.ensure_future(found.next())
        await asyncio.sleep(0.02)
        assert waits(waiting)
        found.report(poll, Feedback(sign=Sign.GOOD))
        found.paid(Money(paid=ticks(0.05)))
        assert (await waiting).work.item.row == 0
        assert (await found.next()).work.item.row == 1

    run(scenario)


def test_a_row_is_let_go_once_for_all_workers_until_its_intent_is_durable():
    async def scenario():
        found = scheduler(concurrency=50, budget=budget(1.0))
        for row in range(50):
            found.offer(work(row, max_usd=0.3))
        workers = [asyncio.ensure_future(found.next()) for _ in range(50)]
        await asyncio.sleep(0)
        gone = [worker.result() for worker in workers if worker.done()]
        assert [action.work.item.row for action in gone] == [0, 1, 2]
        found.paid(Money(on_its_way=ticks(0.9)))
        for action in gone:
            found.counted(action.work)
        await asyncio.sleep(0)
        assert sum(worker.done() for worker in workers) == 3
        found.paid(Money(paid=ticks(0.3), on_its_way=ticks(0.3)))
        found.report(gone[0], Feedback(sign=Sign.GOOD))
        await asyncio.sleep(0.01)
        assert [worker.result().work.item.row for worker in workers if worker.done()] == [0, 1, 2, 3]
        for worker in workers:
            worker.cancel()

    run(scenario)


def test_rows_that_can_never_be_paid_are_set_aside_and_leave_the_scheduler_idle():
    async def scenario():
        aside = []
        found = scheduler(budget=budget(1.0), set_aside=lambda: aside.append(True))
        for row, usd in enumerate([1.5, None, 0.5]):
            found.offer(work(row, max_usd=usd))
        action = await found.next()
        assert (action.work.item.row, len(aside)) == (2, 2)
        found.report(action, Feedback(sign=Sign.GOOD))
        found.close()
        assert await found.next() is None

    run(scenario)


def test_all_is_over_when_the_last_row_is_set_aside_however_many_wait_for_it():
    async def scenario():
        found = scheduler(budget=budget(1.0))
        found.paid(Money(on_its_way=ticks(0.5)))
        found.offer(work(0, max_usd=0.75))
        waiting = [asyncio.ensure_future(found.next()) for _ in range(3)]
        await asyncio.sleep(0)
        assert all(map(waits, waiting))
        assert not found.idle
        found.exhausted()
        found.close()
        await asyncio.sleep(0)
        assert all(map(waits, waiting))
        found.paid(Money(paid=ticks(0.5)))
        assert await asyncio.gather(*waiting) == [None, None, None]

    run(scenario)


def test_a_row_that_is_not_sent_after_all_gives_its_money_back():
    async def scenario():
        found = scheduler(budget=budget(1.0))
        found.offer(work(0, max_usd=0.9))
        action = await found.next()
        found.report(action, Feedback(sign=Sign.BAD, again=action.work, delay_s=0.0))
        assert (await found.next()).work is action.work

    run(scenario)


def test_in_an_outage_a_row_is_only_risked_if_there_is_money_for_it():
    async def scenario():
        found = scheduler(budget=budget(1.0))
        found.paid(Money(on_its_way=ticks(0.5)))
        found.offer(work(0, max_usd=0.75))
        for number in range(5):
            found.health.bad(float(number), "down")
        found.health.next_probe_at = 0.0
        kinds = []
        for _ in range(8):
            action = await found.next()
            kinds.append(type(action))
            found.report(action, Feedback(sign=Sign.THERE))
            found.health.next_probe_at = 0.0
        assert set(kinds) == {Probe}
        found.paid(Money())
        found.health.next_probe_at = 0.0
        assert isinstance(await found.next(), Send)

    run(scenario)


def test_no_more_is_accepted_than_can_be_redeemed_within_six_hours_at_the_rate_that_is_allowed():
    async def scenario():
        under_test = scheduler(max_outstanding=None, concurrency=10)
        assert under_test.most_outstanding == 10 * 5 // 2 * 21_600
        under_test._limits = Limits(rps=4)
        assert under_test.most_outstanding == 43_200
        under_test._polling._polls, under_test._polling._results = 30.0, 10.0
        assert under_test.most_outstanding == 28_800
        lane = under_test._lane("m")
        for _ in range(2):
            lane.governor.take(1.0)
        named = RateLimit(what="requests", per_s=1.0, measure="requests per second")
        lane.governor.throttled(1.1, 1.0, retry_after_s=None, named=named, jitter=0.5)
        assert under_test.most_outstanding == int(0.97 / 3 * 21_600)

    run(scenario)


def test_one_that_only_submits_counts_what_is_accepted_and_is_blocked_when_no_more_may_be():
    async def scenario():
        under_test = scheduler(max_outstanding=2, part=Part.SUBMIT)
        for row in range(3):
            under_test.offer(work(row, mode=Mode.DEFERRED))
        under_test.close()
        for row in range(2):
            assert not under_test.blocked
            action = await under_test.next()
            under_test.report(action, Feedback(sign=Sign.GOOD, job=job(row)))
        assert under_test.blocked
        assert under_test.outstanding == 2
        fourth = asyncio.ensure_future(under_test.next())
        await asyncio.sleep(0.05)  # longer than the interval of polls
        assert waits(fourth)
        under_test.stop()
        assert await fourth is None

    run(scenario)


def resting(*deadlines_in_s):
    """Return a round in which 40 jobs come due one after the other, 100 s apart, and more have these deadlines."""
    under_test = scheduler(polling=PollSchedule(interval_s=50.0), part=Part.ROUND)
    wall = LoopClock().wall()
    for row in range(1, 41):
        under_test.watch(job(row, deadline_at=wall + 86_400.0), delay_s=100.0 * row)
    for row, deadline_s in enumerate(deadlines_in_s, 100):
        under_test.watch(job(row, deadline_at=wall + deadline_s), delay_s=3_000.0)
    return under_test


def test_a_round_rests_when_only_time_can_help():
    async def scenario():
        assert not scheduler(part=Part.ROUND).resting  # nothing is outstanding: it is over
        under_test = resting()
        assert under_test.resting
        under_test.offer(work(0))
        assert not under_test.resting
        action = await under_test.next()
        assert not under_test.resting
        under_test.report(action, Feedback(sign=Sign.GOOD))
        assert under_test.resting
        under_test.watch(job(99, deadline_at=2e9), delay_s=0.0)
        assert not under_test.resting

    run(scenario)


def test_a_round_rests_until_a_tenth_is_due_and_not_till_the_first_deadline_is_near():
    async def scenario():
        wall = LoopClock().wall()
        assert resting().rests_until() - wall == pytest.approx(400.0, abs=1.0)
        assert resting(3_700.0).rests_until() - wall == pytest.approx(100.0, abs=1.0)
        assert resting(60.0).rests_until() - wall == pytest.approx(30.0, abs=1.0)

    run(scenario)
