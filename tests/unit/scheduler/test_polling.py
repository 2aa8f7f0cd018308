"""When results are asked for, on latencies of all shapes: polls a result, and how long results lie ready."""

import heapq
import json
import math
import random

import pytest

from bulkgrok.core.model import Job, RequestId
from bulkgrok.scheduler.polling import PollSchedule


class Played:
    """Jobs that arrive over `spread_s`, each ready after its latency; counts those that arrive in the last part."""

    def __init__(self, draw, *, jobs=2_000, spread_s=2_000.0, counted_from=0.25, full=None, ttl_s=86_400.0, seed=1):
        chance, schedule = random.Random(seed), PollSchedule()
        events = [(chance.random() * spread_s, row, None, 0.0) for row in range(jobs)]
        heapq.heapify(events)
        self.polls = self.results = self.lay_s = self.latency_s = 0
        self.latest_s, tie = 0.0, jobs
        while events:
            now, row, job, ready_at = heapq.heappop(events)
            tie += 1
            if job is None:
                job = Job(
                    row=row, kind="chat", request_id=RequestId("r"), submitted_at=now, deadline_at=now + ttl_s,
                    model="m", pending_s=0.0,
                )  # fmt: skip
                ready_at = now + draw(chance, now)
                wait_s = schedule.delay_s(job, now=now, jitter=chance.random())
            elif (wait_s := schedule.early_s(job, now=now)) <= 0.0:
                schedule.rate_is(full=full)
                job.polls += 1
                schedule.saw(job, age_s=now - job.submitted_at, ready=now >= ready_at)
                if now >= ready_at:
                    if job.submitted_at >= counted_from * spread_s:
                        self.results += 1
                        self.polls += job.polls
                        self.lay_s += now - ready_at
                        self.latency_s += ready_at - job.submitted_at
                    self.latest_s = max(self.latest_s, now - job.submitted_at)
                    continue
                wait_s = schedule.delay_s(job, now=now, jitter=chance.random())
            heapq.heappush(events, (now + wait_s, tie, job, ready_at))

    @property
    def polls_a_result(self):
        return self.polls / self.results

    @property
    def delay(self):
        return self.lay_s / self.latency_s


def lognormal(mean_s, sigma):
    return lambda chance, now: chance.lognormvariate(math.log(mean_s) - sigma * sigma / 2, sigma)


@pytest.mark.parametrize("mean_s", [10.0, 60.0, 600.0])
def test_log_normal_latencies_take_two_polls_a_result_and_results_lie_a_quarter_of_them(mean_s):
    played = Played(lognormal(mean_s, 0.5), spread_s=40.0 * mean_s)
    assert played.polls_a_result <= 2.0
    assert played.delay <= 0.25


def test_narrow_latencies_take_fewer_polls_and_wide_ones_few_more():
    assert Played(lognormal(60.0, 0.25)).polls_a_result <= 1.8
    wide = Played(lognormal(60.0, 1.0))
    assert wide.polls_a_result <= 2.5
    assert wide.delay <= 0.4


def test_of_two_heaps_of_latencies_each_is_met():
    """Half are ready after about 5 s, half after about 5 min: nobody asks in between."""

    def draw(chance, now):
        return lognormal(5.0 if chance.random() < 0.5 else 300.0, 0.3)(chance, now)

    played = Played(draw, spread_s=4_000.0)
    assert played.polls_a_result <= 3.0
    assert played.delay <= 0.25


def test_latencies_that_change_are_followed():
    """They grow fivefold in the middle, and what comes after is met as well as what was before."""

    def draw(chance, now):
        return lognormal(20.0 if now < 3_000.0 else 100.0, 0.5)(chance, now)

    played = Played(draw, jobs=3_000, spread_s=6_000.0, counted_from=0.8)
    assert played.polls_a_result <= 2.3
    assert played.delay <= 0.3


def test_where_the_rate_is_short_polls_are_few_and_where_it_has_room_results_lie_less():
    short, spare = (Played(lognormal(60.0, 0.5), full=full) for full in (True, False))
    assert short.polls_a_result <= 1.5
    assert spare.delay <= 0.15
    assert spare.polls_a_result <= 4.0


@pytest.mark.parametrize("mean_s", [1.0, 60.0, 1_800.0])
def test_a_thousand_jobs_at_once_with_nothing_learnt_yet_are_asked_for_with_measure(mean_s):
    played = Played(lognormal(mean_s, 0.5), jobs=1_000, spread_s=1.0, counted_from=0.0)
    assert played.polls_a_result <= 3.0
    assert played.delay <= max(0.5, 1.0 / mean_s)


def test_what_is_known_too_late_by_chance_costs_no_run_much():
    """Thousands at once have the same age: what the first of them told decides when all are asked for."""
    all_of = [Played(lognormal(60.0, 0.5), jobs=2_000, spread_s=2.0, counted_from=0.0, seed=seed) for seed in range(6)]
    for played in all_of:
        assert played.polls_a_result <= 2.2
        assert played.delay <= 0.28
    assert sum(played.polls_a_result for played in all_of) / 6 <= 2.05
    assert sum(played.delay for played in all_of) / 6 <= 0.25


def test_no_job_is_left_alone_until_its_deadline():
    """Latencies of most of the time that results are kept, and beyond it."""
    played = Played(lambda chance, now: 86_000.0 * chance.random(), jobs=200, spread_s=10.0, counted_from=0.0)
    assert played.results == 200
    assert played.latest_s <= 86_400.0


def test_a_fixed_interval_is_kept_to():
    schedule = PollSchedule(interval_s=7.0)
    job = Job(row=1, kind="chat", request_id=RequestId("r"), submitted_at=0.0, deadline_at=86_400.0, pending_s=0.0)
    assert schedule.delay_s(job, now=50.0, jitter=0.9) == 7.0
    assert schedule.early_s(job, now=50.0) == 0.0


def test_what_is_not_known_is_asked_for_at_once_after_a_restart():
    schedule = PollSchedule()
    job = Job(row=1, kind="chat", request_id=RequestId("r"), submitted_at=0.0, deadline_at=86_400.0)
    assert schedule.early_s(job, now=5_000.0) == 0.0


def test_a_clock_that_was_set_back_puts_no_poll_off():
    """A day back: by that clock the job was not even submitted."""
    schedule = PollSchedule()
    for row in range(20):
        job = Job(
            row=row, kind="chat", request_id=RequestId("r"), submitted_at=0.0, deadline_at=86_400.0, pending_s=18.0
        )
        schedule.saw(job, age_s=20.0 + row, ready=True)
    waiting = Job(row=99, kind="chat", request_id=RequestId("r"), submitted_at=0.0, deadline_at=86_400.0, pending_s=9.0)
    assert schedule.early_s(waiting, now=10.0) > 0.0
    assert schedule.early_s(waiting, now=-86_390.0) == 0.0
    assert schedule.delay_s(waiting, now=-86_390.0, jitter=0.5) <= 30.0


def test_no_postponement_is_longer_than_a_tenth_of_the_time_of_a_result():
    schedule = PollSchedule()
    for row in range(200):
        job = Job(
            row=row, kind="chat", request_id=RequestId("r"), submitted_at=0.0, deadline_at=9e5, pending_s=70_000.0
        )
        schedule.saw(job, age_s=80_000.0, ready=True)
    waiting = Job(row=99, kind="chat", request_id=RequestId("r"), submitted_at=0.0, deadline_at=86_400.0, pending_s=0.0)
    assert 0.0 < schedule.early_s(waiting, now=60.0) <= 8_640.0


def waiting(row=0, **more):
    found = {"kind": "chat", "request_id": RequestId("r"), "submitted_at": 0.0, "deadline_at": 86_400.0, "model": "m"}
    return Job(row=row, pending_s=0.0, **(found | more))


def test_what_one_process_learnt_of_latencies_another_goes_by():
    first = PollSchedule()
    for row in range(400):
        job = waiting(row)
        first.saw(job, age_s=550.0, ready=False)
        first.saw(job, age_s=600.0, ready=True)
    second = PollSchedule()
    assert second.delay_s(waiting(), now=0.0, jitter=0.5) < 2.0
    second.recall(json.loads(json.dumps(first.learnt())))
    for schedule in (first, second):
        assert 450.0 < schedule.delay_s(waiting(), now=0.0, jitter=0.5) < 750.0


def test_a_round_asks_once_for_every_job_whatever_was_learnt():
    schedules = [PollSchedule(asks_all=asks_all) for asks_all in (False, True)]
    for schedule in schedules:
        for row in range(400):
            schedule.saw(job := waiting(row), age_s=550.0, ready=False)
            schedule.saw(job, age_s=600.0, ready=True)
    early = [schedule.early_s(waiting(polls=0), now=100.0) for schedule in schedules]
    assert early[0] > 100.0
    assert early[1] == 0.0
    assert schedules[1].early_s(waiting(polls=1), now=100.0) > 100.0


def test_a_poll_that_told_nothing_leaves_its_place_to_another_job():
    schedule = PollSchedule()
    asked = [schedule.early_s(waiting(row), now=50.0) == 0.0 for row in range(9)]
    assert asked == [True] * 8 + [False]
    schedule.heard_nothing(waiting(0), age_s=50.0)
    assert schedule.early_s(waiting(8), now=50.0) == 0.0
    schedule.saw(waiting(8), age_s=50.0, ready=False)
    assert schedule.early_s(waiting(9), now=50.0) > 0.0


def test_from_the_age_of_the_first_result_on_jobs_are_asked_for_at_close_ages():
    """So many at each that six results are found soon, whatever chance makes of a single age."""
    schedule = PollSchedule()
    schedule.saw(waiting(0), age_s=40.0, ready=True)
    for age_s in (50.0, 57.0, 64.0):
        assert sum(schedule.early_s(waiting(row), now=age_s) == 0.0 for row in range(40)) == 16
