"""Whatever happens in whatever order, with crashes in between, the file says the same as the plain model in memory."""

import os
import shutil
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import postgresql
import pytest
from histories.database import Database
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bulkgrok.checkpoint import open_store, read_store
from bulkgrok.checkpoint.filereading import FileReading
from bulkgrok.checkpoint.memory import MemoryStore
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core import failpoints
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
)
from bulkgrok.core.model import Asset, Code, Entry, Item, Mode, Position, RequestId, RowError

ROWS = st.integers(0, 2)
SEQS = st.integers(0, 6)
TIMES = st.floats(0, 2e9).map(lambda at: round(at, 3))
TEXTS = st.text(st.characters() | st.sampled_from("\ud800\udfff\x00\u2028"), max_size=6)
BYTES = st.binary(max_size=40)
MONEY = (
    st.none() | st.floats(0, 10).map(lambda usd: round(usd, 9)) | st.sampled_from([float("inf"), float("nan"), -0.0])
)
MODES = st.sampled_from(Mode)
ASSETS = st.lists(
    st.builds(Asset, url=TEXTS, path=st.none() | TEXTS, bytes=st.none() | st.integers(0, 1 << 60), sha256=st.none()),
    max_size=2,
).map(tuple)
ERRORS = st.builds(
    RowError,
    code=st.sampled_from(Code),
    message=TEXTS,
    status_code=st.none() | st.integers(100, 599),
    retryable=st.booleans(),
    line=st.none() | st.integers(1, 9),
)
ITEMS = st.builds(
    Item,
    row=ROWS,
    line=st.none() | st.integers(1, 9),
    custom_id=TEXTS,
    kind=st.sampled_from(["chat", "video"]),
    mode=MODES,
    model=TEXTS,
    stream=st.booleans(),
    body=st.just(b"{}"),
    digest=BYTES,
    max_usd=MONEY,
    tokens=st.just(1),
)
SUBMITS = st.builds(Submit, item=ITEMS, attempt=st.integers(1, 4), at=TIMES)
ALL = {
    Submit: SUBMITS,
    Unsent: st.builds(Unsent, row=ROWS),
    Refuse: st.builds(
        Refuse,
        row=ROWS,
        at=TIMES,
        counted=st.booleans(),
        entry=st.none() | st.sampled_from([Entry.IN_DOUBT, Entry.POSSIBLE_FEE]),
        reason=TEXTS,
        max_usd=MONEY,
    ),
    Doubt: st.builds(Doubt, row=ROWS, at=TIMES, reason=TEXTS),
    Accept: st.builds(Accept, row=ROWS, request_id=TEXTS.map(RequestId), at=TIMES, deadline_at=TIMES),
    Redeem: st.builds(
        Redeem, row=ROWS, at=TIMES, status_code=st.integers(200, 299), raw=BYTES, request_id=st.none() | TEXTS
    ),
    Lose: st.builds(Lose, row=ROWS, at=TIMES, reason=TEXTS),
    Expire: st.builds(Expire, row=ROWS, at=TIMES, reason=TEXTS, cost_usd=MONEY),
    JobFailed: st.builds(JobFailed, row=ROWS, at=TIMES, reason=TEXTS, cost_usd=MONEY),
    Succeed: st.builds(
        Succeed,
        row=ROWS,
        model=TEXTS,
        cost_usd=MONEY,
        usage=st.none() | BYTES,
        tokens=st.tuples(*[st.integers(-3, 1 << 70)] * 4),
        assets=ASSETS,
    ),
    Fail: st.builds(
        Fail,
        row=ROWS,
        at=TIMES,
        error=ERRORS,
        custom_id=TEXTS,
        kind=st.sampled_from(["chat", "video", ""]),
        mode=MODES,
        model=TEXTS,
        digest=BYTES,
        line=st.none() | st.integers(1, 9),
        reply=st.none() | BYTES,
        request_id=st.none() | TEXTS,
        cost_usd=MONEY,
        usage=st.none() | BYTES,
        assets=ASSETS,
    ),
    Retry: st.builds(Retry, row=ROWS, at=TIMES),
    Redownload: st.builds(Redownload, row=ROWS),
}
OTHERS = st.one_of(*[made for change, made in ALL.items() if change is not Submit])


class Crash(BaseException):
    """The power is cut."""


def everything(store):
    """All that a store can be asked about its rows."""

    def answer(ask, row):
        try:
            return ask(row)
        except KeyError:
            return None

    return [
        [row in store.taken() for row in range(7)],
        store.submitting(),
        store.waiting(),
        list(store.jobs()),
        store.redeemed(),
        [answer(store.record, row) for row in range(7)],
        [answer(store.counts, row) for row in range(7)],
        store.outbox(0, 100),
        store.outbox(1, 2),
        list(store.failures()),
        [store.outcome(row) for row in range(7)],
        store.totals(),
        list(store.ledger()),
        store.pending_doubts(),
        store.unexplained(),
        store.position("out"),
        store.recall("fact"),
    ]


def answers(row, raw=b"{}", cost_usd=0.1):
    """A direct answer: redeemed and settled at once."""
    redeem = Redeem(row=row, at=1.0, status_code=200, raw=raw, request_id=None)
    return [redeem, Succeed(row=row, model="m", cost_usd=cost_usd, usage=None, tokens=(1, 2, 3, 4))]


class StoreMachine(RuleBasedStateMachine):
    """A store beside the model. What is a crash, and how others look on, is the store's."""

    def __init__(self):
        super().__init__()
        self.model = MemoryStore()
        self.real = self.new()

    @initialize()
    def opened(self):
        self.real.open()
        self.model.open()

    def both(self, changes):
        """Apply changes to both; return whether they were allowed, in which both must agree."""
        verdicts = []
        for store in (self.model, self.real):
            try:
                store.apply(changes)
            except ValueError:
                verdicts.append(False)
            else:
                verdicts.append(True)
        assert verdicts[0] == verdicts[1]
        return verdicts[0]

    def next_attempt(self, row):
        try:
            return self.model.counts(row).posts + 1
        except KeyError:
            return 1

    def right(self, change):
        """Give a submission the attempt that is due."""
        return replace(change, attempt=self.next_attempt(change.item.row)) if isinstance(change, Submit) else change

    @rule(row=ROWS, steps=st.integers(1, 8), data=st.data())
    def live_on(self, row, steps, data):
        """Take one row along arcs that the table allows."""
        for _ in range(steps):
            known = self.model._data.rows.get(row)
            state = State.PENDING if known is None else known.state
            allowed = [each for each in ALL if state in [source for source, _ in ARCS[each]]]
            if not allowed:
                return
            change = data.draw(ALL[data.draw(st.sampled_from(allowed))])
            if isinstance(change, Submit):
                change = self.right(replace(change, item=replace(change.item, row=row)))
            else:
                change = replace(change, row=row)
            self.both([change])

    @rule(change=SUBMITS | OTHERS)
    def change_one(self, change):
        self.both([change])

    @rule(submit=SUBMITS)
    def submit(self, submit):
        self.both([self.right(submit)])

    @rule(changes=st.lists(SUBMITS | OTHERS, max_size=6))
    def change_many(self, changes):
        self.both(changes)

    @rule(
        submits=st.lists(SUBMITS, max_size=3, unique_by=lambda submit: submit.item.row),
        rest=st.lists(OTHERS, max_size=3),
    )
    def change_a_group(self, submits, rest):
        self.both([*map(self.right, submits), *rest])

    @rule(submit=SUBMITS, redeem=st.binary(max_size=9), cost=MONEY)
    def answer(self, submit, redeem, cost):
        row = submit.item.row
        self.both([self.right(submit)])
        self.both(answers(row, redeem, cost))

    @rule(seq=st.integers(0, 9), value=st.none() | st.integers() | TEXTS)
    def remember(self, seq, value):
        for store in (self.real, self.model):
            store.advance("out", Position(seq=seq, state={"x": value}))
            store.note("fact", value)

    @rule()
    def reopen(self):
        self.real.close()
        self.real.open()

    @rule()
    def crash(self):
        self.die()

    @rule(change=SUBMITS, point=st.sampled_from(["store.before-commit", "store.after-commit"]))
    def crash_at_a_commit(self, change, point):
        change = self.right(change)

        def hit(name):
            if name == point:
                raise Crash

        failpoints.install(hit)
        try:
            self.real.apply([change])
        except Crash:
            if point == "store.after-commit":
                failpoints.install(None)
                self.model.apply([change])
        except ValueError:
            pass
        finally:
            failpoints.install(None)
        self.die()

    @precondition(lambda self: self.real is not None)
    @rule()
    def look_on(self):
        watcher = self.watcher()
        assert everything(watcher) == everything(self.model)
        watcher.close()

    @invariant()
    def both_say_the_same(self):
        if self.is_open():
            assert everything(self.real) == everything(self.model)
            assert self.real.totals() == self.real.recount()
            assert self.real.unexplained() == []


class FileMachine(StoreMachine):
    """A store in a file."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bulkgrok-test-"))
        self.generation = 0
        self.path = self.folder / "0" / "checkpoint.db"
        self.path.parent.mkdir()
        super().__init__()

    def new(self):
        return SqliteStore(self.path)

    def watcher(self):
        return read_store(self.path)

    def is_open(self):
        return self.real._open_connection is not None

    @rule(submits=st.lists(SUBMITS, min_size=1, max_size=3, unique_by=lambda submit: submit.item.row), after=SEQS)
    def answer_some_at_once(self, submits, after):
        """The outbox is read on from somewhere, as sinks do."""
        self.both(list(map(self.right, submits)))
        self.both([change for submit in submits for change in answers(submit.item.row)])
        page = self.real.outbox(after, 2)
        assert page == self.model.outbox(after, 2)[: len(page)]
        assert bool(page) == bool(self.model.outbox(after, 2))

    @invariant()
    def what_is_remembered_of_the_outbox_is_what_is_stored(self):
        if self.is_open() and (kept := list(self.real._recent._kept)):
            assert kept == FileReading.outbox(self.real, kept[0].seq - 1, len(kept))

    def die(self):
        """Go on with a copy of the files as they lie on the disk, the old connection still open."""
        self.generation += 1
        folder = self.folder / str(self.generation)
        shutil.copytree(self.path.parent, folder, ignore=shutil.ignore_patterns("*-shm"))
        self.real.close()
        self.path = folder / "checkpoint.db"
        self.real = self.new()
        self.real.open()

    @rule(torn=st.integers(1, 200))
    def power_fails_in_the_middle_of_a_write(self, torn):
        """Let the log end in half a frame."""
        self.die()
        self.real.close()
        log = self.path.with_name("checkpoint.db-wal")
        with log.open("ab") as file:
            file.write(os.urandom(torn))
        self.real.open()

    def teardown(self):
        failpoints.install(None)
        if self.is_open():
            assert self.real._connection.execute("PRAGMA integrity_check").get == "ok"
            assert not list(self.real._connection.execute("PRAGMA foreign_key_check"))
        self.real.close()
        shutil.rmtree(self.folder)


class DatabaseMachine(StoreMachine):
    """A store in a real PostgreSQL."""

    def __init__(self):
        self.database = Database(postgresql.shared().url(), f"machine {uuid.uuid4()}")
        super().__init__()

    def new(self):
        return open_store(self.database.url, run_id=self.database.run_id)

    def watcher(self):
        return read_store(self.database.url, run_id=self.database.run_id)

    def is_open(self):
        return self.real._open_session is not None

    def die(self):
        """Let the connection end without a word, and another process go on."""
        self.database.vanish(self.real)
        self.real = self.new()
        self.real.open()

    @rule()
    def lose_the_connection(self):
        """Let the connection end, and the same process go on."""
        self.real._open_session._connection.pgconn.finish()

    def teardown(self):
        failpoints.install(None)
        self.real.close()


TestFile = FileMachine.TestCase
TestFile.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
WHY = postgresql.missing()
TestDatabase = pytest.mark.skipif(bool(WHY), reason=WHY or "-")(DatabaseMachine.TestCase)
TestDatabase.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
