"""What a row holds, as plain JSON values: the line parsed, or the table's cells made JSON.

Law: nothing is altered unseen. A value that JSON or the encoder would change or drop (an integer beyond 64 bits, NaN, a
lone surrogate) makes the row invalid. Of a name given twice in one object the last value counts, as in every common
JSON reader. In a table null means "not given": a table has no other way to say so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NoReturn

import orjson

from bulkgrok.core.errors import InvalidRow
from bulkgrok.core.model import JsonObject

#: Finds 19 digits in a row nine times as fast as a regular expression.
_DIGITS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG: Final = b"0" * 19
_BOM: Final = b"\xef\xbb\xbf"
_LOW: Final = -(2**63)
_HIGH: Final = 2**64 - 1
#: What the encoder can write.
_MAX_DEPTH: Final = 250
_MAX_DIGITS: Final = 1_000

#: Columns of a table that may hold JSON as text, where the API wants an object or a list.
_JSON_COLUMNS: Final = frozenset({
    "messages", "body", "image", "video", "tools", "tool_choice", "response_format", "metadata", "stream_options",
    "search_parameters", "web_search_options", "reference_images", "reference_audios", "keyframes", "last_frame",
    "storage_options", "output", "logit_bias",
})  # fmt: skip
#: Counts that a table with gaps holds as floats.
_COUNT_COLUMNS: Final = frozenset({
    "n", "seed", "max_tokens", "max_completion_tokens", "top_logprobs", "duration", "seconds",
})  # fmt: skip


def parse_line(line: bytes) -> JsonObject:
    """Return the object of a JSON line.

    Raises:
        InvalidRow: It is no JSON object in UTF-8.
    """
    line = line.removeprefix(_BOM)
    try:
        value = _parse(line)
    except ValueError as error:
        raise InvalidRow(_why_not_json(line, error)) from None
    if not isinstance(value, dict):
        msg = f"a row must be a JSON object, not {_json_type(value)}"
        raise InvalidRow(msg)
    return value


def parse_text(name: str, text: str) -> object:
    """Return the JSON that a field holds as text.

    Raises:
        InvalidRow: It is no JSON.
    """
    try:
        return _parse(text.encode())
    except ValueError as error:
        msg = f"{name} is a string and not JSON: {_reason(error)}"
        raise InvalidRow(msg) from None


def _parsed_or_text(text: str) -> object:
    """Return the JSON of a cell, or the text itself: text may begin with a bracket and be no JSON."""
    try:
        return _parse(text.encode())
    except ValueError:
        return text


def _parse(raw: bytes) -> object:
    """Parse JSON; integers stay exact, whatever their length (orjson makes floats of those beyond 64 bits)."""
    if _LONG not in raw.translate(_DIGITS):
        return orjson.loads(raw)
    return _EXACT.decode(raw.decode())


def plain_cells(cells: Mapping[str, object]) -> JsonObject:
    """Return the cells of a table row as JSON values, nulls left out and JSON in text columns parsed.

    Raises:
        InvalidRow: A cell cannot be sent unaltered.
    """
    row: JsonObject = {}
    for name, cell in cells.items():
        if cell is None:
            continue
        value = plain(name, cell)
        if isinstance(value, str) and name in _JSON_COLUMNS and value.lstrip()[:1] in {"{", "["}:
            value = _parsed_or_text(value)
        elif isinstance(value, float) and name in _COUNT_COLUMNS and value.is_integer():
            value = int(value)
        row[str(name)] = value
    return row


def plain(name: str, value: object, depth: int = 0) -> object:
    """Return a cell as a JSON value.

    Raises:
        InvalidRow: It is none, or nested deeper than can be sent. Compiled, nothing else would end the descent.
    """
    if depth > _MAX_DEPTH:
        msg = f"the row is nested more than {_MAX_DEPTH} deep"
        raise InvalidRow(msg)
    match value:
        case bool() | int() | str():
            return value
        case float() | Decimal():
            return _number(name, value)
        case bytes():
            try:
                return value.decode()
            except ValueError:
                msg = f"{name} holds bytes that are not UTF-8 text"
                raise InvalidRow(msg) from None
        case Mapping():
            return {
                str(key): plain(f"{name}.{key}", part, depth + 1) for key, part in value.items() if part is not None
            }
        case list() | tuple():
            return [None if part is None else plain(name, part, depth + 1) for part in value]
        case _:
            return _as_text(name, value)


def _number(name: str, value: float | Decimal) -> int | float:
    if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
        msg = f"{name} is {value}, which JSON cannot say"
        raise InvalidRow(msg)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _as_text(name: str, value: object) -> object:
    """Return dates and times as ISO 8601 text."""
    try:
        return orjson.loads(orjson.dumps(value))
    except (TypeError, ValueError):
        msg = f"{name} holds a {type(value).__name__}, which JSON cannot say"
        raise InvalidRow(msg) from None


def encoded(body: JsonObject) -> bytes:
    """Return a body as JSON, its top-level fields sorted.

    Raises:
        InvalidRow: It holds what cannot be sent unaltered; the message names the field.
    """
    try:
        return orjson.dumps({key: body[key] for key in sorted(body)})
    except TypeError as error:
        raise InvalidRow(_culprit("", body) or f"the row cannot be sent as JSON: {error}") from None


def _culprit(path: str, value: object, depth: int = 0) -> str | None:
    """Say which part of a body the encoder refuses, None if none is found."""
    if depth > _MAX_DEPTH:
        return f"the row is nested more than {_MAX_DEPTH} deep"
    where = path.lstrip(".") or "a field"
    if isinstance(value, int) and not _LOW <= value <= _HIGH:
        return f"{where} is an integer beyond 64 bits and cannot be sent unaltered; give it as a string"
    if isinstance(value, str) and not is_text(value):
        return f"{where} holds half a surrogate pair, which UTF-8 cannot say"
    parts: list[tuple[str, object]] = []
    if isinstance(value, dict):
        parts = [(f"{path}.{key:.40}", part) for key, part in value.items()]
        if not all(map(is_text, value)):
            return f"a name in {where} holds half a surrogate pair, which UTF-8 cannot say"
    elif isinstance(value, list):
        parts = [(f"{path}[{position}]", part) for position, part in enumerate(value)]
    found = (_culprit(name, part, depth + 1) for name, part in parts)
    return next((message for message in found if message is not None), None)


def is_text(value: str) -> bool:
    """Tell whether UTF-8 can say a string."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        msg = f"the number {digits:.40} is too large"
        raise ValueError(msg)
    return value


def _exact(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        msg = f"a number of {len(digits)} digits is too long"
        raise ValueError(msg)
    return int(digits)


_EXACT: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, parse_int=_exact)


def _reason(error: ValueError) -> str:
    """Return what is wrong with JSON and where; a reader's own words count lines too, and a row is one line already."""
    return f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)


def _why_not_json(line: bytes, error: ValueError) -> str:
    text = _reason(error)
    if "surrogate" in text and "UTF-8" not in text:
        return f"the row holds half a surrogate pair, which no UTF-8 text can say: {text}"
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return f"the row is not UTF-8 text: byte {undecodable.start + 1} is 0x{line[undecodable.start]:02x}"
    if not line.strip():
        return "the row is empty"
    if line.find(b"\x00") >= 0:
        return f"the row is not JSON (it holds NUL bytes): {text}"
    return f"the row is not JSON: {text}"


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "an array", int: "a number", float: "a number"}
    return names.get(type(value), "something else")
