"""Which input this is: its fingerprint, which binds a run, and its stamp, which tells cheaply that it was touched.

Law: the bytes as stored count, compressed or not. A file that changes while it is hashed has no fingerprint.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat as modes
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, cast

from bulkgrok.core.errors import InputError
from bulkgrok.core.model import Fingerprint
from bulkgrok.readers.formats import is_named_as_input
from bulkgrok.readers.remote import ObjectInput

Place = Path | ObjectInput
"""Where an input is."""

_BLOCK: Final = 1 << 20
#: n entries of a folder that are looked at for a file to name.
_SEEN: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStamp:
    """What the file system says of a file. Equal stamps: not written to in between.

    Unlike the time of the last write, that of the last change cannot be set back; it also moves with names and
    permissions, so a stamp that differs proves nothing.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def open_input(path: Place) -> BinaryIO:
    """Open an input for reading, unbuffered.

    Raises:
        InputError: It is missing, a folder, a pipe or not readable.
        RunMismatch, StorageFailed: It is an object that the run reads already (see `remote`).
    """
    if not isinstance(path, Path):
        return cast("BinaryIO", path.open())
    try:
        # Opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from None
    mode = os.fstat(descriptor).st_mode
    if not modes.S_ISREG(mode):
        os.close(descriptor)
        raise _no_file(path, mode)
    return os.fdopen(descriptor, "rb", buffering=0)


def stamp(path: Path) -> InputStamp:
    """Return the stamp of a file, to be compared with a later one.

    Raises:
        InputError: It is missing or out of reach.
    """
    try:
        return _stamp(os.stat(path))  # noqa: PTH116 - the same as the fstat beside it
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from None


def fingerprint(path: Path, *, progress: Callable[[int, int], None] | None = None) -> Fingerprint:
    """Hash a file at disk speed.

    Args:
        path: A regular file.
        progress: Called with n bytes done and n bytes in all, after each block; what it raises ends the hashing.

    Raises:
        InputError: It is missing, cannot be read, or changed meanwhile.
    """
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    done = 0
    with open_input(path) as file:
        before = _stamp(os.fstat(file.fileno()))
        try:
            while count := file.readinto(block):  # type: ignore[attr-defined] # an unbuffered file has it
                digest.update(block[:count])
                done += count
                if progress is not None:
                    progress(done, max(before.size, done))
        except OSError as error:
            msg = f"{path} cannot be read beyond byte {done}: {error.strerror or error}. Nothing was sent."
            raise InputError(msg, hint="Check the disk, or copy the file to another one.") from None
        after = _stamp(os.fstat(file.fileno()))
    if after != before or done != before.size:
        msg = f"{path} changed while it was read; something still writes to it. Nothing was sent."
        raise InputError(msg, hint="Wait until it is complete, then type the same command again.")
    return Fingerprint(size=done, sha256=digest.hexdigest())


def _stamp(found: os.stat_result) -> InputStamp:
    return InputStamp(
        device=found.st_dev,
        inode=found.st_ino,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )


def _cannot_open(path: Path, error: OSError | ValueError) -> InputError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(f"There is no input {path}. Nothing was sent.", hint="Check the path.")
    if isinstance(error, PermissionError):
        return InputError(f"{path} may not be read. Nothing was sent.", hint=f"chmod u+r {path}")
    if isinstance(error, OSError) and error.errno == errno.ENXIO:
        return _no_file(path, modes.S_IFSOCK)
    why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return InputError(f"{path} cannot be opened: {why}. Nothing was sent.", hint="Check the path.")


def _no_file(path: Path, mode: int) -> InputError:
    if modes.S_ISDIR(mode):
        msg = f"{path} is a folder; an input is one file. Nothing was sent."
        return InputError(msg, hint=_instead_of_folder(path))
    msg = f"{path} is no regular file, and an input is read more than once. Nothing was sent."
    return InputError(msg, hint=f"Pipe it in: bulkgrok run - -o results.jsonl < {path}")


def _instead_of_folder(path: Path) -> str:
    """Say which file to name instead: the first one in the folder that looks like an input, if there is one."""
    try:
        with os.scandir(path) as entries:
            inputs = [
                entry.name for entry in islice(entries, _SEEN) if is_named_as_input(entry.name) and entry.is_file()
            ]
    except OSError:
        inputs = []
    if not inputs:
        return "Check the path: no .jsonl, .parquet or .txt file is seen in that folder."
    return f"Name one of the files in it, each with its own run: {path / min(inputs)}"
