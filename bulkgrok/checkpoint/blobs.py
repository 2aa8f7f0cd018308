"""Large answers in and out of the database a piece at a time.

Law: SQLite copies a value it is given once, and what it gives out once more; of tens of megabytes that is too much. So
room for a large value is made first and then filled, and it is read straight into the bytes that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import apsw

from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.ports import LargeBody

#: reads.sql has the same number: of larger values it returns the size.
LARGE_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 18


def size_of(raw: bytes | LargeBody) -> int:
    """Return how large an answer is."""
    return len(raw) if isinstance(raw, bytes) else raw.size_bytes


def pieces_of(raw: bytes | LargeBody) -> Iterable[bytes | memoryview]:
    """Return an answer in pieces."""
    return _slices(raw) if isinstance(raw, bytes) else raw.blocks()


def _slices(raw: bytes) -> Iterator[memoryview]:
    view = memoryview(raw)
    for start in range(0, len(raw), _PIECE_BYTES):
        yield view[start : start + _PIECE_BYTES]


def fill(connection: apsw.Connection, row: int, raw: bytes | LargeBody) -> None:
    """Fill the room that was made for the answer of a row. Inside a transaction.

    Raises:
        StorageFailed: The answer's own file cannot be read, or is not as large as it was.
    """
    left = size_of(raw)
    with connection.blob_open("main", "answer", "raw", row, True) as blob:
        for piece in pieces_of(raw):
            left -= len(piece)
            if left >= 0:
                blob.write(piece)
    if left:
        msg = f"The file with the answer of row {row} is not as large as it was written."
        raise StorageFailed(msg)


def read(connection: apsw.Connection, row: int) -> bytes:
    """Return the answer of a row."""
    blob = connection.blob_open("main", "answer", "raw", row, False)
    try:
        return blob.read()
    finally:
        blob.close()
