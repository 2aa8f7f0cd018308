"""What the simulated API accepted, billed and delivered: the judge of whoever talks to it.

Law: counts what the server saw, never what a client says. A bill is written when a request is accepted and stands,
whatever becomes of the reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bulkgrok.simulator.answers import Ask
from bulkgrok.simulator.catalogue import REFUSAL_FEE_USD, TICKS_PER_USD
from bulkgrok.simulator.clips import Clip


@dataclass(slots=True, eq=False)
class Entry:
    """One accepted request."""

    id: str
    kind: str
    """Chat (direct), deferred, video, video-edit or video-extension."""
    path: str
    model: str
    marker: bytes
    """SHA-256 of the request body."""
    ordinal: int
    """How many requests with the same body came before it."""
    accepted_at: float
    """UNIX seconds, like `ready_at`."""
    ready_at: float
    fate: str
    """Answer, moderated, failed, failed_retryable or no_video."""
    ticks: int
    billed: bool
    ask: Ask | Clip | None = None
    """What the answer is made of; None once it is not needed any more."""
    polls: int = 0
    delivered: int = 0
    """How often a 200 with the result was sent in whole."""
    consumed: bool = False
    """A once-only result that was handed out, whether or not it arrived."""
    consumed_at: float | None = None
    """When that was, as UNIX seconds."""
    polls_after: int = 0
    """Polls after that."""
    sha256: bytes = b""
    """Of the answer (`answers.digest`), or of a video's file once it was fetched; empty for what is not listed."""
    reply_lost: bool = False
    """The reply to the POST did not leave in whole."""
    result_lost: bool = False
    """A once-only result was handed out and did not leave in whole."""
    media_fetched: int = 0
    """How often the whole file, or its last part, was sent."""

    @property
    def once_only(self) -> bool:
        """Whether the result is handed out once."""
        return self.kind in {"chat", "deferred"}

    def as_json(self) -> dict[str, Any]:
        """Return the entry as the ledger shows it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "path": self.path,
            "model": self.model,
            "marker": self.marker.hex(),
            "ordinal": self.ordinal,
            "accepted_at": self.accepted_at,
            "ready_at": self.ready_at,
            "fate": self.fate,
            "billed": self.billed,
            "usd": self.ticks / TICKS_PER_USD if self.billed else 0.0,
            "polls": self.polls,
            "delivered": self.delivered,
            "consumed": self.consumed,
            "consumed_at": self.consumed_at,
            "polls_after": self.polls_after,
            "sha256": self.sha256.hex(),
            "reply_lost": self.reply_lost,
            "result_lost": self.result_lost,
            "media_fetched": self.media_fetched,
        }


@dataclass(slots=True)
class Ledger:
    """All entries and counters of one world."""

    jobs: dict[str, Entry] = field(default_factory=dict)
    """Id -> accepted deferred completions and videos."""
    direct: list[Entry] = field(default_factory=list)
    """Direct completions, where they are listed."""
    accepted: int = 0
    billed: int = 0
    ticks: int = 0
    direct_billed: int = 0
    posts: int = 0
    gets: int = 0
    polls: int = 0
    media_gets: int = 0
    media_with_credentials: int = 0
    media_fetched: int = 0
    dropped_before: int = 0
    content_refusals: int = 0
    consumed: int = 0
    deliveries: int = 0
    deliveries_max: int = 0
    """The most often that one once-only result was sent in whole."""
    polls_max: int = 0
    gets_after_consumption: int = 0
    replies_lost: int = 0
    results_lost: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    """Status -> how many POSTs and GETs got it; 4xx and 5xx only."""
    posts_refused: Counter[int] = field(default_factory=Counter)

    def add(self, entry: Entry, *, itemised: bool) -> None:
        """Enter an accepted request."""
        self.accepted += 1
        if entry.billed:
            self.billed += 1
            self.ticks += entry.ticks
        if entry.kind != "chat":
            self.jobs[entry.id] = entry
        else:
            self.direct_billed += entry.billed
            if itemised:
                self.direct.append(entry)

    def polled(self, entry: Entry) -> None:
        """Count a poll."""
        self.polls += 1
        entry.polls += 1
        self.polls_max = max(self.polls_max, entry.polls)
        if entry.consumed:
            entry.polls_after += 1
            self.gets_after_consumption += 1

    def consume(self, entry: Entry, at: float) -> None:
        """Hand out a once-only result."""
        entry.consumed = True
        entry.consumed_at = at
        entry.ask = None
        self.consumed += 1

    def delivered(self, entry: Entry) -> None:
        """Note that a result was sent in whole."""
        entry.delivered += 1
        self.deliveries += 1
        if entry.once_only:
            self.deliveries_max = max(self.deliveries_max, entry.delivered)

    def lost(self, entry: Entry, *, accepts: bool, answers: bool) -> None:
        """Note that a reply did not leave in whole."""
        if accepts and not entry.reply_lost:
            entry.reply_lost = True
            self.replies_lost += 1
        if answers and entry.kind == "deferred" and not entry.result_lost:
            entry.result_lost = True
            self.results_lost += 1

    def entries(self) -> Iterator[Entry]:
        """Yield the listed entries: jobs, then direct requests."""
        yield from self.jobs.values()
        yield from self.direct

    def summary(self) -> dict[str, Any]:
        """Return the counters."""
        return {
            "accepted": self.accepted,
            "billed": self.billed,
            "usd": self.ticks / TICKS_PER_USD,
            "posts": self.posts,
            "gets": self.gets,
            "polls": self.polls,
            "polls_max": self.polls_max,
            "refused": {str(status): count for status, count in sorted(self.refused.items())},
            "posts_refused": {str(status): count for status, count in sorted(self.posts_refused.items())},
            "dropped_before": self.dropped_before,
            "content_refusals": self.content_refusals,
            "refusal_fees_usd": round(self.content_refusals * REFUSAL_FEE_USD, 6),
            "consumed": self.consumed,
            "deliveries": self.deliveries,
            "deliveries_max": self.deliveries_max,
            "replies_lost": self.replies_lost,
            "results_lost": self.results_lost,
            "gets_after_consumption": self.gets_after_consumption,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "media_gets": self.media_gets,
            "media_fetched": self.media_fetched,
            "media_with_credentials": self.media_with_credentials,
        }

    def as_json(self, *, requests: bool = True) -> dict[str, Any]:
        """Return the counters, and the list of requests unless it is not wanted."""
        listed = {"requests": [entry.as_json() for entry in self.entries()]} if requests else {}
        return self.summary() | listed
