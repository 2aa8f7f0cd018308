"""What a reply does to its row: real store contract in memory, scripted API, virtual time."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest

from bulkgrok import kinds
from bulkgrok.checkpoint import Committer
from bulkgrok.core.errors import StoppedByApi, StorageFailed
from bulkgrok.core.lifecycle import Redeem
from bulkgrok.core.model import Entry, Item, Job, Mode, NoReply, NotSent, Progress, Reply, RequestId, Work
from bulkgrok.core.outcome import Sign
from bulkgrok.core.retry import Health, RowPolicy
from bulkgrok.dispatch.account import Account, Rejections
from bulkgrok.dispatch.deferred import Redeemer
from bulkgrok.dispatch.large import LargeReplies, Memory
from bulkgrok.dispatch.post import Poster
from bulkgrok.dispatch.settle import Settler
from bulkgrok.testing import MemoryStore, ScriptedTransport, VirtualTimeLoop
from bulkgrok.transport.spilling import Spills

ANSWER = json.dumps(
    {"id": "x", "model": "grok-4.3", "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
).encode()
REFUSED_CONTENT = {"code": "permission-denied", "error": "Content violates usage guidelines."}


class Clock:
    def wall(self):
        return 1_790_000_000.0 + asyncio.get_running_loop().time()

    def monotonic(self):
        return asyncio.get_running_loop().time()


def reply(status, value=None, **more):
    body = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
    return Reply(status=status, body=body, **more)


def item(row=0, mode=Mode.DIRECT, *, stream=False, kind="chat"):
    return Item(
        row=row,
        line=row + 1,
        custom_id=f"q{row}",
        kind=kind,
        mode=mode,
        model="grok-4.3",
        stream=stream,
        body=b"{}",
        digest=b"0" * 16,
        max_usd=0.5,
        tokens=10,
    )


async def at_once(function, /, *args):
    return function(*args)


class Bench:
    """The dispatch stage on a scripted API."""

    def __init__(self, script, *, store=None, inline=True, **policy):
        self.api = ScriptedTransport(script)
        self.store = store or MemoryStore()
        self.checkpoint = Committer(self.store, inline=inline)
        self.progress, self.health, self.again = Progress(), Health(max_outage_s=7200.0), []
        self.policy = RowPolicy(**{"max_attempts": 8, "resubmit_doubtful": True, "resubmit_lost": True, **policy})
        self.account = Account(self.api)
        common = {
            "checkpoint": self.checkpoint,
            "kinds": kinds.KINDS,
            "policy": self.policy,
            "clock": Clock(),
            "events": lambda name, /, **fields: None,
            "progress": self.progress,
        }
        self.memory, self.settled = Memory(), []
        self.settler = Settler(
            **common,
            memory=self.memory,
            offload=at_once,
            load=self.store.record,
            cost=lambda kind, model, decoded, most: 0.25,
            encode_json=lambda value: json.dumps(value).encode(),
            again=self.again.append,
            hide=str,
            download=None,
            settled=self.settled.append,
        )
        self.rejections = Rejections(
            checkpoint=self.checkpoint, account=self.account, armed=False, progress=self.progress
        )
        requests = {
            "transport": self.api,
            "health": self.health,
            "jitter": lambda: 0.5,
            "settler": self.settler,
            "large": LargeReplies(offload=at_once, memory=self.memory, answer_bytes=4_000_000),
        }
        self.intended = []
        self.poster = Poster(
            **common, **requests, rejections=self.rejections, timeout_s=60.0, deferred_ttl_s=86_400.0, refusal_usd=0.05,
            intended=self.intended.append,
        )  # fmt: skip
        self.redeemer = Redeemer(
            **common,
            **requests,
            store=self.store,
            says_pending=kinds.pending,
            account=self.account,
            again=self.again.append,
        )

    def entries(self):
        return [entry.entry for entry in self.store.ledger()]

    def failure(self, row=0):
        outcome = self.store.outcome(row)
        return outcome and outcome.error and str(outcome.error.code)

    def explained(self):
        return self.store.unexplained() == []


def play(script, scenario, **policy):
    async def main():
        bench = Bench(script, **policy)
        await bench.checkpoint.start()
        result = await scenario(bench)
        assert bench.explained()
        return bench, result

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def send(exchange, *, mode=Mode.DIRECT, stream=False, answered=True, **policy):
    async def scenario(bench):
        if answered:
            await asyncio.sleep(1)
            bench.health.good(1.0)
        return await bench.poster.send(Work(item=item(mode=mode, stream=stream)))

    return play([exchange], scenario, **policy)


def test_an_answer_succeeds_in_the_outbox():
    bench, feedback = send(reply(200, ANSWER, request_id="req-1"))
    (settled,) = bench.store.outbox(0, 10)
    assert (settled.body, settled.request_id, settled.attempts, settled.cost_usd) == (ANSWER, "req-1", 1, 0.25)
    assert feedback.sign is Sign.GOOD
    assert bench.store.totals().billed == 1


class SlowDisk(MemoryStore):
    """A store that takes an answer only when it may."""

    def __init__(self):
        super().__init__()
        self.may_go, self.full, self.groups = threading.Event(), False, []

    def apply(self, changes):
        if any(isinstance(change, Redeem) for change in changes):
            self.may_go.wait()
            if self.full:
                msg = "The disk is full."
                raise StorageFailed(msg)
        super().apply(changes)
        self.groups.append([type(change).__name__ for change in changes])


def on_a_slow_disk(scenario):
    async def main():
        bench = Bench([reply(200, ANSWER)] * 2, store=SlowDisk(), inline=False)
        await bench.checkpoint.start()
        await scenario(bench)
        await bench.checkpoint.close()

    asyncio.run(main())


def test_an_answer_is_handed_in_before_the_next_intent_of_its_slot_and_counts_once_it_is_durable():
    async def scenario(bench):
        async def slot():
            await bench.poster.send(Work(item=item(0)))
            await bench.poster.send(Work(item=item(1)))

        working = asyncio.create_task(slot())
        while not bench.settler.open:  # noqa: ASYNC110 - nothing tells of it, and that is the point
            await asyncio.sleep(0)
        assert (bench.progress.succeeded, bench.settler.open, bench.settled) == (0, 1, [])
        assert len(bench.api.asked) == 1
        bench.store.may_go.set()
        await working
        await bench.settler.finish()
        assert (bench.progress.succeeded, bench.settler.open, bench.settled) == (2, 0, [None, None])
        assert bench.store.groups == [["Submit"], ["Redeem", "Succeed", "Submit"], ["Redeem", "Succeed"]]

    on_a_slow_disk(scenario)


def test_no_result_is_asked_for_while_an_answer_is_on_its_way_to_the_disk():
    async def scenario(bench):
        await bench.poster.send(Work(item=item()))
        job = Job(row=7, kind="chat", request_id=RequestId("r-7"), submitted_at=0.0, deadline_at=9e9)
        polling = asyncio.create_task(bench.redeemer.poll(job))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (bench.settler.open, len(bench.api.asked)) == (1, 1)
        bench.store.may_go.set()
        with pytest.raises(ValueError, match="Redeem is not allowed"):  # there is no such job: it was asked for at last
            await polling
        assert len(bench.api.asked) == 2

    on_a_slow_disk(scenario)


def test_an_answer_that_cannot_be_made_durable_is_told_and_does_not_count():
    async def scenario(bench):
        await bench.poster.send(Work(item=item()))
        bench.store.full = True
        bench.store.may_go.set()
        await bench.settler.finish()
        assert (bench.progress.succeeded, bench.settler.open) == (0, 0)
        assert [type(error) for error in bench.settled] == [StorageFailed]

    on_a_slow_disk(scenario)


def test_the_intent_is_durable_before_the_request_leaves():
    seen = []

    async def scenario(bench):
        bench.api._answer = lambda asked: seen.append(bench.store.submitting()) or reply(200, ANSWER)
        await bench.poster.send(Work(item=item()))

    play((), scenario)
    assert seen == [[0]]


def test_what_did_not_leave_is_free():
    bench, feedback = send(NotSent(reason="connection refused"))
    assert feedback.again is not None
    assert (feedback.again.posts, feedback.again.attempts) == (1, 0)
    assert bench.entries() == []
    assert bench.store.totals().billed == 0


def test_a_429_is_free_and_waits_as_it_says():
    bench, feedback = send(reply(429, {"code": "resource-exhausted", "error": "slow"}, retry_after_s=9.0))
    assert (feedback.sign, feedback.retry_after_s) == (Sign.THROTTLED, 9.0)
    assert feedback.again.attempts == 0
    assert bench.entries() == []


@pytest.mark.parametrize(("answered", "attempts"), [(True, 1), (False, 0)])
def test_a_503_counts_as_an_attempt_only_while_others_are_answered(answered, attempts):
    bench, feedback = send(reply(503, {"error": "busy"}), answered=answered)
    assert feedback.again.attempts == attempts
    assert bench.entries() == []


def test_a_502_stands_in_the_ledger_as_in_doubt_and_is_sent_again():
    bench, feedback = send(reply(502, b"<html>bad gateway</html>"))
    assert feedback.again is not None
    assert bench.entries() == [Entry.IN_DOUBT]


def test_with_on_ambiguous_fail_a_502_fails_the_row():
    bench, feedback = send(reply(502, b"oops"), resubmit_doubtful=False)
    assert feedback.again is None
    assert bench.failure() == "in_doubt"


def test_a_row_is_given_up_after_max_attempts():
    async def scenario(bench):
        work = Work(item=item())
        for _ in range(3):
            bench.health.good(asyncio.get_running_loop().time())
            feedback = await bench.poster.send(work)
            await asyncio.sleep(5)
        return feedback

    bench, feedback = play([reply(503, {"error": "busy"})] * 3, scenario, max_attempts=3)
    assert feedback.again is None
    assert bench.failure() == "gave_up"


def test_in_doubt_is_sent_again_twice_and_then_fails():
    async def scenario(bench):
        work = Work(item=item())
        return [await bench.poster.send(work) for _ in range(3)]

    bench, feedbacks = play([NoReply(reason="dropped")] * 3, scenario)
    assert [feedback.again is not None for feedback in feedbacks] == [True, True, False]
    assert bench.failure() == "in_doubt"
    assert bench.entries() == [Entry.IN_DOUBT] * 3


def test_refused_content_fails_as_moderated_and_notes_the_possible_fee():
    bench, feedback = send(reply(403, REFUSED_CONTENT))
    assert feedback.stop is None
    assert bench.failure() == "moderated"
    assert bench.entries() == [Entry.POSSIBLE_FEE]
    assert bench.store.totals().billed == 0


def test_credit_ends_the_run_and_fails_nothing():
    bench, feedback = send(reply(429, {"error": "Your team has used all available credits"}))
    assert isinstance(feedback.stop, StoppedByApi)
    assert bench.store.outcome(0) is None


def test_a_complete_200_that_is_no_completion_keeps_its_bytes():
    bench, _ = send(reply(200, b"<html>hello</html>"))
    assert bench.failure() == "invalid_response"
    assert bench.store.outcome(0).body == b"<html>hello</html>"
    assert bench.store.totals().billed == 1


def test_a_stream_that_breaks_after_its_first_content_is_in_doubt():
    frames = b'data: {"choices":[{"index":0,"delta":{"content":"he"}}]}\n\n'
    bench, feedback = send(reply(200, frames, content_type="text/event-stream"), stream=True)
    assert feedback.again is not None
    assert bench.entries() == [Entry.IN_DOUBT]


def forbidden(*, key_is_good):
    def answer(asked):
        if asked.method == "GET":
            return reply(200, {"team_blocked": not key_is_good})
        return reply(403, {"code": "permission-denied", "error": f"Access denied {len(asked.body)}"})

    return answer


@pytest.mark.parametrize("key_is_good", [True, False])
def test_several_403_in_a_row_are_settled_by_a_look_at_the_key(key_is_good):
    async def scenario(bench):
        return [await bench.poster.send(Work(item=item(row))) for row in range(3)]

    bench, feedbacks = play(forbidden(key_is_good=key_is_good), scenario)
    assert [feedback.stop is not None for feedback in feedbacks] == [False, False, not key_is_good]
    assert [bench.failure(row) for row in range(3)] == (["rejected"] * 3 if key_is_good else [None] * 3)


# Deferred


def deferred(polls, *, seconds=6.0, **policy):
    """Submit, then poll as often as there are replies, some seconds apart; return the bench and all feedback."""

    async def scenario(bench):
        feedback = await bench.poster.send(Work(item=item(mode=Mode.DEFERRED)))
        job, told = feedback.job, []
        while bench.api._script and job is not None:
            await asyncio.sleep(seconds)
            told.append(await bench.redeemer.poll(job))
            job = told[-1].job
        return SimpleNamespace(job=feedback.job, told=told)

    return play([reply(200, {"request_id": "r1"}), *polls], scenario, **policy)


def test_a_result_is_durable_before_it_is_read_and_never_asked_for_again():
    bench, run = deferred([reply(202), reply(200, ANSWER)])
    assert run.told[-1].job is None
    (settled,) = bench.store.outbox(0, 10)
    assert (settled.request_id, settled.mode) == ("r1", Mode.DEFERRED)
    assert [asked.method for asked in bench.api.asked] == ["POST", "GET", "GET"]


@pytest.mark.parametrize(
    "body", [b"", b'{"status":"processing"}', b'{"request_id":"r1"}', b'{"status":"brand_new_word"}']
)
def test_a_200_that_says_not_yet_is_polled_again(body):
    _, run = deferred([reply(200, body)])
    assert run.told[0].job is not None


def test_one_404_is_not_believed():
    bench, run = deferred([reply(404, {"error": "gone"}), reply(200, ANSWER)])
    assert run.told[0].job is not None
    assert len(bench.store.outbox(0, 10)) == 1


def test_two_404_with_a_well_api_between_them_are_a_lost_result():
    bench, _ = deferred([reply(404), reply(404), reply(200, {"team_blocked": False})])
    assert bench.entries() == [Entry.LOST]
    assert bench.again == [0]
    assert bench.api.asked[-1].path == "/api-key"


def after_a_takeover(script, *, handed_in=(), seconds=6.0, unclear_s=40.0):
    """Submit as a runner that took a run over; before each poll the one before it may hand its answer in."""

    async def scenario(bench):
        bench.redeemer._unclear_until = unclear_s
        feedback = await bench.poster.send(Work(item=item(mode=Mode.DEFERRED)))
        job, polls = feedback.job, 0
        while job is not None and bench.api._script:
            await asyncio.sleep(seconds)
            if polls in handed_in:
                redeem = Redeem(row=0, at=1.0, status_code=200, raw=ANSWER, request_id="r1")
                bench.store.apply([redeem])
            polls += 1
            job = (await bench.redeemer.poll(job)).job
        return polls

    return play([reply(200, {"request_id": "r1"}), *script], scenario)


def test_a_result_that_is_gone_is_not_lost_while_the_runner_before_may_hand_it_in():
    bench, polls = after_a_takeover([reply(404)] * 5 + [reply(200, ANSWER)])
    assert bench.entries() == []
    assert polls == 6
    bench, _ = after_a_takeover([reply(404)] * 8 + [reply(200, {"team_blocked": False})])
    assert bench.entries() == [Entry.LOST]


@pytest.mark.parametrize("at", [1, 3, 7])
@pytest.mark.parametrize("last", [reply(404), reply(200, ANSWER)], ids=["gone", "still there"])
def test_a_result_that_the_runner_before_handed_in_is_settled_and_asked_for_no_more(at, last):
    bench, polls = after_a_takeover([reply(202)] * at + [last] * 9, handed_in={at})
    assert polls == at + 1
    (settled,) = bench.store.outbox(0, 10)
    assert (settled.request_id, settled.body) == ("r1", ANSWER)
    assert bench.entries() == []


def test_a_result_that_was_handed_in_behind_its_deadline_is_no_expiry():
    bench, _ = after_a_takeover([reply(404)] * 3, handed_in={0}, seconds=90_000.0)
    assert bench.entries() == []
    assert len(bench.store.outbox(0, 10)) == 1


def test_two_404_with_nobody_well_are_asked_again():
    bench, run = deferred([reply(404), reply(404), NoReply(reason="dropped"), reply(200, ANSWER)])
    assert bench.entries() == []
    assert run.told[-1].job is None


def test_two_404_and_a_key_that_is_refused_stop_the_run_and_lose_nothing():
    bench, run = deferred([reply(404), reply(404), reply(400, {"error": "Incorrect API key provided: x"})])
    assert isinstance(run.told[-1].stop, StoppedByApi)
    assert bench.entries() == []
    assert bench.store.totals().accepted == 1


def test_with_on_lost_fail_a_lost_result_fails_the_row():
    bench, _ = deferred([reply(404), reply(404), reply(404)], resubmit_lost=False)
    assert bench.failure() == "lost"
    assert bench.again == []


@pytest.mark.parametrize("last", [reply(404), reply(202), reply(200, {"status": "expired"})])
def test_the_final_get_after_the_deadline_decides_what_has_expired(last):
    bench, _ = deferred([last], seconds=90_000.0)
    assert bench.failure() == "expired"
    assert bench.entries() == [Entry.EXPIRED]
    assert bench.again == []


def test_a_result_that_is_still_there_after_the_deadline_is_taken():
    bench, _ = deferred([reply(200, ANSWER)], seconds=90_000.0)
    assert len(bench.store.outbox(0, 10)) == 1


def test_the_servers_clock_decides_what_is_after_the_deadline():
    bench, run = deferred([reply(202, date_at=1_790_000_100.0)], seconds=90_000.0)
    assert run.told[0].job is not None
    assert bench.entries() == []


def test_a_failed_job_fails_its_row_and_a_passing_fault_sends_it_again():
    bench, _ = deferred([reply(400, {"code": "failed-precondition", "error": "no"})])
    assert bench.failure() == "failed"
    bench, _ = deferred([reply(200, {"code": "internal_error", "error": "passing"})])
    assert bench.again == [0]
    assert bench.entries() == [Entry.JOB_FAILED]


def test_a_5xx_for_one_id_alone_is_a_failed_job_only_after_eight_times_and_five_minutes():
    async def scenario(bench):
        feedback = await bench.poster.send(Work(item=item(mode=Mode.DEFERRED)))
        job, count = feedback.job, 0
        while job is not None:
            await asyncio.sleep(50)
            bench.health.good(asyncio.get_running_loop().time())
            job = (await bench.redeemer.poll(job)).job
            count += 1
        return count

    bench, count = play([reply(200, {"request_id": "r1"}), *[reply(500, {"error": "boom"})] * 20], scenario)
    assert count == 8
    assert bench.failure() == "failed"


def test_a_reply_cut_short_is_asked_for_again():
    bench, run = deferred([reply(200, ANSWER[:20], complete=False), reply(200, ANSWER)])
    assert run.told[0].sign is Sign.THERE
    assert len(bench.store.outbox(0, 10)) == 1


def test_a_result_that_never_comes_whole_expires_after_its_deadline_instead_of_being_polled_for_ever():
    async def scenario(bench):
        job = (await bench.poster.send(Work(item=item(mode=Mode.DEFERRED)))).job
        await asyncio.sleep(90_000)
        count = 0
        while job is not None:
            await asyncio.sleep(30)
            bench.health.there(asyncio.get_running_loop().time())
            job = (await bench.redeemer.poll(job)).job
            count += 1
        return count

    bench, count = play([reply(200, {"request_id": "r1"}), *[NoReply(reason="dropped")] * 20], scenario)
    assert count == 8
    assert bench.failure() == "expired"


def test_polls_that_tell_nothing_by_a_clock_that_is_ahead_do_not_add_up_while_the_server_says_otherwise():
    async def scenario(bench):
        job = (await bench.poster.send(Work(item=item(mode=Mode.DEFERRED)))).job
        await asyncio.sleep(90_000)
        for _ in range(20):
            await asyncio.sleep(30)
            bench.health.there(asyncio.get_running_loop().time())
            job = (await bench.redeemer.poll(job)).job
        return job

    early = reply(202, date_at=1_790_000_100.0)
    _, job = play([reply(200, {"request_id": "r1"}), *[NoReply(reason="dropped"), early] * 10], scenario)
    assert job is not None


def test_an_id_given_twice_is_in_doubt_for_the_second_row():
    async def scenario(bench):
        return [await bench.poster.send(Work(item=item(row, mode=Mode.DEFERRED))) for row in range(2)]

    bench, (first, second) = play([reply(200, {"request_id": "same"})] * 2, scenario)
    assert first.job is not None
    assert second.job is None
    assert second.again is not None
    assert bench.entries() == [Entry.IN_DOUBT]


def test_an_answer_to_what_was_sent_before_a_403_does_not_clear_it():
    async def scenario(bench):
        fail_at = 1_790_000_000.0 + asyncio.get_running_loop().time()
        await bench.poster.send(Work(item=item(0)))
        await bench.rejections.other(fail_at - 5)
        before = bench.rejections.pending
        await bench.rejections.other(fail_at + 5)
        return before, bench.rejections.pending

    _, counts = play([reply(403, {"error": "Access denied"})], scenario)
    assert counts == (1, 0)


# --- Replies too large for memory ----------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    """Return what makes a reply whose body is on the disk."""

    def make(body, status=200, *, framed=True, **more):
        spilled = Spills(tmp_path / "replies").begin("row-00000000", framed=framed)
        spilled.write(body)
        return Reply(status=status, body=body[:65_536], large=spilled, **more)

    return make


def left(tmp_path):
    """Return what files of large replies there are."""
    return sorted(path.name for path in (tmp_path / "replies").iterdir())


def answer(text):
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 7}}).encode()


LONG = answer("long " * 400_000)
STREAM = {"content_type": "text/event-stream"}


def test_a_large_answer_succeeds_and_its_file_is_gone(large, tmp_path):
    bench, feedback = send(large(LONG, request_id="req-1"))
    (settled,) = bench.store.outbox(0, 10)
    assert (settled.body, settled.request_id) == (LONG, "req-1")
    assert (feedback.sign, feedback.tokens) == (Sign.GOOD, 7)
    assert left(tmp_path) == []
    assert bench.memory._taken == 0


@pytest.mark.parametrize("poll", [False, True])
@pytest.mark.parametrize("oversized", [False, True])
def test_what_is_too_large_to_be_an_answer_is_left_in_its_file_and_the_row_names_it(large, tmp_path, poll, oversized):
    reply_ = large(b"x" * 5_000_000, oversized=oversized, complete=not oversized)
    bench = deferred([reply_])[0] if poll else send(reply_)[0]
    assert bench.failure() == "too_large"
    assert left(tmp_path) == ["row-00000000-1.reply"]
    outcome = bench.store.outcome(0)
    assert str(tmp_path / "replies" / "row-00000000-1.reply") in outcome.error.message
    assert ("its first 5,000,000 bytes" if oversized else "all 5,000,000 bytes") in outcome.error.message
    assert outcome.body == b"x" * 65_536
    assert bench.store.totals().billed == 1


@pytest.mark.parametrize("poll", [False, True])
def test_a_large_reply_cut_short_is_as_one_that_is_small(large, tmp_path, poll):
    if poll:
        bench, run = deferred([large(LONG, complete=False), reply(200, ANSWER)])
        assert run.told[0].job is not None
        assert len(bench.store.outbox(0, 10)) == 1
    else:
        bench, feedback = send(large(LONG, complete=False))
        assert feedback.again is not None
        assert bench.entries() == [Entry.IN_DOUBT]
    assert left(tmp_path) == []


@pytest.mark.parametrize(("body", "succeeds"), [(LONG, True), (LONG[:-1], False)])
def test_a_large_reply_whose_end_is_not_told_is_whole_when_it_is_json(large, body, succeeds):
    bench, _ = send(large(body, framed=False))
    assert len(bench.store.outbox(0, 10)) == succeeds
    assert bench.entries() == ([] if succeeds else [Entry.IN_DOUBT])


def test_a_large_reply_that_is_no_answer_keeps_its_bytes(large, tmp_path):
    bench, _ = send(large(b"[" * 2_000_000))
    assert bench.failure() == "invalid_response"
    assert bench.store.outcome(0).body == b"[" * 2_000_000
    assert left(tmp_path) == []


def test_a_large_deferred_answer_is_redeemed(large, tmp_path):
    bench, run = deferred([large(b"{}" * 40_000, 202), large(LONG)])
    assert run.told[0].job is not None
    assert bench.store.outbox(0, 10)[0].body == LONG
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "outcome"), [(LONG, "answered"), (b'{"request_id":"r","x":"' + b"x" * 2_000_000 + b'"}', "in doubt")]
)
def test_a_large_reply_to_a_submission_is_an_answer_or_in_doubt(large, tmp_path, body, outcome):
    bench, feedback = send(large(body), mode=Mode.DEFERRED)
    assert len(bench.store.outbox(0, 10)) == (outcome == "answered")
    assert bench.entries() == ([] if outcome == "answered" else [Entry.IN_DOUBT])
    assert feedback.job is None
    assert left(tmp_path) == []


def frames(*texts):
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def test_a_long_stream_is_put_together_from_its_file(large, tmp_path):
    body = frames(*["word "] * 100_000) + b"data: [DONE]\n\n"
    assert len(body) > 4_000_000
    bench, _ = send(large(body, **STREAM), stream=True)
    (settled,) = bench.store.outbox(0, 10)
    assert json.loads(settled.body)["choices"][0]["message"]["content"] == "word " * 100_000
    assert left(tmp_path) == []


def test_a_long_stream_that_breaks_is_in_doubt(large, tmp_path):
    bench, feedback = send(large(frames(*["word "] * 100_000), complete=False, **STREAM), stream=True)
    assert feedback.again is not None
    assert bench.entries() == [Entry.IN_DOUBT]
    assert left(tmp_path) == []


def test_a_stream_that_holds_too_much_is_left_in_its_file(large, tmp_path):
    bench, _ = send(large(b"data: " + b"x" * 17_000_000, **STREAM), stream=True)
    assert bench.failure() == "too_large"
    assert left(tmp_path) == ["row-00000000-1.reply"]


def test_a_large_answer_that_is_no_stream_though_one_was_asked_for_is_taken(large):
    bench, _ = send(large(LONG, content_type="application/json"), stream=True)
    assert bench.store.outbox(0, 10)[0].body == LONG


def test_an_answer_the_checkpoint_cannot_take_stays_in_its_file(large, tmp_path):
    async def scenario(bench):
        apply = bench.store.apply

        def full(changes):
            if any(isinstance(change, Redeem) for change in changes):
                msg = "no space left"
                raise StorageFailed(msg)
            apply(changes)

        bench.store.apply = full
        with pytest.raises(StorageFailed):
            await bench.poster.send(Work(item=item()))

    play([large(LONG)], scenario)
    assert left(tmp_path) == ["row-00000000-1.part"]


def test_large_answers_wait_for_their_turn_in_memory():
    order = []

    async def hold(memory, name, size, *, turns):
        async with memory.room(size):
            order.append(f"{name} in")
            for _ in range(turns):
                await asyncio.sleep(1)
            order.append(f"{name} out")

    async def main():
        memory = Memory(100)
        given_up = asyncio.create_task(hold(memory, "given up", 60, turns=1))
        await asyncio.sleep(0)
        tasks = [
            asyncio.create_task(hold(memory, name, size, turns=turns))
            for name, size, turns in (("a", 40, 3), ("never", 50, 1), ("b", 70, 1), ("c", 10, 1), ("huge", 1000, 1))
        ]
        await asyncio.sleep(0.5)
        given_up.cancel()
        tasks[1].cancel()
        await asyncio.gather(given_up, *tasks, return_exceptions=True)
        return memory._taken

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == 0
    assert order == ["given up in", "a in", "a out", "b in", "c in", "b out", "c out", "huge in", "huge out"]
