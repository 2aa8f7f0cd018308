"""Whether a file is this run's.

Law: what is not provably this run's is not touched. Proof is, in this order: it is empty and this user's; nothing was
done to it since it was stamped, or it holds the same bytes; a table carries the run's own mark; its first line (or
table row) is one that the store holds. Being the same inode is no proof, inodes are used again and people write into
files: it only counts together with what a crash, a cut or an edit leaves of our lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from bulkgrok.sinks.files import intact, looking, owner_is_trusted, same_file, untouched

Owned = Callable[[bytes], bool]

PARQUET_MAGIC: Final = b"PAR1"
_LINE_HEAD: Final = b'{"custom_id":"'
_LONGEST_LINE = 256 << 20
_LINES_LOOKED_AT = 1000
_TAIL_BYTES = 64 << 10


def ours(path: Path, found: os.stat_result, marks: Mapping[str, object], owned: Owned) -> bool:
    """Tell whether this run wrote a file, which may have been cut or edited since.

    Args:
        path: A regular file of ours, or not.
        found: What `stat` said of it.
        marks: What was stored about the file at this place; empty when nothing was.
        owned: Tells whether a line (without its newline) is one that this run wrote.

    Raises:
        UsageError: It cannot be read.
    """
    if found.st_size == 0:
        return same_file(found, marks) or owner_is_trusted(found)
    with looking(path):
        if untouched(found, marks) or intact(path, marks):
            return True
        with path.open("rb") as file:
            return says_so(file, marks, owned, same=same_file(found, marks))


def says_so(file: BinaryIO, marks: Mapping[str, object], owned: Owned, *, same: bool) -> bool:
    """Tell by what an open file says whether this run wrote it.

    Args:
        file: Open at its beginning, not empty.
        marks: As in `ours`.
        owned: As in `ours`.
        same: Whether it is the very file that was marked, though changed since.
    """
    head = file.read(len(_LINE_HEAD))
    file.seek(0)
    if head.startswith(PARQUET_MAGIC):
        return _table_is_ours(file, marks.get("mark"), owned, same=same)
    return _lines_are_ours(file, head, owned, same=same)


def _lines_are_ours(file: BinaryIO, head: bytes, owned: Owned, *, same: bool) -> bool:
    if same and _torn(head):
        return True
    if not head.lstrip().startswith(b"{") and not same:
        return False
    first = file.readline(_LONGEST_LINE)
    if owned(first.rstrip(b"\r\n")):
        return True
    if not same:
        return False
    if not first.endswith(b"\n") and first.startswith(_LINE_HEAD):
        return True
    others = islice(iter(lambda: file.readline(_LONGEST_LINE), b""), _LINES_LOOKED_AT)
    return any(owned(line.rstrip(b"\r\n")) for line in others)


def _tail(file: BinaryIO) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    return file.read(_TAIL_BYTES)


def _torn(head: bytes) -> bool:
    """Tell whether a file's beginning is what a power cut leaves: nothing written yet, or a few bytes of ours."""
    cut = len(head) < len(_LINE_HEAD) and (_LINE_HEAD.startswith(head) or PARQUET_MAGIC.startswith(head))
    return cut or head.startswith(b"\0")


def _table_is_ours(file: BinaryIO, mark: object, owned: Owned, *, same: bool) -> bool:
    from bulkgrok.sinks.table import first_line, mark_of  # noqa: PLC0415 - pyarrow is loaded for tables only

    try:
        if mark is not None and mark_of(file) == mark:
            return True
        line = first_line(file)
    except ValueError:  # cut or damaged: no footer, which holds the mark
        return same or (isinstance(mark, str) and mark.encode() in _tail(file))
    return line is not None and (not line or owned(line))
