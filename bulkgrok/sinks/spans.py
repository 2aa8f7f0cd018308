"""Where in a JSON text a value stands, so that it can be copied as it was written.

Law: the text is valid JSON (the caller has checked it); nothing is parsed but strings, brackets and names.
"""

from __future__ import annotations

import json
import re
from typing import Final

# Possessive: a string of many megabytes must not be remembered byte by byte.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}:]')


def top_level_object(text: bytes, name: str) -> bytes | None:
    """Return the text of an object's member that is an object itself; of a name given twice the last counts.

    Args:
        text: Valid JSON.
        name: The member's name.

    Returns:
        The bytes from its opening to its closing brace, None when there is no such member or it is no object.
    """
    if not text.lstrip().startswith(b"{"):
        return None
    depth = 0
    start = -1
    last = b""
    named = False
    found: bytes | None = None
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == b":":
            if depth == 1 and _is(last, name):
                # Whatever the value is, it replaces an earlier one.
                named, found = text[match.end() : match.end() + 64].lstrip()[:1] == b"{", None
        elif token in {b"{", b"["}:
            depth += 1
            if named and depth == 2:
                start, named = match.start(), False
        elif token in {b"}", b"]"}:
            depth -= 1
            if depth == 1 and start >= 0:
                found, start = text[start : match.end()], -1
        elif depth == 1:
            last = token
    return found


def _is(token: bytes, name: str) -> bool:
    """Tell whether a string of JSON is a name, escapes or none."""
    if b"\\" not in token:
        return token[1:-1] == name.encode()
    return bool(json.loads(token) == name)
