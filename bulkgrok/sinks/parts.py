"""The results as a folder of parts.

Law: a part is whole or absent: written under a hidden name, flushed, renamed. Part n begins behind the last row of
part n-1, and the position lists them all: what is not in the list is removed by `restore`, and from the first listed
part that is missing or damaged everything is written again. `_manifest.json` comes last and only when every row has
its outcome; it goes before another row is added.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final, Protocol, cast

import orjson

from bulkgrok.core.failpoints import hit
from bulkgrok.core.model import Decoded, Position, Settled
from bulkgrok.sinks import files, line, ownership
from bulkgrok.sinks.files import Draft, Marks, new_mark
from bulkgrok.sinks.quota import Quota

ROWS_A_PART: Final = 50_000
BYTES_A_PART: Final = 128 << 20
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
    """Write a folder of parts. The position's state is {"mark", "parts": [{name, rows, bytes, sha256, first_seq, …}]}.

    The mark is drawn by the first `restore`; tables carry it, so that a part is known which a crash left behind
    between its rename and the storing of its position. Lines are known by what they say.

    Args:
        output: The folder.
        simulated: Whether rows are marked as simulated.
        summarise: Decodes an answer, given its kind's name and its body.
        rows_a_part: n rows after which a part is closed.
        bytes_a_part: n bytes of bodies after which a part is closed.
        mark: Draws a mark that no other run has.
    """

    appendable: ClassVar[bool] = True
    suffix: ClassVar[str]

    def __init__(  # noqa: PLR0913 - three are what a sink is, the rest have defaults
        self,
        output: Path,
        *,
        simulated: bool,
        summarise: Callable[[str, bytes], Decoded],
        rows_a_part: int = ROWS_A_PART,
        bytes_a_part: int = BYTES_A_PART,
        mark: Callable[[], str] = new_mark,
    ) -> None:
        self.name = f"{self.suffix}-parts:{output.absolute()}"
        self._folder = output
        self._simulated = simulated
        self._summarise = summarise
        self._quota = Quota(rows=rows_a_part, size_bytes=bytes_a_part)
        self._parts: list[Marks] = []
        self._lock = -1
        self._draft: Draft | None = None
        self._inside: PartWriter | None = None
        self._new_mark = mark
        self._mark = ""
        self._seq = 0
        self._final = Position(seq=0)

    @abstractmethod
    def _writer(self, draft: Draft) -> PartWriter: ...

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a folder that holds data this run did not write. Changes nothing."""
        if files.look(self._folder, folder=True) is None:
            return
        with files.looking(self._folder):
            names = sorted(name for name in files.names(self._folder) if _DATA.fullmatch(name))
        marks = {str(entry.get("name")): _as_marks(entry) for entry in _entries(position)}
        mark = {"mark": position.state.get("mark")} if position else {}
        known = position is not None
        for name in names:
            path = self._folder / name
            if _PART.fullmatch(name):
                found = files.look(path)
                if found is None or not ownership.ours(path, found, marks.get(name, {}) | mark, owned):
                    raise files.foreign(path)
                known = True
        for name in names:
            path = self._folder / name
            if _PART.fullmatch(name):
                continue
            if not known or name.startswith("part-") or (name == MANIFEST and not _is_manifest(path)):
                raise files.foreign(path)

    def restore(self, position: Position | None) -> Position:
        """Keep the listed parts up to the first that is damaged; remove everything of ours behind it."""
        self.close()
        with files.storing(self._folder):
            files.make_folder(self._folder, mode=0o700)
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            files.lock(self._lock, self._folder)
            listed = _entries(position)
            self._mark = str((position and position.state.get("mark")) or self._mark or self._new_mark())
            self._parts = []
            for entry in listed:
                path = self._folder / f"part-{len(self._parts):08d}.{self.suffix}"
                if entry.get("name") != path.name or not files.intact(path, _as_marks(entry)):
                    break
                self._parts.append(entry | files.stamp(path.stat()))
            kept = {str(entry["name"]) for entry in self._parts}
            gone = [name for name in files.names(self._folder) if _DRAFT.fullmatch(name) or _PART.fullmatch(name)]
            for name in sorted(set(gone) - kept):
                (self._folder / name).unlink()
            if len(self._parts) < len(listed):
                self._drop_manifest()
            files.sync_folder(self._folder)
        self._seq = cast("int", self._parts[-1]["last_seq"]) if self._parts else 0
        self._final = self._here()
        return self._final

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Take rows into the hidden part, closing it wherever it is full."""
        with files.storing(self._folder):
            for piece in self._quota.split(outcomes):
                self._open().add(piece)
                self._seq = piece[-1].seq
                if self._quota.full:
                    self._close_part()

    def _open(self) -> PartWriter:
        if self._inside is None:
            self._drop_manifest()
            self._draft = Draft(self._folder / f"part-{len(self._parts):08d}.{self.suffix}")
            self._inside = self._writer(self._draft)
        return self._inside

    def _close_part(self) -> None:
        if self._inside is None or self._draft is None:
            return
        self._inside.close()
        hit("sink.before_rename")
        marks = self._draft.publish()
        hit("sink.renamed")
        entry: Marks = {
            "name": self._draft.path.name,
            "rows": self._quota.rows,
            "bytes": marks.pop("size"),
            "sha256": marks.pop("sha256"),
            "first_seq": self._final.seq + 1,
            "last_seq": self._seq,
        }
        self._parts.append(entry | marks)
        self._inside = self._draft = None
        self._quota.clear()
        self._final = self._here()

    def commit(self) -> Position:
        """Return the position behind the last closed part; the same object until another is closed."""
        return self._final

    def finish(self, *, complete: bool) -> Position:
        """Close the part that is being written; when complete, write the manifest behind at least one part."""
        with files.storing(self._folder):
            if complete and not self._parts:
                self._open()
            self._close_part()
            if complete:
                self._write_manifest()
            else:
                self._drop_manifest()
        return self._final

    def close(self) -> None:
        """Drop what is in no closed part."""
        if self._draft is not None:
            self._draft.discard()
        self._inside = self._draft = None
        self._quota.clear()
        fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)

    def _here(self) -> Position:
        return Position(seq=self._seq, state={"mark": self._mark, "parts": list(self._parts)})

    def _write_manifest(self) -> None:
        manifest = {
            "format": self.suffix,
            "rows": sum(cast("int", entry["rows"]) for entry in self._parts),
            "simulated": self._simulated,
            "parts": [{key: entry[key] for key in _LISTED} for entry in self._parts],
        }
        data = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
        path = self._folder / MANIFEST
        with suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return
        draft = Draft(path)
        draft.write(data)
        draft.publish()

    def _drop_manifest(self) -> None:
        with suppress(FileNotFoundError):
            (self._folder / MANIFEST).unlink()
            files.sync_folder(self._folder)


class JsonlParts(PartsSink):
    """Write a folder of `part-00000000.jsonl` …."""

    suffix: ClassVar[str] = "jsonl"

    def _writer(self, draft: Draft) -> PartWriter:
        return _Lines(draft, simulated=self._simulated)


class _Lines:
    def __init__(self, draft: Draft, *, simulated: bool) -> None:
        self._draft = draft
        self._simulated = simulated

    def add(self, outcomes: Sequence[Settled]) -> None:
        for block in line.render_all(outcomes, simulated=self._simulated):
            self._draft.write(block)

    def close(self) -> None:
        """Do nothing: lines need no end."""


def _entries(position: Position | None) -> list[Marks]:
    parts = position.state.get("parts") if position else None
    return [dict(entry) for entry in parts if isinstance(entry, Mapping)] if isinstance(parts, list) else []


def _as_marks(entry: Mapping[str, object]) -> Marks:
    return {**entry, "size": entry.get("bytes")}


def _is_manifest(path: Path) -> bool:
    """Tell whether it looks like one of ours, which may have been cut short."""
    with files.looking(path), path.open("rb") as file:
        head = b"".join(file.read(256).split())[: len(_MANIFEST_HEAD)]
    return _MANIFEST_HEAD.startswith(head)
