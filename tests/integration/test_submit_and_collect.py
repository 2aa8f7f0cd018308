"""The halves of a run, `submit` and `collect`, against the simulator's real HTTP server; its ledger is the judge."""

import asyncio
import json
import shutil
import time

import postgresql
import pytest

import bulkgrok
from bulkgrok.config import from_keywords
from bulkgrok.core.part import Part
from bulkgrok.engine import Engine

FLAGS = {"mode": "deferred", "concurrency": 4}


def write(path, count, **more):
    path.write_text(
        "".join(json.dumps({"custom_id": f"q{row}", "prompt": f"later {row}"} | more) + "\n" for row in range(count))
    )
    return path


def results(path):
    return [json.loads(line)["row"] for line in path.read_bytes().splitlines()]


def round_of(source, **flags):
    """Do one round and return (report, when the next one pays)."""

    async def main():
        engine = Engine(from_keywords(source, **FLAGS, **flags), events=lambda _name, /, **_: None, part=Part.ROUND)
        return await engine.run(), engine.next_at

    return asyncio.run(main())


def test_submit_sends_everything_and_asks_for_nothing_and_collect_fetches_it_without_the_input(tmp_path, api):
    server = api(deferred_latency=0.2)
    source = write(tmp_path / "in.jsonl", 12)
    sent = bulkgrok.submit(source, **FLAGS)
    assert (sent.exit_code, sent.outstanding, sent.pending, sent.succeeded) == (0, 12, 0, 0)
    assert (server.ledger.posts, server.ledger.gets) == (12, 0)
    source.unlink()
    got = bulkgrok.collect(tmp_path / "in.bulkgrok", poll_interval=0.1)
    assert (got.exit_code, got.outstanding, got.pending, got.succeeded) == (0, 0, 0, 12)
    assert server.ledger.posts == 12
    assert sorted(results(tmp_path / "in.results.jsonl")) == list(range(12))


def test_a_direct_row_is_refused_before_anything_is_sent(tmp_path, api):
    server = api()
    source = write(tmp_path / "in.jsonl", 5, deferred=True)
    with source.open("a") as file:
        file.write('{"prompt": "now"}\n')
    with pytest.raises(bulkgrok.BulkgrokError) as refused:
        bulkgrok.submit(source)
    assert refused.value.exit_code == 2
    assert "line 6" in refused.value.message
    assert server.ledger.posts == 0
    assert bulkgrok.submit(source, limit=5).exit_code == 0
    assert server.ledger.posts == 5


def test_what_does_not_fit_stays_pending_and_goes_once_something_is_collected(tmp_path, api):
    server = api(deferred_latency=0.1)
    source = write(tmp_path / "in.jsonl", 10)
    first = bulkgrok.submit(source, **FLAGS, max_outstanding=6)
    assert (first.exit_code, first.outstanding, first.pending) == (4, 6, 4)
    assert "collect" in first.stopped.hint
    again = bulkgrok.submit(source, **FLAGS, max_outstanding=6)
    assert (again.exit_code, server.ledger.posts) == (4, 6)
    got = bulkgrok.collect(source, poll_interval=0.1)
    assert (got.exit_code, got.succeeded, got.pending, got.outstanding) == (3, 6, 4, 0)
    assert bulkgrok.submit(source, **FLAGS, max_outstanding=6).exit_code == 0
    assert bulkgrok.collect(source, poll_interval=0.1).exit_code == 0
    assert (server.ledger.posts, server.ledger.deliveries_max) == (10, 1)


def test_submit_ends_when_money_lets_nothing_more_be_outstanding(tmp_path, api):
    server = api(deferred_latency=0.1)
    source = write(tmp_path / "in.jsonl", 10)
    first = bulkgrok.submit(source, **FLAGS, max_at_risk=1)
    assert first.exit_code == 4
    assert 0 < first.outstanding < 10
    assert server.ledger.gets == 0
    assert first.outstanding + first.pending == 10


def test_run_goes_on_with_a_half_and_a_half_with_a_run(tmp_path, api):
    server = api(deferred_latency=0.1)
    source = write(tmp_path / "in.jsonl", 10)
    bulkgrok.submit(source, **FLAGS, max_outstanding=3)
    assert bulkgrok.run(source, **FLAGS, poll_interval=0.1).exit_code == 0
    assert bulkgrok.submit(source, **FLAGS).exit_code == 0
    assert bulkgrok.collect(source).exit_code == 0
    assert server.ledger.posts == 10


def test_a_lost_result_stays_pending_when_it_is_collected_and_is_told(tmp_path, api):
    server = api(deferred_latency=0.0, drop_after=0.5, faults_on="get")
    source = write(tmp_path / "in.jsonl", 8)
    bulkgrok.submit(source, **FLAGS)
    got = bulkgrok.collect(source, poll_interval=0.1)
    assert (got.exit_code, got.outstanding, server.ledger.posts) == (3, 0, 8)
    assert 0 < got.lost == got.pending == 8 - got.succeeded
    assert sorted(results(tmp_path / "in.results.jsonl")) == sorted(set(results(tmp_path / "in.results.jsonl")))


def test_collect_is_refused_with_another_key_and_knows_no_flag_that_shapes_requests(tmp_path, api, monkeypatch):
    server = api()
    source = write(tmp_path / "in.jsonl", 3)
    bulkgrok.submit(source, **FLAGS)
    with pytest.raises(bulkgrok.BulkgrokError) as unknown:
        bulkgrok.collect(source, model="grok-4.5")
    assert unknown.value.exit_code == 2
    monkeypatch.setenv("XAI_API_KEY", "xai-another")
    gets = server.ledger.gets
    with pytest.raises(bulkgrok.BulkgrokError) as other:
        bulkgrok.collect(source)
    assert (other.value.exit_code, server.ledger.gets) == (6, gets)
    with pytest.raises(bulkgrok.BulkgrokError) as none:
        bulkgrok.collect(tmp_path / "other.jsonl")
    assert none.value.exit_code == 2


def test_collect_writes_beside_a_run_that_was_moved_and_wherever_it_is_told_to(tmp_path, api):
    api(deferred_latency=0.1)
    (tmp_path / "here").mkdir()
    bulkgrok.submit(write(tmp_path / "here" / "in.jsonl", 4), **FLAGS)
    bulkgrok.submit(tmp_path / "here" / "in.jsonl", output=f"{tmp_path}/here/parts/", **FLAGS)
    shutil.move(tmp_path / "here", tmp_path / "there")
    bulkgrok.collect(tmp_path / "there" / "in.bulkgrok", poll_interval=0.1)
    assert sorted(results(tmp_path / "there" / "in.results.jsonl")) == [0, 1, 2, 3]
    bulkgrok.collect(tmp_path / "there" / "parts.bulkgrok", poll_interval=0.1)
    assert (tmp_path / "there" / "parts" / "_manifest.json").exists()
    bulkgrok.collect(tmp_path / "there" / "in.bulkgrok", output=tmp_path / "other.jsonl")
    assert sorted(results(tmp_path / "other.jsonl")) == [0, 1, 2, 3]


def test_both_halves_work_on_a_running_loop(tmp_path, api):
    api(deferred_latency=0.1)
    source = write(tmp_path / "in.jsonl", 3)

    async def main():
        return await bulkgrok.asubmit(source, **FLAGS), await bulkgrok.acollect(source, poll_interval=0.1)

    sent, got = asyncio.run(main())
    assert (sent.outstanding, got.succeeded) == (3, 3)


def test_a_round_ends_when_only_time_can_help_and_says_when_the_next_one_pays(tmp_path, api):
    server = api(deferred_latency=3600.0, deferred_sigma=0.0)
    source = write(tmp_path / "in.jsonl", 6)
    first, next_at = round_of(source)
    assert (first.outstanding, first.pending, server.ledger.posts) == (6, 0, 6)
    assert next_at is not None
    again, later = round_of(source)
    assert (again.outstanding, server.ledger.posts) == (6, 6)
    assert later > next_at


def test_rounds_come_to_the_end_of_a_run_of_which_not_all_may_be_outstanding(tmp_path, api):
    server = api(deferred_latency=0.0, deferred_sigma=0.0)
    source = write(tmp_path / "in.jsonl", 10)
    for _ in range(20):
        report, next_at = round_of(source, max_outstanding=4, poll_interval=0.05)
        if next_at is None:
            break
    assert (report.exit_code, report.succeeded, server.ledger.posts) == (0, 10, 10)
    assert sorted(results(tmp_path / "in.results.jsonl")) == list(range(10))


def test_a_limit_on_money_ends_rounds_only_when_nothing_is_outstanding(tmp_path, api):
    server = api(deferred_latency=1.0, deferred_sigma=0.0)
    source = write(tmp_path / "in.jsonl", 10)
    codes = []
    for _ in range(100):
        report, next_at = round_of(source, budget=1.0, poll_interval=0.2)
        codes.append((report.exit_code, report.outstanding > 0, next_at is not None))
        if next_at is None:
            break
        time.sleep(max(0.0, next_at - time.time()))
    assert codes[0] == (0, True, True)
    assert codes[-1][1:] == (False, False)
    assert report.succeeded == server.ledger.posts
    assert (report.exit_code, report.pending) in {(0, 0), (4, 10 - report.succeeded)}


def test_a_round_comes_back_before_the_first_result_expires(tmp_path, api):
    api(deferred_latency=3600.0, deferred_sigma=0.0)
    source = write(tmp_path / "in.jsonl", 2)
    report, next_at = round_of(source, deferred_ttl=400.0, poll_interval=3000.0)
    assert report.outstanding == 2
    assert next_at < json.loads((tmp_path / "in.bulkgrok" / "status.json").read_bytes())["updated_at"] + 400.0


def test_a_run_in_a_database_is_collected_from_its_address_alone(tmp_path, api, monkeypatch):
    if missing := postgresql.missing():
        pytest.skip(missing)
    server = api(deferred_latency=0.1)
    database = postgresql.Server()
    try:
        (tmp_path / "here").mkdir()
        source = write(tmp_path / "here" / "in.jsonl", 5)
        sent = bulkgrok.submit(source, checkpoint=database.url(), run_id="nightly", **FLAGS)
        assert (sent.exit_code, sent.outstanding) == (0, 5)
        shutil.rmtree(tmp_path / "here")
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "there")
        got = bulkgrok.collect(f"{database.url()}#nightly", output="out.jsonl", poll_interval=0.1)
        assert (got.exit_code, got.succeeded, got.run_id) == (0, 5, "nightly")
        assert sorted(results(tmp_path / "there" / "out.jsonl")) == list(range(5))
        assert server.ledger.posts == 5
    finally:
        database.remove()
