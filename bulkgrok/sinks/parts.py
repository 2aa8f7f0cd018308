"""The results as a folder of parts, on a disk or in an object store.

Law: a part is whole or absent. Which rows it holds is stored in the position (`planned`) before anybody can see it, so
that writing it again writes the same. Part n begins behind the last row of part n-1; what the position does not list is
removed by `restore`, and from the first listed part that is missing or damaged all are made again, with the rows they
had; those that are still there are not put again. `_manifest.json` comes last and only when every row has its outcome;
it goes before another row is added.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final, Protocol, cast

import orjson

from bulkgrok.core.model import Decoded, Position, Settled
from bulkgrok.sinks import line, places
from bulkgrok.sinks.files import Draft, Marks, new_mark
from bulkgrok.sinks.patience import Patience
from bulkgrok.sinks.places import Away, Folder, Place
from bulkgrok.sinks.quota import Quota

ROWS_A_PART: Final = 50_000
BYTES_A_PART: Final = 128 << 20
#: A part in an object store is closed after so many seconds: a long run delivers as it goes.
SECONDS_A_PART: Final = 600.0
MANIFEST: Final = "_manifest.json"
_MANIFEST_HEAD = b'{"format":"'
_LISTED = ("name", "rows", "bytes", "sha256", "first_seq", "last_seq")
_PART = re.compile(r"part-\d{8}\.(?:jsonl|parquet)")
_DRAFT = re.compile(r"\.(?:part-\d{8}\.(?:jsonl|parquet)|_manifest\.json)\.tmp")
_DATA = re.compile(r"part-.*|_manifest\.json|(?!_errors\.jsonl).*\.(?:jsonl|parquet)", re.DOTALL)


class PartWriter(Protocol):
    """Writes the inside of one part."""

    def add(self, outcomes: Sequence[Settled], /) -> None:
        """Take rows."""
        ...

    def close(self) -> None:
        """Write what waits and what belongs at the end."""
        ...


class PartsSink(ABC):
    """Write a folder of parts.

    The position's state is {"mark", "parts": [{name, rows, bytes, sha256, first_seq, last_seq, …}], "planned": [same]}:
    those that are in place, and those whose rows are settled and which may be in place or not.

    The mark is drawn by the first `restore`; tables carry it, so that a part is known of which the position was lost.
    Lines are known by what they say.

    Args:
        output: The folder, or the place it is.
        simulated: Whether rows are marked as simulated.
        summarise: Decodes an answer, given its kind's name and its body.
        rows_a_part: n rows after which a part is closed.
        bytes_a_part: n bytes of bodies after which a part is closed.
        seconds_a_part: Seconds after which a part in an object store is closed.
        mark: Draws a mark that no other run has.
        monotonic: Seconds that never go back.
    """

    appendable: ClassVar[bool] = True
    suffix: ClassVar[str]

    def __init__(  # noqa: PLR0913 - three are what a sink is, the rest have defaults
        self,
        output: Path | Place,
        *,
        simulated: bool,
        summarise: Callable[[str, bytes], Decoded],
        rows_a_part: int = ROWS_A_PART,
        bytes_a_part: int = BYTES_A_PART,
        seconds_a_part: float = SECONDS_A_PART,
        mark: Callable[[], str] = new_mark,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = Folder(output) if isinstance(output, Path) else output
        self.name = f"{self.suffix}-parts:{self._place}"
        self._simulated = simulated
        self._summarise = summarise
        self._quota = Quota(rows=rows_a_part, size_bytes=bytes_a_part)
        self._seconds = seconds_a_part
        self._monotonic = monotonic
        self._patience = Patience(monotonic)
        self._new_mark = mark
        self._mark = ""
        self._parts: list[Marks] = []
        """Those in place."""
        self._sealed: deque[tuple[Marks, Draft]] = deque()
        """Those that are made and not in place."""
        self._fixed: deque[Marks] = deque()
        """Those to be made again, with the same rows."""
        self._told = 0
        """How many of the sealed were in the position that was returned last, and are stored by the next call."""
        self._draft: Draft | None = None
        self._inside: PartWriter | None = None
        self._began = 0.0
        self._seq = 0
        self._has_manifest = False
        self._ending = False
        self._final = Position(seq=0)

    @abstractmethod
    def _writer(self, draft: Draft) -> PartWriter: ...

    @property
    def unfinished(self) -> bool:
        """Whether `commit` or `finish` has more to do once its position is stored, or its place is back."""
        return bool(self._sealed) or self._ending or self._patience.tried or self._overdue()

    def _overdue(self) -> bool:
        late = self._place.remote and self._inside is not None and not self._fixed
        return late and self._monotonic() - self._began >= self._seconds

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a folder that holds data this run did not write. Changes nothing."""
        place = self._place
        place.check(folder=True)
        names = [name for name in place.names() if _DATA.fullmatch(name)]
        marks = {str(entry.get("name")): _as_marks(entry) for entry in _entries(position)}
        mark = {"mark": position.state.get("mark")} if position else {}
        known = position is not None
        for name in names:
            if _PART.fullmatch(name):
                if not place.ours(name, marks.get(name, {}) | mark, owned):
                    raise places.foreign(place, name)
                known = True
        for name in names:
            if _PART.fullmatch(name):
                continue
            if not known or name.startswith("part-") or (name == MANIFEST and not self._is_manifest()):
                raise places.foreign(place, name)

    def _is_manifest(self) -> bool:
        """Tell whether it looks like one of ours, which may have been cut short."""
        head = b"".join((self._place.read(MANIFEST, 256) or b"").split())[: len(_MANIFEST_HEAD)]
        return _MANIFEST_HEAD.startswith(head)

    def restore(self, position: Position | None) -> Position:
        """Keep the listed parts up to the first that is damaged; the rest is made again, with the rows it had."""
        self.close()
        place = self._place
        with self._storing_now():
            place.open(folder=True)
            listed = _following(_entries(position), self.suffix)
            self._mark = str((position and position.state.get("mark")) or self._mark or self._new_mark())
            self._parts = []
            for entry in listed:
                stamp = place.intact(str(entry["name"]), _as_marks(entry))
                if stamp is None:
                    break
                self._parts.append(entry | stamp)
            self._fixed = deque(listed[len(self._parts) :])
            there = place.names()
            gone = {name for name in there if _DRAFT.fullmatch(name) or _PART.fullmatch(name)}
            for name in sorted(gone - {str(entry["name"]) for entry in listed}):
                place.remove(name)
            self._has_manifest = MANIFEST in there
            if self._fixed:
                self._drop_manifest()
            place.settle()
        self._seq = cast("int", self._parts[-1]["last_seq"]) if self._parts else 0
        self._final = self._here()
        return self._final

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Take rows into the part that is being made, closing it wherever it is full."""
        with self._storing_now():
            for piece in self._pieces(outcomes):
                self._open().add(piece)
                self._seq = piece[-1].seq
                if self._quota.full if not self._fixed else self._seq >= _last(self._fixed[0]):
                    self._seal()

    def _pieces(self, outcomes: Sequence[Settled]) -> Iterator[Sequence[Settled]]:
        """Yield outcomes in pieces that end where a part does."""
        start = 0
        while self._fixed and start < len(outcomes):
            end = start
            while end < len(outcomes) and outcomes[end].seq <= _last(self._fixed[0]):
                end += 1
            if end == start:
                self._seal()
                continue
            self._quota.rows += end - start
            yield outcomes[start:end]
            start = end
        yield from self._quota.split(outcomes[start:])

    def _open(self) -> PartWriter:
        if self._inside is None:
            number = len(self._parts) + len(self._sealed)
            self._draft = self._place.draft(_name(number, self.suffix))
            self._inside = self._writer(self._draft)
            self._began = self._monotonic()
        return self._inside

    def _seal(self) -> None:
        """Close the part that is being made; from now on its rows are settled."""
        before = self._fixed.popleft() if self._fixed else {}
        if self._inside is None or self._draft is None:
            return
        self._inside.close()
        marks = self._draft.seal()
        entry: Marks = {
            "name": _name(len(self._parts) + len(self._sealed), self.suffix),
            "rows": self._quota.rows,
            "bytes": marks["size"],
            "sha256": marks["sha256"],
            "first_seq": self._closed_seq + 1,
            "last_seq": self._seq,
        }
        if before.get("sha256") == marks["sha256"]:
            entry = before | entry
        self._sealed.append((entry, self._draft))
        self._inside = self._draft = None
        self._quota.clear()

    @property
    def _closed_seq(self) -> int:
        entries = [entry for entry, _ in self._sealed] or self._parts
        return _last(entries[-1]) if entries else 0

    def commit(self) -> Position:
        """Return the position behind the last part in place; what an earlier call planned is put in place first."""
        with self._storing_now():
            if self._overdue():
                self._seal()
        if not self._patience.over:
            return self._final
        changed = False
        with self._patience, self._place.storing():
            if self._inside is not None or self._sealed:
                self._drop_manifest()
            while self._told:
                entry, draft = self._sealed[0]
                marks = self._place.publish(str(entry["name"]), draft, entry)
                del marks["size"]
                self._parts.append(entry | marks)
                self._sealed.popleft()
                self._told -= 1
                changed = True
        if changed or len(self._sealed) > self._told:
            self._final = self._here()
            self._told = len(self._sealed)
        return self._final

    def finish(self, *, complete: bool) -> Position:
        """Close the part that is being made; when complete, write the manifest behind at least one part."""
        with self._storing_now():
            if complete and not self._parts and not self._sealed:
                self._open()
            if complete or not self._fixed:
                self._seal()
            elif self._draft is not None:  # the part that is made again has more rows than were given
                self._draft.discard()
                self._inside = self._draft = None
        self._ending = True
        position = self.commit()
        if self._sealed or not self._patience.over:
            if not complete:
                self._patience.give_up()
            return position
        with self._patience, self._place.storing():
            if complete:
                self._write_manifest()
            else:
                self._drop_manifest()
            self._ending = False
        return position

    @contextmanager
    def _storing_now(self) -> Iterator[None]:
        """Map what the place raises where nothing is to be tried again."""
        try:
            with self._place.storing():
                yield
        except Away as away:
            raise away.failure from None

    def close(self) -> None:
        """Drop what is in no closed part."""
        for draft in [self._draft, *(draft for _, draft in self._sealed)]:
            if draft is not None:
                draft.discard()
        self._inside = self._draft = None
        self._sealed.clear()
        self._fixed.clear()
        self._told = 0
        self._ending = False
        self._quota.clear()
        self._place.close()

    def _here(self) -> Position:
        seq = _last(self._parts[-1]) if self._parts else 0
        planned = [*(entry for entry, _ in self._sealed), *self._fixed]
        return Position(seq=seq, state={"mark": self._mark, "parts": list(self._parts), "planned": planned})

    def _write_manifest(self) -> None:
        manifest = {
            "format": self.suffix,
            "rows": sum(cast("int", entry["rows"]) for entry in self._parts),
            "simulated": self._simulated,
            "parts": [{key: entry[key] for key in _LISTED} for entry in self._parts],
        }
        data = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
        if self._has_manifest and self._place.read(MANIFEST, len(data) + 1) == data:
            return
        self._has_manifest = True
        draft = self._place.draft(MANIFEST)
        try:
            draft.write(data)
            self._place.publish(MANIFEST, draft, {})
        finally:
            draft.discard()

    def _drop_manifest(self) -> None:
        if self._has_manifest:
            self._place.remove(MANIFEST)
            self._place.settle()
            self._has_manifest = False


class JsonlParts(PartsSink):
    """Write a folder of `part-00000000.jsonl` …."""

    suffix: ClassVar[str] = "jsonl"

    def _writer(self, draft: Draft) -> PartWriter:
        return LineWriter(draft, simulated=self._simulated)


class LineWriter:
    """Writes the inside of a part of lines."""

    def __init__(self, draft: Draft, *, simulated: bool) -> None:
        self._draft = draft
        self._simulated = simulated

    def add(self, outcomes: Sequence[Settled]) -> None:
        """Take rows."""
        for block in line.render_all(outcomes, simulated=self._simulated):
            self._draft.write(block)

    def close(self) -> None:
        """Do nothing: lines need no end."""


def _name(number: int, suffix: str) -> str:
    return f"part-{number:08d}.{suffix}"


def _last(entry: Mapping[str, object]) -> int:
    return cast("int", entry["last_seq"])


def _entries(position: Position | None) -> list[Marks]:
    """Return what a position lists: parts in place, then those that are planned."""
    found: list[Marks] = []
    for key in ("parts", "planned"):
        entries = position.state.get(key) if position else None
        if isinstance(entries, list):
            found += [dict(entry) for entry in entries if isinstance(entry, Mapping)]
    return found


def _following(entries: Sequence[Marks], suffix: str) -> list[Marks]:
    """Return the entries as far as they are a sequence of parts without a gap."""
    found: list[Marks] = []
    for number, entry in enumerate(entries):
        begins = _last(found[-1]) + 1 if found else 1
        numbers = [entry.get(key) for key in ("rows", "bytes", "first_seq", "last_seq")]
        if entry.get("name") != _name(number, suffix) or not all(isinstance(each, int) for each in numbers):
            break
        if entry["first_seq"] != begins or _last(entry) < begins - 1:
            break
        found.append(entry)
    return found


def _as_marks(entry: Mapping[str, object]) -> Marks:
    return {**entry, "size": entry.get("bytes")}
