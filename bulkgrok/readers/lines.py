"""Lines of a text input, split on the byte 0x0A and on nothing else.

Law: the same lines whatever the sizes of the blocks they come in. A line is 1-based and physical; blank ones (ASCII
white space only) count as lines and are no rows. A line over the cap is never held as a whole: it becomes a defect,
its bytes are passed over, and the next line goes on. What a line says is not this module's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from bulkgrok.core.errors import InputError
from bulkgrok.core.model import RawRow
from bulkgrok.core.ports import Passing
from bulkgrok.readers.blocks import BrokenInput
from bulkgrok.readers.identity import Place

#: n bytes in the longest line that is a row. Larger than any request body the API takes.
LINE_BYTES: Final = 64 << 20
#: n rows in a chunk at most.
CHUNK_ROWS: Final = 256

_BOM: Final = b"\xef\xbb\xbf"


class _TooLong:
    """Stands for a line over the cap that is not blank."""


_TOO_LONG: Final = _TooLong()

Line = bytes | _TooLong


def rows(
    blocks: Iterable[bytes], path: Place, *, line_bytes: int = LINE_BYTES, passing: Passing | None = None
) -> Iterator[list[RawRow]]:
    """Yield the lines of a text as rows, in chunks.

    Args:
        blocks: The text in pieces of any size, none of them empty.
        path: What it is called in errors.
        line_bytes: n bytes in the longest line that is a row; longer ones get a defect.
        passing: Asked of rows before they are made; those for which it says yes are left out.

    Raises:
        InputError: The text breaks off; every whole line before that has been yielded.
    """
    row = 0
    number = 0
    try:
        for lines in _lines(_without_bom(blocks), line_bytes):
            if passing is not None and _all_are_rows(lines) and passing(row, row + len(lines)):
                number += len(lines)
                row += len(lines)
                continue
            for start in range(0, len(lines), CHUNK_ROWS):
                chunk: list[RawRow] = []
                for line in lines[start : start + CHUNK_ROWS]:
                    number += 1
                    if isinstance(line, _TooLong):
                        chunk.append(_defective(row, number, line_bytes))
                    elif not line or line.isspace():
                        continue
                    else:
                        value = line[:-1] if line.endswith(b"\r") else line
                        chunk.append(RawRow(row=row, line=number, value=value))
                    row += 1
                if chunk:
                    yield chunk
    except BrokenInput as error:
        msg = f"{path} breaks off after line {number} ({row} rows): {error}."
        hint = "The file is cut off or damaged: make or copy it again, and name the run anew with -o OTHER.jsonl."
        raise InputError(msg, hint=hint) from None


def _all_are_rows(lines: list[Line]) -> bool:
    """Tell whether no line is blank, as in nearly all files; False too where one is over the cap."""
    try:
        return all(map(bytes.strip, lines))  # type: ignore[arg-type] # the one that is none raises
    except TypeError:
        return False


def _defective(row: int, number: int, line_bytes: int) -> RawRow:
    defect = f"the line is longer than {line_bytes} bytes, more than a request can hold"
    return RawRow(row=row, line=number, value=b"", defect=defect)


def _without_bom(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks without the byte-order mark that the text may begin with."""
    pending = iter(blocks)
    head = b""
    while len(head) < len(_BOM) and (block := next(pending, None)) is not None:
        head += block
    head = head.removeprefix(_BOM)
    if head:
        yield head
    yield from pending


def _lines(blocks: Iterable[bytes], line_bytes: int) -> Iterator[list[Line]]:
    """Yield the lines that end in each block, and at last the one without an end if there is one.

    A text that breaks off ends in the middle of a line: that one is not yielded.
    """
    begun = _Unfinished(line_bytes)
    for block in blocks:
        first, *lines = block.split(b"\n")
        begun.extend(first)
        if not lines:
            continue
        finished: list[Line] = [begun.end()]
        begun.extend(lines.pop())
        if len(block) > line_bytes:
            finished.extend(line if len(line) <= line_bytes or line.isspace() else _TOO_LONG for line in lines)
        else:
            finished.extend(lines)
        yield finished
    if begun.size:
        yield [begun.end()]


class _Unfinished:
    """A line whose end has not been seen. Holds at most the cap and the block that passed it."""

    __slots__ = ("_blank", "_cap", "_parts", "size")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._parts: list[bytes] = []
        self._blank = True
        self.size = 0

    def extend(self, part: bytes) -> None:
        """Add what comes next of it."""
        if not part:
            return
        self.size += len(part)
        if self.size <= self._cap:
            self._parts.append(part)
            return
        # Over the cap: all that still matters is whether it is blank.
        self._blank = self._blank and all(piece.isspace() for piece in (*self._parts, part))
        self._parts.clear()

    def end(self) -> Line:
        """Return the line and begin the next."""
        line: Line = b"".join(self._parts)
        if self.size > self._cap:
            line = b"" if self._blank else _TOO_LONG
        self._parts.clear()
        self._blank = True
        self.size = 0
        return line
