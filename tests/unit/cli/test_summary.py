"""The end of a run in words."""

import json

import pytest

from bulkgrok.cli.run import draining
from bulkgrok.cli.summary import after_failures, summary_text
from bulkgrok.core.model import Progress
from bulkgrok.core.part import Part
from bulkgrok.core.report import Limits, Report


def report(**changes):
    usual = {
        "run_id": "/d/in.results.jsonl", "rows": 100, "succeeded": 97, "failed": 3, "pending": 0, "outstanding": 0,
        "failed_by_code": {"rejected": 2, "moderated": 1}, "in_doubt": 0, "lost": 0, "cost_usd": 0.25,
        "tokens": {"prompt": 1200, "completion": 34, "reasoning": 0}, "output": "/d/in.results.jsonl",
        "errors": "/d/in.errors.jsonl", "run_dir": "/d/in.bulkgrok", "duration_s": 10.0, "exit_code": 3,
    }  # fmt: skip
    return Report(**usual | changes)


def test_the_summary_tells_rows_failures_by_code_tokens_dollars_pace_and_places():
    shown = summary_text(report(), requests=105)
    assert shown.splitlines()[0] == "Finished with failures: 100 of 100 rows in 10.0 s, 105 requests, 10.5/s"
    for part in (
        "3 (2 rejected, 1 moderated)",
        "1,200 prompt, 34 completion",
        "$0.2500",
        "/d/in.results.jsonl",
        "/d/in.errors.jsonl",
        "/d/in.bulkgrok",
    ):
        assert part in shown


def test_limits_on_money_are_shown_where_there_are_some():
    limits = Limits(budget_usd=5.0, max_at_risk_usd=0.5, taken_usd=4.9, at_risk_usd=0.04)
    shown = summary_text(report(exit_code=4, limits=limits), requests=1)
    assert shown.startswith("Stopped at a limit: ")
    assert "budget     $4.90 of $5.00 spent or on its way, at most" in shown
    assert "at risk    $0.0400 of $0.5000 on its way or in doubt, at most" in shown
    alone = Limits(budget_usd=None, max_at_risk_usd=0.5, taken_usd=4.9, at_risk_usd=0.04)
    assert "budget" not in summary_text(report(limits=alone), requests=1)
    assert "at risk" not in summary_text(report(), requests=1)
    assert "limits" not in report(limits=limits).as_json()


def test_what_is_nought_is_left_out():
    shown = summary_text(report(failed=0, succeeded=100, failed_by_code={}, exit_code=0), requests=0)
    assert shown.startswith("Finished: 100 of 100 rows in 10.0 s\n")
    for word in ("failed", "pending", "outstanding", "in doubt", "lost"):
        assert word not in shown


def test_an_interrupted_run_tells_what_waits():
    shown = summary_text(
        report(rows=None, pending=None, succeeded=5, failed=0, outstanding=1200, in_doubt=1, lost=2, exit_code=130),
        requests=9,
    )
    assert shown.startswith("Interrupted: 5 rows in")
    assert "1,200 accepted by the API" in shown
    assert "1 request sent without a usable reply" in shown
    assert "2 answers handed out" in shown


def test_a_run_that_leaves_requests_behind_tells_their_deadline():
    waiting = report(outstanding=2, exit_code=130)
    assert "deadline  " in summary_text(waiting, requests=1, deadline_at=4e9).replace("deadline     ", "deadline  ")
    assert "deadline" not in summary_text(report(), requests=1, deadline_at=4e9)


def test_what_was_submitted_counts_as_that_and_not_as_done():
    sent = report(succeeded=0, failed=1, outstanding=99, exit_code=0)
    assert summary_text(sent, requests=100, part=Part.SUBMIT).startswith("Submitted with failures: 100 of 100 rows")
    assert summary_text(sent, requests=9, part=Part.COLLECT).startswith("Collected with failures: 1 of 100 rows")


def test_failed_rows_are_tried_again_only_where_that_can_help(tmp_path):
    errors = tmp_path / "errors.jsonl"
    errors.write_text('{"row": 4, "error": {"code": "invalid_row", "message": "no\\u001b[2J", "line": 9}}\n', "ascii")
    told = after_failures(
        report(failed_by_code={"invalid_row": 1, "moderated": 1}, errors=str(errors)),
        source="in.jsonl",
        again="X",
        template=False,
    )
    assert told[0] == "first bad row: in.jsonl, line 9: no\\x1b[2J"
    assert told[1].startswith("next: put the bad rows")
    assert len(told) == 2
    assert after_failures(report(), source="in.jsonl", again="X", template=False) == [
        "next: X   (tries the failed rows again)"
    ]
    [line] = after_failures(report(failed_by_code={"moderated": 3}), source="in.jsonl", again="X", template=False)
    assert "X" not in line
    new = report(succeeded=0, failed_by_code={"invalid_row": 1})
    assert "--prompt" in after_failures(new, source="in.jsonl", again="X", template=False)[-1]
    assert "--prompt" not in after_failures(new, source="in.jsonl", again="X", template=True)[-1]


@pytest.mark.parametrize(("why", "helps"), [("it has question; --prompt makes one", True), ("not JSON", False)])
def test_a_template_is_proposed_only_for_rows_that_it_can_make_something_of(tmp_path, why, helps):
    errors = tmp_path / "errors.jsonl"
    errors.write_text(json.dumps({"row": 0, "error": {"code": "invalid_row", "message": why}}) + "\n", "ascii")
    new = report(succeeded=0, failed_by_code={"invalid_row": 1}, errors=str(errors))
    assert ("'{{ column }}'" in after_failures(new, source="in.jsonl", again="X", template=False)[-1]) is helps


@pytest.mark.parametrize("rubbish", [b"\xff", b"[]\n", b"{}\n", b'{"error": {"code": "invalid_row"}}\n', b"[" * 99_999])
def test_an_errors_file_of_rubbish_spoils_no_summary(tmp_path, rubbish):
    errors = tmp_path / "errors.jsonl"
    errors.write_bytes(rubbish)
    told = after_failures(
        report(failed_by_code={"invalid_row": 1}, errors=str(errors)), source="in.jsonl", again="X", template=False
    )
    assert len(told) == 1


def test_paths_with_escapes_reach_no_terminal():
    assert "\x1b" not in summary_text(report(output="/d/\x1b[2J.jsonl"), requests=1)


def test_a_drain_says_what_it_waits_for_and_what_a_second_signal_does():
    told = draining(Progress(in_flight=3, outstanding=40, downloads=1, next_deadline_at=4e9))
    for part in (
        "nothing new is sent",
        "3 requests in flight",
        "1 download",
        "40 accepted requests",
        "until 20",
        "Once more",
    ):
        assert part in told
    assert draining(Progress()).startswith("nothing new is sent. ")
