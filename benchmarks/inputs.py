"""Rows: prompts of about 500 bytes, so that a request's body is about 600.

python -m benchmarks.inputs PATH ROWS     writes a table
"""

from __future__ import annotations

import json
import subprocess
import sys
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
    path = folder / f"rows-{rows}.parquet"
    if not path.exists():  # elsewhere: the peak of a process begins with the size of the one that starts it
        subprocess.run([sys.executable, "-m", "benchmarks.inputs", path, str(rows)], check=True)
    return path


def _write_parquet(path: Path, rows: int) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([("custom_id", pa.string()), ("prompt", pa.string())])
    with ParquetWriter(path, schema) as writer:
        for first in range(0, rows, _BLOCK):
            numbers = range(first, min(first + _BLOCK, rows))
            columns = [[f"q{row}" for row in numbers], [f"{row}: {_TEXT}" for row in numbers]]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))


if __name__ == "__main__":
    _write_parquet(Path(sys.argv[1]), int(sys.argv[2]))
