"""The errors file: the rows that are failed now.

Law: replaced as a whole in one step, and written even when no row failed. What identifies the next version is stored
(`plan`) before it can be seen, together with the version it replaces: after a crash either may lie there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bulkgrok.core.address import Address
from bulkgrok.core.failpoints import hit
from bulkgrok.core.model import Position, Settled
from bulkgrok.sinks import line, places
from bulkgrok.sinks.files import Marks
from bulkgrok.sinks.patience import Patience
from bulkgrok.sinks.places import Folder, Place


class ErrorsFile:
    """Write the failures of a run.

    Args:
        path: The errors file; a symbolic link to a file is written through.
        simulated: Whether rows are marked as simulated.
        place: What the file lies in, where that is no folder on a disk.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        path: Path | Address,
        *,
        simulated: bool,
        place: Place | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place or Folder(Path(str(path)).parent)
        self._name = path.name
        self._simulated = simulated
        self._patience = Patience(monotonic)
        self._before: Marks = {}
        """What identifies the version in place."""
        self._checked = False

    def check(self, state: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a file this run did not write. Changes nothing."""
        place, name = self._place, self._name
        self._before, self._checked = {}, True
        if not place.holds(name):
            return
        versions = [marks for key in ("now", "before") if isinstance(marks := state and state.state.get(key), dict)]
        if not any(place.ours(name, marks, owned) for marks in versions or [{}]):
            raise places.foreign(place, name)
        with place.looking(name):
            whole = [marks for marks in versions if place.intact(name, marks) is not None]
            self._before = {**(whole[0] if whole else {}), **(place.stamp(name) or {})}

    def probe(self) -> None:
        """Put an empty one where there is none, if nothing else tells whether it may be written there (UsageError)."""
        self._place.probe(self._name)

    def replace(self, failures: Iterable[Settled], plan: Callable[[Position], None]) -> bool:
        """Write all failures where nobody sees them, call `plan` with what identifies it, then put it in place.

        Returns:
            Whether that was done; if not, its place is away for now, and another call may do it.

        Raises:
            StorageFailed: The disk or the store refused, or somebody else put a file there since `check`.
        """
        if not self._patience.over:
            return False
        place, name = self._place, self._name
        with self._patience, place.storing(name):
            place.open(folder=False)
            draft = place.draft(name)
            try:
                for block in line.render_all(failures, simulated=self._simulated):
                    draft.write(block)
                if self._checked:
                    place.refuse_stranger(name, self._before)
                hit("errors.before_plan")
                self._before = place.publish(name, draft, {}, lambda marks: plan(self._planned(marks)))
                hit("errors.renamed")
            finally:
                draft.discard()
            return True
        return False

    def _planned(self, marks: Marks) -> Position:
        hit("errors.before_rename")
        return Position(seq=0, state={"now": marks, "before": self._before})
