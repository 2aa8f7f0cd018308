"""Videos: generations, edits and extensions. Always deferred; their results may be read again.

Law: pure. Only documented limits are refused beforehand. The status words of all known documents are understood, and a
URL is an answer whatever the word beside it, unless that says failed. A moderated video brings no URL and is billed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from bulkgrok.core.errors import InvalidRow
from bulkgrok.core.model import Answer, AssetRef, Code, Decoded, JsonObject, Reply, RequestId, Unusable
from bulkgrok.kinds.jsonread import loads
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.replies import (
    CANCELLED_WORDS,
    EXPIRED_WORDS,
    FAILED_WORDS,
    asset_url,
    job_failed,
    status_word,
    text_or_none,
    ticks_of,
    tokens_of,
    unreadable,
    usage_of,
)
from bulkgrok.kinds.skim import PARSED_BYTES, Text

DEFAULT_MODEL: Final = "grok-imagine-video"

#: Seconds, inclusive. Extensions: as documented now; older pages allowed 1.
GENERATION_S: Final = (1, 15)
EXTENSION_S: Final = (2, 10)
EDIT_INPUT_S: Final = 8.7

_NUMBER: Final = re.compile(r"[+-]?\d{1,9}(?:\.\d{0,9})?")
#: What is read of a job's outermost object.
_READ: Final = frozenset({"code", "data", "error", "message", "model", "status", "url", "usage", "video"})
_IMAGE_KEYS: Final = ("image", "image_url", "input_reference", "keyframes", "last_frame")
_INPUT_LENGTH_KEYS: Final = ("duration", "seconds", "video_duration", "video_duration_s", "input_duration")


@dataclass(frozen=True, slots=True)
class Video:
    """One of the three ways to ask for a video."""

    name: str
    submit_path: str
    default_duration_s: float
    once_only: bool = False
    default_model: str = DEFAULT_MODEL

    def result_path(self, request_id: RequestId) -> str:
        """Return where to read the job; as often as wanted."""
        return f"/videos/{quote(request_id, safe='')}"

    def prepare(self, fields: JsonObject) -> JsonObject:
        """Check a request body and return it in the API's form (a URL given as a string becomes `{"url": …}`).

        Raises:
            InvalidRow: It cannot be sent; the message names field, value and limit.
        """
        body = dict(fields)
        for key in ("image", "video"):
            if isinstance(body.get(key), str):
                body[key] = {"url": body[key]}
        _check_prompt(body, optional=self.name == "video" and any(body.get(key) for key in _IMAGE_KEYS))
        if self.name != "video":
            _check_source(body)
        if self.name == "video-edit":
            _check_edit_input(body)
        else:
            _check_duration(body, EXTENSION_S if self.name == "video-extension" else GENERATION_S)
        return body

    def appraise(self, body: JsonObject, encoded: bytes, model: str, prices: Prices) -> tuple[float | None, int]:  # noqa: ARG002 - the same for every kind
        """Return what the request takes: USD at most, None for a model without a price, and no tokens of a limit."""
        return self._most_usd(body, model, prices), 0

    def _most_usd(self, body: JsonObject, model: str, prices: Prices) -> float | None:
        price = prices.of_video(model)
        if price is None:
            return None
        if self.name == "video-edit":
            return EDIT_INPUT_S * (price.input_s + price.second("720p"))
        asked = _seconds(body.get("duration"))
        asked = _seconds(body.get("seconds")) if asked is None else asked
        length_s = self.default_duration_s if asked is None else asked
        # An extension's input may be 15 s long, and its resolution is the input's.
        source_s = 15.0 if self.name == "video-extension" else 0.0
        resolution = "720p" if self.name == "video-extension" else body.get("resolution") or "480p"
        return length_s * price.second(resolution) + source_s * price.input_s + _images(body) * price.image

    def unstream(self, reply: Reply) -> Reply:
        """Return the reply: videos are never streamed."""
        return reply

    def assemble(self, reply: Reply, blocks: Iterable[bytes]) -> Reply:  # noqa: ARG002 - as above
        """Return the reply: videos are never streamed."""
        return reply

    def decode(self, raw: bytes, *, text: bool = True) -> Decoded:  # noqa: ARG002 - there is none
        """Read the body of a complete 200. Never raises."""
        try:
            if len(raw) > PARSED_BYTES:
                found = Text(raw)
                body = found.values(found.members(_READ)) if found.type_name == "dict" else found.type_name
            else:
                parsed = loads(raw)
                body = parsed if isinstance(parsed, dict) else type(parsed).__name__
        except ValueError as error:
            return unreadable(f"the reply is not JSON: {str(error)[:200]}")
        if isinstance(body, str):
            return unreadable(f"the reply is a JSON {body}, not the object of a video job")
        return _read_job(body, raw)


VIDEO: Final = Video("video", "/videos/generations", 8.0)
VIDEO_EDIT: Final = Video("video-edit", "/videos/edits", EDIT_INPUT_S)
VIDEO_EXTENSION: Final = Video("video-extension", "/videos/extensions", 6.0)


def _read_job(body: JsonObject, raw: bytes) -> Decoded:
    word, url, usage = status_word(body), asset_url(body), usage_of(body)
    model = text_or_none(body.get("model"))
    if word in FAILED_WORDS:
        return job_failed(body, raw)
    if word in EXPIRED_WORDS:
        return Unusable(code=Code.EXPIRED, message="the API says that the video job expired", usage=usage, model=model)
    if word in CANCELLED_WORDS:
        return Unusable(code=Code.CANCELLED, message="the API says that the video job was cancelled", model=model)
    if url is not None:
        return Answer(
            model=model,
            usage=usage,
            ticks=ticks_of(usage),
            tokens=(*tokens_of(usage)[:2], 0, 0),
            assets=(AssetRef(url=url),),
        )
    if body.get("error"):
        return job_failed(body, raw)
    video = body.get("video")
    if isinstance(video, dict) and video.get("respect_moderation") is False:
        # An empty usage says that it was billed, even where the API gives no figure: a moderated video is charged for.
        return Unusable(
            code=Code.MODERATED,
            message="the video was generated and withheld by moderation; it is billed all the same",
            usage=usage or {},
            ticks=ticks_of(usage),
            model=model,
        )
    return Unusable(
        code=Code.INVALID_RESPONSE,
        message=f"the reply says {word or 'nothing'!r} and has no URL of a video",
        usage=usage,
        ticks=ticks_of(usage),
        model=model,
    )


def _check_prompt(body: JsonObject, *, optional: bool) -> None:
    prompt = body.get("prompt")
    if prompt is None and optional:
        return
    if not isinstance(prompt, str) or not (prompt.strip() or optional):
        shown = "missing" if prompt is None else f"{prompt!r:.80}"
        msg = f"prompt must be a non-empty string (only a video made of an image may go without), it is {shown}"
        raise InvalidRow(msg)


def _check_source(body: JsonObject) -> None:
    video = body.get("video")
    if not isinstance(video, dict) or not any(isinstance(value, str) and value for value in video.values()):
        msg = f'video must be a URL or an object {{"url": ...}} or {{"file_id": ...}}, it is {video!r:.80}'
        raise InvalidRow(msg)


def _check_edit_input(body: JsonObject) -> None:
    video = body["video"]
    holders = (("", body), ("video.", video if isinstance(video, dict) else {}))
    for where, holder in holders:
        for key in _INPUT_LENGTH_KEYS:
            length_s = _seconds(holder.get(key))
            if length_s is not None and length_s > EDIT_INPUT_S:
                msg = f"{where}{key} is {holder[key]}: the input of a video edit may be at most {EDIT_INPUT_S} s long"
                raise InvalidRow(msg)


def _check_duration(body: JsonObject, limits: tuple[int, int]) -> None:
    low, high = limits
    for key in ("duration", "seconds"):
        found = body.get(key)
        if found is None:
            continue
        length_s = _seconds(found)
        if length_s is None or length_s != int(length_s) or not low <= length_s <= high:
            msg = f"{key} is {found!r:.80}: it must be a whole number of seconds from {low} to {high}"
            raise InvalidRow(msg)
        if isinstance(found, float):
            body[key] = int(length_s)


def _seconds(value: object) -> float | None:
    """Return a length given as a number or a string of one, None for anything else."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
        return None
    return float(value)


def _images(body: JsonObject) -> int:
    lists = [body.get("reference_images"), body.get("keyframes")]
    single = [body.get("image") or body.get("image_url") or body.get("input_reference"), body.get("last_frame")]
    return sum(len(found) for found in lists if isinstance(found, list)) + sum(1 for found in single if found)
