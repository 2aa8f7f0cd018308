"""Sabotage a copy of the product, one line at a time, and see that the suite finds it.

    python tests/mutants/run.py                       # all of them
    python tests/mutants/run.py synchronous-normal    # these

Prints a line for each and `killed=N of=N`; the exit code is 1 where one survived a minute.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from mutants import MUTANTS, Mutant  # noqa: E402 - found by the line above

LIMIT_S = 60.0
FIRST_SEED = 70_000


def sabotaged(mutant: Mutant, folder: Path) -> Path:
    """Return a folder whose `bulkgrok` package is the product with the mutant in it."""
    shutil.copytree(ROOT / "bulkgrok", folder / "bulkgrok", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "bulkgrok" / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        msg = f"{mutant.name}: the text to be replaced is {text.count(mutant.old)} times in {mutant.file}, not once"
        raise SystemExit(msg)
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    return folder


def hunt(mutant: Mutant, folder: Path) -> tuple[bool, float, str]:
    """Return whether a mutant was found, after how many seconds, and by what."""
    if mutant.found_by:
        # -P: the mutant is found before the product in this folder.
        command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.found_by]
    else:
        script = str(ROOT / "tests" / "simulation" / "run.py")
        command = [sys.executable, script, "--stop-at-first", "--seconds", f"{LIMIT_S:g}"]
        command += ["--first-seed", str(FIRST_SEED)]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=2 * LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, 2 * LIMIT_S, "the suite did not come to its end"
    return done.returncode == 1, time.monotonic() - began, _by(done, mutant)


def _by(done: subprocess.CompletedProcess[str], mutant: Mutant) -> str:
    if mutant.found_by:
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return lines[0].split(" - ")[0] if lines else done.stdout[-300:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
    return lines[0][:160] if lines else (done.stdout + done.stderr)[-300:]


def main() -> int:
    """Hunt the mutants that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutants to hunt; all without")
    names = parser.parse_args().names
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    killed = 0
    for mutant in chosen:
        with tempfile.TemporaryDirectory(prefix="bulkgrok-mutant-") as folder:
            found, took_s, by = hunt(mutant, sabotaged(mutant, Path(folder)))
        found = found and took_s <= LIMIT_S + 5
        killed += found
        print(f"{'killed  ' if found else 'SURVIVED'} {took_s:5.1f} s  {mutant.name}: {by}", flush=True)
    print(f"killed={killed} of={len(chosen)}")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
