"""What a 429 does to the requests of its model; tests/unit/scheduler/test_rates.py plays it against a server."""

import pytest

from bulkgrok.core.model import RateLimit, Reply
from bulkgrok.core.verdict import named_limit
from bulkgrok.scheduler.estimates import Estimates
from bulkgrok.scheduler.governor import Governor
from bulkgrok.scheduler.pace import TokenBudget
from bulkgrok.scheduler.window import Window


def throttled(governor, now, *, sent_at=None, retry_after_s=None, named=None, jitter=1.0):
    at = now if sent_at is None else sent_at
    return governor.throttled(now, at, retry_after_s=retry_after_s, named=named, jitter=jitter)


def test_requests_that_were_out_together_are_refused_together():
    governor = Governor()
    for _ in range(3):
        governor.take(1.0)
    assert throttled(governor, 1.1, sent_at=1.0)
    until = governor.until
    assert not throttled(governor, 1.2, sent_at=1.0)
    assert governor.until == until
    assert 1.1 < until <= 1.6


def test_pauses_grow_while_nothing_gets_through_and_start_over_after_a_good_reply():
    governor, now, pauses = Governor(), 0.0, []
    for _ in range(9):
        governor.take(now)
        throttled(governor, now)
        pauses.append(governor.until - now)
        now = governor.until
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0
    governor.take(now)
    governor.good(now)
    governor.take(now + 1.0)
    throttled(governor, now + 1.0)
    assert governor.until - now - 1.0 == 0.5


def test_pauses_come_to_an_end_however_long_a_storm_lasts():
    governor, now = Governor(), 0.0
    for _ in range(3_000):
        governor.take(now)
        assert throttled(governor, now, jitter=0.5)
        assert governor.until - now <= 30.0
        now = governor.until


def test_an_answer_to_what_went_before_a_storm_does_not_end_it():
    governor, now, pauses = Governor(), 10.0, []
    governor.take(1.0)
    for _ in range(5):
        governor.take(now)
        throttled(governor, now)
        governor.good(1.0)
        pauses.append(governor.until - now)
        now = governor.until
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_in_a_storm_one_request_at_a_time_feels_whether_it_is_over():
    governor = Governor()
    for request in range(100):
        governor.take(request / 50)
    governor.good(1.0)
    now = 2.0
    for _ in range(2):
        throttled(governor, now)
        now = governor.open_at
        governor.take(now)
    assert governor.open_at >= now + 1.0
    governor.good(now)
    assert governor.open_at < now + 0.1


def test_retry_after_holds_everybody_back_and_is_capped():
    governor = Governor()
    governor.take(0.0)
    throttled(governor, 0.0, retry_after_s=9.0)
    assert governor.open_at == 9.0
    throttled(governor, 1.0, sent_at=0.0, retry_after_s=1e9)
    assert governor.open_at == 121.0


def test_a_lone_refusal_among_few_requests_is_not_laid_to_their_rate():
    governor = Governor()
    for request in range(100):
        governor.take(1.0 + request / 100)
    governor.good(1.9)
    governor.take(200.0)
    throttled(governor, 200.1, sent_at=200.0)
    assert governor.per_s is None


def test_a_refusal_at_the_full_pace_lowers_it_however_much_was_once_let_through():
    """Else a limit that was lowered below half would be passed twice each time, and the rate fall ever further."""
    governor = Governor()
    for request in range(120):
        governor.take(1.0 + request / 60)
    throttled(governor, 3.0, sent_at=2.99)
    for request in range(20):
        governor.take(10.0 + request / 10)
    throttled(governor, 12.0, sent_at=11.99)
    now = 13.0
    while now < 60.0:
        now = max(now, governor.open_at)
        governor.take(now)
        governor.good(now)
    before = governor.per_s
    assert before < 30.0
    throttled(governor, now + 0.05, sent_at=now)
    assert governor.per_s < before


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_pauses_of_a_long_storm_differ_by_a_few_seconds(jitter):
    governor, now = Governor(), 0.0
    for _ in range(9):
        governor.take(now)
        throttled(governor, now, jitter=jitter)
        pause_s, now = governor.until - now, governor.until
    assert pause_s == 25.0 + 5.0 * jitter


def test_a_refusal_before_anything_was_let_through_says_nothing_of_the_rate():
    governor = Governor()
    governor.take(0.0)
    throttled(governor, 0.05, sent_at=0.0)
    assert 0.05 < governor.open_at <= 0.55
    assert governor.per_s is None


def test_below_a_limit_that_was_named_the_pace_grows_soon_however_slow_it_is():
    governor = Governor()
    for request in range(2):
        governor.take(0.1 * request)
    throttled(governor, 0.3, sent_at=0.1)  # one was let through: the pace is about one a second
    assert governor.per_s is not None
    throttled(governor, 5.0, sent_at=4.9, named=RateLimit(what="requests", per_s=20.0, said=True, measure="per second"))
    now = 7.0
    while now < 120.0:
        now = max(now, governor.open_at)
        governor.take(now)
        governor.good(now)
    assert governor.per_s > 10.0


@pytest.mark.parametrize(
    ("text", "what", "per_s"),
    [
        ("Your team's rate limit is — Requests per Second (actual/limit): 2/2. Your", "requests", 2.0),
        ("limit is — Requests per Minute (actual/limit): 1922/60.", "requests", 1.0),
        ("rate limit is - Tokens per Minute (actual/limit): 65605/16000.", "tokens", 16_000 / 60),
        ("Requests per Hour (actual/limit): 7201/7200", "requests", 2.0),
        ("requests per day (actual/limit): 1/864", "requests", 0.01),
    ],
)
def test_the_limit_is_read_out_of_the_words_of_a_429(text, what, per_s):
    found = named_limit(text, Reply(status=429, limit_rpm=5.0))
    assert (found.what, found.per_s, found.said) == (what, pytest.approx(per_s), True)


def test_without_words_the_header_is_a_hint_and_nonsense_names_nothing():
    assert named_limit("slow down", Reply(status=429)) is None
    assert named_limit("Requests per Second (actual/limit): 1/0", Reply(status=429)) is None
    assert named_limit("slow down", Reply(status=429, limit_rpm=180.0)) == RateLimit(
        what="requests", per_s=3.0, measure="headers", said=False
    )


@pytest.mark.parametrize(("hint", "believed"), [(12.0, True), (300.0, False), (0.5, False)])
def test_a_hint_is_believed_where_it_fits_what_was_let_through(hint, believed):
    governor = Governor()
    for request in range(40):
        governor.take(10.0 + request / 10)
    throttled(governor, 14.0, sent_at=13.9, named=RateLimit(what="requests", per_s=hint, measure="h", said=False))
    assert (governor.per_s == pytest.approx(0.97 * hint)) == believed
    assert believed or 7.0 < governor.per_s < 12.0


def test_a_window_that_feels_its_way_grows_by_replies_and_by_the_second_and_never_past_its_ceiling():
    window = Window(10, feels=True)
    assert not window.full(3, 0.0)
    assert window.full(4, 0.0)
    for _ in range(8):
        window.good()
    assert window.size == 6
    assert not window.full(6, 1.0)
    assert window.size == 10
    assert window.open
    window.halve()
    assert window.size == 5
    assert Window(10, feels=False).open


def test_a_window_that_is_full_doubles_in_a_second_however_many_replies_make_room_for_a_moment():
    """A reply each 10 ms, whose room is taken at once: without that, a server that takes long is used late."""
    window = Window(1_000, feels=True)
    for look in range(101):
        now = look / 100
        window.full(window.size - 1, now)
        window.full(window.size, now)
    assert 7 <= window.size <= 8


def test_time_that_is_not_spent_full_widens_no_window_and_an_outage_does_so_once():
    window = Window(1_000, feels=True)
    for look in range(1_000):
        assert not window.full(3, look / 10)
    assert window.size == 4
    assert window.full(4, 100.0)
    assert not window.full(1, 4_000.0)
    assert window.size == 8


def test_a_request_above_the_whole_token_budget_goes_when_nothing_else_was_sent_for_a_minute():
    budget = TokenBudget(600.0)
    budget.take(100.0, 5.0)
    at = budget.ready_at(100.0, 5_000.0)
    assert 160.0 <= at <= 161.0
    assert budget.ready_at(at, 5_000.0) <= at


def test_tokens_that_were_not_taken_come_free_at_once():
    budget = TokenBudget(600.0)
    budget.take(100.0, 600.0)
    assert budget.ready_at(110.0, 10.0) > 150.0
    budget.correct(100.0, -600.0)
    assert budget.ready_at(110.0, 10.0) <= 110.0


def test_estimates_find_what_the_api_adds_to_a_prompt_and_the_share_of_its_room_an_answer_takes():
    estimates = Estimates()
    assert estimates.of("m", "chat", 500) == 500
    for number in range(200):
        room = 1_000 + 37 * (number % 50)
        estimates.learn("m", "chat", estimated=room, actual=700 + room // 10)
    assert estimates.of("m", "chat", 500) == pytest.approx(750, rel=0.01)
    assert estimates.of("m", "chat", 50_000) == pytest.approx(5_700, rel=0.01)
    assert estimates.of("other", "chat", 500) == 500


def test_estimates_of_requests_that_are_all_alike_are_what_they_took():
    estimates = Estimates()
    for _ in range(100):
        estimates.learn("m", "chat", estimated=1_040, actual=801)
    assert estimates.of("m", "chat", 1_040) == pytest.approx(801)
