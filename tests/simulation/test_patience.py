"""Long outages and storms: nothing expires that need not, and nobody is stormed (P5 and P9 of docs/guarantees.md).

BULKGROK_DAYS=1000 pytest -s tests/simulation/test_patience.py      # as many virtual days as are asked for
"""

import os
from bisect import bisect_left

import pytest
from histories.history import play
from histories.special import long_day, outage

DAYS = float(os.environ.get("BULKGROK_DAYS", "3"))
DAY_S = 86_400.0
RPS = 10.0


def test_nothing_expires_on_long_days_with_storms_and_outages():
    virtual_s, expired, seed = 0.0, 0, 0
    while virtual_s < DAYS * DAY_S:
        verdict = play(seed, scenario=long_day(seed))
        assert not verdict.violations, seed
        virtual_s += verdict.virtual_s
        expired += verdict.expired
        seed += 1
    print(f"virtual_days={virtual_s / DAY_S:.1f} histories={seed} expired={expired}")
    assert expired == 0


@pytest.mark.parametrize("kind", ["unreachable", "dropping", "failing"])
def test_an_outage_is_not_stormed_and_the_full_rate_is_back_within_a_minute_of_its_end(kind):
    rows, begins, lasts = 1_800, 30.0, 3_600.0
    verdict = play(0, scenario=outage(kind, rows=rows, rps=RPS, begins=begins, lasts=lasts))
    assert not verdict.violations
    asked, ends = sorted(verdict.asked_at), begins + lasts

    def between(first, last):
        return bisect_left(asked, last) - bisect_left(asked, first)

    during, back = between(begins + 5.0, ends), between(ends + 60.0, ends + 120.0)
    probes = lasts / 30.0
    print(
        f"{kind}: requests={len(asked)} useful={rows} during_outage={during} one_in_30_s={probes:.0f} "
        f"back_to={back / 60.0 / RPS:.0%}"
    )
    assert during <= probes + 10
    assert len(asked) <= 1.1 * rows + probes
    assert back >= 0.9 * RPS * 60.0
