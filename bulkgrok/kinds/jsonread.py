"""Reading the API's JSON: fast where it is ordinary, tolerant where it is odd, never raising anything but ValueError.

Law: what is JSON in UTF-8 is read. orjson refuses some of it (escapes of lone surrogates, numbers beyond a double, a
byte-order mark), and a paid answer must not become unusable over that: the standard library reads those, and text
comes out mended, so that it can be encoded again.
"""

from __future__ import annotations

import json
from typing import NoReturn

import orjson

from bulkgrok.core.jsontext import too_deep


def loads(raw: bytes | str) -> object:
    """Parse JSON; every string that comes out can be encoded.

    Raises:
        ValueError: It is not JSON in UTF-8, or nested too deeply to be of use.
    """
    try:
        return orjson.loads(raw)
    except ValueError:
        pass
    try:
        return mended(loads_halves(raw))
    except RecursionError:
        msg = "nested too deeply"
        raise ValueError(msg) from None


def loads_halves(raw: bytes | str) -> object:
    """Parse JSON as `loads` does, but keep halves of surrogate pairs: the other half may come in another text.

    Raises:
        ValueError: As in `loads`.
    """
    text = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if too_deep(text):
        msg = "nested too deeply"
        raise ValueError(msg)
    try:
        value: object = _DECODER.decode(text.decode("utf-8-sig"))
    except RecursionError:
        msg = "nested too deeply"
        raise ValueError(msg) from None
    return value


def mended(value: object) -> object:
    """Return a parsed value with every string encodable: surrogate pairs joined, lone ones replaced."""
    if isinstance(value, str):
        return mended_text(value)
    if isinstance(value, list):
        return [mended(part) for part in value]
    if isinstance(value, dict):
        return {mended_text(key): mended(part) for key, part in value.items()}
    return value


def mended_text(text: str) -> str:
    """Return text that can be encoded as UTF-8: surrogate pairs joined, lone ones become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer)
