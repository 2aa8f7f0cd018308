"""Rows of a group of changes, read from the database and written back in a handful of statements.

Law: whole rows go in and out, and columns keep their order: that of `rows` in postgres_writes.sql. A reply that is kept
is not read for it; UNREAD stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bulkgrok.checkpoint import blobs
from bulkgrok.checkpoint.postgres_connecting import Connection
from bulkgrok.checkpoint.rows import StoredRow
from bulkgrok.checkpoint.statements import load
from bulkgrok.checkpoint.values import assets_from, small, stored_assets
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.lifecycle import State
from bulkgrok.core.model import Code, LedgerEntry, Mode, RowError
from bulkgrok.core.ports import LargeBody

SQL: Final = load("postgres_writes.sql")
#: Stands for a reply that the database holds and nobody asked for.
UNREAD: Final = bytes(bytearray(b"unread"))
_NOTHING, _ANSWER, _REFUSAL = 0, 1, 2
_COLUMNS: Final = 34
_BATCH_BYTES: Final = 4 << 20


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What the database holds of the rows of a group."""

    rows: dict[int, StoredRow] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)
    """row -> size in bytes of the reply that is kept."""

    @classmethod
    def of(cls, found: Iterable[Sequence[Any]]) -> Loaded:
        """Return the rows that columns tell of."""
        loaded = cls()
        for columns in found:
            row, kept = _row(columns)
            loaded.rows[row.row] = row
            if kept is not None:
                loaded.kept[row.row] = kept
        return loaded


def _row(columns: Sequence[Any]) -> tuple[StoredRow, int | None]:
    (
        row, state, digest, line, custom_id, kind, mode, model, posts, refused, attempts, doubts, losses, held, kept,
        max_usd, request_id, submitted_at, deadline_at, completed_at, status_code, seq, cost_usd, spent_ticks, usage,
        prompt, completion, reasoning, cached, assets, error_code, error_message, error_status, retryable,
    ) = columns  # fmt: skip
    error = None
    if error_code is not None:
        error = RowError(
            code=Code(error_code), message=error_message, status_code=error_status, retryable=retryable, line=line
        )
    found = StoredRow(
        row=row,
        state=State(state),
        digest=digest,
        line=line,
        custom_id=custom_id,
        kind=kind,
        mode=Mode(mode),
        model=model,
        posts=posts,
        refused=refused,
        attempts=attempts,
        doubts=doubts,
        losses=losses,
        max_usd=max_usd,
        request_id=request_id,
        submitted_at=submitted_at,
        deadline_at=deadline_at,
        completed_at=completed_at,
        status_code=status_code,
        answered=held == _ANSWER,
        body=UNREAD if held != _NOTHING else None,
        seq=seq or 0,
        cost_usd=cost_usd,
        spent_ticks=spent_ticks,
        usage=usage,
        tokens=(prompt, completion, reasoning, cached),
        assets=assets_from(assets),
        error=error,
    )
    return found, kept


def store(connection: Connection, run: int, rows: Iterable[StoredRow], loaded: Loaded) -> None:
    """Write rows back, with the replies that they were given. Inside a transaction."""
    columns: list[list[Any]] = [[] for _ in range(_COLUMNS)]
    replies: dict[int, bytes | LargeBody] = {}
    for row in rows:
        if row.body is not None and row.body is not UNREAD:
            replies[row.row] = row.body
            kept: int | None = blobs.size_of(row.body)
        else:
            kept = loaded.kept.get(row.row)
        for column, value in zip(columns, _values(row, kept), strict=True):
            column.append(value)
    connection.execute(SQL["store"], (run, *columns))
    replaced = [row for row in replies if row in loaded.kept]
    if replaced:
        connection.execute(SQL["forget"], (run, replaced))
    _keep(connection, run, replies)


def _values(row: StoredRow, kept: int | None) -> tuple[Any, ...]:
    held = _ANSWER if row.answered else _NOTHING if row.body is None else _REFUSAL
    error = row.error
    code, message, error_status, retryable = (
        (None, None, None, False)
        if error is None
        else (error.code.value, error.message, small(error.status_code), error.retryable)
    )
    return (
        row.row, row.state.value, bytes(row.digest), row.line, row.custom_id, row.kind, Mode(row.mode).value, row.model,
        row.posts, row.refused, row.attempts, row.doubts, row.losses, held, kept, float(row.max_usd), row.request_id,
        _float(row.submitted_at), _float(row.deadline_at), _float(row.completed_at), small(row.status_code),
        row.seq or None, _float(row.cost_usd), row.spent_ticks, row.usage, *row.tokens, stored_assets(row.assets), code,
        message, error_status, retryable,
    )  # fmt: skip


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _keep(connection: Connection, run: int, replies: Mapping[int, bytes | LargeBody]) -> None:
    """Store replies in pieces, some megabytes a statement."""
    rows: list[int] = []
    numbers: list[int] = []
    pieces: list[bytes] = []
    size = 0
    for row, raw in replies.items():
        for number, piece in enumerate(_pieces(row, raw)):
            rows.append(row)
            numbers.append(number)
            pieces.append(piece)
            size += len(piece)
            if size >= _BATCH_BYTES:
                connection.execute(SQL["keep"], (run, rows, numbers, pieces))
                rows, numbers, pieces, size = [], [], [], 0
    if rows:
        connection.execute(SQL["keep"], (run, rows, numbers, pieces))


def _pieces(row: int, raw: bytes | LargeBody) -> Iterable[bytes]:
    """Return a reply in pieces of at most LARGE_BYTES; one that is not large is one piece, even when it is empty."""
    if isinstance(raw, bytes) and len(raw) <= blobs.LARGE_BYTES:
        return (raw,)
    return _joined(row, raw)


def _joined(row: int, raw: bytes | LargeBody) -> Iterable[bytes]:
    left, piece = blobs.size_of(raw), bytearray()
    first = True
    for block in blobs.pieces_of(raw):
        left -= len(block)
        piece += block
        while len(piece) >= blobs.LARGE_BYTES:
            yield bytes(piece[: blobs.LARGE_BYTES])
            del piece[: blobs.LARGE_BYTES]
            first = False
    if piece or first:
        yield bytes(piece)
    if left:
        msg = f"The file with the answer of row {row} is not as large as it was written."
        raise StorageFailed(msg)


def enter(connection: Connection, run: int, entries: Sequence[LedgerEntry]) -> None:
    """Add entries to the ledger, in order. Inside a transaction."""
    columns: list[list[Any]] = [[] for _ in range(9)]
    for entry in entries:
        values = (
            entry.row, entry.custom_id, entry.attempt, float(entry.at), entry.entry.value, entry.reason,
            float(entry.max_usd), entry.request_id, _float(entry.cost_usd),
        )  # fmt: skip
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    connection.execute(SQL["enter"], (run, *columns))
