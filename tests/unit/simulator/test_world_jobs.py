"""Deferred completions and videos of the simulated API."""

import pytest

from bulkgrok.core.model import Reply
from bulkgrok.kinds.sse import assemble
from bulkgrok.simulator.answers import digest
from bulkgrok.simulator.media import content, parse_range

UNKNOWN = "11111111-2222-3333-4444-555555555555"


def test_a_deferred_result_is_pending_then_there_once_then_gone(api):
    world = api(deferred_latency=10)
    request_id = world.defer("later")
    for _ in range(3):
        reply = world.redeem(request_id)
        assert (reply.status, reply.body) == (202, b"")
    world.now += 10
    body = world.json(world.redeem(request_id))
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"].endswith("later")
    assert world.redeem(request_id).status == 404
    ledger = world.ledger
    assert ledger["consumed"] == ledger["deliveries"] == ledger["deliveries_max"] == 1
    assert ledger["gets_after_consumption"] == 1
    assert ledger["requests"][0]["polls"] == ledger["polls_max"] == 5


def test_a_deferred_answer_and_its_bill_are_those_of_a_direct_one(api):
    world = api(deferred_latency=0)
    direct = world.json(world.chat("same"))
    deferred = world.json(world.redeem(world.defer("same")))
    assert direct["usage"] == deferred["usage"]
    assert direct["choices"] == deferred["choices"]
    assert world.ledger["billed"] == 2


def test_the_ledger_tells_when_a_result_was_handed_out_what_it_was_and_who_asked_again(api):
    world = api(deferred_latency=1.0)
    identifier = world.defer("count me")
    world.now += 2
    body = world.redeem(identifier).body
    direct = world.chat("count me too", stream=True, stream_options={"include_usage": True})
    assert world.redeem(identifier).status == 404
    job, streamed = world.ledger["requests"]
    assert (job["consumed_at"], job["polls_after"]) == (world.now, 1)
    assert job["sha256"] == digest(body).hex() != digest(body.replace(b"count", b"discount")).hex()
    assert (
        streamed["sha256"]
        == digest(assemble(Reply(status=200, body=b"".join(direct.frames), complete=True)).body).hex()
    )


def test_a_deferred_result_is_discarded_after_its_time(api):
    world = api(deferred_ttl=100)
    request_id = world.defer()
    world.now += 100
    assert world.redeem(request_id).status == 404
    assert world.ledger["gets_after_consumption"] == 0
    assert world.ledger["consumed"] == 0


def test_unknown_ids_are_not_found(api):
    world = api()
    assert world.redeem(UNKNOWN).status == 404
    assert world.get(f"/videos/{UNKNOWN}").status == 404
    assert world.redeem(world.film()).status == 404
    assert world.get(f"/videos/{world.defer()}").status == 404
    assert world.get("/videos/").status == 404
    assert world.get("/videos/a/b").status == 404


@pytest.mark.parametrize(
    ("shape", "status", "body"),
    [
        ("202-empty", 202, b""),
        ("202-json", 202, b'"pending"'),
        ("200-pending", 200, b'"processing"'),
        ("200-empty", 200, b""),
    ],
)
def test_not_ready_is_said_in_every_way(api, shape, status, body):
    world = api(pending_shape=shape)
    reply = world.redeem(world.defer())
    assert reply.status == status
    assert body in reply.body
    assert world.ledger["consumed"] == 0


@pytest.mark.parametrize(("form", "status"), [("400", 400), ("500", 500), ("200-error", 200)])
def test_a_failed_job_is_not_billed_and_says_so_whenever_it_is_asked(api, form, status):
    world = api(failed_form=form, deferred_latency=0)
    request_id = world.defer("[[fail]]")
    for _ in range(2):
        reply = world.redeem(request_id)
        assert reply.status == status
        assert world.json(reply)["error"]
    assert (world.ledger["accepted"], world.ledger["billed"], world.ledger["consumed"]) == (1, 0, 0)


def test_a_passing_fault_of_a_job_passes_when_it_is_submitted_again(api):
    world = api(failed_retryable=0.5, failed_form="400", deferred_latency=0)
    statuses = [world.redeem(world.defer("again")).status for _ in range(20)]
    assert set(statuses) == {200, 400}


def test_ids_may_come_under_the_older_name(api):
    world = api(submit_shape="id")
    body = world.json(world.chat(deferred=True))
    assert "request_id" not in body
    assert body["status"] == "processing"
    assert world.redeem(body["id"]).status == 202


def test_a_video_is_pending_then_done_as_often_as_asked_and_its_address_needs_no_key(api):
    world = api(video_latency=10, media_size=70_000)
    request_id = world.film(duration=2)
    statuses = set()
    for step in range(10):
        reply = world.get(f"/videos/{request_id}")
        statuses.add(reply.status)
        assert not reply.body or world.json(reply)["progress"] == step * 10
        world.now += 1
    assert statuses == {202}
    first, second = (world.json(world.get(f"/videos/{request_id}")) for _ in range(2))
    assert first["status"] == "done"
    assert first["video"]["duration"] == 2
    assert first["usage"]["cost_in_usd_ticks"] == 1_000_000_000
    assert first["video"]["url"] == second["video"]["url"]
    file = world.fetch(first["video"]["url"])
    assert (file.status, file.size) == (200, 70_000)
    data = b"".join(content(file.key, file.size, 0, file.size))
    assert len(data) == 70_000
    assert data[4:12] == b"ftypisom"
    assert world.ledger["requests"][0]["media_fetched"] == 1


def test_a_media_address_expires_and_reading_the_job_again_brings_a_fresh_one(api):
    world = api(video_latency=0, media_ttl=60)
    request_id = world.film()
    url = world.json(world.get(f"/videos/{request_id}"))["video"]["url"]
    world.now += 61
    assert world.fetch(url).status == 403
    assert world.fetch(world.json(world.get(f"/videos/{request_id}"))["video"]["url"]).status == 200


def test_the_media_host_refuses_and_counts_credentials(api):
    world = api(video_latency=0)
    url = world.json(world.get(f"/videos/{world.film()}"))["video"]["url"]
    assert world.fetch(url, authorization="Bearer any").status == 400
    assert world.ledger["media_with_credentials"] == 1
    assert world.ledger["media_fetched"] == 0


def test_the_media_host_knows_only_its_signed_addresses(api):
    world = api(video_latency=0)
    url = world.json(world.get(f"/videos/{world.film()}"))["video"]["url"]
    path = url.partition("?")[0]
    for wrong in (
        "",
        "?sig=&exp=",
        "?sig=x&exp=9999999999",
        "?exp=²&sig=x",
        "?" + "&" * 5000,
        "?sig=%ff&exp=99999999999",
    ):
        assert world.fetch(path + wrong).status == 403
    assert world.fetch("http://host/elsewhere").status == 404
    assert world.fetch(url.replace(".mp4", ".mov")).status == 404


def test_a_part_of_a_file_is_that_part(api):
    world = api(video_latency=0, media_size=200_000)
    url = world.json(world.get(f"/videos/{world.film()}"))["video"]["url"]
    whole = world.fetch(url)
    data = b"".join(content(whole.key, 200_000, 0, 200_000))
    etag = dict(whole.headers)["ETag"]
    part = world.fetch(url, range="bytes=65530-131080", if_range=etag)
    assert part.status == 206
    assert dict(part.headers)["Content-Range"] == "bytes 65530-131080/200000"
    assert b"".join(content(part.key, part.size, part.start, part.stop)) == data[65_530:131_081]
    assert world.fetch(url, range="bytes=10-", if_range='"other"').status == 200
    assert world.fetch(url, range="bytes=200000-").status == 416
    assert api(video_latency=0, media_ranges=False).world.settings.media_ranges is False


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=-0", None),
        ("bytes=100-", None),
        ("bytes=20-10", (0, 100)),
        ("bytes=-", (0, 100)),
        ("items=0-3", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("bytes=" + "9" * 5000 + "-", (0, 100)),
    ],
)
def test_ranges_are_read_as_http_has_them(header, span):
    assert parse_range(header, 100) == span


def test_every_shape_of_a_finished_video_brings_its_address(api):
    for shape, find in {
        "current": lambda body: body["video"]["url"],
        "no-status": lambda body: body["video"]["url"],
        "seed": lambda body: body["data"][0]["url"],
        "url": lambda body: body["url"],
        "pending-200": lambda body: body["video"]["url"],
    }.items():
        world = api(video_shape=shape, video_latency=5)
        request_id = world.film()
        early = world.get(f"/videos/{request_id}")
        assert early.status == (200 if shape in {"seed", "pending-200"} else 202)
        world.now += 5
        body = world.json(world.get(f"/videos/{request_id}"))
        assert world.fetch(find(body)).status == 200, shape
        assert ("status" in body) == (shape not in {"no-status", "url"})


def test_a_moderated_video_is_billed_and_brings_no_address(api):
    world = api(video_latency=0)
    body = world.json(world.get(f"/videos/{world.film('[[moderate]]')}"))
    assert body["video"]["respect_moderation"] is False
    assert not body["video"]["url"]
    assert world.ledger["billed"] == 1


@pytest.mark.parametrize("form", ["object", "string"])
def test_a_failed_video_says_why(api, form):
    world = api(video_latency=0, video_error_form=form)
    body = world.json(world.get(f"/videos/{world.film('[[fail]]')}"))
    assert body["status"] == "failed"
    assert isinstance(body["error"], dict if form == "object" else str)
    assert world.ledger["billed"] == 0


def test_a_video_may_be_done_without_an_address(api):
    world = api(video_latency=0, no_video=1.0)
    body = world.json(world.get(f"/videos/{world.film()}"))
    assert body["status"] == "done"
    assert body["video"]["url"] is None


@pytest.mark.parametrize(("form", "status"), [("404", 404), ("status", 200)])
def test_a_video_id_is_forgotten_after_its_time(api, form, status):
    world = api(video_ttl=100, expired_form=form)
    request_id = world.film()
    world.now += 100
    reply = world.get(f"/videos/{request_id}")
    assert reply.status == status
    assert status == 404 or world.json(reply) == {"status": "expired"}


def test_edits_and_extensions_need_a_video_and_have_their_own_lengths(api):
    world = api()
    source = {"url": "https://example.com/a.mp4"}
    assert world.post("/videos/edits", {"prompt": "x", "video": source}).status == 200
    assert world.post("/videos/edits", {"prompt": "x"}).status == 422
    assert world.post("/videos/edits", {"prompt": "x", "video": "https://example.com/a.mp4"}).status == 422
    assert world.post("/videos/extensions", {"prompt": "x", "video": source, "duration": 10}).status == 200
    assert world.post("/videos/extensions", {"prompt": "x", "video": source, "duration": 1}).status == 400
    assert [entry["kind"] for entry in world.ledger["requests"]] == ["video-edit", "video-extension"]


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, {"prompt": "x", "duration": "3"}),
        (200, {"image": {"url": "https://example.com/a.png"}}),
        (422, {}),
        (422, {"prompt": 3}),
        (422, {"prompt": ""}),
        (400, {"prompt": "x", "duration": 16}),
        (400, {"prompt": "x", "duration": 1.5}),
        (400, {"prompt": "x", "duration": True}),
        (400, {"prompt": "x", "duration": "²"}),
        (400, {"prompt": "x", "duration": {}}),
        (400, {"prompt": "x", "resolution": "4k"}),
        (404, {"prompt": "x", "model": "no-such-model"}),
    ],
)
def test_video_requests_are_checked(api, status, fields):
    assert api().post("/videos/generations", fields).status == status
