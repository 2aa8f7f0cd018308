"""How replies are dressed: status, headers, the shape of errors.

Law: pure. Every reply carries `x-request-id` and `Date`; rate-limit headers tell the limit and never move.
"""

from __future__ import annotations

from email.utils import formatdate
from math import ceil
from typing import Any

import orjson

from bulkgrok.simulator.chance import Chance
from bulkgrok.simulator.refusals import JSON_TYPE, STREAM_TYPE, Refusal, body_of
from bulkgrok.simulator.settings import ERROR_SHAPES, SimulatorSettings
from bulkgrok.simulator.wire import Reply

_AUTHENTICATION = frozenset({"no-credentials"})


class Replies:
    """Makes replies under one set of settings.

    Args:
        settings: The shapes.
        chance: Where chance decides.
        generation: Sets the request ids of one life of a world apart from those of another.
    """

    def __init__(self, settings: SimulatorSettings, chance: Chance, generation: int, count: int = 0) -> None:
        self._settings = settings
        self._chance = chance
        self._generation = generation
        self.count = count
        self._second = -1
        self._date = ""
        self._limits = _limit_headers(settings)

    def json(self, value: Any, now: float, *, status: int = 200) -> Reply:  # noqa: ANN401 - any JSON
        """Return a reply with a JSON body; None is an empty body."""
        return self.raw(b"" if value is None else orjson.dumps(value), now, status=status)

    def raw(self, body: bytes, now: float, *, status: int = 200, content_type: str = JSON_TYPE) -> Reply:
        """Return a reply with a body as it is; an empty one has no type."""
        headers = (("Content-Type", content_type),) if body else ()
        return Reply(status=status, headers=(*headers, *self._common(now)), body=body)

    def stream(self, frames: tuple[bytes, ...], now: float) -> Reply:
        """Return a stream of server-sent events."""
        headers = (("Content-Type", STREAM_TYPE), ("Cache-Control", "no-cache"), *self._common(now))
        return Reply(headers=headers, frames=frames, interval_s=self._settings.stream_interval)

    def refusal(self, refusal: Refusal, now: float, subject: bytes) -> Reply:
        """Return a refusal in the shape the settings ask for."""
        shape = self.shape(refusal, subject)
        content_type, body = body_of(refusal, shape)
        headers: list[tuple[str, str]] = [("Content-Type", content_type), *self._common(now)]
        wait = self._retry_after(refusal, now, subject)
        if wait is not None:
            headers.append(("Retry-After", wait))
        return Reply(status=refusal.status, headers=tuple(headers), body=body)

    def shape(self, refusal: Refusal, subject: bytes) -> str:
        """Return the shape of a refusal."""
        wanted = self._settings.error_shape
        if wanted == "documented":
            if refusal.shape:
                return refusal.shape
            old = refusal.code in _AUTHENTICATION or refusal.text.startswith("Incorrect API key")
            return "sentence" if old else "kebab"
        if wanted != "mixed":
            return wanted
        if refusal.shape == "bare":
            return "bare"
        shapes = ERROR_SHAPES if refusal.status >= 500 else ERROR_SHAPES[:-1]
        return self._chance.pick(shapes, subject, "shape")

    def _retry_after(self, refusal: Refusal, now: float, subject: bytes) -> str | None:
        how = self._settings.retry_after
        if refusal.retry_after_s is None or how == "off":
            return None
        if how == "mixed" and self._chance.uniform(subject, "retry-after") < 0.5:
            return None
        seconds = max(1, ceil(refusal.retry_after_s))
        return formatdate(now + seconds, usegmt=True) if how == "date" else str(seconds)

    def _common(self, now: float) -> tuple[tuple[str, str], ...]:
        self.count += 1
        second = int(now)
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
        subject = self._generation.to_bytes(4, "big") + self.count.to_bytes(8, "big")
        return (("x-request-id", self._chance.identifier(subject, "reply")), ("Date", self._date), *self._limits)


def _limit_headers(settings: SimulatorSettings) -> tuple[tuple[str, str], ...]:
    """Return the headers of the limits that are set. `remaining` equals `limit`: the real ones do not move either."""
    if not settings.ratelimit_headers:
        return ()
    requests = settings.rpm if settings.rpm is not None else settings.rps and settings.rps * 60
    found: list[tuple[str, str]] = []
    for name, limit in (("requests", requests), ("tokens", settings.tpm)):
        if limit is not None:
            value = str(max(1, int(limit)))
            found += [(f"x-ratelimit-limit-{name}", value), (f"x-ratelimit-remaining-{name}", value)]
    return tuple(found)
