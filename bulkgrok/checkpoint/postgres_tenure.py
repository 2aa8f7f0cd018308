"""Who may act on a run: one runner at a time, by an epoch that every writing transaction verifies, and a lease.

Law: a run is taken over at once where its runner is gone (its advisory lock is free), and where its lease is over; each
owner has an epoch of its own, and what an earlier one still tries to write is refused by the database. A runner that
cannot tell whether its lease still holds sends nothing: `Lease` answers that without asking anybody. Time is the
server's; of the local clock only how long ago something was asked for is used.

The lease is renewed by a thread of its own, over a connection of its own: neither a busy event loop nor a long
transaction ends it. A process that is stopped, or whose connection is gone, does lose it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import psycopg

from bulkgrok.checkpoint.postgres_connecting import Connection, connect
from bulkgrok.checkpoint.postgres_schema import LOCKS
from bulkgrok.checkpoint.statements import load
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import RunLocked, RunTakenOver

SQL: Final = load("postgres_tenure.sql")
LEASE_S: Final = 15.0
#: What a lease is shorter by in the eyes of its owner.
_MARGIN_S: Final = 2.0
#: Beyond a lease, what a runner that hung may still need to hand in an answer it had in hand.
_GRACE_S: Final = 10.0
_RENEWALS: Final = 4
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Return seconds that also go on while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """What a runner knows by itself of how long it may act. For any thread."""

    def __init__(self, url: DatabaseUrl, lease_s: float) -> None:
        self._url = url
        self.lease_s = lease_s
        self.lost = False
        """Whether another runner has taken the run over."""
        self._until = 0.0

    def extend(self, asked_at: float) -> None:
        """Note that the server renewed it for what was asked at a time of `elapsed`."""
        self._until = max(self._until, asked_at + self.lease_s - min(_MARGIN_S, self.lease_s / 4))

    def holds(self) -> bool:
        """Tell whether the run is certainly still ours."""
        return not self.lost and elapsed() < self._until

    def taken_over(self) -> RunTakenOver:
        """Word the end of a runner that another one took the place of."""
        return RunTakenOver(
            f"Another runner has taken this run in {self._url} over, because this one was not heard of for too long. "
            "Nothing more was sent; answers that had arrived were handed in where they were still waited for.",
            hint="Leave it to the other runner; when that has ended, the same command goes on from there.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """One runner's ownership of a run."""

    run: int
    epoch: int
    locked: bool
    """Whether this session holds the advisory lock."""
    unclear_s: float
    """For how long an earlier runner may still hand in what it had in hand."""


def owner_name() -> str:
    """Return who this runner is, for messages."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def try_lock(connection: Connection, run: int) -> bool:
    """Take the advisory lock of a run for this session, if it is free."""
    found = connection.execute(SQL["try_lock"], (LOCKS, run)).fetchone()
    return found is not None and bool(found[0])


def take(connection: Connection, url: DatabaseUrl, run: int, lease: Lease) -> Tenure:
    """Become the owner of a run.

    Raises:
        RunLocked: It has one that is alive.
        psycopg.Error: The server refused.
    """
    locked = try_lock(connection, run)
    asked_at = elapsed()
    with connection.transaction():
        found = connection.execute(SQL["look"], (run,)).fetchone()
        assert found is not None  # noqa: S101 - it was registered
        epoch, owner, had_lock, leased, left_s, applied = found
        gone = locked and had_lock  # its session held the lock, and holds it no more
        if owner is not None and leased and not gone:
            raise _locked(url, owner, left_s)
        connection.execute(SQL["end_tenure"], (run, epoch, applied))
        connection.execute(SQL["begin_tenure"], (run, epoch + 1, owner_name()))
        connection.execute(SQL["take"], (run, epoch + 1, owner_name(), locked, timedelta(seconds=lease.lease_s)))
    lease.extend(asked_at)
    if not locked:
        locked = _oust(connection, run, epoch + 1, lease)
    unclear_s = 0.0 if owner is None else lease.lease_s + _GRACE_S
    return Tenure(run=run, epoch=epoch + 1, locked=locked, unclear_s=unclear_s)


def _locked(url: DatabaseUrl, owner: str, left_s: float) -> RunLocked:
    return RunLocked(
        f"Another runner ({owner}) is at work on this run in {url}. Nothing was sent.",
        hint=f"Wait for it, or end it: when it is gone this command goes on at once, and when it hangs after "
        f"{max(left_s, 0.0):.0f} s.",
    )


def _oust(connection: Connection, run: int, epoch: int, lease: Lease) -> bool:
    """End the session of a runner that hangs, if this role may; its lock is then ours. Nothing depends on it."""
    try:
        for (pid,) in connection.execute(SQL["holder_of_lock"], (LOCKS, run)).fetchall():
            connection.execute(SQL["terminate"], (pid,))
        until = elapsed() + 1.0
        while not try_lock(connection, run):
            if elapsed() > until:
                return False
            time.sleep(0.02)
        lock(connection, run, epoch, lease, locked=True)
    except psycopg.Error:
        return False
    return True


def lock(connection: Connection, run: int, epoch: int, lease: Lease, *, locked: bool) -> None:
    """Write down whether the owner's session holds the lock; renews the lease.

    Raises:
        RunTakenOver: The run has another owner by now.
        psycopg.Error: The server refused.
    """
    asked_at = elapsed()
    values = (run, epoch, locked, timedelta(seconds=lease.lease_s))
    if connection.execute(SQL["locked"], values).rowcount:
        lease.extend(asked_at)


def release(connection: Connection, tenure: Tenure, applied: int) -> None:
    """Give a run back.

    Raises:
        psycopg.Error: The server refused; then the lease ends by itself.
    """
    with connection.transaction():
        if connection.execute(SQL["release"], (tenure.run, tenure.epoch)).rowcount:
            connection.execute(SQL["end_tenure"], (tenure.run, tenure.epoch, applied))


class Heartbeat:
    """Renews a lease from a thread of its own until it is stopped, or the run has another owner.

    Args:
        connect: Makes its connection, again when that is lost.
        tenure: What is renewed.
        lease: Told of it.
    """

    def __init__(self, connect: Callable[[], Connection], tenure: Tenure, lease: Lease) -> None:
        self._connect = connect
        self._tenure = tenure
        self._lease = lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="bulkgrok-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Renew no more."""
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        connection: Connection | None = None
        wait_s = self._lease.lease_s / _RENEWALS
        while not self._stopped.wait(wait_s) and not self._lease.lost:
            wait_s = self._lease.lease_s / _RENEWALS
            try:
                if connection is None or connection.closed:
                    connection = self._connect()
                self._renew(connection)
            except psycopg.Error:
                wait_s = min(1.0, wait_s)
                if connection is not None:
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()

    def _renew(self, connection: Connection) -> None:
        asked_at = elapsed()
        values = (self._tenure.run, self._tenure.epoch, timedelta(seconds=self._lease.lease_s))
        if connection.execute(SQL["renew"], values).rowcount:
            self._lease.extend(asked_at)
        else:
            self._lease.lost = True


def heartbeat(url: DatabaseUrl, tenure: Tenure, lease: Lease) -> Heartbeat:
    """Start to renew a lease."""
    return Heartbeat(lambda: connect(url), tenure, lease)
