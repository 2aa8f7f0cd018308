"""Outcomes as a table: the one schema, batches of rows, and a writer of row groups.

Law: the schema never depends on the data; no column is ever of null type. `body` holds the same text as the JSONL
line. pyarrow's exceptions end here. Equal outcomes in equal order are equal bytes for one version of pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from bulkgrok.core.model import Answer, Asset, Decoded, Mode, Settled
from bulkgrok.sinks.files import Draft
from bulkgrok.sinks.line import body_json, clean_text, latency_s, render
from bulkgrok.sinks.quota import Quota

_ASSET = pa.struct([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string()), ("url", pa.string())])
_TIME = pa.timestamp("us", tz="UTC")

SCHEMA: Final = pa.schema([
    ("row", pa.int64()),
    ("custom_id", pa.string()),
    ("kind", pa.string()),
    ("mode", pa.string()),
    ("model", pa.string()),
    ("content", pa.string()),
    ("reasoning", pa.string()),
    ("finish_reason", pa.string()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("reasoning_tokens", pa.int64()),
    ("cached_tokens", pa.int64()),
    ("cost_usd", pa.float64()),
    ("attempts", pa.int32()),
    ("submitted_at", _TIME),
    ("completed_at", _TIME),
    ("latency_s", pa.float64()),
    ("status_code", pa.int32()),
    ("request_id", pa.string()),
    ("body", pa.string()),
    ("assets", pa.list_(_ASSET)),
])  # fmt: skip

_MARK = "bulkgrok.run"
_REPETITIVE = ["kind", "mode", "model", "finish_reason"]
_MEASURED = ["row", "cost_usd", "submitted_at", "completed_at"]
_ROWS_A_GROUP = 10_000
_BYTES_A_GROUP = 4 << 20
_LARGE_BYTES = 1 << 20
_NAMES_AMISS = 1  # a damaged footer may misspell one
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


class RowGroups:
    """Write outcomes to a draft as Parquet, a row group each 10,000 rows or 4 MiB of bodies.

    Args:
        draft: Where the bytes go.
        mark: What the file says of itself so that its run knows it again.
        simulated: Whether the file says of itself that its rows are simulated.
        summarise: Decodes an answer for the columns content to cached_tokens.
    """

    def __init__(self, draft: Draft, *, mark: str, simulated: bool, summarise: Callable[[str, bytes], Decoded]) -> None:
        self._summarise = summarise
        self._waiting: list[pa.RecordBatch] = []
        self._quota = Quota(rows=_ROWS_A_GROUP, size_bytes=_BYTES_A_GROUP)
        words = {_MARK: mark} | ({"bulkgrok.simulated": "true"} if simulated else {})
        with _arrow():
            self._writer = pq.ParquetWriter(
                pa.PythonFile(draft, mode="w"),
                SCHEMA.with_metadata(words),
                compression="zstd",
                use_dictionary=_REPETITIVE,
                write_statistics=_MEASURED,
                write_page_checksum=True,
            )

    def add(self, outcomes: Sequence[Settled]) -> None:
        """Take rows.

        Raises:
            OSError: The disk refused.
        """
        with _arrow():
            for piece in self._quota.split(outcomes):
                for run in _runs(piece):
                    self._add(run)
                if self._quota.full:
                    self._flush()

    def _add(self, run: Sequence[Settled]) -> None:
        """Take rows; a large one is a row group of its own, which saves copying it."""
        large = len(run[0].body or b"") > _LARGE_BYTES
        if large:
            self._flush()
        self._waiting.append(_batch(run, self._summarise))
        if large:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the footer."""
        with _arrow():
            self._flush()
            self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, SCHEMA)
            if len(self._waiting) > 1:  # in one chunk: where pages end must not depend on how the rows were batched
                table = table.combine_chunks()
            self._waiting = []
            self._writer.write_table(table, row_group_size=table.num_rows)
            del table
        self._waiting = []
        self._quota.clear()
        pa.default_memory_pool().release_unused()  # else it keeps as much again: 205 MB instead of 160


def _runs(outcomes: Sequence[Settled]) -> Iterator[Sequence[Settled]]:
    """Yield outcomes in the same order, each large one alone."""
    start = 0
    for position, settled in enumerate(outcomes):
        if len(settled.body or b"") > _LARGE_BYTES:
            if start < position:
                yield outcomes[start:position]
            yield outcomes[position : position + 1]
            start = position + 1
    if start < len(outcomes):
        yield outcomes[start:]


@contextmanager
def _arrow() -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def _batch(outcomes: Sequence[Settled], summarise: Callable[[str, bytes], Decoded]) -> pa.RecordBatch:
    columns = zip(*(_row(settled, summarise) for settled in outcomes), strict=True)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _row(settled: Settled, summarise: Callable[[str, bytes], Decoded]) -> tuple[object, ...]:
    body = settled.body
    decoded = None if body is None else summarise(settled.kind, body)
    answer = decoded if isinstance(decoded, Answer) else None
    tokens: Sequence[int | None] = (None,) * 4 if answer is None else [_fitting(n) for n in answer.tokens]
    return (
        settled.row,
        clean_text(settled.custom_id),
        settled.kind,
        settled.mode.value,
        clean_text(settled.model),
        None if answer is None else _text(answer.content),
        None if answer is None else _text(answer.reasoning),
        None if answer is None else _text(answer.finish_reason),
        *tokens,
        settled.cost_usd,
        min(settled.attempts, _INT32_MAX),
        _microseconds(settled.submitted_at),
        _microseconds(settled.completed_at or None),  # 0.0: a row that was never sent
        latency_s(settled),
        settled.status_code,
        _text(settled.request_id),
        None if body is None else body_json(body),
        [_asset(asset) for asset in settled.assets],
    )


def _asset(asset: Asset) -> dict[str, object]:
    return {"path": _text(asset.path), "bytes": asset.bytes, "sha256": asset.sha256, "url": _text(asset.url)}


def _text(text: str | None) -> str | bytes | None:
    """Return text as a column takes it: bytes of UTF-8 save a copy of what is large."""
    if text is None or text.isascii():
        return text
    try:
        return text.encode()
    except UnicodeEncodeError:
        return clean_text(text)


def _fitting(n: int) -> int | None:
    return n if -_INT64_MAX <= n <= _INT64_MAX else None


def _microseconds(at: float | None) -> int | None:
    return None if at is None else round(at * 1e6)


def mark_of(file: BinaryIO) -> str | None:
    """Return the mark in a table file, None when there is none.

    Raises:
        ValueError: It is no readable Parquet file.
    """
    try:
        file.seek(0)
        words = pq.read_metadata(pa.PythonFile(file, mode="r")).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    return bytes(words.get(_MARK.encode(), b"")).decode("utf-8", "replace") or None


def first_line(file: BinaryIO) -> bytes | None:
    """Return the first row of a table file as a line of the results file: b"" without rows, None when not our schema.

    Raises:
        ValueError: It is no readable Parquet file, or its pages do not add up to their checksums.
    """
    try:
        file.seek(0)
        with pq.ParquetFile(pa.PythonFile(file, mode="r"), page_checksum_verification=True) as table:
            if len(set(SCHEMA.names) - set(table.schema_arrow.names)) > _NAMES_AMISS:
                return None
            batch = next(table.iter_batches(batch_size=1), None)
            rows = [] if batch is None else batch.slice(0, 1).to_pylist()
        return render(_settled(rows[0]), simulated=False) if rows else b""
    except (pa.ArrowException, OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _settled(row: Mapping[str, Any]) -> Settled:
    """Return a row of ours as the outcome it was; times come back to the microsecond."""
    submitted, completed = row["submitted_at"], row["completed_at"]
    return Settled(
        seq=0,
        row=row["row"],
        line=None,
        custom_id=row["custom_id"],
        kind=row["kind"],
        mode=Mode(row["mode"]),
        model=row["model"],
        attempts=row["attempts"],
        submitted_at=None if submitted is None else submitted.timestamp(),
        completed_at=None if completed is None else completed.timestamp(),
        request_id=row["request_id"],
        status_code=row["status_code"],
        body=None if row["body"] is None else row["body"].encode(),
        cost_usd=row["cost_usd"],
        usage=None,
        assets=tuple(Asset(**asset) for asset in row["assets"] or ()),
    )
