"""Other clients for the same work on the same server, each in an environment of its own, which is made when missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import inputs
from benchmarks.nginx import Nginx
from benchmarks.processes import CONCURRENCY, Spent, bulkgrok, run, succeeded
from benchmarks.table import Table, middle
from benchmarks.work import CACHE, folder_of

_CLIENTS = Path(__file__).parent / "clients"
_TURNS = 3
_OUR_ROWS = 60_000
_OUR_SHORT_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Peer:
    """Another client."""

    name: str
    environment: str
    requirement: str
    program: str
    rows: int
    """n rows of the full run: some seconds' work."""
    short_rows: int
    flags: tuple[str, ...] = ()


PEERS = (
    Peer("lm-deluge", "lm-deluge", "lm-deluge", "lm_deluge_client.py", 100_000, 20_000),
    Peer("openai SDK + semaphore", "openai", "openai[aiohttp]", "openai_sdk.py", 3_000, 1_000),
    Peer("openai SDK, aiohttp backend", "openai", "openai[aiohttp]", "openai_sdk.py", 5_000, 1_500, ("aiohttp",)),
    Peer("litellm acompletion", "litellm", "litellm", "litellm_client.py", 2_000, 600),
    Peer("bespokelabs-curator", "curator", "bespokelabs-curator", "curator_client.py", 5_000, 3_000),
)


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure all that install."""
    table = Table(
        title="throughput against other clients (direct)",
        columns=[
            "client", "version", "rows", "rows/s", "bulkgrok rows/s", "rate ratio", "CPU us/row", "bulkgrok CPU us/row",
            "CPU ratio", "peak MB", "bulkgrok peak MB", "memory ratio",
        ],
        notes=[
            f"concurrency {CONCURRENCY}, nginx on the other core; ratios: bulkgrok is so many times better",
            "bulkgrok is durable (intent, answer and output flushed); none of the others flushes anything",
            f"seconds of work for each: the rows named, bulkgrok {_OUR_ROWS:,} or more ({_OUR_SHORT_ROWS:,} short)",
        ],
    )  # fmt: skip
    with folder_of(work) as folder:
        server = Nginx(folder)
        with server.serving():
            for peer in PEERS:
                python = _environment(peer)
                if isinstance(python, str):
                    table.notes.append(f"{peer.name} is left out: {python}")
                    continue
                _against(table, peer, python, folder, server, short=short)
    return [table]


def _against(table: Table, peer: Peer, python: Path, folder: Path, server: Nginx, *, short: bool) -> None:
    rows = peer.short_rows if short else peer.rows
    ours_rows = max(rows, _OUR_SHORT_ROWS if short else _OUR_ROWS)
    ours, theirs = _mine(folder, server), _theirs(peer, python, folder, server)
    ours_start, theirs_start = _start(ours), _start(theirs)
    turns = [
        (theirs(rows).less(theirs_start), ours(ours_rows).less(ours_start))
        for _ in range(1 if rows > 50_000 else _TURNS)
    ]
    rate = [(rows - 1) / one.seconds for one, _ in turns]
    our_rate = [(ours_rows - 1) / one.seconds for _, one in turns]
    cpu = [one.cpu_s / (rows - 1) * 1e6 for one, _ in turns]
    our_cpu = [one.cpu_s / (ours_rows - 1) * 1e6 for _, one in turns]
    peak, our_peak = max(one.peak_bytes for one, _ in turns) / 1e6, max(one.peak_bytes for _, one in turns) / 1e6
    table.add(
        peer.name, _version(peer, python), rows, middle(rate), middle(our_rate), _ratio(our_rate, rate),
        middle(cpu), middle(our_cpu), _ratio(cpu, our_cpu), peak, our_peak, peak / our_peak,
    )  # fmt: skip


def _start(measured: Callable[[int], Spent]) -> Spent:
    """Return the quickest of three runs of one row; the first one of some clients compiles and caches for seconds."""
    return min((measured(1) for _ in range(3)), key=lambda spent: spent.seconds)


def _ratio(upper: list[float], lower: list[float]) -> float:
    return middle([one / other for one, other in zip(upper, lower, strict=True)])


def _mine(folder: Path, server: Nginx) -> Callable[[int], Spent]:
    def measured(rows: int) -> Spent:
        source = inputs.jsonl(folder, rows)
        with folder_of(folder) as place:
            return succeeded(bulkgrok(source, place, server.url("direct")), rows)

    return measured


def _theirs(peer: Peer, python: Path, folder: Path, server: Nginx) -> Callable[[int], Spent]:
    def measured(rows: int) -> Spent:
        source = inputs.jsonl(folder, rows)
        with folder_of(folder) as place:
            program, output = _CLIENTS / peer.program, place / "out.jsonl"
            spent = run([python, program, server.url("direct"), source, output, str(CONCURRENCY), *peer.flags])
            with output.open("rb") as lines:
                if (answers := sum(1 for _ in lines)) != rows:
                    msg = f"{peer.name} answered {answers} of {rows} rows"
                    raise RuntimeError(msg)
            return spent

    return measured


def _environment(peer: Peer) -> Path | str:
    """Return the Python of a peer's environment, or why there is none."""
    folder = CACHE / peer.environment
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        installed = subprocess.run(
            [python, "-m", "pip", "install", "-q", peer.requirement], capture_output=True, text=True, check=False
        )
        if installed.returncode:
            return f"it does not install ({installed.stderr.strip().rpartition(chr(10))[2]})"
        (folder / "complete").touch()
    return python


def _version(peer: Peer, python: Path) -> str:
    code = f"from importlib.metadata import version; print(version({peer.requirement.partition('[')[0]!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
