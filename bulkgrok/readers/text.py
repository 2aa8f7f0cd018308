"""Plain text: one prompt a line, its spaces kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bulkgrok.core.model import RawRow
from bulkgrok.core.ports import Passing
from bulkgrok.readers.blocks import BLOCK_BYTES
from bulkgrok.readers.identity import Place
from bulkgrok.readers.jsonl import JsonlReader
from bulkgrok.readers.lines import LINE_BYTES


class TextReader:
    """Reads prompts, plain or compressed. A line that is no UTF-8 gets a defect.

    Args:
        path: A regular file.
        compression: gzip, zstd, or None.
        line_bytes: n bytes in the longest line that is a row.
        block_bytes: n bytes read at a time.
    """

    def __init__(
        self,
        path: Place,
        *,
        compression: str | None = None,
        line_bytes: int = LINE_BYTES,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._lines = JsonlReader(path, compression=compression, line_bytes=line_bytes, block_bytes=block_bytes)

    def chunks(self, passing: Passing | None = None) -> Iterator[Sequence[RawRow]]:
        """Yield all rows from the first; see `core.ports.Reader`."""
        for chunk in self._lines.chunks(passing):
            yield [_prompt(raw) for raw in chunk]


def _prompt(raw: RawRow) -> RawRow:
    if raw.defect is not None or not isinstance(raw.value, bytes):
        return raw
    try:
        text = raw.value.decode("utf-8")
    except UnicodeDecodeError as error:
        defect = f"the line is not UTF-8 (byte {error.start + 1} of it)"
        return RawRow(row=raw.row, line=raw.line, value=b"", defect=defect)
    return RawRow(row=raw.row, line=raw.line, value={"prompt": text})
