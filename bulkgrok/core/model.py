"""The values that travel between the stages.

Law: frozen, slotted, keyword-only. A different stage of a row's life is a different type:

    RawRow --encode--> Item | BadRow        what the reader found, what will be sent
    Work                                    an item the scheduler holds, with the counts of its past
    Job                                     an accepted deferred request: a receipt waiting to be redeemed
    Record                                  a redeemed answer as the checkpoint holds it, not yet decoded
    Settled                                 a row's outcome in the outbox, in commit order

Units: times ending in `_at` are UNIX seconds (UTC); durations end in `_s`; money ends in `_usd`; sizes in bytes.
Rows are 0-based ordinals of the input; lines are 1-based.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NewType

if TYPE_CHECKING:
    from bulkgrok.core.ports import LargeBody

from bulkgrok.core.money import Money
from bulkgrok.core.values import quick

Row = NewType("Row", int)
RequestId = NewType("RequestId", str)

JsonObject = dict[str, object]


class Mode(StrEnum):
    """The handshake of a row: one POST that answers, or submit, poll and redeem."""

    DIRECT = "direct"
    DEFERRED = "deferred"


class Code(StrEnum):
    """Why a row failed: the codes of the errors file."""

    INVALID_ROW = "invalid_row"
    REJECTED = "rejected"
    MODERATED = "moderated"
    FAILED = "failed"
    EXPIRED = "expired"
    LOST = "lost"
    IN_DOUBT = "in_doubt"
    CANCELLED = "cancelled"
    TOO_LARGE = "too_large"
    INVALID_RESPONSE = "invalid_response"
    DOWNLOAD_FAILED = "download_failed"
    GAVE_UP = "gave_up"


#: Codes for which `--retry-failed` may help; `moderated` rows stay failed whatever is asked.
RETRYABLE_CODES = frozenset({
    Code.FAILED, Code.EXPIRED, Code.LOST, Code.IN_DOUBT, Code.CANCELLED,
    Code.INVALID_RESPONSE, Code.DOWNLOAD_FAILED, Code.GAVE_UP,
})  # fmt: skip


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row as the reader found it: the bytes of a JSON line, or the columns of a table row.

    `defect` is set when the reader itself cannot offer the row (a line over the size cap); then `value` is empty.
    """

    row: int
    line: int | None
    value: bytes | Mapping[str, object]
    defect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be sent. It becomes one `invalid_row` entry of the errors file."""

    row: int
    line: int | None
    custom_id: str
    message: str
    digest: bytes
    template: bool = False
    """Whether it was the user's template that failed, which is a usage error when every row does so."""
    kind: str = ""
    """Empty where the row did not get far enough to have one; so is `model`."""
    model: str = ""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request, encoded and ready to be sent."""

    row: int
    line: int | None
    custom_id: str
    kind: str
    mode: Mode
    model: str
    stream: bool
    body: bytes
    digest: bytes
    """16 bytes; equal digests are equal requests."""
    max_usd: float | None
    """What the request costs at most, as far as can be told beforehand; None when the price is not known."""
    tokens: int
    """Estimate for the token limit: prompt plus what may be generated."""


@dataclass(slots=True, kw_only=True)
class Work:
    """An item in the scheduler's hands, with the counts of what happened to its row so far."""

    item: Item
    posts: int = 0
    """POSTs begun for this row in its whole life, this number is the `attempt` of the ledger."""
    attempts: int = 0
    """Those that count against `--max-attempts`."""
    doubts: int = 0
    losses: int = 0
    failures: int = 0
    """Requests in a row that went unanswered or got a 5xx, for the back-off; not durable."""
    kept_out: int = 0
    """Times in a row that it was refused for its rate or did not leave in whole; not durable."""
    kept_out_since: float = 0.0
    """Monotonic time of the first of them."""
    last: bool = False
    """Kept out so often, while others were answered, that it goes last and alone."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A receipt: an accepted deferred request whose result waits on the server."""

    row: int
    kind: str
    request_id: RequestId
    submitted_at: float
    deadline_at: float
    model: str = ""
    """Of the request: limits and latencies are a model's own."""
    tokens: int = 0
    """The request's estimate, 0 where it is not known."""
    pending_s: float = -1.0
    """Its age in seconds when it was last known not to be ready; negative where that is not known."""
    polls: int = 0
    missing: int = 0
    """404s in a row."""
    missing_since: float = 0.0
    """Monotonic time of the first of them."""
    overdue: int = 0
    """Polls after the deadline that told nothing, in a row."""
    overdue_since: float = 0.0
    """Monotonic time of the first of them."""
    errors: int = 0
    """5xx for this id alone, in a row."""
    errors_since: float = 0.0
    """Monotonic time of the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The durable counts of a row that is pending again."""

    posts: int
    attempts: int
    doubts: int
    losses: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRef:
    """A file the answer points at. The URL may be signed: it is a secret until it expires."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file of an answer as the output names it; `path` is None when downloads are off."""

    url: str
    path: str | None = None
    """Relative to the results file, with forward slashes."""
    bytes: int | None = None
    sha256: str | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A redeemed answer in the checkpoint, with what is needed to decode and settle it."""

    row: int
    line: int | None
    custom_id: str
    kind: str
    mode: Mode
    model: str
    attempts: int
    """POSTs begun for the row so far, for the output's `attempts`."""
    counted: int
    """Those that count against `--max-attempts`."""
    submitted_at: float
    completed_at: float
    request_id: str | None
    status_code: int
    raw: bytes
    max_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowError:
    """Why a row failed, as the errors file says it."""

    code: Code
    message: str
    status_code: int | None = None
    retryable: bool = False
    line: int | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A row's outcome as the outbox hands it to the sinks; `error` is None for a success.

    `body` is the reply as the API wrote it (raw bytes, not always JSON when `error` is set), or None.
    """

    seq: int
    row: int
    line: int | None
    custom_id: str
    kind: str
    mode: Mode
    model: str
    attempts: int
    submitted_at: float | None
    completed_at: float | None
    request_id: str | None
    status_code: int | None
    body: bytes | None
    cost_usd: float | None
    usage: bytes | None
    """The API's usage object as JSON, or None."""
    assets: tuple[Asset, ...] = ()
    error: RowError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One line of the append-only ledger: a billed or possibly billed request that is not simply a row's answer."""

    row: int
    custom_id: str
    attempt: int
    at: float
    entry: Entry
    reason: str
    max_usd: float
    """What the request cost at most."""
    request_id: str | None = None
    cost_usd: float | None = None
    """What it cost, where the API told it; it is in the sum of all costs then."""


class Entry(StrEnum):
    """What the ledger says about a request."""

    IN_DOUBT = "in_doubt"
    """Sent, no usable reply: the API may have done and billed it."""
    LOST = "lost"
    """Accepted, its once-only result consumed by the server and never received."""
    EXPIRED = "expired"
    """Accepted, not redeemed before the deadline."""
    JOB_FAILED = "job_failed"
    """Accepted, and the API says that the job failed."""
    REPLACED = "replaced"
    """Answered, but the answer was unusable and the row was asked for again with `--retry-failed`."""
    POSSIBLE_FEE = "possible_fee"
    """Refused for its content before anything was generated: the API may charge a fee for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What ties a run to its input: size in bytes and SHA-256 (hex) of the file as stored, compressed or not."""

    size: int
    sha256: str
    """Of an object in a store that gives each content a name of its own: that name, as `etag:NAME`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What a checkpoint belongs to. A resume with another one is refused with exit 6."""

    run_id: str
    input_name: str
    input: Fingerprint | None
    """None while a stream of rows is still being spooled."""
    settings: Mapping[str, object]
    """The fixed flags by name, JSON values."""
    endpoint: str
    key_salt: str
    key_hash: str
    simulated: bool
    created_at: float
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the checkpoint counts, for summaries. n rows each."""

    succeeded: int
    failed: int
    accepted: int
    submitting: int
    redeemed: int
    pending_known: int
    """Rows in the checkpoint that wait to be sent (again); rows never begun are not in it."""
    failed_by_code: Mapping[str, int]
    in_doubt: int
    lost: int
    expired: int
    billed: int
    cost_usd: float
    money: Money
    tokens: Mapping[str, int]
    next_deadline_at: float | None


ExitCode = Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 130, 143]


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply of the API: status and body, as far as it arrived.

    `complete` is False when the connection broke, timed out or passed the size cap inside the body.
    """

    status: int
    body: bytes = b""
    complete: bool = True
    content_type: str = ""
    retry_after_s: float | None = None
    request_id: str | None = None
    """`x-request-id`."""
    date_at: float | None = None
    """The server's clock, from `Date`."""
    oversized: bool = False
    """More came than is kept anywhere; `body`, or `large`, holds the beginning."""
    large: LargeBody | None = None
    """The body on the disk, where it is too large for memory; `body` holds its beginning."""
    limit_rpm: float | None = None
    """`x-ratelimit-limit-requests` of a 429, which counts minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A limit that a 429 names: `what` is requests or tokens."""

    what: Literal["requests", "tokens"]
    per_s: float
    measure: str
    """In the API's words, such as "Requests per Second"."""
    said: bool = True
    """Whether its text says so; headers are a hint only: they name a limit, not always the one that was reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """The request certainly did not leave in whole: no name, no connection, no TLS, or a write error before the end."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoReply:
    """The last byte was written and no status line came back: dropped or timed out."""

    reason: str


Exchange = Reply | NotSent | NoReply


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A decoded answer."""

    model: str | None
    usage: JsonObject | None
    ticks: int | None
    """`cost_in_usd_ticks`: 1 USD is 10,000,000,000 ticks (docs.x.ai, cost tracking)."""
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Prompt, completion, reasoning, cached (cached is part of prompt, reasoning is not part of completion)."""
    content: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    service_tier: str | None = None
    assets: tuple[AssetRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """A complete reply that is no answer.

    `code` is what the row fails with; `again` tells that the API says the job may simply be sent once more
    (service_unavailable, internal_error). `usage` and `ticks` are what it cost all the same, where they can be read.
    """

    code: Code
    message: str
    again: bool = False
    usage: JsonObject | None = None
    ticks: int | None = None
    model: str | None = None


Decoded = Answer | Unusable


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a sink's output is final: everything up to `seq`, inclusive; `state` is the sink's own (JSON values)."""

    seq: int
    state: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """How one try to download a file went.

    `status` is None when no reply came. `complete` means that the file is whole. `etag` allows a later resume.
    """

    status: int | None
    complete: bool
    reason: str = ""
    etag: str | None = None
    too_large: bool = False
    forbidden: bool = False
    """The address itself is not allowed (not https, not public): no further try helps."""


_TOGETHER: Final = 512


class RowSet:
    """A set of row ordinals in one bit each: 10 million rows take 1.25 MB."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: int) -> bool:
        byte = row >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (row & 7) & 1)

    def below(self, row: int) -> int:
        """Return how many rows less than `row` are in the set."""
        whole, rest = row >> 3, row & 7
        count = int.from_bytes(self._bits[:whole], "little").bit_count()
        if rest and whole < len(self._bits):
            count += (self._bits[whole] & ((1 << rest) - 1)).bit_count()
        return count

    def add(self, row: int) -> None:
        """Add a row; adding it twice is harmless."""
        byte, bit = row >> 3, 1 << (row & 7)
        if byte >= len(self._bits):
            self._bits.extend(bytes(max(byte + 1 - len(self._bits), len(self._bits), 64)))
        if not self._bits[byte] & bit:
            self._bits[byte] |= bit
            self._count += 1

    def holds(self, first: int, end: int) -> bool:
        """Tell whether all rows from `first` to below `end` are in the set."""
        if end <= first:
            return True
        begin, last = first >> 3, end - 1 >> 3
        if last >= len(self._bits):
            return False
        found = int.from_bytes(self._bits[begin : last + 1], "little") >> (first & 7)
        return not ~found & ((1 << (end - first)) - 1)

    def add_all(self, rows: list[int]) -> None:
        """Add many rows, given in order and none of them twice: fast where most of them follow one another."""
        at = 0
        while at + _TOGETHER < len(rows):
            first, last = rows[at], rows[at + _TOGETHER]
            if last - first == _TOGETHER and not first & 7:
                self._add_bytes(first >> 3, _TOGETHER >> 3)
                at += _TOGETHER
            else:
                step = 8 - (first & 7) if last - first == _TOGETHER else _TOGETHER
                self.update(rows[at : at + step])
                at += step
        self.update(rows[at:])

    def _add_bytes(self, begin: int, count: int) -> None:
        """Add eight rows for each of some bytes."""
        bits, end = self._bits, begin + count
        if end > len(bits):
            bits.extend(bytes(max(end - len(bits), len(bits), 64)))
        self._count += 8 * count - int.from_bytes(bits[begin:end], "little").bit_count()
        bits[begin:end] = b"\xff" * count

    def update(self, rows: Iterable[int]) -> None:
        """Add many rows: twice as fast as one by one."""
        bits, added = self._bits, 0
        for row in rows:
            byte, bit = row >> 3, 1 << (row & 7)
            if byte >= len(bits):
                bits.extend(bytes(max(byte + 1 - len(bits), len(bits), 64)))
            if not bits[byte] & bit:
                bits[byte] |= bit
                added += 1
        self._count += added

    def discard(self, row: int) -> None:
        """Remove a row if it is there."""
        byte, bit = row >> 3, 1 << (row & 7)
        if byte < len(self._bits) and self._bits[byte] & bit:
            self._bits[byte] ^= bit
            self._count -= 1


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a run is doing right now: plain counters that the engine keeps and observers read."""

    state: str = "starting"
    """starting, running, draining, outage, finishing or finished."""
    note: str = ""
    """A sentence for the user while something is unusual, else empty."""
    rows: int | None = None
    """n rows of the input (with `--limit`: that it covers), None while they are still being counted."""
    succeeded: int = 0
    failed: int = 0
    failed_by_code: dict[str, int] = field(default_factory=dict)
    outstanding: int = 0
    """Accepted or redeemed, not settled."""
    in_flight: int = 0
    downloads: int = 0
    requests: int = 0
    """Requests to the API since this start, of any kind."""
    throttled: int = 0
    """429s since this start."""
    in_doubt: int = 0
    lost: int = 0
    cost_usd: float = 0.0
    taken_usd: float | None = None
    """What is spent or may be, with what is on its way at most; None where money is not limited or not yet known."""
    budget_usd: float | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    next_deadline_at: float | None = None
    started_at: float = 0.0
    done_before: int = 0
    """Rows that were settled before this start."""
