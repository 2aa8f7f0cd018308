"""How accepted work reads: its receipt, and what a poll is told in every shape there is.

Law: pure, and changes nothing: consuming, counting and breaking replies is the world's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bulkgrok.simulator import answers, clips
from bulkgrok.simulator.answers import Ask
from bulkgrok.simulator.chance import Chance
from bulkgrok.simulator.clips import Clip
from bulkgrok.simulator.ledger import Entry
from bulkgrok.simulator.mediahost import MediaHost
from bulkgrok.simulator.refusals import NO_SUCH_RESULT, Refusal
from bulkgrok.simulator.replies import Replies
from bulkgrok.simulator.settings import (
    FAILED_FORMS,
    PENDING_SHAPES,
    SUBMIT_SHAPES,
    VIDEO_ERROR_FORMS,
    VIDEO_SHAPES,
    SimulatorSettings,
)
from bulkgrok.simulator.wire import Reply

_NO_SUCH_VIDEO = "No video generation could be found with the given request_id."


class Jobs:
    """Reads jobs under one set of settings."""

    def __init__(self, settings: SimulatorSettings, chance: Chance, replies: Replies, media: MediaHost) -> None:
        self._settings = settings
        self._chance = chance
        self._replies = replies
        self._media = media

    def receipt(self, entry: Entry, subject: bytes) -> dict[str, Any]:
        """Return the body that names an accepted job."""
        shape = self._settings.submit_shape
        if entry.kind != "deferred" and self._video_shape(entry) == "seed":
            shape = "id"
        if self._one_of(shape, SUBMIT_SHAPES, subject, "submit") == "request_id":
            return {"request_id": entry.id}
        return {"id": entry.id, "status": "processing", "created": int(entry.accepted_at)}

    def read(self, entry: Entry | None, now: float, subject: bytes) -> Reply:
        """Return what a poll is told; `answers` marks a result."""
        if entry is None:
            return self._missing(NO_SUCH_RESULT, now, subject)
        if entry.kind == "deferred":
            return self._read_completion(entry, now, subject)
        return self._read_video(entry, now, subject)

    def _read_completion(self, entry: Entry, now: float, subject: bytes) -> Reply:
        if entry.consumed or now >= entry.accepted_at + self._settings.deferred_ttl or not isinstance(entry.ask, Ask):
            return self._missing(NO_SUCH_RESULT, now, subject)
        if now < entry.ready_at:
            return self._pending_completion(entry, now, subject)
        if entry.fate != "answer":
            return self._failed_completion(entry, now)
        body = answers.completion(entry.ask, entry.id, entry.ready_at, cost_ticks=self._settings.cost_ticks)
        return replace(self._replies.raw(body, now), entry=entry, answers=True)

    def _pending_completion(self, entry: Entry, now: float, subject: bytes) -> Reply:
        match self._one_of(self._settings.pending_shape, PENDING_SHAPES, subject, "pending"):
            case "202-empty":
                return self._replies.json(None, now, status=202)
            case "202-json":
                return self._replies.json({"request_id": entry.id, "status": "pending"}, now, status=202)
            case "200-pending":
                return self._replies.json({"id": entry.id, "status": "processing"}, now)
            case _:
                return self._replies.json(None, now)

    def _failed_completion(self, entry: Entry, now: float) -> Reply:
        code = self._failure(entry)
        name = entry.id.encode()
        match self._one_of(self._settings.failed_form, FAILED_FORMS, name, "failed"):
            case "200-error":
                return self._replies.json({"code": code, "error": clips.FAILURES[code]}, now)
            case status:
                body = {"code": code, "error": clips.FAILURES[code]}
                return self._replies.json(body, now, status=int(status))

    def _read_video(self, entry: Entry, now: float, subject: bytes) -> Reply:
        clip, shape = entry.ask, self._video_shape(entry)
        if not isinstance(clip, Clip):
            return self._missing(_NO_SUCH_VIDEO, now, subject)
        if now >= entry.accepted_at + self._settings.video_ttl:
            if self._settings.expired_form == "404":
                return self._missing(_NO_SUCH_VIDEO, now, subject)
            return self._replies.json({"status": "expired"}, now)
        if now < entry.ready_at:
            done = (now - entry.accepted_at) / max(entry.ready_at - entry.accepted_at, 1e-9)
            bare = self._chance.uniform(subject, "bare") < 0.5
            progress = max(0, min(99, int(done * 100)))
            status, body = clips.pending(shape, entry.id, clip.model, progress, bare=bare)
            return self._replies.json(body, now, status=status)
        if entry.fate.startswith("failed"):
            form = self._one_of(self._settings.video_error_form, VIDEO_ERROR_FORMS, entry.id.encode(), "error")
            return self._replies.json(clips.failed(self._failure(entry), form), now)
        ticks = self._settings.cost_ticks
        if entry.fate == "moderated":
            empty = self._chance.uniform(entry.id.encode(), "empty") < 0.5
            body = clips.moderated(clip, empty=empty, cost_ticks=ticks)
        else:
            url = None if entry.fate == "no_video" else self._media.address(entry, now)
            body = clips.done(shape, entry.id, clip, url, cost_ticks=ticks)
        return replace(self._replies.json(body, now), entry=entry, answers=True)

    def _missing(self, text: str, now: float, subject: bytes) -> Reply:
        return self._replies.refusal(Refusal(404, "not-found", text), now, subject)

    def _failure(self, entry: Entry) -> str:
        codes = tuple(clips.FAILURES)
        passing = entry.fate == "failed_retryable"
        return self._chance.pick(codes[:2] if passing else codes[2:], entry.id.encode(), "failure")

    def _video_shape(self, entry: Entry) -> str:
        return self._one_of(self._settings.video_shape, VIDEO_SHAPES, entry.id.encode(), "video")

    def _one_of(self, wanted: str, options: tuple[str, ...], subject: bytes, purpose: str) -> str:
        return self._chance.pick(options, subject, purpose) if wanted == "mixed" else wanted
