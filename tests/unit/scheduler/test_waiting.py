"""Outstanding jobs: a timer wheel over columns does what a heap of jobs would do."""

import gc
import sys
from array import array
from dataclasses import replace
from heapq import heappop, heappush
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.core.model import Job, RequestId
from bulkgrok.scheduler.waiting import Waiting

TICK_S = 1 / 128


def job(row, *, deadline_at=2e9, request_id=None, model="m", **fields):
    return Job(
        row=row, kind="chat", request_id=RequestId(request_id or f"r{row}"), submitted_at=1e9 + row,
        deadline_at=deadline_at, model=model, **fields,
    )  # fmt: skip


def drained(waiting):
    due = waiting.due("m")
    return [waiting.pop(due) for _ in range(len(due))]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.floats(0.0, 200_000.0), st.integers(0, 1_000)),
        st.tuples(st.just("put"), st.floats(0.0, 3.0), st.integers(0, 1_000)),
        st.tuples(st.just("pass"), st.floats(0.0, 100_000.0), st.just(0)),
        st.tuples(st.just("pass"), st.floats(0.0, 2.0), st.just(0)),
        st.tuples(st.just("any"), st.just(0.0), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_jobs_come_due_as_from_a_heap_within_a_tick_and_the_earliest_deadline_first(script):
    waiting, now, row = Waiting(), 0.0, 0
    model = {}
    for what, number, deadline in script:
        if what == "put":
            row += 1
            model[row] = (now + number, 2e9 + deadline)
            waiting.put(job(row, deadline_at=2e9 + deadline), at=now + number, now=now)
        elif what == "any":
            taken = waiting.pop_any()
            assert (taken is None) == (not model)
            if taken is not None:
                soonest = min(model.values())[0]
                assert model.pop(taken.row)[0] <= max(now, soonest) + 2_048.0
        else:
            now += number
            waiting.wake(now)
            came = [found.row for found in drained(waiting)]
            assert {each for each, (at, _) in model.items() if at <= now - TICK_S} <= set(came)
            assert all(model[each][0] <= now for each in came)
            deadlines = [model.pop(each)[1] for each in came]
            assert deadlines == sorted(deadlines)
        assert len(waiting) == len(model)
        if model:
            assert waiting.next_at <= min(at for at, _ in model.values()) + TICK_S or waiting.due("m")


ids = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda each: str(each).upper()),
    st.from_regex(r"[A-Za-z0-9._~-]{1,60}", fullmatch=True),
)


@given(
    ids,
    st.integers(0, 2**40), st.sampled_from(["", "m", "grok-4.3"]), st.integers(0, 2**40), st.integers(0, 100),
    st.booleans(),
)  # fmt: skip
def test_a_job_comes_out_as_it_went_in(request_id, row, model, tokens, polls, ailing):
    waiting, put = Waiting(), job(row, request_id=request_id, model=model, tokens=tokens, polls=polls, pending_s=-1.0)
    if ailing:
        put = replace(put, missing=1, missing_since=2.5, overdue=3, overdue_since=4.5, errors=5, errors_since=6.5)
    for turn in range(3):
        waiting.put(put, at=10.0 * turn, now=10.0 * turn)
        assert waiting.pop_any() == replace(put, tokens=min(tokens, 2**32 - 1))


def test_the_nearest_deadline_is_told():
    waiting = Waiting()
    assert waiting.nearest_deadline_at(0.0) is None
    for row, deadline_at in enumerate((3e9, 2e9, 4e9)):
        waiting.put(job(row, deadline_at=deadline_at), at=50.0 * row, now=0.0)
    assert waiting.nearest_deadline_at(1.0) == 2e9
    waiting.wake(60.0)
    assert waiting.pop(waiting.due("m")).row == 1
    assert waiting.nearest_deadline_at(2.0) == 3e9


def test_a_job_takes_less_than_two_hundred_bytes():
    waiting, rows = Waiting(), 50_000
    for row in range(rows):
        waiting.put(job(row, request_id=str(UUID(int=row))), at=row * 1.7, now=0.0)
    held = gc.get_referents(waiting, getattr(waiting, "__dict__", None))  # it has none where it is compiled
    columns = [column for column in held if isinstance(column, array | bytearray | list | dict)]
    assert any(column is waiting._begins for column in columns)
    size = sum(map(sys.getsizeof, columns)) + sum(map(sys.getsizeof, waiting._begins)) + 64 * len(waiting._heads)
    assert size / rows <= 200
    waiting.wake(rows * 2.0)
    assert sum(map(sys.getsizeof, waiting.due("m"))) + sys.getsizeof(waiting.due("m")) <= 60 * rows


@given(st.lists(st.floats(0.0, 200_000.0), min_size=1, max_size=60), st.floats(0.0, 150_000.0), st.floats(0.0, 5_000.0))
def test_whatever_waits_comes_due_as_much_earlier_as_it_is_hurried(times, by_s, now):
    waiting = Waiting()
    for row, at in enumerate(times):
        waiting.put(job(row), at=at, now=0.0)
    waiting.wake(now)
    waiting.hurry(by_s, now=now)
    due = waiting.due("m")
    expected = {row for row, at in enumerate(times) if at <= now or at - by_s <= now}
    early = {waiting.pop(due).row for _ in range(len(due))}
    assert expected == early
    waiting.wake(300_000.0)
    assert {waiting.pop(due).row for _ in range(len(due))} == set(range(len(times))) - expected
    assert len(waiting) == 0


def test_a_job_that_is_postponed_keeps_all_it_is():
    waiting, put = Waiting(), job(7, request_id=str(UUID(int=7)), tokens=3, polls=2, pending_s=4.0, errors=1)
    waiting.put(put, at=0.0, now=0.0)
    due = waiting.due("m")
    assert waiting.look(due) == replace(put, request_id="")
    waiting.postpone(due, at=50.0, now=0.0)
    assert not due
    assert len(waiting) == 1
    waiting.wake(49.0)
    assert not due
    waiting.wake(50.1)
    assert waiting.pop(due) == put


def test_a_late_wake_brings_all_at_once():
    waiting, expected = Waiting(), []
    for row in range(1_000):
        at = row * 37.3
        waiting.put(job(row, deadline_at=2e9 + (row * 7919) % 1_000), at=at, now=0.0)
        heappush(expected, ((row * 7919) % 1_000, row))
    waiting.wake(1e6)
    assert [found.row for found in drained(waiting)] == [heappop(expected)[1] for _ in range(1_000)]
