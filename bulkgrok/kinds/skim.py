"""Large replies read without their bulk: only the members that are asked for become Python values.

Law: what comes out is what a parser would have said of these members. Parsed JSON takes ten times the memory of its
text and more, so of a large text no more than some members, each of bounded size, is ever parsed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from bulkgrok.core.jsonscan import Span, find_members, first_element, is_valid
from bulkgrok.core.model import JsonObject
from bulkgrok.kinds.jsonread import loads

#: Up to this size a text is parsed as a whole.
PARSED_BYTES: Final = 1 << 18
_MEMBER_BYTES: Final = 1 << 16
_BOM: Final = b"\xef\xbb\xbf"
_WHITE: Final = b" \t\r\n"
_TYPES: Final = {b"{": "dict", b"[": "list", b'"': "str"}


class Text:
    """A large JSON text.

    Args:
        raw: The bytes as they came.

    Raises:
        ValueError: They are not JSON in UTF-8.
    """

    def __init__(self, raw: bytes) -> None:
        self._text = raw.removeprefix(_BOM).strip(_WHITE)
        if not is_valid(self._text):
            msg = "it is damaged, or nested too deeply"
            raise ValueError(msg)

    @property
    def type_name(self) -> str:
        """Python's name for the type of the value."""
        return _TYPES.get(self._text[:1]) or type(loads(self._text)).__name__

    def members(self, names: Collection[str], at: Span | None = None) -> dict[str, Span]:
        """Return where members of the outermost object, or of that at a place, stand."""
        return find_members(self._text, 0 if at is None else at.start, names)

    def first_element(self, at: Span | None) -> Span | None:
        """Return where the first element of an array stands, None where there is none."""
        return None if at is None else first_element(self._text, at.start)

    def value(self, span: Span | None, *, most_bytes: int | None = _MEMBER_BYTES) -> object:
        """Return a value, None where there is none or it is too large to be parsed."""
        if span is None or (most_bytes is not None and span.end - span.start > most_bytes):
            return None
        return loads(self._text[span.start : span.end])

    def values(self, spans: dict[str, Span]) -> JsonObject:
        """Return members as a parsed object would have them; those that are too large are true, and nothing else."""
        return {
            name: True if span.end - span.start > _MEMBER_BYTES else self.value(span) for name, span in spans.items()
        }

    def is_object(self, span: Span | None) -> bool:
        """Tell whether a value is an object."""
        return span is not None and self._text[span.start] == 0x7B

    def is_text(self, span: Span | None) -> bool:
        """Tell whether a value is a string."""
        return span is not None and self._text[span.start] == 0x22
