"""The host that serves finished videos: signed addresses that expire, no credentials, ranges.

Law: pure. A file's bytes are a function of its key and size; any part of it can be made without the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import shake_128
from typing import Final

_BLOCK: Final = 65_536
_HEAD: Final = bytes.fromhex("00000020") + b"ftypisom" + bytes.fromhex("00000200") + b"isomiso2avc1mp41"
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)
FOLDER: Final = "/xai-vidgen-bucket/"


def content(key: bytes, size: int, start: int, stop: int) -> Iterator[bytes]:
    """Yield bytes `start` to `stop` (exclusive) of the file of a key, in pieces."""
    head = (_HEAD + (max(8, size - len(_HEAD)) & 0xFFFFFFFF).to_bytes(4, "big") + b"mdat")[:size]
    at = start
    while at < stop:
        number, offset = divmod(at, _BLOCK)
        block = shake_128(key + number.to_bytes(8, "big")).digest(_BLOCK)
        if number == 0:
            block = head + block[len(head) :]
        piece = block[offset : offset + stop - at]
        yield piece
        at += len(piece)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) that a Range header asks for, stop exclusive; the whole file where it cannot be read.

    None says that the range lies outside of the file (416).
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or not (match[1] or match[2]) or (match[1] and match[2] and int(match[2]) < int(match[1])):
        return 0, size
    if not match[1]:
        return (max(0, size - int(match[2])), size) if int(match[2]) and size else None
    start = int(match[1])
    stop = min(size, int(match[2]) + 1) if match[2] else size
    return (start, stop) if start < size else None
