"""How far a checkpoint must have got: the number of its last acknowledged group of changes, in a file beside it.

Law: written after a group is durable and before anybody acts on it, and never flushed: a power cut may leave an older
number, which proves less and is never wrong. So a checkpoint that holds fewer groups than its mark has lost some that
were acknowledged: its log was damaged, cut short or removed, or an older copy was put in its place. SQLite itself
takes a damaged log for one that ends there. A mark that cannot be read proves nothing.
"""

from __future__ import annotations

import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import StorageFailed

_SUFFIX: Final = "-mark"
_DIGITS: Final = 20
_BYTES: Final = _DIGITS + 10
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Mark:
    """The mark of one checkpoint.

    Args:
        checkpoint: The checkpoint's file.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self.path = checkpoint.with_name(checkpoint.name + _SUFFIX)
        self.acknowledged = 0
        """How many groups were, when it was last read; 0 where nothing tells."""
        self._fd = -1

    def read(self) -> None:
        """Take note of the mark. To be called before the checkpoint is opened: a runner may be at work."""
        self.acknowledged = 0
        with suppress(OSError):
            fd = os.open(self.path, os.O_RDONLY | _FLAGS)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    self.acknowledged = _number(os.pread(fd, _BYTES, 0))
            finally:
                os.close(fd)

    def verify(self, found: int) -> None:
        """Refuse a checkpoint that holds fewer groups than were acknowledged.

        Raises:
            StorageFailed: It has lost something.
        """
        missing = self.acknowledged - found
        if missing <= 0:
            return
        msg = (
            f"The checkpoint {self._checkpoint}: the file is damaged: {missing} of {self.acknowledged} groups of "
            "changes that were durable are missing at its end. Its -wal file was damaged or removed, or an older copy "
            "was put in its place."
        )
        hint = (
            f"Put the right files back. To go on with what is left, remove {self.path}: requests of the missing part "
            "may then be paid again."
        )
        raise StorageFailed(msg, hint=hint)

    def write(self, number: int) -> None:
        """Set the mark. Where that fails it proves less than it could, and nothing else is lost."""
        with suppress(OSError):
            if self._fd < 0:
                self._fd = _opened(self.path)
            digits = b"%0*d" % (_DIGITS, number)
            os.pwrite(self._fd, b"%s %08x\n" % (digits, zlib.crc32(digits)), 0)

    def went_along(self) -> bool:
        """Tell whether the file was moved away, and with it, most likely, the checkpoint; False if it was removed."""
        try:
            held = os.fstat(self._fd)
            here = self.path.lstat() if self.path.exists() else None
        except OSError:
            return False
        return held.st_nlink > 0 and (here is None or here.st_ino != held.st_ino)

    def close(self) -> None:
        """Let go of the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _opened(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(fd)
        raise PermissionError(path)
    return fd


def _number(text: bytes) -> int:
    digits, _, rest = text.partition(b" ")
    whole = len(text) == _BYTES and digits.isdigit() and rest == b"%08x\n" % zlib.crc32(digits)
    return int(digits) if whole else 0
