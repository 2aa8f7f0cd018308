"""Room on a disk for what was paid for: a file to give up when the disk is full, and how much must be free besides.

Law: the file holds nothing but zeros; it is made when the checkpoint is opened, given up when it is needed or the
checkpoint is closed. A file of that name that is not certainly one of ours is left alone, and then no room is kept. No
request is sent whose answer may find no room.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import StorageFailed

SIZE_BYTES: Final = 8 << 20
_LEAST_BYTES: Final = 64 << 10
_BLOCK_BYTES: Final = 1 << 20
_SHARE: Final = 8
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NAME: Final = "ballast"
_DEFAULT: Final = "checkpoint.db"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PAGES_BYTES: Final = 128 << 10
"""What the log of a checkpoint takes for one answer stored alone: pages of tables and indexes, six or seven of them."""
_APART: Final = 64
"""n answers that may be stored one by one; of more, many are stored together and share pages."""


class Ballast:
    """One preallocated file.

    Args:
        checkpoint: The checkpoint's file; the ballast lies beside it, on the disk whose room it keeps.
        size_bytes: How much room; less on a disk that has little left. 0 for none.
    """

    def __init__(self, checkpoint: Path, size_bytes: int = SIZE_BYTES) -> None:
        self.place = checkpoint.parent
        self.held_bytes = 0
        """How much room is kept."""
        self.possible = size_bytes > 0
        """Whether it can be kept here, and was not given up."""
        self._path = checkpoint.with_name(_NAME if checkpoint.name == _DEFAULT else f"{checkpoint.name}.{_NAME}")
        self._size_bytes = size_bytes
        self._ours = False

    def take_on(self, least_bytes: int = 0) -> None:
        """Keep room, or more of it; harmless when it is kept already, and without effect on a disk that is full.

        Args:
            least_bytes: How much to keep even where that is a large share of what the disk has left.
        """
        free = self.free_bytes()
        if free is None or not self.possible:
            return
        try:
            held = self._on_disk()
            size = max(min(self._size_bytes, (free + held) // _SHARE), least_bytes)
            if held or size >= _LEAST_BYTES:
                self._keep(size)
        except OSError as error:
            self.possible = error.errno in _FULL

    def _keep(self, size: int) -> None:
        fd = os.open(self._path, _FLAGS, 0o600)
        try:
            self._ours = self.possible = self._ours or _is_ours(fd)
            if not self._ours:
                return
            self.held_bytes = os.fstat(fd).st_blocks * 512
            if self.held_bytes < size >= _LEAST_BYTES:
                self._grow(fd, size)
                self.held_bytes = os.fstat(fd).st_blocks * 512
        finally:
            os.close(fd)

    def _grow(self, fd: int, size: int) -> None:
        try:
            os.posix_fallocate(fd, 0, size)
        except (OSError, AttributeError) as error:
            os.ftruncate(fd, self.held_bytes)
            self.possible = isinstance(error, OSError) and error.errno in _FULL

    def release(self) -> bool:
        """Give the room up; return whether there was any."""
        held, self.held_bytes = self.held_bytes, 0
        ours, self._ours = self._ours, False
        if not ours:
            return False
        self.possible = self.possible and not held
        with suppress(OSError):
            self._path.unlink()
            return held > 0
        return False

    def free_bytes(self) -> int | None:
        """Return how much room the disk has besides; None where it does not tell."""
        with suppress(OSError):
            found = os.statvfs(self.place)
            return found.f_bavail * found.f_frsize
        return None

    def _on_disk(self) -> int:
        try:
            return self._path.lstat().st_blocks * 512
        except FileNotFoundError:
            return 0


def _is_ours(fd: int) -> bool:
    """Tell whether an open file can be nothing but ballast: this user's, under one name, and zeros only."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
        return False
    return all(block.count(0) == len(block) for block in iter(lambda: os.read(fd, _BLOCK_BYTES), b""))


class Room:
    """How much must be free for a request to be sent, by the answers that came so far."""

    def __init__(self) -> None:
        self.in_flight = 0
        """n requests that may be on their way at once; 0 asks for no room."""
        self._answers = 0
        self._bytes = 0
        self._largest = 0

    def seen(self, size_bytes: int) -> None:
        """Note the size of an answer; 0 is none."""
        if size_bytes:
            self._answers += 1
            self._bytes += size_bytes
            self._largest = max(self._largest, size_bytes)

    @property
    def needed_bytes(self) -> int:
        """Room for twice the usual answer to each request in flight, and for some of the largest."""
        if not self.in_flight:
            return 0
        usual = self._bytes // max(1, self._answers)
        pages = min(self.in_flight, _APART) * _PAGES_BYTES
        return pages + 2 * usual * self.in_flight + 4 * self._largest

    def shortage(self, place: Path, free_bytes: int) -> StorageFailed:
        """Word the end of a run for lack of room."""
        return StorageFailed(
            f"The disk of {place} is nearly full: {_megabytes(free_bytes)} are left, and answers in flight may need "
            f"{_megabytes(self.needed_bytes)}. Nothing more was sent; every answer so far is kept.",
            hint="Make room on the disk, then type the same command again (a lower --concurrency needs less).",
        )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
