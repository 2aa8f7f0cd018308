"""What goes wrong in the simulated API, and what its ledger says of it."""

import json

import orjson
import pytest

from bulkgrok.simulator.chance import Chance
from bulkgrok.simulator.settings import FIELDS, SimulatorSettings
from bulkgrok.simulator.wire import Wire
from bulkgrok.simulator.world import World


def test_a_drop_before_acceptance_accepts_nothing(api):
    world = api(drop_before=1.0)
    assert world.chat().wire is Wire.DROP
    assert world.redeem("x").wire is Wire.DROP
    assert world.ledger["accepted"] == 0
    assert world.ledger["dropped_before"] == 2
    assert world.ledger["replies_lost"] == 0


def test_a_drop_after_acceptance_is_billed_and_known_as_lost(api):
    world = api(drop_after=1.0)
    assert world.chat().wire is Wire.DROP
    assert world.post("/videos/generations", {"prompt": "x"}).wire is Wire.DROP
    ledger = world.ledger
    assert ledger["accepted"] == ledger["billed"] == ledger["replies_lost"] == 2
    assert [entry["reply_lost"] for entry in ledger["requests"]] == [True, True]
    assert ledger["deliveries"] == 0


@pytest.mark.parametrize("fault", ["drop_after", "cut_body", "hang"])
def test_a_once_only_result_is_consumed_although_it_never_arrives(api, fault):
    world = api(deferred_latency=0, faults_on="get", **{fault: 1.0})
    request_id = world.defer()
    assert world.redeem(request_id).wire is not Wire.WHOLE
    assert world.redeem(request_id).status == 404
    assert world.ledger["consumed"] == world.ledger["results_lost"] == 1
    assert world.ledger["deliveries"] == 0


def test_a_cut_reply_is_shorter_than_it_says(api):
    world = api(cut_body=1.0)
    for number in range(20):
        reply = world.chat(str(number))
        assert reply.wire is Wire.CUT
        assert 0 <= reply.cut_after < len(reply.body)


def test_a_video_whose_reply_was_cut_can_be_read_again(api):
    world = api(video_latency=0, cut_body=0.5, faults_on="get")
    request_id = world.film()
    replies = [world.get(f"/videos/{request_id}").wire for _ in range(20)]
    assert set(replies) == {Wire.CUT, Wire.WHOLE}
    assert world.ledger["results_lost"] == 0


@pytest.mark.parametrize("status", [403, 408, 429, 500, 502, 503, 504, 520, 529])
def test_drawn_refusals_accept_nothing(api, status):
    world = api(**{f"error_{status}": 1.0})
    reply = world.chat()
    assert reply.status == status
    assert world.ledger["accepted"] == 0
    assert world.ledger["refused"] == {str(status): 1}
    headers = world.headers(reply)
    assert headers["content-type"].startswith("text/html" if status == 520 else "application/json")
    assert ("retry-after" in headers) == (status in {429, 503})


@pytest.mark.parametrize("status", [408, 500, 502, 504, 520])
def test_an_unclear_error_may_have_been_accepted(api, status):
    world = api(error_accepted=1.0, **{f"error_{status}": 1.0})
    assert world.chat().status == status
    assert world.ledger["billed"] == world.ledger["replies_lost"] == 1


def test_a_definite_refusal_is_never_accepted(api):
    world = api(error_accepted=1.0, error_503=0.4, error_529=0.3, error_429=0.3)
    for _ in range(20):
        world.chat()
    assert world.ledger["accepted"] == 0


def test_a_200_may_hold_an_error_and_accepts_nothing(api):
    world = api(ok_error=1.0)
    for number in range(10):
        body = world.json(world.chat(str(number)))
        assert body["error"]
        assert "choices" not in body
    streams = [world.chat(str(number), stream=True) for number in range(20)]
    assert {bool(reply.frames) for reply in streams} == {True, False}
    assert world.ledger["accepted"] == 0
    assert world.redeem("x").status == 404


def test_malformed_answers_are_billed_and_no_json(api):
    world = api(malformed=1.0)
    for number in range(30):
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(world.chat(str(number)).body)
    assert world.ledger["billed"] == 30


def test_an_accepted_job_may_come_without_a_usable_id(api):
    world = api(no_id=1.0)
    bodies = {world.chat(str(number), deferred=True).body for number in range(60)}
    assert len(bodies) > 5
    assert world.ledger["billed"] == 60
    assert world.chat().status == 200
    assert world.json(world.chat())["choices"]


def test_a_stream_may_break_or_bring_an_error_after_its_first_content(api):
    broken = api(stream_break=1.0).chat(stream=True)
    assert broken.wire is Wire.CUT
    assert broken.cut_after < sum(map(len, broken.frames))
    world = api(stream_error=1.0)
    interrupted = world.chat(stream=True)
    assert b"error" in interrupted.frames[-1]
    assert any(b'"content":"S' in frame for frame in interrupted.frames)
    assert b"data: [DONE]\n\n" not in interrupted.frames
    assert world.ledger["billed"] == 1
    assert world.chat().wire is Wire.WHOLE


def test_slow_and_hanging_replies_take_their_time(api):
    slow = api(slow=1.0, slow_s=4.0, latency=1.0).chat()
    assert (slow.delay_s, slow.dribble_s, slow.wire) == (3.0, 2.0, Wire.WHOLE)
    hanging = api(hang=1.0, hang_s=50.0).chat()
    assert (hanging.delay_s, hanging.wire) == (50.0, Wire.DROP)


def test_faults_can_be_kept_to_one_side(api):
    world = api(drop_before=1.0, faults_on="post")
    assert world.chat().wire is Wire.DROP
    assert world.get("/models").status == 200
    world = api(drop_before=1.0, faults_on="get")
    assert world.chat().status == 200
    assert world.get("/models").wire is Wire.DROP


def test_rates_are_kept_and_add_up(api):
    world = api(drop_before=0.1, error_503=0.2, drop_after=0.3)
    replies = [world.chat(str(number)) for number in range(3000)]
    refused = sum(reply.status == 503 for reply in replies)
    assert 500 < refused < 700
    assert 200 < world.ledger["dropped_before"] < 400
    assert 530 < world.ledger["replies_lost"] < 730
    assert world.ledger["accepted"] + refused + world.ledger["dropped_before"] == 3000


def test_a_refused_request_meets_another_fate_when_it_comes_again(api):
    world = api(error_503=0.5)
    assert {world.chat("same").status for _ in range(30)} == {200, 503}


def test_media_faults_hit_the_media_host_only(api):
    url_of = lambda world: world.json(world.get(f"/videos/{world.film()}"))["video"]["url"]  # noqa: E731 - three uses
    world = api(video_latency=0, media_error=1.0)
    assert world.fetch(url_of(world)).status == 503
    world = api(video_latency=0, media_drop=1.0)
    assert world.fetch(url_of(world)).wire is Wire.DROP
    world = api(video_latency=0, media_cut=1.0)
    file = world.fetch(url_of(world))
    assert file.wire is Wire.CUT
    assert file.cut_after < file.stop
    assert world.ledger["media_fetched"] == 0


def test_refused_content_costs_nothing_but_a_fee_and_reads_in_three_ways(api):
    world = api()
    replies = [world.chat(f"[[refuse]] {number}") for number in range(40)]
    forms = {(reply.status, world.json(reply)["code"]) for reply in replies}
    assert forms == {
        (403, "permission-denied"),
        (403, "The caller does not have permission to execute the specified operation"),
        (400, "invalid-argument"),
    }
    assert all("Content violates usage guidelines" in world.json(reply)["error"] for reply in replies)
    assert world.ledger["billed"] == 0
    assert world.ledger["content_refusals"] == 40
    assert world.ledger["refusal_fees_usd"] == 2.0
    assert world.chat("[[refuse]] 0").status == replies[0].status


@pytest.mark.parametrize(("form", "status"), [("403-new", 403), ("429-old", 429)])
def test_credit_runs_out_and_polls_go_on(api, form, status):
    world = api(funding_after=2, funding_form=form)
    request_id = world.defer()
    assert world.chat().status == 200
    reply = world.chat()
    assert reply.status == status
    assert b"purchase more credits" in reply.body
    assert "retry-after" not in world.headers(reply)
    assert world.redeem(request_id).status == 202
    assert world.ledger["accepted"] == 2


SHAPES = {
    "kebab": lambda body: body["code"] == "not-found" and isinstance(body["error"], str),
    "sentence": lambda body: body["code"] == "Some requested entity was not found",
    "numeric": lambda body: body["code"] == 404,
    "nested": lambda body: body["error"]["message"] and body["error"]["param"] is None,
    "bare": lambda body: isinstance(body, str),
    "error-only": lambda body: body.keys() == {"error"} and isinstance(body["error"], str),
    "array": lambda body: body[0]["error"]["status"] == "NOT_FOUND",
    "double": lambda body: json.loads(body["error"])["error"]["message"],
    "detail": lambda body: body.keys() == {"detail"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_come_in_every_shape(api, shape):
    world = api(error_shape=shape)
    reply = world.redeem("unknown")
    assert reply.status == 404
    assert SHAPES[shape](world.json(reply))


def test_errors_come_as_html(api):
    world = api(error_shape="html")
    reply = world.chat("[[refuse]]")
    assert reply.body.startswith(b"<!DOCTYPE html>")
    assert b"Content violates usage guidelines" in reply.body
    assert world.headers(reply)["content-type"].startswith("text/html")


def test_mixed_shapes_are_mixed(api):
    world = api(error_shape="mixed", error_503=1.0)
    bodies = {world.chat(str(number)).body for number in range(100)}
    assert len(bodies) == 10


def test_requests_of_a_second_are_limited_for_each_model(api):
    world = api(rps=3)
    assert [world.chat().status for _ in range(5)] == [200, 200, 200, 429, 429]
    assert world.chat(model="grok-4.6").status == 200
    reply = world.chat()
    assert "Requests per Second (actual/limit): 6/3" in world.json(reply)["error"]
    assert world.headers(reply)["retry-after"] == "1"
    assert world.headers(reply)["x-ratelimit-limit-requests"] == "180"
    world.now += 1
    assert world.chat().status == 200
    assert world.ledger["accepted"] == 5


def test_polls_count_against_the_limit_unless_told_otherwise(api):
    world = api(rps=1)
    request_id = world.defer()
    assert world.redeem(request_id).status == 429
    world = api(rps=1, limit_gets=False)
    request_id = world.defer()
    assert world.redeem(request_id).status == 202


def test_a_sliding_window_has_no_edges(api):
    world = api(rps=2, limit_window="sliding")
    world.now += 0.9
    assert [world.chat().status for _ in range(3)] == [200, 200, 429]
    world.now += 0.5
    assert world.chat().status == 429
    world.now += 0.6
    assert [world.chat().status for _ in range(3)] == [200, 200, 429]


def test_requests_of_a_minute_and_slow_rates_are_limited(api):
    world = api(rpm=2)
    assert [world.chat().status for _ in range(3)] == [200, 200, 429]
    assert "Requests per Minute" in world.json(world.chat())["error"]
    world = api(rps=0.25)
    assert [world.chat().status for _ in range(2)] == [200, 429]
    world.now += 4
    assert world.chat().status == 200


def test_tokens_of_a_minute_are_limited_and_one_that_is_too_large_still_gets_through(api):
    world = api(tpm=1000)
    usage = world.json(world.chat("x" * 2000))["usage"]
    assert 500 < usage["total_tokens"] < 1000
    reply = world.chat("x" * 2000)
    assert reply.status == 429
    assert "Tokens per Minute (actual/limit)" in world.json(reply)["error"]
    world.now += 60
    assert world.chat("x" * 20_000).status == 200
    assert world.chat().status == 429


def test_one_model_may_have_limits_of_its_own(api):
    world = api(model_limits={"grok-4.6": {"rps": 1}})
    assert [world.chat(model="grok-4.6").status for _ in range(2)] == [200, 429]
    assert [world.chat().status for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("how", ["off", "on", "date", "mixed"])
def test_when_to_come_back_is_said_or_not(api, how):
    world = api(error_429=1.0, retry_after=how)
    found = {world.headers(world.chat(str(number))).get("retry-after") for number in range(20)}
    if how == "mixed":
        assert found == {None, "1"}
    else:
        (value,) = found
        assert {"off": value is None, "on": value == "1", "date": value and value.endswith("GMT")}[how]


def test_the_same_seed_and_requests_meet_the_same_fate_in_any_order(api):
    settings = {"drop_before": 0.2, "error_503": 0.2, "drop_after": 0.2, "cut_body": 0.2, "seed": 7}

    def fates(order):
        world = api(**settings)
        found = {}
        for prompt in order:
            reply = world.chat(str(prompt))
            found.setdefault(prompt, []).append((reply.status, reply.wire, reply.cut_after, reply.body))
        return found

    order = list(range(40)) * 2
    assert fates(order) == fates(order[::-1]) == fates(sorted(order))


def test_another_seed_is_another_fate(api):
    outcomes = []
    for seed in range(3):
        world = api(error_503=0.5, seed=seed)
        outcomes.append(tuple(world.chat(str(number)).status for number in range(30)))
    assert len(set(outcomes)) == 3
    assert World(SimulatorSettings(seed=1), 2).settings.seed == 2


def test_durations_spread_around_their_median():
    chance = Chance(1)
    draws = sorted(chance.spread(10.0, 0.5, number.to_bytes(4, "big"), "x") for number in range(2001))
    assert 9 < draws[1000] < 11
    assert draws[0] < 4
    assert draws[-1] > 25
    assert chance.spread(10.0, 0.0, b"", "x") == 10.0


def test_settings_change_on_the_way_and_what_was_accepted_stays(api):
    world = api(deferred_latency=5)
    request_id = world.defer()
    reply = world.request("POST", "/_simulator/settings", {"error_503": 1, "deferred-latency": "15m"}, key="")
    assert world.json(reply)["deferred_latency"] == 900
    assert world.chat().status == 503
    world.request("POST", "/_simulator/settings", {"error_503": None}, key="")
    world.request("POST", "/_simulator/clock", {"advance_s": 5}, key="")
    assert world.redeem(request_id).status == 200
    assert world.json(world.request("GET", "/_simulator/settings"))["error_503"] == 0
    ledger = world.json(world.request("GET", "/_simulator/ledger", key=""))
    assert (ledger["posts"], ledger["gets"]) == (2, 1)
    assert "requests" not in world.json(world.request("GET", "/_simulator/ledger?requests=0"))


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("settings", b"["),
        ("settings", b"[]"),
        ("settings", b'{"nothing": 1}'),
        ("settings", b'{"error_503": 2}'),
        ("settings", b'{"error_503": "x"}'),
        ("settings", b'{"error_503": 0.7, "error_529": 0.7}'),
        ("settings", b'{"rps": 0}'),
        ("settings", b'{"latency": -1}'),
        ("settings", b'{"latency": 1e999}'),
        ("settings", b'{"seed": 1.5}'),
        ("settings", b'{"error_shape": "round"}'),
        ("settings", b'{"cost_ticks": "perhaps"}'),
        ("settings", b'{"accepted_keys": 3}'),
        ("settings", b'{"model_limits": {"m": {"rph": 3}}}'),
        ("settings", b'{"model_limits": 7}'),
        ("clock", b'{"advance_s": -1}'),
        ("clock", b'{"advance_s": true}'),
        ("clock", b"{}"),
    ],
)
def test_controls_refuse_what_cannot_be_and_change_nothing(api, what, body):
    world = api()
    reply = world.request("POST", f"/_simulator/{what}", body, key="")
    assert reply.status == 400
    assert world.json(reply)["error"]
    assert world.world.settings == SimulatorSettings()
    assert world.world.skew_s == 0


def test_unknown_controls_are_not_found(api):
    world = api()
    assert world.request("GET", "/_simulator/").status == 404
    assert world.request("DELETE", "/_simulator/ledger").status == 404


def test_every_setting_reads_its_own_default_back_from_text():
    settings = SimulatorSettings()
    for name, value in settings.as_json().items():
        if value is not None:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            assert settings.merged({name: text}) == settings, name
        assert FIELDS[name].metadata["help"].endswith((".", "}.")), name


def test_a_world_taken_up_again_goes_on_where_the_last_one_was(api):
    records = []
    world = api({"record": records.append}, deferred_latency=5, video_latency=5, itemised=False)
    world.world.begin()
    world.chat()
    world.chat("[[refuse]]")
    kept, used, clip = world.defer("kept"), world.defer("used"), world.film()
    world.now += 5
    assert world.redeem(used).status == 200
    again = api(itemised=False)
    again.now = world.now
    assert again.world.restore([*json.loads(json.dumps(records)), {"t": "rubbish"}, {}, {"t": "job", "id": 3}]) == 3
    again.world.begin()
    for key in ("accepted", "billed", "usd", "consumed", "content_refusals"):
        assert again.ledger[key] == world.ledger[key], key
    assert again.redeem(used).status == 404
    assert again.redeem(kept).body == world.redeem(kept).body
    assert again.get(f"/videos/{clip}").status == 200
    assert again.defer("used") not in {used, kept}


def test_direct_requests_need_not_be_listed(api):
    world = api(itemised=False)
    for _ in range(3):
        world.chat()
    assert world.ledger["requests"] == []
    assert world.ledger["billed"] == 3
