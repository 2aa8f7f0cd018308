"""Every fault of the simulator at once: each row comes once, and the ledger explains the simulator's bill."""

import json
import random

from harness.reconcile import reconcile

FAULTS = {
    "drop-before": 0.03, "error-500": 0.02, "error-502": 0.02, "error-503": 0.03, "error-529": 0.02, "error-520": 0.01,
    "error-408": 0.01, "error-429": 0.02, "ok-error": 0.03, "error-accepted": 0.5, "drop-after": 0.03, "cut-body": 0.03,
    "malformed": 0.02, "no-id": 0.02, "stream-break": 0.05, "stream-error": 0.05, "moderated": 0.05, "failed": 0.03,
    "failed-retryable": 0.05, "no-video": 0.03, "media-error": 0.1, "media-drop": 0.1, "media-cut": 0.1,
}  # fmt: skip
SHAPES = {
    "error-shape": "mixed", "video-shape": "mixed", "pending-shape": "mixed", "submit-shape": "mixed",
    "video-error-form": "string", "failed-form": "200-error", "retry-after": "off",
}  # fmt: skip


def rows(count, chance):
    for row in range(count):
        yield chance.choice(
            [
                {"prompt": f"question {row}"},
                {"prompt": f"streamed {row}", "stream": True},
                {"prompt": f"later {row}", "deferred": True},
                {"kind": "video", "prompt": f"clip {row}", "duration": 1},
                {"prompt": f"[[refuse]] {row}"},
            ]
        )


def test_every_fault_at_once_costs_no_row_and_leaves_no_bill_unexplained(tmp_path, simulator, bulkgrok, lines):
    flags = [f"--{name}={value}" for name, value in {**FAULTS, **SHAPES}.items()]
    api = simulator("--seed=7", "--deferred-latency=0.2", "--video-latency=0.2", "--media-size=3000", *flags)
    source, count = tmp_path / "in.jsonl", 150
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(count, random.Random(7))))
    command = (
        "run", source, "--base-url", api.base_url, "--concurrency", 16, "--poll-interval", "0.2", "--progress", "none",
    )  # fmt: skip
    for more in ((), ("--retry-failed",)):
        done = bulkgrok(*command, *more, timeout=300)
        assert done.returncode in {0, 3}, done.stderr
        found = lines(tmp_path / "in.results.jsonl") + lines(tmp_path / "in.errors.jsonl")
        assert sorted(line["row"] for line in found) == list(range(count))
        for line in found:
            for asset in line["bulkgrok"]["assets"]:
                assert (tmp_path / asset["path"]).stat().st_size == asset["bytes"]
        ledger, audit = api.ledger(), json.loads(bulkgrok("audit", source, "--json").stdout)
        files = {"output": tmp_path / "in.results.jsonl", "errors": tmp_path / "in.errors.jsonl", "ledger": ledger}
        files["table"] = bulkgrok("audit", source, "--csv").stdout
        left = reconcile(source, audit=audit, **files)
        print(left)
        assert (left.requests, left.ticks, left.wrong) == (0, 0, [])
        without = "".join(line for line in files["table"].splitlines(True) if not line.startswith("in_doubt"))
        assert reconcile(source, audit=audit, **files | {"table": without}).requests == left.doubted > 0
        assert reconcile(source, audit=audit | {"cost_usd": audit["cost_usd"] + 1e-6}, **files).ticks == 10_000
        assert ledger["max_in_flight"] <= 16
        assert ledger["deliveries_max"] <= 1
        assert ledger["media_with_credentials"] == 0
