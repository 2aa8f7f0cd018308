"""Flushes of a checkpoint's files that stop no other thread.

Law: SQLite's own flush, called through a VFS written in Python, keeps the interpreter's lock until the disk is done: no
request would be sent or answered meanwhile, milliseconds on a good disk and seconds on a busy one. So a file is
flushed through a descriptor of our own, which the operating system takes for the same: it flushes the file, whoever
wrote to it, and reports a failed write to each descriptor once.

Closing any descriptor of a file lets go of all locks that this process has on it. So one of a file is kept until
SQLite has closed its last one of the same file here.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

import apsw

_FDATASYNC: Final = hasattr(os, "fdatasync")
"""Not where a flush needs more than that to reach the disk (macOS)."""


class _Shared:
    """One file that is open in this process."""

    __slots__ = ("fd", "users")

    def __init__(self) -> None:
        self.fd: int | None = None
        self.users = 0


#: By device and inode.
_open: Final[dict[tuple[int, int], _Shared]] = {}
_changing: Final = threading.Lock()


class Flushing:
    """Flushes one file that SQLite has opened; make it just after that, and end it just after it was closed.

    Args:
        path: The file; None leaves every flush to SQLite.
    """

    __slots__ = ("_key", "_path")

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._key: tuple[int, int] | None = None
        if path is None or not _FDATASYNC:
            return
        self._key = _identified(path)
        if self._key is not None:
            with _changing:
                _open.setdefault(self._key, _Shared()).users += 1

    def flush(self) -> bool:
        """Flush the file; False where that is left to SQLite.

        Raises:
            apsw.IOError: The disk reports an error.
        """
        fd = None if self._key is None else _open[self._key].fd
        if fd is None:
            return False
        try:
            os.fdatasync(fd)
        except OSError as error:
            failed = apsw.IOError(error.strerror or "disk I/O error")
            failed.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined] # it reads it
            raise failed from error
        return True

    def begin(self) -> None:
        """Flush the file here from now on, if that can be."""
        if self._key is None or self._path is None:
            return
        with _changing:
            shared = _open[self._key]
            if shared.fd is None:
                shared.fd = _descriptor(self._path, self._key)

    def end(self) -> None:
        """Let go of the file, which SQLite has closed. Harmless when repeated."""
        key, self._key = self._key, None
        if key is None:
            return
        with _changing:
            shared = _open[key]
            shared.users -= 1
            if shared.users:
                return
            del _open[key]
            if shared.fd is not None:
                os.close(shared.fd)


def _identified(path: str) -> tuple[int, int] | None:
    """Return the device and inode of a file, None where it is gone."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _descriptor(path: str, key: tuple[int, int]) -> int | None:
    """Return a new descriptor of a file; None where there is none to be had, or it is another file by now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(fd)
    if (found.st_dev, found.st_ino) == key:
        return fd
    os.close(fd)
    return None
