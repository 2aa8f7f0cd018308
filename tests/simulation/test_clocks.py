"""The machine's clock may be wrong, jump or stand still: deadlines are the server's."""

import pytest
from histories.history import play
from histories.scenario import HOUR, Crash, Disturbance, Plan, Scenario

from bulkgrok.simulator.settings import SimulatorSettings


@pytest.mark.parametrize("wrong_s", [-24 * HOUR, -2 * HOUR, 2 * HOUR, 24 * HOUR])
@pytest.mark.parametrize("what", ["clock", "suspend"])
def test_nothing_expires_when_a_run_is_resumed_by_a_clock_that_jumped_or_slept(wrong_s, what):
    if what == "suspend" and not 0 < wrong_s < 24 * HOUR:
        wrong_s = HOUR
    scenario = Scenario(
        seed=0,
        rows=tuple({"prompt": f"row {number} says x", "deferred": True} for number in range(6)),
        output="out.jsonl",
        flags={"concurrency": 2},
        settings=SimulatorSettings().merged({"deferred_latency": 600.0}),
        weather=(),
        plans=(
            Plan(
                crash=Crash(after_s=60.0),
                disturbances=(Disturbance(after_s=0.001, what=what, size_s=wrong_s),),
            ),
            Plan(crash=Crash(after_s=60.0)),
        ),
    )
    verdict = play(0, scenario=scenario)
    assert (verdict.violations, verdict.expired, verdict.kills) == ([], 0, 2)
