"""The seams between stages: each port is shaped by its caller.

Law: a stage imports no sibling; it takes these and the engine fills them in. Every port has one contract suite under
tests/contract that runs over all its implementations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from bulkgrok.core.errors import RunTakenOver
from bulkgrok.core.lifecycle import Change
from bulkgrok.core.model import (
    BadRow,
    Counts,
    Decoded,
    Exchange,
    Fetched,
    Item,
    Job,
    LedgerEntry,
    Position,
    RawRow,
    Record,
    Reply,
    RequestId,
    RowSet,
    RunIdentity,
    Settled,
    Totals,
)
from bulkgrok.core.money import Money

T = TypeVar("T")


class Clock(Protocol):
    """Two clocks: durations and deadlines inside the process are monotonic, stored times are UNIX seconds."""

    def wall(self) -> float:
        """UNIX seconds, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, on the running loop's own clock."""
        ...


class Offload(Protocol):
    """Run a blocking function off the event loop (a thread in production, inline in simulation)."""

    def __call__(self, function: Callable[..., T], /, *args: object) -> Awaitable[T]:
        """Return what `function(*args)` returns."""
        ...


class Passing(Protocol):
    """Whether rows may be passed over: making a row costs many times what finding its end does."""

    def __call__(self, first: int, end: int, /) -> bool:
        """Tell whether nobody wants any of the rows from `first` to below `end`."""
        ...


class Events(Protocol):
    """Where stages tell what happened; observers render, log or count it. Never given prompts, answers or keys."""

    def __call__(self, name: str, /, **fields: object) -> None:
        """Tell of the event `name` (`noun.verb`)."""
        ...


class Reader(Protocol):
    """Reads one input in order, as often as asked, with flat memory."""

    def chunks(self, passing: Passing | None = None) -> Iterator[Sequence[RawRow]]:
        """Yield all rows from the first, in chunks of some dozens to some thousands.

        Args:
            passing: Asked of rows before they are made, in order; those for which it says yes are left out.

        Blank lines are no rows. A row the reader cannot offer has `defect` set; only an input that is broken as a
        whole (bad gzip, no Parquet footer, unreadable) raises InputError, and then after every row before the break.
        """
        ...


class Encoder(Protocol):
    """Turns raw rows into requests."""

    def encode(self, raw: RawRow) -> Item | BadRow:
        """Return the request of a row, or why there is none. Never raises for what a row holds."""
        ...


class Kind(Protocol):
    """What is asked: where it is sent and how its answers read. Pure."""

    @property
    def name(self) -> str:
        """Chat, video, video-edit or video-extension, in the output's `kind`."""
        ...

    @property
    def submit_path(self) -> str:
        """Where to POST, below the base URL, with a leading slash."""
        ...

    @property
    def once_only(self) -> bool:
        """Whether redeeming consumes the result on the server."""
        ...

    def result_path(self, request_id: RequestId) -> str:
        """Where to GET the result of a deferred request, below the base URL."""
        ...

    def unstream(self, reply: Reply) -> Reply:
        """Turn a server-sent-events reply into the ordinary reply it stands for; other replies pass unchanged.

        A stream that breaks, or errs after its first content, becomes an incomplete reply; an error before any
        content becomes a reply whose body is that error object.
        """
        ...

    def assemble(self, reply: Reply, blocks: Iterable[bytes]) -> Reply:
        """Do what `unstream` does with a body that comes in blocks; `oversized` if that takes too much memory."""
        ...

    def decode(self, raw: bytes, *, text: bool = True) -> Decoded:
        """Read the body of a complete 200. Never raises. Without `text`, what was written stays unread."""
        ...


class LargeBody(Protocol):
    """A reply's body on the disk, in a file of its own that only this user can read. Blocking: for use off the loop.

    Whoever is given one ends with `keep` or `discard`; what a crash leaves behind is found by the next run.
    """

    @property
    def size_bytes(self) -> int:
        """How large it is."""
        ...

    @property
    def framed(self) -> bool:
        """Whether the reply told where its body ends. If not, it may have been cut."""
        ...

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, some hundred kilobytes at a time.

        Raises:
            StorageFailed: The disk refused.
        """
        ...

    def read(self) -> bytes:
        """Return all of it. Raises as `blocks`."""
        ...

    def keep(self) -> str:
        """Make it durable under its final name; return the path. Raises as `blocks`."""
        ...

    def discard(self) -> None:
        """Remove the file. Harmless when repeated, or after `keep`."""
        ...


class Transport(Protocol):
    """HTTP to the API's origin. Returns what happened as a value; never follows redirects, never repeats a request.

    A 2xx body that is too large for memory goes to a file, if `keep` names one (letters, digits, dashes); without that
    only its beginning is kept. Cancelling a call closes its connection; callers shield calls whose reply must not be
    lost.
    """

    async def post(
        self, path: str, body: bytes, *, timeout_s: float | None, idle_s: float | None, keep: str = ""
    ) -> Exchange:
        """POST JSON. `timeout_s` bounds the whole exchange, `idle_s` the time without a byte.

        Raises:
            StorageFailed: The disk refused a large body: the run must stop.
        """
        ...

    async def get(self, path: str, *, keep: str = "") -> Exchange:
        """GET below the base URL, with the key; ends after 120 s without a byte.

        Raises:
            StorageFailed: As in `post`.
        """
        ...

    async def fetch(self, url: str, *, offset: int, etag: str | None, write: Callable[[bytes, int], None]) -> Fetched:
        """Download a file without the key, from byte `offset` if `etag` still matches, else from the start.

        `write(data, position)` is called for each block in order; a position of 0 means that the file begins anew.
        """
        ...


class ChangeLog(Protocol):
    """The durable side of the lifecycle. Synchronous; called from one thread at a time."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply all changes in order in one durable transaction, or none.

        Raises:
            StorageFailed: The disk refused; nothing was applied.
            ValueError: The lifecycle table does not allow one of them, or a receipt names an id that another row was
                given; nothing was applied.
        """
        ...


class Admission(Protocol):
    """What a run finds when it starts."""

    def taken(self) -> RowSet:
        """Rows that need not be sent: accepted, redeemed, succeeded, failed."""
        ...

    def submitting(self) -> list[int]:
        """Rows whose intent is durable and whose outcome is not, in order."""
        ...

    def waiting(self) -> dict[int, Counts]:
        """Rows that are pending and were begun before, with their counts."""
        ...

    def jobs(self) -> Iterator[Job]:
        """Accepted requests, earliest deadline first."""
        ...

    def keep_for(self, ttl_s: float) -> None:
        """Note how long the server keeps results; move every deadline by what that differs from the time noted before.

        Durable, all of it or nothing. A checkpoint that noted none keeps its deadlines.
        """
        ...

    def redeemed(self) -> list[int]:
        """Rows whose answer is durable and not settled, in order."""
        ...

    def record(self, row: int) -> Record:
        """The stored answer of a row that is redeemed (or failed with its answer kept). KeyError if there is none."""
        ...

    def counts(self, row: int) -> Counts:
        """The durable counts of a row. KeyError if it was never begun."""
        ...


class Outbox(Protocol):
    """Outcomes in commit order, for sinks."""

    def outbox(self, after: int, limit: int) -> list[Settled]:
        """At most `limit` successes with seq > after, in order; fewer when they are large."""
        ...

    def failures(self) -> Iterator[Settled]:
        """The rows that are failed now, in row order (their seq is 0)."""
        ...

    def outcome(self, row: int) -> Settled | None:
        """The outcome of one row, if it has one."""
        ...

    def position(self, sink: str) -> Position | None:
        """How far the named sink got; None for a new one."""
        ...

    def advance(self, sink: str, position: Position) -> None:
        """Store a sink's position durably. Called after the sink's own bytes are durable."""
        ...


class Accounts(Protocol):
    """What a run cost and what became of every request."""

    def totals(self) -> Totals:
        """Count everything."""
        ...

    def money(self) -> Money:
        """Return what was paid, may have been, and is on its way; cheap enough to be asked after every group."""
        ...

    def ledger(self) -> Iterator[LedgerEntry]:
        """All entries in order of time."""
        ...

    def pending_doubts(self) -> list[LedgerEntry]:
        """Requests of a run that is not running: intents without an outcome, as they would enter the ledger."""
        ...

    def unexplained(self) -> list[LedgerEntry]:
        """Rows whose POSTs do not add up to refusals, ledger entries and the present state. Always empty, or a bug."""
        ...


class RunFacts(Protocol):
    """Who a run is, and small facts about it."""

    def identity(self) -> RunIdentity | None:
        """Return what the checkpoint belongs to, None for a new one."""
        ...

    def bind(self, identity: RunIdentity) -> None:
        """Store the identity, replacing an older one."""
        ...

    def note(self, key: str, value: object) -> None:
        """Store a JSON value durably under a key."""
        ...

    def recall(self, key: str) -> object:
        """Return the value stored under a key, or None."""
        ...


class Lease(Protocol):
    """What tells a runner, without asking anybody, whether a run is certainly still its own. For any thread."""

    lost: bool
    """Whether another runner has taken the run over: nothing may be sent or written any more."""

    def holds(self) -> bool:
        """Tell whether a request may leave, or an output be written, at this moment."""
        ...

    def taken_over(self) -> RunTakenOver:
        """Word the end of a runner that lost its run."""
        ...


class Store(ChangeLog, Admission, Outbox, Accounts, RunFacts, Protocol):
    """One run's checkpoint. Opened by its constructor's caller, used from one thread at a time."""

    @property
    def warnings(self) -> Sequence[str]:
        """What the user should know about the place, once it is open."""
        ...

    def open(self) -> None:
        """Create or open; verify version, integrity after a crash and every durability setting.

        Raises:
            StorageFailed: It cannot be opened or is damaged.
            RunMismatch: It was written by a newer version.
        """
        ...

    @property
    def lease(self) -> Lease | None:
        """What tells whether the run is still ours, once it is open; None where a lock on a file does."""
        ...

    @property
    def unclear_s(self) -> float:
        """For how long after the opening an earlier runner may still hand in an answer that it had in hand."""
        ...

    @property
    def spill_place(self) -> Path | None:
        """What the place for changes that it could not take is named after, once it is open; None for no such place."""
        ...

    def retire(self) -> None:
        """Make room for a new run of this name: this one was simulated. A file is removed by whoever asks for it."""
        ...

    def wind_up(self) -> None:
        """Take less room on the disk, if that can be done. Changes nothing of what is stored; never raises."""
        ...

    def write_back(self) -> bool:
        """Write the store again where somebody removed its file; tell whether that was done. Never raises."""
        ...

    def close(self) -> None:
        """Release files and locks."""
        ...


class Checkpoint(Protocol):
    """The store as stages on the event loop see it: one writer, group commit, durable when a call returns."""

    def commit(self, *changes: Change) -> Awaitable[None]:
        """Apply changes in one transaction; return once they are durable. Cancelling the caller loses nothing.

        Raises:
            StorageFailed: They could not be made durable; the run must stop.
            ValueError: The lifecycle table does not allow one of them.
        """
        ...

    def post(self, *changes: Change, then: Callable[[BaseException | None], None]) -> None:
        """Hand in changes for one transaction without waiting: what is handed in later follows them.

        `then` is called on the loop: with None once they are durable, else with what `commit` would raise.
        """
        ...

    async def call(self, function: Callable[..., T], /, *args: object) -> T:
        """Run a function of the store in order with the commits."""
        ...


class Sink(Protocol):
    """A projection of the outbox onto files. Synchronous; called from one thread at a time.

    `write` may buffer; `commit` returns the position up to which the output is final and durable. After a crash
    `restore` brings the output back to exactly a stored position.
    """

    @property
    def name(self) -> str:
        """Under which its position is stored."""
        ...

    @property
    def appendable(self) -> bool:
        """Whether rows can be added behind a final position; if not, more rows mean a replay from the start."""
        ...

    @property
    def unfinished(self) -> bool:
        """Whether `commit`, or `finish`, is to be called again once the position it returned is stored.

        Where that call returns the same position, the place is away for now: no rows are to be written before a later
        call returns another one, or raises StorageFailed.
        """
        ...

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a place this run did not write. Changes nothing.

        Args:
            position: The stored position, None for a new run.
            owned: Tells whether a line (without its newline) is one that this run wrote.

        Raises:
            UsageError: A foreign file or folder is there.
        """
        ...

    def restore(self, position: Position | None) -> Position:
        """Discard everything after `position`; return the position from which the outbox must be replayed.

        That is an earlier one (seq 0) where the output is missing or damaged, and for None.
        """
        ...

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Take the next successes, in order of seq."""
        ...

    def commit(self) -> Position:
        """Make final what can be, durably, and return the position; the one before is stored by now."""
        ...

    def finish(self, *, complete: bool) -> Position:
        """End a run: close parts; if every row has its outcome, also what comes last (one-file Parquet, manifest)."""
        ...

    def close(self) -> None:
        """Release files and locks."""
        ...


class FailureFile(Protocol):
    """The errors file: the current set of failed rows, replaced atomically."""

    def check(self, state: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Refuse a file this run did not write (UsageError)."""
        ...

    def probe(self) -> None:
        """Find out whether it may be written, where only writing tells (UsageError)."""
        ...

    def replace(self, failures: Iterable[Settled], plan: Callable[[Position], None]) -> bool:
        """Write all failures to a temporary file, call `plan` with what identifies it, then put it in place.

        Returns whether that was done; if not, its place is away for now.
        """
        ...
