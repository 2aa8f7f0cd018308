"""JSON as text: the same values on one line, for files whose rows are lines.

Law: values are never parsed into Python and written again, because that would change numbers, key order, duplicate
keys and escapes. Only white space between tokens is taken out, and only where a line break makes it necessary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from bulkgrok.core.jsonscan import MAX_DEPTH, is_valid

#: A byte-order mark, which JSON texts should not and do have.
BOM: Final = b"\xef\xbb\xbf"
_WHITE: Final = b" \t\r\n"
# Possessive: a string of many megabytes must not be remembered byte by byte.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NO_WHITE: Final = re.compile(rb"(?:" + _STRING + rb'|[^" \t\r\n]++){1,1024}+', re.DOTALL)
_STRING_OR_BRACKET: Final = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_PIECE_BYTES: Final = 1 << 18


def one_line(raw: bytes) -> bytes | None:
    """Return a JSON text as one line, all its values untouched.

    Escapes of lone surrogates are kept: they are valid JSON text, and the answer is the API's, not ours to mend.

    Returns:
        The text without outer white space, byte-order mark and line breaks; None if it is not JSON in UTF-8 (NaN and
        Infinity are none, nor is nesting deeper than MAX_DEPTH).
    """
    text = raw.removeprefix(BOM).strip(_WHITE)
    if not is_valid(text):
        return None
    return b"".join(_squeezed(text)) if b"\n" in text or b"\r" in text else text


def one_line_in_pieces(raw: bytes) -> Iterable[bytes] | None:
    """Return what `one_line` returns, in pieces, so that a large text need not be in memory twice."""
    text = raw.removeprefix(BOM).strip(_WHITE)
    if not is_valid(text):
        return None
    return _squeezed(text) if b"\n" in text or b"\r" in text else (text,)


def _squeezed(text: bytes) -> Iterator[bytes]:
    """Yield a valid text without the white space between its tokens."""
    piece = bytearray()
    for found in _NO_WHITE.finditer(text):
        piece += found.group()
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def too_deep(text: bytes, limit: int = MAX_DEPTH) -> bool:
    """Tell whether brackets outside strings nest deeper than `limit`. Cheap for text with fewer brackets than that."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in {b"[", b"{"}:
            depth += 1
            if depth > limit:
                return True
        elif token in {b"]", b"}"}:
            depth -= 1
    return False
