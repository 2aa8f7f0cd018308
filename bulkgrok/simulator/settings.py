"""What the simulator plays: one frozen value, each field also a flag of `bulkgrok simulator` and a key of its JSON.

Law: parsed once, refused in words. Durations are seconds (or 90s, 15m, 24h where text is allowed), sizes bytes, rates
shares from 0 to 1. The rates that are decided at one moment add up to at most 1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ERROR_SHAPES: Final = (
    "kebab", "sentence", "numeric", "nested", "bare", "error-only", "array", "double", "detail", "html",
)  # fmt: skip
VIDEO_SHAPES: Final = ("current", "no-status", "seed", "url", "pending-200")
PENDING_SHAPES: Final = ("202-empty", "202-json", "200-pending", "200-empty")
FAILED_FORMS: Final = ("400", "500", "200-error")
VIDEO_ERROR_FORMS: Final = ("object", "string")
SUBMIT_SHAPES: Final = ("request_id", "id")

_MAX_S: Final = 10 * 366 * 86_400.0
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", re.ASCII)
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})


def _field(default: Any, what: str, kind: str, *choices: str) -> Any:  # noqa: ANN401 - any default
    return dataclasses.field(default=default, metadata={"help": what, "kind": kind, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """How the simulated API behaves. The defaults play it well-behaved, quick and without limits."""

    seed: int = _field(0, "What chance is drawn from: the same seed and requests, the same replies.", "whole")

    latency: float = _field(0.0, "How long a direct answer takes (the median).", "duration")
    latency_sigma: float = _field(0.0, "Spread of that as the sigma of a log-normal; 0 is fixed.", "number")
    deferred_latency: float = _field(1.0, "How long a deferred completion takes (the median).", "duration")
    deferred_sigma: float = _field(0.0, "Spread of that.", "number")
    video_latency: float = _field(2.0, "How long a video takes (the median).", "duration")
    video_sigma: float = _field(0.0, "Spread of that.", "number")
    handshake_latency: float = _field(0.0, "How long every other reply takes.", "duration")
    stream_interval: float = _field(0.0, "Pause between the frames of a stream.", "duration")
    deferred_ttl: float = _field(86_400.0, "How long a deferred result is kept after its request.", "duration")
    video_ttl: float = _field(86_400.0, "How long a video's id can be read after its request.", "duration")
    media_ttl: float = _field(3_600.0, "How long a video's URL is good for.", "duration")
    media_size: int = _field(20_000, "Size of a video file in bytes.", "whole")

    accepted_keys: tuple[str, ...] = _field(
        (),
        "Keys that are accepted, with commas between. Default: any that does not begin with bad or blocked.",
        "words",
    )
    rps: float | None = _field(None, "Requests a second for each model; more are refused with 429.", "limit")
    rpm: float | None = _field(None, "Requests a minute for each model.", "limit")
    tpm: float | None = _field(None, "Tokens a minute for each model.", "limit")
    model_limits: Mapping[str, Mapping[str, float]] | None = _field(
        None, 'Limits of single models, as JSON: {"grok-4.3": {"rps": 2}}.', "limits"
    )
    limit_gets: bool = _field(True, "Whether polls count against the limits too.", "switch")
    limit_window: str = _field("fixed", "How a second and a minute are counted.", "choice", "fixed", "sliding")
    retry_after: str = _field(
        "on", "Whether 429 and 503 say when to come back.", "choice", "on", "off", "mixed", "date"
    )
    ratelimit_headers: bool = _field(True, "Whether replies carry x-ratelimit-* headers, which never move.", "switch")
    cost_ticks: bool = _field(True, "Whether usage says what it cost (cost_in_usd_ticks).", "switch")
    media_ranges: bool = _field(True, "Whether the media host answers Range requests with 206.", "switch")
    itemised: bool = _field(True, "Whether direct requests are listed one by one in the ledger.", "switch")

    error_shape: str = _field(
        "documented", "The shape of error bodies.", "choice", "documented", *ERROR_SHAPES, "mixed"
    )
    submit_shape: str = _field("request_id", "What an accepted request is named by.", "choice", *SUBMIT_SHAPES, "mixed")
    video_shape: str = _field("current", "The shape of video replies.", "choice", *VIDEO_SHAPES, "mixed")
    pending_shape: str = _field(
        "202-empty", "What a poll of a deferred completion gets too early.", "choice", *PENDING_SHAPES, "mixed"
    )
    failed_form: str = _field("400", "How a failed deferred completion reads.", "choice", *FAILED_FORMS, "mixed")
    video_error_form: str = _field("object", "How a failed video says why.", "choice", *VIDEO_ERROR_FORMS, "mixed")
    expired_form: str = _field("404", "What a video's id reads after its time.", "choice", "404", "status")
    funding_form: str = _field("403-new", "How the lack of credit reads.", "choice", "403-new", "429-old")
    funding_after: int | None = _field(None, "After how many accepted requests the credit is used up.", "count")

    drop_before: float = _field(0.0, "Connection closed, nothing accepted.", "before")
    error_403: float = _field(0.0, "POST refused: access denied.", "before")
    error_408: float = _field(0.0, "Answered 408.", "before")
    error_429: float = _field(0.0, "Answered 429 for no counted reason.", "before")
    error_500: float = _field(0.0, "Answered 500.", "before")
    error_502: float = _field(0.0, "Answered 502.", "before")
    error_503: float = _field(0.0, "Answered 503.", "before")
    error_504: float = _field(0.0, "Answered 504.", "before")
    error_520: float = _field(0.0, "Answered 520, with the page of a content delivery network.", "before")
    error_529: float = _field(0.0, "Answered 529, overloaded.", "before")
    ok_error: float = _field(0.0, "POST answered 200 with an error in its body; nothing accepted.", "before")
    error_accepted: float = _field(
        0.0, "Of the POSTs answered 408, 500, 502, 504 or 520: how many were accepted and billed all the same.", "rate"
    )
    drop_after: float = _field(0.0, "Accepted or handed out, then the connection closed without a reply.", "after")
    hang: float = _field(0.0, "Accepted or handed out, and no reply for hang-s, then closed.", "after")
    cut_body: float = _field(0.0, "A 200 cut midway.", "after")
    malformed: float = _field(0.0, "A 200 whose body is no JSON.", "after")
    slow: float = _field(0.0, "A reply that takes slow-s longer, dribbling.", "after")
    no_id: float = _field(0.0, "Accepted without a usable id.", "after")
    stream_break: float = _field(0.0, "A stream that ends midway.", "after")
    stream_error: float = _field(0.0, "A stream with an error after its first content.", "after")
    slow_s: float = _field(5.0, "How much longer a slow reply takes.", "duration")
    hang_s: float = _field(3_600.0, "How long a hanging request hangs.", "duration")
    faults_on: str = _field("both", "Which requests meet these faults.", "choice", "both", "post", "get")

    moderated: float = _field(0.0, "Videos generated, billed and withheld.", "fate")
    failed: float = _field(0.0, "Accepted work that fails for good.", "fate")
    failed_retryable: float = _field(0.0, "Accepted work that fails by a passing fault.", "fate")
    no_video: float = _field(0.0, "Videos that are done and bring no URL.", "fate")

    media_error: float = _field(0.0, "The media host answers 503.", "media")
    media_drop: float = _field(0.0, "The media host closes the connection.", "media")
    media_cut: float = _field(0.0, "A file cut midway.", "media")

    def __post_init__(self) -> None:
        for moment in ("before", "after", "fate", "media"):
            total = sum(getattr(self, field.name) for field in FIELDS.values() if field.metadata["kind"] == moment)
            if total > 1 + 1e-9:
                names = ", ".join(name for name, field in FIELDS.items() if field.metadata["kind"] == moment)
                msg = f"these rates add up to {total:g}, which is more than 1: {names}"
                raise ValueError(msg)

    def merged(self, changes: Mapping[str, object]) -> SimulatorSettings:
        """Return these settings with some changed; a value may be of its type or text of it, None is the default.

        Raises:
            ValueError: An unknown name or a value that cannot be; the message names it.
        """
        values: dict[str, Any] = {}
        for key, value in changes.items():
            name = key.replace("-", "_")
            if name not in FIELDS:
                msg = f"there is no setting {key!r:.80}"
                raise ValueError(msg)
            field = FIELDS[name]
            try:
                values[name] = field.default if value is None else _PARSERS[field.metadata["kind"]](value, field)
            except ValueError as error:
                msg = f"{key} {error}"
                raise ValueError(msg) from None
        return dataclasses.replace(self, **values)

    def as_json(self) -> dict[str, Any]:
        """Return all settings as a JSON object."""
        return {name: getattr(self, name) for name in FIELDS}


#: name -> field, in order.
FIELDS: Final[dict[str, dataclasses.Field[Any]]] = {
    field.name: field for field in dataclasses.fields(SimulatorSettings)
}


def _number(value: object, _field: object = None) -> float:
    found: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value) if abs(value) < 1e15 else None
    elif isinstance(value, str):
        try:
            found = float(value)
        except ValueError:
            found = None
    if found is None or not 0 <= found < 1e15:
        msg = f"must be a number of at least 0, not {value!r:.80}"
        raise ValueError(msg)
    return found


def _rate(value: object, _field: object) -> float:
    found = _number(value)
    if found > 1:
        msg = f"must be a share from 0 to 1, not {value!r:.80}"
        raise ValueError(msg)
    return found


def _limit(value: object, _field: object) -> float:
    found = _number(value)
    if found <= 0:
        msg = f"must be more than 0, not {value!r:.80}"
        raise ValueError(msg)
    return found


def _whole(value: object, _field: object) -> int:
    found = _number(value)
    if found != int(found):
        msg = f"must be a whole number, not {value!r:.80}"
        raise ValueError(msg)
    return int(found)


def _duration(value: object, _field: object) -> float:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            msg = f"must be seconds, or text such as 90s, 15m or 24h, not {value!r:.80}"
            raise ValueError(msg)
        value = float(match[1]) * _UNITS[match[2]]
    found = _number(value)
    if found > _MAX_S:
        msg = "must be at most ten years"
        raise ValueError(msg)
    return found


def _switch(value: object, _field: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in _YES | _NO:
        msg = f"must be true or false, not {value!r:.80}"
        raise ValueError(msg)
    return word in _YES


def _choice(value: object, field: dataclasses.Field[Any]) -> str:
    choices: tuple[str, ...] = field.metadata["choices"]
    word = str(value) if isinstance(value, str | int) else ""
    if word not in choices:
        msg = f"must be one of {', '.join(choices)}, not {value!r:.80}"
        raise ValueError(msg)
    return word


def _words(value: object, _field: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        msg = f"must be text with commas between, or a list of texts, not {value!r:.80}"
        raise ValueError(msg)
    return tuple(part.strip() for part in parts if part.strip())


def _limits(value: object, field: object) -> dict[str, dict[str, float]]:
    if isinstance(value, str):
        import json  # noqa: PLC0415 - only the command line brings text

        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping):
        msg = 'must be an object such as {"grok-4.3": {"rps": 2, "rpm": 60, "tpm": 16000}}'
        raise ValueError(msg)  # noqa: TRY004 - every refusal of a setting is a ValueError
    found: dict[str, dict[str, float]] = {}
    for model, limits in value.items():
        if not isinstance(limits, Mapping) or not limits.keys() <= {"rps", "rpm", "tpm"}:
            msg = f"names nothing but rps, rpm and tpm for a model, not {limits!r:.80}"
            raise ValueError(msg)
        found[str(model)] = {name: _limit(limit, field) for name, limit in limits.items()}
    return found


_PARSERS: Final[dict[str, Any]] = {
    "whole": _whole,
    "count": _whole,
    "number": _number,
    "duration": _duration,
    "limit": _limit,
    "limits": _limits,
    "switch": _switch,
    "choice": _choice,
    "words": _words,
    "rate": _rate,
    "before": _rate,
    "after": _rate,
    "fate": _rate,
    "media": _rate,
}
