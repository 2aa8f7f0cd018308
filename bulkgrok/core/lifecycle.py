"""Everything that may happen to a row: states, the changes between them, and the one table that allows them.

Law: a state changes only through a Change below; a store applies changes in one durable transaction each batch and
refuses any that the table does not allow. Rows that a store does not hold are PENDING.

Every non-terminal state has exactly one recovery rule, in RECOVERY.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from bulkgrok.core.model import Asset, Entry, Item, RequestId, RowError
from bulkgrok.core.values import quick

if TYPE_CHECKING:
    from bulkgrok.core.ports import LargeBody


class State(IntEnum):
    """Durable states of a row. The numbers are stored: never renumber."""

    PENDING = 0
    """Nothing is on its way. Set by the engine at recovery and after every definite refusal. A crash costs nothing."""
    SUBMITTING = 1
    """The intent to POST is durable, its outcome not. Set before the first byte leaves; a crash makes it in doubt."""
    ACCEPTED = 2
    """The receipt is durable and the result waits on the server. A crash while a GET is in flight may lose it."""
    REDEEMED = 3
    """The raw bytes of the answer are durable: nothing will be asked for again. A crash costs nothing."""
    SUCCEEDED = 4
    """Terminal: the outcome is in the outbox. Never left."""
    FAILED = 5
    """Terminal for this run: in the errors file. Left by `--retry-failed` or by new settings of an unbilled run."""


TERMINAL: Final = frozenset({State.SUCCEEDED, State.FAILED})

RECOVERY: Final[Mapping[State, str]] = {
    State.PENDING: "send it",
    State.SUBMITTING: "enter it in the ledger as in doubt, then --on-ambiguous decides",
    State.ACCEPTED: "poll it, earliest deadline first; past the deadline one final GET decides",
    State.REDEEMED: "decode the stored bytes, download what is missing, settle",
}


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """The intent to POST, durable before its first byte. Begins attempt number `attempt` (1-based) of the row."""

    item: Item
    attempt: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """The request certainly did not leave in whole: free, the attempt is not counted."""

    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The API definitely refused the request: pending again.

    `counted` tells whether it counts against `--max-attempts`; `entry` is what the ledger notes of it (in doubt for
    a 5xx, a possible fee for refused content) or None when it was free for certain; `max_usd` is what that costs at
    most, None for as much as the request.
    """

    row: int
    at: float
    counted: bool
    entry: Entry | None = None
    reason: str = ""
    max_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Sent, and no usable reply: pending again, in the ledger as in doubt, `doubts` + 1 and an attempt counted."""

    row: int
    at: float
    reason: str


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The receipt of a deferred request, durable before the first poll."""

    row: int
    request_id: RequestId
    at: float
    deadline_at: float


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Redeem:
    """The raw bytes of an answer: of a direct POST, or of the GET that consumed a deferred result."""

    row: int
    at: float
    status_code: int
    raw: bytes | LargeBody
    request_id: str | None
    """xAI's `x-request-id` for a direct answer, the receipt's for a deferred one; None keeps what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lose:
    """The once-only result is gone (404): pending again, in the ledger as lost, `losses` + 1."""

    row: int
    at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """The final GET after the deadline found nothing: pending again, in the ledger as expired (a Fail follows)."""

    row: int
    at: float
    reason: str
    cost_usd: float | None = None
    """What it cost all the same, where the API told it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """The API says that the accepted job failed: pending again, in the ledger, an attempt counted."""

    row: int
    at: float
    reason: str
    cost_usd: float | None = None
    """What it cost all the same, where the API told it."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Succeed:
    """The outcome of a redeemed row enters the outbox. The store gives it the next sequence number."""

    row: int
    model: str
    """The model that answered, which is the one billed."""
    cost_usd: float | None
    usage: bytes | None
    tokens: tuple[int, int, int, int]
    """Prompt, completion, reasoning, cached: n tokens each, for the totals."""
    assets: tuple[Asset, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """A row fails: from pending (never sent, refused, in doubt, lost, expired) or from redeemed (unusable answer).

    `custom_id`, `kind`, `mode`, `model` and `digest` are stored where the row is not known yet (a bad row).
    `reply` is the refusing reply; a redeemed row keeps its answer, and `cost_usd`/`usage` where they could be read.
    """

    row: int
    at: float
    error: RowError
    custom_id: str
    kind: str
    mode: str
    model: str
    digest: bytes
    line: int | None = None
    reply: bytes | None = None
    request_id: str | None = None
    cost_usd: float | None = None
    usage: bytes | None = None
    assets: tuple[Asset, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A failed row becomes pending with fresh counts; an answer it had is entered in the ledger as replaced."""

    row: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Redownload:
    """A row that failed with its paid response kept becomes redeemed again: only its assets are fetched."""

    row: int


Change = (
    Submit | Unsent | Refuse | Doubt | Accept | Redeem | Lose | Expire | JobFailed | Succeed | Fail | Retry | Redownload
)

#: change -> ((from, to), ...). The one table; the diagram in docs/lifecycle.md is tested against it.
ARCS: Final[Mapping[type, tuple[tuple[State, State], ...]]] = {
    Submit: ((State.PENDING, State.SUBMITTING),),
    Unsent: ((State.SUBMITTING, State.PENDING),),
    Refuse: ((State.SUBMITTING, State.PENDING),),
    Doubt: ((State.SUBMITTING, State.PENDING),),
    Accept: ((State.SUBMITTING, State.ACCEPTED),),
    Redeem: ((State.SUBMITTING, State.REDEEMED), (State.ACCEPTED, State.REDEEMED)),
    Lose: ((State.ACCEPTED, State.PENDING),),
    Expire: ((State.ACCEPTED, State.PENDING), (State.REDEEMED, State.PENDING)),
    JobFailed: ((State.ACCEPTED, State.PENDING), (State.REDEEMED, State.PENDING)),
    Succeed: ((State.REDEEMED, State.SUCCEEDED),),
    Fail: ((State.PENDING, State.FAILED), (State.REDEEMED, State.FAILED)),
    Retry: ((State.FAILED, State.PENDING),),
    Redownload: ((State.FAILED, State.REDEEMED),),
}


def after(state: State, change: type) -> State:
    """Return the state that `change` leads to from `state`.

    Raises:
        ValueError: The table does not allow it: a defect of the caller, never of the input.
    """
    for source, target in ARCS[change]:
        if source is state:
            return target
    msg = f"{change.__name__} is not allowed in state {state.name.lower()}"
    raise ValueError(msg)
