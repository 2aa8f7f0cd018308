"""Disks that fill up: no paid answer is lost, and with room again the same command comes to its end.

BULKGROK_DISKS is the number of random sizes: 6 in the ordinary test run, 100 with `tox run -e disks`; BULKGROK_SEED the
seed.
"""

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from harness.disks import ROOT, Disks
from harness.places import FORMS, places
from harness.run import Run

SIZES = int(os.environ.get("BULKGROK_DISKS", "6"))
ROWS = 100
AT_ONCE = 2
"""n runs at the same time."""
LEAST_BYTES, MOST_BYTES = 1_200_000, 6_000_000
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
        found = places(
            chance.choice(FORMS),
            small.get("output", roomy),
            run=small.get("run", roomy),
            media=small.get("media", small.get("output", roomy)),
        )
        environ = {"TMPDIR": str(small.get("temporary", roomy))}
        self.run = Run(folder, api, rows=ROWS, found=found, disks=disks, environ=environ)

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
            raise AssertionError(self.run.lives.last_words())
        for hog in hogs:
            hog.leave()

    def _hogs(self):
        return [Hog(self.disks.seen(disk), greedy=self.greedy) for disk in self.sizes if self.chance.random() < 0.8]

    def _live(self, hogs):
        sums = self.api.sums()
        moment = sums["posts"] + sums["gets"] + self.chance.randrange(1, 150)
        self.run.lives.begin()
        if hogs:
            self.run.lives.wait_for(lambda: self._requests() >= moment, look_s=0.01)
            for hog in hogs:
                hog.take()
            self.counts["hogged"] += 1
        return self.run.lives.await_end("drained", within_s=60)

    def _requests(self):
        sums = self.api.sums()
        return sums["posts"] + sums["gets"]

    def _over(self, code):
        assert code in {0, 3, 8}, (code, self.run.lives.last_words())
        self.counts[f"exit_{code}"] += 1
        return code != 8


def squeezed(folder, api, *, seed):
    """Squeeze one run to its end; return what was done and the verdict, which is good."""
    folder.mkdir()
    disks = Disks(folder)
    squeeze = Squeeze(folder, api, disks, random.Random(seed))
    try:
        squeeze.to_the_end()
        verdict = squeeze.run.judged()
    finally:
        squeeze.run.lives.bury()
        disks.close()
    found = f"seed {seed}: {squeeze.layout}: {verdict}\n{squeeze.run.lives.last_words()}"
    assert (verdict.lost, verdict.in_doubt, verdict.failed) == (0, 0, 0), found
    return squeeze, verdict


def test_a_full_disk_costs_no_paid_answer_and_with_room_again_the_run_comes_to_its_end(tmp_path, api):
    seed = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
    print(f"\nseed={seed}: BULKGROK_DISKS={SIZES} BULKGROK_SEED={seed} tox run -e disks")
    counts, sums, layouts = Counter(), Counter(), Counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tasks = [pool.submit(squeezed, tmp_path / str(number), api, seed=seed + number) for number in range(SIZES)]
        for squeeze, verdict in (task.result() for task in tasks):
            counts += squeeze.counts
            layouts[squeeze.layout] += 1
            for name in ("rows", "billed", "answered", "in_doubt", "lost", "unexplained"):
                sums[name] += getattr(verdict, name)
    print(
        f"sizes={SIZES} {' '.join(f'{name}={n}' for name, n in sums.items())} "
        f"{' '.join(f'{name}={n}' for name, n in sorted(counts.items()))} layouts={dict(layouts)}"
    )


def test_a_run_on_a_disk_without_any_room_is_told_so_and_can_be_looked_at(tmp_path, api):
    disks = Disks(tmp_path)
    disk = ROOT / "disk"
    disks.make(disk, 6_000_000)
    run = Run(tmp_path, api, found=places("lines", disk), disks=disks, flags=("--rps", 60))
    hog = Hog(disks.seen(disk), greedy=False)
    try:
        run.lives.begin()
        run.after(20).lives.kill()
        (disks.seen(run.places.run_dir) / "checkpoint.db-shm").unlink()
        hog.take()
        run.lives.begin()
        assert "the disk is full" in run.end(8)
        assert "of 60 rows done; no runner" in run.lives.ask("status", run.places.run_dir, enter=disks.enter)
        hog.leave()
        run.goes_on()
    finally:
        run.lives.bury()
        disks.close()
