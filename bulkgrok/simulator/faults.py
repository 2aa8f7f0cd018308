"""What goes wrong, and what it does to a reply.

Law: pure. A fault is drawn for a subject (the content of a request and how often it came, or an id and how often it was
polled), so that it hits the same requests whatever order they come in, and passes when they come again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import orjson

from bulkgrok.simulator.chance import Chance
from bulkgrok.simulator.refusals import DENIED, JSON_TYPE, Refusal
from bulkgrok.simulator.settings import FIELDS, SimulatorSettings
from bulkgrok.simulator.wire import Reply, Wire

#: Drawn faults that are plain refusals: name -> what is answered.
REFUSALS: Final = {
    "error_403": Refusal(403, "denied", DENIED),
    "error_408": Refusal(408, "deadline", "The request timed out."),
    "error_429": Refusal(429, "exhausted", "The service is temporarily at capacity. Try again.", retry_after_s=1.0),
    "error_500": Refusal(500, "internal", "Internal error"),
    "error_502": Refusal(502, "unavailable", "Bad gateway"),
    "error_503": Refusal(503, "unavailable", "The service is currently unavailable", retry_after_s=1.0),
    "error_504": Refusal(504, "deadline", "Gateway timeout"),
    "error_520": Refusal(520, "internal", "Web server is returning an unknown error", shape="html"),
    "error_529": Refusal(529, "unavailable", "The service is overloaded"),
}
#: After these nobody can tell from the reply whether the request was done.
UNCLEAR: Final = frozenset({"error_408", "error_500", "error_502", "error_504", "error_520"})

_ONLY_POST: Final = frozenset({"error_403", "ok_error", "no_id", "stream_break", "stream_error"})
_OK_ERRORS: Final = (
    {"code": "The service is currently unavailable", "error": "Service temporarily unavailable."},
    {"error": {"message": "The model is overloaded.", "type": "server_error", "param": None, "code": None}},
)
_UNUSABLE: Final = (
    b"{}", b'{"request_id":null}', b'{"request_id":""}', b'{"request_id":17}', b'{"request_id":{"id":"x"}}', b"null",
    b"", b'{"request_id":"' + b"x" * 5_000 + b'"}', b'{"request_id":"../../v1/api-key"}',
)  # fmt: skip
_NO_JSON: Final = (
    b"upstream connect error or disconnect/reset before headers", b'{"id":"', b"<html><body>ok</body></html>",
    b"\x1f\x8b\x08\x00\xff\xfe\x00", b"[[[[", b'{"choices": [NaN',
)  # fmt: skip
_STREAM_ERRORS: Final = (
    b'data: {"code":"The service is currently unavailable","error":"Service temporarily unavailable."}\n\n',
    b'data: {"error":{"message":"Internal error","type":"server_error","code":500}}\n\n',
)


class Faults:
    """Draws faults under one set of settings."""

    def __init__(self, settings: SimulatorSettings, chance: Chance) -> None:
        self._settings = settings
        self._chance = chance
        self._rates = {
            moment: tuple(
                (name, getattr(settings, name))
                for name, field in FIELDS.items()
                if field.metadata["kind"] == moment and getattr(settings, name) > 0
            )
            for moment in ("before", "after", "fate", "media")
        }

    def quiet(self) -> bool:
        """Tell whether no request meets a fault at all."""
        return not (self._rates["before"] or self._rates["after"] or self._rates["fate"])

    def draw(self, moment: str, subject: bytes, *, post: bool = True) -> str:
        """Return the fault of a moment, empty for none."""
        rates = self._rates[moment]
        if not rates or (moment in {"before", "after"} and self._settings.faults_on == ("get" if post else "post")):
            return ""
        left = self._chance.uniform(subject, moment)
        for name, rate in rates:
            left -= rate
            if left < 0:
                return "" if not post and name in _ONLY_POST else name
        return ""

    def accepted_all_the_same(self, fault: str, subject: bytes) -> bool:
        """Tell whether a request was done although its reply is this error."""
        rate = self._settings.error_accepted
        return fault in UNCLEAR and rate > 0 and self._chance.uniform(subject, "accepted") < rate

    def ok_error(self, subject: bytes) -> bytes:
        """Return an error body that comes with a 200."""
        return orjson.dumps(self._chance.pick(_OK_ERRORS, subject, "ok-error"))

    def damaged(self, reply: Reply, fault: str, subject: bytes) -> Reply:
        """Return what a fault leaves of a reply that would have been good."""
        match fault:
            case "drop_after":
                return replace(reply, wire=Wire.DROP)
            case "hang":
                return replace(reply, wire=Wire.DROP, delay_s=reply.delay_s + self._settings.hang_s)
            case "slow":
                half = self._settings.slow_s / 2
                return replace(reply, delay_s=reply.delay_s + half, dribble_s=half)
            case "cut_body":
                return self._cut(reply, subject)
            case "malformed":
                body = self._chance.pick(_NO_JSON, subject, "no-json")
                return replace(reply, body=body, frames=(body,) if reply.frames else ())
            case "no_id" if reply.accepts and not reply.answers:
                return replace(reply, body=self._chance.pick(_UNUSABLE, subject, "no-id"))
            case "stream_break" if reply.frames:
                return self._cut(reply, subject)
            case "stream_error" if reply.frames:
                return self._interrupted(reply, subject)
            case _:
                return reply

    def _cut(self, reply: Reply, subject: bytes) -> Reply:
        size = sum(map(len, reply.frames)) if reply.frames else len(reply.body)
        if size == 0:
            return replace(reply, wire=Wire.DROP)
        return replace(reply, wire=Wire.CUT, cut_after=int(size * self._chance.uniform(subject, "cut")))

    def _interrupted(self, reply: Reply, subject: bytes) -> Reply:
        """Put an error after the first frame that brings content."""
        first = next((at for at, frame in enumerate(reply.frames) if b'"delta":{"content":"S' in frame), 1)
        error = self._chance.pick(_STREAM_ERRORS, subject, "stream-error")
        return replace(reply, frames=(*reply.frames[: first + 1], error))


def stream_of(body: bytes) -> tuple[bytes, ...]:
    """Return an error body as the only frame of a stream."""
    return (b"data: " + body + b"\n\n",)


def is_json(content_type: str) -> bool:
    """Tell whether a Content-Type announces JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON_TYPE or (kind.startswith("application/") and kind.endswith("+json"))
