"""The errors file: the rows that are failed now.

Law: replaced as a whole by one rename, and written even when no row failed. What identifies the next version is stored
(`plan`) before it can be seen, together with the version it replaces: after a crash either may lie there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bulkgrok.core.failpoints import hit
from bulkgrok.core.model import Position, Settled
from bulkgrok.sinks import files, line, ownership
from bulkgrok.sinks.files import Draft, Marks


class ErrorsFile:
    """Write the failures of a run.

    Args:
        path: The errors file; a symbolic link to a file is written through.
        simulated: Whether rows are marked as simulated.
    """

    def __init__(self, path: Path, *, simulated: bool) -> None:
        self._path = path
        self._simulated = simulated
        self._before: Marks = {}
        """What identifies the version in place."""
        self._checked = False

    def check(self, state: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a file this run did not write. Changes nothing."""
        found = files.look(self._path)
        self._before, self._checked = {}, True
        if found is None:
            return
        versions = [marks for key in ("now", "before") if isinstance(marks := state and state.state.get(key), dict)]
        if not any(ownership.ours(self._path, found, marks, owned) for marks in versions or [{}]):
            raise files.foreign(self._path)
        with files.looking(self._path):
            whole = [marks for marks in versions if files.intact(self._path, marks)]
        self._before = {**(whole[0] if whole else {}), **files.stamp(found)}

    def replace(self, failures: Iterable[Settled], plan: Callable[[Position], None]) -> None:
        """Write all failures to a hidden file, call `plan` with what identifies it, then rename it into place.

        Raises:
            StorageFailed: The disk refused, or somebody else put a file there since `check`.
        """
        with files.storing(self._path):
            draft = Draft(self._path)
            try:
                self._fill(draft, failures)
                self._refuse_stranger(draft.path)
                hit("errors.before_plan")
                self._before = draft.publish(lambda marks: plan(self._planned(marks)))
                hit("errors.renamed")
            finally:
                draft.discard()

    def _fill(self, draft: Draft, failures: Iterable[Settled]) -> None:
        for block in line.render_all(failures, simulated=self._simulated):
            draft.write(block)

    def _planned(self, marks: Marks) -> Position:
        hit("errors.before_rename")
        return Position(seq=0, state={"now": marks, "before": self._before})

    def _refuse_stranger(self, path: Path) -> None:
        if self._checked and path.exists():
            found = path.stat()
            if found.st_size and not files.same_file(found, self._before):
                raise files.failed(self._path, "another file was put there during the run")
