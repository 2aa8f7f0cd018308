"""Coverage-guided fuzzing with atheris: each target in a process of its own, for its share of the time.

    tox run -e fuzz -- --seconds 600
    tox run -e fuzz -- --seconds 60 --target checkpoint --target verdict

Prints a line a target and exits with 1 where one broke a promise, ran for over 20 s or took over 2 GB. What broke it is
kept as a file; put it into tests/fuzz/corpus/TARGET, where the ordinary test run replays it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
SLOWEST_S = 20
MOST_MB = 2_048
LONGEST_BYTES = 8_192


def fuzz(name: str, seconds: int, seed: int) -> bool:
    """Fuzz one target in a process of its own; tell whether it kept its promises."""
    from fuzzing.seeds import SEEDS  # noqa: PLC0415 - the child imports it instrumented

    with tempfile.TemporaryDirectory(prefix="bulkgrok-fuzz-") as work:
        corpus, found = Path(work) / "corpus", Path.cwd() / f"fuzz-found-{name}-"
        corpus.mkdir()
        kept = sorted((HERE / "corpus" / name).glob("*"))
        for number, content in enumerate([*SEEDS[name], *(path.read_bytes() for path in kept)]):
            (corpus / f"{number:04d}").write_bytes(content[:LONGEST_BYTES])
        command = [sys.executable, __file__, "--child", name, str(corpus)]
        command += [f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MB}", f"-seed={seed}"]
        command += [f"-max_len={LONGEST_BYTES}", f"-artifact_prefix={found}", "-print_final_stats=1"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        told = done.stdout + done.stderr
        runs = re.search(r"number_of_executed_units: (\d+)", told)
        slowest = re.search(r"slowest_unit_time_sec: +(\d+)", told)
        peak = re.search(r"peak_rss_mb: +(\d+)", told)
        cover = re.findall(r"cov: (\d+)", told)
        figures = {"executions": runs, "slowest_s": slowest, "peak_mb": peak}
        shown = " ".join(f"{key}={match[1] if match else '?'}" for key, match in figures.items())
        print(
            f"target={name} {shown} edges={cover[-1] if cover else '?'} broken={int(done.returncode != 0)}", flush=True
        )
        if done.returncode:
            print("\n".join(told.splitlines()[-60:]), flush=True)
        return done.returncode == 0


def child(name: str, arguments: list[str]) -> None:
    """Be the process that fuzzes one target."""
    import atheris  # noqa: PLC0415 - in the environment of fuzzing only

    with atheris.instrument_imports(include=["bulkgrok"]):
        from fuzzing import damaging, targets  # noqa: PLC0415 - instrumented

    target = (targets.TARGETS | damaging.TARGETS)[name]
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


def main() -> int:
    """Fuzz, and return the exit code."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return 0
    from fuzzing.seeds import SEEDS  # noqa: PLC0415 - see above

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("--target", action="append", choices=sorted(SEEDS), help="one of them; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    names = asked.target or list(SEEDS)
    kept = [fuzz(name, max(1, asked.seconds // len(names)), asked.seed) for name in names]
    print(f"targets={len(kept)} broken={kept.count(False)}")
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
