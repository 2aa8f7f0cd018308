"""What the scheduler decides and what dispatch reports back: the two halves of one conversation, as values.

Law: the scheduler knows no handshake and dispatch knows no queue; both know these.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.model import Job, RateLimit, Work
from bulkgrok.core.values import quick


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """POST this item."""

    work: Work
    at: float = 0.0
    """Monotonic time at which it was let go."""
    tokens: float = 0.0
    """What it was let go for."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """GET the result of this job."""

    job: Job
    at: float = 0.0
    """Monotonic time at which it was let go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Find out whether the API is there, without a billable request."""


Action = Send | Poll | Probe


class Sign(Enum):
    """What a request told about the API's health."""

    GOOD = "good"
    """A usable reply, whatever it said."""
    MISSING = "missing"
    """A 404 to a poll: the API is there, but it does not prove that all is well with this account."""
    THERE = "there"
    """A control request got through, which proves nothing about the billable ones."""
    BAD = "bad"
    """No connection, dropped, or a 5xx."""
    THROTTLED = "throttled"


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What became of an action. At most one of `again` and `job` is set; none means that the row left the scheduler."""

    sign: Sign
    reason: str = ""
    retry_after_s: float | None = None
    again: Work | None = None
    """To be sent again after `delay_s`."""
    last: bool = False
    """`again` goes last and alone."""
    job: Job | None = None
    """To be polled (again)."""
    delay_s: float | None = None
    """When, counted from now; None leaves it to the scheduler."""
    tokens: int | None = None
    """Tokens the request really took, where the reply said so."""
    limit: RateLimit | None = None
    """The limit that a 429 names."""
    stop: BulkgrokError | None = None
    """The run ends with this."""
