"""As inputs grow: memory, the time to the first request, and a resume; and how soon the command itself is there."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import counting, inputs
from benchmarks.nginx import ANSWER, Nginx
from benchmarks.processes import CLIENT_CORE, ENVIRONMENT, KEY, bulkgrok, command, pinned, run, succeeded
from benchmarks.table import Table, middle
from benchmarks.work import folder_of, turns_of

_MISSING = 1_000


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure all of it."""
    sizes = [10_000, 100_000] if short else [10_000, 100_000, 1_000_000]
    with folder_of(work) as folder:
        server = Nginx(folder)
        with server.serving():
            memory = _memory(folder, server, sizes)
        return [
            memory,
            _resume(folder, sizes[-1]),
            _start(folder, 1_000_000 if short else 10_000_000),
            _version(short=short),
        ]


def _memory(folder: Path, server: Nginx, sizes: list[int]) -> Table:
    table = Table(
        title="memory as the input grows (direct, everything on)",
        columns=[
            "from, to",
            "rows",
            "rows/s",
            "peak MB",
            "peak / smallest",
            "checkpoint bytes/row",
            "output bytes/row",
        ],
        notes=[
            "concurrency 100; peak: resident memory of the process, from the system",
            f"answers of {len(ANSWER):,} bytes; prompts stay in the input and are in neither",
        ],
    )
    for name, make, output in (("JSONL", inputs.jsonl, "out.jsonl"), ("Parquet", inputs.parquet, "out.parquet")):
        smallest = None
        for rows in sizes:
            source = make(folder, rows)
            with folder_of(folder) as place:
                spent = succeeded(bulkgrok(source, place, server.url("direct"), output=output), rows)
                disk = [(place / found).stat().st_size / rows for found in ("out.bulkgrok/checkpoint.db", output)]
            smallest = smallest or spent.peak_bytes
            table.add(name, rows, rows / spent.seconds, spent.peak_bytes / 1e6, spent.peak_bytes / smallest, *disk)
            source.unlink()
    return table


def _first_request(source: Path, place: Path, server: counting.Server, *, kill: bool) -> float:
    """Start a run; return seconds until its first request."""
    began = time.time()
    running = pinned(CLIENT_CORE, command(source, place, server.url))
    with subprocess.Popen(running, stdout=subprocess.DEVNULL, env=ENVIRONMENT | KEY) as process:
        first = server.first_at() - began
        if kill:
            process.send_signal(signal.SIGKILL)
    return first


def _resume(folder: Path, rows: int) -> Table:
    """Run all but the last rows, then type the command again."""
    table = Table(
        title="resume",
        columns=["rows", "missing", "first request after s", "hashing the input alone s", "the command's own start s"],
    )
    source, limit = inputs.jsonl(folder, rows), ("--limit", str(rows - _MISSING))
    with folder_of(folder) as place, counting.serving() as server:
        # The same port for both: a run belongs to its endpoint.
        succeeded(bulkgrok(source, place, server.url, *limit), rows - _MISSING)
        server.first_at()
        server.forget()
        first = _first_request(source, place, server, kill=False)
    table.add(rows, _MISSING, first, _hashed(source), _started())
    source.unlink()
    return table


def _start(folder: Path, rows: int) -> Table:
    table = Table(
        title="start on a large input",
        columns=["rows", "MB", "first request after s", "hashing the input alone s", "beyond the hashing s"],
        notes=["the file is in the system's cache both times; beyond: what is left, the command's own start included"],
    )
    source = inputs.many(folder, rows)
    hashed = _hashed(source)
    with folder_of(folder) as place, counting.serving() as server:
        first = _first_request(source, place, server, kill=True)
    table.add(rows, source.stat().st_size / 1e6, first, hashed, first - hashed)
    source.unlink()
    return table


def _hashed(source: Path) -> float:
    """Return the seconds that SHA-256 of the file takes, once it has been read."""
    for _ in range(2):
        began = time.perf_counter()
        with source.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        seconds = time.perf_counter() - began
    return seconds


def _started() -> float:
    return run([sys.executable, "-P", "-m", "bulkgrok", "--version"]).seconds


def _version(*, short: bool) -> Table:
    table = Table(
        title="start of the command",
        columns=["command", "ms", "bare Python ms", "beyond it ms"],
        notes=["CPU time, medians of turns"],
    )
    turns = [
        (run([sys.executable, "-P", "-m", "bulkgrok", "--version"]).cpu_s, run([sys.executable, "-c", "pass"]).cpu_s)
        for _ in range(3 * turns_of(short=short))
    ]
    ours, bare = middle([ours for ours, _ in turns]) * 1e3, middle([bare for _, bare in turns]) * 1e3
    table.add("bulkgrok --version", ours, bare, ours - bare)
    return table
