"""The results as one JSONL file.

Law: one writer appends lines in order of commit; bytes up to the stored offset are final, everything behind it is
discarded by the next `restore`. The position is {offset, crc, dev, inode, ctime_ns}, crc being the CRC-32 of all bytes
before the offset, so that an edit anywhere is noticed and mended. A file nobody touched since a clean end is not read.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from bulkgrok.core.failpoints import hit
from bulkgrok.core.model import Decoded, Position, Settled
from bulkgrok.sinks import files, line, ownership

_MEDDLED = "it was replaced or changed by someone else during the run"


class JsonlSink:
    """Append results to one file.

    Args:
        output: The results file; a symbolic link to a file is written through.
        simulated: Whether rows are marked as simulated.
        summarise: Not used: lines carry the whole answer.
    """

    appendable: ClassVar[bool] = True
    unfinished: ClassVar[bool] = False

    def __init__(self, output: Path, *, simulated: bool, summarise: Callable[[str, bytes], Decoded]) -> None:
        del summarise
        self.name = f"jsonl:{output.absolute()}"
        self._path = output
        self._simulated = simulated
        self._fd = -1
        self._seq = 0
        self._offset = 0
        self._crc = 0
        self._final = Position(seq=0)
        self._checked = False
        self._seen: files.Marks = {}
        """What `check` found in place."""

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a file this run did not write. Changes nothing."""
        found = files.look(self._path)
        self._checked, self._seen = True, {} if found is None else files.stamp(found)
        if found is None:
            return
        state = position.state if position else {}
        if ownership.ours(self._path, found, state, owned):
            return
        with files.looking(self._path):
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _holds(fd, found, state):
                    return
            finally:
                os.close(fd)
        raise files.foreign(self._path)

    def restore(self, position: Position | None) -> Position:
        """Open the file and discard everything behind `position`, or everything where that is not what it holds.

        The position returned is to be stored before the first `write`: it names the file, and after a return of
        seq 0 an older one would claim more than is there (which the next `restore` would notice by its CRC).
        """
        self.close()
        state = position.state if position else {}
        with files.storing(self._path):
            path = files.target(self._path)
            files.make_folder(path.parent)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            files.lock(self._fd, self._path)
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode):
                raise files.failed(self._path, "not a regular file")
            if position and _holds(self._fd, found, state):
                self._seq, self._offset, self._crc = position.seq, _number(state, "offset"), _number(state, "crc")
            else:
                self._refuse_stranger(found)
                self._seq = self._offset = self._crc = 0
            if found.st_size != self._offset:
                os.ftruncate(self._fd, self._offset)
            os.lseek(self._fd, self._offset, os.SEEK_SET)
            os.fsync(self._fd)
            files.sync_folder(path.parent)
        self._final = self._here()
        return self._final

    def _refuse_stranger(self, found: os.stat_result) -> None:
        """Stop before a file is emptied, or trusted with answers, that somebody put there since `check`."""
        if not self._checked or files.same_file(found, self._seen):
            return
        if found.st_size or not files.owner_is_trusted(found):
            raise files.failed(self._path, "another file was put there during the run")

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Append lines; a failed write leaves no part of them where the disk allows it.

        Raises:
            StorageFailed: The disk refused, or somebody else wrote to the file since the last write.
        """
        if not outcomes:
            return
        offset, crc = self._offset, self._crc
        with files.storing(self._path):
            if os.fstat(self._fd).st_size != self._offset:
                raise files.failed(self._path, _MEDDLED)
            try:
                for block in line.render_all(outcomes, simulated=self._simulated):
                    files.write_all(self._fd, block)
                    offset, crc = offset + len(block), zlib.crc32(block, crc)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._fd, self._offset)
                    os.lseek(self._fd, self._offset, os.SEEK_SET)
                raise
        self._offset, self._crc, self._seq = offset, crc, outcomes[-1].seq

    def commit(self) -> Position:
        """Flush what was written to the disk and return its position."""
        if self._seq != self._final.seq:
            hit("sink.before_sync")
            with files.storing(self._path):
                os.fdatasync(self._fd)
            hit("sink.synced")
            self._final = self._here()
        return self._final

    def finish(self, *, complete: bool) -> Position:
        """Commit, and see that the file under this name is still the one that was written.

        Raises:
            StorageFailed: It was moved, removed or written to while the run went on; the next run rebuilds it.
        """
        del complete
        position = self.commit()
        with files.storing(self._path):
            found = self._path.stat()
            if not files.same_file(found, position.state) or found.st_size != self._offset:
                raise files.failed(self._path, _MEDDLED)
        return position

    def close(self) -> None:
        """Let go of the file as it is."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _here(self) -> Position:
        state = files.stamp(os.fstat(self._fd)) | {"offset": self._offset, "crc": self._crc}
        return Position(seq=self._seq, state=state)


def _holds(fd: int, found: os.stat_result, state: Mapping[str, object]) -> bool:
    """Tell whether a file's first bytes, up to the stored offset, are those that were stored."""
    offset = _number(state, "offset")
    if offset <= 0 or found.st_size < offset:
        return False
    if found.st_size == offset and files.untouched(found, state):
        return True
    crc = 0
    for block in files.blocks(fd, offset):
        crc = zlib.crc32(block, crc)
    return crc == state.get("crc")


def _number(state: Mapping[str, object], key: str) -> int:
    value = state.get(key)
    return value if isinstance(value, int) else 0
