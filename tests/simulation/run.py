"""Play histories for a while, and say what they came to.

    python tests/simulation/run.py --seconds 60 --first-seed 1000      # the next seeds, as many as the time allows
    python tests/simulation/run.py --seed 1234                         # one seed again, with its trace
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from histories.history import Verdict, play
from histories.scenario import POINTS

DAY = 86_400.0
HUNG_S = 60.0


def replay(seed: int) -> str:
    return f"python tests/simulation/run.py --seed {seed}"


def told(verdict: Verdict) -> None:
    for violation in verdict.violations:
        print(f"seed {verdict.seed}: {violation}", flush=True)
    if verdict.violations:
        print(f"  replay: {replay(verdict.seed)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed")
    parser.add_argument("--histories", type=int, default=None, help="stop after so many")
    parser.add_argument("--seed", type=int, default=None, help="play this one only, twice, and compare")
    parser.add_argument("--slow", type=float, default=None, help="name seeds that take longer than so many seconds")
    parser.add_argument("--stop-at-first", action="store_true", help="stop at the first violation")
    options = parser.parse_args()
    if options.seed is not None:
        first, second = play(options.seed), play(options.seed)
        told(first)
        same = first.trace == second.trace
        print(f"seed={options.seed} trace={first.trace[:16]} replays={'identically' if same else 'DIFFERENTLY'}")
        return 1 if first.violations or not same else 0
    return many(options)


def many(options: argparse.Namespace) -> int:
    ends_at = time.monotonic() + options.seconds
    counts: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    seed = options.first_seed
    while time.monotonic() < ends_at and (options.histories is None or counts["histories"] < options.histories):
        began = time.monotonic()
        faulthandler.dump_traceback_later(HUNG_S, exit=True)
        print(f"\rseed {seed}", end="", file=sys.stderr, flush=True)
        verdict = play(seed)
        faulthandler.cancel_dump_traceback_later()
        told(verdict)
        if options.slow is not None and time.monotonic() - began > options.slow:
            print(f"seed {seed}: {time.monotonic() - began:.1f} s, {verdict.virtual_s:.0f} virtual s, {verdict.requests} requests", flush=True)
        counts.update(
            histories=1,
            power_cuts=verdict.power_cuts,
            kills=verdict.kills,
            second_runners=verdict.second_runners,
            requests=verdict.requests,
            violations=len(verdict.violations),
            virtual_s=int(verdict.virtual_s),
        )
        reached.update(verdict.reached)
        seed += 1
        if options.stop_at_first and verdict.violations:
            break
    missed = [point for point in POINTS if not reached[point]] if counts["histories"] >= 200 else []
    if missed:
        print(f"never reached: {', '.join(missed)}")
    print(
        f"histories={counts['histories']} power_cuts={counts['power_cuts']} kills={counts['kills']} "
        f"second_runners={counts['second_runners']} virtual_days={counts['virtual_s'] / DAY:.1f} "
        f"requests={counts['requests']} seeds={options.first_seed}..{seed - 1} violations={counts['violations']}"
    )
    return 1 if counts["violations"] or missed else 0


if __name__ == "__main__":
    sys.exit(main())
