"""SQLite's and the operating system's errors end here and leave as StorageFailed, in words a user can act on.

Law: the message says what happened, where, what was not lost and what to do. Nothing is guessed or mended silently.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from bulkgrok.core.errors import StorageFailed

_SAFE: Final = "Every answer committed so far is kept."
_AGAIN: Final = "then type the same command again"
_DAMAGED: Final = (
    "Keep a copy of it and of its -wal file, then restore a backup over it or start afresh with -o OTHER.jsonl."
)

#: exception -> (what happened, what to do)
_WORDS: Final = {
    apsw.FullError: ("the disk is full", f"Make room on the disk, {_AGAIN}."),
    apsw.CorruptError: ("the file is damaged", _DAMAGED),
    apsw.SQLError: ("its tables are damaged", _DAMAGED),
    apsw.NotADBError: (
        "the file is no checkpoint, or its beginning is damaged",
        "Name another place with --checkpoint; if this was one, restore a backup over it.",
    ),
    apsw.ReadOnlyError: ("it may not be written", f"Allow this user to write the file and its folder, {_AGAIN}."),
    apsw.PermissionsError: ("it may not be written", f"Allow this user to write the file and its folder, {_AGAIN}."),
    apsw.CantOpenError: (
        "it cannot be opened",
        "Allow this user to read and write the file and its folder, or name another place with --checkpoint.",
    ),
    apsw.BusyError: ("another program holds it", f"End the program that has this file open, {_AGAIN}."),
    apsw.LockedError: ("another program holds it", f"End the program that has this file open, {_AGAIN}."),
    apsw.IOError: ("the disk reports an error", f"Check the disk (dmesg, df), {_AGAIN}."),
}


def storage_failed(path: Path, error: apsw.Error) -> StorageFailed:
    """Return SQLite's error in our words."""
    safe = "" if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.SQLError) else f" {_SAFE}"
    if lacks_room(error):
        error = apsw.FullError(str(error))
    for kind, (what, hint) in _WORDS.items():
        if isinstance(error, kind):
            return StorageFailed(f"The checkpoint {path}: {what} ({_detail(error)}).{safe}", hint=hint)
    return StorageFailed(f"The checkpoint {path}: {_detail(error)}. {_SAFE}", hint=f"Look at the cause, {_AGAIN}.")


def system_failed(path: Path, error: OSError) -> StorageFailed:
    """Return the operating system's error in our words."""
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    return StorageFailed(
        f"The checkpoint {path}: {reason}. {_SAFE}", hint="Mend it, or name another place with --checkpoint."
    )


def damaged(path: Path, detail: str) -> StorageFailed:
    """Return the error for a file whose tables hold what was never written."""
    return storage_failed(path, apsw.CorruptError(detail))


def lacks_room(error: apsw.Error) -> bool:
    """Tell whether the disk is full. SQLite has another name for that where the index of the log finds no room."""
    return isinstance(error, apsw.FullError) or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE


def breaks_for_good(error: apsw.Error) -> bool:
    """Tell whether nothing may be written after this error: after a failed flush, what the disk holds is not known."""
    return isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NotADBError)


def _detail(error: apsw.Error) -> str:
    name = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0) or 0)
    text = str(error).strip().replace("\n", "; ")[:500]
    return f"{name}: {text}" if isinstance(name, str) else text


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Map what SQLite and the operating system raise, and text that is no text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise damaged(path, str(error)) from error
    except apsw.Error as error:
        raise storage_failed(path, error) from error
    except OSError as error:
        raise system_failed(path, error) from error
