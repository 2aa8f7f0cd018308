"""One outcome as one line of JSON.

Law: the API's body and usage are spliced in as they were written, only laid out on one line: no number passes through
a float. A line holds no newline byte, whatever the API sent. Key order is fixed, so equal outcomes are equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress

import orjson

from bulkgrok.core.jsontext import one_line
from bulkgrok.core.model import JsonObject, RowError, Settled
from bulkgrok.sinks.spans import top_level_object

_TELLING = ("custom_id", "row", "response", "error")
_ABSENT = object()


def render(settled: Settled, *, simulated: bool) -> bytes:
    """Return an outcome as its line of the results or errors file, without the newline."""
    text = None if settled.body is None else body_json(settled.body)
    body = None if text is None else orjson.Fragment(text)
    usage = _usage(settled, text)
    value = _object(settled, body, None if usage is None else orjson.Fragment(usage), simulated=simulated)
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # text with half a surrogate pair, which is no Unicode
        return orjson.dumps(_clean(value))


def render_all(outcomes: Iterable[Settled], *, simulated: bool) -> bytes:
    """Return the lines of several outcomes, each with its newline."""
    lines = [render(settled, simulated=simulated) for settled in outcomes]
    lines.append(b"")
    return b"\n".join(lines)


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
    try:
        theirs, ours = json.loads(text), json.loads(mine)
    except (ValueError, RecursionError):
        return text == mine
    return isinstance(theirs, dict) and all(theirs.get(key, _ABSENT) == ours[key] for key in _TELLING)


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
    stored = settled.usage
    if body is not None and b'"usage"' in body:
        exact = stored is not None and body.count(b'"usage"') == 1 and b'"usage":' + stored in body
        if not exact and (written := top_level_object(body, "usage")) is not None:
            return written
    return None if stored is None else one_line(stored)


def _object(settled: Settled, body: object, usage: object, *, simulated: bool) -> JsonObject:
    response: JsonObject | None = None
    if settled.body is not None:
        response = {"status_code": settled.status_code, "request_id": settled.request_id, "body": body}
    bulkgrok: JsonObject = {
        "kind": settled.kind,
        "mode": settled.mode.value,
        "model": settled.model,
        "attempts": settled.attempts,
        "submitted_at": settled.submitted_at,
        "completed_at": settled.completed_at or None,  # 0.0: a row that was never sent
        "latency_s": latency_s(settled),
        "cost_usd": settled.cost_usd,
        "usage": usage,
        "assets": [
            {"path": asset.path, "bytes": asset.bytes, "sha256": asset.sha256, "url": asset.url}
            for asset in settled.assets
        ],
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
