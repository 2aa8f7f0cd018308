"""The results as Parquet: one file at the end, or a folder of parts.

Law: a Parquet file without its footer is no file, so the one file appears whole, by one rename, when every row has its
outcome; until then its position stays at seq 0 and a resumed run writes it again from the store. While it is written
again, the version before stays in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from bulkgrok.core.failpoints import hit
from bulkgrok.core.model import Decoded, Position, Settled
from bulkgrok.sinks import files, ownership
from bulkgrok.sinks.files import Draft, Marks, new_mark
from bulkgrok.sinks.parts import PartsSink, PartWriter
from bulkgrok.sinks.table import RowGroups


class ParquetSink:
    """Write one Parquet file. Its position's state is {mark, size, sha256, dev, inode, ctime_ns} of what is in place.

    The mark is in the file too: a crash between the rename and the storing of its position leaves a file that the
    run knows. It is drawn by the first `restore` and kept as long as positions are.

    Args:
        output: The file; a symbolic link to a file is written through.
        simulated: Whether the file says of itself that its rows are simulated.
        summarise: Decodes an answer, given its kind's name and its body.
        mark: Draws a mark that no other run has.
    """

    appendable: ClassVar[bool] = False

    def __init__(
        self,
        output: Path,
        *,
        simulated: bool,
        summarise: Callable[[str, bytes], Decoded],
        mark: Callable[[], str] = new_mark,
    ) -> None:
        self.name = f"parquet:{output.absolute()}"
        self._path = output
        self._simulated = simulated
        self._summarise = summarise
        self._new_mark = mark
        self._draft: Draft | None = None
        self._groups: RowGroups | None = None
        self._final = Position(seq=0)
        self._seq = 0
        self._current = False
        """Whether what is in place holds all that was written."""

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a file this run did not write. Changes nothing."""
        found = files.look(self._path)
        state = position.state if position else {}
        if found is not None and not ownership.ours(self._path, found, state, owned):
            raise files.foreign(self._path)

    def restore(self, position: Position | None) -> Position:
        """Return `position` where the whole file is in place, else seq 0: everything is written again.

        What is in place then stays until the end; the position names it, so that it is known as this run's.
        """
        self.close()
        with files.storing(self._path):
            path = files.target(self._path)
            files.make_folder(path.parent)
            self._current = bool(position and position.seq and files.intact(path, position.state))
            known = position.state if position else self._final.state
            state: Marks = {"mark": known.get("mark") or self._new_mark()}
            if path.exists():
                state |= {**(known if files.intact(path, known) else {}), **files.stamp(path.stat())}
            self._seq = position.seq if position and self._current else 0
        self._final = Position(seq=self._seq, state=state)
        return self._final

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Take rows into a hidden file beside the output."""
        if not outcomes:
            return
        with files.storing(self._path):
            self._open().add(outcomes)
        self._seq = outcomes[-1].seq

    def _open(self) -> RowGroups:
        if self._groups is None:
            self._draft = Draft(self._path)
            self._groups = RowGroups(self._draft, mark=self._mark, simulated=self._simulated, summarise=self._summarise)
            self._current = False
        return self._groups

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
        if self._current:
            return self._final
        with files.storing(self._path):
            groups, draft = self._open(), self._draft
            groups.close()
            if draft is not None:
                self._refuse_stranger()
                hit("sink.before_rename")
                self._final = Position(seq=self._seq, state={"mark": self._mark, **draft.publish()})
                hit("sink.renamed")
        self._groups = self._draft = None
        self._current = True
        return self._final

    def _refuse_stranger(self) -> None:
        """Stop before a rename over a file that somebody else put there while the run went on."""
        path = files.target(self._path)
        if path.exists():
            found = path.stat()
            if found.st_size and not files.same_file(found, self._final.state):
                raise files.failed(self._path, "another file was put there during the run")

    def close(self) -> None:
        """Drop what is not in place."""
        if self._draft is not None:
            self._draft.discard()
        self._groups = self._draft = None


class ParquetParts(PartsSink):
    """Write a folder of `part-00000000.parquet` …."""

    suffix: ClassVar[str] = "parquet"

    def _writer(self, draft: Draft) -> PartWriter:
        return RowGroups(draft, mark=self._mark, simulated=self._simulated, summarise=self._summarise)
