"""A string that must not be seen, and how to take it out of what others say.

Law: shows itself only to who asks for it by name. Whoever repeats it, as it is or in one of the usual encodings, is
quoted without it. Strings of fewer than 6 characters are left in quotations: they would blot out ordinary words.
"""

from __future__ import annotations

import base64
import json
from typing import Final, NoReturn
from urllib.parse import quote

HIDDEN: Final = "[hidden]"
_SHORTEST: Final = 6
_SHORTEST_BASE64: Final = 8


class Secret:
    """A string that does not show itself: not in `repr`, logs, pickles, nor in tracebacks that show variables."""

    __slots__ = ("_byte_forms", "_forms", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._forms: tuple[str, ...] | None = None
        self._byte_forms: tuple[bytes, ...] | None = None

    def reveal(self) -> str:
        """Return the string. Call it only where it is sent."""
        return self._value

    def hide(self, text: str) -> str:
        """Return a text without the string, whichever way it is written there."""
        for form in self._written():
            text = text.replace(form, HIDDEN)
        return text

    def hide_bytes(self, data: bytes) -> bytes:
        """Return bytes without the string."""
        if self._byte_forms is None:
            self._byte_forms = tuple(form.encode() for form in self._written())
        for form in self._byte_forms:
            if form in data:
                data = data.replace(form, HIDDEN.encode())
        return data

    def _written(self) -> tuple[str, ...]:
        if self._forms is None:
            self._forms = _forms(self._value)
        return self._forms

    def __repr__(self) -> str:
        return "Secret(…)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        msg = "a secret is not written anywhere"
        raise TypeError(msg)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self


def _forms(value: str) -> tuple[str, ...]:
    """Return how a string may be written, longest first: the whole is taken out before a part of it."""
    if len(value) < _SHORTEST:
        return ()
    data = value.encode("utf-8", "surrogatepass")
    once = json.dumps(value)[1:-1]
    forms = {value, once, json.dumps(once)[1:-1], repr(value)[1:-1], quote(value, safe=""), quote(value), data.hex()}
    forms |= {"".join(f"%{byte:{case}}" for byte in data) for case in ("02x", "02X")}
    for shift in range(3):
        inner = _inside_base64(data, shift)
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))} if len(inner) >= _SHORTEST_BASE64 else set()
    return tuple(sorted(forms, key=len, reverse=True))


def _inside_base64(data: bytes, shift: int) -> str:
    """Return what base64 makes of bytes that begin `shift` bytes after a multiple of 3, whatever surrounds them."""
    text = base64.b64encode(bytes(shift) + data).decode().rstrip("=")
    end = len(text) - bool((shift + len(data)) % 3)  # the last character also holds bits of what follows
    return text[-(-shift * 8 // 6) : end]
