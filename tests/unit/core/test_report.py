"""The summary of a run as its caller's own: copied, compared, handed to another process."""

import copy
import pickle
from dataclasses import asdict, replace

import pytest

import bulkgrok
from bulkgrok.core.report import Limits


@pytest.fixture
def report():
    return bulkgrok.Report(
        run_id="r", rows=None, succeeded=1, failed=0, pending=None, outstanding=0, failed_by_code={"failed": 0},
        in_doubt=0, lost=0, cost_usd=0.5, tokens={}, output="o", errors="e", run_dir="d", duration_s=2.5, exit_code=0,
        limits=Limits(budget_usd=1.0, max_at_risk_usd=None, taken_usd=0.5, at_risk_usd=0.0),
    )  # fmt: skip


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_report_goes_to_another_process_and_is_equal_there(report, protocol):
    assert pickle.loads(pickle.dumps(report, protocol)) == report


def test_a_report_can_be_copied_and_taken_apart(report):
    assert copy.copy(report) == copy.deepcopy(report) == replace(report) == report
    assert asdict(report)["limits"]["taken_usd"] == 0.5


def test_an_error_that_ended_a_run_goes_with_its_report(report):
    stopped = replace(report, stopped=bulkgrok.BulkgrokError("out of reach", hint="run it again"))
    found = pickle.loads(pickle.dumps(stopped)).stopped
    assert (type(found), found.message, found.hint) == (bulkgrok.BulkgrokError, "out of reach", "run it again")
