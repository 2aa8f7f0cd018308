"""One outcome as one line of JSON.

Law: the API's body and usage are spliced in as they were written, only laid out on one line: no number passes through
a float. A line holds no newline byte, whatever the API sent. Key order is fixed, so equal outcomes are equal bytes.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

import orjson

from bulkgrok.core.jsonscan import begin, end_of, find_members
from bulkgrok.core.jsontext import BOM, one_line, one_line_in_pieces
from bulkgrok.core.model import Asset, JsonObject, RowError, Settled

_LARGE_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 4 << 20
_PIECE_BYTES: Final = 1 << 18
_MOST_USAGE_BYTES: Final = 1 << 16
_USAGE: Final = b'"usage"'
_WHITE: Final = b" \t\r\n"
_BACKSLASH: Final = 0x5C
_PLACE: Final = b'"body":null'
_TELLING = ("custom_id", "row", "response", "error")
_ABSENT = object()


def render(settled: Settled, *, simulated: bool) -> bytes:
    """Return an outcome as its line of the results or errors file, without the newline."""
    text = None if settled.body is None else body_json(settled.body)
    return _line(settled, text, _usage(settled, text), simulated=simulated)


def render_all(outcomes: Iterable[Settled], *, simulated: bool) -> Iterator[bytes]:
    """Yield the lines of several outcomes, each with its newline, in blocks; of a large one, a block is a part."""
    ready: list[bytes] = []
    size = 0
    for settled in outcomes:
        if len(settled.body or b"") > _LARGE_BYTES:
            yield _joined(ready)
            yield from _render_large(settled, simulated=simulated)
            ready, size = [], 0
            del settled  # before another one is read
            continue
        ready.append(render(settled, simulated=simulated))
        size += len(ready[-1])
        if size > _BLOCK_BYTES:
            yield _joined(ready)
            ready, size = [], 0
    yield _joined(ready)


def _joined(lines: list[bytes]) -> bytes:
    return b"\n".join([*lines, b""])


def _render_large(settled: Settled, *, simulated: bool) -> Iterator[bytes]:
    """Yield a line in blocks, so that its body is not in memory twice."""
    body = settled.body or b""
    pieces = one_line_in_pieces(body)
    usage = None if pieces is None else _usage_of_large(body)
    # Inside strings quotes are escaped, so what is found is the place of the body.
    head, _, tail = _line(settled, b"null", usage or _stored_usage(settled), simulated=simulated).partition(_PLACE)
    yield head + _PLACE[:-4]
    yield from _as_string(body) if pieces is None else pieces
    yield tail + b"\n"


def _as_string(body: bytes) -> Iterator[bytes]:
    """Yield what is not JSON as a JSON string."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    yield b'"'
    for start in range(0, len(body), _PIECE_BYTES):
        yield orjson.dumps(decode(body[start : start + _PIECE_BYTES]))[1:-1]
    yield orjson.dumps(decode(b"", True))[1:-1] + b'"'


def _line(settled: Settled, body: bytes | None, usage: bytes | None, *, simulated: bool) -> bytes:
    value = _object(
        settled,
        None if body is None else orjson.Fragment(body),
        None if usage is None else orjson.Fragment(usage),
        simulated=simulated,
    )
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # text with half a surrogate pair, which is no Unicode
        return orjson.dumps(_clean(value))


def as_dict(settled: Settled, *, simulated: bool) -> JsonObject:
    """Return an outcome as a dict of the same shape, its body parsed; integers keep every digit."""
    body = None if settled.body is None else _parsed(settled.body)
    found = _usage(settled, None if settled.body is None else body_json(settled.body))
    usage = None if found is None else _parsed(found)
    return _object(settled, body, usage, simulated=simulated)


def speaks_of(text: bytes, settled: Settled) -> bool:
    """Tell whether a line is about this outcome: same row, name, reply and error, however it is laid out.

    What stands under "bulkgrok" does not count: a table keeps times to the microsecond and no usage.
    """
    mine = render(settled, simulated=False)
    if len(mine) > _LARGE_BYTES:  # parsed, it would take ten times the memory
        return text == mine
    try:
        theirs, ours = json.loads(text), json.loads(mine)
    except (ValueError, RecursionError):
        return text == mine
    return isinstance(theirs, dict) and all(theirs.get(key, _ABSENT) == ours[key] for key in _TELLING)


def row_of(text: bytes) -> int | None:
    """Return the row that a line says it is about; None where it says none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    row = value.get("row") if isinstance(value, dict) else None
    return row if isinstance(row, int) else None


def body_json(body: bytes) -> bytes:
    """Return a body as JSON on one line: as it was written, or as a JSON string when it is not JSON."""
    text = one_line(body)
    return orjson.dumps(body.decode("utf-8", "replace")) if text is None else text


def latency_s(settled: Settled) -> float | None:
    """Return the seconds from the first submission to the answer, None where either time is not known."""
    if settled.submitted_at is None or not settled.completed_at:
        return None
    return round(settled.completed_at - settled.submitted_at, 6)  # a float of today's time resolves no more


def clean_text(text: str) -> str:
    """Return the text with halves of surrogate pairs replaced: neither UTF-8 nor Parquet can hold them."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _usage(settled: Settled, body: bytes | None) -> bytes | None:
    """Return the usage as the API wrote it: what is stored went through a parser that rounds large numbers."""
    written = None
    if body is not None and (at := body.rfind(_USAGE)) >= 0:
        written = _usage_at(body, at, settled.usage) or _usage_in(body)
    elif body is not None and b"\\u" in body:  # its name may be written with escapes
        written = _usage_in(body)
    return _stored_usage(settled) if written is None else written


def _usage_at(body: bytes, at: int, stored: bytes | None) -> bytes | None:
    """Return the usage whose name stands last at `at`, where few bytes show that it is the body's; None elsewhere."""
    start = body.find(b"{", at)
    if start < 0 or body[at + len(_USAGE) : start].strip(_WHITE) != b":":
        return None
    if stored is not None and body.startswith(stored, start):
        end, same = start + len(stored), True
    else:
        end, same = end_of(body, start), False
    written = body[start:end]
    if _is_outermost(body, at, end) and len(written) <= _MOST_USAGE_BYTES:
        return written
    if stored is None or body.find(_USAGE) != at:
        return None
    try:
        return written if same or orjson.dumps(orjson.loads(written)) == stored else None
    except ValueError:
        return None


def _is_outermost(body: bytes, at: int, end: int) -> bool:
    """Tell that a member is the outermost object's: after it no other object ends, and no name is escaped."""
    return body.find(b"}", end) == len(body) - 1 and body.find(b"\\", end) < 0 and body[at - 1] != _BACKSLASH


def _usage_in(body: bytes) -> bytes | None:
    """Return the usage that stands in a body of valid JSON, None where there is none that counts something."""
    span = find_members(body, begin(body), {"usage"}).get("usage")
    if span is None or body[span.start] != 0x7B or span.end - span.start > _MOST_USAGE_BYTES:
        return None
    return body[span.start : span.end]


def _usage_of_large(body: bytes) -> bytes | None:
    text = body.removeprefix(BOM)
    found = _usage_in(text)
    return None if found is None else one_line(found)


def _stored_usage(settled: Settled) -> bytes | None:
    return None if settled.usage is None else one_line(settled.usage)


def _object(settled: Settled, body: object, usage: object, *, simulated: bool) -> JsonObject:
    response: JsonObject | None = None
    if settled.body is not None:
        response = {"status_code": settled.status_code, "request_id": settled.request_id, "body": body}
    bulkgrok: JsonObject = {
        "kind": settled.kind,
        "mode": str(settled.mode),
        "model": settled.model,
        "attempts": settled.attempts,
        "submitted_at": settled.submitted_at,
        "completed_at": settled.completed_at or None,  # 0.0: a row that was never sent
        "latency_s": latency_s(settled),
        "cost_usd": settled.cost_usd,
        "usage": usage,
        "assets": [_asset(asset) for asset in settled.assets] if settled.assets else [],
    }
    if simulated:
        bulkgrok["simulated"] = True
    return {
        "custom_id": settled.custom_id,
        "row": settled.row,
        "response": response,
        "error": None if settled.error is None else _error(settled.error, settled.line),
        "bulkgrok": bulkgrok,
    }


def _asset(asset: Asset) -> JsonObject:
    return {"path": asset.path, "bytes": asset.bytes, "sha256": asset.sha256, "url": asset.url}


def _error(error: RowError, line: int | None) -> JsonObject:
    return {
        "code": error.code.value,
        "message": error.message,
        "status_code": error.status_code,
        "retryable": error.retryable,
        "line": line if error.line is None else error.line,
    }


def _clean(value: object) -> object:
    match value:
        case str():
            return clean_text(value)
        case dict():
            return {key: _clean(inner) for key, inner in value.items()}
        case list():
            return [_clean(inner) for inner in value]
        case _:
            return value


def _parsed(text: bytes) -> object:
    if one_line(text) is not None:
        with suppress(ValueError, RecursionError):  # an integer of thousands of digits, a tower of brackets
            return json.loads(text)
    return text.decode("utf-8", "replace")
