"""Durable steps on files, and what identifies a file.

Law: what is reported as done survives a power cut: bytes are flushed to the disk before a name points at them, and a
name is flushed with its folder. Every file is 0600. The operating system's errors leave as UsageError while nothing
was sent (`looking`) and as StorageFailed afterwards (`storing`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from bulkgrok.core.errors import RunLocked, StorageFailed, UsageError

Marks = dict[str, object]
"""What identifies a file later, JSON values: size and sha256, and dev, inode and ctime_ns as a short cut."""

_CHUNK = 1 << 20
_LONGEST_NAME = 240
_NOBODY = 65_534
"""Whoever has no name here: files of a mapped user, as in a container or on a network, whose owner cannot be told."""


@contextmanager
def looking(path: Path) -> Iterator[None]:
    """Map operating system errors to UsageError: nothing was sent."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        msg = f"{path} cannot be used: {_reason(error)}; nothing was sent"
        raise UsageError(msg, hint="name another place with -o") from error


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Map operating system errors to StorageFailed: the answers are in the checkpoint."""
    try:
        yield
    except OSError as error:
        raise failed(path, _reason(error)) from error


def failed(path: Path | str, reason: str) -> StorageFailed:
    """Return the error for an output that could not be written."""
    return StorageFailed(
        f"{path} could not be written: {reason}; every answer so far is kept in the checkpoint",
        hint="make room or mend it, then type the same command again",
    )


def foreign(path: Path | str) -> UsageError:
    """Return the error for a place that holds what this run did not write."""
    return UsageError(
        f"{path} was not written by this run and is left as it is; nothing was sent",
        hint="choose another place with -o, or move it away",
    )


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return f"{error.strerror or os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"


def target(path: Path) -> Path:
    """Return the file a path stands for: a symbolic link is written through, never replaced."""
    return Path(os.path.realpath(path))


def look(path: Path, *, folder: bool = False) -> os.stat_result | None:
    """Return what lies at a place that shall be written, None when nothing does. Changes nothing.

    Raises:
        UsageError: Something else than a file (or folder) is there, or it could not be written.
    """
    with looking(path):
        try:
            found = path.stat()
        except FileNotFoundError:
            found = None
        if found is None:
            if path.is_symlink():
                raise OSError(errno.ENOENT, "a symbolic link that leads nowhere")
            _ask(_nearest_folder(path), os.W_OK | os.X_OK)
            return None
        if folder:
            if not stat.S_ISDIR(found.st_mode):
                raise OSError(errno.ENOTDIR, "not a folder")
            _ask(path, os.R_OK | os.W_OK | os.X_OK)
        else:
            if stat.S_ISDIR(found.st_mode):
                raise OSError(errno.EISDIR, "a folder is there (for a folder of parts, end the name with a slash)")
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            _ask(path, os.R_OK | os.W_OK)
    return found


def _nearest_folder(path: Path) -> Path:
    for parent in target(path).parents:
        if parent.exists():
            if not parent.is_dir():
                raise OSError(errno.ENOTDIR, f"{parent} is not a folder")
            return parent
    raise OSError(errno.ENOENT, "no such folder")


def _ask(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise OSError(errno.EACCES, f"no permission to write {path}")


def make_folder(folder: Path, *, mode: int = 0o755) -> None:
    """Create a folder and its parents durably; harmless when it is there."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with suppress(FileExistsError):
            each.mkdir(mode=mode if each == missing[0] else 0o755)
        sync_folder(each.parent)


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return [path.name for path in folder.iterdir()]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush folders flushes them itself
            raise
    finally:
        os.close(fd)


def lock(fd: int, path: Path) -> None:
    """Take the advisory lock of an open file or folder until it is closed.

    Raises:
        RunLocked: Another runner holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        msg = f"another run is writing {path}; this one sent nothing"
        raise RunLocked(msg, hint="wait for it, or choose another place with -o") from error
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}:
            raise


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes at the file's position."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def new_mark() -> str:
    """Draw a mark that no other run has."""
    return uuid4().hex


def blocks(fd: int, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of an open file; fewer when it is shorter."""
    offset = 0
    while offset < size:
        block = os.pread(fd, min(_CHUNK, size - offset), offset)
        if not block:
            return
        yield block
        offset += len(block)


def stamp(found: os.stat_result) -> Marks:
    """Return what tells a file apart without reading it."""
    return {"dev": found.st_dev, "inode": found.st_ino, "ctime_ns": found.st_ctime_ns}


def untouched(found: os.stat_result, marks: Mapping[str, object]) -> bool:
    """Tell whether nothing was done to a file since it was stamped: no content changes without its ctime."""
    return all(marks.get(key) == value for key, value in stamp(found).items())


def owner_is_trusted(found: os.stat_result) -> bool:
    """Tell whether a file can be this user's: one that another user laid out would let that user read along."""
    return found.st_uid in {os.geteuid(), 0, _NOBODY}


def same_file(found: os.stat_result, marks: Mapping[str, object]) -> bool:
    """Tell whether it is the stamped inode. Inodes are used again, so this alone proves nothing."""
    return (found.st_dev, found.st_ino) == (marks.get("dev"), marks.get("inode"))


def intact(path: Path, marks: Mapping[str, object]) -> bool:
    """Tell whether a file holds the bytes it was marked with; False when it is missing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != marks.get("size"):
            return False
        if untouched(found, marks):
            return True
        digest = hashlib.sha256()
        for block in blocks(fd, found.st_size):
            digest.update(block)
        return digest.hexdigest() == marks.get("sha256")
    finally:
        os.close(fd)


def temporary(path: Path) -> Path:
    """Return the hidden name beside a file under which its next version is written."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.tmp")


class Draft:
    """A hidden temporary file that becomes the real one in one rename, or never existed.

    Looks like a file open for writing, so that other libraries can write into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = target(path)
        self.size = 0
        self._temporary = temporary(self.path)
        self._digest = hashlib.sha256()
        self._discarded = False
        make_folder(self.path.parent)
        self._clear_leftover()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._temporary, flags, 0o600)
        lock(self._fd, self.path)

    def _clear_leftover(self) -> None:
        """Remove what a crash left, unless a living run holds it."""
        try:
            fd = os.open(self._temporary, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        try:
            lock(fd, self.path)
            self._temporary.unlink()
        finally:
            os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether the file was let go."""
        return self._fd < 0

    def write(self, data: bytes) -> int:
        """Append bytes; return how many. After `discard` they vanish: a writer may still want to end its file."""
        n = memoryview(data).nbytes
        if not self._discarded:
            write_all(self._fd, data)
            self._digest.update(data)
            self.size += n
        return n

    def flush(self) -> None:
        """Do nothing: nothing is buffered here."""

    def seal(self) -> Marks:
        """Return the marks of what was written: its size and SHA-256."""
        return {"size": self.size, "sha256": self._digest.hexdigest()}

    def blocks(self) -> Iterator[bytes]:
        """Yield what was written, from the hidden file."""
        with self._temporary.open("rb") as file:
            while block := file.read(_CHUNK):
                yield block

    def publish(self, plan: Callable[[Marks], None] | None = None) -> Marks:
        """Make the bytes durable, then the name; return the file's marks.

        Args:
            plan: Called with them between the two: what it stores is known before the file can be seen.
        """
        os.fsync(self._fd)
        found = os.fstat(self._fd)
        marks = self.seal() | {"dev": found.st_dev, "inode": found.st_ino}
        if plan is not None:
            plan(dict(marks))
        self._temporary.rename(self.path)
        sync_folder(self.path.parent)
        marks |= stamp(os.fstat(self._fd))
        self.close()
        return marks

    def discard(self) -> None:
        """Remove the temporary file; harmless after `publish`."""
        self._discarded = True
        if not self.closed:
            with suppress(OSError):
                self._temporary.unlink()
            self.close()

    def close(self) -> None:
        """Let go of the file as it is."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
