"""A budget is the run's, not the process's: kills, faults and resumes add nothing to it.

BULKGROK_KILLS sets the number of kills, BULKGROK_SEED the seed.
"""

import json
import os
import random
import signal
import time

from harness.reconcile import reconcile
from harness.rows import mixed, write

ROWS = 60
KILLS_A_BUDGET = int(os.environ.get("BULKGROK_KILLS", "4")) // 2
FAULTS = ("--drop-after=0.05", "--no-id=0.03", "--error-502=0.05", "--error-accepted=0.5", "--failed-retryable=0.05")


def test_no_more_is_billed_than_the_budget_however_often_the_run_is_killed(tmp_path, simulator, bulkgrok):
    seed = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
    chance = random.Random(seed)
    api = simulator("--latency=0.02", "--deferred-latency=0.2", "--video-latency=0.3", "--media-size=3000", *FAULTS)
    source = tmp_path / "in.jsonl"
    write(source, mixed(ROWS))
    flags = ("--concurrency", 6, "--poll-interval", "0.1", "--param", "max_completion_tokens=20000")
    command = ("run", source, "--base-url", api.base_url, "--progress", "none", *flags)
    kills = 0
    for budget in (0.12, 0.25):
        limits = ("--budget", budget, "--max-at-risk", budget)
        for _ in range(KILLS_A_BUDGET):
            process = bulkgrok.start(*command, *limits)
            time.sleep(chance.uniform(0.5, 1.5))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
        done = bulkgrok(*command, *limits, timeout=120)
        assert done.returncode == 4, (seed, done)
        billed, audit = api.sums()["usd"], json.loads(bulkgrok("audit", source, "--json").stdout)
        assert billed <= sum(audit["max_usd"].values()) + audit["cost_usd"], seed
        assert billed <= budget, seed
        assert audit["unexplained"] == [], seed
    done = bulkgrok(*command, timeout=120)
    assert done.returncode in {0, 3}, (seed, done)
    left = reconcile(
        source,
        output=tmp_path / "in.results.jsonl",
        errors=tmp_path / "in.errors.jsonl",
        audit=json.loads(bulkgrok("audit", source, "--json").stdout),
        table=bulkgrok("audit", source, "--csv").stdout,
        ledger=api.ledger(),
        param={"max_completion_tokens": 20_000},
    )
    print(f"seed={seed} kills={kills} {left}")
    assert (left.requests, left.ticks, left.wrong) == (0, 0, []), seed
