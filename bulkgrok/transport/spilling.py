"""Bodies that are too large for memory: files of their own, for as long as somebody needs them.

Law: a file is new, readable by this user only, and its name holds nothing a server said. While it grows it is a
`.part`; only `keep` gives it a lasting name, after its bytes were flushed. The disk is never filled to its end, and
what is too large to be an answer takes only so much of it.
"""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import StorageFailed
from bulkgrok.transport.unpacking import Unpacking

#: The largest body that may still be an answer. The official client stops at 32 MiB.
ANSWER_BYTES: Final = 64 << 20
#: Larger ones are kept for a human to look at, up to this size each, and up to this size together.
_MOST_BYTES: Final = 1 << 30
_MOST_TOGETHER_BYTES: Final = 4 << 30
#: What must stay free on the disk; the checkpoint knows better how much room answers take there.
_RESERVE_BYTES: Final = 64 << 20
_LEAST_RESERVE_BYTES: Final = 8 << 20
_BLOCK_BYTES: Final = 1 << 18
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_PART: Final = ".part"
_LASTING: Final = (".reply", ".reply.packed")


class Spills:
    """The large bodies of one transport.

    Args:
        folder: Where they go, made when the first one comes; None for the system's folder for temporary files.
        answer_bytes: How large an answer may be.
    """

    def __init__(self, folder: Path | None, *, answer_bytes: int = ANSWER_BYTES) -> None:
        self.answer_bytes = answer_bytes
        self.taken_bytes = 0
        """What all files take now."""
        self._folder = folder

    def begin(self, name: str, *, packed: bool = False, framed: bool = True) -> SpilledBody:
        """Make a file.

        Args:
            name: Letters, digits and dashes: what to call it.
            packed: Whether its bytes are gzip or deflate.
            framed: Whether the reply tells where its body ends.

        Raises:
            StorageFailed: It cannot be made.
        """
        if not _NAME.fullmatch(name):
            msg = f"{name!r} is no name for a file"
            raise ValueError(msg)
        folder = self._folder or Path(tempfile.gettempdir())
        with _storing(folder):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
                _sync(folder.parent)
            for number in count(1):
                path = folder / f"{name}-{number}{_PART}"
                if not any(path.with_suffix(suffix).exists() for suffix in _LASTING):
                    with suppress(FileExistsError):
                        return SpilledBody(self, path, os.open(path, _CREATE, 0o600), packed=packed, framed=framed)
        raise AssertionError

    def unpacked(self, packed: SpilledBody) -> tuple[SpilledBody, bool] | None:
        """Unpack a body into a file of its own; return it and whether it is whole, None where it is no answer's size.

        The packed one is removed then, and kept otherwise. What is not packed at all stays as it came.

        Raises:
            StorageFailed: The disk refused.
        """
        body = self.begin(packed.name, framed=packed.framed)
        unpacking = Unpacking()
        try:
            for block in packed.blocks():
                for piece in unpacking.feed(block):
                    body.write(piece)
                    if body.size_bytes > self.answer_bytes:
                        body.discard()
                        return None
        except zlib.error:
            if body.size_bytes == 0:
                body.discard()
                return packed, True
        packed.discard()
        return body, unpacking.ended


class SpilledBody:
    """One body in a file: a LargeBody.

    Args:
        spills: What it counts for.
        path: Where it is.
        descriptor: The open file.
        packed: Whether its bytes are gzip or deflate.
        framed: Whether the reply tells where its body ends.
    """

    def __init__(self, spills: Spills, path: Path, descriptor: int, *, packed: bool, framed: bool) -> None:
        self.path = path
        self.size_bytes = 0
        self.framed = framed
        self._spills = spills
        self._descriptor = descriptor
        self._packed = packed

    @property
    def name(self) -> str:
        """What it was called."""
        return self.path.name.rpartition("-")[0]

    def write(self, data: bytes) -> bool:
        """Append bytes; return whether more may follow.

        Raises:
            StorageFailed: The disk refused what may be an answer that was paid for.
        """
        try:
            view = memoryview(data)
            while view:
                written = os.write(self._descriptor, view)
                self.size_bytes += written
                self._spills.taken_bytes += written
                view = view[written:]
            return self._may_grow()
        except OSError as error:
            if self._may_be_answer:
                raise _failed(self.path, error) from error
            return False

    @property
    def _may_be_answer(self) -> bool:
        return self.size_bytes <= self._spills.answer_bytes

    def _may_grow(self) -> bool:
        if self.size_bytes >= _MOST_BYTES:
            return False
        found = os.statvfs(self.path.parent)
        free = found.f_bavail * found.f_frsize
        if not self._may_be_answer:
            return free >= _RESERVE_BYTES and self._spills.taken_bytes < _MOST_TOGETHER_BYTES
        if free < _LEAST_RESERVE_BYTES:
            msg = f"{self.path.parent} has no room for a large answer: {free >> 20} MiB are left on its disk."
            raise StorageFailed(msg, hint="Make room on the disk, then type the same command again.")
        return True

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, some hundred kilobytes at a time."""
        with _storing(self.path), self.path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block

    def read(self) -> bytes:
        """Return all of it."""
        with _storing(self.path):
            return self.path.read_bytes()

    def keep(self) -> str:
        """Make it durable under its final name; return the path.

        Raises:
            StorageFailed: The disk refused.
        """
        self.close()
        final = self.path.with_suffix(_LASTING[self._packed])
        with _storing(self.path):
            _sync(self.path)
            self.path.rename(final)  # nobody else has this number
            _sync(final.parent)
        self.path = final
        return str(final)

    def discard(self) -> None:
        """Remove the file. Harmless when repeated, or after `keep`."""
        self.close()
        if self.path.suffix == _PART and self.size_bytes >= 0:
            with suppress(OSError):
                self.path.unlink()
            self._spills.taken_bytes -= self.size_bytes
            self.size_bytes = -1

    def close(self) -> None:
        """Let go of the file as it is. Harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(path, error) from error


def _failed(path: Path, error: OSError) -> StorageFailed:
    words = error.strerror or type(error).__name__
    return StorageFailed(
        f"A large answer could not be written to {path}: {words}. Every answer so far is kept.",
        hint="Make room on the disk or mend it, then type the same command again.",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
