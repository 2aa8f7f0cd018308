"""The last resort: answers and receipts that the checkpoint could not take, as lines of a file, flushed one by one.

Law: only what cannot be had again is spilled: receipts and raw answers. When the checkpoint is next opened they are
entered for the rows that still wait for them, and the file is set aside. A file that is not this user's is not read.
Each line carries its checksum: one that is damaged stops the start, because what it held was paid for. A line that was
torn while it was written is passed over: nobody was told of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import Accept, Change, Redeem
from bulkgrok.core.model import RequestId
from bulkgrok.core.ports import LargeBody, Store

_NAME: Final = "spill.jsonl"
_DEFAULT: Final = "checkpoint.db"
_ANYWHERE: Final = (Path("/var/tmp"), Path("/tmp"))  # noqa: S108 - every file is looked at: ours, regular, no link
_SUM: Final = "crc32"
#: What ends a line that was torn and could not be taken back.
_TORN: Final = b" (torn)\n"
_MOST: Final = 1 << 62
_BLOCK_BYTES: Final = 1 << 18
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Spill:
    """Where changes go that a checkpoint could not take.

    Args:
        checkpoint: The checkpoint's file; the spill lies beside it, or in one of the folders for temporary files. All
            of them are looked at afterwards: the next run may be started with another TMPDIR.
    """

    def __init__(self, checkpoint: Path) -> None:
        name = _NAME if checkpoint.name == _DEFAULT else f"{checkpoint.name}.{_NAME}"
        address = hashlib.sha256(os.fsencode(checkpoint.absolute())).hexdigest()[:16]
        elsewhere = f"bulkgrok-{os.geteuid()}-{address}.{_NAME}"
        folders = dict.fromkeys(map(Path.resolve, (*_temporary(), *_ANYWHERE)))
        self.places = (checkpoint.with_name(name), *(folder / elsewhere for folder in folders))

    def save(self, changes: Iterable[Change]) -> tuple[Path | None, int]:
        """Write what cannot be had again; return where, and how many changes that were. (None, n): nowhere."""
        saved = [change for change in changes if isinstance(change, Redeem | Accept)]
        try:
            lines = list(map(_line, saved))
        except StorageFailed:  # of a large answer, whose own file cannot be made durable
            return None, len(saved)
        if not lines:
            return None, 0
        data = b"".join(lines)
        for place in self.places:
            with suppress(OSError):
                _append(place, data)
                return place, len(lines)
        return None, len(lines)

    def recover(self, store: Store) -> int:
        """Enter what was spilled where rows still wait for it; return how many changes that were.

        Raises:
            StorageFailed: A line is damaged, or the checkpoint cannot take them now either; the files stay.
        """
        entered = 0
        for place in self.places:
            data = _read(place)
            if data is None:
                continue
            changes = _changes(place, data)
            entered += sum(_enter(store, change) for change in changes)
            with suppress(OSError):
                place.replace(place.with_name(place.name + ".applied"))
        return entered


def _temporary() -> list[Path]:
    try:
        return [Path(tempfile.gettempdir())]
    except FileNotFoundError:  # none of them can be written to, which a full disk is enough for
        return []


def _line(change: Redeem | Accept) -> bytes:
    value: dict[str, object]
    match change:
        case Redeem():
            value = {
                "row": change.row,
                "at": float(change.at),
                "status_code": change.status_code,
                "request_id": change.request_id,
                **_raw(change.raw),
            }
        case Accept():
            value = {
                "row": change.row,
                "at": float(change.at),
                "request_id": change.request_id,
                "deadline_at": float(change.deadline_at),
            }
    return json.dumps({**value, _SUM: _sum(value)}).encode() + b"\n"


def _sum(value: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _changes(place: Path, data: bytes) -> list[Redeem | Accept]:
    """Return what a file holds, without lines that were torn."""
    changes = []
    *lines, _ = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.endswith(_TORN.rstrip()):
            continue
        change = _parse(line)
        if change is None:
            msg = f"{place}: line {number} is damaged, and it holds an answer or a receipt that was paid for."
            hint = "Put a whole copy back, or remove that line: its row is then in doubt or lost (`bulkgrok audit`)."
            raise StorageFailed(msg, hint=hint)
        changes.append(change)
    return changes


def _raw(raw: bytes | LargeBody) -> dict[str, object]:
    """Return an answer as it is written down; a large one has a file of its own already."""
    if isinstance(raw, bytes):
        return {"raw": base64.b64encode(raw).decode()}
    path = Path(raw.keep()).absolute()
    return {"file": str(path), "size": raw.size_bytes, "content": _content_sum(raw)}


def _content_sum(body: LargeBody) -> int:
    found = 0
    for block in body.blocks():
        found = zlib.crc32(block, found)
    return found


class _Kept:
    """A large answer in a file that an earlier run kept: a LargeBody."""

    framed = True

    def __init__(self, path: Path) -> None:
        self._path = path
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(path)
        self.size_bytes = found.st_size

    def blocks(self) -> Iterator[bytes]:
        with self._path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block

    def read(self) -> bytes:
        return self._path.read_bytes()

    def keep(self) -> str:
        return str(self._path)

    def discard(self) -> None:
        with suppress(OSError):
            self._path.unlink()


def _parse(line: bytes) -> Redeem | Accept | None:
    """Return the change of a line, None for one that is damaged."""
    try:
        value = json.loads(line)
        if not isinstance(value, dict) or value.pop(_SUM, None) != _sum(value):
            return None
        match value:
            case {
                "row": int(row),
                "at": float(at),
                "status_code": int(status_code),
                "request_id": str() | None as request_id,
                "raw": str(raw),
            } if row < _MOST and status_code < _MOST:
                body = base64.b64decode(raw, validate=True)
                return Redeem(row=row, at=at, status_code=status_code, request_id=request_id, raw=body)
            case {
                "row": int(row),
                "at": float(at),
                "status_code": int(status_code),
                "request_id": str() | None as request_id,
                "file": str(path),
                "size": int(size),
                "content": int(content),
            } if row < _MOST and status_code < _MOST:
                kept = _Kept(Path(path))
                if kept.size_bytes == size and _content_sum(kept) == content:
                    return Redeem(row=row, at=at, status_code=status_code, request_id=request_id, raw=kept)
            case {
                "row": int(row),
                "at": float(at),
                "request_id": str(request_id),
                "deadline_at": float(deadline_at),
            } if row < _MOST:
                return Accept(row=row, at=at, request_id=RequestId(request_id), deadline_at=deadline_at)
    except (ValueError, RecursionError, OSError):
        pass
    return None


def _enter(store: Store, change: Redeem | Accept) -> bool:
    try:
        store.apply([change])
    except ValueError:  # the row does not wait for it: it was stored after all, or asked for again
        return False
    if isinstance(change, Redeem) and not isinstance(change.raw, bytes):
        change.raw.discard()
    return True


def _append(place: Path, data: bytes) -> None:
    new = not place.exists()
    fd = os.open(place, _FLAGS, 0o600)
    try:
        if not _is_own(fd):
            raise PermissionError(place)
        before = os.fstat(fd).st_size
        if before and os.pread(fd, 1, before - 1) != b"\n":  # a torn line that could not be cut off
            data = _TORN + data
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, before)
            if new:
                place.unlink()
            raise
    finally:
        os.close(fd)
    if new:
        fd = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _read(place: Path) -> bytes | None:
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not _is_own(fd):
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def _is_own(fd: int) -> bool:
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
