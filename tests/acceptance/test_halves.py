"""`submit` and `collect` as real commands, killed between and amidst; the simulator's ledger judges the whole."""

import json
import random

from harness.command import COMMAND, environment
from harness.judge import judge, read_lines, read_results
from harness.lives import Lives
from harness.places import places
from harness.reconcile import reconcile
from harness.rows import deferred, write

ROWS = 120
CONCURRENCY = 8
FLAGS = ("--concurrency", CONCURRENCY, "--progress", "none", "--max-attempts", 1000)


class Halves:
    """A run that is submitted and collected by turns."""

    def __init__(self, folder, api):
        self.api = api
        self.places = places("lines", folder)
        self.source = folder / "in.jsonl"
        write(self.source, deferred(ROWS))
        rate = (*FLAGS, "--rps", 160)
        self.commands = {
            "submit": ("submit", self.source, *self.places.flags, "--base-url", api.base_url, *rate),
            "collect": ("collect", self.places.run_dir, "--poll-interval", "0.1", *rate),
            "run": (
                "run",
                self.source,
                *self.places.flags,
                "--base-url",
                api.base_url,
                "--poll-interval",
                "0.1",
                *rate,
            ),
        }
        self.lives = Lives((), environ=environment(), run_dir=self.places.run_dir, log=folder / "said.log")

    def begin(self, part):
        self.lives.types(*COMMAND, *self.commands[part])
        self.lives.begin()

    def whole(self, part):
        """Let a part come to its end; return its exit code."""
        self.begin(part)
        return self.lives.await_end("drained", within_s=60)

    def killed(self, part, *, posts=0, gets=0):
        """Kill a part once the API has seen so many more of its requests, or it has ended; let the API come to rest."""
        before = self.api.sums()
        self.begin(part)

        def enough():
            now = self.api.sums()
            return now["posts"] - before["posts"] >= posts and now["gets"] - before["gets"] >= gets

        self.lives.wait_for(enough, look_s=0.01, within_s=30)
        if self.lives.ended:
            self.lives.await_end("drained", within_s=1)
        else:
            self.lives.kill()
        while self.api.sums()["in_flight"]:
            pass

    def judged(self):
        audit = json.loads(self.lives.ask("audit", self.places.run_dir, "--json"))
        ledger = self.api.ledger()
        found = {"output": self.places.output, "errors": self.places.errors}
        table = self.lives.ask("audit", self.places.run_dir, "--csv")
        left = reconcile(self.source, **found, audit=audit, table=table, ledger=ledger)
        verdict = judge(
            rows=ROWS,
            results=read_results(found["output"]),
            errors=read_lines(found["errors"]),
            base=self.places.base,
            ledger=ledger,
            audit=audit,
            lives=self.lives.lived,
            concurrency=CONCURRENCY,
        )
        assert verdict.wrong + left.wrong == [], (verdict, self.lives.last_words())
        assert self.lives.tracebacks() == []
        return verdict

    def status(self):
        return json.loads(self.lives.ask("status", self.places.run_dir, "--json"))


def test_both_halves_are_killed_again_and_again_and_every_row_comes_once(tmp_path, simulator):
    halves = Halves(tmp_path, simulator("--latency=0.02", "--deferred-latency=0.3"))
    chance = random.Random(5)
    try:
        for _ in range(2):
            halves.killed("submit", posts=chance.randint(5, 40))
            halves.killed("collect", gets=chance.randint(3, 25))
        halves.killed("run", posts=5, gets=5)
        while halves.whole("submit") != 0 or halves.whole("collect") != 0:
            assert len(halves.lives.lived) < 30, halves.lives.last_words()
        verdict = halves.judged()
    finally:
        halves.lives.bury()
    assert verdict.answered == ROWS
    summary = halves.status()
    assert (summary["succeeded"], summary["pending"], summary["outstanding"]) == (ROWS, 0, 0)


def test_a_half_that_is_told_to_stop_drains_and_loses_nothing(tmp_path, simulator):
    api = simulator("--latency=0.02", "--deferred-latency=0.3")
    halves = Halves(tmp_path, api)
    try:
        halves.begin("submit")
        assert halves.lives.wait_for(lambda: api.sums()["posts"] > 10, within_s=30)
        halves.lives.signal(15)
        assert halves.lives.await_end("drained", within_s=30) == 143
        told = halves.status()
        assert 10 <= told["outstanding"] < ROWS
        assert told["pending"] in {None, ROWS - told["outstanding"]}  # None: they were not counted yet
        assert told["in_doubt"] == 0
        assert api.sums()["gets"] == 0
        assert halves.whole("submit") == 0
        halves.begin("collect")
        assert halves.lives.wait_for(lambda: api.sums()["gets"] > 10, within_s=30)
        halves.lives.signal(15)
        assert halves.lives.await_end("drained", within_s=30) == 143
        assert halves.whole("collect") == 0
        assert halves.judged().doubled == 0
    finally:
        halves.lives.bury()


def test_the_halves_say_what_to_type_next(tmp_path, simulator, bulkgrok):
    api = simulator("--deferred-latency=0.1")
    write(tmp_path / "in.jsonl", deferred(6))
    write(tmp_path / "direct.jsonl", [{"prompt": "now"}])
    refused = bulkgrok("submit", tmp_path / "direct.jsonl", "--base-url", api.base_url)
    assert refused.returncode == 2
    assert "--mode deferred" in refused.stderr
    assert api.sums()["posts"] == 0
    sent = bulkgrok("submit", tmp_path / "in.jsonl", "--base-url", api.base_url, "--max-outstanding", 4)
    assert sent.returncode == 4
    assert "bulkgrok collect" in sent.stderr
    got = bulkgrok("collect", tmp_path / "in.bulkgrok", "--poll-interval", "0.1", "--json")
    assert got.returncode == 3
    assert "bulkgrok submit" in got.stderr
    assert json.loads(got.stdout)["pending"] == 2
    sent = bulkgrok("submit", tmp_path / "in.jsonl", "--base-url", api.base_url)
    assert sent.returncode == 0
    assert f"bulkgrok collect {tmp_path / 'in.bulkgrok'}" in sent.stderr
    assert bulkgrok("collect", tmp_path / "in.jsonl", "--model", "grok-4.5").returncode == 2
    assert bulkgrok("collect", tmp_path / "in.jsonl").returncode == 0
