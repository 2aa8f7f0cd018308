"""Parquet: row groups streamed, only the columns that are needed.

Law: memory is that of a few pages and one batch, however large the row groups are. A row group that cannot be read
ends the input after the batches before it; a cell that cannot be said in JSON makes a defect of its row alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
from pyarrow import parquet as pq

from bulkgrok.core.errors import InputError
from bulkgrok.core.model import RawRow
from bulkgrok.core.ports import Passing
from bulkgrok.readers.cells import converted
from bulkgrok.readers.identity import Place, open_input
from bulkgrok.readers.lines import LINE_BYTES
from bulkgrok.readers.unpacking import Gate, find_bomb, most_rows

#: n rows read at a time at most, and about how many bytes of them.
BATCH_ROWS: Final = 256
_BATCH_BYTES: Final = 1 << 20
_PROBE_ROWS: Final = 8
#: Read a column by the page, not by the row group: n bytes of read-ahead each.
_BUFFER_BYTES: Final = 1 << 18

_FAILURES: Final = (pa.ArrowException, OSError, ValueError, MemoryError, NotImplementedError)


class ParquetReader:
    """Reads the rows of one Parquet file as objects.

    Args:
        path: A regular file.
        columns: Those needed, None for all; a column that the file does not have is absent from its rows.

    Raises:
        InputError: It is damaged, two of its columns have the same name, or it unpacks to more than can be meant.
    """

    def __init__(self, path: Place, *, columns: frozenset[str] | None = None) -> None:
        self._path = path
        try:
            with open_input(path) as opened, self._open(source := Gate(opened)) as file:
                names = file.schema_arrow.names
                self._names = [name for name in names if columns is None or name in columns]
                bomb = find_bomb(file, source, self._names)
        except _FAILURES as error:
            msg = f"{path} cannot be read as Parquet: {_reason(error)}. Nothing was sent."
            raise InputError(msg, hint="The file is damaged or encrypted: make or copy it again.") from None
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            msg = f"{path} has more than one column {', '.join(map(repr, twice))}. Nothing was sent."
            raise InputError(msg, hint="Give every column its own name.")
        if bomb is not None:
            msg = f"{path}: {bomb}, which is no data for requests. Nothing was sent."
            raise InputError(msg, hint="Leave that column out; with --prompt only the columns it names are read.")

    def chunks(self, passing: Passing | None = None) -> Iterator[Sequence[RawRow]]:
        """Yield all rows from the first, `line` None; see `core.ports.Reader`."""
        row = 0
        group = 0
        try:
            with open_input(self._path) as opened, self._open(source := Gate(opened)) as file:
                for group in range(file.num_row_groups):
                    for batch in self._batches(file, source, group):
                        if passing is not None and passing(row, row + batch.num_rows):
                            row += batch.num_rows
                            continue
                        chunk = [_row(row + index, value) for index, value in enumerate(self._values(batch))]
                        row += len(chunk)
                        if chunk:
                            yield chunk
        except _FAILURES as error:
            msg = f"{self._path} breaks off after row {row} (in row group {group}): {_reason(error)}."
            hint = "The file is damaged: make or copy it again, and name the run anew with -o OTHER.jsonl."
            raise InputError(msg, hint=hint) from None

    def _open(self, source: Gate) -> pq.ParquetFile:
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES)

    def _values(self, batch: pa.RecordBatch) -> Iterator[dict[str, object] | str]:
        """Yield the rows of a batch; those that are larger than any request are never made."""
        if batch.nbytes <= LINE_BYTES:
            yield from converted(batch, self._names)
            return
        for index in range(batch.num_rows):
            one = batch.slice(index, 1)
            if one.nbytes > LINE_BYTES:
                yield f"the row is larger than {LINE_BYTES} bytes, more than a request can hold"
            else:
                yield from converted(one, self._names)

    def _batches(self, file: pq.ParquetFile, source: Gate, group: int) -> Iterator[pa.RecordBatch]:
        """Yield a row group in batches of about a megabyte, going by its metadata and its first rows.

        The metadata know the stored size only: a long text that all rows share is stored once.
        """
        found = file.metadata.row_group(group)
        size = min(_fitting(found.total_byte_size, found.num_rows), most_rows(file, source, group, self._names))
        if size > _PROBE_ROWS and (probe := next(self._read(file, group, _PROBE_ROWS), None)) is not None:
            size = min(size, _fitting(probe.nbytes, probe.num_rows))
        return self._read(file, group, size)

    def _read(self, file: pq.ParquetFile, group: int, size: int) -> Iterator[pa.RecordBatch]:
        return iter(file.iter_batches(size, row_groups=[group], columns=self._names, use_threads=False))


def _fitting(size_bytes: int, count: int) -> int:
    """Return how many rows of this size make a batch."""
    each = size_bytes // max(count, 1)
    return max(1, min(BATCH_ROWS, _BATCH_BYTES // max(each, 1)))


def _row(row: int, value: dict[str, object] | str) -> RawRow:
    if isinstance(value, str):
        return RawRow(row=row, line=None, value={}, defect=value)
    return RawRow(row=row, line=None, value=value)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
