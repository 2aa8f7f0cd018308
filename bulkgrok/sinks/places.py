"""Where output lies: a folder on disk or what begins alike in an object store. One seam, so that sinks know neither.

Law: what `publish` reports is whole and durable under its name, whatever was there before; a crash before leaves what
was there. What this run did not write is never replaced. A place that cannot be reached for now raises `Away`, and
the call may be repeated; every other refusal is UsageError while nothing was sent and StorageFailed afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from bulkgrok.core.errors import StorageFailed, UsageError
from bulkgrok.core.failpoints import hit
from bulkgrok.sinks import files, ownership
from bulkgrok.sinks.files import Draft, Marks

Owned = Callable[[bytes], bool]


class Away(Exception):
    """A place cannot be reached for now; `failure` is what to stop the run with if that lasts."""

    def __init__(self, failure: StorageFailed) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Place(Protocol):
    """A folder of files, or of objects. Names in it have no slash."""

    @property
    def remote(self) -> bool:
        """Whether what is written can only be seen whole, at a cost for each."""
        ...

    def where(self, name: str) -> str:
        """Return what a file is called in messages."""
        ...

    def check(self, *, folder: bool) -> None:
        """Refuse a place that cannot be used (UsageError); `folder`: it is one of this run's own. Changes nothing."""
        ...

    def names(self) -> list[str]:
        """Return the names of its files; none where there is no such place."""
        ...

    def holds(self, name: str) -> bool:
        """Tell whether something is there. UsageError where that could not be written."""
        ...

    def ours(self, name: str, marks: Mapping[str, object], owned: Owned) -> bool:
        """Tell whether this run wrote what is there; see `ownership`. UsageError where it cannot be read."""
        ...

    def probe(self, name: str) -> None:
        """Put an empty file where none is, if nothing else tells whether one may be written there (UsageError)."""
        ...

    def open(self, *, folder: bool) -> None:
        """Make it, and lock it against other runs where that can be done."""
        ...

    def intact(self, name: str, marks: Mapping[str, object]) -> Marks | None:
        """Return what tells a file apart without reading it, if it holds the bytes it was marked with."""
        ...

    def stamp(self, name: str) -> Marks | None:
        """Return what tells a file apart without reading it; None where there is none."""
        ...

    def draft(self, name: str) -> Draft:
        """Begin the next version of a file, where nobody sees it."""
        ...

    def publish(
        self, name: str, draft: Draft, marks: Mapping[str, object], plan: Callable[[Marks], None] | None = None
    ) -> Marks:
        """Put a draft in place; return its marks.

        Args:
            name: Under which name.
            draft: What `draft` began.
            marks: What was known of it, which saves a repetition.
            plan: Called with what identifies it before it can be seen.
        """
        ...

    def refuse_stranger(self, name: str, known: Mapping[str, object]) -> None:
        """Raise StorageFailed where something is there that is not what `known` marks."""
        ...

    def read(self, name: str, most: int) -> bytes | None:
        """Return the first bytes of a file; None where there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; harmless where there is none."""
        ...

    def settle(self) -> None:
        """Make durable what was removed."""
        ...

    def looking(self, name: str) -> AbstractContextManager[None]:
        """Map what a place raises to UsageError."""
        ...

    def storing(self, name: str = "") -> AbstractContextManager[None]:
        """Map what a place, or a file in it, raises to StorageFailed and Away."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Folder:
    """A folder on a disk.

    Args:
        path: Which.
    """

    remote: Final = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1

    def __str__(self) -> str:
        return str(self._path.absolute())

    def where(self, name: str) -> str:
        """Return the file's path."""
        return str(self._path / name)

    def check(self, *, folder: bool) -> None:
        """Refuse what is no folder, or not to be written to."""
        if folder:
            files.look(self._path, folder=True)

    def names(self) -> list[str]:
        """Return all names in it."""
        with files.looking(self._path), suppress(FileNotFoundError):
            return sorted(files.names(self._path))
        return []

    def holds(self, name: str) -> bool:
        """Tell whether a file is there."""
        return files.look(self._path / name) is not None

    def ours(self, name: str, marks: Mapping[str, object], owned: Owned) -> bool:
        """Tell whether this run wrote a file."""
        path = self._path / name
        found = files.look(path)
        return found is not None and ownership.ours(path, found, marks, owned)

    def probe(self, name: str) -> None:
        """Do nothing: `holds` has told."""

    def open(self, *, folder: bool) -> None:
        """Make it durably; a folder of this run's own is private, and locked."""
        if not folder:
            files.make_folder(files.target(self._path))
            return
        files.make_folder(self._path, mode=0o700)
        self._lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        files.lock(self._lock, self._path)

    def intact(self, name: str, marks: Mapping[str, object]) -> Marks | None:
        """Look at the file's change time, or read it."""
        path = files.target(self._path / name)
        return files.stamp(path.stat()) if files.intact(path, marks) else None

    def stamp(self, name: str) -> Marks | None:
        """Return device, inode and change time."""
        path = files.target(self._path / name)
        return files.stamp(path.stat()) if path.exists() else None

    def draft(self, name: str) -> Draft:
        """Begin a hidden file beside it."""
        return Draft(self._path / name)

    def publish(
        self, name: str, draft: Draft, marks: Mapping[str, object], plan: Callable[[Marks], None] | None = None
    ) -> Marks:
        """Flush and rename."""
        del name, marks
        hit("sink.before_rename")
        published = draft.publish(plan)
        hit("sink.renamed")
        return published

    def refuse_stranger(self, name: str, known: Mapping[str, object]) -> None:
        """Compare inodes; an empty file is nobody's."""
        path = files.target(self._path / name)
        if path.exists():
            found = path.stat()
            if found.st_size and not files.same_file(found, known):
                raise files.failed(path, "another file was put there during the run")

    def read(self, name: str, most: int) -> bytes | None:
        """Read a file's beginning."""
        with files.looking(self._path / name), suppress(FileNotFoundError), (self._path / name).open("rb") as file:
            return file.read(most)
        return None

    def remove(self, name: str) -> None:
        """Unlink a file."""
        with suppress(FileNotFoundError):
            (self._path / name).unlink()

    def settle(self) -> None:
        """Flush the folder."""
        files.sync_folder(self._path)

    @contextmanager
    def looking(self, name: str) -> Iterator[None]:
        """Map the system's errors: nothing was sent."""
        with files.looking(self._path / name):
            yield

    @contextmanager
    def storing(self, name: str = "") -> Iterator[None]:
        """Map the system's errors: the answers are in the checkpoint."""
        with files.storing(self._path / name):
            yield

    def close(self) -> None:
        """Give the lock back."""
        fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)


def foreign(place: Place, name: str) -> UsageError:
    """Return the error for a file that this run did not write."""
    return files.foreign(place.where(name))
