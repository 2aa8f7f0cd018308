"""Where rows come from: a file that is read off the loop, or rows from the caller that are spooled as they come.

Law: a source can be read again, and stops the run when it is not what it was.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import orjson

from bulkgrok import readers
from bulkgrok.core.errors import InputError, RunMismatch, StorageFailed
from bulkgrok.core.model import Fingerprint, RawRow
from bulkgrok.core.ports import Offload, Passing, Reader

T = TypeVar("T")

SPOOL_NAME: Final = "rows.jsonl"


async def offloaded(chunks: Iterator[T], offload: Offload) -> AsyncIterator[T]:
    """Iterate over a blocking iterator, one step at a time off the loop."""

    def step() -> list[T]:
        for chunk in chunks:
            return [chunk]
        return []

    while found := await offload(step):
        yield found[0]


class FileSource:
    """An input file. `identify` comes first.

    Args:
        path: The file.
        name: What to call it in messages.
        open_reader: Opens it; called for each reading.
        offload: Runs blocking calls.
    """

    def __init__(self, *, path: Path, name: str, open_reader: Callable[[], Reader], offload: Offload) -> None:
        self.name = name
        self.fixed = True
        self.path = path
        self._open_reader = open_reader
        self._offload = offload
        self._seen: readers.InputStamp | None = None
        self._fingerprint: Fingerprint | None = None

    async def identify(self) -> Fingerprint:
        """Hash the file; what is read later must be the same.

        Raises:
            InputError: It cannot be read, or changed meanwhile.
        """
        self._seen = await self._offload(readers.stamp, self.path)
        self._fingerprint = found = await self._offload(readers.fingerprint, self.path)
        return found

    def give_up(self) -> None:
        """Do nothing: a file is read at once or not at all."""

    async def chunks(
        self,
        *,
        again: bool,  # noqa: ARG002 - a file is read alike every time
        passing: Passing | None = None,
    ) -> AsyncIterator[Sequence[RawRow]]:
        """Yield all rows, and stop the run if the file is no longer the one that was fingerprinted."""
        async for chunk in offloaded(self._verified(passing), self._offload):
            yield chunk

    def _verified(self, passing: Passing | None) -> Iterator[Sequence[RawRow]]:
        """Read, and look at the file after each reading: no row of another content is ever handed on."""
        self._verify()
        for chunk in self._open_reader().chunks(passing):
            self._verify()
            yield chunk
        self._verify()

    def _verify(self) -> None:
        what = ""
        try:
            now = readers.stamp(self.path)
            if now != self._seen and readers.fingerprint(self.path) != self._fingerprint:
                what = "changed"
        except InputError:
            what = "removed or put out of reach"
        if what:
            msg = f"{self.name} was {what} while the run was reading it. What was sent is in the checkpoint."
            raise RunMismatch(
                msg, hint="Put the old input back and type the command again, or start afresh with -o OTHER.jsonl"
            )
        self._seen = now


class ObjectSource:
    """An input in an object store. `identify` comes first; whether it is still the same, each piece read tells itself.

    Args:
        path: The object.
        open_reader: Opens it, once it is pinned; called for each reading.
        offload: Runs blocking calls.
    """

    fixed: bool = True

    def __init__(
        self,
        *,
        path: readers.ObjectInput,
        open_reader: Callable[[readers.ObjectInput], Reader],
        offload: Offload,
    ) -> None:
        self.name = str(path)
        self.path = path
        self._open_reader = open_reader
        self._offload = offload

    async def identify(self) -> Fingerprint:
        """Ask which content is there; what is read later must be the same.

        Raises:
            InputError: It cannot be read, or changed meanwhile.
        """
        found = await self._offload(self.path.look)
        fingerprint: Fingerprint = await self._offload(self.path.fingerprint, found)
        self.path = self.path.pin(found)
        return fingerprint

    def give_up(self) -> None:
        """Wait no longer for a store that is away."""
        self.path.given_up.set()

    async def chunks(
        self,
        *,
        again: bool,  # noqa: ARG002 - an object is read alike every time
        passing: Passing | None = None,
    ) -> AsyncIterator[Sequence[RawRow]]:
        """Yield all rows, and stop the run if the object is no longer the one that was identified."""
        reader = await self._offload(self._open_reader, self.path)
        async for chunk in offloaded(iter(reader.chunks(passing)), self._offload):
            yield chunk


class NoSource:
    """No input: of a start that sends nothing.

    Args:
        name: What the run's input is called.
    """

    fixed: bool = True

    def __init__(self, name: str) -> None:
        self.name = name

    def give_up(self) -> None:
        """Do nothing: there is nothing to wait for."""

    async def chunks(
        self,
        *,
        again: bool,  # noqa: ARG002 - there are none
        passing: Passing | None = None,  # noqa: ARG002 - as above
    ) -> AsyncIterator[Sequence[RawRow]]:
        """Yield no rows."""
        none: tuple[Sequence[RawRow], ...] = ()
        for chunk in none:
            yield chunk


class RowsSource:
    """Rows from the caller, written to a spool as they are taken, so that they can be read again and compared.

    Args:
        rows: The rows, taken as fast as they can be sent.
        run_dir: Where the spool lies.
        offload: Runs blocking calls.
    """

    name: str = "rows"
    fixed: bool = False

    def __init__(self, *, rows: AsyncIterable[Mapping[str, object]], run_dir: Path, offload: Offload) -> None:
        self._rows = rows
        self.path = run_dir / SPOOL_NAME
        self._offload = offload

    def give_up(self) -> None:
        """Do nothing: the caller's rows are the caller's business."""

    async def chunks(self, *, again: bool, passing: Passing | None = None) -> AsyncIterator[Sequence[RawRow]]:
        """Yield the caller's rows, compared with what an earlier call spooled; read again, the spool alone."""
        if again:
            reader = readers.open_reader(self.path, format="jsonl")
            async for chunk in offloaded(iter(reader.chunks(passing)), self._offload):
                yield chunk
            return
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"The spool {self.path} cannot be opened: {error.strerror}."
            raise StorageFailed(msg) from error
        with os.fdopen(fd, "r+b") as spool:
            row = 0
            async for value in self._rows:
                yield [RawRow(row=row, line=row + 1, value=self._spooled(spool, row, value))]
                row += 1
            if spool.readline().endswith(b"\n"):
                msg = f"The rows ended after {row:,}, and an earlier call with this run_dir had more."
                raise RunMismatch(msg, hint="Give the same rows again, or another run_dir.")

    def _spooled(self, spool: BinaryIO, row: int, value: object) -> bytes:
        """Return the row as a line, written to the spool or found there unchanged."""
        try:
            line = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            msg = f"row {row} is not JSON: {error}"
            raise InputError(msg, hint="Rows are dicts of JSON values.") from error
        place = spool.tell()
        before = spool.readline()
        if before.endswith(b"\n"):
            if before[:-1] != line:
                msg = f"row {row} is not the row of the earlier call with this run_dir."
                raise RunMismatch(msg, hint="Give the same rows again, or another run_dir.")
            return line
        try:
            spool.seek(place)
            spool.truncate()
            spool.write(line + b"\n")
            spool.flush()
        except OSError as error:
            msg = f"The spool {self.path} cannot be written: {error.strerror}."
            raise StorageFailed(msg) from error
        return line
