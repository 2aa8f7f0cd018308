"""An older checkpoint becomes one of this version: copied, changed in one transaction, counted before and after.

Law: a crash at any point leaves the old version, perhaps with a copy beside it, or the new one with the copy. Nothing
is changed where the sums of the old one do not add up, and nothing stays changed where those of the new one do not.
Whoever only looks sees an older checkpoint as if it had been changed; then nothing is written.

A step from version n to n + 1 is a module `from_version_n` with its SQL beside it and a line in STEPS. It never changes
once there is a version n + 1 out there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw

from bulkgrok.checkpoint import from_version_1
from bulkgrok.checkpoint.filereading import FileReading
from bulkgrok.checkpoint.mishaps import damaged, mapped
from bulkgrok.core import failpoints
from bulkgrok.core.errors import StorageFailed

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What makes version n + 1 of version n."""

    damage: Callable[[apsw.Connection], str | None]
    """Tells what does not add up in version n."""
    kept: Callable[[apsw.Connection], object]
    """What must be the same before and after."""
    upgrade: Callable[[apsw.Connection], None]
    """Changes the tables, inside a transaction."""
    show: Callable[[apsw.Connection], None]
    """Puts temporary views before the tables, for a connection that only reads."""


#: version -> what makes the next one of it.
STEPS: Final[Mapping[int, Step]] = {
    1: Step(
        damage=from_version_1.damage,
        kept=from_version_1.kept,
        upgrade=from_version_1.upgrade,
        show=from_version_1.show,
    ),
}


def show(connection: apsw.Connection, path: Path, *, found: int, wanted: int) -> None:
    """Let a connection that only reads see an older checkpoint as one of the wanted version.

    Raises:
        StorageFailed: It is damaged.
    """
    with mapped(path), _understood(path):
        connection.execute("PRAGMA query_only = 0")  # what follows is temporary
        for version in range(found, wanted):
            STEPS[version].show(connection)
        connection.execute("PRAGMA query_only = 1")


def migrate(connection: apsw.Connection, path: Path, *, found: int, wanted: int) -> str:
    """Bring a checkpoint to the wanted version; return what a user should know of it.

    Raises:
        StorageFailed: The disk refused, or it is damaged. It is as it was.
    """
    try:
        with mapped(path):
            with _understood(path):
                damage = STEPS[found].damage(connection)
            if damage is not None:
                raise damaged(path, damage)
            copy = _keep_copy(connection, path, version=found)
            failpoints.hit("migration.copied")
            _change(connection, path, found=found, wanted=wanted)
    except StorageFailed as error:
        message = f"{error.message} It was to be brought from version {found} to {wanted}, and is as it was."
        raise StorageFailed(message, hint=error.hint) from error
    failpoints.hit("migration.committed")
    return f"the checkpoint was brought from version {found} to {wanted}; the old one is kept as {copy}"


def _change(connection: apsw.Connection, path: Path, *, found: int, wanted: int) -> None:
    """Do all steps in one transaction, and keep what they did only if everything adds up."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        _go(connection, path, found=found, wanted=wanted)
        connection.execute(f"PRAGMA user_version = {wanted}")
        failpoints.hit("migration.verified")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def _go(connection: apsw.Connection, path: Path, *, found: int, wanted: int) -> None:
    with _understood(path):
        for version in range(found, wanted):
            step = STEPS[version]
            before = step.kept(connection)
            step.upgrade(connection)
            if step.kept(connection) != before:
                raise damaged(path, f"version {version + 1} does not hold what version {version} did")
    failpoints.hit("migration.changed")
    reading = FileReading(path, connection)
    if reading.recounted() != reading.stored():
        raise damaged(path, f"the sums of version {wanted} are not those of its rows")


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Map what comes of columns that hold what was never written."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


# The copy


def _keep_copy(connection: apsw.Connection, path: Path, *, version: int) -> Path:
    """Copy the checkpoint durably; return the copy, which may be one that an earlier try made."""
    for copy in _names(path, version):
        if copy.exists():
            if _is_copy(connection, copy):
                return copy
            continue
        partial = copy.with_name(f"{copy.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.close(os.open(partial, _FLAGS, 0o600))
            connection.execute("VACUUM INTO ?", (os.fspath(partial),))
            failpoints.hit("migration.copying")
            _sync(partial, os.O_RDWR)
            partial.rename(copy)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        return copy
    raise AssertionError


def _names(path: Path, version: int) -> Iterator[Path]:
    """Yield names for the copy: one that is there and is another's is never overwritten."""
    yield path.with_name(f"{path.name}.v{version}.backup")
    for number in count(2):
        yield path.with_name(f"{path.name}.v{version}.backup-{number}")


def _is_copy(connection: apsw.Connection, copy: Path) -> bool:
    """Tell whether a file holds the same as the checkpoint."""
    with suppress(apsw.Error):
        other = apsw.Connection(
            f"file:{quote(os.fspath(copy.absolute()))}?mode=ro&immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        try:
            return _marks(other) == _marks(connection) and other.execute("PRAGMA integrity_check(1)").get == "ok"
        finally:
            other.close(True)
    return False


def _marks(connection: apsw.Connection) -> list[Any]:
    """Return what differs between two moments of a run."""
    return [
        connection.pragma("application_id"),
        connection.pragma("user_version"),
        connection.execute("SELECT value FROM tally").get,
        *(connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("fact", "sink")),  # noqa: S608 - two names
    ]


def _sync(place: Path, flags: int) -> None:
    fd = os.open(place, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
