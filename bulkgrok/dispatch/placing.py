"""Files on the disk: a part file while bytes arrive, then a name that nobody else has.

Law: bytes are flushed before a name points at them and a name is flushed with its folder; no name that exists is ever
replaced. Everything is 0600. The operating system's errors leave as StorageFailed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.model import Asset

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_ID: Final = 64
_BLOCK_BYTES: Final = 1 << 20
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def stem(row: int, custom_id: str, number: int) -> str:
    """Return the name of a row's n-th file (0-based) without its suffix: letters, digits, dots, dashes, underscores."""
    safe = _UNSAFE.sub("_", custom_id[:_LONGEST_ID]).lstrip(".") or "row"
    return f"{row:08d}-{safe}" + (f"-{number + 1}" if number else "")


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = error.strerror or type(error).__name__
        msg = f"{path} could not be written: {words}; every answer so far is kept in the checkpoint"
        raise StorageFailed(msg, hint="make room or mend it, then type the same command again") from error


class PartFile:
    """A file on its way, under a hidden name that is locked against other runs."""

    def __init__(self, path: Path, name: str, descriptor: int) -> None:
        self.path = path
        self.name = name
        self.size = 0
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self._digest = hashlib.sha256()

    def write(self, block: bytes, position: int) -> None:
        """Append a block; at position 0 the file begins anew.

        Raises:
            StorageFailed: The disk refused.
            ValueError: The block does not follow the last one.
        """
        if position == 0:
            self._begin()
        if position != self.size:
            msg = f"a block for {position} where {self.size} is next"
            raise ValueError(msg)
        with _storing(self.path):
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
        self._digest.update(block)
        self.size += len(block)

    def _begin(self) -> None:
        with _storing(self.path):
            self._file.seek(0)
            self._file.truncate()
        self.size = 0
        self._digest = hashlib.sha256()

    def finish(self) -> str:
        """Flush everything to the disk and return the SHA-256 in hex."""
        with _storing(self.path):
            os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Remove the part file, whether its bytes got a name or not."""
        if self._file.closed:
            return
        with suppress(OSError):
            if self.path.lstat().st_ino == os.fstat(self._file.fileno()).st_ino:
                self.path.unlink()
        with suppress(OSError):
            self._file.close()


class MediaFolder:
    """The folder that files of a run go to.

    Args:
        folder: Where; made with its parents when needed.
        base: What the paths of assets are relative to; None: their paths are whole.
    """

    def __init__(self, folder: Path, *, base: Path | None) -> None:
        self._folder = folder
        self._base = base or Path("/")
        self._whole = base is None

    def begin(self, row: int, custom_id: str, number: int) -> PartFile:
        """Open the part file of a row's n-th file (0-based). What a crash left of an earlier one is thrown away.

        Raises:
            StorageFailed: The disk refused.
        """
        with _storing(self._folder):
            _make(self._folder)
        name = stem(row, custom_id, number)
        for candidate in names(name):
            path = self._folder / f".{candidate}.part"
            with _storing(path):
                descriptor = _claim(path)
            if descriptor is not None:
                return PartFile(path, name, descriptor)
        raise AssertionError

    def place(self, part: PartFile, url: str) -> Asset:
        """Give a whole part file its name and return what the output says of it.

        Raises:
            StorageFailed: The disk refused.
        """
        digest = part.finish()
        for candidate in names(part.name):
            path = self._folder / f"{candidate}.mp4"
            with _storing(path):
                if _link(part.path, path) or _is(path, part.size, digest):
                    _flush(path.parent)
                    return self._asset(path, part.size, digest, url)
        raise AssertionError

    def _asset(self, path: Path, size: int, digest: str, url: str) -> Asset:
        relative = path if self._whole else os.path.relpath(path, self._base)
        return Asset(url=url, path=Path(relative).as_posix(), bytes=size, sha256=digest)

    def lacks(self, assets: Sequence[Asset]) -> list[bool]:
        """Tell, at a glance, which of some files the output names are not there."""
        return [not self._is_there(asset) for asset in assets]

    def _is_there(self, asset: Asset) -> bool:
        if asset.path is None:
            return True
        try:
            return (self._base / asset.path).stat().st_size == asset.bytes
        except OSError:
            return False

    def holds(self, asset: Asset) -> bool:
        """Tell whether a file the output names is there and whole."""
        if asset.path is None or asset.bytes is None or asset.sha256 is None:
            return False
        try:
            return _is(self._base / asset.path, asset.bytes, asset.sha256)
        except (OSError, ValueError):
            return False


def names(name: str) -> Iterator[str]:
    """Yield a name, then others like it."""
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _make(folder: Path) -> None:
    """Make a folder durably, for its owner alone, and its parents."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for place in reversed(missing):
        place.mkdir(mode=0o700 if place == missing[0] else 0o755, exist_ok=True)
        _flush(place.parent)


def _claim(path: Path) -> int | None:
    """Create and lock a part file; None when another run works on it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if not _remove_abandoned(path):
                return None
            continue
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        os.close(descriptor)  # another run took it for abandoned in between


def _remove_abandoned(path: Path) -> bool:
    """Remove a part file that nobody holds; False when it is held or no part file at all."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.EACCES, errno.ENXIO}:
            return False
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _link(part: Path, path: Path) -> bool:
    """Give a file a name; False when the name is in use."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return True
    # No hard links here: take the name first, then replace what is certainly ours.
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    part.rename(path)
    return True


def _is(path: Path, size: int, digest: str) -> bool:
    """Tell whether a path is a regular file with that content."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return False
        hashed = hashlib.sha256()
        while block := os.read(descriptor, _BLOCK_BYTES):
            hashed.update(block)
    finally:
        os.close(descriptor)
    return hashed.hexdigest() == digest


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
