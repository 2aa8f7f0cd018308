"""Videos: how a request is read, and how a job reads while it runs and when it is over, in every documented shape.

Law: pure. The shape of a reply is an argument; which one it is, and what becomes of a job, is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from bulkgrok.simulator import catalogue
from bulkgrok.simulator.answers import undeserialisable
from bulkgrok.simulator.refusals import Refusal

#: path below the base URL -> kind.
KINDS: Final = {
    "/v1/videos/generations": "video",
    "/v1/videos/edits": "video-edit",
    "/v1/videos/extensions": "video-extension",
}
_DEFAULT_S: Final = {"video": 8, "video-edit": 6, "video-extension": 6}
_LENGTHS_S: Final = {"video": (1, 15), "video-edit": (1, 15), "video-extension": (2, 10)}
_RESOLUTIONS: Final = frozenset({"480p", "720p", "1080p"})
_IMAGES: Final = ("image", "image_url", "input_reference", "last_frame", "keyframes")

#: code of a failed job -> its message; the first two are passing faults.
FAILURES: Final = {
    "service_unavailable": "The service is currently unavailable.",
    "internal_error": "The request failed due to an internal service error.",
    "invalid_argument": "The input could not be processed.",
    "failed_precondition": "The input cannot be used in its present state.",
}


@dataclass(frozen=True, slots=True)
class Clip:
    """What a video is made of."""

    model: str
    seconds: int
    resolution: str
    images: int
    source_seconds: float

    @property
    def ticks(self) -> int:
        """Its price."""
        return catalogue.video_ticks(
            self.model,
            seconds=self.seconds,
            resolution=self.resolution,
            input_seconds=self.source_seconds,
            images=self.images,
        )


def read_clip(body: Any, kind: str) -> Clip | Refusal:  # noqa: ANN401 - any JSON
    """Read a request body as the API does, or return why it is refused."""
    if not isinstance(body, dict):
        return undeserialisable("invalid type, expected struct VideoRequest")
    problem = _types_problem(body, kind)
    if problem:
        return undeserialisable(problem)
    model = body.get("model") or catalogue.DEFAULT_VIDEO_MODEL
    if not catalogue.known(model):
        return Refusal(404, "not-found", f"The model {model[:80]} does not exist or your team has no access to it.")
    low, high = _LENGTHS_S[kind]
    seconds = _whole(body.get("duration", body.get("seconds")), _DEFAULT_S[kind])
    if seconds is None or not low <= seconds <= high:
        return Refusal(400, "invalid", f"duration must be an integer between {low} and {high}.")
    resolution = body.get("resolution") or "480p"
    if resolution not in _RESOLUTIONS:
        return Refusal(400, "invalid", f"Unsupported resolution: {resolution[:40]}.")
    references = body.get("reference_images")
    images = sum(1 for name in _IMAGES if body.get(name)) + (len(references) if isinstance(references, list) else 0)
    source = 0.0 if kind == "video" else float(_DEFAULT_S[kind])
    return Clip(model=model, seconds=seconds, resolution=resolution, images=images, source_seconds=source)


def _types_problem(body: dict[str, Any], kind: str) -> str:
    prompt, source = body.get("prompt"), body.get("video")
    for name in ("prompt", "model", "resolution", "aspect_ratio"):
        if not isinstance(body.get(name), str | None):
            return f"{name}: invalid type, expected a string"
    if not prompt and not (kind == "video" and any(body.get(name) for name in _IMAGES)):
        return "missing field `prompt`"
    if kind != "video":
        if not isinstance(source, dict):
            return "missing field `video`" if source is None else "video: invalid type, expected struct VideoInput"
        if not any(isinstance(source.get(name), str) for name in ("url", "file_id")):
            return "video: missing field `url`"
    return ""


def _whole(value: object, default: int) -> int | None:
    if value is None:
        return default
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 6 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value in {1e999, -1e999}:  # noqa: PLR0124 - NaN
        return None
    return int(value) if value == int(value) else None


def pending(shape: str, identifier: str, model: str, progress: int, *, bare: bool) -> tuple[int, dict[str, Any] | None]:
    """Return status and body of a job that runs; None is an empty body."""
    if shape == "seed":
        return 200, {"id": identifier, "status": "pending" if progress < 10 else "processing", "progress": progress}
    body = {"status": "pending", "progress": progress, "model": model}
    if shape == "pending-200":
        return 200, body
    return 202, (None if bare or shape in {"no-status", "url"} else body)


def done(shape: str, identifier: str, clip: Clip, url: str | None, *, cost_ticks: bool) -> dict[str, Any]:
    """Return the body of a job that is done; without a URL it is one that brings none."""
    usage = {"usage": {"cost_in_usd_ticks": clip.ticks}} if cost_ticks else {}
    video = {"url": url, "duration": clip.seconds, "respect_moderation": True}
    if shape == "no-status":
        return {"video": {"url": url, "duration": clip.seconds}, "model": clip.model}
    if shape == "seed":
        data = [{"url": url, "duration": clip.seconds}] if url else []
        return {"id": identifier, "status": "completed", "created": 1_780_000_000, "data": data} | usage
    if shape == "url" and url:
        return {"url": url, "duration": clip.seconds, "model": clip.model} | usage
    return {"status": "done", "video": video, "model": clip.model, "progress": 100} | usage


def moderated(clip: Clip, *, empty: bool, cost_ticks: bool) -> dict[str, Any]:
    """Return the body of a video that was generated, billed and withheld."""
    usage = {"usage": {"cost_in_usd_ticks": clip.ticks}} if cost_ticks else {}
    video = {"url": "" if empty else None, "duration": clip.seconds, "respect_moderation": False}
    return {"status": "done", "video": video, "model": clip.model, "progress": 100} | usage


def failed(code: str, form: str) -> dict[str, Any]:
    """Return the body of a video job that failed."""
    text = FAILURES[code]
    return {"status": "failed", "error": {"code": code, "message": text} if form == "object" else f"{code}: {text}"}
