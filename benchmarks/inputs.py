"""Rows: prompts of about 500 bytes, so that a request's body is about 600."""

from __future__ import annotations

import json
from pathlib import Path

_TEXT = "Tell me about the history of this number and of its neighbours in some detail, please. " * 5
_BLOCK = 10_000


def jsonl(folder: Path, rows: int) -> Path:
    """Return a file of n rows, written if it is not there."""
    path = folder / f"rows-{rows}.jsonl"
    if not path.exists():
        with path.open("w") as file:
            for row in range(rows):
                file.write(json.dumps({"custom_id": f"q{row}", "prompt": f"{row}: {_TEXT}"}) + "\n")
    return path


def many(folder: Path, rows: int) -> Path:
    """Return a file of n short rows, the same ten thousand over and over: written as fast as the disk takes it."""
    path = folder / f"many-{rows}.jsonl"
    if not path.exists():
        block = b"".join(
            b'{"prompt":"How many primes are there below %06d? Explain."}\n' % row for row in range(_BLOCK)
        )
        with path.open("wb") as file:
            for _ in range(rows // _BLOCK):
                file.write(block)
    return path


def parquet(folder: Path, rows: int) -> Path:
    """Return a table of n rows with the columns custom_id and prompt."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    path = folder / f"rows-{rows}.parquet"
    if path.exists():
        return path
    schema = pa.schema([("custom_id", pa.string()), ("prompt", pa.string())])
    with ParquetWriter(path, schema) as writer:
        for first in range(0, rows, _BLOCK):
            numbers = range(first, min(first + _BLOCK, rows))
            columns = [[f"q{row}" for row in numbers], [f"{row}: {_TEXT}" for row in numbers]]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
    return path
