"""How much a row group of a Parquet file can unpack to, told before it is read.

Law: reads metadata and the heads of dictionary pages, nothing else; what cannot be told is no reason to refuse. A few
bytes can stand for gigabytes in two ways: a long value of a dictionary that many rows share, and a list of one value a
billion times. The first is read in few rows at a time, the second is refused where it cannot be meant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from pyarrow import parquet as pq

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


def most_rows(file: pq.ParquetFile, source: BinaryIO, group: int, names: list[str]) -> int:
    """Return how many rows of a row group may be read at once.

    Args:
        file: An open file.
        source: The same, as bytes.
        group: Which row group.
        names: The columns that are read.
    """
    found = file.metadata.row_group(group)
    chunks = (found.column(position) for position in range(found.num_columns))
    read = (_dictionary_bytes(source, chunk) for chunk in chunks if _is_read(chunk.path_in_schema, names))
    largest = max(read, default=0)
    return max(1, _TOGETHER_BYTES // max(largest, 1))


def find_bomb(file: pq.ParquetFile, names: list[str]) -> str | None:
    """Return which column's lists are nothing but repetition, in words; None where there is none.

    Args:
        file: An open file.
        names: The columns that are read.
    """
    lists = [
        position
        for position in range(len(file.schema))
        if file.schema.column(position).max_repetition_level and _is_read(file.schema.column(position).path, names)
    ]
    for group in range(file.num_row_groups) if lists else ():
        found = file.metadata.row_group(group)
        for position in lists:
            chunk = found.column(position)
            values, stored, packed = chunk.num_values, chunk.total_uncompressed_size, chunk.total_compressed_size
            repeats = values > _A_BYTE * stored or stored > _PACKED * packed or values > _A_ROW * max(found.num_rows, 1)
            if values > _MANY and repeats:
                where = f"column {chunk.path_in_schema} of row group {group}"
                return f"{where} unpacks {packed:,} bytes to {values:,} values"
    return None


def _is_read(path: str, names: list[str]) -> bool:
    return path in names or path.partition(".")[0] in names


def _dictionary_bytes(source: BinaryIO, chunk: pq.ColumnChunkMetaData) -> int:
    """Return how large a column's dictionary is when unpacked; 0 where there is none, or its head cannot be read."""
    if not chunk.has_dictionary_page or chunk.dictionary_page_offset is None:
        return 0
    try:
        head = iter(os.pread(source.fileno(), _HEAD_BYTES, chunk.dictionary_page_offset))
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
