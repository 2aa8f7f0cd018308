"""The xAI API as a pure, seeded state machine, with a ledger of its own.

Law: everything the simulated API decides is decided here or below. `handle` (the API) and `fetch` (the media host) take
a request and the time and return a reply as a value; nothing here knows a network, a clock or a generator of chance.
What a request meets depends on the seed, on its content and on how often it came, not on what came between. A once-only
result is consumed at the moment it is handed out, whether or not it arrives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote

import orjson

from bulkgrok.simulator import answers, clips, front, records
from bulkgrok.simulator.answers import Ask
from bulkgrok.simulator.chance import Chance
from bulkgrok.simulator.clips import Clip
from bulkgrok.simulator.faults import REFUSALS, Faults, is_json, stream_of
from bulkgrok.simulator.jobs import Jobs
from bulkgrok.simulator.ledger import Entry, Ledger
from bulkgrok.simulator.limits import Limiter
from bulkgrok.simulator.mediahost import MediaHost
from bulkgrok.simulator.refusals import Refusal, content_refused, no_credit, too_long
from bulkgrok.simulator.replies import Replies
from bulkgrok.simulator.settings import SimulatorSettings
from bulkgrok.simulator.wire import File, Reply, Wire

CHAT: Final = "/v1/chat/completions"
DEFERRED: Final = "/v1/chat/deferred-completion/"
VIDEOS: Final = "/v1/videos/"
CONTROL: Final = "/_simulator/"

Record = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class _Post:
    """A billable request on its way through the world."""

    path: str
    body: bytes
    marker: bytes
    """SHA-256 of the body."""
    ordinal: int
    """How many requests with the same content came before."""
    now: float

    @property
    def short(self) -> bytes:
        """Name path and content in few bytes."""
        return records.short_name(self.marker, self.path)

    @property
    def subject(self) -> bytes:
        """What chance is drawn for."""
        return self.marker + self.path.encode() + self.ordinal.to_bytes(8, "big")


class World:
    """One simulated API: its accepted work, its limits, its ledger.

    Args:
        settings: How it behaves; `configure` changes that on the way.
        seed: What chance is drawn from, instead of the settings' own seed.
        record: Called with every change that must outlive the process, before the reply that tells of it is returned.
    """

    def __init__(
        self, settings: SimulatorSettings | None = None, seed: int | None = None, *, record: Record | None = None
    ) -> None:
        self.ledger = Ledger()
        self.skew_s = 0.0
        """How far the world's clock is ahead of the one it is told."""
        self._record = record
        self._generation = 0
        self._limiter = Limiter()
        self._ordinals: dict[bytes, int] = {}
        self._pages: Counter[str] = Counter()
        self.media = MediaHost(self.ledger)
        self._replies: Replies | None = None
        settings = settings or SimulatorSettings()
        self.configure(settings if seed is None else replace(settings, seed=seed))

    def configure(self, settings: SimulatorSettings) -> None:
        """Behave differently from now on. What was accepted stays as it was decided."""
        self.settings = settings
        self.chance = Chance(settings.seed)
        self.faults = Faults(settings, self.chance)
        count = self._replies.count if self._replies is not None else 0
        self._replies = self._make = Replies(settings, self.chance, self._generation, count)
        self.media.configure(settings, self.chance, self.faults)
        self._jobs = Jobs(settings, self.chance, self._make, self.media)

    def restore(self, found: Iterable[Mapping[str, Any]]) -> int:
        """Take up what an earlier life recorded; return how many records could not be read."""
        restored = records.restore(found, self.ledger, self._ordinals)
        self._generation, self.skew_s = restored.generation + 1, restored.skew_s
        self.configure(self.settings)
        return restored.unreadable

    def begin(self) -> None:
        """Record that a new life begins."""
        self._note(records.started(self._generation, self.skew_s))

    def arrived(self) -> None:
        """Count a request of the API as in flight; `left` ends that."""
        self.ledger.in_flight += 1
        self.ledger.max_in_flight = max(self.ledger.max_in_flight, self.ledger.in_flight)

    def left(self) -> None:
        """Count a request of the API as over: its reply is about to leave in whole, or never will."""
        self.ledger.in_flight -= 1

    def sent(self, reply: Reply | File) -> None:
        """Note that a reply was sent in whole."""
        if reply.entry is None:
            return
        if isinstance(reply, File):
            self.media.fetched(reply)
        elif reply.answers:
            self.ledger.delivered(reply.entry)
            if reply.entry.kind != "chat":
                self._note(records.delivered(reply.entry))

    def lost(self, reply: Reply | File) -> None:
        """Note that a reply did not leave in whole."""
        if isinstance(reply, Reply) and reply.entry is not None:
            self.ledger.lost(reply.entry, accepts=reply.accepts, answers=reply.answers)

    def fetch(self, method: str, target: str, headers: Mapping[str, str], now: float) -> File:
        """Answer a request to the media host. Arguments as for `handle`."""
        return self.media.fetch(method, target, headers, now + self.skew_s)

    def handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, now: float) -> Reply:
        """Answer a request to the API.

        Args:
            method: HTTP method, in capitals.
            target: Path with query, as sent.
            headers: A mapping that knows its names in lower case.
            body: The whole body; None is one that is too large.
            now: UNIX seconds.

        Returns:
            What is answered. Tell with `sent` or `lost` how that went.
        """
        now += self.skew_s
        if target.startswith(CONTROL):
            return front.control(self, method, target, body or b"", now=now)
        path = target.partition("?")[0]
        if method == "POST":
            self.ledger.posts += 1
        elif method in {"GET", "HEAD"}:
            self.ledger.gets += 1
        reply = self._route(method, path, headers, body, now)
        if reply.status >= 400:
            self.ledger.refused[reply.status] += 1
            if method == "POST":
                self.ledger.posts_refused[reply.status] += 1
        if reply.entry is not None and reply.wire is not Wire.WHOLE:
            self.lost(reply)
        return reply

    def _route(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, now: float) -> Reply:
        submits = path == CHAT or path in clips.KINDS
        allowed = "POST" if submits else "GET" if front.is_page(path) else None
        if allowed is None:
            return self._refuse(Refusal(404, "not-found", f"Not found: {path[:200]}"), now, path.encode())
        if method != allowed:
            reply = self._refuse(Refusal(405, "invalid", "Method not allowed"), now, path.encode())
            return replace(reply, headers=(*reply.headers, ("Allow", allowed)))
        refusal = front.authenticate(headers.get("authorization"), self.settings.accepted_keys)
        if refusal is not None:
            return self._refuse(refusal, now, path.encode())
        if body is None:
            return self._refuse(Refusal(413, "invalid", "Request body is too large."), now, path.encode())
        if submits:
            return self._submit(path, headers.get("content-type", ""), body, now)
        if path.startswith((DEFERRED, VIDEOS)):
            return self._poll(path, now)
        self._pages[path] += 1
        subject = b"page" + path.encode() + self._pages[path].to_bytes(8, "big")
        return self._dressed(front.page(path, self._make, now), subject, post=False, now=now)

    def _refuse(self, refusal: Refusal, now: float, subject: bytes) -> Reply:
        reply = self._make.refusal(refusal, now, subject)
        return replace(reply, delay_s=self.settings.handshake_latency)

    def _dressed(self, reply: Reply, subject: bytes, *, post: bool, now: float) -> Reply:
        """Return a plain reply, unless a fault comes before it."""
        hit = self._before(subject, now, post=post)
        return hit or replace(reply, delay_s=self.settings.handshake_latency)

    def _before(self, subject: bytes, now: float, *, post: bool) -> Reply | None:
        """Return the reply of a fault that comes before anything is done."""
        fault = self.faults.draw("before", subject, post=post)
        if fault == "drop_before":
            self.ledger.dropped_before += 1
            return Reply(wire=Wire.DROP)
        return self._refuse(REFUSALS[fault], now, subject) if fault in REFUSALS else None

    def _submit(self, path: str, content_type: str, body: bytes, now: float) -> Reply:
        """Accept a billable request, or refuse it."""
        marker = sha256(body).digest()
        post = _Post(path, body, marker, self._ordinal(path, body, marker), now)
        subject = post.subject
        fault = self.faults.draw("before", subject)
        unclear = self.faults.accepted_all_the_same(fault, subject)
        if fault and fault != "ok_error" and not unclear:
            self._count(post)
            return self._before(subject, now, post=True) or Reply(wire=Wire.DROP)
        found = self._read(path, content_type, body)
        if fault == "ok_error":
            self._count(post)
            return self._ok_error(found, subject, now)
        refusal = found if isinstance(found, Refusal) else self._triggered(found.model, post)
        if isinstance(found, Refusal) or refusal is not None:
            self._count(post)
            return self._refuse(refusal or Refusal(400, "invalid", "Invalid request"), now, subject)
        refusal = self._limited(found, now)
        if refusal is not None:
            return self._refuse(refusal, now, subject)
        self._count(post)
        entry = self._accept(post, found)
        if unclear:
            self.ledger.lost(entry, accepts=True, answers=False)
            return self._refuse(REFUSALS[fault], now, subject)
        reply = self._accepted(entry, found, post)
        return self.faults.damaged(reply, self.faults.draw("after", subject), subject)

    def _ordinal(self, path: str, body: bytes, marker: bytes) -> int:
        """Return how many requests with the same content came before."""
        if self._remembers(path, body):
            return self._ordinals.get(records.short_name(marker, path), 0)
        return self.ledger.accepted

    def _remembers(self, path: str, body: bytes) -> bool:
        """Tell whether a content must be remembered: not that of plain direct requests, of which there are millions."""
        return path != CHAT or b'"deferred"' in body or self.settings.itemised or not self.faults.quiet()

    def _count(self, post: _Post) -> None:
        if self._remembers(post.path, post.body):
            self._ordinals[post.short] = post.ordinal + 1

    def _read(self, path: str, content_type: str, body: bytes) -> Ask | Clip | Refusal:
        if not is_json(content_type):
            text = "Expected request with `Content-Type: application/json`"
            return Refusal(415, "invalid", text, shape="error-only")
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            text = f"Failed to parse the request body as JSON: {error}"
            return Refusal(400, "invalid", text[:300], shape="error-only")
        kind = clips.KINDS.get(path)
        return answers.read_ask(value) if kind is None else clips.read_clip(value, kind)

    def _ok_error(self, found: Ask | Clip | Refusal, subject: bytes, now: float) -> Reply:
        """Return a 200 that holds an error: for a stream sometimes as its only event."""
        body = self.faults.ok_error(subject)
        if isinstance(found, Ask) and found.stream and self.chance.uniform(subject, "in-stream") < 0.5:
            return self._make.stream(stream_of(body), now)
        return replace(self._make.raw(body, now), delay_s=self.settings.handshake_latency)

    def _triggered(self, model: str, post: _Post) -> Refusal | None:
        """Return the refusal that a prompt asks for by its text."""
        if b"[[refuse]]" in post.body:
            self.ledger.content_refusals += 1
            self._note(records.refused_content())
            return content_refused(self.chance.pick((0, 1, 2), post.marker, "refused"), model)
        return too_long(131_072, 537_812) if b"[[long]]" in post.body else None

    def _limited(self, found: Ask | Clip, now: float) -> Refusal | None:
        """Return the refusal of a limit or for lack of credit."""
        after = self.settings.funding_after
        if after is not None and self.ledger.accepted >= after:
            return no_credit(self.settings.funding_form)
        tokens = 0
        if isinstance(found, Ask) and (self.settings.tpm is not None or self.settings.model_limits):
            tokens = answers.usage_of(found, cost_ticks=False)["total_tokens"]
        return self._limiter.admit(found.model, tokens, now, self.settings)

    def _accept(self, post: _Post, found: Ask | Clip) -> Entry:
        """Enter a request in the ledger: from here on it is billed, whatever becomes of the reply."""
        kind = clips.KINDS.get(post.path) or ("deferred" if isinstance(found, Ask) and found.deferred else "chat")
        fate = self._fate(kind, post.body, post.subject)
        entry = Entry(
            id=self.chance.identifier(post.subject, "id"),
            kind=kind,
            path=post.path,
            model=found.model,
            marker=post.marker,
            ordinal=post.ordinal,
            accepted_at=post.now,
            ready_at=post.now + self._duration(kind, post.subject),
            fate=fate,
            ticks=found.ticks,
            billed=not fate.startswith("failed"),
            ask=None if kind == "chat" else found,
        )
        self.ledger.add(entry, itemised=self.settings.itemised)
        self._note(records.accepted(entry))
        return entry

    def _fate(self, kind: str, body: bytes, subject: bytes) -> str:
        """Return what becomes of accepted work; only jobs fail."""
        if kind == "chat":
            return "answer"
        if b"[[fail]]" in body:
            return "failed"
        if b"[[moderate]]" in body and kind != "deferred":
            return "moderated"
        fate = self.faults.draw("fate", subject) or "answer"
        return "answer" if kind == "deferred" and fate in {"moderated", "no_video"} else fate

    def _duration(self, kind: str, subject: bytes) -> float:
        found = self.settings
        median, sigma = {
            "chat": (found.latency, found.latency_sigma),
            "deferred": (found.deferred_latency, found.deferred_sigma),
        }.get(kind, (found.video_latency, found.video_sigma))
        return self.chance.spread(median, sigma, subject, "duration")

    def _accepted(self, entry: Entry, found: Ask | Clip, post: _Post) -> Reply:
        """Return the reply to an accepted request: the answer itself, or the name of the job."""
        now = post.now
        if entry.kind == "chat" and isinstance(found, Ask):
            ticks = self.settings.cost_ticks
            body = answers.completion(found, entry.id, now, cost_ticks=ticks)
            self._fingerprint(entry, body)
            if found.stream:
                reply = self._make.stream(answers.frames(found, entry.id, now, cost_ticks=ticks), now)
            else:
                reply = self._make.raw(body, now)
            return replace(reply, delay_s=entry.ready_at - now, entry=entry, answers=True, accepts=True)
        reply = self._make.json(self._jobs.receipt(entry, post.subject), now)
        return replace(reply, delay_s=self.settings.handshake_latency, entry=entry, accepts=True)

    def _poll(self, path: str, now: float) -> Reply:
        """Answer a GET of a deferred completion or of a video."""
        deferred = path.startswith(DEFERRED)
        identifier = unquote(path.removeprefix(DEFERRED if deferred else VIDEOS))
        entry = self.ledger.jobs.get(identifier)
        if entry is not None and (entry.kind == "deferred") is not deferred:
            entry = None
        subject = identifier.encode("utf-8", "replace") + (entry.polls if entry else 0).to_bytes(8, "big")
        if entry is not None:
            self.ledger.polled(entry)
        hit = self._before(subject, now, post=False)
        if hit is not None:
            return hit
        if entry is not None and self.settings.limit_gets:
            refusal = self._limiter.admit(entry.model, 0, now, self.settings)
            if refusal is not None:
                return self._refuse(refusal, now, subject)
        reply = self._jobs.read(entry, now, subject)
        reply = replace(reply, delay_s=reply.delay_s + self.settings.handshake_latency)
        if entry is None or not reply.answers:
            return reply
        if entry.kind == "deferred":
            self._fingerprint(entry, reply.body)
            self.ledger.consume(entry, now)
            self._note(records.consumed(entry))
        return self.faults.damaged(reply, self.faults.draw("after", subject, post=False), subject)

    def _fingerprint(self, entry: Entry, body: bytes) -> None:
        if self.settings.itemised:
            entry.sha256 = answers.digest(body)

    def advance(self, seconds: float) -> None:
        """Put the world's clock forward."""
        self.skew_s += seconds
        self._note(records.started(self._generation, self.skew_s))

    def _note(self, record: dict[str, Any]) -> None:
        if self._record is not None:
            self._record(record)
