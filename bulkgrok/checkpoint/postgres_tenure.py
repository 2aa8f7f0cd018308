"""Who may act on a run: one runner at a time, by an epoch that every writing transaction verifies, and a lease.

Law: a run is taken over at once where its runner is gone (its advisory lock is free), and where its lease is over; each
owner has an epoch of its own, and what an earlier one still tries to write is refused by the database. A runner that
cannot tell whether its lease still holds sends nothing: `Lease` answers that without asking anybody. Time is the
server's; of the local clock only how long ago something was asked for is used.

The lease is renewed by a thread of its own, over a connection of its own: neither a busy event loop nor a long
transaction ends it. A process that is stopped, or whose connection is gone, does lose it. A lock is also freed by a
server that restarts, or by an administrator, while its runner is alive: so an owner believes in its lease for much
shorter than it lasts, and whoever takes over from a process that may be alive waits for so long before it acts.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg

from bulkgrok.checkpoint.postgres_connecting import Connection, connect
from bulkgrok.checkpoint.postgres_schema import LOCKS
from bulkgrok.checkpoint.statements import load
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import RunLocked, RunTakenOver

SQL: Final = load("postgres_tenure.sql")
LEASE_S: Final = 15.0
#: The part of a lease that its owner believes in after it was renewed, and the part after which it is renewed again.
_BELIEVED: Final = 0.3
_RENEWED: Final = 1 / 15
#: Beyond a lease, what a runner that hung may still need to hand in an answer it had in hand.
_GRACE_S: Final = 10.0
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
        self._until = max(self._until, asked_at + self.believed_s)

    def suspend(self) -> None:
        """Note that a connection was lost, and with it perhaps the lock: it holds again when it was renewed."""
        self._until = 0.0

    @property
    def believed_s(self) -> float:
        """For how long after a renewal its owner believes in it."""
        return _BELIEVED * self.lease_s

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


def _scope() -> str:
    """Return within what a process number means one process: this boot of this machine, a namespace of processes."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _is_dead(owner: str, scope: str | None) -> bool:
    """Tell whether a runner was a process of this machine that is certainly no more."""
    number = owner.split()[1]
    if not scope or scope != _scope() or not number.isdigit():
        return False
    try:
        status = Path(f"/proc/{number}/stat").read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[:1] == [b"Z"]  # killed, and not yet waited for


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
        epoch, owner, had_lock, leased, left_s, applied, scope = found
        gone = locked and had_lock  # its session held the lock, and holds it no more
        if owner is not None and leased and not gone:
            raise _locked(url, owner, left_s)
        connection.execute(SQL["end_tenure"], (run, epoch, applied))
        connection.execute(SQL["begin_tenure"], (run, epoch + 1, owner_name()))
        lasts = timedelta(seconds=lease.lease_s)
        connection.execute(SQL["take"], (run, epoch + 1, owner_name(), locked, lasts, _scope()))
    if owner is not None and leased and not _is_dead(owner, scope):
        renewed_ago_s = max(0.0, lease.lease_s - left_s)
        time.sleep(max(0.0, lease.believed_s - renewed_ago_s))
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
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._beat, name="bulkgrok-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Renew no more. A server that does not answer holds nobody up."""
        self._stopped.set()
        self._wake.close()
        self._thread.join(_GRACE_S)
        if not self._thread.is_alive():
            self._woken.close()

    def _beat(self) -> None:
        connection: Connection | None = None
        while not self._stopped.is_set() and not self._lease.lost:
            try:
                if connection is None:
                    connection = self._connect()
                self._renew(connection)
                if self._cut_off(connection):
                    connection.close()
                    connection = None
            except psycopg.Error:
                self._lease.suspend()
                if connection is not None:
                    connection.close()
                    connection = None
                self._stopped.wait(_RENEWED * self._lease.lease_s)
        if connection is not None:
            connection.close()

    def _cut_off(self, connection: Connection) -> bool:
        """Wait until it is time to renew; tell whether the connection ended meanwhile, which is noticed at once."""
        theirs = connection.fileno()
        ready, _, _ = select.select([self._woken.fileno(), theirs], [], [], _RENEWED * self._lease.lease_s)
        if theirs not in ready:  # nobody sends anything on it unasked, but its end
            return False
        self._lease.suspend()
        return True

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
