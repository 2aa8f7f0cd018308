"""From a path to a connection on which every promise was verified.

Law: each setting is made by a statement of its own and read back, because SQLite ignores what it does not like. A file
is looked at before anything in it is changed; one that is not ours or of a newer version is left as it was found.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import apsw

from bulkgrok.checkpoint.filesystem import examine
from bulkgrok.checkpoint.mark import Mark
from bulkgrok.checkpoint.mishaps import damaged, lacks_room, mapped, storage_failed, system_failed
from bulkgrok.checkpoint.sealing import RESERVED_BYTES, sealed
from bulkgrok.checkpoint.statements import load
from bulkgrok.checkpoint.tally import Tally
from bulkgrok.core.errors import RunMismatch, StorageFailed, UsageError

SEALED: Final = "sealed"
"""The fact that tells that pages carry checksums: were the header damaged where it says so, none would be verified."""
APPLICATION_ID: Final = 0x62676B31
"""The letters bgk1, at byte 68 of the file."""
VERSION: Final = 2
OLDEST: Final = 1
"""The oldest version that can be brought up to this one, see `migrating`."""

_FIXED_WAL_RESET: Final = 3_051_003
"""SQLite 3.51.3: before it, a second connection could damage the file while the log began anew."""
_BUSY_MS: Final = 5_000
_CHECK_S: Final = 0.2
"""Longest time for the check after a crash: it finds damage early in the file, and a resume must not wait for it. The
checksums find damage of any page when it is read."""
_CHECK_STEPS: Final = 200
"""How many pages, or steps of SQLite's machine, are taken between two looks at the clock."""
_BLOCK_BYTES: Final = 1 << 20
_PAGE_BYTES: Final = 16_384
_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"

# What a wal holds when a runner left in order: nothing. Pages are large because answers are: half the writes of 4 kB.
_SETTINGS: Final[tuple[tuple[str, object, object], ...]] = (
    ("page_size", _PAGE_BYTES, _PAGE_BYTES),
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("wal_autocheckpoint", 1_000, 1_000),
    ("journal_size_limit", 67_108_864, 67_108_864),
    ("foreign_keys", "ON", 1),
    ("trusted_schema", "OFF", 0),
    ("cell_size_check", "ON", 1),
    ("mmap_size", 0, 0),
    ("temp_store", "MEMORY", 2),
    ("cache_size", -16_000, -16_000),
    ("auto_vacuum", "NONE", 0),
)
_MAC_SETTINGS: Final = (("fullfsync", "ON", 1), ("checkpoint_fullfsync", "ON", 1))


def connect(path: Path, mark: Mark) -> tuple[apsw.Connection, list[str]]:
    """Open or create a checkpoint for writing; return the connection and warnings.

    Its log is left as it is (`keep_log`) until the caller has found that nothing is missing.

    Raises:
        StorageFailed: It cannot be opened, cannot be made safe, or is damaged.
        RunMismatch: It was written by a newer version.
        UsageError: It is another program's database.
    """
    warnings = examine(path.parent)
    with mapped(path):
        _refuse_strange(path)
        _create(path)
        unclean = _size(path.with_name(path.name + "-wal")) > 0
        if unclean:
            _write_anew(path.with_name(path.name + "-wal"))
        elif _never_made(path):
            mark.verify(0)
            os.truncate(path, 0)
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=sealed())
    try:
        with mapped(path):
            connection.set_busy_timeout(_BUSY_MS)
            keep_log(connection, keep=True)
            known = _verify_ours(connection, path)
            if not known:
                mark.verify(0)
                connection.reserve_bytes("main", RESERVED_BYTES)
            _settle(connection, path)
            if known and unclean:
                _check(connection, path)
            if not known:
                _make_tables(connection)
                sync_folder(path.parent)
                sync_folder(path.parent.parent)
    except BaseException:
        with suppress(apsw.Error):
            connection.close(True)
        raise
    return connection, warnings


def keep_log(connection: apsw.Connection, *, keep: bool) -> None:
    """Tell whether closing leaves the log as it is; SQLite would wind it up, and one that is damaged is evidence."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keep))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A connection that reads, and what must be known of it."""

    connection: apsw.Connection
    copied_to: Path | None = None
    """A folder to remove afterwards."""
    at_rest: tuple[int, ...] | None = None
    """The file's marks where it is read without locks, because no runner has it; they must stay what they are."""


def marks(path: Path) -> tuple[int, ...]:
    """Return what changes whenever a file does."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def connect_read_only(path: Path) -> Reader:
    """Open a checkpoint for reading, without disturbing a runner and without leaving a trace.

    A run that ended in order is read without locks; SQLite would leave files beside it otherwise. Where the folder
    cannot be written and a log must be read, a private copy is opened.

    Raises:
        StorageFailed: It is not there, cannot be read, or is damaged.
        RunMismatch: It was written by a newer version.
        UsageError: It is another program's database.
    """
    if not path.exists():
        msg = f"The checkpoint {path} is not there."
        raise StorageFailed(msg, hint="Name the run directory, or the file that --checkpoint named.")
    try:
        if not path.with_name(path.name + "-wal").exists():
            return _open_at_rest(path)
        return Reader(connection=_open_to_read(path, "mode=ro"))
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.BusyError) as error:
        first = storage_failed(path, error)
    except apsw.Error as error:
        first = storage_failed(path, error)
        if not lacks_room(error):
            raise first from error
    try:
        return _open_copy(path)
    except (apsw.Error, OSError):
        raise first from None


def _open_to_read(path: Path, options: str) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(os.fspath(path.absolute()))}?{options}", flags=flags, vfs=sealed())
    try:
        connection.set_busy_timeout(_BUSY_MS)
        for name, value in (("query_only", 1), ("trusted_schema", 0), ("cell_size_check", 1), ("mmap_size", 0)):
            connection.execute(f"PRAGMA {name} = {value}")
        connection.execute("BEGIN")  # one moment for all that is read
        _refuse_empty(path, known=_verify_ours(connection, path))
    except BaseException:
        with suppress(apsw.Error):
            connection.close(True)
        raise
    return connection


def _refuse_empty(path: Path, *, known: bool) -> None:
    if not known:
        msg = f"The checkpoint {path} is empty: its run has not begun."
        raise StorageFailed(msg, hint="Type the command of the run again.")


def _open_at_rest(path: Path) -> Reader:
    before = marks(path)
    return Reader(connection=_open_to_read(path, "mode=ro&immutable=1"), at_rest=before)


def _open_copy(path: Path) -> Reader:
    log = path.with_name(path.name + "-wal")
    if _size(log) == 0:
        return _open_at_rest(path)
    folder = Path(tempfile.mkdtemp(prefix="bulkgrok-"))
    try:
        copy = folder / "checkpoint.db"
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name("checkpoint.db-wal"))
        return Reader(connection=_open_to_read(copy, "mode=ro"), copied_to=folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _refuse_strange(path: Path) -> None:
    """Refuse what SQLite would write through, or over, because it lies where its files are."""
    if path.is_symlink():
        msg = f"The checkpoint {path} is a symbolic link. Nothing was sent."
        raise StorageFailed(msg, hint="Name the file itself: --checkpoint PATH")
    for suffix in ("-shm", "-journal"):
        beside = path.with_name(path.name + suffix)
        with suppress(FileNotFoundError):
            found = beside.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                msg = f"{beside} is no file of a checkpoint, or has a second name. Nothing was sent."
                raise StorageFailed(msg, hint="Remove it, then type the same command again.")


def _create(path: Path) -> None:
    """Create the file so that only its owner can read it: it holds prompts and answers.

    An existing file is not opened here: closing it again would drop the locks of this process on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _never_made(path: Path) -> bool:
    """Tell whether a file is what a power cut left of the first page, before there was anything else in it.

    That page may be torn, also so that its beginning alone is missing. One that is whole tells of no application, no
    version and no table.
    """
    if not 0 < _size(path) <= _PAGE_BYTES:
        return False
    page = path.read_bytes()
    begun = page[:16] == _MAGIC and page[16:18] == (_PAGE_BYTES).to_bytes(2) and page[20] == RESERVED_BYTES
    return not any(page[:_HEADER_BYTES]) or (
        begun and not any(page[60:64]) and not any(page[68:72]) and not any(page[103:105])
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _verify_ours(connection: apsw.Connection, path: Path) -> bool:
    """Return whether the file is a checkpoint of this version or an older one; False for an empty one."""
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application == 0 and version == 0 and not tables:
        return False
    if application != APPLICATION_ID:
        msg = f"{path} is a database of another program and is left as it is. Nothing was sent."
        raise UsageError(msg, hint="Name another place with --checkpoint.")
    if not isinstance(version, int) or version > VERSION:
        msg = (
            f"{path} has checkpoint version {version} of a newer bulkgrok; this one knows {VERSION}. Nothing was sent."
        )
        raise RunMismatch(msg, hint="Upgrade: pip install -U bulkgrok")
    if version < OLDEST:
        msg = f"{path} has no known version ({version}). Nothing was sent."
        raise StorageFailed(msg, hint="Restore a backup over it, or start afresh with -o OTHER.jsonl.")
    return True


def _settle(connection: apsw.Connection, path: Path) -> None:
    """Make every setting and read it back."""
    alone = apsw.SQLITE_VERSION_NUMBER < _FIXED_WAL_RESET or _library_version() < _FIXED_WAL_RESET
    mode = "EXCLUSIVE" if alone else "NORMAL"
    settings = (("locking_mode", mode, mode.lower()), *_SETTINGS)
    if sys.platform == "darwin":
        settings += _MAC_SETTINGS
    for name, value, expected in settings:
        connection.execute(f"PRAGMA {name} = {value}")
        found = connection.pragma(name)
        if found != expected and not (name == "mmap_size" and found is None):
            msg = f"The checkpoint {path} cannot be made safe here: {name} is {found!r} and must be {expected!r}."
            raise StorageFailed(msg, hint="Name a place on a local disk: --checkpoint PATH")


def _library_version() -> int:
    major, minor, patch = (int(part) for part in apsw.sqlite_lib_version().split("."))
    return major * 1_000_000 + minor * 1_000 + patch


def _check(connection: apsw.Connection, path: Path) -> None:
    """Look for damage after a crash, for a bounded time."""
    ends_at = time.monotonic() + _CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > ends_at, _CHECK_STEPS)
    try:
        found = connection.execute("PRAGMA quick_check(1)").get
    except apsw.InterruptError:
        return
    finally:
        connection.set_progress_handler(None)
    if found != "ok":
        raise damaged(path, str(found))


def _write_anew(log: Path) -> None:
    """Write the log that an earlier run left once more, as it is, and flush it.

    After a flush that failed, an operating system may still show bytes that are nowhere on the disk. What is built on
    them, in the log behind them or in the file, would be torn from them by the next power cut.
    """
    fd = os.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        at = 0
        while block := os.pread(fd, _BLOCK_BYTES, at):
            at += os.pwrite(fd, block, at)
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_tables(connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in load("schema.sql").values():
            connection.execute(statement)
        connection.execute("INSERT INTO tally (one, value) VALUES (1, ?)", (Tally().dumps(),))
        connection.execute("INSERT INTO fact (key, value) VALUES (?, 'true')", (SEALED,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except apsw.Error:
        with suppress(apsw.Error):  # what SQLite did itself cannot be done again, and is not what went wrong
            connection.execute("ROLLBACK")
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        StorageFailed: The disk refused.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # not ours, so nothing of ours was made in it
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {22, 95}:  # EINVAL, EOPNOTSUPP: a file system that needs no flushing of folders
            raise system_failed(folder, error) from error
    finally:
        os.close(fd)
