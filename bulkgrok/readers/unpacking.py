"""How much a row group of a Parquet file can unpack to, told before it is read.

Law: reads metadata and the heads of dictionary pages, nothing else; what cannot be told is no reason to refuse. A few
bytes can stand for gigabytes in two ways: a long value of a dictionary that many rows share, and a list of one value a
billion times. The first is read in few rows at a time, the second is refused where it cannot be meant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Final

from pyarrow import parquet as pq

from bulkgrok.objects import ObjectFile

#: n bytes that rows of one batch may take in all, should each of them hold the largest value of its dictionary.
_TOGETHER_BYTES: Final = 64 << 20
#: n values of lists in one row group that are no reason to look closer.
_MANY: Final = 1 << 26
#: n values that one byte stands for, before and after it is unpacked; more is no data.
_A_BYTE: Final = 16
_PACKED: Final = 1_000
#: n values in a row: more is longer than any request, even as single digits.
_A_ROW: Final = 1 << 25
_HEAD_BYTES: Final = 64
#: Thrift's compact protocol: a field whose number follows that of the one before, of type i32.
_NEXT_I32: Final = 0x15
_DICTIONARY_PAGE: Final = 2


class Gate:
    """The bytes of a Parquet file, which can be withheld.

    Args:
        source: The file, open; it stays the caller's.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.is_shut = False
        self.asked = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, none while it is shut."""
        if self.is_shut:
            self.asked += 1
            return b""
        return self._source.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, and return it."""
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._source.tell()

    def pread(self, size: int, offset: int) -> bytes:
        """Return bytes from a place, without going there."""
        if isinstance(self._source, ObjectFile):
            return self._source.pread(size, offset)
        return os.pread(self._source.fileno(), size, offset)

    def close(self) -> None:
        """Leave the file open: it is the caller's."""

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._source.closed


def most_rows(file: pq.ParquetFile, source: Gate, group: int, names: list[str]) -> int:
    """Return how many rows of a row group may be read at once.

    Args:
        file: An open file.
        source: What it was opened on.
        group: Which row group.
        names: The columns that are read.

    Raises:
        OSError: The metadata of the row group are damaged.
    """
    _check(file, source, group, names)
    found = file.metadata.row_group(group)
    read = (_dictionary_bytes(source, found.column(position)) for position in _positions(file, names))
    largest = max(read, default=0)
    return max(1, _TOGETHER_BYTES // max(largest, 1))


def find_bomb(file: pq.ParquetFile, source: Gate, names: list[str]) -> str | None:
    """Return which column's lists are nothing but repetition, in words; None where there is none.

    Args:
        file: An open file.
        source: What it was opened on.
        names: The columns that are read.

    Raises:
        OSError: The metadata of a row group are damaged.
    """
    lists = [position for position in _positions(file, names) if file.schema.column(position).max_repetition_level]
    for group in range(file.num_row_groups) if lists else ():
        _check(file, source, group, names)
        found = file.metadata.row_group(group)
        for position in lists:
            chunk = found.column(position)
            values, stored, packed = chunk.num_values, chunk.total_uncompressed_size, chunk.total_compressed_size
            repeats = values > _A_BYTE * stored or stored > _PACKED * packed or values > _A_ROW * max(found.num_rows, 1)
            if values > _MANY and repeats:
                where = f"column {chunk.path_in_schema} of row group {group}"
                return f"{where} unpacks {packed:,} bytes to {values:,} values"
    return None


def _check(file: pq.ParquetFile, source: Gate, group: int, names: list[str]) -> None:
    """Look at the metadata of a row group's columns without reading a page.

    pyarrow ends the process where it is asked for damaged metadata of a column, but raises where it is about to read
    the column: it is let to begin, and nothing is given to it.

    Raises:
        OSError: They are damaged.
    """
    source.is_shut, source.asked = True, 0
    try:
        with suppress(StopIteration):
            next(file.iter_batches(1, row_groups=[group], columns=names, use_threads=False))
    except Exception:
        if not source.asked:
            raise
    finally:
        source.is_shut = False


def _positions(file: pq.ParquetFile, names: list[str]) -> list[int]:
    """Return which columns of the file make up those that are read."""
    paths = (file.schema.column(position).path for position in range(len(file.schema)))
    return [position for position, path in enumerate(paths) if path in names or path.partition(".")[0] in names]


def _dictionary_bytes(source: Gate, chunk: pq.ColumnChunkMetaData) -> int:
    """Return how large a column's dictionary is when unpacked; 0 where there is none, or its head cannot be read."""
    if not chunk.has_dictionary_page or chunk.dictionary_page_offset is None:
        return 0
    try:
        head = iter(source.pread(_HEAD_BYTES, chunk.dictionary_page_offset))
    except (OSError, OverflowError):
        return 0
    kind, size = _field(head), _field(head)
    return size if kind == _DICTIONARY_PAGE else 0


def _field(head: Iterator[int]) -> int:
    """Return the next field of a page's head, a zigzag varint behind a byte that says so; -1 for anything else."""
    if next(head, None) != _NEXT_I32:
        return -1
    value = shift = 0
    for byte in head:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    return (value >> 1) ^ -(value & 1)
