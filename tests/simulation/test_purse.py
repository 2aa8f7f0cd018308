"""Runs that cost more than may be spent, or than may be at risk (P4 of docs/guarantees.md).

BULKGROK_PURSES=300 pytest -s tests/simulation/test_purse.py      # as many runs as are asked for
"""

import os

from histories.history import play
from histories.special import tight_purse

PURSES = int(os.environ.get("BULKGROK_PURSES", "12"))


def test_no_more_is_spent_or_at_risk_than_allowed_but_for_what_was_in_flight():
    stopped, requests = 0, 0
    for seed in range(PURSES):
        verdict = play(seed, scenario=tight_purse(seed))
        assert not verdict.violations, seed
        stopped += verdict.exits[4]
        requests += verdict.requests
    print(f"runs={PURSES} stopped_by_their_purse={stopped} requests={requests} violations=0")
    assert stopped >= PURSES // 2
