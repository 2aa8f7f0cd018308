"""One runner's hold on one run: its connection, made again when it is lost, and transactions that are done once.

Law: a transaction locks the run's row first, verifies the epoch, and counts itself last. A COMMIT whose reply is lost
is looked up by that count before anything is done again; while the old session still has the transaction in hand, the
lock makes that look wait. Whoever finds another epoch writes nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import psycopg

from bulkgrok.checkpoint import postgres_tenure as tenures
from bulkgrok.checkpoint.postgres_connecting import (
    Connection,
    connect,
    encode_text,
    first_connection,
    make_durable,
    refuse_unlogged,
)
from bulkgrok.checkpoint.postgres_mishaps import is_lost, may_be_tried_again, out_of_reach, storage_failed
from bulkgrok.checkpoint.postgres_rows import SQL
from bulkgrok.checkpoint.postgres_schema import LOCKS, bring_up, version_of
from bulkgrok.checkpoint.postgres_tenure import Heartbeat, Lease, Tenure, elapsed
from bulkgrok.checkpoint.tally import Tally
from bulkgrok.core import failpoints
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import StorageFailed, UsageError

T = TypeVar("T")

PATIENCE_S: Final = 60.0
_LONGEST_PAUSE_S: Final = 2.0
_DEADLOCKS: Final = 5


@dataclass(slots=True, kw_only=True)
class Sums:
    """What a transaction finds in the run's row, and leaves there."""

    seq: int
    """The last sequence number given."""
    tally: Tally


def key_of(run_id: str) -> bytes:
    """Return what a run is found by, however long its name is."""
    return hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).digest()


class Session:
    """A runner's session.

    Args:
        url: The database.
        run_id: The run's name; made when it is not there.
        lease_s: For how long the run stays this runner's without being renewed.
        patience_s: For how long a lost connection is tried again.
    """

    def __init__(self, url: DatabaseUrl, run_id: str, *, lease_s: float, patience_s: float) -> None:
        self.run = 0
        self.mark = ""
        """Names the run among all runs of all databases."""
        self.lease = Lease(url, lease_s)
        self.sums = Sums(seq=0, tally=Tally())
        """As of the last transaction."""
        self.tenure: Tenure | None = None
        self._url = url
        self._run_id = run_id
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._heartbeat: Heartbeat | None = None
        self._applied = 0
        self._impatient = False

    def open(self) -> list[str]:
        """Connect, make the tables, become the run's owner; return what a user should know.

        Raises:
            UsageError, RunMismatch, RunLocked, StorageFailed: It cannot be.
        """
        connection = self._connection = first_connection(self._url)
        try:
            warnings = make_durable(connection, self._url)
            if (note := bring_up(connection, self._url)) is not None:
                warnings.append(note)
            refuse_unlogged(connection, self._url)
            self.run, self.mark = _registered(connection, self._run_id)
            self.tenure = tenures.take(connection, self._url, self.run, self.lease)
            self.sums = self._own(connection)
        except psycopg.Error as error:
            raise storage_failed(self._url, error) from error
        self._heartbeat = tenures.heartbeat(self._url, self.tenure, self.lease)
        return warnings

    def close(self) -> None:
        """Give the run back. Harmless when repeated."""
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.stop()
        connection, self._connection = self._connection, None
        tenure, self.tenure = self.tenure, None
        if connection is not None:
            with suppress(psycopg.Error):
                if tenure is not None and not connection.closed:
                    tenures.release(connection, tenure, self._applied)
            with suppress(psycopg.Error):
                connection.close()

    def read(self, ask: Callable[[Connection], T]) -> T:
        """Return what a function reads; it is asked again where the connection was lost.

        Raises:
            StorageFailed: The server refused, or stayed away.
        """
        return self._persist(ask)

    def transact(
        self, work: Callable[[Connection, Sums], None], ask: Callable[[Connection], None] | None = None
    ) -> None:
        """Do something in one durable transaction, or nothing of it.

        Args:
            work: Given the connection and the run's sums, which it may change.
            ask: What is sent along with the question whose run it is, to save a round trip.

        Raises:
            RunTakenOver: Another runner owns the run; nothing was done.
            StorageFailed: The server refused, or stayed away.
        """
        if self.lease.lost:
            raise self.lease.taken_over()
        doubtful = False

        def attempt(connection: Connection) -> None:
            nonlocal doubtful
            was_doubtful, doubtful = doubtful, True
            asked_at = elapsed()
            try:
                sums = self._begin(connection, ask, doubtful=was_doubtful)
                if sums is not None:
                    work(connection, sums)
                    failpoints.hit("store.before-commit")
                    self._commit(connection, sums)
                    self.sums = sums
                    self.lease.extend(asked_at)
            except BaseException:
                _roll_back(connection)
                raise
            self._applied += 1

        self._persist(attempt)

    def _begin(
        self, connection: Connection, ask: Callable[[Connection], None] | None, *, doubtful: bool
    ) -> Sums | None:
        """Begin a transaction; None where it proves to have been done before."""
        with connection.pipeline():
            connection.execute("BEGIN")
            owning = connection.execute(SQL["own"], (self.run,))
            if ask is not None:
                ask(connection)
            found = owning.fetchone()
        if found is None:
            msg = f"The run was removed from {self._url} while it went on. Nothing more was sent."
            raise StorageFailed(msg, hint="Restore a backup of the database, or start afresh with another --run-id.")
        assert self.tenure is not None  # noqa: S101 - it is open
        epoch, applied, seq, tally = found
        sums = Sums(seq=seq, tally=Tally.loads(tally))
        if epoch != self.tenure.epoch:
            self.lease.lost = True
            if doubtful and self._applied_then(connection) == self._applied + 1:
                connection.execute("ROLLBACK")
                return None
            raise self.lease.taken_over()
        if applied == self._applied:
            return sums
        connection.execute("ROLLBACK")
        if doubtful and applied == self._applied + 1:
            self.sums = sums
            return None
        msg = (
            f"The checkpoint {self._url}: it holds {applied} groups of changes where this runner made {self._applied}: "
            "an older copy was put in its place, or another program changed it."
        )
        raise StorageFailed(msg, hint="Put the right database back, then type the same command again.")

    def _applied_then(self, connection: Connection) -> int | None:
        """Return how far this runner got, where another one owns the run by now."""
        assert self.tenure is not None  # noqa: S101 - it is open
        found = connection.execute(tenures.SQL["applied_then"], (self.run, self.tenure.epoch)).fetchone()
        return None if found is None else found[0]

    def _commit(self, connection: Connection, sums: Sums) -> None:
        sums.tally.groups += 1
        values = (self.run, self._applied + 1, sums.seq, sums.tally.dumps(), timedelta(seconds=self.lease.lease_s))
        with connection.pipeline():
            connection.execute(SQL["done"], values)
            connection.execute("COMMIT")

    def _own(self, connection: Connection) -> Sums:
        found = connection.execute("SELECT seq, tally FROM bulkgrok.run WHERE no = $1", (self.run,)).fetchone()
        assert found is not None  # noqa: S101 - it was registered
        return Sums(seq=found[0], tally=Tally.loads(found[1]))

    # A connection that is made again

    def _persist(self, attempt: Callable[[Connection], T]) -> T:
        """Carry out an attempt, again while the connection is lost and patience lasts."""
        began, pause_s, deadlocks = elapsed(), 0.05, 0
        while True:
            try:
                found = attempt(self._connected())
            except psycopg.Error as error:
                if may_be_tried_again(error) and deadlocks < _DEADLOCKS:
                    deadlocks += 1
                    continue
                if not is_lost(error, self._connection):
                    raise storage_failed(self._url, error) from error
                self._drop()
                waited_s = elapsed() - began
                if self._impatient or waited_s >= self._patience_s:
                    self._impatient = True
                    raise out_of_reach(self._url, error, waited_s=waited_s).with_traceback(None) from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._impatient = False
                return found

    def _connected(self) -> Connection:
        if self._connection is None:
            if self.tenure is None:
                msg = f"The checkpoint {self._url} is not open."
                raise StorageFailed(msg)
            connection = connect(self._url)
            try:
                make_durable(connection, self._url)
                locked = not self.lease.lost and tenures.try_lock(connection, self.run)
                tenures.lock(connection, self.run, self.tenure.epoch, self.lease, locked=locked)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()


class Observer:
    """An observer's session: sees the run as it stood when it was opened, and changes nothing.

    Args:
        url: The database.
        run_id: The run's name.
    """

    def __init__(self, url: DatabaseUrl, run_id: str) -> None:
        self.run = 0
        self._url = url
        self._connection = first_connection(url)
        try:
            self.run = self._found(run_id)
        except BaseException:
            self.close()
            raise

    def _found(self, run_id: str) -> int:
        found = None
        try:
            if version_of(self._connection, self._url):
                self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                found = self._connection.execute(tenures.SQL["find"], (key_of(run_id),)).fetchone()
        except psycopg.Error as error:
            raise storage_failed(self._url, error) from error
        if found is None:
            msg = f"There is no run {run_id!r} in {self._url}."
            raise UsageError(msg, hint=f"List the runs in it: bulkgrok status '{self._url}'")
        return int(found[0])

    def read(self, ask: Callable[[Connection], T]) -> T:
        """Return what a function reads. Raises StorageFailed."""
        try:
            return ask(self._connection)
        except psycopg.Error as error:
            raise storage_failed(self._url, error) from error

    def close(self) -> None:
        """Let go of the connection."""
        with suppress(psycopg.Error):
            self._connection.close()


def list_runs(url: DatabaseUrl) -> list[tuple[str, str | None]]:
    """Return the runs in a database, the newest first, each with who is at work on it.

    Raises:
        UsageError, StorageFailed, RunMismatch: It cannot be asked.
    """
    connection = first_connection(url)
    try:
        if not version_of(connection, url):
            return []
        found = connection.execute(tenures.SQL["runs"], (LOCKS,)).fetchall()
    except psycopg.Error as error:
        raise storage_failed(url, error) from error
    finally:
        connection.close()
    return [(name, owner if leased else None) for name, owner, leased in found]


def _registered(connection: Connection, run_id: str) -> tuple[int, str]:
    """Return number and mark of a run, making it where it is not there."""
    key = key_of(run_id)
    connection.execute(tenures.SQL["register"], (key, encode_text(run_id), Tally().dumps()))
    found: tuple[Any, ...] | None = connection.execute(tenures.SQL["find"], (key,)).fetchone()
    assert found is not None  # noqa: S101 - it was made just now
    return found[0], found[1]


def _roll_back(connection: Connection) -> None:
    with suppress(psycopg.Error):
        if not connection.closed:
            connection.execute("ROLLBACK")
