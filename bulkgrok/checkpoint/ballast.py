"""Room on a full disk: a file that is given up when the disk is full, so that what was paid for can still be stored.

Law: holds nothing; made before it is needed, given up at most once, and made again when the checkpoint is next opened.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

SIZE_BYTES: Final = 8 << 20
_LEAST_BYTES: Final = 64 << 10
_SHARE: Final = 8


class Ballast:
    """One preallocated file.

    Args:
        path: Where it lies; on the disk whose room it keeps.
        size_bytes: How much room; less on a disk that has little left. 0 for none.
    """

    def __init__(self, path: Path, size_bytes: int = SIZE_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def take_on(self) -> None:
        """Keep the room; harmless when it is kept already, and without effect on a disk that is full."""
        with suppress(OSError):
            free = os.statvfs(self._path.parent)
            size = min(self._size_bytes, free.f_bavail * free.f_frsize // _SHARE)
            if self._held() >= size or size < _LEAST_BYTES:
                return
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            except (OSError, AttributeError):
                os.ftruncate(fd, 0)
            finally:
                os.close(fd)

    def release(self) -> bool:
        """Give the room up; return whether there was any."""
        with suppress(OSError):
            if self._held():
                self._path.unlink()
                return True
        return False

    def _held(self) -> int:
        try:
            return self._path.lstat().st_blocks * 512
        except FileNotFoundError:
            return 0
