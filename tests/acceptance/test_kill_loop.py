"""kill -9 of the real command at random moments, and all else that ends or holds it; the simulator's ledger judges.

BULKGROK_KILLS is the number of kills: 30 in the ordinary test run, 300 with `tox run -e kills`; BULKGROK_SEED the seed.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from harness.command import COMMAND, environment
from harness.judge import judge, read_lines, read_results
from harness.lives import Lives
from harness.places import FORMS, places
from harness.reconcile import reconcile
from harness.rows import mixed, write
from harness.wire import Wire

KILLS = int(os.environ.get("BULKGROK_KILLS", "30"))
KILLS_A_RUN = 15
LONG = 100
"""From so many kills on a proof tells how far it is."""
AT_ONCE = 2
"""n runs at the same time."""
ROWS = 240 if KILLS < LONG else 600
"""In a long proof enough that a run is not over before its kills are."""
CONCURRENCY = 8
#: What happens to lives, and how often among twenty of them. All but the last four end in a kill.
DEATHS = {
    "at_any_moment": 6, "while_opening": 2, "while_downloading": 2, "while_draining": 2, "while_concluding": 2,
    "after_a_pause": 2, "after_a_race": 1, "by_sigterm": 1, "by_sigint": 1, "by_sigint_twice": 1,
}  # fmt: skip


class Torment:
    """One run of the command, from its first life to its last."""

    def __init__(self, folder, api, *, form, chance):
        self.api = api
        self.chance = chance
        self.counts = Counter()
        self.seconds = []
        self.wire = Wire(api.port)
        self.places = places(form, folder)
        self.source = folder / "in.jsonl"
        write(self.source, mixed(ROWS))
        self.lives = Lives(
            (
                *COMMAND, "run", self.source, *self.places.flags, "--base-url", f"http://127.0.0.1:{self.wire.port}/v1",
                "--concurrency", CONCURRENCY, "--poll-interval", "0.1", "--rps", 160, "--max-attempts", 1000,
                "--progress", "none",
            ),
            environ=environment(),
            run_dir=self.places.run_dir,
            log=folder / "said.log",
        )  # fmt: skip

    # Lives. Each method is given one that was just begun.

    def live(self, death):
        """Live one life; return whether it ended of its own accord with all the work done."""
        if death == "after_a_race":
            self.counts["races"] += 1
            assert self.lives.race() in {0, 3, 6}, self.lives.last_words()  # 0, 3: it did the little that was left
        else:
            self.lives.begin()
        if death == "while_opening":
            self._sleep(0.35)
            return self._kill(death)
        if self.lives.wait_for(self.lives.at_work):
            if self.chance.random() < 0.15:
                self._second_runner()
            return getattr(self, death)()
        return self._over("drained")

    def at_any_moment(self):
        self._sleep(0.9)
        return self._kill("at_any_moment")

    def after_a_race(self):
        self._sleep(0.5)
        return self._kill("after_a_race")

    def while_downloading(self):
        self.lives.wait_for(lambda: any(self.places.media.glob(".*.part")), within_s=1.5)
        self._sleep(0.01)
        return self._kill("while_downloading")

    def while_draining(self):
        self._sleep(0.5)
        self.lives.signal(self.chance.choice([signal.SIGTERM, signal.SIGINT]))
        self._sleep(0.05)
        return self._kill("while_draining")

    def while_concluding(self):
        self._sleep(0.4)
        self.lives.signal(signal.SIGTERM)
        self.lives.wait_for(lambda: any(map(Path.exists, self.places.drafts)))
        return self._kill("while_concluding")

    def after_a_pause(self):
        """Hold the process as a suspended machine is held; meanwhile its connections may be closed."""
        self._sleep(0.6)
        self.lives.signal(signal.SIGSTOP)
        self._sleep(0.3)
        if self.chance.random() < 0.7:
            self.lives.cut(self.wire)
        time.sleep(self.chance.uniform(0.0, 0.3) if KILLS < LONG or self.chance.random() < 0.9 else 6.0)
        self.lives.signal(signal.SIGCONT)
        self._sleep(0.8)
        return self._kill("after_a_pause")

    def by_sigterm(self):
        self._sleep(0.7)
        self.lives.signal(signal.SIGTERM)
        self.counts["stops"] += 1
        return self._over("drained")

    def by_sigint(self):
        self._sleep(0.7)
        self.lives.signal(signal.SIGINT)
        self.counts["stops"] += 1
        return self._over("drained")

    def by_sigint_twice(self):
        self._sleep(0.6)
        self.lives.signal(signal.SIGINT)
        self._sleep(0.03)
        self.lives.signal(signal.SIGINT)
        self.counts["aborts"] += 1
        return self._over("hard")

    # Ends

    def _sleep(self, most_s):
        time.sleep(self.chance.uniform(0.0, most_s))

    def _kill(self, death):
        if self.lives.ended:
            return self._over("drained")
        self.lives.kill()
        self._come_to_rest()
        self.counts["kills"] += 1
        self.counts[death] += 1
        return False

    def _over(self, end):
        code = self.lives.await_end(end, within_s=60)
        self._come_to_rest()
        code = 128 - code if code < 0 else code  # as a shell tells it: a signal may come when all is over
        if code not in {0, 3, 130, 143}:
            pytest.fail(f"exit code {code}: {self.lives.last_words()}")
        return code in {0, 3}

    def _come_to_rest(self):
        """Wait until the API has dealt with what the dead had sent: it is not the doing of the next life."""
        self.wire.rest()
        self._requests()

    # Second runners

    def _second_runner(self):
        """Start another runner of the same run beside this life.

        The one at work is held meanwhile, so that every request is the second's; or else the second has a key of its
        own, which the API would refuse.
        """
        held = self.chance.random() < 0.5
        if held:
            self.lives.signal(signal.SIGSTOP)
            before = self._requests()
            second = self.lives.second()
            assert self._requests() == before
            self.lives.signal(signal.SIGCONT)
        else:
            second = self.lives.second(XAI_API_KEY="xai-of-the-second-runner")
        assert second.exit_code == 6, second
        if "Another runner" in second.said:
            self.seconds.append(second)
        else:  # the first was about to end: the run was free, and the second's key refused
            self.lives.wait_for(lambda: self.lives.ended, within_s=10)
            assert self.lives.ended, second

    def _requests(self):
        """Return how many requests the API has seen, once no more come in."""
        seen, before = None, -1
        while seen != before:
            sums, before = self.api.sums(), seen
            seen = sums["posts"], sums["gets"], sums["in_flight"], sums["refused"].get("400", 0)
            time.sleep(0.02)
        return seen

    # The whole

    def to_the_end(self, kills):
        """Live until the run has ended and `kills` kills were met, however little is left to do."""
        deck = [death for death, count in DEATHS.items() for _ in range(count)]
        over, until = False, self.counts["kills"] + kills
        while self.counts["kills"] < until:
            self.chance.shuffle(deck)
            for death in deck:
                if self.counts["kills"] < until:
                    # Over: there is nothing left to do but to look, and to conclude.
                    over = self.live(self.chance.choice(["while_opening", "while_concluding"]) if over else death)
        while not over:
            self.lives.begin()
            over = self._over("drained")

    def judged(self):
        self.wire.stop()
        audit = json.loads(self.lives.ask("audit", self.places.run_dir, "--json"))
        ledger = self.api.ledger()
        left = reconcile(
            self.source,
            output=self.places.output,
            errors=self.places.errors,
            audit=audit,
            table=self.lives.ask("audit", self.places.run_dir, "--csv"),
            ledger=ledger,
        )
        verdict = judge(
            rows=ROWS,
            results=read_results(self.places.output),
            errors=read_lines(self.places.errors),
            base=self.places.base,
            ledger=ledger,
            audit=audit,
            lives=self.lives.lived,
            concurrency=CONCURRENCY,
        )
        verdict.wrong += left.wrong
        verdict.wrong += self.lives.tracebacks()
        verdict.wrong += [f"left behind: {path}" for path in self.places.leftovers()]
        return verdict


def tormented(folder, start, *, seed, kills):
    """Torment one run to its end; return what was done and the verdict, which is good."""
    folder.mkdir()
    api = start(
        "--latency=0.02", "--deferred-latency=0.4", "--video-latency=0.4", "--media-size=300000",
        "--accepted-keys=xai-acceptance-key",
    )  # fmt: skip
    run = Torment(folder, api, form=FORMS[seed % len(FORMS)], chance=random.Random(seed))
    try:
        run.to_the_end(kills)
        verdict = run.judged()
    finally:
        run.lives.bury()
    sums = api.sums()
    api.stop()
    assert verdict.wrong == [], f"seed {seed}: {verdict}"
    assert sums["max_in_flight"] <= CONCURRENCY
    assert sums["refused"].get("400", 0) == 0, "a second runner sent requests"
    return run, verdict


def test_whatever_ends_it_every_row_comes_once_and_every_bill_is_explained(tmp_path, simulator):
    seed = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
    print(f"\nseed={seed}: BULKGROK_KILLS={KILLS} BULKGROK_SEED={seed} tox run -e kills")
    counts, sums, seconds = Counter(), Counter(), []
    worst = worst_lost = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tasks = [
            pool.submit(tormented, tmp_path / str(number), simulator, seed=seed + number, kills=kills)
            for number, kills in enumerate(shared_out(KILLS, KILLS_A_RUN))
        ]
        for task in as_completed(tasks):
            if task.exception() is not None:
                pool.shutdown(wait=False, cancel_futures=True)  # what is wrong is told now, not after hours
            run, verdict = task.result()
            counts += run.counts
            seconds += run.seconds
            for name in ("rows", "billed", "answered", "failed", "in_doubt", "doubled", "lost", "unexplained"):
                sums[name] += getattr(verdict, name)
            worst, worst_lost = max(worst, verdict.worst), max(worst_lost, verdict.worst_lost)
            if KILLS >= LONG:
                print(
                    f"so far: kills={counts['kills']} {' '.join(f'{name}={n}' for name, n in sums.items())}", flush=True
                )
    slowest, cpu = (max((getattr(one, key) for one in seconds), default=0.0) for key in ("wall_s", "cpu_s"))
    print(
        f"kills={counts['kills']} second_runners={len(seconds)} (slowest {slowest:.2f} s, CPU {cpu:.2f} s) "
        f"races={counts['races']} stops={counts['stops']} aborts={counts['aborts']} "
        f"{' '.join(f'{name}={n}' for name, n in sums.items())} "
        f"max_lost_per_kill={worst_lost} max_lost_and_doubled_per_kill={worst} "
        f"moments={ {death: counts[death] for death in DEATHS if counts[death]} }"
    )
    assert cpu < 1.0


def shared_out(count, most):
    """Yield numbers of at most `most` that add up to `count`."""
    while count > 0:
        yield min(count, most)
        count -= most
