"""Texts for people: foreign text made harmless, and figures, durations and money in few characters.

Law: whatever comes from a row, the API or a file name passes `printable` before it reaches a terminal.
"""

from __future__ import annotations

import unicodedata
from typing import Final

#: Categories that steer a terminal or hide text: controls, format characters, surrogates, line separators.
_STEERING: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_JOINER: Final = "\u200d"


def printable(value: object, *, limit: int = 500, lines: bool = False) -> str:
    """Return text in which every control character, escape sequence and direction mark is visible.

    Args:
        value: What is to be shown.
        limit: n characters at most; what is longer is cut, and says so with an ellipsis.
        lines: Whether line breaks stay; further lines are then indented, so that none passes for another message.
    """
    text = str(value)
    cut = len(text) > limit
    text = text[: limit - 1] if cut else text
    if not (text.isascii() and text.isprintable()):
        text = "".join(_visible(character, lines=lines) for character in text).replace("\n", "\n    ")
    return text + "…" if cut else text


def _visible(character: str, *, lines: bool) -> str:
    if (lines and character == "\n") or character == _JOINER:
        return character
    if unicodedata.category(character) in _STEERING:
        return character.encode("unicode_escape").decode("ascii")
    return character


def json_printable(text: str) -> str:
    """Return JSON text in which what would steer a terminal is escaped: the same values, safe to be shown."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in {_JOINER, "\n"} or unicodedata.category(character) not in _STEERING:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def count(number: float) -> str:
    """Return a whole number with thousands separators."""
    return f"{number:,.0f}"


def noun(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: 1 row, 2 rows."""
    return f"{count(number)} {singular if number == 1 else plural or singular + 's'}"


def money(usd: float) -> str:
    """Return dollars with as many digits as tell something."""
    if usd == 0 or abs(usd) >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if abs(usd) >= 0.001 else f"${usd:.8f}".rstrip("0")


def rate(per_second: float) -> str:
    """Return a rate in rows or requests each second, or each minute where it is slow."""
    if per_second >= 100:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 or per_second == 0 else f"{per_second * 60:.1f}/min"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: 3.2 s, 4 min 5 s, 23 h 59 min, 3 d 4 h."""
    if seconds < 60:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for size, unit, below, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
