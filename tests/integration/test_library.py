"""bulkgrok as a library: run, arun and stream against the simulator's real HTTP server."""

import asyncio
import gc
import json
from contextlib import closing

import pytest

import bulkgrok
from bulkgrok.checkpoint import read_store
from bulkgrok.config import from_keywords
from bulkgrok.engine import Engine


def write(path, count):
    path.write_text(
        "".join(json.dumps({"custom_id": f"q{row}", "prompt": f"question {row}"}) + "\n" for row in range(count))
    )
    return path


def test_run_returns_the_summary_with_attributes(tmp_path, api):
    api()
    report = bulkgrok.run(write(tmp_path / "in.jsonl", 5), output=tmp_path / "out.jsonl", concurrency=3)
    assert (report.rows, report.succeeded, report.failed, report.exit_code) == (5, 5, 0, 0)
    assert report.as_json()["output"] == str(tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 5


def test_run_works_inside_a_running_loop_and_arun_on_it(tmp_path, api):
    api()

    async def main():
        first = bulkgrok.run(str(write(tmp_path / "a.jsonl", 3)))
        second = await bulkgrok.arun(write(tmp_path / "b.jsonl", 3), mode="deferred", poll_interval=0.1)
        return first, second

    assert [report.succeeded for report in asyncio.run(main())] == [3, 3]


def test_a_refused_run_raises_an_error_that_carries_the_exit_code(tmp_path, api):
    api()
    source = write(tmp_path / "in.jsonl", 3)
    with pytest.raises(bulkgrok.BulkgrokError) as missing:
        bulkgrok.run(tmp_path / "none.jsonl")
    assert missing.value.exit_code == 2
    with pytest.raises(bulkgrok.BulkgrokError) as unknown:
        bulkgrok.run(source, concurency=3)
    assert unknown.value.exit_code == 2
    assert "concurrency" in str(unknown.value) + str(unknown.value.hint)
    bulkgrok.run(source)
    with pytest.raises(bulkgrok.BulkgrokError) as other:
        bulkgrok.run(source, model="grok-4.5")
    assert other.value.exit_code == 6


def test_a_wrong_key_raises_with_5(tmp_path, api, monkeypatch):
    api()
    monkeypatch.setenv("XAI_API_KEY", "bad-key")
    with pytest.raises(bulkgrok.BulkgrokError) as stopped:
        bulkgrok.run(write(tmp_path / "in.jsonl", 3))
    assert stopped.value.exit_code == 5


async def collect(rows, **flags):
    return [found async for found in bulkgrok.stream(rows, **flags)]


ROWS = [{"prompt": f"row {row}", "custom_id": f"r{row}"} for row in range(8)] + [
    {"nothing": 1},
    {"prompt": "[[refuse]]"},
]


def test_stream_yields_an_outcome_for_each_row_of_any_iterable(api):
    api()

    async def asynchronous():
        for row in ROWS:
            yield row

    for rows in (ROWS, iter(ROWS), asynchronous()):
        found = asyncio.run(collect(rows, concurrency=4))
        assert sorted(outcome["row"] for outcome in found) == list(range(10))
        failed = {outcome["row"]: outcome["error"]["code"] for outcome in found if outcome["error"]}
        assert failed == {8: "invalid_row", 9: "moderated"}
        answered = next(outcome for outcome in found if outcome["row"] == 3)
        assert answered["custom_id"] == "r3"
        assert "row 3" in answered["response"]["body"]["choices"][0]["message"]["content"]


def test_a_second_stream_in_the_same_place_yields_the_stored_outcomes_and_sends_only_the_rest(tmp_path, api):
    server = api()
    first = asyncio.run(collect(ROWS[:4], run_dir=tmp_path))
    posts = server.ledger.posts
    assert posts == 4
    again = asyncio.run(collect(ROWS[:6], run_dir=tmp_path))
    assert server.ledger.posts == 6
    by_row = {outcome["row"]: outcome for outcome in again}
    assert sorted(by_row) == list(range(6))
    assert all(by_row[outcome["row"]]["response"] == outcome["response"] for outcome in first)


def test_a_different_row_in_the_same_place_raises_6_and_is_not_sent(tmp_path, api):
    server = api()
    asyncio.run(collect(ROWS[:4], run_dir=tmp_path))
    with pytest.raises(bulkgrok.BulkgrokError) as differs:
        asyncio.run(collect([*ROWS[:2], {"prompt": "other"}, ROWS[3]], run_dir=tmp_path))
    assert differs.value.exit_code == 6
    assert server.ledger.posts == 4


def test_leaving_a_stream_drains_it_and_nothing_is_lost(tmp_path, api):
    server = api(latency=0.2)

    async def leave():
        async for _ in bulkgrok.stream(ROWS[:8], run_dir=tmp_path, concurrency=2):
            break

    asyncio.run(leave())
    posts = server.ledger.posts
    assert posts < 8
    found = asyncio.run(collect(ROWS[:8], run_dir=tmp_path, concurrency=4))
    assert sorted(outcome["row"] for outcome in found) == list(range(8))
    assert server.ledger.posts == 8


def test_an_endless_source_is_read_only_as_fast_as_it_is_answered(api):
    api()
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield {"prompt": f"row {taken}"}

    async def some():
        count = 0
        async for _ in bulkgrok.stream(endless(), concurrency=4):
            count += 1
            if count == 20:
                break

    asyncio.run(some())
    assert taken < 5_000


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        ({}, {"prompt": "[[long]] x"}),
        ({"error_403": 1.0, "faults_on": "post"}, {"prompt": "forbidden"}),
        ({}, {"nothing": 1}),
    ],
    ids=["rejected", "forbidden", "invalid"],
)
def test_a_caller_may_wait_for_each_outcome_before_giving_the_next_row(api, settings, row):
    api(**settings)

    async def ping_pong():
        outcome, seen = asyncio.Event(), []

        async def rows():
            for _ in range(3):
                outcome.clear()
                yield row
                await outcome.wait()

        async for found in bulkgrok.stream(rows()):
            seen.append(found["error"]["code"])
            outcome.set()
        return seen

    assert len(asyncio.run(asyncio.wait_for(ping_pong(), 30))) == 3


def test_a_job_that_must_be_sent_again_is_sent_while_the_rows_go_on(api):
    server = api(failed_retryable=1.0, deferred_latency=0.0)

    async def one_row():
        taken = asyncio.Event()

        async def rows():
            yield {"prompt": "x", "deferred": True}
            await taken.wait()

        codes = []
        async for found in bulkgrok.stream(rows(), poll_interval=0.05, max_attempts=3):
            taken.set()
            codes.append(found["error"]["code"])
        return codes

    assert asyncio.run(asyncio.wait_for(one_row(), 30)) == ["failed"]
    assert server.ledger.posts == 3


@pytest.mark.parametrize("asynchronous", [True, False])
def test_an_error_of_the_callers_rows_comes_out_after_the_rows_before_it(api, asynchronous):
    server = api()

    def rows():
        yield {"prompt": "a"}
        yield {"prompt": "b"}
        raise LookupError

    async def as_asynchronous():
        for row in rows():
            yield row

    async def collected():
        return [outcome async for outcome in bulkgrok.stream(as_asynchronous() if asynchronous else rows())]

    with pytest.raises(LookupError):
        asyncio.run(collected())
    assert server.ledger.posts == 2


def test_an_error_that_a_stream_raises_is_not_printed_by_the_loop_as_well(tmp_path, api):
    api()
    told = []

    async def collected():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        with pytest.raises(bulkgrok.BulkgrokError):
            await collect([{"prompt": "other"}], run_dir=tmp_path)
        gc.collect()

    asyncio.run(collect(ROWS[:1], run_dir=tmp_path))
    asyncio.run(collected())
    assert told == []


def test_a_stream_refuses_the_names_of_files_it_does_not_use(tmp_path, api):
    server = api()
    with pytest.raises(bulkgrok.BulkgrokError, match="has no output") as refused:
        asyncio.run(collect(ROWS, output=tmp_path / "out.jsonl"))
    assert (refused.value.exit_code, server.ledger.posts) == (2, 0)


def test_a_row_that_is_read_again_is_not_taken_for_another_of_its_name(tmp_path, api):
    api(failed_retryable=0.5, deferred_latency=0.1)
    source = tmp_path / "in.jsonl"
    source.write_text(
        "".join(json.dumps({"custom_id": f"c{row}", "prompt": f"q {row}", "deferred": True}) + "\n" for row in range(9))
    )
    said = []
    engine = Engine(from_keywords(source, poll_interval=0.05), events=lambda name, **fields: None, say=said.append)
    report = asyncio.run(engine.run())
    assert report.exit_code in {0, 3}
    with closing(read_store(tmp_path / "in.bulkgrok" / "checkpoint.db")) as store:
        assert list(store.ledger()), "no job failed, so no row was read again"
    assert said == []
