"""A command, pinned to a core, and what it spent."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = _CORES[0], _CORES[-1]
CONCURRENCY = 100
KEY = {"XAI_API_KEY": "benchmark"}
#: Without what would have every start compile every module, as no installed program does.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a process took."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    output: str

    def less(self, other: Spent) -> Spent:
        """Return what is left when the start of the program is taken off."""
        return Spent(
            seconds=self.seconds - other.seconds,
            cpu_s=self.cpu_s - other.cpu_s,
            peak_bytes=self.peak_bytes,
            output=self.output,
        )


def pinned(core: int, command: Sequence[str | Path]) -> list[str]:
    """Return a command that runs on one core (taskset is in util-linux)."""
    return ["taskset", "-c", str(core), *map(str, command)]


def run(command: Sequence[str | Path], *, core: int = CLIENT_CORE, env: Mapping[str, str] | None = None) -> Spent:
    """Run a command to its end on one core.

    Raises:
        RuntimeError: It did not end with 0.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        child = subprocess.Popen(
            pinned(core, command), stdout=output, stderr=errors, env=ENVIRONMENT | dict(env or {})
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = code = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if code:
            msg = f"{command[:4]} ended with {code}: {errors.read()[-2000:]}{output.read()[-500:]}"
            raise RuntimeError(msg)
        return Spent(
            seconds=seconds,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_bytes=usage.ru_maxrss * 1024,
            output=output.read(),
        )


def bulkgrok(source: Path, folder: Path, url: str, *flags: str, output: str = "out.jsonl") -> Spent:
    """Run `bulkgrok run` as a user would, on its defaults, its output in a folder."""
    return run([*command(source, folder, url, output=output), *flags], env=KEY)


def command(
    source: Path, folder: Path, url: str, *, concurrency: int = CONCURRENCY, output: str = "out.jsonl"
) -> list[str]:
    """Return the command of `bulkgrok`."""
    return [
        sys.executable, "-P", "-m", "bulkgrok", "run", str(source), "-o", str(folder / output),
        "--concurrency", str(concurrency), "--base-url", url, "--progress", "none", "--json",
    ]  # fmt: skip


def succeeded(spent: Spent, rows: int) -> Spent:
    """Return it, if every row has its answer.

    Raises:
        RuntimeError: It has not, or its peak is this process's: that is where the peak of one that is started begins.
    """
    if spent.peak_bytes <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:
        msg = "the process that measures is larger than the one that is measured: its peak is not known"
        raise RuntimeError(msg)
    if (found := json.loads(spent.output)["succeeded"]) != rows:
        msg = f"{found} of {rows} rows succeeded: {spent.output}"
        raise RuntimeError(msg)
    return spent
