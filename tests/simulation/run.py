"""Play histories for a while, and say what they came to.

    python tests/simulation/run.py --seconds 60 --first-seed 1000      # the next seeds, as many as the time allows
    python tests/simulation/run.py --seed 1234                         # one seed, twice: is it the same both times?

The last line counts; the exit code is 1 where anything was violated. A failing seed is printed with the command that
plays it again. Ctrl-C and SIGTERM end it like the time: histories under way are played to their end, and counted.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "services"))

import postgresql
from histories.history import Verdict, play
from histories.scenario import POINTS

DAY_S = 86_400.0
HUNG_S = 120.0
ENDINGS = (signal.SIGINT, signal.SIGTERM)
EVERY = 1_000
"""Histories after which a line on stderr says how far it is."""
ENOUGH = 200
"""Histories after which each point worth dying in must have been come to."""


class Hung(KeyboardInterrupt):
    """A history does not come to its end. Of a kind that no event loop keeps to itself."""


def guarded(seed: int, address: str = "") -> Verdict:
    """Play a seed; a history that takes too long of real time is a violation."""

    def strike(_signal: int, _frame: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, HUNG_S)
    try:
        return play(seed, address=address)
    except Hung:
        where = "".join(traceback.format_exc(limit=-3))
        return Verdict(seed=seed, violations=[f"no end after {HUNG_S:.0f} s of real time: {where}"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def deaf() -> None:
    """Leave signals that ask for the end to the process that counts."""
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)


def verdicts(options: argparse.Namespace) -> Iterator[Verdict]:
    """Yield verdicts of one seed after the other until the time is over, or a signal asks for the end."""
    ends_at = time.monotonic() + options.seconds

    def stop(_signal: int, _frame: object) -> None:
        nonlocal ends_at
        ends_at = 0.0

    for ending in ENDINGS:
        signal.signal(ending, stop)
    seeds = itertools.count(options.first_seed)
    if options.histories is not None:
        seeds = itertools.islice(seeds, options.histories)
    if options.jobs == 1:
        for seed in seeds:
            yield guarded(seed, options.address)
            if time.monotonic() >= ends_at:
                return
    # A player leaves the end to the process that counts: Ctrl-C reaches both.
    context = get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, initializer=deaf) as pool:
        playing: set[Future[Verdict]] = {
            pool.submit(guarded, seed, options.address) for seed in itertools.islice(seeds, options.jobs)
        }
        while playing:
            done, playing = wait(playing, return_when=FIRST_COMPLETED)
            if time.monotonic() < ends_at:
                following = itertools.islice(seeds, len(done))
                playing |= {pool.submit(guarded, seed, options.address) for seed in following}
            for future in done:
                yield future.result()


def many(options: argparse.Namespace) -> int:
    """Play seeds one after the other and print what they came to."""
    counts: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    last = options.first_seed
    for verdict in verdicts(options):
        tell(verdict, " --store postgres" if options.address else "")
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
        last = max(last, verdict.seed)
        if counts["histories"] % EVERY == 0:
            print(f"… {counts['histories']} histories, {counts['power_cuts']} power cuts", file=sys.stderr, flush=True)
        if options.stop_at_first and verdict.violations:
            break
    missed = [point for point in POINTS if not reached[point]] if counts["histories"] >= ENOUGH else []
    if missed:
        print(f"never come to: {', '.join(missed)}")
    print(
        f"histories={counts['histories']} power_cuts={counts['power_cuts']} kills={counts['kills']} "
        f"second_runners={counts['second_runners']} virtual_days={counts['virtual_s'] / DAY_S:.1f} "
        f"requests={counts['requests']} seeds={options.first_seed}..{last} violations={counts['violations']}"
    )
    return 1 if counts["violations"] or missed else 0


def tell(verdict: Verdict, store: str = "") -> None:
    """Print what a history violated, and how to see it again."""
    for violation in verdict.violations:
        print(f"seed {verdict.seed}: {violation}")
    if verdict.violations:
        print(f"  play it again: python tests/simulation/run.py --seed {verdict.seed}{store}", flush=True)


def once(seed: int, address: str) -> int:
    """Play a seed twice, tell what it violated, and whether both were the same."""
    first, second = guarded(seed, address), guarded(seed, address)
    tell(first, " --store postgres" if address else "")
    same = first.trace == second.trace
    print(f"seed={seed} trace={first.trace[:16]} lives={first.lives} same_twice={'yes' if same else 'NO'}")
    return 1 if first.violations or not same else 0


def main() -> int:
    """Parse the flags and play."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (60)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--histories", type=int, default=None, help="not more than so many")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (1)")
    parser.add_argument("--stop-at-first", action="store_true", help="stop at the first violation")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="the checkpoint (sqlite)")
    parser.add_argument("--seed", type=int, default=None, help="play only this one, twice")
    options = parser.parse_args()
    if options.store == "sqlite":
        options.address = ""
        return many(options) if options.seed is None else once(options.seed, "")
    if why := postgresql.missing():
        print(why)
        return 2
    options.address = postgresql.shared().url()
    return many(options) if options.seed is None else once(options.seed, options.address)


if __name__ == "__main__":
    sys.exit(main())
