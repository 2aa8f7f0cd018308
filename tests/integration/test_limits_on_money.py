"""`--budget` and `--max-at-risk` against the simulator's real HTTP server: what is sent, what not, what is said."""

import asyncio
import json
import random

import pytest
from harness.reconcile import reconcile

import bulkgrok
from bulkgrok.checkpoint import read_store
from bulkgrok.cli import main
from bulkgrok.config import from_keywords
from bulkgrok.core import failpoints
from bulkgrok.core.errors import BulkgrokError, UsageError
from bulkgrok.core.money import TICKS
from bulkgrok.engine import Engine

FLAGS = {"poll_interval": 0.05, "concurrency": 8}


def chat(number, tokens=4_000, **fields):
    """A request that costs a cent at most for each 4,000 tokens of its answer, and a tenth of that in fact."""
    return {"prompt": f"question {number}", "max_completion_tokens": tokens, **fields}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_in(path):
    return [json.loads(line)["row"] for line in path.read_bytes().split(b"\n") if line]


def usd(ledger):
    return ledger.ticks / TICKS


@pytest.fixture
def watched():
    """Return a function that reads a checkpoint's money whenever something became durable, and remembers the most."""
    seen = {"taken": 0.0, "at_risk": 0.0, "looks": 0}

    def watch(checkpoint):
        def look(name):
            if name == "store.after-commit" and checkpoint.exists():
                store = read_store(checkpoint)
                money = store.money()
                store.close()
                seen["looks"] += 1
                seen["taken"] = max(seen["taken"], (money.spent + money.on_its_way) / TICKS)
                seen["at_risk"] = max(seen["at_risk"], money.at_risk / TICKS)

        failpoints.install(look)
        return seen

    yield watch
    failpoints.install(None)


def test_a_budget_holds_over_the_whole_life_of_a_run_and_a_larger_one_goes_on(tmp_path, api, watched):
    server = api(deferred_latency=0.1, video_latency=0.1, media_size=500)
    chance = random.Random(1)
    rows = [
        chance.choice(
            [
                chat(number, chance.randint(2_000, 40_000)),
                chat(number, chance.randint(2_000, 40_000), deferred=True),
                {"kind": "video", "prompt": f"clip {number}", "duration": chance.randint(1, 3)},
            ]
        )
        for number in range(40)
    ]
    source = write(tmp_path / "in.jsonl", rows)
    seen = watched(tmp_path / "in.bulkgrok" / "checkpoint.db")
    codes = []
    for budget in (0.15, 0.3, 0.3, 0.6, 50.0):
        report = bulkgrok.run(source, budget=budget, **FLAGS)
        codes.append(report.exit_code)
        assert report.outstanding == 0
        assert report.cost_usd == pytest.approx(usd(server.ledger), abs=1e-9)
        if budget < 50:
            assert seen["taken"] <= budget
            assert report.stopped.exit_code == 4
            assert f"The budget of ${budget:.4f} is reached" in report.stopped.message
            assert report.limits.budget_usd == budget
            assert report.succeeded + report.pending == len(rows)
    assert codes == [4, 4, 4, 4, 0]
    assert sorted(rows_in(tmp_path / "in.results.jsonl")) == list(range(len(rows)))
    assert server.ledger.accepted == len(rows)
    assert seen["looks"] > 40


def looks(source, **flags):
    """Run, and return (cost, taken) as an observer sees them with every answer, and at the end."""
    seen = []

    def look(name, /, **_fields):
        if name in {"item.succeeded", "run.finished"}:
            progress = engine.look()
            seen.append((progress.cost_usd, progress.taken_usd))

    engine = Engine(from_keywords(source, **FLAGS, **flags), events=look)
    assert asyncio.run(engine.run()).exit_code == 0
    return seen


def test_what_is_shown_as_taken_is_never_older_than_the_cost_beside_it(tmp_path, api):
    api(deferred_latency=0.1)
    rows = [chat(number, deferred=number % 2 == 0) for number in range(60)]
    seen = looks(write(tmp_path / "in.jsonl", rows), budget=50.0)
    assert len(seen) == len(rows) + 1
    assert all(taken >= cost - 1e-9 for cost, taken in seen)
    cost, taken = seen[-1]
    assert taken == pytest.approx(cost)


def test_nothing_is_shown_as_taken_where_money_is_not_limited(tmp_path, api):
    api()
    seen = looks(write(tmp_path / "in.jsonl", [chat(number) for number in range(5)]))
    assert seen[-1][0] > 0
    assert {taken for _, taken in seen} == {None}


def test_no_more_is_at_risk_than_allowed_and_what_is_fetched_makes_room(tmp_path, api, watched):
    server = api(deferred_latency=0.2)
    rows = [chat(number, 8_000, deferred=True) for number in range(30)]
    source = write(tmp_path / "in.jsonl", rows)
    seen = watched(tmp_path / "in.bulkgrok" / "checkpoint.db")
    report = bulkgrok.run(source, max_at_risk=0.12, poll_interval=0.05, concurrency=500)
    assert (report.exit_code, report.succeeded) == (0, len(rows))
    assert 0.08 < seen["at_risk"] <= 0.12
    assert server.ledger.accepted == len(rows)


def test_a_run_whose_limit_is_full_of_doubts_stops_and_names_them(tmp_path, api, watched, capsysbinary):
    server = api(drop_after=1.0, faults_on="post")
    source = write(tmp_path / "in.jsonl", [chat(number, 8_000) for number in range(30)])
    seen = watched(tmp_path / "in.bulkgrok" / "checkpoint.db")
    report = bulkgrok.run(source, max_at_risk=0.11, **FLAGS)
    assert (report.exit_code, report.in_doubt) == (4, server.ledger.accepted)
    assert 0.0 < report.limits.at_risk_usd == seen["at_risk"] <= 0.11
    assert "at risk is reached" in report.stopped.message
    assert "bulkgrok audit" in report.stopped.hint
    server.world.configure(server.world.settings.merged({"drop_after": 0.0}))
    assert bulkgrok.run(source, max_at_risk=0.11, **FLAGS).exit_code == 4
    assert bulkgrok.run(source, max_at_risk=1.0, **FLAGS).exit_code == 0
    audits = []
    for form in ("--json", "--csv"):
        assert main(["audit", str(source), form]) == 0
        audits.append(capsysbinary.readouterr().out.decode())
    left = reconcile(
        source,
        output=tmp_path / "in.results.jsonl",
        errors=tmp_path / "in.errors.jsonl",
        audit=json.loads(audits[0]),
        table=audits[1],
        ledger=server.ledger.as_json(),
    )
    assert (left.requests, left.ticks, left.wrong, left.doubted) == (0, 0, [], report.in_doubt)


def test_paid_work_is_fetched_before_a_run_ends_for_money(tmp_path, api):
    server = api(deferred_latency=0.5, video_latency=0.5, media_size=500)
    rows = [{"kind": "video", "prompt": f"clip {number}", "duration": 1} for number in range(6)]
    report = bulkgrok.run(write(tmp_path / "in.jsonl", rows), budget=0.17, **FLAGS)
    assert (report.exit_code, report.succeeded, report.pending, report.outstanding) == (4, 3, 3, 0)
    assert len(list((tmp_path / "in.media").iterdir())) == 3
    assert usd(server.ledger) == 0.15


def test_with_a_budget_of_nothing_only_what_was_accepted_is_fetched(tmp_path, api):
    server = api(deferred_latency=1.0)
    source = write(tmp_path / "in.jsonl", [chat(number, deferred=True) for number in range(5)] + [chat(9)])

    async def until_accepted():
        running = asyncio.ensure_future(bulkgrok.arun(source, **FLAGS, limit=3))
        while server.ledger.accepted < 3:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(until_accepted())
    posts = server.ledger.posts
    report = bulkgrok.run(source, budget=0, **FLAGS)
    assert (report.exit_code, report.succeeded, report.outstanding) == (4, 3, 0)
    assert server.ledger.posts == posts


def test_a_row_that_never_fits_is_passed_and_one_that_may_fit_is_not(tmp_path, api):
    server = api(deferred_latency=0.3)
    rows = [
        chat("first", 16_000, deferred=True),
        chat("too dear for ever", 500_000, deferred=True),
        chat("must wait for the first", 30_000, deferred=True),
        chat("small", 1_000, deferred=True),
    ]
    report = bulkgrok.run(write(tmp_path / "in.jsonl", rows), budget=0.1, **FLAGS)
    sent = [entry.ask.text if entry.ask else entry.marker for entry in server.ledger.jobs.values()]
    assert (report.exit_code, report.succeeded, report.pending) == (4, 3, 1)
    assert len(sent) == 3
    accepted = sorted(server.ledger.jobs.values(), key=lambda entry: entry.accepted_at)
    assert accepted[1].accepted_at >= accepted[0].ready_at, "the second row went before the first was settled"
    assert accepted[2].accepted_at > accepted[1].accepted_at
    assert "the cheapest request left costs $1.25" in report.stopped.message


@pytest.mark.parametrize("limit", ["budget", "max_at_risk"])
def test_a_run_of_which_no_price_is_known_is_refused_before_anything_is_sent(tmp_path, api, limit):
    server = api()
    source = write(tmp_path / "in.jsonl", [chat(number, model="brand-new") for number in range(3)])
    with pytest.raises(UsageError, match=r"price of brand-new is not known.*Nothing was sent") as caught:
        bulkgrok.run(source, **{limit: 5.0})
    assert "--prices" in caught.value.hint
    assert server.ledger.posts == 0
    prices = tmp_path / "prices.toml"
    prices.write_text('[chat]\n"brand-new" = { input = 0.0, output = 0.0 }\n', encoding="utf-8")
    assert bulkgrok.run(source, prices=prices, **{limit: 0.5}).exit_code == 0


def test_rows_without_a_price_are_left_while_the_others_are_answered(tmp_path, api):
    server = api()
    source = write(tmp_path / "in.jsonl", [chat(0), chat(1, model="brand-new"), chat(2)])
    report = bulkgrok.run(source, budget=5.0, **FLAGS)
    assert (report.exit_code, report.succeeded, report.pending) == (4, 2, 1)
    assert "The price of brand-new is not known (row 1)" in report.stopped.message
    assert server.ledger.accepted == 2
    assert bulkgrok.run(source, **FLAGS).exit_code == 0


def test_what_an_answer_cost_beyond_its_most_is_counted_and_ends_the_run(tmp_path, api):
    server = api()
    # A retired model: the API answers with a dearer one, and charges for that.
    rows = [{"prompt": f"question {number}", "max_tokens": 1, "model": "grok-4-fast"} for number in range(30)]
    budget = 0.004
    report = bulkgrok.run(write(tmp_path / "in.jsonl", rows), budget=budget, concurrency=2)
    dearest = max(entry.ticks for entry in server.ledger.direct) / TICKS
    assert report.exit_code == 4
    assert budget - dearest < report.cost_usd <= budget + 2 * dearest
    assert report.cost_usd == pytest.approx(usd(server.ledger))


def test_the_first_thousand_rows_that_do_not_fit_are_enough(tmp_path, api):
    server = api()
    rows = [chat(number, 500_000) for number in range(3_000)] + [chat("small")]
    report = bulkgrok.run(write(tmp_path / "in.jsonl", rows), budget=1.0, **FLAGS)
    assert (report.exit_code, report.succeeded, server.ledger.posts) == (4, 0, 0)


def test_a_stream_gives_what_was_answered_and_then_says_that_the_money_is_used_up(api):
    server = api()

    async def scenario():
        answered = []

        async def one_by_one():
            for number in range(100):
                while len(answered) < number:  # noqa: ASYNC110 - each row waits for the outcome of the one before
                    await asyncio.sleep(0.005)
                yield chat(number, 4_000)

        try:
            async for outcome in bulkgrok.stream(one_by_one(), budget=0.0125):
                answered.append(outcome)  # noqa: PERF401 - what came before the error counts
        except BulkgrokError as error:
            return answered, error

    answered, error = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert error.exit_code == 4
    assert 1 <= len(answered) == server.ledger.accepted < 100


def test_limits_come_from_variables_and_files_too_and_are_shown(tmp_path, api, monkeypatch, capsysbinary):
    api()
    source = write(tmp_path / "in.jsonl", [chat(number) for number in range(20)])
    monkeypatch.setenv("BULKGROK_BUDGET", "0.0125")
    (tmp_path / "flags.toml").write_text("max-at-risk = 2\nbudget = 7\n", encoding="utf-8")
    command = ["run", str(source), "--config", str(tmp_path / "flags.toml"), "--progress", "none"]
    assert main(command) == 4
    shown = capsysbinary.readouterr()
    assert b"Stopped at a limit" in shown.out
    assert b"of $0.0125 spent or on its way, at most" in shown.out
    assert b"of $2.00 on its way or in doubt, at most" in shown.out
    assert b"next: Type the same command again with --budget 0.0" in shown.err
    assert main(["status", str(source)]) == 0
    words = capsysbinary.readouterr().out
    assert b"of $0.0125 spent or on its way, at most" in words
    assert b"stopped: The budget of $0.0125 is reached" in words
    monkeypatch.delenv("BULKGROK_BUDGET")
    assert main([*command, "--json"]) == 0
    assert list(json.loads(capsysbinary.readouterr().out)) == [
        "run_id", "rows", "succeeded", "failed", "pending", "outstanding", "failed_by_code", "in_doubt", "lost",
        "cost_usd", "tokens", "output", "errors", "run_dir", "duration_s", "exit_code",
    ]  # fmt: skip
    assert main(["status", str(source)]) == 0
    assert b"of $7.00 spent" in capsysbinary.readouterr().out
