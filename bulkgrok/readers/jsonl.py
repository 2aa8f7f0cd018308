"""JSON lines: each line's bytes are a row, parsed by whoever encodes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bulkgrok.core.model import RawRow
from bulkgrok.core.ports import Passing
from bulkgrok.readers.blocks import BLOCK_BYTES, blocks
from bulkgrok.readers.identity import Place
from bulkgrok.readers.lines import LINE_BYTES, rows


class JsonlReader:
    """Reads JSON lines, plain or compressed.

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
        self._path = path
        self._compression = compression
        self._line_bytes = line_bytes
        self._block_bytes = block_bytes

    def chunks(self, passing: Passing | None = None) -> Iterator[Sequence[RawRow]]:
        """Yield all rows from the first; see `core.ports.Reader`."""
        data = blocks(self._path, compression=self._compression, block_bytes=self._block_bytes)
        return rows(data, self._path, line_bytes=self._line_bytes, passing=passing)
