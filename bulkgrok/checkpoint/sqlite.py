"""The checkpoint in one SQLite file.

Law: changes of one `apply` are one transaction, flushed to the disk when it returns; after an error of the disk nothing
is written any more, because what it then holds is not known until the file is opened again. Every exception of SQLite
leaves as StorageFailed. One writer; readers may look on at any time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import apsw

from bulkgrok.checkpoint import migrating
from bulkgrok.checkpoint.connecting import SEALED, VERSION, connect, connect_read_only, keep_log, marks, sync_folder
from bulkgrok.checkpoint.filereading import FileReading
from bulkgrok.checkpoint.mark import Mark
from bulkgrok.checkpoint.mishaps import breaks_for_good, damaged, mapped, storage_failed
from bulkgrok.checkpoint.reading import IDENTITY
from bulkgrok.checkpoint.recent import Recent
from bulkgrok.checkpoint.sealing import RESERVED_BYTES
from bulkgrok.checkpoint.statements import load
from bulkgrok.checkpoint.tally import Tally
from bulkgrok.checkpoint.values import TTL, stored_identity
from bulkgrok.checkpoint.writing import Writing
from bulkgrok.core import failpoints
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import Change
from bulkgrok.core.model import Position, RunIdentity, Settled

_SQL: Final = load("writes.sql")


class SqliteStore(FileReading):
    """One run's checkpoint in a file.

    Args:
        path: The file; created when it is not there.
        read_only: Only look at it, as it stood when it was opened.
    """

    #: One runner a file: a lock on it sees to that.
    lease: Final = None
    unclear_s: Final = 0.0

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(path)
        self.warnings: list[str] = []
        """What a user should know about the place, in words. Filled by `open`."""
        self.version = VERSION
        """What the file was when it was opened."""
        self._read_only = read_only
        self._mark = Mark(path)
        self._copied_to: Path | None = None
        self._at_rest: tuple[int, ...] | None = None
        self._writing: Writing | None = None
        self._recent = Recent()
        self._broken: StorageFailed | None = None

    @property
    def spill_place(self) -> Path | None:
        """The file: what it could not take goes beside it."""
        return self.path

    def retire(self) -> None:
        """Do nothing: whoever replaces a run removes its file."""

    @property
    def outdated(self) -> bool:
        """Whether the file was of an older version when it was opened."""
        return self.version < VERSION

    def open(self) -> None:
        """Create or open; verify version, integrity after a crash and every durability setting.

        Raises:
            StorageFailed: It cannot be opened or is damaged.
            RunMismatch: It was written by a newer version.
            UsageError: It is another program's database.
        """
        if self._open_connection is not None:
            return
        self._mark.read()
        if _size(self.path) == 0:
            self._mark.verify(0)
        try:
            self._connect()
            self._mark.verify(self._groups())
            self._refuse_unsealed()
            if not self._read_only:
                keep_log(self._connection, keep=False)
            self._bring_up()
            if not self._read_only:
                self._writing = Writing(self._connection, self.stored(), self._last_seq())
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        if self._read_only:
            reader = connect_read_only(self.path)
            self._open_connection, self._copied_to, self._at_rest = reader.connection, reader.copied_to, reader.at_rest
        else:
            self._open_connection, self.warnings = connect(self.path, self._mark)
            self._broken = None

    def _refuse_unsealed(self) -> None:
        """Refuse a file whose header denies the checksums that it was made with."""
        with mapped(self.path):
            reserved = self._connection.reserve_bytes("main")
        if reserved != RESERVED_BYTES and self.recall(SEALED):
            raise damaged(self.path, "its header is not what was written")

    def _groups(self) -> int:
        """Return how many groups of changes the file holds, of whatever version it is."""
        found = self._first("tally")
        return self._made(lambda columns: int(json.loads(columns[0]).get("groups", 0)), found)

    def _bring_up(self) -> None:
        """Make a checkpoint of an older version one of this, or for a reader let it look like one."""
        with mapped(self.path):
            self.version = int(self._connection.pragma("user_version"))
        if self.version == VERSION:
            return
        if self._read_only:
            migrating.show(self._connection, self.path, found=self.version, wanted=VERSION)
        else:
            note = migrating.migrate(self._connection, self.path, found=self.version, wanted=VERSION)
            self.warnings.append(note)

    def close(self) -> None:
        """Release files and locks. Harmless when nothing is open."""
        connection, self._open_connection, self._writing = self._open_connection, None, None
        self._recent.forget()
        if connection is not None:
            # What a failing disk says now changes nothing: all that was acknowledged is in the log.
            with suppress(apsw.Error):
                connection.close(True)
        if self._copied_to is not None:
            shutil.rmtree(self._copied_to, ignore_errors=True)
            self._copied_to = None
        self._mark.close()

    def _all(self, statement: str, *parameters: object) -> list[Any]:
        try:
            found = super()._all(statement, *parameters)
        except StorageFailed:
            self._refuse_moved()  # then what was read was no damage
            raise
        self._refuse_moved()
        return found

    def _refuse_moved(self) -> None:
        """Refuse what was read without locks if the file was written to meanwhile."""
        if self._at_rest is not None:
            with mapped(self.path):
                if marks(self.path) != self._at_rest:
                    msg = f"The checkpoint {self.path} was written to while it was read."
                    raise StorageFailed(msg, hint="Type the command again.")

    # Changes

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply all changes in order in one durable transaction, or none.

        Raises:
            StorageFailed: The disk refused; nothing was applied.
            ValueError: The lifecycle table does not allow one of them; nothing was applied.
        """
        if not changes:
            return
        writing = self._transact(lambda writing: writing.write(changes))
        failpoints.hit("store.after-commit")
        self._mark.write(writing.tally.groups)

    def _transact(self, work: Callable[[Writing], object]) -> Writing:
        """Do something in one durable transaction, or nothing of it.

        The disk may be full of this file's own log: then that is wound up, and it is tried once more.
        """
        try:
            return self._attempt(work)
        except StorageFailed as error:
            if not isinstance(error.__cause__, apsw.FullError) or not self._shrunk():
                raise
            return self._attempt(work)

    def _attempt(self, work: Callable[[Writing], object]) -> Writing:
        connection, writing = self._connection, self._writing
        if self._broken is not None:
            raise self._broken
        if writing is None:
            msg = f"The checkpoint {self.path} was opened to be read only."
            raise StorageFailed(msg)
        tally, seq = writing.tally.copy(), writing.seq
        try:
            connection.execute("BEGIN IMMEDIATE")
            work(writing)
            failpoints.hit("store.before-commit")
            connection.execute("COMMIT")
        except BaseException as error:
            writing.undo(tally, seq)
            self._roll_back(connection)
            if not isinstance(error, apsw.Error):
                raise
            failed = storage_failed(self.path, error)
            if breaks_for_good(error):
                self._broken = failed
            raise failed from error
        if writing.answered:
            self._recent.add(writing.answered)
            writing.answered = []
        return writing

    def _shrunk(self) -> bool:
        """Wind up the log; return whether that made room."""
        log = self.path.with_name(self.path.name + "-wal")
        before = _size(log)
        self.wind_up()
        return _size(log) < before

    def _roll_back(self, connection: apsw.Connection) -> None:
        """Undo what is left of a transaction; SQLite may have done so by itself."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except apsw.Error as error:
            self._broken = storage_failed(self.path, error)

    def _tally(self) -> Tally:
        return self.stored() if self._writing is None else self._writing.tally

    # Outbox

    def outbox(self, after: int, limit: int) -> list[Settled]:
        """At most `limit` successes with seq > after, in order; fewer when they are large, or others follow them."""
        return self._recent.after(after, limit) or super().outbox(after, limit)

    # Positions and facts

    def advance(self, sink: str, position: Position) -> None:
        """Store a sink's position durably. Called after the sink's own bytes are durable."""
        values = (sink, position.seq, json.dumps(dict(position.state)))
        self._transact(lambda _: self._connection.execute(_SQL["advance"], values))

    def bind(self, identity: RunIdentity) -> None:
        """Store the identity, replacing an older one."""
        self.note(IDENTITY, stored_identity(identity))

    def note(self, key: str, value: object) -> None:
        """Store a JSON value durably under a key."""
        values = (key, json.dumps(value))
        self._transact(lambda _: self._connection.execute(_SQL["note"], values))

    def keep_for(self, ttl_s: float) -> None:
        """Note how long results are kept, and move the deadlines of what is accepted along."""
        before = self.recall(TTL)
        if before == ttl_s:
            return
        moved_s = ttl_s - before if isinstance(before, float) else 0.0

        def move(_: Writing) -> None:
            self._connection.execute(_SQL["move_deadlines"], (moved_s,))
            self._connection.execute(_SQL["note"], (TTL, json.dumps(ttl_s)))

        self._transact(move)

    # Upkeep

    def wind_up(self) -> None:
        """Bring the log into the file, as far as readers and the disk allow. Nothing depends on it."""
        if self._broken is not None:
            return
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except (apsw.BusyError, apsw.FullError):
            pass
        except apsw.Error as error:
            if breaks_for_good(error):
                self._broken = storage_failed(self.path, error)

    def write_back(self) -> bool:
        """Write the file again where somebody removed it; tell whether that was done.

        Not where it was moved away or another file was put in its place: there must not be two checkpoints of one run.
        """
        if self._writing is None or self.path.exists() or self._mark.went_along():
            return False
        draft = self.path.with_name(self.path.name + ".tmp")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._connection.execute("VACUUM INTO ?", (str(draft),))
                os.fsync(fd)
            finally:
                os.close(fd)
            for suffix in ("-wal", "-shm"):  # of the file that was removed: no part of the new one
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            draft.rename(self.path)
            sync_folder(self.path.parent)
            sync_folder(self.path.parent.parent)
        except (apsw.Error, OSError, StorageFailed):
            return False
        self._mark.close()
        self._mark.write(self._writing.tally.groups)
        return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
