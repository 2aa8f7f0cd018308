"""kill -9 of the real command at random moments, its input, output and videos in a real S3 server; cut connections.

After each death the bucket is read as a stranger would: what is there is whole, and no row is there twice. At the end
the simulator's ledger judges. BULKGROK_KILLS is the number of kills: 6 in the ordinary run; BULKGROK_SEED the seed.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter

import orjson
import pyarrow as pa
import pytest
from harness.command import Simulator, environment
from harness.judge import judge, read_lines, read_results
from harness.lives import Lives
from harness.reconcile import reconcile
from harness.rows import mixed, write
from harness.wire import Wire
from pyarrow import parquet as pq

KILLS = int(os.environ.get("BULKGROK_KILLS", "6"))
KILLS_A_RUN = 3
ROWS = 240
CONCURRENCY = 8
BUCKET = "kills"
#: The command, with parts so small that there are many.
_PROGRAM = """
from bulkgrok.sinks import parts
parts.PartsSink.__init__.__kwdefaults__.update(rows_a_part=30, seconds_a_part=0.4)
from bulkgrok.__main__ import main
raise SystemExit(main())
"""
COMMAND = (sys.executable, "-c", _PROGRAM)
#: name -> what is typed for it
FORMS = {
    "parts": ("out/", "parquet"),
    "line-parts": ("out/", "jsonl"),
    "table": ("out.parquet", "parquet"),
    "lines": ("out.jsonl", "jsonl"),
}
DEATHS = ("at_any_moment", "at_any_moment", "while_putting", "while_putting", "after_a_cut", "by_sigterm")


class Torment:
    """One run of the command over S3, from its first life to its last."""

    def __init__(self, folder, api, store, *, form, seed, database=None):
        self.api, self.store, self.chance = api, store, random.Random(seed)
        self.counts = Counter()
        self.folder = folder
        self.name, self.format = FORMS[form]
        self.prefix = f"{form}-{seed}"
        self.to_api, self.to_store = Wire(api.port), Wire(store.port)
        self.source = folder / "in.jsonl"
        write(self.source, mixed(ROWS))
        store.put(BUCKET, f"{self.prefix}/in.jsonl", self.source.read_bytes())
        self.run_dir = folder / "out.bulkgrok"
        self.database = database
        elsewhere = ("--checkpoint", database, "--run-id", self.prefix) if database else ()
        self.run = f"{database}#{self.prefix}" if database else self.run_dir
        self.lives = Lives(
            (
                *COMMAND, "run", f"s3://{BUCKET}/{self.prefix}/in.jsonl", "-o", f"s3://{BUCKET}/{self.prefix}/{self.name}",
                "--output-format", self.format, "--run-dir", self.run_dir, "--concurrency", CONCURRENCY,
                "--base-url", f"http://127.0.0.1:{self.to_api.port}/v1", "--poll-interval", "0.1", "--rps", 160,
                "--max-attempts", 1000, "--progress", "none", *elsewhere,
            ),
            environ=environment(**store.environment(f"http://127.0.0.1:{self.to_store.port}")),
            run_dir=self.run_dir,
            log=folder / "said.log",
        )  # fmt: skip

    def live(self, death):
        """Live one life; return whether it ended of its own accord with all the work done."""
        self._lose_the_disk()
        self.lives.begin()
        self.counts[death] += 1
        if not self.lives.wait_for(self.lives.at_work, within_s=10):
            return self._over()
        return getattr(self, death)()

    def _lose_the_disk(self):
        """With a checkpoint in a database, begin each life on an empty disk."""
        if self.database:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def at_any_moment(self):
        time.sleep(self.chance.uniform(0.0, 1.6))
        return self._kill()

    def while_putting(self):
        self.lives.wait_for(lambda: any((self.run_dir / "scratch").glob(".*.tmp")), within_s=3)
        time.sleep(self.chance.uniform(0.0, 0.1))
        return self._kill()

    def after_a_cut(self):
        """Cut the connections to the store, a few times: the run goes on."""
        for _ in range(5):
            time.sleep(self.chance.uniform(0.0, 0.3))
            self.to_store.cut()
        return self._kill()

    def by_sigterm(self):
        time.sleep(self.chance.uniform(0.0, 0.8))
        self.lives.signal(signal.SIGTERM)
        return self._over()

    def _kill(self):
        if self.lives.ended:
            return self._over()
        self.lives.kill()
        self._come_to_rest()
        self.counts["kills"] += 1
        return False

    def _over(self):
        code = self.lives.await_end("drained", within_s=90)
        self._come_to_rest()
        code = 128 - code if code < 0 else code
        if code not in {0, 3, 143}:
            pytest.fail(f"exit code {code}: {self.lives.last_words()}")
        return code in {0, 3}

    def _come_to_rest(self):
        """Wait until the API and the store have dealt with what the dead had sent; then look as a stranger does."""
        self.to_api.rest()
        self.to_store.rest()
        seen, before = None, -1
        while seen != before:
            sums, before = self.api.sums(), seen
            seen = sums["posts"], sums["gets"], sums["in_flight"]
            time.sleep(0.02)
        self.looked_at()

    def looked_at(self):
        """Read what a stranger would find: parts are whole and hold no row twice; a manifest lists what is there."""
        if not self.name.endswith("/"):
            return
        below = f"{self.prefix}/{self.name}"
        keys = [key.removeprefix(below) for key in self.store.keys(BUCKET, below)]
        parts = {key: self.store.get(BUCKET, below + key) for key in keys if key.startswith("part-")}
        rows = Counter(row for data in parts.values() for row in self._rows(data))
        assert [row for row, count in rows.items() if count > 1] == []
        self.counts["parts"] = max(self.counts["parts"], len(parts))
        if "_manifest.json" in keys:
            listed = json.loads(self.store.get(BUCKET, below + "_manifest.json"))["parts"]
            assert {each["name"]: each["bytes"] for each in listed} == {name: len(data) for name, data in parts.items()}

    def _rows(self, data):
        if self.format == "parquet":
            return pq.read_table(pa.BufferReader(data), columns=["row"])["row"].to_pylist()
        assert data.endswith(b"\n")
        return [orjson.loads(line)["row"] for line in data.splitlines()]

    def to_the_end(self, kills):
        """Live until the run has ended and so many kills were met."""
        over = False
        while self.counts["kills"] < kills:
            if over:  # nothing is left to do: an end of the output goes, to be made again
                below = f"{self.prefix}/{self.name.rstrip('/')}"
                for key in self.store.keys(BUCKET, below)[-2:]:
                    if "media" not in key:
                        self.store.delete(BUCKET, key)
            over = self.live("while_putting" if over else self.chance.choice(DEATHS))
        while not over:
            self._lose_the_disk()
            self.lives.begin()
            over = self._over()

    def judged(self):
        """Return the verdict, on a copy of what is in the bucket."""
        self.to_api.stop()
        self.to_store.stop()
        copy = self.folder / "copy"
        for key in self.store.keys(BUCKET, f"{self.prefix}/out"):
            if key.endswith("/"):  # what S3 clients leave where a folder would be
                continue
            there = copy / key.removeprefix(f"{self.prefix}/")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(self.store.get(BUCKET, key))
        output = copy / self.name.rstrip("/")
        errors = output / "_errors.jsonl" if self.name.endswith("/") else copy / "out.errors.jsonl"
        audit = json.loads(self.lives.ask("audit", self.run, "--json"))
        table = self.lives.ask("audit", self.run, "--csv")
        ledger = self.api.ledger()
        verdict = judge(
            rows=ROWS, results=read_results(output), errors=read_lines(errors), base=errors.parent, ledger=ledger,
            audit=audit, lives=self.lives.lived, concurrency=CONCURRENCY,
        )  # fmt: skip
        left = reconcile(self.source, output=output, errors=errors, audit=audit, table=table, ledger=ledger)
        verdict.wrong += left.wrong + self.lives.tracebacks()
        return verdict


@pytest.fixture(scope="module")
def store(s3_server):
    s3_server.make_bucket(BUCKET)
    return s3_server


def tormented(folder, store, *, form, seed, kills, database=None):
    """Torment one run to its end; return it and the verdict, which is good."""
    folder.mkdir()
    api = Simulator("--latency=0.02", "--deferred-latency=0.4", "--video-latency=0.4", "--media-size=300000")
    run = Torment(folder, api, store, form=form, seed=seed, database=database)
    try:
        run.to_the_end(kills)
        verdict = run.judged()
    finally:
        run.lives.bury()
        api.stop()
    assert verdict.wrong == [], f"seed {seed}: {verdict}"
    return run, verdict


def test_on_an_empty_disk_every_time_a_run_goes_on_from_database_and_bucket(tmp_path, store, postgres):
    seed = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
    form = list(FORMS)[seed % 2]
    run, verdict = tormented(tmp_path / "run", store, form=form, seed=seed, kills=3, database=postgres.url())
    print(f"\nseed={seed} {dict(run.counts)} {verdict}")


def test_whatever_ends_it_every_row_is_in_the_bucket_once_and_every_bill_is_explained(tmp_path, store):
    seed = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
    print(f"\nseed={seed}: BULKGROK_KILLS={KILLS} BULKGROK_SEED={seed} tox run -e s3")
    counts, sums = Counter(), Counter()
    forms = list(FORMS)
    shares = [min(KILLS_A_RUN, KILLS - done) for done in range(0, KILLS, KILLS_A_RUN)]
    for number, kills in enumerate(shares):
        form = forms[(seed + number) % len(forms)]
        run, verdict = tormented(tmp_path / str(number), store, form=form, seed=seed + number, kills=kills)
        counts += run.counts
        for name in ("rows", "billed", "answered", "failed", "in_doubt", "doubled", "lost", "unexplained"):
            sums[name] += getattr(verdict, name)
    told = " ".join(f"{name}={count}" for name, count in (counts + sums).items())
    print(f"runs={len(shares)} {told} unfinished_uploads={store.uploads(BUCKET)}")
