"""Disks that fill up: no paid answer is lost, and with room again the same command comes to its end.

BULKGROK_DISKS is the number of random sizes: 5 in the ordinary test run, 100 with `tox run -e disks`; BULKGROK_SEED the
seed.
"""

import json
import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress

from harness.command import COMMAND, environment
from harness.disks import ROOT, Disks
from harness.judge import judge, read_lines, read_results
from harness.lives import Lives
from harness.places import FORMS, places
from harness.reconcile import reconcile
from harness.rows import mixed, write

SIZES = int(os.environ.get("BULKGROK_DISKS", "5"))
ROWS = 100
CONCURRENCY = 4
LEAST_BYTES, MOST_BYTES = 600_000, 4_000_000
#: What lies on small disks. On the same one where two names are joined; `temporary` is where spill files may go.
LAYOUTS = ("run+output+temporary", "run+output", "run", "output", "media", "run output media")


class Hog:
    """Another program that takes whatever room a disk has left.

    Args:
        folder: Where the disk is seen from here.
        greedy: Whether it takes what becomes free afterwards as well.
    """

    def __init__(self, folder, *, greedy):
        self._path = folder / "hog"
        self._greedy = greedy
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self):
        with self._path.open("wb", buffering=0) as file:
            while True:
                for size in (65_536, 4_096, 1):
                    with suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass
                if not self._greedy or self._ending.wait(0.0005):
                    return

    def take(self):
        """Begin."""
        self._thread.start()
        if not self._greedy:
            self._thread.join()

    def leave(self):
        """Give everything back."""
        self._ending.set()
        self._thread.join()
        self._path.unlink()


class Squeeze:
    """One run on disks that are too small for it, until it has come to its end."""

    def __init__(self, folder, api, disks, chance):
        self.api, self.disks, self.chance = api, disks, chance
        self.counts = Counter()
        self.layout = chance.choice(LAYOUTS)
        self.greedy = "temporary" not in self.layout and chance.random() < 0.5
        small = {name: ROOT / part.replace("+", "-") for part in self.layout.split() for name in part.split("+")}
        self.sizes = {
            disk: int(LEAST_BYTES * (MOST_BYTES / LEAST_BYTES) ** chance.random()) for disk in set(small.values())
        }
        for disk, size in self.sizes.items():
            disks.make(disk, size)
        roomy = ROOT / "roomy"
        disks.seen(roomy).mkdir()
        if "temporary" in small and not disks.close_temporary():
            self.layout += " (with room in /tmp)"
        self.places = places(
            chance.choice(FORMS),
            small.get("output", roomy),
            run=small.get("run", roomy),
            media=small.get("media", small.get("output", roomy)),
        )
        self.source = folder / "in.jsonl"
        write(self.source, mixed(ROWS))
        self.lives = Lives(
            (
                *disks.enter, *COMMAND, "run", ROOT / "in.jsonl", *self.places.flags, "--base-url", api.base_url,
                "--concurrency", CONCURRENCY, "--poll-interval", "0.1", "--max-attempts", 1000, "--progress", "none",
            ),
            environ=environment(TMPDIR=str(small.get("temporary", roomy))),
            run_dir=disks.seen(self.places.run_dir),
            log=folder / "said.log",
        )  # fmt: skip

    def to_the_end(self):
        """Type the command again and again, with more room each time, until it has come to its end."""
        for _ in range(40):
            hogs = self._hogs() if self.chance.random() < 0.6 else []
            if self._over(self._live(hogs)):
                break
            if self.chance.random() < 0.3:  # again, and nobody has made room
                self._over(self._live([]))
            for hog in hogs:
                hog.leave()
            for disk, size in self.sizes.items():
                self.sizes[disk] = int(size * self.chance.uniform(1.1, 2.0))
                self.disks.resize(disk, self.sizes[disk])
        else:
            raise AssertionError(self.lives.last_words())
        for hog in hogs:
            hog.leave()

    def _hogs(self):
        return [Hog(self.disks.seen(disk), greedy=self.greedy) for disk in self.sizes if self.chance.random() < 0.8]

    def _live(self, hogs):
        sums = self.api.sums()
        moment = sums["posts"] + sums["gets"] + self.chance.randrange(1, 150)
        self.lives.begin()
        if hogs:
            self.lives.wait_for(lambda: self._requests() >= moment, look_s=0.01)
            for hog in hogs:
                hog.take()
            self.counts["hogged"] += 1
        return self.lives.await_end("drained", within_s=60)

    def _requests(self):
        sums = self.api.sums()
        return sums["posts"] + sums["gets"]

    def _over(self, code):
        assert code in {0, 3, 8}, (code, self.lives.last_words())
        self.counts[f"exit_{code}"] += 1
        return code != 8

    def judged(self):
        audit = json.loads(self.lives.ask("audit", self.places.run_dir, "--json", enter=self.disks.enter))
        output, errors = self.disks.seen(self.places.output), self.disks.seen(self.places.errors)
        ledger = self.api.ledger()
        verdict = judge(
            rows=ROWS,
            results=read_results(output),
            errors=read_lines(errors),
            base=self.disks.seen(self.places.base),
            ledger=ledger,
            audit=audit,
            lives=self.lives.lived,
            concurrency=CONCURRENCY,
        )
        table = self.lives.ask("audit", self.places.run_dir, "--csv", enter=self.disks.enter)
        left = reconcile(self.source, output=output, errors=errors, audit=audit, table=table, ledger=ledger)
        verdict.wrong += left.wrong
        return verdict


def test_a_full_disk_costs_no_paid_answer_and_with_room_again_the_run_comes_to_its_end(tmp_path, simulator):
    seed = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
    print(f"\nseed={seed}: BULKGROK_DISKS={SIZES} BULKGROK_SEED={seed} tox run -e disks")
    counts, sums, layouts = Counter(), Counter(), Counter()
    for number in range(SIZES):
        folder = tmp_path / str(number)
        folder.mkdir()
        api = simulator("--latency=0.02", "--deferred-latency=0.2", "--video-latency=0.2", "--media-size=20000")
        disks = Disks(folder)
        squeeze = Squeeze(folder, api, disks, random.Random(seed + number))
        try:
            squeeze.to_the_end()
            verdict = squeeze.judged()
        finally:
            squeeze.lives.bury()
            disks.close()
            api.stop()
        found = (
            f"seed {seed + number}: {squeeze.layout}, {squeeze.places.output.name}, {dict(squeeze.counts)}: {verdict}\n"
            f"{squeeze.lives.last_words()}"
        )
        assert verdict.wrong == [], found
        assert (verdict.lost, verdict.in_doubt, verdict.failed) == (0, 0, 0), found
        counts += squeeze.counts
        layouts[squeeze.layout] += 1
        for name in ("rows", "billed", "answered", "in_doubt", "lost", "unexplained"):
            sums[name] += getattr(verdict, name)
    print(
        f"sizes={SIZES} {' '.join(f'{name}={n}' for name, n in sums.items())} "
        f"{' '.join(f'{name}={n}' for name, n in sorted(counts.items()))} layouts={dict(layouts)}"
    )
