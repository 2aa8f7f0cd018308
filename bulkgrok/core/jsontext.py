"""JSON as text: the same values on one line, for files whose rows are lines.

Law: values are never parsed into Python and written again, because that would change numbers, key order, duplicate
keys and escapes. Only white space between tokens is taken out, and only where a line break makes it necessary.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

#: Nesting beyond this is treated as no JSON: common readers give up there, and the limit must not depend on the caller.
MAX_DEPTH: Final = 500

_BOM: Final = b"\xef\xbb\xbf"
_WHITE: Final = b" \t\r\n"
_STRING_OR_WHITE: Final = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+')
_STRING_OR_BRACKET: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


# Integers are kept as text: of more than 4,300 digits `int` would refuse, and their value is of no interest here.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=str)


def one_line(raw: bytes) -> bytes | None:
    """Return a JSON text as one line, all its values untouched.

    Escapes of lone surrogates are kept: they are valid JSON text, and the answer is the API's, not ours to mend.

    Returns:
        The text without outer white space, byte-order mark and line breaks; None if it is not JSON in UTF-8 (NaN and
        Infinity are none, nor is nesting deeper than MAX_DEPTH).
    """
    text = raw.removeprefix(_BOM).strip(_WHITE)
    if not is_json(text):
        return None
    if b"\n" in text or b"\r" in text:
        return _STRING_OR_WHITE.sub(rb"\1", text)
    return text


def is_json(text: bytes) -> bool:
    """Tell whether bytes are one JSON value in UTF-8, without outer white space, nested at most MAX_DEPTH deep."""
    if too_deep(text):
        return False
    try:
        decoded = text.decode("utf-8")
        _, end = _DECODER.raw_decode(decoded)
    except (ValueError, RecursionError):
        return False
    return end == len(decoded)


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
