"""A folder that forgets: what a power cut leaves of it is what was flushed, and any part of the rest.

Law: bytes of a file are safe from its last flush, names from the last flush of their folder. Of everything else each
piece may be there or not: writes are dropped, reordered and torn (SQLite's in pieces of 512 bytes), appended bytes cut
anywhere, names old or new. A flush that fails makes nothing safe, and what it was to flush stays unsafe for good.

SQLite's writes come through a VFS, everybody else's are found by looking at the folder; `os` is watched for flushes and
for names that change, and is where a disk can be full or broken.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

_SECTOR = 512
_FORGOTTEN = ("-shm",)


@dataclass(frozen=True, slots=True)
class Picture:
    """What lies in a folder: names relative to it."""

    folders: tuple[str, ...]
    files: dict[str, tuple[int, bytes]]
    """(inode, content): a file that is still there stays the same file."""


@dataclass(slots=True)
class Trouble:
    """A disk that refuses: from the n-th write or flush on, for so many of them."""

    kind: str
    """Full (writes find no room), write (they fail) or sync (flushes fail)."""
    after: int
    lasts: int

    def strikes(self, *, sync: bool) -> bool:
        """Count an operation and tell whether it fails."""
        if (self.kind == "sync") is not sync:
            return False
        self.after -= 1
        return -self.lasts < self.after <= 0


@dataclass(slots=True)
class _Log:
    """A file of SQLite's: what is safe of it, and the writes since then."""

    safe: bytearray
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes), or (size, None) for a cut."""

    def flush(self) -> None:
        for offset, data in self.pending:
            _write(self.safe, offset, data)
        self.pending.clear()


def _write(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """One folder under watch.

    Args:
        root: The folder; everything in it belongs to the disk.
        chance: Decides what a power cut leaves.
        reached: Told of each moment worth dying in.
    """

    def __init__(self, root: Path, chance: random.Random, reached: Callable[[str], None]) -> None:
        self.root = root
        self.trouble: Trouble | None = None
        self._chance = chance
        self._reached = reached
        self._logs: dict[str, _Log] = {}
        self._safe_names: dict[str, dict[str, int]] = {}
        self._safe_bytes: dict[int, bytes] = {}
        self.settle()

    def settle(self) -> None:
        """Let everything that is there be safe."""
        self._logs.clear()
        self._safe_names.clear()
        self._safe_bytes.clear()
        for folder, _, names in os.walk(self.root):
            self._safe_names[folder] = _names(folder)
            for name in names:
                path = os.path.join(folder, name)
                self._safe_bytes[os.stat(path).st_ino] = _read(path)

    # A picture, and going back to it

    def after_kill(self) -> Picture:
        """Return what is there: the operating system keeps what a killed process wrote."""
        folders: list[str] = []
        files: dict[str, tuple[int, bytes]] = {}
        for folder, _, names in os.walk(self.root):
            folders.append(os.path.relpath(folder, self.root))
            for name in sorted(names):
                if not name.endswith(_FORGOTTEN):
                    path = os.path.join(folder, name)
                    files[os.path.relpath(path, self.root)] = os.stat(path).st_ino, _read(path)
        return Picture(tuple(sorted(folders)), files)

    def after_power_cut(self, luck: float | None = None) -> Picture:
        """Return what a power cut at this moment leaves; `luck` is the share of what was not flushed, if given."""
        folders: list[str] = []
        files: dict[str, tuple[int, bytes]] = {}
        luck = self._chance.choice((0.0, 0.5, 0.5, 1.0)) if luck is None else luck
        self._survivors(os.fspath(self.root), luck, folders, files)
        return Picture(tuple(folders), files)

    def _survivors(self, folder: str, luck: float, folders: list[str], files: dict[str, tuple[int, bytes]]) -> None:
        folders.append(os.path.relpath(folder, self.root))
        safe, now = self._safe_names.get(folder, {}), _names(folder)
        for name in sorted(safe.keys() | now.keys()):
            old, new = safe.get(name), now.get(name)
            inode = old if old == new or self._chance.random() >= luck else new
            path = os.path.join(folder, name)
            if inode is None or name.endswith(_FORGOTTEN):
                continue
            if inode == new and os.path.isdir(path):
                self._survivors(path, luck, folders, files)
                continue
            content = self._content(path, inode, luck, present=inode == new)
            if content is not None:
                files[os.path.relpath(path, self.root)] = inode, content

    def _content(self, path: str, inode: int, luck: float, *, present: bool) -> bytes | None:
        log = self._logs.get(path)
        if log is not None and present:
            return self._torn(log, luck)
        safe = self._safe_bytes.get(inode, b"")
        if not present:
            return safe
        now = _read(path)
        if now.startswith(safe):
            tail = now[len(safe) :]
            kept = self._chance.randint(0, len(tail)) if self._chance.random() < luck else 0
            tail = tail[:kept]
            if kept > _SECTOR and self._chance.random() < 0.3:  # a later block arrived, an earlier one did not
                tail = bytes(_SECTOR) + tail[_SECTOR:]
            return safe + tail
        return now if self._chance.random() < luck else safe

    def _torn(self, log: _Log, luck: float) -> bytes:
        content = bytearray(log.safe)
        for offset, data in log.pending:
            if self._chance.random() >= luck:
                continue
            if data is None or self._chance.random() < 0.7:
                _write(content, offset, data)
                continue
            for start in range(0, len(data), _SECTOR):
                if self._chance.random() < 0.5:
                    _write(content, offset + start, data[start : start + _SECTOR])
        return bytes(content)

    def restore(self, picture: Picture) -> None:
        """Make the folder what a picture shows; all of it is safe then."""
        for folder, _, names in os.walk(self.root, topdown=False):
            for name in names:
                path = os.path.join(folder, name)
                kept = picture.files.get(os.path.relpath(path, self.root))
                if kept is None or kept[0] != os.stat(path).st_ino:
                    os.unlink(path)
            if os.path.relpath(folder, self.root) not in picture.folders:
                shutil.rmtree(folder)
        for name in picture.folders:
            os.makedirs(self.root / name, exist_ok=True)
        for name, (_, content) in picture.files.items():
            (self.root / name).write_bytes(content)
        self.settle()

    # What is watched

    def flushed(self, fd: int) -> None:
        """Note that a file or folder was flushed."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not self.holds(path):
            return
        found = os.fstat(fd)
        folder = stat.S_ISDIR(found.st_mode)
        self._reached("folder.before-flush" if folder else "file.before-flush")
        if self.trouble is not None and self.trouble.strikes(sync=True):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if folder:
            self._safe_names[path] = _names(path)
        else:
            content = _read(f"/proc/self/fd/{fd}")
            self._safe_bytes[found.st_ino] = content
            if path in self._logs:
                self._logs[path] = _Log(bytearray(content))
        self._reached("folder.flushed" if folder else "file.flushed")

    def writes(self, fd: int) -> None:
        """Note that somebody writes, and refuse where the disk does."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if self.holds(path):
            self._reached("file.write")
            self._refuse_write()

    def _refuse_write(self) -> None:
        if self.trouble is not None and self.trouble.strikes(sync=False):
            code = errno.ENOSPC if self.trouble.kind == "full" else errno.EIO
            raise OSError(code, os.strerror(code))

    def renames(self, path: str) -> None:
        """Note that a name changes."""
        if self.holds(path):
            self._reached("name.changes")

    def holds(self, path: str) -> bool:
        """Whether a path is in the folder."""
        root = os.fspath(self.root)
        return path == root or path.startswith(root + "/")

    # SQLite's side

    def log(self, path: str) -> _Log:
        """Return what is known of a file of SQLite's."""
        if path not in self._logs:
            self._logs[path] = _Log(bytearray(_read(path)) if os.path.exists(path) else bytearray())
        return self._logs[path]

    def sqlite_writes(self, log: _Log, offset: int, data: bytes) -> None:
        """Take a write of SQLite's."""
        self._reached("sqlite.write")
        if self.trouble is not None and self.trouble.strikes(sync=False):
            raise apsw.FullError("no room") if self.trouble.kind == "full" else apsw.IOError("the disk is broken")
        log.pending.append((offset, data))

    def sqlite_flushes(self, path: str, log: _Log) -> None:
        """Make a file of SQLite's safe; a new log's name as well, as SQLite does."""
        self._reached("sqlite.before-flush")
        if self.trouble is not None and self.trouble.strikes(sync=True):
            # Some of it is on the disk, the rest never will be, although the file looks as if all of it were.
            log.safe = bytearray(self._torn(log, self._chance.choice((0.0, 0.5))))
            log.pending.clear()
            error = apsw.IOError("the disk is broken")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise error
        log.flush()
        if path.endswith("-wal"):
            folder = os.path.dirname(path)
            self._safe_names[folder] = _names(folder)
        self._reached("sqlite.flushed")

    def sqlite_removes(self, path: str) -> None:
        """Note that SQLite removes a file; until its folder is flushed it may come back, as it was flushed last."""
        log = self._logs.pop(path, None)
        if log is not None:
            self._safe_bytes[os.stat(path).st_ino] = bytes(log.safe)


class _File(apsw.VFSFile):
    def excepthook(self, *_: object) -> bool:
        """Keep quiet: what is raised here is raised on purpose, and reaches whoever called SQLite."""
        return True

    def __init__(self, disk: Disk, name: str, path: str, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._path = path
        self._log = disk.log(path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.sqlite_writes(self._log, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        self._log.pending.append((size, None))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        del flags
        self._disk.sqlite_flushes(self._path, self._log)


class _Vfs(apsw.VFS):
    """SQLite's view of whichever disk is under watch."""

    def __init__(self) -> None:
        self.disk: Disk | None = None
        super().__init__("forgetful", "unix")

    def excepthook(self, *_: object) -> bool:
        """Keep quiet, as above."""
        return True

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        if self.disk is None or text is None or not self.disk.holds(text):
            return apsw.VFSFile("unix", name, flags)
        return _File(self.disk, name, text, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001 - SQLite's
        if self.disk is not None and self.disk.holds(filename):
            self.disk.sqlite_removes(filename)
        super().xDelete(filename, syncdir)


_VFS = _Vfs()


@contextmanager
def watched(disk: Disk) -> Iterator[None]:
    """Let a disk see what this process does to its folder."""
    kept = {name: getattr(os, name) for name in ("fsync", "fdatasync", "write", "rename", "replace", "unlink", "link")}

    def flush(fd: int) -> None:
        disk.flushed(fd)

    def write(fd: int, data: bytes) -> int:
        disk.writes(fd)
        return kept["write"](fd, data)

    def changes(name: str) -> Callable[..., None]:
        def change(path: str | Path, *rest: object, **options: object) -> None:
            disk.renames(os.fspath(path))
            kept[name](path, *rest, **options)
            disk.renames(os.fspath(path))

        return change

    before = apsw.vfs_names()[0]
    _VFS.disk = disk
    apsw.set_default_vfs("forgetful")
    os.fsync = os.fdatasync = flush
    os.write = write
    for name in ("rename", "replace", "unlink", "link"):
        setattr(os, name, changes(name))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(os, name, function)
        apsw.set_default_vfs(before)
        _VFS.disk = None


def _names(folder: str) -> dict[str, int]:
    try:
        return {entry.name: entry.inode() for entry in os.scandir(folder)}
    except FileNotFoundError:
        return {}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
