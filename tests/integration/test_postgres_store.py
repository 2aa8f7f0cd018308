"""A checkpoint in PostgreSQL: who owns a run, what a lost connection leaves, and which servers are refused."""

import itertools
import json
import threading
import time
from functools import partial

import pytest
from postgresql import PASSWORD, Server, abandon, sql, wait_until

from bulkgrok.checkpoint import list_runs, open_store, read_store
from bulkgrok.checkpoint.spill import Spill
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import RunLocked, RunMismatch, RunTakenOver, StorageFailed, UsageError
from bulkgrok.core.lifecycle import Accept, Doubt, Lose, Redeem, Submit, Succeed
from bulkgrok.core.model import Item, Mode, Position, RequestId

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: tox run -e postgres")
postgres_store = pytest.importorskip("bulkgrok.checkpoint.postgres")
wire = pytest.importorskip("wire")

NUMBERS = itertools.count()


@pytest.fixture
def run_id():
    return f"a run of its own {next(NUMBERS)}"


@pytest.fixture
def url(postgres):
    return DatabaseUrl(postgres.url())


@pytest.fixture
def opened(url, run_id):
    """Open stores of one run, and close them at the end."""
    stores = []

    def new(address=url, **settings):
        store = postgres_store.PostgresStore(address, run_id, **settings)
        stores.append(store)
        store.open()
        return store

    yield new
    for store in stores:
        store.close()


def submit(row, attempt=1, **fields):
    known = {
        "row": row, "line": row + 1, "custom_id": f"q-{row}", "kind": "chat", "mode": Mode.DEFERRED, "model": "m",
        "stream": False, "body": b"{}", "digest": b"d", "max_usd": 0.25, "tokens": 7,
    }  # fmt: skip
    return Submit(item=Item(**(known | fields)), attempt=attempt, at=1.0)


def accept(row, request_id=None):
    return Accept(row=row, request_id=RequestId(request_id or f"r-{row}"), at=1.0, deadline_at=9e9)


def redeem(row, request_id=None, raw=b"{}"):
    return Redeem(row=row, at=2.0, status_code=200, raw=raw, request_id=request_id or f"r-{row}")


def succeed(row):
    return Succeed(row=row, model="m", cost_usd=0.1, usage=None, tokens=(1, 2, 3, 4))


def silence(store):
    """Let a runner hang: its process stands still, its connection stays."""
    store._open_session._heartbeat.stop()
    return store._open_session


# Who owns a run


def test_a_second_runner_is_refused_while_the_first_is_alive(opened):
    opened()
    began = time.monotonic()
    with pytest.raises(RunLocked, match=r"process .* is at work on this run"):
        opened()
    assert time.monotonic() - began < 5.0


def test_a_run_that_was_given_back_is_taken_at_once(opened):
    opened().close()
    assert opened().unclear_s == 0.0


def test_the_run_of_a_process_that_died_is_taken_over_at_once_with_a_new_epoch(opened, postgres, run_id):
    first = opened(lease_s=600.0)
    first.apply([submit(1)])
    abandon(first)
    assert wait_until(lambda: not postgres.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
    second = opened()
    assert second.submitting() == [1]
    assert second.unclear_s > 0.0
    assert postgres.sql("SELECT epoch FROM bulkgrok.run WHERE name = %s", run_id) == [(2,)]


def test_the_run_of_a_runner_that_hangs_is_taken_over_when_its_lease_is_over_and_not_before(opened):
    first = opened(lease_s=2.0)
    first.apply([submit(1)])
    silence(first)
    with pytest.raises(RunLocked):
        opened()
    began = time.monotonic()
    assert wait_until(lambda: not first.lease.holds(), at_most_s=2.5)

    def taken():
        try:
            return opened()
        except RunLocked:
            return None

    assert wait_until(lambda: taken() is not None, at_most_s=10.0)
    assert time.monotonic() - began < 10.0
    with pytest.raises(RunTakenOver):
        first.apply([Doubt(row=1, at=1.0, reason="late")])
    assert first.lease.lost


def test_a_lease_is_renewed_while_nothing_happens_in_the_process_but_that(opened):
    first = opened(lease_s=6.0)
    until = time.monotonic() + 7.0
    while time.monotonic() < until:
        assert first.lease.holds()  # a thread that never waits
    with pytest.raises(RunLocked):
        opened()


def test_a_runner_that_was_taken_over_writes_nothing_and_hears_of_it_without_writing(opened):
    first = opened(lease_s=1.5)
    first.apply([submit(1), accept(1), submit(2)])
    first.advance("out", Position(seq=0, state={"x": 1}))
    session = first._open_session
    session._connection.pgconn.finish()  # its connection is gone, it is not
    second = taken_over(opened)
    assert wait_until(lambda: first.lease.lost, at_most_s=10.0)
    second.apply([Doubt(row=2, at=1.0, reason="the process ended")])
    before = everything(second)
    for write in (
        lambda: first.apply([Doubt(row=2, at=1.0, reason="late")]),
        lambda: first.apply([submit(2, 2)]),
        lambda: first.advance("out", Position(seq=9)),
        lambda: first.note("x", 1),
        lambda: first.keep_for(9.0),
    ):
        with pytest.raises(RunTakenOver):
            write()
    assert everything(second) == before


def taken_over(opened):
    found = []

    def take():
        try:
            found.append(opened())
        except RunLocked:
            return False
        return True

    assert wait_until(take, at_most_s=20.0)
    return found[0]


def everything(store):
    return [
        store.submitting(), store.waiting(), list(store.jobs()), store.redeemed(), store.stored().dumps(),
        list(store.ledger()), store.position("out"), store.recall("x"), store.unexplained(),
    ]  # fmt: skip


def test_an_answer_that_a_fenced_runner_had_in_hand_is_entered_where_its_row_waits_for_it(opened):
    first = opened(lease_s=1.5)
    first.apply([change for row in range(3) for change in (submit(row), accept(row))])
    first._open_session._connection.pgconn.finish()
    second = taken_over(opened)
    second.apply([Lose(row=1, at=1.0, reason="gone"), submit(1, 2), accept(1, "r-1-again")])
    second.apply([redeem(2, raw=b"second"), succeed(2)])
    with pytest.raises(RunTakenOver):
        first.apply([redeem(0, raw=b"in hand"), redeem(1, raw=b"too late"), redeem(2, raw=b"late")])
    assert second.redeemed() == [0]
    assert second.record(0).raw == b"in hand"
    assert [job.request_id for job in second.jobs()] == ["r-1-again"]
    assert second.outcome(2).body == b"second"
    second.apply([succeed(0)])
    assert second.totals() == second.recount()
    assert second.unexplained() == []


# A connection that is lost


@pytest.mark.parametrize("forward", [True, False], ids=["done", "not done"])
def test_a_commit_whose_reply_is_lost_is_done_once(postgres, opened, forward):
    between = wire.Wire(postgres.port) if hasattr(postgres, "port") else pytest.skip("needs a server of its own")
    store = opened(DatabaseUrl(postgres.url().replace(f":{postgres.port}/", f":{between.port}/")))
    store.apply([submit(1)])
    for number, cut in enumerate([forward, not forward, forward]):
        between.cut(b"COMMIT", forward=cut)
        store.apply([submit(10 + number), accept(10 + number, f"x-{number}")])
        between.cut(b"COMMIT", forward=cut)
        store.note("x", number)
    assert between.cuts == 6
    assert [job.row for job in store.jobs()] == [10, 11, 12]
    assert store.recall("x") == 2
    assert store.totals() == store.recount()
    assert store.unexplained() == []
    between.close()


def test_a_session_that_an_administrator_ends_is_made_again(opened, postgres):
    store = opened()
    for row in range(5):
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bulkgrok'")
        store.apply([submit(row)])
    assert store.submitting() == [0, 1, 2, 3, 4]
    with pytest.raises(RunLocked):
        opened()


def test_a_server_that_crashes_and_comes_back_loses_nothing_that_was_acknowledged(opened, postgres):
    if not isinstance(postgres, Server):
        pytest.skip("needs a server of its own")
    store = opened()
    for row in range(3):
        store.apply([submit(row), redeem(row), succeed(row)])
        postgres.crash()
        assert [found.row for found in store.outbox(0, 9)] == list(range(row + 1))
    assert store.totals() == store.recount()


def test_a_server_that_stays_away_ends_the_run_and_says_what_is_kept(postgres, opened, tmp_path):
    if not isinstance(postgres, Server):
        pytest.skip("needs a server of its own")
    between = wire.Wire(postgres.port)
    store = opened(
        DatabaseUrl(postgres.url().replace(f":{postgres.port}/", f":{between.port}/")), patience_s=1.0, scratch=tmp_path
    )
    store.apply([submit(1), accept(1)])
    between.refuse(refused=True)
    with pytest.raises(StorageFailed, match=r"out of reach for .* Every answer committed so far is kept") as found:
        store.apply([redeem(1)])
    assert found.value.exit_code == 8
    began = time.monotonic()
    with pytest.raises(StorageFailed):
        store.apply([redeem(1)])
    assert time.monotonic() - began < 1.0, "patience is over"
    spill = Spill(store.spill_place)
    place, count = spill.save([redeem(1, raw=b"kept")])
    assert (place.parent, count) == (tmp_path, 1)
    between.refuse(refused=False)
    store.apply([submit(2)])
    assert spill.recover(store) == 1
    assert store.record(1).raw == b"kept"
    between.close()


# Tables


def test_any_number_of_runners_may_be_the_first(postgres):
    if not isinstance(postgres, Server):
        pytest.skip("needs a server of its own")
    postgres.sql("CREATE DATABASE fresh")
    fresh = DatabaseUrl(postgres.url("fresh"))
    found, barrier = [], threading.Barrier(6)

    def begin(number):
        store = open_store(fresh, run_id=f"run {number % 4}")
        barrier.wait()
        try:
            store.open()
        except RunLocked as error:
            found.append(error)
        else:
            store.note("number", number)
            found.append(None)
        barrier.wait()
        store.close()

    threads = [threading.Thread(target=partial(begin, number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(each) for each in found].count(RunLocked) == 2
    assert sorted(name for name, _ in list_runs(fresh)) == [f"run {number}" for number in range(4)]
    assert {owner for _, owner in list_runs(fresh)} == {None}


def test_runs_in_one_database_know_nothing_of_each_other(postgres, url, run_id):
    stores = [open_store(url, run_id=f"{run_id} {number}") for number in range(2)]
    for number, store in enumerate(stores):
        store.open()
        store.apply([submit(7, custom_id=f"of {number}"), accept(7, "same id"), redeem(7), succeed(7)])
        store.advance("out", Position(seq=number))
        store.note("fact", number)
    for number, store in enumerate(stores):
        assert store.outcome(7).custom_id == f"of {number}"
        assert (store.position("out").seq, store.recall("fact")) == (number, number)
        assert store.totals() == store.recount()
        assert store.totals().succeeded == 1
        assert (f"{run_id} {number}") in dict(list_runs(url))
        store.close()


def test_tables_of_a_newer_version_are_refused_and_left_alone(postgres):
    if not isinstance(postgres, Server):
        pytest.skip("needs a server of its own")
    postgres.sql("CREATE DATABASE newer")
    newer = DatabaseUrl(postgres.url("newer"))
    open_and_close(newer)
    sql(postgres.url("newer"), "UPDATE bulkgrok.version SET number = 2")
    for look in (lambda: open_and_close(newer), lambda: read_store(newer, run_id="run"), lambda: list_runs(newer)):
        with pytest.raises(RunMismatch, match="version 2, and this program knows 1"):
            look()


def open_and_close(url):
    store = open_store(url, run_id="run")
    store.open()
    store.close()
    return store


def test_the_ledger_is_append_only_for_everybody(opened, postgres):
    store = opened()
    store.apply([submit(1), Doubt(row=1, at=1.0, reason="x")])
    for change in ("UPDATE bulkgrok.ledger SET max_usd = 0", "DELETE FROM bulkgrok.ledger"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            postgres.sql(change)


def test_an_observer_sees_the_run_as_it_stood_and_changes_nothing(opened, url, run_id):
    store = opened()
    store.apply([submit(1)])
    watcher = read_store(url, run_id=run_id)
    store.apply([accept(1)])
    assert watcher.submitting() == [1]
    with pytest.raises(StorageFailed, match="read only"):
        watcher.note("x", 1)
    watcher.close()
    with pytest.raises(UsageError, match="There is no run 'nowhere'"):
        read_store(url, run_id="nowhere")


# Servers that are refused, and one that is warned of


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("fsync", "off", "fsync=off"),
        ("default_transaction_read_only", "on", "read-only"),
    ],
)
def test_a_server_that_would_lose_answers_is_refused_with_the_way_out(postgres, setting, value, words):
    with setting_of(postgres, setting, value) as url:
        store = open_store(url, run_id="x")
        with pytest.raises(UsageError, match=words) as found:
            store.open()
    assert "Nothing was sent" in found.value.message
    assert found.value.hint


def test_torn_pages_are_warned_of(postgres):
    with setting_of(postgres, "full_page_writes", "off") as url:
        assert "full_page_writes=off" in open_and_close(url).warnings[0]


@pytest.mark.parametrize("value", ["off", "local", "remote_write", "on", "remote_apply"])
def test_commits_wait_for_the_disk_whatever_the_role_is_set_to(postgres, value):
    own_server(postgres)
    postgres.sql("DROP ROLE IF EXISTS hasty")
    postgres.sql(f"CREATE ROLE hasty LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    postgres.sql(f"ALTER ROLE hasty SET synchronous_commit = {value}")
    store = open_store(DatabaseUrl(postgres.url(user="hasty")), run_id=f"hasty {value}")
    store.open()
    found = store._open_session._connection.execute("SHOW synchronous_commit").fetchone()[0]
    assert found == ("remote_apply" if value == "remote_apply" else "on")
    store.close()


def test_a_table_that_a_crash_empties_is_refused(postgres):
    own_server(postgres)
    postgres.sql("CREATE DATABASE unlogged")
    url = DatabaseUrl(postgres.url("unlogged"))
    open_and_close(url)
    sql(postgres.url("unlogged"), "ALTER TABLE bulkgrok.answer SET UNLOGGED")
    with pytest.raises(UsageError, match=r"bulkgrok\.answer is unlogged") as found:
        open_and_close(url)
    assert found.value.hint == "ALTER TABLE bulkgrok.answer SET LOGGED"


def test_a_database_that_cannot_hold_every_character_is_refused(postgres):
    own_server(postgres)
    postgres.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(UsageError, match="encoded in LATIN1"):
        open_and_close(DatabaseUrl(postgres.url("latin")))


def test_a_role_without_privileges_is_told_what_it_lacks(postgres):
    own_server(postgres)
    postgres.sql("DROP ROLE IF EXISTS poor")
    postgres.sql(f"CREATE ROLE poor LOGIN PASSWORD '{PASSWORD}'")
    open_and_close(DatabaseUrl(postgres.url()))
    with pytest.raises(UsageError, match="permission denied") as found:
        open_and_close(DatabaseUrl(postgres.url(user="poor")))
    assert "docs/postgres.md" in found.value.hint


def test_a_role_that_owns_nothing_needs_what_the_documents_list(postgres):
    own_server(postgres)
    postgres.sql("CREATE DATABASE granted")
    open_and_close(DatabaseUrl(postgres.url("granted")))
    postgres.sql("DROP ROLE IF EXISTS worker")
    postgres.sql(f"CREATE ROLE worker LOGIN PASSWORD '{PASSWORD}'")
    for grant in (
        "GRANT USAGE ON SCHEMA bulkgrok TO worker",
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA bulkgrok TO worker",
        "GRANT DELETE ON bulkgrok.answer TO worker",
    ):
        sql(postgres.url("granted"), grant)
    store = open_store(DatabaseUrl(postgres.url("granted", user="worker")), run_id="by a worker")
    store.open()
    store.apply([submit(1), accept(1), redeem(1), submit(2), Doubt(row=2, at=1.0, reason="x")])
    store.apply([succeed(1), submit(2, 2), accept(2, "again"), redeem(2, "again", raw=b"x" * 3_000_000)])
    store.advance("out", Position(seq=1))
    assert store.totals() == store.recount()
    store.close()


@pytest.mark.parametrize(
    ("change", "exit_code", "words"),
    [
        ({"password": "wrong-password"}, 2, "password authentication failed"),
        ({"user": "nobody-here"}, 2, "password authentication failed"),
        ({"database": "nowhere"}, 2, "does not exist"),
    ],
)
def test_an_address_that_is_wrong_is_told_without_its_password(postgres, change, exit_code, words):
    own_server(postgres)
    address = postgres.url(**change)
    with pytest.raises((UsageError, StorageFailed), match=words) as found:
        open_and_close(DatabaseUrl(address))
    assert found.value.exit_code == exit_code
    assert not any(word in found.value.message for word in ("wrong-password", PASSWORD, "s3kr1t"))


def test_a_server_that_is_away_is_told_as_resumable():
    with pytest.raises(StorageFailed, match="cannot be opened") as found:
        open_and_close(DatabaseUrl("postgresql://u:geheim99@127.0.0.1:1/d"))
    assert "geheim99" not in str(found.value)


def own_server(postgres):
    if not isinstance(postgres, Server):
        pytest.skip("needs a server of its own")


class setting_of:  # noqa: N801 - reads as a phrase
    """A server that is set otherwise, for a while."""

    def __init__(self, postgres, name, value):
        own_server(postgres)
        self._server, self._name, self._value = postgres, name, value

    def __enter__(self):
        url = DatabaseUrl(self._server.url())
        open_and_close(url)
        self._set(f"ALTER SYSTEM SET {self._name} = {self._value}", self._value)
        return url

    def __exit__(self, *_):
        self._set(f"ALTER SYSTEM RESET {self._name}", None)

    def _set(self, statement, value):
        with psycopg.connect(self._server.url(), autocommit=True, options="-c default_transaction_read_only=off") as it:
            it.execute(statement)
            it.execute("SELECT pg_reload_conf()")

        def is_so():
            found = self._server.sql(f"SHOW {self._name}")[0][0]
            return found == value if value is not None else found != self._value

        assert wait_until(is_so)


def test_what_is_shown_of_an_address_opens_it_again_with_the_password_elsewhere(postgres, monkeypatch):
    own_server(postgres)
    url = DatabaseUrl(postgres.url(connect_timeout=7))
    assert "s3kr1t" not in f"{url} {url!r} {url.shown}"
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    open_and_close(DatabaseUrl(str(url)))


def test_a_position_of_any_name_and_state_is_kept(opened):
    store = opened()
    state = json.loads('{"name": "\\ud800", "nul": "\\u0000", "size": 12345678901234567890}')
    store.advance("out \x00 \ud800", Position(seq=3, state=state))
    assert store.position("out \x00 \ud800").state == state
