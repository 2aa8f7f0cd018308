from bulkgrok.core.retry import FirstRejections, Health, RetryQuota, RowPolicy, backoff_s, wait_s


def test_backoff_is_fully_jittered_and_capped():
    assert backoff_s(0, jitter=0.0) == 0.0
    assert backoff_s(3, jitter=0.5) == 4.0
    assert backoff_s(10_000, jitter=0.999, cap_s=60.0) < 60.0


def test_a_retry_after_is_never_undercut_and_capped_at_120_s():
    assert wait_s(7.0, 9, jitter=0.0) == 7.0
    assert 120.0 <= wait_s(86_400.0, 0, jitter=0.9) < 121.0


def test_a_row_in_doubt_or_lost_is_sent_again_at_most_twice():
    policy = RowPolicy(max_attempts=8, resubmit_doubtful=True, resubmit_lost=True)
    assert [policy.doubtful_again(n) for n in (1, 2, 3)] == [True, True, False]
    assert [policy.lost_again(n) for n in (1, 2, 3)] == [True, True, False]
    careful = RowPolicy(max_attempts=8, resubmit_doubtful=False, resubmit_lost=False)
    assert not careful.doubtful_again(1)
    assert not careful.lost_again(1)


def test_an_outage_begins_with_five_failures_in_a_row_and_ends_with_any_reply():
    health = Health(max_outage_s=7200.0)
    assert not any(health.bad(float(at), "refused") for at in range(4))
    assert health.bad(4.0, "refused")
    assert health.outage_since == 0.0
    assert health.good(10.0)
    assert health.outage_since is None


def test_one_reply_in_between_is_bad_luck_and_no_outage():
    health = Health(max_outage_s=7200.0)
    for at in range(40):
        health.bad(float(at), "dropped")
        if at % 4 == 3:
            health.good(float(at))
    assert health.outage_since is None


def test_probes_come_ever_less_often_down_to_one_each_30_s():
    health = Health(max_outage_s=7200.0)
    for at in range(5):
        health.bad(float(at), "refused")
    gaps, now = [], health.next_probe_at
    for _ in range(8):
        health.probing(now)
        gaps.append(health.next_probe_at - now)
        now = health.next_probe_at
    assert gaps == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_an_api_that_never_answered_ends_the_run_after_a_minute_and_one_that_did_after_max_outage():
    never, once = Health(max_outage_s=7200.0), Health(max_outage_s=7200.0)
    once.good(0.0)
    for at in range(1, 6):
        never.bad(float(at), "refused")
        once.bad(float(at), "refused")
    assert never.ends_run_at() == 61.0
    assert once.ends_run_at() == 7201.0


def test_a_throttled_reply_shows_that_the_api_is_there_but_answers_nobody():
    health = Health(max_outage_s=1.0)
    health.good(5.0, answered=False)
    assert health.last_good_at == 5.0
    assert not health.answered_since(0.0)


def test_retries_beyond_the_quota_trickle():
    quota = RetryQuota(capacity=10.0, trickle_per_s=5.0)
    delays = [quota.delay_s(0.0) for _ in range(20)]
    assert delays[:10] == [0.0] * 10
    assert delays[-1] == 2.0


def test_every_second_request_may_be_a_retry_for_ever():
    quota = RetryQuota(capacity=10.0, trickle_per_s=5.0)
    for _ in range(10_000):
        quota.refund()
        assert quota.delay_s(0.0) == 0.0


def test_twenty_rejections_alike_are_held_and_a_different_outcome_releases_them():
    first = FirstRejections(armed=True)
    assert [first.rejected((400, "no"), n) for n in range(19)] == [[]] * 19
    assert not first.full
    first.rejected((400, "no"), 19)
    assert first.full
    other = FirstRejections(armed=True)
    other.rejected((400, "no"), 0)
    assert other.rejected((400, "other"), 1) == [0, 1]
    assert other.rejected((400, "no"), 2) == [2]


def test_typed_again_unchanged_each_row_fails_by_itself():
    assert FirstRejections(armed=False).rejected((400, "no"), 0) == [0]


def test_probes_come_as_often_as_ever_however_long_it_lasts():
    now = 0.0
    health = Health(max_outage_s=1e9)
    for _ in range(3_000):
        health.probing(now)
        assert health.next_probe_at - now <= 30.0


def test_the_clock_of_the_api_goes_on_from_what_it_showed_last():
    health = Health(max_outage_s=7200.0)
    assert health.server_time(5.0) is None
    health.told(1_790_000_000.0, 5.0)
    assert health.server_time(65.0) == 1_790_000_060.0
    health.told(1_790_000_100.0, 70.0)
    assert health.server_time(70.0) == 1_790_000_100.0
