"""The results as one file that appears at the end: Parquet, and anything that lies in an object store.

Law: a Parquet file without its footer is no file, and an object cannot be added to; so the one file appears whole, in
one step, when every row has its outcome. Until then its position stays at seq 0 and a resumed run writes it again from
the store. While it is written again, the version before stays in place.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from bulkgrok.core.address import Address
from bulkgrok.core.model import Decoded, Position, Settled
from bulkgrok.sinks import places
from bulkgrok.sinks.files import Draft, Marks, new_mark
from bulkgrok.sinks.parts import LineWriter, PartWriter
from bulkgrok.sinks.patience import Patience
from bulkgrok.sinks.places import Away, Folder, Place


class WholeSink(ABC):
    """Write one file. Its position's state is {mark, size, sha256, …} of what is in place.

    The mark is in tables too: a crash between the file's appearance and the storing of its position leaves a file that
    the run knows. It is drawn by the first `restore` and kept as long as positions are.

    Args:
        output: The file; a symbolic link to a file is written through.
        simulated: Whether the file says of itself that its rows are simulated.
        summarise: Decodes an answer, given its kind's name and its body.
        place: What the file lies in, where that is no folder on a disk.
        mark: Draws a mark that no other run has.
        monotonic: Seconds that never go back.
    """

    appendable: ClassVar[bool] = False
    suffix: ClassVar[str]

    def __init__(  # noqa: PLR0913 - three are what a sink is, the rest have defaults
        self,
        output: Path | Address,
        *,
        simulated: bool,
        summarise: Callable[[str, bytes], Decoded],
        place: Place | None = None,
        mark: Callable[[], str] = new_mark,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place or Folder(Path(str(output)).parent)
        self._file = output.name
        self.name = f"{self.suffix}:{output.absolute() if isinstance(output, Path) else output}"
        self._simulated = simulated
        self._summarise = summarise
        self._new_mark = mark
        self._patience = Patience(monotonic)
        self._draft: Draft | None = None
        self._inside: PartWriter | None = None
        self._final = Position(seq=0)
        self._seq = 0
        self._current = False
        """Whether what is in place holds all that was written."""

    @abstractmethod
    def _writer(self, draft: Draft) -> PartWriter: ...

    @property
    def unfinished(self) -> bool:
        """Whether its place was away when the file was to be put there."""
        return self._patience.tried

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a file this run did not write. Changes nothing."""
        state = position.state if position else {}
        if self._place.holds(self._file) and not self._place.ours(self._file, state, owned):
            raise places.foreign(self._place, self._file)

    def restore(self, position: Position | None) -> Position:
        """Return `position` where the whole file is in place, else seq 0: everything is written again.

        What is in place then stays until the end; the position names it, so that it is known as this run's.
        """
        self.close()
        place = self._place
        with self._storing_now():
            place.open(folder=False)
            known = position.state if position else self._final.state
            state: Marks = {"mark": known.get("mark") or self._new_mark()}
            stamp = place.stamp(self._file)
            whole = stamp is not None and place.intact(self._file, known) is not None
            self._current = bool(position and position.seq and whole)
            if stamp is not None:
                state |= {**(known if whole else {}), **stamp}
            self._seq = position.seq if position and self._current else 0
        self._final = Position(seq=self._seq, state=state)
        return self._final

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Take rows into a file that nobody sees."""
        if not outcomes:
            return
        with self._storing_now():
            self._open().add(outcomes)
        self._seq = outcomes[-1].seq

    def _open(self) -> PartWriter:
        if self._inside is None:
            self._draft = self._place.draft(self._file)
            self._inside = self._writer(self._draft)
            self._current = False
        return self._inside

    @property
    def _mark(self) -> str:
        return str(self._final.state["mark"])

    def commit(self) -> Position:
        """Return the position of what is in place: seq 0 until the end."""
        return self._final

    def finish(self, *, complete: bool) -> Position:
        """When complete, put the file in place, with no rows too; otherwise drop what was written."""
        if not complete:
            self.close()
            return self._final
        if self._current or not self._patience.over:
            return self._final
        if self._draft is None or self._inside is not None:
            with self._storing_now():
                self._open().close()
                self._inside = None
        with self._patience, self._place.storing(self._file):
            if self._draft is not None:
                self._place.refuse_stranger(self._file, self._final.state)
                marks = self._place.publish(self._file, self._draft, {})
                self._final = Position(seq=self._seq, state={"mark": self._mark, **marks})
            self._draft = None
            self._current = True
        return self._final

    @contextmanager
    def _storing_now(self) -> Iterator[None]:
        """Map what the place raises where nothing is to be tried again."""
        try:
            with self._place.storing(self._file):
                yield
        except Away as away:
            raise away.failure from None

    def close(self) -> None:
        """Drop what is not in place."""
        if self._draft is not None:
            self._draft.discard()
        self._inside = self._draft = None
        self._place.close()


class JsonlWhole(WholeSink):
    """Write one file of lines: in an object store, where nothing can be appended."""

    suffix: ClassVar[str] = "jsonl"

    def _writer(self, draft: Draft) -> PartWriter:
        return LineWriter(draft, simulated=self._simulated)
