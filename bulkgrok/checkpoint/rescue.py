"""When the disk fails, or is about to be full: nothing new is begun, and what is on its way is saved.

Law: the run is over from the first failure on, and everybody who waits is told so. No intent is stored any more: its
request would leave while nobody could say what became of it. Receipts and answers go into the checkpoint if it takes
them, then with the room that was kept (ballast), then to a spill file; the next run enters them from there.

A run is over as well while there is still room for the answers of all requests in flight, but not for more: what is
sent must find a place. And it is over when somebody removed the checkpoint's file: then that is written again at the
end, as long as its bytes can still be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bulkgrok.checkpoint.ballast import Ballast, Room
from bulkgrok.checkpoint.spill import Spill
from bulkgrok.core.errors import RunTakenOver, StorageFailed
from bulkgrok.core.lifecycle import Change, Submit
from bulkgrok.core.ports import Store

_EMPTY_BYTES: Final = 200_000
"""About how large a checkpoint without any row is."""


class Rescue:
    """What stands between a failing disk and what was paid for. Belongs to the writer's thread.

    Args:
        store: The checkpoint; one without a `path` has no disk.
        ballast_bytes: Room to keep for the time when the disk is full; 0 for none.
    """

    def __init__(self, store: Store, *, ballast_bytes: int) -> None:
        self.room = Room()
        self.failed: StorageFailed | None = None
        """Why the run is over, None while all is well."""
        self.unsaved: list[Change] = []
        """What found no place."""
        self._store = store
        self._path: Path | None = getattr(store, "path", None)
        self._file: tuple[int, int] | None = None
        self._gone = False
        self._ballast = None if self._path is None else Ballast(self._path, ballast_bytes)
        self._spill = None if self._path is None else Spill(self._path)
        self._cause: StorageFailed | None = None
        self._spilled_to: list[Path] = []
        self._placeless = 0

    def prepare(self) -> None:
        """Enter what an earlier run had to spill; take ballast on.

        Raises:
            StorageFailed: The checkpoint cannot take it now either.
        """
        self._file = _file_at(self._path)
        place = getattr(self._store, "spill_place", None)
        if self._spill is None and place is not None:
            self._spill = Spill(place)
        if self._spill is not None:
            self._spill.recover(self._store)
        if self._ballast is not None:
            self._ballast.take_on()

    def keep_room(self, *, in_flight: int, answers: int) -> None:
        """From now on, look for room for n requests in flight; so many answers are in the checkpoint already."""
        self.room.in_flight = in_flight
        if answers and self._path is not None:
            with suppress(OSError):
                self.room.seen(max(0, self._path.stat().st_size - _EMPTY_BYTES) // answers)

    def leave(self) -> None:
        """Give the ballast up: the store is about to be closed, which winds up its log."""
        if self._ballast is not None:
            self._ballast.release()

    def look(self) -> None:
        """End the run if the disk has too little room. Costs one call of the system while it has enough."""
        if self.failed is not None:
            return
        lease = getattr(self._store, "lease", None)
        if lease is not None and lease.lost:
            self.failed = self._cause = lease.taken_over()
        if self._ballast is None:
            return
        if self._file is not None and _file_at(self._path) != self._file:
            self._gone = True
            self.failed = self._cause = self._word_gone("")
        elif not self._has_room(self._ballast):
            self._make_room(self._ballast)

    def _make_room(self, ballast: Ballast) -> None:
        self._store.wind_up()
        if not self._has_room(ballast):
            self.failed = self._cause = self.room.shortage(ballast.place, ballast.free_bytes() or 0)

    def _has_room(self, ballast: Ballast) -> bool:
        """Tell whether what is in flight finds room, and would find it in the ballast if the rest were taken now."""
        needed = self.room.needed_bytes
        if needed and ballast.possible and ballast.held_bytes < needed:
            ballast.take_on(needed + needed // 4)
        free = ballast.free_bytes() if needed else None
        return free is None or (free >= needed and (ballast.held_bytes >= needed or not ballast.possible))

    def write_back(self) -> None:
        """Put the checkpoint back in its place if its file was removed. At the end: what is in flight belongs in it."""
        if self._gone and self._store.write_back():
            self.failed = self._word_gone(" It is written again, with everything that was in it.")

    def _word_gone(self, more: str) -> StorageFailed:
        return StorageFailed(
            f"The checkpoint {self._path} was removed, moved or replaced while the run went on. Nothing more was sent."
            + more,
            hint="Type the same command again" + ("." if more else ", once you have put its files back."),
        )

    def disk_failed(self, error: StorageFailed) -> None:
        """Note that the store refused changes."""
        if self.failed is None:
            self.failed = self._cause = error

    def save(self, changes: Sequence[Change]) -> BaseException | None:
        """Store changes although the run is over; return what whoever waits is told.

        That is why the run is over, in every case but one: a ValueError is a defect and told as such.
        """
        if any(isinstance(change, Submit) for change in changes):
            return self.failed
        try:
            self._apply(changes)
        except ValueError as error:
            return error
        except RunTakenOver as error:  # what had arrived was handed in; the rest is the other runner's affair
            self.failed = self._cause = error
        except StorageFailed:
            return self._spilled(changes)
        return self.failed

    def _apply(self, changes: Sequence[Change]) -> None:
        """Apply changes, with the ballast's room if there is no other.

        On a full disk the log is wound up each time: it would take the room that the next answer needs, and cannot be
        wound up any more when nothing at all is left.
        """
        try:
            self._store.apply(changes)
        except StorageFailed:
            if self._ballast is None or not self._ballast.release():
                raise
            self._store.wind_up()
            self._store.apply(changes)
        if self._ballast is not None and not self._has_room(self._ballast):
            self._store.wind_up()

    def _spilled(self, changes: Sequence[Change]) -> StorageFailed:
        assert self._cause is not None  # noqa: S101 - called when it is
        place, count = (None, 0) if self._spill is None else self._spill.save(changes)
        if place is None:
            self.unsaved.extend(changes)
            self._placeless += count
        elif place not in self._spilled_to:
            self._spilled_to.append(place)
        message = self._cause.message
        if self._spilled_to:
            places = " and ".join(map(str, self._spilled_to))
            message += f" What it could not take is in {places}; the next run enters it from there."
        if self._placeless:
            message += f" {self._placeless} receipts or answers found no place anywhere and are lost."
        self.failed = StorageFailed(message, hint=self._cause.hint)
        return self.failed


def _file_at(path: Path | None) -> tuple[int, int] | None:
    """Return which file lies at a path; None where none does."""
    if path is not None:
        with suppress(OSError):
            found = path.stat()
            return found.st_dev, found.st_ino
    return None
