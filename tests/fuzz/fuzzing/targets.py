"""Targets that need no disk: rows, replies, streams, verdicts, prices, texts.

Law: a target takes any bytes and raises nothing, unless a promise is broken. What it promises is in its assertions.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

import orjson

from bulkgrok.client.streams import Stream
from bulkgrok.core.errors import ApiError, UsageError
from bulkgrok.core.jsonscan import is_valid
from bulkgrok.core.jsontext import one_line
from bulkgrok.core.model import Answer, BadRow, Code, Item, Mode, NotSent, RawRow, Reply, RowError, Settled, Unusable
from bulkgrok.core.secret import Secret
from bulkgrok.core.verdict import api_error, judge_get, judge_post, usable_request_id
from bulkgrok.dispatch.placing import stem
from bulkgrok.kinds import KINDS, pending
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings
from bulkgrok.sinks.line import as_dict, render
from bulkgrok.telemetry.redaction import Redaction
from bulkgrok.telemetry.wording import json_printable, printable
from bulkgrok.transport.quoting import quoted

PRICES = Prices.shipped()
ENCODERS = [
    RowEncoder(RowSettings(), PRICES),
    RowEncoder(RowSettings(kind="video", mode="deferred", params={"n": 2}, stream=True), PRICES),
    RowEncoder(RowSettings(prompt="{{ prompt }}{{ row.a }}", system="{{ system }}"), PRICES),
]
STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
KEY = "xai-0123456789-secret"


def row_line(data: bytes) -> None:
    """Any line of an input is a request or a bad row, and the same one every time."""
    _encoded(RawRow(row=7, line=8, value=data))


def row_cells(data: bytes) -> None:
    """So is any row of a table, whatever its cells hold."""
    try:
        value = json.loads(data, parse_float=Decimal, parse_int=_odd)
    except (ValueError, RecursionError, ArithmeticError):  # no decimal has such an exponent
        return
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        _encoded(RawRow(row=7, line=None, value=value))


def _odd(digits: str) -> object:
    """Return what a table's cell may be besides JSON, for some numbers."""
    number = int(digits[:18])
    return {7: b"\xff\x00", 8: float("nan"), 9: number << 70, 10: (1, None), 11: {1: None}, 12: 1 + 2j}.get(
        number, number
    )


def _encoded(raw: RawRow) -> None:
    for encoder in ENCODERS:
        found = encoder.encode(raw)
        assert isinstance(found, Item | BadRow)
        found.custom_id.encode()
        assert len(found.digest) == 16
        if isinstance(found, BadRow):
            assert found.message
            assert "cannot be encoded" not in found.message, found.message
            assert len(found.message) <= 2_000
        else:
            assert orjson.loads(found.body)["model"] == found.model
            assert 0 <= found.max_usd < 1e12
            assert 0 <= found.tokens < 1 << 53
        assert encoder.encode(raw) == found
        assert re.fullmatch(r"[A-Za-z0-9._-]{9,90}", stem(found.row, found.custom_id, 2))


def reply(data: bytes) -> None:
    """Any body of a 200 is an answer or unusable, and one line of the output."""
    for kind in KINDS.values():
        found = kind.decode(data)
        assert isinstance(found, Answer | Unusable)
        orjson.dumps([found.usage, found.model])
        cost = PRICES.cost_usd(kind.name, kind.default_model, found, 0.1)
        assert cost is None or 0 <= cost < 1e9
        if isinstance(found, Answer):
            assert all(0 <= number < 1 << 53 for number in found.tokens)
            for text in (found.content, found.reasoning, found.finish_reason):
                assert text is None or text.encode() is not None
    assert pending(data) in {True, False}
    _rendered(data)


def _rendered(body: bytes) -> None:
    error = RowError(code=Code.FAILED, message=body[:50].decode("utf-8", "surrogateescape"), status_code=400, line=3)
    for failure in (None, error):
        settled = Settled(
            seq=1, row=7, line=3, custom_id=body[:9].decode("utf-8", "replace"), kind="chat", mode=Mode.DIRECT,
            model="m", attempts=1, submitted_at=1.0, completed_at=2.0, request_id="r", status_code=200, body=body,
            cost_usd=None, usage=b'{"a": 1}', error=failure,
        )  # fmt: skip
        line = render(settled, simulated=False)
        assert b"\n" not in line
        assert json.loads(line, parse_int=str)["row"] == "7"
        assert as_dict(settled, simulated=False)["row"] == 7


def stream(data: bytes) -> None:
    """A stream is an ordinary answer, an error or incomplete, however it is cut."""
    head, _, body = data.partition(b"|")
    found = KINDS["chat"].unstream(Reply(status=200, body=body, content_type="text/event-stream"))
    assert 200 <= found.status < 600
    if found.complete:
        assert isinstance(KINDS["chat"].decode(found.body), Answer | Unusable)
    size = 1 + sum(head) % 50
    reading, pieces = Stream(), []
    try:
        for at in range(0, len(body), size):
            pieces += reading.feed(body[at : at + size])
        pieces += reading.end(Reply(status=200, content_type="text/event-stream"))
    except ApiError:
        pieces.append("told in words")
    assert all(isinstance(piece, str) for piece in pieces)


def verdict(data: bytes) -> None:
    """Any reply has a verdict in few printable words, and a refusal never repeats the key."""
    status = 100 + int.from_bytes(data[:2]) % 500
    flags = data[2] if len(data) > 2 else 0
    found = Reply(
        status=status,
        body=data[3:],
        complete=bool(flags & 1),
        content_type="application/json" if flags & 2 else "",
        retry_after_s=float(flags) if flags & 4 else None,
        oversized=bool(flags & 8),
    )
    for mode in Mode:
        assert judge_post(found, mode=mode) is not None
        assert judge_post(NotSent(reason=str(flags)), mode=mode) is not None
    assert judge_get(found, pending=bool(flags & 16)) is not None
    text = api_error(found.body)
    assert 0 < len(text.message) <= 2_000
    assert "\n" not in text.message
    assert len(text.code) <= 200
    identifier = usable_request_id(found.body)
    assert identifier is None or re.fullmatch(r"[A-Za-z0-9._~-]{1,256}", identifier)
    safe = quoted(found, Secret(KEY))
    if not 200 <= status < 300:
        assert KEY not in api_error(safe.body).message


def prices(data: bytes) -> None:
    """Any price file is a table or refused in words."""
    try:
        table = Prices.parse(data.decode("utf-8", "replace"))
    except UsageError:
        return
    for model in [*table.chat, *table.video, "grok-4.3-latest"]:
        chat, video = table.of_chat(model), table.of_video(model)
        if chat is not None:
            assert table.tokens_usd(chat, (10**6, 10**6, 10**6, 10**6)) >= 0
        if video is not None:
            assert video.second("8k") >= 0


def json_text(data: bytes) -> None:
    """What is taken for JSON is JSON, and what is JSON is taken for it unless it is nested very deeply."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse, parse_int=str)
        valid = True
    except RecursionError:
        return
    except ValueError:
        valid, value = False, None
    assert is_valid(data.strip(b" \t\r\n")) <= valid
    line = one_line(data)
    if line is None:
        deep = max(data.count(b"["), data.count(b"{")) > 200
        assert not valid or deep
    else:
        assert b"\n" not in line
        assert valid or data.startswith(b"\xef\xbb\xbf")
        if valid:
            assert json.loads(line, parse_int=str) == value


def _refuse(name: str) -> None:
    raise ValueError(name)


def texts(data: bytes) -> None:
    """What is shown steers no terminal and holds no secret."""
    text = data.decode("utf-8", "surrogateescape")
    assert not STEERING.search(printable(text))
    shown = json_printable(json.dumps(text, ensure_ascii=False))
    assert not STEERING.search(shown)
    assert json.loads(shown) == text
    hidden = Redaction([Secret(KEY)])(f"{text}{KEY}{text}")
    assert KEY not in hidden


TARGETS = {
    function.__name__: function for function in (row_line, row_cells, reply, stream, verdict, prices, json_text, texts)
}
