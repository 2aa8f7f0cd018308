"""Workers whose disk does not last, over one PostgreSQL: killed, stopped, cut off, the server crashing beneath them.

Each worker has a folder of its own, empty at its start, and names the run by --run-id alone. The simulator's ledger
judges. BULKGROK_TAKEOVERS is the number of events: 12 in the ordinary run of `tox run -e postgres`, 300 on demand;
BULKGROK_SEED the seed.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.command import COMMAND, environment
from harness.judge import Life, judge, read_lines, read_results
from harness.lives import Lives
from harness.places import FORMS, places
from harness.reconcile import reconcile
from harness.rows import mixed, write
from harness.wire import Wire
from postgresql import Server, sql, wait_until

EVENTS = int(os.environ.get("BULKGROK_TAKEOVERS", "12"))
EVENTS_A_RUN = 6
AT_ONCE = 4
"""n runs at the same time; most of them wait for a lease to end."""
ROWS = 150
CONCURRENCY = 8
#: What happens to workers, and how often among twelve events.
FATES = {"killed": 4, "stopped": 2, "disconnected": 2, "told_to_end": 1, "raced": 2, "beside_a_second": 1}
TAKEOVER_S = 30.0
CALM = threading.Lock()
NUMBERS = itertools.count()
COUNTED = ("rows", "billed", "answered", "failed", "in_doubt", "doubled", "lost", "handed_in", "unexplained")


class Worker:
    """One worker: a folder and a process."""

    def __init__(self, folder, run, number):
        folder.mkdir()
        self.places = places(run.form, folder)
        self.lives = Lives(
            (
                *COMMAND, "run", run.source, *self.places.flags, "--checkpoint", run.url, "--run-id", run.run_id,
                "--base-url", f"http://127.0.0.1:{run.wire.port}/v1", "--concurrency", CONCURRENCY, "--poll-interval",
                "0.1", "--rps", 40, "--max-attempts", 1000, "--progress", "none",
            ),
            environ=environment(PYTHONFAULTHANDLER="1"),
            run_dir=self.places.run_dir,
            log=folder / "said.log",
        )  # fmt: skip
        self.number = number

    def outputs(self):
        """Return a sum over all that it has written; drafts are nobody's output."""
        found = sorted(path for path in (self.places.base, self.places.media) for path in path.rglob("*"))
        files = [path for path in found if path.is_file() and self.places.run_dir not in path.parents]
        files = [path for path in files if path.name[0] != "." and path.name != "said.log"]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Torment:
    """One run, from its first worker to its last."""

    def __init__(self, folder, api, server, *, form, chance, run_id):
        self.folder, self.api, self.server, self.form, self.chance, self.run_id = (
            folder, api, server, form, chance, run_id,
        )  # fmt: skip
        self.database = "postgres"
        if isinstance(server, Server):  # whose sessions are ended without ending others'
            self.database = f"torment_{next(NUMBERS)}"
            server.sql(f"CREATE DATABASE {self.database}")
        self.url = server.url(database=self.database)
        self.wire = Wire(api.port)
        self.source = folder / "in.jsonl"
        write(self.source, mixed(ROWS))
        self.counts, self.takeovers_s, self.workers = Counter(), [], []
        self.ends = {}
        """Process -> how it ended."""
        self.over = False

    # Workers

    def _new(self):
        self.workers.append(Worker(self.folder / f"worker-{len(self.workers)}", self, len(self.workers)))
        return self.workers[-1]

    def _begin(self):
        """Begin a worker that gets the run, however often it must be tried; None when there is nothing left to do."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            worker = self._new()
            worker.lives.begin()
            if worker.lives.wait_for(lambda worker=worker: self._owner() == worker.lives.process.pid, within_s=60):
                return worker
            code = self._end(worker, "drained")
            if code in {0, 3}:
                self.over = True
                return None
            assert code in {6, 8}, (code, worker.lives.last_words())  # another still has it; the server is away
            self.counts["refused"] += code == 6
            self.counts["server_away"] += code == 8
            time.sleep(0.3)
        raise AssertionError(worker.lives.last_words())

    def _end(self, worker, end, within_s=90):
        """Wait for the end of a worker, and note how it ended."""
        pid = worker.lives.process.pid
        code = worker.lives.await_end(end, within_s=within_s)
        overtaken = code == 6 and "has taken this run" in worker.lives.last_words()
        self.counts["overtaken"] += overtaken
        # What one that ends with 8 could not hand in lies on its disk, which is gone.
        self.ends[pid] = "overtaken" if overtaken else "hard" if code == 8 else end
        return code

    def _owner(self):
        """Return the process that owns the run and has begun to act on it, by the database."""
        found = self._asked("SELECT owner FROM bulkgrok.run WHERE name = %s AND applied > 0", self.run_id)
        return int(found[0][0].split()[1]) if found and found[0][0] else None

    def _asked(self, query, *parameters):
        import psycopg  # noqa: PLC0415 - an extra

        try:
            return sql(self.url, query, *parameters)
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):  # it is crashing just now, or new
            return []

    def _work(self, worker, most_s=1.2):
        """Let it work a while; tell whether it is still at it."""
        time.sleep(self.chance.uniform(0.1, most_s))
        return not worker.lives.ended

    def _done(self, worker):
        """Take note of a worker that ended of its own accord."""
        pid = worker.lives.process.pid
        code = self._end(worker, "drained")
        overtaken = self.ends[pid] == "overtaken"  # a second one came just when the server had crashed
        assert code in {0, 3, 143, 8} or overtaken, (code, worker.lives.last_words())
        self.over = self.over or code in {0, 3}

    # Fates. Each is given a worker at work, and returns the one that is at work afterwards, None for none.

    def killed(self, worker):
        if not self._work(worker):
            return self._done(worker)
        self._kill(worker)
        began = time.monotonic()
        following = self._begin()
        self.takeovers_s.append(("killed", time.monotonic() - began))
        return following

    def _kill(self, worker):
        self.ends[worker.lives.process.pid] = "hard"
        worker.lives.kill()
        self._settle()

    def told_to_end(self, worker):
        if self._work(worker):
            worker.lives.signal(signal.SIGTERM)
        self._done(worker)
        self._settle()

    def disconnected(self, worker):
        """End all of its sessions, several times; it goes on by itself."""
        for _ in range(3):
            if not self._work(worker, 0.6):
                return self._done(worker)
            self._asked(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'bulkgrok' AND datname = current_database()"
            )
            self.counts["terminated"] += 1
        return worker

    def raced(self, worker):
        """Kill it and begin two at once: one of them gets the run, the other is told off."""
        if not self._work(worker):
            return self._done(worker)
        self._kill(worker)
        both = [self._new(), self._new()]
        for each in both:
            each.lives.begin()
        found = wait_until(lambda: any(each.lives.ended for each in both), at_most_s=60)
        assert found, "both runners are at work on one run"
        loser = next(each for each in both if each.lives.ended)
        winner = next(each for each in both if each is not loser)
        code = self._end(loser, "drained")
        assert code in {0, 3, 6, 8}, (code, loser.lives.last_words())
        self.counts["raced_and_refused"] += code == 6
        if code == 8:
            self.counts["server_away"] += 1
        if code in {0, 3}:
            self.over = True
        if winner.lives.ended:
            code = self._end(winner, "drained")
            assert code in {0, 3, 6, 8}, (code, winner.lives.last_words())
            self.over = self.over or code in {0, 3}
            return None
        return winner

    def beside_a_second(self, worker):
        """Begin a second worker while the first is at work: it is told off and sends nothing."""
        second = self._new()
        second.lives.begin()
        pid = second.lives.process.pid
        code = self._end(second, "drained", within_s=60)
        if code == 6:
            assert self.wire.sent_bytes[pid] == 0
            self.counts["second_runners"] += 1
        else:  # the first had come to its end, or the server was away
            assert code in {0, 3, 8}, (code, second.lives.last_words())
            self.over = self.over or code in {0, 3}
        return self._done(worker) if worker.lives.ended else worker

    def stopped(self, zombie):
        """Stop it, take its run over when its lease is over, then let it go on: it must not."""
        if not self._work(zombie):
            return self._done(zombie)
        zombie.lives.signal(signal.SIGSTOP)
        began = time.monotonic()
        self._settle()
        following = self._begin()
        if following is not None:
            self.takeovers_s.append(("stopped", time.monotonic() - began))
            self._work(following, 1.5)
        pid, wrote = zombie.lives.process.pid, zombie.outputs()
        sent = self.wire.sent_bytes[pid]
        zombie.lives.signal(signal.SIGCONT)
        code = self._end(zombie, "hard", within_s=90)
        assert code == 6, (code, zombie.lives.last_words())
        self.counts["zombies"] += 1
        self.counts["zombie_bytes_sent"] += self.wire.sent_bytes[pid] - sent
        if written := sorted(dict(zombie.outputs().items() ^ wrote.items())):
            # Lines that were being written when it was stopped are written on; nothing is begun, nothing ended.
            in_hand = written == [str(zombie.places.output)] and self.form == "lines"
            self.counts["zombie_batches_in_hand" if in_hand else "zombie_writes"] += 1
            print(f"a zombie wrote {written}")
        return following

    def _settle(self):
        """Wait until the API has dealt with what a worker had sent: it is not the doing of the next one."""
        seen, before = None, -1
        while seen != before:
            sums, before = self.api.sums(), seen
            seen = sums["posts"], sums["gets"], sums["in_flight"]
            time.sleep(0.05)

    # The whole

    def to_the_end(self, events):
        deck = [fate for fate, count in FATES.items() for _ in range(count)]
        worker = None
        while events and not self.over:
            self.chance.shuffle(deck)
            for fate in deck:
                worker = worker or (None if self.over else self._begin())
                if worker is None or not events:
                    break
                self.counts[fate] += 1
                events -= 1
                worker = getattr(self, fate)(worker)
        self.counts["left_over"] += events
        while not self.over:
            worker = worker or self._begin()
            if worker is not None:
                self._done(worker)
                worker = None

    def judged(self):
        last = self._begin_last()
        self.wire.stop()
        where = f"{self.url}#{self.run_id}"
        audit = json.loads(last.lives.ask("audit", where, "--json"))
        ledger = self.api.ledger()
        verdict = judge(
            rows=ROWS,
            results=read_results(last.places.output),
            errors=read_lines(last.places.errors),
            base=last.places.base,
            ledger=ledger,
            audit=audit,
            lives=self._tenures(),
            concurrency=CONCURRENCY,
            fenced=self.counts["overtaken"],
        )
        verdict.wrong += reconcile(
            self.source, output=last.places.output, errors=last.places.errors, audit=audit,
            table=last.lives.ask("audit", where, "--csv"), ledger=ledger,
        ).wrong  # fmt: skip
        for worker in self.workers:
            verdict.wrong += worker.lives.tracebacks()
        return verdict

    def _tenures(self):
        """Return how long each worker owned the run, as lives. What one that was overtaken had sent may come late."""
        found = self._asked(
            "SELECT tenure.owner, extract(epoch FROM began_at)::float FROM bulkgrok.tenure "
            "JOIN bulkgrok.run ON no = run WHERE name = %s ORDER BY tenure.epoch", self.run_id,
        )  # fmt: skip
        lives, late = [], 0
        for owner, began_at in found:
            end = self.ends.get(int(owner.split()[1]), "drained")
            lives.append(Life(began_at=began_at, end="drained" if end == "drained" else "hard", cuts=late))
            late = int(end == "overtaken")
        return lives

    def _begin_last(self):
        """Type the command once more on an empty disk: it sends nothing and writes the whole output again."""
        last = self._new()
        last.lives.begin()
        code = self._end(last, "drained")
        assert code in {0, 3}, (code, last.lives.last_words())
        return last

    def bury(self):
        for worker in self.workers:
            worker.lives.bury()


class Weather:
    """Crashes the server now and then."""

    def __init__(self, server, chance, *, every_s):
        self.crashes = 0
        self._server, self._chance, self._every_s = server, chance, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow, daemon=True)
        self._thread.start()

    def _blow(self):
        while not self._over.wait(self._chance.uniform(0.5, 1.5) * self._every_s):
            with CALM:  # nobody is judged in a storm
                self._server.crash()
            self.crashes += 1

    def stop(self):
        self._over.set()
        self._thread.join()


def tormented(folder, start, server, *, seed, events):
    """Torment one run to its end; return it and the verdict, which is good."""
    folder.mkdir()
    with CALM:
        run = begun(folder, start, server, seed)
    try:
        run.to_the_end(events)
        with CALM:
            verdict = run.judged()
    finally:
        run.bury()
    run.api.stop()
    assert verdict.wrong == [], f"seed {seed}: {verdict}"
    return run, verdict


def begun(folder, start, server, seed):
    """Return a run that may begin."""
    api = start("--latency=0.02", "--deferred-latency=0.4", "--video-latency=0.4", "--media-size=30000")
    return Torment(
        folder, api, server, form=FORMS[seed % len(FORMS)], chance=random.Random(seed), run_id=f"torment of {folder}"
    )


def test_whoever_takes_over_every_row_comes_once_and_every_bill_is_explained(tmp_path, simulator, postgres):
    seed = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
    print(f"\nseed={seed}: BULKGROK_TAKEOVERS={EVENTS} BULKGROK_SEED={seed} tox run -e postgres")
    own = isinstance(postgres, Server)
    weather = Weather(postgres, random.Random(seed), every_s=6.0) if own else None
    counts, sums, times = Counter(), Counter(), []
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tasks = [
                pool.submit(tormented, tmp_path / str(number), simulator, postgres, seed=seed + number, events=events)
                for number, events in enumerate(shared_out(EVENTS, EVENTS_A_RUN))
            ]
            for run, verdict in (task.result() for task in tasks):
                counts += run.counts
                times += run.takeovers_s
                for name in (
                    "rows",
                    "billed",
                    "answered",
                    "failed",
                    "in_doubt",
                    "doubled",
                    "lost",
                    "handed_in",
                    "unexplained",
                ):
                    sums[name] += getattr(verdict, name)
    finally:
        if weather is not None:
            weather.stop()
    slowest = {fate: max((s for each, s in times if each == fate), default=0.0) for fate in ("killed", "stopped")}
    print(
        f"{' '.join(f'{name}={n}' for name, n in sorted(counts.items()))} "
        f"server_crashes={0 if weather is None else weather.crashes} "
        f"{' '.join(f'{name}={n}' for name, n in sums.items())} "
        f"slowest_takeover={ {fate: round(s, 1) for fate, s in slowest.items()} }"
    )
    assert counts["zombie_bytes_sent"] == 0
    assert counts["zombie_writes"] == 0
    assert slowest["stopped"] <= TAKEOVER_S


def shared_out(count, most):
    """Yield numbers of at most `most` that add up to `count`."""
    while count > 0:
        yield min(count, most)
        count -= most


@pytest.fixture(autouse=True)
def _is_needed(postgres):
    """Skip where there is no PostgreSQL."""


def test_a_password_is_in_no_file_and_no_message(tmp_path, simulator, postgres):
    if not isinstance(postgres, Server):
        pytest.skip("needs a server of its own")
    api = simulator("--latency=0.01")
    write(tmp_path / "in.jsonl", mixed(20))
    command = [
        *COMMAND, "run", "in.jsonl", "--base-url", api.base_url, "--checkpoint", postgres.url(), "--run-id", "secret",
        "--log-level", "debug",
    ]  # fmt: skip
    said = b""
    wrong = ("--checkpoint", postgres.url(password="another-s3kr1t-one"))
    for arguments, code in (((), 0), ((), 0), (wrong, 2), (("--limit", "x"), 2)):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, env=environment(), check=False)
        assert done.returncode == code, done.stderr
        said += done.stdout + done.stderr
    for ask in ("status", "audit"):
        said += subprocess.check_output([*COMMAND, ask, postgres.url() + "#secret"], cwd=tmp_path, env=environment())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for found in (said, *(path.read_bytes() for path in files)):
        assert b"s3kr1t" not in found
