"""What every checkpoint promises, over all of them, parametrized from the registry; the fake is held to it too."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from postgresql import abandon, wait_until

from bulkgrok.checkpoint import STORES, open_store, read_store
from bulkgrok.checkpoint.memory import MemoryStore
from bulkgrok.core import failpoints
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import (
    ARCS,
    Accept,
    Doubt,
    Expire,
    Fail,
    JobFailed,
    Lose,
    Redeem,
    Redownload,
    Refuse,
    Retry,
    State,
    Submit,
    Succeed,
    Unsent,
    after,
)
from bulkgrok.core.model import (
    Asset,
    Code,
    Counts,
    Entry,
    Fingerprint,
    Item,
    Mode,
    Position,
    RequestId,
    RowError,
    RunIdentity,
    Settled,
)

ODD = "q-\ud800\u2028\x00é"


class FilePlace:
    """A store in a file. A crash is what a killed process leaves: the files, copied while they are open."""

    def __init__(self, root):
        self.path = root / "a" / "checkpoint.db"
        self.path.parent.mkdir()
        self.crashes = 0
        self.store = self.new()

    def new(self):
        store = open_store(self.path)
        store.open()
        return store

    def reopen(self):
        self.store.close()
        self.store = self.new()

    def crash(self):
        self.crashes += 1
        folder = self.path.parent.with_name(f"crashed-{self.crashes}")
        shutil.copytree(self.path.parent, folder, ignore=shutil.ignore_patterns("*-shm"))
        self.store.close()
        self.path = folder / self.path.name
        self.store = self.new()


class MemoryPlace:
    """The fake: what a process leaves is the object."""

    def __init__(self, root):
        self.store = MemoryStore()
        self.store.open()

    def reopen(self):
        self.store.close()
        self.store.open()

    crash = reopen


class DatabasePlace:
    """A run in a real database. A crash is what a killed process leaves: its connections end without a word."""

    def __init__(self, server):
        self.server = server
        self.run_id = f"run {next(NUMBERS)} {ODD}"
        self.store = self.new()

    def new(self):
        store = open_store(DatabaseUrl(self.server.url()), run_id=self.run_id)
        store.open()
        return store

    def reopen(self):
        self.store.close()
        self.store = self.new()

    def crash(self):
        abandon(self.store)
        assert wait_until(lambda: not self.server.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
        self.store = self.new()


NUMBERS = itertools.count()
#: postgres:// is another way to write postgresql://
PLACES = {"memory": MemoryPlace} | {
    scheme or "sqlite": DatabasePlace if scheme else FilePlace for scheme in STORES if scheme != "postgres"
}


@pytest.fixture(params=sorted(PLACES))
def place(request, tmp_path):
    made = PLACES[request.param]
    found = made(request.getfixturevalue("postgres") if made is DatabasePlace else tmp_path)
    yield found
    found.store.close()


@pytest.fixture
def store(place):
    return place.store


def item(row, **fields):
    known = {
        "row": row, "line": row + 1, "custom_id": f"q-{row}", "kind": "chat", "mode": Mode.DIRECT, "model": "grok-4.3",
        "stream": False, "body": b"{}", "digest": bytes([row % 256]) * 16, "max_usd": 0.25, "tokens": 7,
    }  # fmt: skip
    return Item(**(known | fields))


def submit(row, attempt=1, at=100.0, **fields):
    return Submit(item=item(row, **fields), attempt=attempt, at=at)


def accept(row, deadline_at=500.0):
    return Accept(row=row, request_id=RequestId(f"r-{row}"), at=101.0, deadline_at=deadline_at)


def redeem(row, raw=b'{"answer": 1}', **fields):
    return Redeem(**({"row": row, "at": 102.5, "status_code": 200, "raw": raw, "request_id": None} | fields))


def succeed(row, cost_usd=0.125, **fields):
    known = {"row": row, "model": "grok-4.3-x", "cost_usd": cost_usd, "usage": b'{"n": 1}', "tokens": (1, 2, 3, 4)}
    return Succeed(**(known | fields))


def fail(row, code=Code.FAILED, **fields):
    known = {
        "row": row, "at": 103.0, "error": RowError(code=code, message="no", status_code=None, retryable=True),
        "custom_id": f"q-{row}", "kind": "chat", "mode": Mode.DIRECT, "model": "grok-4.3", "digest": b"",
    }  # fmt: skip
    return Fail(**(known | fields))


CHANGES = {
    Submit: submit,
    Unsent: lambda row, _: Unsent(row=row),
    Refuse: lambda row, _: Refuse(row=row, at=101.0, counted=True),
    Doubt: lambda row, _: Doubt(row=row, at=101.0, reason="dropped"),
    Accept: lambda row, _: accept(row),
    Redeem: lambda row, _: redeem(row),
    Lose: lambda row, _: Lose(row=row, at=104.0, reason="gone"),
    Expire: lambda row, _: Expire(row=row, at=104.0, reason="late"),
    JobFailed: lambda row, _: JobFailed(row=row, at=104.0, reason="broken"),
    Succeed: lambda row, _: succeed(row),
    Fail: lambda row, _: fail(row),
    Retry: lambda row, _: Retry(row=row, at=105.0),
    Redownload: lambda row, _: Redownload(row=row),
}

#: state -> the shortest way there
WAYS = {
    State.PENDING: [submit(3), Unsent(row=3)],
    State.SUBMITTING: [submit(3)],
    State.ACCEPTED: [submit(3), accept(3)],
    State.REDEEMED: [submit(3), redeem(3)],
    State.SUCCEEDED: [submit(3), redeem(3), succeed(3)],
    State.FAILED: [submit(3), redeem(3), fail(3, Code.DOWNLOAD_FAILED)],
}
PAIRS = [(state, change) for state in State for change in CHANGES]


def state_of(store, row):
    if row in store.submitting():
        return State.SUBMITTING
    if row in [job.row for job in store.jobs()]:
        return State.ACCEPTED
    if row in store.redeemed():
        return State.REDEEMED
    outcome = store.outcome(row)
    if outcome is None:
        return State.PENDING
    return State.FAILED if outcome.error is not None else State.SUCCEEDED


def everything(store):
    """All that a store can be asked."""
    rows = range(12)

    def answer(ask, row):
        try:
            return ask(row)
        except KeyError:
            return None

    return {
        "taken": [row in store.taken() for row in rows],
        "submitting": store.submitting(),
        "waiting": store.waiting(),
        "jobs": list(store.jobs()),
        "redeemed": store.redeemed(),
        "records": [answer(store.record, row) for row in rows],
        "counts": [answer(store.counts, row) for row in rows],
        "outbox": store.outbox(0, 100),
        "failures": list(store.failures()),
        "outcomes": [store.outcome(row) for row in rows],
        "totals": store.totals(),
        "ledger": list(store.ledger()),
        "pending_doubts": store.pending_doubts(),
        "unexplained": store.unexplained(),
    }


# The lifecycle


@pytest.mark.parametrize(("state", "change"), PAIRS, ids=lambda value: getattr(value, "name", None) or value.__name__)
def test_a_change_goes_along_an_arc_or_changes_nothing(store, state, change):
    store.apply(WAYS[state])
    posts = store.counts(3).posts
    before = everything(store)
    asked = CHANGES[change](3, posts + 1)
    if state in [source for source, _ in ARCS[change]]:
        store.apply([asked])
        assert state_of(store, 3) is after(state, change)
        assert store.unexplained() == []
    else:
        with pytest.raises(ValueError, match="row 3"):
            store.apply([submit(5), asked])
        assert everything(store) == before


@pytest.mark.parametrize("change", [each for each in CHANGES if each not in {Submit, Fail}], ids=lambda c: c.__name__)
def test_a_row_that_was_never_begun_can_only_be_sent_or_failed(store, change):
    with pytest.raises(ValueError, match="row 3"):
        store.apply([CHANGES[change](3, 1)])
    assert store.totals().pending_known == 0


@pytest.mark.parametrize("attempt", [0, 2, 3])
def test_the_first_attempt_of_a_row_is_number_one(store, attempt):
    with pytest.raises(ValueError, match=f"attempt {attempt} does not follow 0 posts"):
        store.apply([submit(3, attempt=attempt)])
    assert store.submitting() == []


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_an_attempt_follows_the_posts_of_the_rows_whole_life(store, attempt):
    store.apply(WAYS[State.PENDING])
    with pytest.raises(ValueError, match=f"attempt {attempt} does not follow 1 posts"):
        store.apply([submit(3, attempt=attempt)])
    store.apply([submit(3, attempt=2)])
    assert store.counts(3).posts == 2


def test_a_group_is_applied_in_whole_or_not_at_all(place):
    place.store.apply([submit(1), submit(2)])
    before = everything(place.store)
    with pytest.raises(ValueError, match="row 7"):
        place.store.apply([redeem(1), succeed(1), submit(4), fail(5), Doubt(row=2, at=1.0, reason=""), Unsent(row=7)])
    assert everything(place.store) == before
    place.crash()
    assert everything(place.store) == before
    place.store.apply([redeem(1), succeed(1)])
    assert [found.seq for found in place.store.outbox(0, 9)] == [1]


def test_a_crash_before_the_commit_leaves_nothing_and_one_after_it_everything(place):
    place.store.apply([submit(1)])
    before = everything(place.store)

    class Crash(BaseException):
        pass

    def crash_at(name):
        def hit(point):
            if point == name:
                raise Crash

        return hit

    try:
        failpoints.install(crash_at("store.before-commit"))
        with pytest.raises(Crash):
            place.store.apply([redeem(1), succeed(1)])
        assert everything(place.store) == before
        failpoints.install(crash_at("store.after-commit"))
        with pytest.raises(Crash):
            place.store.apply([redeem(1), succeed(1)])
    finally:
        failpoints.install(None)
    place.crash()
    assert state_of(place.store, 1) is State.SUCCEEDED
    assert place.store.totals().succeeded == 1


def test_what_was_applied_is_there_after_a_crash_and_after_a_close(place):
    place.store.apply([submit(1), submit(2), submit(3), submit(4), submit(5)])
    place.store.apply([accept(2), redeem(3), redeem(4), succeed(4), fail(6), Doubt(row=5, at=2.0, reason="x")])
    place.store.advance("out", Position(seq=1, state={"offset": 10, "deep": {"a": [1, None, "é"]}}))
    place.store.note("rows", 9)
    before = everything(place.store)
    for again in (place.crash, place.reopen):
        again()
        assert everything(place.store) == before
        assert place.store.position("out") == Position(seq=1, state={"offset": 10, "deep": {"a": [1, None, "é"]}})
        assert place.store.recall("rows") == 9


# What a run finds when it starts


def test_a_new_store_is_empty(store):
    found = everything(store)
    assert found["totals"].billed == 0
    assert found["totals"].next_deadline_at is None
    assert len(store.taken()) == 0
    assert (store.identity(), store.position("out"), store.recall("x")) == (None, None, None)


def test_taken_are_accepted_redeemed_succeeded_and_failed_rows(store):
    store.apply([submit(row) for row in range(6)])
    store.apply([Unsent(row=0), accept(2), redeem(3), redeem(4), succeed(4), redeem(5), fail(5), fail(70_000)])
    taken = store.taken()
    assert [row for row in range(70_001) if row in taken] == [2, 3, 4, 5, 70_000]
    assert len(taken) == 5


def test_rows_are_listed_in_order_and_jobs_by_deadline(store):
    rows = [9, 4, 7, 1, 8, 2, 6, 3]
    store.apply([submit(row, kind="video", mode=Mode.DEFERRED, at=float(row)) for row in rows])
    store.apply([accept(9, 30.0), accept(4, 10.0), accept(7, 20.0), accept(1, 20.0), redeem(8), redeem(2)])
    assert store.submitting() == [3, 6]
    assert store.redeemed() == [2, 8]
    jobs = [(job.row, job.kind, job.request_id, job.submitted_at, job.deadline_at, job.model) for job in store.jobs()]
    assert jobs == [
        (row, "video", f"r-{row}", float(row), deadline, "grok-4.3")
        for row, deadline in [(4, 10.0), (1, 20.0), (7, 20.0), (9, 30.0)]
    ]
    assert store.totals().next_deadline_at == 10.0


def test_long_lists_are_whole(store):
    rows = range(2_500)
    store.apply([submit(row) for row in rows])
    assert store.submitting() == list(rows)
    store.apply([accept(row, deadline_at=50.0 + row % 3) for row in rows])
    jobs = list(store.jobs())
    assert sorted(job.row for job in jobs) == list(rows)
    assert [job.deadline_at for job in jobs] == sorted(job.deadline_at for job in jobs)
    store.apply([Lose(row=row, at=1.0, reason="") for row in rows])
    assert list(store.waiting()) == list(rows)
    assert [entry.row for entry in store.ledger()] == list(rows)
    store.apply([fail(row) for row in rows])
    assert [found.row for found in store.failures()] == list(rows)
    assert len(store.taken()) == 2_500


def test_counts_tell_the_past_of_a_row(store):
    with pytest.raises(KeyError):
        store.counts(1)
    store.apply([
        submit(1), Unsent(row=1),
        submit(1, 2), Refuse(row=1, at=1.0, counted=False),
        submit(1, 3), Refuse(row=1, at=1.0, counted=True),
        submit(1, 4), Doubt(row=1, at=1.0, reason="x"),
        submit(1, 5), accept(1), Lose(row=1, at=1.0, reason="x"),
        submit(1, 6), accept(1), JobFailed(row=1, at=1.0, reason="x"),
        submit(1, 7), accept(1), Expire(row=1, at=1.0, reason="x"),
    ])  # fmt: skip
    counts = Counts(posts=7, attempts=3, doubts=1, losses=1, digest=b"\x01" * 16)
    assert store.counts(1) == counts
    assert store.waiting() == {1: counts}
    assert store.unexplained() == []


def test_a_row_sent_again_has_the_new_item_and_nothing_of_the_old_reply(store):
    store.apply([submit(1), accept(1), redeem(1, b"old"), JobFailed(row=1, at=1.0, reason="x")])
    assert store.waiting()[1].posts == 1
    new = item(1, custom_id="other", model="m2", kind="video", mode=Mode.DEFERRED, line=None, digest=b"new", max_usd=2)
    store.apply([Submit(item=new, attempt=2, at=200.0)])
    store.apply([redeem(1, b"answer")])
    record = store.record(1)
    assert (record.custom_id, record.model, record.kind, record.mode, record.line) == (
        "other", "m2", "video", Mode.DEFERRED, None,
    )  # fmt: skip
    assert (record.raw, record.request_id, record.submitted_at, record.max_usd) == (b"answer", None, 200.0, 2.0)
    assert store.counts(1).digest == b"new"


def test_a_record_holds_what_is_needed_to_settle_it(store):
    store.apply([submit(1, custom_id=ODD), accept(1), redeem(1, b"\x00\xff raw", request_id=None)])
    record = store.record(1)
    assert record.raw == b"\x00\xff raw"
    assert record.custom_id == ODD
    assert (record.request_id, record.attempts, record.counted, record.status_code) == ("r-1", 1, 0, 200)
    assert (record.submitted_at, record.completed_at, record.max_usd, record.line) == (100.0, 102.5, 0.25, 2)
    store.apply([submit(2), redeem(2, request_id="x-1")])
    assert store.record(2).request_id == "x-1"


def test_only_a_row_with_an_answer_has_a_record(store):
    store.apply([submit(1), submit(2), fail(3, reply=b"refused"), submit(4), redeem(4)])
    for row in (0, 1, 2, 3):
        with pytest.raises(KeyError):
            store.record(row)
    store.apply([fail(4, Code.DOWNLOAD_FAILED)])
    assert store.record(4).raw == b'{"answer": 1}'
    store.apply([Retry(row=4, at=1.0)])
    with pytest.raises(KeyError):
        store.record(4)


# The outbox


def test_successes_are_numbered_in_the_order_they_were_applied_over_restarts(place):
    place.store.apply([submit(row) for row in range(6)])
    place.store.apply([redeem(row) for row in range(6)])
    place.store.apply([succeed(4), succeed(1)])
    place.crash()
    place.store.apply([succeed(5)])
    with pytest.raises(ValueError, match="row 9"):
        place.store.apply([succeed(0), succeed(9)])
    place.store.apply([succeed(3)])
    place.reopen()
    place.store.apply([succeed(0)])
    assert [(found.seq, found.row) for found in place.store.outbox(0, 99)] == [(1, 4), (2, 1), (3, 5), (4, 3), (5, 0)]
    assert [found.seq for found in place.store.outbox(2, 2)] == [3, 4]
    assert place.store.outbox(5, 10) == []


def test_the_outbox_hands_out_whole_outcomes(store):
    assets = (Asset(url="https://v/1?sig=\ud800", path="m/1.mp4", bytes=1 << 40, sha256="ab"), Asset(url="u"))
    store.apply([submit(1, custom_id=ODD, kind="video", mode=Mode.DEFERRED, line=None), accept(1), redeem(1, b"raw")])
    store.apply([succeed(1, cost_usd=0.000123456789, assets=assets, usage=b'{"big": 1e400}', model="m-\ud800")])
    expected = Settled(
        seq=1, row=1, line=None, custom_id=ODD, kind="video", mode=Mode.DEFERRED, model="m-\ud800", attempts=1,
        submitted_at=100.0, completed_at=102.5, request_id="r-1", status_code=200, body=b"raw", cost_usd=0.000123456789,
        usage=b'{"big": 1e400}', assets=assets, error=None,
    )  # fmt: skip
    assert store.outbox(0, 5) == [expected]
    assert store.outcome(1) == expected
    assert list(store.failures()) == []


def test_a_page_of_the_outbox_ends_when_its_bodies_are_large(store):
    big = b"x" * (3 << 20)
    rows = range(7)
    store.apply([submit(row) for row in rows])
    store.apply([change for row in rows for change in (redeem(row, big), succeed(row))])
    pages, after_seq = [], 0
    while page := store.outbox(after_seq, 100):
        after_seq = page[-1].seq
        pages.append(len(page))
    assert pages == [2, 2, 2, 1]


def test_a_body_larger_than_a_page_is_handed_out_alone(store):
    large = [b"small", b"x" * (9 << 20), b"small"]
    store.apply([change for row in range(3) for change in (submit(row), redeem(row, large[row]), succeed(row))])
    assert [found.row for found in store.outbox(0, 10)] == [0]
    assert [found.row for found in store.outbox(1, 10)] == [1]


class OnDisk:
    """A large answer in pieces: a LargeBody."""

    framed = True

    def __init__(self, *pieces):
        self._pieces = pieces
        self.size_bytes = sum(map(len, pieces))

    def blocks(self):
        return iter(self._pieces)

    def read(self):
        return b"".join(self._pieces)


LARGE = b"".join(bytes([number]) * 700_000 for number in range(5))


@pytest.mark.parametrize("raw", [OnDisk(LARGE[:1_000_000], LARGE[1_000_000:]), LARGE, OnDisk(b"s", b"mall"), OnDisk()])
def test_a_large_answer_is_stored_piece_by_piece_and_read_whole(store, raw):
    whole = raw if isinstance(raw, bytes) else raw.read()
    store.apply([submit(0), redeem(0, raw)])
    store.close()
    store.open()
    assert store.record(0).raw == whole
    store.apply([succeed(0)])
    assert store.outbox(0, 1)[0].body == store.outcome(0).body == whole


def test_a_large_answer_that_is_unusable_is_among_the_failures(store):
    store.apply([submit(0), redeem(0, OnDisk(LARGE)), fail(0), submit(1), redeem(1, b"small"), fail(1)])
    assert [found.body for found in store.failures()] == [LARGE, b"small"]


def test_a_large_answer_takes_the_place_of_another_one(store):
    store.apply([submit(0), redeem(0, OnDisk(LARGE)), fail(0), Retry(row=0, at=1.0), submit(0, 2), redeem(0, b"new")])
    assert store.record(0).raw == b"new"
    store.apply([fail(0), Retry(row=0, at=1.0), submit(0, 3), redeem(0, OnDisk(LARGE[::-1]))])
    assert store.record(0).raw == LARGE[::-1]


@pytest.mark.parametrize("raw", [b"", b"\x00", bytes(range(256)), "é\u2028".encode()])
def test_raw_bytes_come_back_as_they_were(store, raw):
    store.apply([submit(1), redeem(1, raw), succeed(1)])
    assert store.outbox(0, 1)[0].body == raw


def test_a_failure_tells_its_error_and_the_refusing_reply(store):
    error = RowError(code=Code.REJECTED, message=f"bad {ODD}", status_code=400, retryable=False, line=4)
    store.apply([submit(3), Refuse(row=3, at=1.0, counted=False)])
    store.apply([fail(3, error=error, reply=b"<no>", request_id="x-9", at=109.0, usage=b"{}", line=4)])
    assert store.outcome(3) == Settled(
        seq=0, row=3, line=4, custom_id="q-3", kind="chat", mode=Mode.DIRECT, model="grok-4.3", attempts=1,
        submitted_at=100.0, completed_at=109.0, request_id="x-9", status_code=400, body=b"<no>", cost_usd=None,
        usage=b"{}", assets=(), error=error,
    )  # fmt: skip
    assert list(store.failures()) == [store.outcome(3)]
    assert store.outbox(0, 5) == []


def test_a_row_that_fails_unsent_is_stored_with_the_names_it_came_with(store):
    bad = fail(3, Code.INVALID_ROW, custom_id=ODD, kind="video", mode=Mode.DEFERRED, model="m", digest=b"d", line=9)
    store.apply([bad])
    found = store.outcome(3)
    assert (found.custom_id, found.kind, found.mode, found.model, found.line) == (ODD, "video", Mode.DEFERRED, "m", 9)
    assert (found.attempts, found.submitted_at, found.body, found.error.code) == (0, None, None, Code.INVALID_ROW)
    assert store.counts(3) == Counts(posts=0, attempts=0, doubts=0, losses=0, digest=b"d")
    assert store.totals().billed == 0


def test_a_known_row_that_fails_keeps_its_names_unless_the_failure_describes_the_row_anew(store):
    store.apply([submit(3), Unsent(row=3), fail(3, custom_id="", kind="", model="", mode=Mode.DIRECT)])
    assert store.outcome(3).custom_id == "q-3"
    assert store.counts(3).digest == b"\x03" * 16
    store.apply([Retry(row=3, at=1.0), fail(3, custom_id="new", kind="video", model="m", digest=b"new")])
    assert (store.outcome(3).custom_id, store.outcome(3).kind, store.counts(3).digest) == ("new", "video", b"new")


def test_a_failed_answer_is_kept_as_it_was_redeemed(store):
    store.apply([submit(3), redeem(3, b"paid", request_id="x-1")])
    store.apply([fail(3, Code.INVALID_RESPONSE, reply=b"other", at=999.0, cost_usd=0.5, custom_id="", model="")])
    found = store.outcome(3)
    assert (found.body, found.status_code, found.completed_at, found.request_id) == (b"paid", 200, 102.5, "x-1")
    assert (found.cost_usd, found.custom_id, found.model) == (0.5, "q-3", "grok-4.3")


def test_a_retried_row_has_no_outcome_and_shows_nothing_of_the_old_one_later(store):
    store.apply([submit(3), redeem(3, b"paid"), fail(3, cost_usd=0.5, usage=b"{}", request_id="x")])
    store.apply([Retry(row=3, at=9.0)])
    assert store.outcome(3) is None
    assert list(store.failures()) == []
    store.apply([submit(3, 2), Doubt(row=3, at=1.0, reason="x"), fail(3, Code.IN_DOUBT)])
    found = store.outcome(3)
    assert (found.body, found.cost_usd, found.usage, found.request_id, found.status_code) == (None,) * 5
    assert found.attempts == 2


def test_outcomes_of_rows_beyond_all_numbers_do_not_exist(store):
    assert store.outcome(1 << 70) is None
    assert store.outcome(-1) is None


def test_positions_are_kept_by_name(store):
    store.advance("a", Position(seq=3, state={"x": 1}))
    store.advance("b", Position(seq=5))
    store.advance("a", Position(seq=4))
    assert store.position("a") == Position(seq=4)
    assert store.position("b") == Position(seq=5)


# The accounts


def test_every_request_that_may_have_been_billed_is_in_the_ledger(store):
    store.apply([
        submit(1), Doubt(row=1, at=1.0, reason=f"dropped {ODD}"),
        submit(1, 2), Refuse(row=1, at=2.0, counted=True, entry=Entry.IN_DOUBT, reason="HTTP 502"),
        submit(1, 3), Refuse(row=1, at=3.0, counted=False, entry=Entry.POSSIBLE_FEE, max_usd=0.05),
        submit(1, 4, max_usd=0.75), accept(1), Lose(row=1, at=4.0, reason="gone"),
        submit(1, 5), accept(1), Expire(row=1, at=5.0, reason="late"),
        submit(1, 6), accept(1), JobFailed(row=1, at=6.0, reason="broken"),
        submit(1, 7), redeem(1, request_id="x-7"), fail(1, cost_usd=0.5), Retry(row=1, at=7.0),
        submit(1, 8), redeem(1), JobFailed(row=1, at=8.0, reason="late news", cost_usd=0.125),
        submit(1, 9), Unsent(row=1),
    ])  # fmt: skip
    assert [(e.attempt, e.at, e.entry, e.max_usd, e.cost_usd, e.request_id) for e in store.ledger()] == [
        (1, 1.0, Entry.IN_DOUBT, 0.25, None, None),
        (2, 2.0, Entry.IN_DOUBT, 0.25, None, None),
        (3, 3.0, Entry.POSSIBLE_FEE, 0.05, None, None),
        (4, 4.0, Entry.LOST, 0.75, None, "r-1"),
        (5, 5.0, Entry.EXPIRED, 0.25, None, "r-1"),
        (6, 6.0, Entry.JOB_FAILED, 0.25, None, "r-1"),
        (7, 7.0, Entry.REPLACED, 0.25, 0.5, "x-7"),
        (8, 8.0, Entry.JOB_FAILED, 0.25, 0.125, None),
    ]
    assert next(iter(store.ledger())).reason == f"dropped {ODD}"
    assert {e.custom_id for e in store.ledger()} == {"q-1"}
    totals = store.totals()
    assert (totals.in_doubt, totals.lost, totals.expired, totals.billed, totals.cost_usd) == (2, 1, 1, 5, 0.625)
    assert store.unexplained() == []
    assert store.counts(1).attempts == 1


def test_totals_count_rows_money_and_tokens(store):
    store.apply([submit(row) for row in range(9)])
    store.apply([
        redeem(0), succeed(0), redeem(1), succeed(1, cost_usd=None),
        redeem(2), fail(2, Code.INVALID_RESPONSE, cost_usd=0.25),
        Refuse(row=3, at=1.0, counted=False), fail(3, Code.REJECTED), accept(4, 77.0), redeem(5), Unsent(row=6),
        fail(20, Code.INVALID_ROW), fail(21, Code.INVALID_ROW),
    ])  # fmt: skip
    totals = store.totals()
    assert (totals.succeeded, totals.failed, totals.accepted, totals.submitting) == (2, 4, 1, 2)
    assert (totals.redeemed, totals.pending_known, totals.billed, totals.cost_usd) == (1, 1, 5, 0.375)
    assert totals.failed_by_code == {"invalid_response": 1, "rejected": 1, "invalid_row": 2}
    assert totals.tokens == {"prompt": 2, "completion": 4, "reasoning": 6, "cached": 8}
    assert totals.next_deadline_at == 77.0


PENNY = 100_000_000
#: what happened to a request of at most 25 cents -> (paid, untold, written off, in doubt, on its way), in cents
FATES = {
    "sent": ([submit(1)], (0, 0, 0, 0, 25)),
    "not sent": ([submit(1), Unsent(row=1)], (0, 0, 0, 0, 0)),
    "refused": ([submit(1), Refuse(row=1, at=1.0, counted=True)], (0, 0, 0, 0, 0)),
    "refused for its content": (
        [submit(1), Refuse(row=1, at=1.0, counted=False, entry=Entry.POSSIBLE_FEE, max_usd=0.05)], (0, 0, 5, 0, 0),
    ),
    "answered 502": ([submit(1), Refuse(row=1, at=1.0, counted=True, entry=Entry.IN_DOUBT)], (0, 0, 0, 25, 0)),
    "in doubt": ([submit(1), Doubt(row=1, at=1.0, reason="dropped")], (0, 0, 0, 25, 0)),
    "in doubt and sent again": ([submit(1), Doubt(row=1, at=1.0, reason="dropped"), submit(1, 2)], (0, 0, 0, 25, 25)),
    "accepted": ([submit(1), accept(1)], (0, 0, 0, 0, 25)),
    "redeemed": ([submit(1), accept(1), redeem(1)], (0, 0, 0, 0, 25)),
    "answered": ([submit(1), redeem(1), succeed(1, 0.10)], (10, 0, 0, 0, 0)),
    "answered later": ([submit(1), accept(1), redeem(1), succeed(1, 0.30)], (30, 0, 0, 0, 0)),
    "answered without a price": ([submit(1), redeem(1), succeed(1, None)], (0, 25, 0, 0, 0)),
    "answered with rubbish": ([submit(1), redeem(1), fail(1, cost_usd=0.10)], (10, 0, 0, 0, 0)),
    "answered with rubbish without a price": ([submit(1), redeem(1), fail(1)], (0, 25, 0, 0, 0)),
    "replaced": ([submit(1), redeem(1), fail(1, cost_usd=0.10), Retry(row=1, at=1.0)], (10, 0, 0, 0, 0)),
    "replaced without a price": ([submit(1), redeem(1), fail(1), Retry(row=1, at=1.0)], (0, 0, 25, 0, 0)),
    "its files again": ([submit(1), redeem(1), fail(1, cost_usd=0.10), Redownload(row=1)], (0, 0, 0, 0, 25)),
    "its files again, without a price": ([submit(1), redeem(1), fail(1), Redownload(row=1)], (0, 0, 0, 0, 25)),
    "lost": ([submit(1), accept(1), Lose(row=1, at=1.0, reason="gone")], (0, 0, 25, 0, 0)),
    "expired": ([submit(1), accept(1), Expire(row=1, at=1.0, reason="late"), fail(1)], (0, 0, 25, 0, 0)),
    "failed": ([submit(1), accept(1), JobFailed(row=1, at=1.0, reason="no"), fail(1)], (0, 0, 25, 0, 0)),
    "failed and charged": (
        [submit(1), accept(1), redeem(1), JobFailed(row=1, at=1.0, reason="no", cost_usd=0.10), fail(1)],
        (10, 0, 0, 0, 0),
    ),
    "never sent": ([fail(1, Code.INVALID_ROW)], (0, 0, 0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("fate", FATES)
def test_the_money_of_a_request_is_in_one_sum_whatever_becomes_of_it(store, fate):
    changes, cents = FATES[fate]
    store.apply([submit(2, max_usd=0.07)])
    store.apply(changes)
    found = store.money()
    sums = (found.paid, found.untold, found.written_off, found.in_doubt, found.on_its_way - 7 * PENNY)
    assert sums == tuple(cent * PENNY for cent in cents)
    assert (found.spent, found.at_risk) == (sum(sums[:4]), sums[3] + sums[4] + 7 * PENNY)
    assert store.totals().money == found
    assert store.totals().cost_usd == cents[0] / 100


def test_what_a_failed_job_was_charged_stands_in_its_failure(store):
    store.apply([submit(1), redeem(1), JobFailed(row=1, at=1.0, reason="no", cost_usd=0.5), fail(1)])
    assert store.outcome(1).cost_usd == next(store.failures()).cost_usd == 0.5
    assert store.totals().cost_usd == 0.5


def test_money_paid_for_a_replaced_answer_stays_in_the_sum(store):
    store.apply([submit(1), redeem(1), fail(1, cost_usd=0.5), Retry(row=1, at=1.0)])
    assert (store.totals().cost_usd, store.totals().billed) == (0.5, 1)
    store.apply([submit(1, 2), redeem(1), succeed(1, cost_usd=0.125)])
    assert (store.totals().cost_usd, store.totals().billed) == (0.625, 2)
    assert store.outcome(1).cost_usd == 0.125


def test_only_the_files_of_a_kept_answer_are_fetched_again_and_it_is_paid_once(store):
    store.apply([submit(1), redeem(1, b"paid"), fail(1, Code.DOWNLOAD_FAILED, cost_usd=0.5)])
    store.apply([Redownload(row=1)])
    assert store.redeemed() == [1]
    assert (store.totals().failed, store.totals().failed_by_code, store.totals().billed) == (0, {}, 1)
    store.apply([succeed(1, cost_usd=0.5)])
    assert (store.totals().cost_usd, store.totals().billed, store.outcome(1).body) == (0.5, 1, b"paid")
    assert store.unexplained() == []


def test_a_failure_without_an_answer_has_no_files_to_fetch(store):
    store.apply([fail(1, reply=b"refused")])
    with pytest.raises(ValueError, match="row 1"):
        store.apply([Redownload(row=1)])
    assert store.outcome(1).body == b"refused"


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_money_that_is_none_is_unknown(store, cost):
    store.apply([submit(1, max_usd=cost), redeem(1), succeed(1, cost_usd=cost, tokens=(1 << 80, -5, 0, 0))])
    assert (store.outcome(1).cost_usd, store.totals().cost_usd) == (None, 0.0)
    assert store.totals().tokens["completion"] == 0


def test_intents_without_an_outcome_are_told_as_doubts_to_be(store):
    store.apply([submit(1), submit(2, custom_id=ODD), accept(1)])
    (entry,) = store.pending_doubts()
    assert (entry.row, entry.custom_id, entry.attempt, entry.at, entry.max_usd) == (2, ODD, 1, 100.0, 0.25)
    assert (entry.entry, entry.reason) == (Entry.IN_DOUBT, "the process ended before a reply was recorded")
    assert list(store.ledger()) == []


def test_an_empty_group_is_nothing(store):
    store.apply([])
    assert store.totals().billed == 0


def test_a_closed_store_says_so(place):
    place.store.close()
    place.store.close()
    for ask in (place.store.totals, lambda: place.store.apply([submit(1)]), lambda: place.store.note("a", 1)):
        with pytest.raises(StorageFailed):
            ask()
    place.store.open()
    assert place.store.totals().billed == 0


# Facts


def test_an_identity_is_kept_and_replaced(place):
    identity = RunIdentity(
        run_id=f"/x/{ODD}", input_name="in.jsonl", input=Fingerprint(size=1 << 40, sha256="ab"), endpoint="https://e",
        settings={"params": {"a": [1, 0.5, None]}, "prompt": ODD, "stream": False}, key_salt="s", key_hash="h",
        simulated=False, created_at=1.5, extra={"x": {"y": 1}},
    )  # fmt: skip
    place.store.bind(identity)
    place.crash()
    assert place.store.identity() == identity
    stream = replace(identity, input=None, simulated=True)
    place.store.bind(stream)
    place.reopen()
    assert place.store.identity() == stream


def test_deadlines_move_with_the_time_that_results_are_kept_and_with_nothing_else(place):
    place.store.keep_for(86_400.0)
    place.store.apply([submit(0), accept(0, deadline_at=1_000_000.0)])
    place.store.keep_for(86_400.0)
    assert [job.deadline_at for job in place.store.jobs()] == [1_000_000.0]
    place.store.keep_for(3_600.0)
    place.crash()
    assert [job.deadline_at for job in place.store.jobs()] == [1_000_000.0 - 82_800.0]
    place.store.keep_for(3_600.0)
    assert [job.deadline_at for job in place.store.jobs()] == [1_000_000.0 - 82_800.0]


def test_a_checkpoint_that_noted_no_such_time_keeps_its_deadlines(store):
    store.apply([submit(0), accept(0, deadline_at=1_000_000.0)])
    store.keep_for(3_600.0)
    assert [job.deadline_at for job in store.jobs()] == [1_000_000.0]


def test_facts_are_json_values(store):
    for value in (None, True, 3, 0.5, "é\ud800", [1, {"a": None}], {}):
        store.note("fact", value)
        assert store.recall("fact") == value
    assert store.recall("other") is None


# Files


KILLED = """
    import os, sys
    from pathlib import Path
    from bulkgrok.checkpoint import open_store
    from bulkgrok.core import failpoints
    sys.path[:0] = sys.argv[2], os.path.join(sys.argv[2], "..", "services")
    from test_store_contract import submit, redeem, succeed
    store = open_store(Path(sys.argv[1]))
    store.open()

    def hit(name):
        if name == sys.argv[3] and store.totals().succeeded >= 20:
            os.kill(os.getpid(), 9)

    failpoints.install(hit)
    for row in range(30):
        store.apply([submit(row)])
        store.apply([redeem(row, b"x" * 5000), succeed(row)])
        print(row, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("point", ["store.before-commit", "store.after-commit", "between"])
def test_a_killed_process_leaves_all_it_was_told_is_durable(tmp_path, point):
    path = tmp_path / "checkpoint.db"
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path), here, point], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    told = [int(row) for row in done.stdout.split()]
    watcher = read_store(path)
    watched = watcher.totals()
    watcher.close()
    store = open_store(path)
    store.open()
    assert [found.row for found in store.outbox(0, 100)][: len(told)] == told
    assert store.totals() == store.recount() == watched
    assert store.unexplained() == []
    store.close()


def test_totals_equal_a_recount(tmp_path):
    store = FilePlace(tmp_path).store
    for number, changes in enumerate(WAYS.values()):
        for row in range(number, 60, 7):
            store.apply([replace_row(change, row) for change in changes])
    store.apply([Retry(row=found.row, at=1.0) for found in list(store.failures())[::2]])
    assert store.totals() == store.recount()
    store.close()


def replace_row(change, row):
    if isinstance(change, Submit):
        return replace(change, item=replace(change.item, row=row))
    if isinstance(change, Accept):
        return replace(change, row=row, request_id=f"{change.request_id}-{row}")
    return replace(change, row=row)


def test_an_id_that_another_row_was_given_is_no_receipt(store):
    for row in (0, 1):
        store.apply([submit(row)])
    store.apply([Accept(row=0, request_id="same", at=1.0, deadline_at=100.0)])
    with pytest.raises(ValueError, match="row 0"):
        store.apply([Accept(row=1, request_id="same", at=1.0, deadline_at=100.0)])
    assert store.submitting() == [1]


def test_json_of_a_position_stays_what_it_was(store):
    state = json.loads('{"size": 12345678901234567890, "name": "\\ud800"}')
    store.advance("out", Position(seq=1, state=state))
    assert store.position("out").state == state
