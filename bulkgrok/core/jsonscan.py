"""JSON without its values: is it valid, where does a member stand, where does a value end.

Law: memory does not grow with the text, whatever it holds: nothing large is parsed into Python, repetitions are
possessive (a string of many megabytes is not remembered byte by byte), and each match is short, so that other threads
get their turn.
`is_valid` judges any bytes; all other functions are for text that it has found valid.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple, NoReturn

import orjson

#: Nesting beyond this is treated as no JSON: common readers give up there, and the limit must not depend on the caller.
MAX_DEPTH: Final = 500

_WS: Final = rb"[ \t\r\n]*+"
_STRING: Final = rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
_NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_SCALAR: Final = b"(?>" + _STRING + b"|" + _NUMBER + b"|true|false|null)"
_NAME: Final = _STRING + _WS + b":" + _WS


def _flat(element: bytes) -> bytes:
    """Return the inside of a container of a few scalars, which one match takes in whole."""
    return _WS + b"(?:" + element + _WS + b"(?:," + _WS + element + _WS + b"){0,64}+)?+"


_CONTAINER: Final = rb"\[" + _flat(_SCALAR) + rb"\]|\{" + _flat(_NAME + _SCALAR) + rb"\}"
_LEAF: Final = b"(?>" + _SCALAR + b"|" + _CONTAINER + b")"


def _inside(name: bytes, leaf: bytes, opening: bytes) -> re.Pattern[bytes]:
    """Match members up to one after which something else may come, or up to the opening bracket of one."""
    run = b"(?:" + name + leaf + _WS + b"," + _WS + b"){0,2048}+"
    return re.compile(_WS + run + name + b"(?:" + leaf + opening + b")")


_IN_ARRAY: Final = _inside(b"", _LEAF, rb"|([\[{])")
_IN_OBJECT: Final = _inside(_NAME, _LEAF, rb"|([\[{])")
_DEEPEST_ARRAY: Final = _inside(b"", _SCALAR, b"")
_DEEPEST_OBJECT: Final = _inside(_NAME, _SCALAR, b"")
_TOP: Final = re.compile(_LEAF + rb"|([\[{])")
_AFTER: Final = re.compile(_WS + rb"([,\]}])")

_ANY_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
#: What may be passed over when only brackets count: everything else, and containers with no others inside.
_PLAIN: Final = rb'[^"\[\]{}]{1,65536}+|' + _ANY_STRING
_RUN: Final = b"(?:" + _PLAIN + rb"|\[(?:" + _PLAIN + rb"){0,64}+\]|\{(?:" + _PLAIN + rb"){0,64}+\}){0,2048}+"
_TO_BRACKET: Final = re.compile(_RUN + rb"([\[\]{}])?+", re.DOTALL)
_SCALAR_END: Final = re.compile(_ANY_STRING + rb"|[^,\]} \t\r\n]++", re.DOTALL)
_BEGIN: Final = re.compile(_WS)
_MEMBER: Final = re.compile(_WS + b"(" + _ANY_STRING + b")" + _WS + b":" + _WS, re.DOTALL)
_WHITE: Final = b" \t\r\n"
_UTF8_PIECE_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 1 << 15
_FLAT_BYTES: Final = 1 << 10


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


# Integers are kept as text: of more than 4,300 digits `int` would refuse, and their value is of no interest here.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=str)


class Span(NamedTuple):
    """Where a value stands: its first byte and the one after its last."""

    start: int
    end: int


def is_valid(text: bytes) -> bool:
    """Tell whether bytes are one JSON value in UTF-8, without outer white space, nested at most MAX_DEPTH deep."""
    if len(text) <= _SMALL_BYTES and _brackets(text) <= MAX_DEPTH:
        return _is_ordinary(text) or _is_parsed(text)
    return _is_grammatical(text) and _is_utf8(text)


def is_whole(text: bytes) -> bool:
    """Tell whether bytes end where their JSON does, also where they are not UTF-8: text that was cut does not."""
    return is_valid(text) or is_valid(text.decode("utf-8", "replace").encode())


def _brackets(text: bytes) -> int:
    """Count opening brackets; where they are few, taking them out is several times as fast as `count`."""
    return 2 * len(text) - len(text.replace(b"[", b"")) - len(text.replace(b"{", b""))


def _is_ordinary(text: bytes) -> bool:
    """Tell whether a parser accepts a small text that is stricter than need be, and several times as fast."""
    if len(text.strip(_WHITE)) != len(text):
        return False
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _is_parsed(text: bytes) -> bool:
    """Judge a small text by parsing it, which takes a third of the time."""
    try:
        decoded = text.decode()
        _, end = _DECODER.raw_decode(decoded)
    except ValueError:
        return False
    return end == len(decoded)


def _is_grammatical(text: bytes) -> bool:
    nest = bytearray()
    found = _TOP.match(text)
    while found is not None:
        at = found.end()
        if found.group(1) is not None:
            nest.append(text[at - 1])
        elif (at := _closed(text, at, nest)) < 0:
            return False
        elif not nest:
            return at == len(text)
        found = _step(nest).match(text, at)
    return False


def _step(nest: bytearray) -> re.Pattern[bytes]:
    """Return what may come next inside the innermost container."""
    if len(nest) < MAX_DEPTH:
        return _IN_ARRAY if nest[-1] == 0x5B else _IN_OBJECT
    return _DEEPEST_ARRAY if nest[-1] == 0x5B else _DEEPEST_OBJECT


def _closed(text: bytes, at: int, nest: bytearray) -> int:
    """Go from the end of a value past the brackets that close after it, and the comma; -1 where neither is there."""
    while nest:
        found = _AFTER.match(text, at)
        if found is None:
            return -1
        at = found.end()
        if (end := text[at - 1]) == 0x2C:
            return at
        if end != nest.pop() + 2:  # ] and } come two after [ and {
            return -1
    return at


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    decode = codecs.getincrementaldecoder("utf-8")().decode
    view = memoryview(text)
    try:
        for start in range(0, len(text), _UTF8_PIECE_BYTES):
            decode(view[start : start + _UTF8_PIECE_BYTES])
        decode(b"", final=True)
    except ValueError:
        return False
    return True


def begin(text: bytes, at: int = 0) -> int:
    """Return where the next value begins: the first byte from `at` on that is no white space."""
    found = _BEGIN.match(text, at)
    return at if found is None else found.end()


def end_of(text: bytes, at: int) -> int:
    """Return where the value that begins at `at` ends."""
    if text[at] not in b"[{":
        found = _SCALAR_END.match(text, at)
        return len(text) if found is None else found.end()
    if text[at] == 0x7B and (end := _end_of_flat(text, at)):
        return end
    depth, at = 1, at + 1
    while depth:
        found = _TO_BRACKET.match(text, at)
        if found is None or found.end() == at:
            return len(text)
        at = found.end()
        if found.group(1) is not None:
            depth += 1 if found.group(1) in b"[{" else -1
    return at


def _end_of_flat(text: bytes, at: int) -> int:
    """Return where a small object with no other in it ends: at its first brace, if that is in no string. Else 0."""
    end = text.find(b"}", at, at + _FLAT_BYTES) + 1
    simple = end and text.find(b"{", at + 1, end) < 0 and text.find(b"\\", at, end) < 0
    return end if simple and text.count(b'"', at, end) % 2 == 0 else 0


def members(text: bytes, at: int) -> Iterator[tuple[bytes, Span]]:
    """Yield name (as written, quotes included) and value of each member of the object that begins at `at`."""
    at += 1
    while (found := _MEMBER.match(text, at)) is not None:
        span = Span(found.end(), end_of(text, found.end()))
        yield found.group(1), span
        at = begin(text, span.end) + 1  # past the comma or the closing brace


def find_members(text: bytes, at: int, names: Collection[str]) -> dict[str, Span]:
    """Return where the values of some members stand; of a name given twice the last counts, as in every reader.

    Args:
        text: Valid JSON.
        at: Where the object begins; a value of another type has no members.
        names: What to look for.
    """
    found: dict[str, Span] = {}
    if text[at : at + 1] != b"{":
        return found
    longest = 6 * max(map(len, names)) + 2
    for written, span in members(text, at):
        if len(written) <= longest and (name := _name(written)) in names:
            found[name] = span
    return found


def first_element(text: bytes, at: int) -> Span | None:
    """Return where the first element of the array that begins at `at` stands; None if it is empty or no array."""
    if text[at : at + 1] != b"[":
        return None
    start = begin(text, at + 1)
    return None if text[start] == 0x5D else Span(start, end_of(text, start))


def _name(written: bytes) -> str:
    if b"\\" not in written:
        return written[1:-1].decode("utf-8")
    return str(json.loads(written))
