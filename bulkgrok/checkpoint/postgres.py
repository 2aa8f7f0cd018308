"""The checkpoint in PostgreSQL: many runs in one database, for workers whose disk does not last.

Law: changes of one `apply` are one transaction, durable on the server when it returns; a group's changes are worked out
on whole rows (`changing`), read and written back in two round trips. Every exception of the driver leaves as ours.
A runner that was taken over changes nothing, but an answer that it had in hand is still entered where its row waits for
that very answer: it was consumed on the API's side, and nobody else can have it.

A lost connection is made again for as long as `patience_s`; then the run is over, and what is in flight goes to a spill
file in the run directory (see `rescue`).

postgres_session     the connection, its transactions, and what became of one whose reply was lost
postgres_tenure      who owns a run: epoch, lease, advisory lock
postgres_rows        rows in and out
postgres_connecting  settings that durability depends on
postgres_schema      the tables and their versions
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg

from bulkgrok.checkpoint import postgres_rows as rows
from bulkgrok.checkpoint.changing import Changing, change_row
from bulkgrok.checkpoint.postgres_connecting import Connection
from bulkgrok.checkpoint.postgres_reading import PostgresReading
from bulkgrok.checkpoint.postgres_rows import SQL, Loaded
from bulkgrok.checkpoint.postgres_session import PATIENCE_S, Observer, Session, Sums, key_of
from bulkgrok.checkpoint.postgres_tenure import LEASE_S, Lease
from bulkgrok.checkpoint.reading import IDENTITY
from bulkgrok.checkpoint.rows import weigh
from bulkgrok.checkpoint.tally import Tally
from bulkgrok.checkpoint.values import TTL, stored_identity
from bulkgrok.core import failpoints
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import RunTakenOver, StorageFailed
from bulkgrok.core.lifecycle import Accept, Change, Redeem, State
from bulkgrok.core.model import Position, RunIdentity


class PostgresStore(PostgresReading):
    """One run's checkpoint in a database.

    Args:
        url: The database.
        run_id: The run's name in it.
        scratch: A folder for what the database could not take; None for none.
        read_only: Only look at it, as it stood when it was opened.
        lease_s: For how long the run stays this runner's without being renewed.
        patience_s: For how long a lost connection is tried again.
    """

    def __init__(  # noqa: PLR0913 - the place, and how patient one is
        self,
        url: DatabaseUrl,
        run_id: str,
        *,
        scratch: Path | None = None,
        read_only: bool = False,
        lease_s: float = LEASE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(url)
        self.warnings: list[str] = []
        """What a user should know about the place, in words. Filled by `open`."""
        self._run_id = run_id
        self._scratch = scratch
        self._read_only = read_only
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._open_session: Session | None = None

    outdated: Final = False
    """Tables of an older version are brought up to date by the first runner that opens them, for all runs."""

    def open(self) -> None:
        """Connect; make or verify the tables and every durability setting; become the run's owner.

        Raises:
            UsageError: Address, login or settings cannot be used.
            StorageFailed: The server is away or refused.
            RunMismatch: The tables are of a newer version.
            RunLocked: Another runner owns the run.
        """
        if self._open_access is not None:
            return
        if self._read_only:
            self._open_access = Observer(self.url, self._run_id)
            return
        session = Session(self.url, self._run_id, lease_s=self._lease_s, patience_s=self._patience_s)
        try:
            self.warnings = session.open()
        except BaseException:
            session.close()
            raise
        self._open_access = self._open_session = session

    def close(self) -> None:
        """Give the run back and let go of the connection. Harmless when nothing is open."""
        access, self._open_access, self._open_session = self._open_access, None, None
        if isinstance(access, Session | Observer):
            access.close()

    @property
    def lease(self) -> Lease | None:
        """What tells whether the run is still this runner's."""
        return None if self._open_session is None else self._open_session.lease

    @property
    def unclear_s(self) -> float:
        """For how long after the opening an earlier runner may still hand in an answer."""
        session = self._open_session
        return 0.0 if session is None or session.tenure is None else session.tenure.unclear_s

    @property
    def spill_place(self) -> Path | None:
        """Where what the database could not take goes, named after this very run."""
        session = self._open_session
        return None if session is None or self._scratch is None else self._scratch / session.mark

    @property
    def _session(self) -> Session:
        if self._open_session is None:
            what = "was opened to be read only" if self._read_only else "is not open"
            msg = f"The checkpoint {self.url} {what}."
            raise StorageFailed(msg)
        return self._open_session

    # Changes

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply all changes in order in one durable transaction, or none.

        Raises:
            RunTakenOver: Another runner owns the run; nothing was applied but what only this one had.
            StorageFailed: The server refused or stayed away; nothing was applied.
            ValueError: The lifecycle table does not allow one of them; nothing was applied.
        """
        if not changes:
            return
        session = self._session
        group = _Group(session.run, changes)
        try:
            session.transact(group.work, group.ask)
        except RunTakenOver:
            self._hand_in([change for change in changes if isinstance(change, Redeem)])
            raise
        failpoints.hit("store.after-commit")

    def _hand_in(self, answers: Sequence[Redeem]) -> None:
        """Enter answers although the run is another runner's, where rows still wait for them."""
        session = self._session
        for answer in answers:
            if answer.request_id is not None:
                session.read(partial(_salvage, run=session.run, answer=answer))

    def _transact(self, work: Callable[[Connection], object]) -> None:
        def alone(connection: Connection, _: Sums) -> None:
            work(connection)

        self._session.transact(alone)

    def _tally(self) -> Tally:
        return self.stored() if self._open_session is None else self._open_session.sums.tally

    # Positions and facts

    def advance(self, sink: str, position: Position) -> None:
        """Store a sink's position durably. Called after the sink's own bytes are durable."""
        values = (self._session.run, sink, position.seq, json.dumps(dict(position.state)))
        self._transact(lambda connection: connection.execute(SQL["advance"], values))

    def bind(self, identity: RunIdentity) -> None:
        """Store the identity, replacing an older one."""
        self.note(IDENTITY, stored_identity(identity))

    def note(self, key: str, value: object) -> None:
        """Store a JSON value durably under a key."""
        values = (self._session.run, key, json.dumps(value))
        self._transact(lambda connection: connection.execute(SQL["note"], values))

    def keep_for(self, ttl_s: float) -> None:
        """Note how long results are kept, and move the deadlines of what is accepted along."""
        before = self.recall(TTL)
        if before == ttl_s:
            return
        moved_s = ttl_s - before if isinstance(before, float) else 0.0
        run = self._session.run

        def move(connection: Connection) -> None:
            connection.execute(SQL["move_deadlines"], (run, moved_s))
            connection.execute(SQL["note"], (run, TTL, json.dumps(ttl_s)))

        self._transact(move)

    def retire(self) -> None:
        """Give the run another name, so that a new one can have this one: it was simulated, and is replaced."""
        session = self._session
        name = f"{self._run_id} (simulated, replaced; {session.mark})"
        values = (session.run, key_of(name), name)
        self._transact(lambda connection: connection.execute(SQL["rename"], values))

    # Upkeep

    def wind_up(self) -> None:
        """Do nothing: room is the server's affair."""

    def write_back(self) -> bool:
        """Tell that nothing was written: there is no file that could be removed."""
        return False


class _Group:
    """A group of changes: what is asked for it, and what is made of the answers."""

    def __init__(self, run: int, changes: Sequence[Change]) -> None:
        self._run = run
        self._changes = changes
        self._numbers = sorted({change_row(change) for change in changes})
        self._receipts = [change.request_id for change in changes if isinstance(change, Accept)]
        self._rows: psycopg.Cursor[tuple[Any, ...]] | None = None
        self._holders: psycopg.Cursor[tuple[Any, ...]] | None = None

    def ask(self, connection: Connection) -> None:
        """Ask for the rows, and for those that hold a receipt."""
        self._rows = connection.cursor(binary=True).execute(SQL["rows"], (self._run, self._numbers))
        self._holders = None
        if self._receipts:
            self._holders = connection.execute(SQL["holders"], (self._run, self._receipts))

    def work(self, connection: Connection, sums: Sums) -> None:
        """Apply the changes to the rows and write what came of them."""
        assert self._rows is not None  # noqa: S101 - it was asked
        loaded = Loaded.of(self._rows.fetchall())
        holders = {} if self._holders is None else dict(self._holders.fetchall())
        for row in loaded.rows.values():
            weigh(sums.tally, row, -1)
        changing = Changing(loaded.rows, seq=sums.seq, holder=_Holders(loaded, holders))
        for change in self._changes:
            changing.apply(change)
        for row in loaded.rows.values():
            weigh(sums.tally, row, 1)
        for entry in changing.ledger:
            sums.tally.enter_entry(entry)
        sums.seq = changing.seq
        with connection.pipeline():
            rows.store(connection, self._run, loaded.rows.values(), loaded)
            if changing.ledger:
                rows.enter(connection, self._run, changing.ledger)


class _Holders:
    """Tells which other row was given a request id: among the rows of a group as they are now, and among all others."""

    def __init__(self, loaded: Loaded, stored: dict[str, int]) -> None:
        self._loaded = loaded
        self._stored = stored
        self._given: set[str] = set(stored)

    def __call__(self, request_id: str, row: int) -> int | None:
        rows_here = self._loaded.rows
        if request_id in self._given:
            for other in rows_here.values():
                if other.row != row and other.request_id == request_id and other.deadline_at is not None:
                    return other.row
            holder = self._stored.get(request_id)
            if holder is not None and holder != row and holder not in rows_here:
                return holder
        self._given.add(request_id)
        return None


def _salvage(connection: Connection, *, run: int, answer: Redeem) -> None:
    """Enter one answer if its row still waits for it under the same receipt."""
    with connection.transaction():
        found = connection.execute(SQL["own"], (run,)).fetchone()
        loaded = Loaded.of(connection.cursor(binary=True).execute(SQL["rows"], (run, [answer.row])).fetchall())
        row = loaded.rows.get(answer.row)
        if found is None or row is None or row.state is not State.ACCEPTED or row.request_id != answer.request_id:
            return
        tally = Tally.loads(found[3])
        weigh(tally, row, -1)
        Changing(loaded.rows, seq=0, holder=lambda _request_id, _row: None).apply(answer)
        weigh(tally, row, 1)
        rows.store(connection, run, [row], loaded)
        connection.execute(SQL["salvaged"], (run, tally.dumps()))
