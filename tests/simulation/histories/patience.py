"""Scenarios of bad days: the API is well but for one long spell, and nobody dies.

Law: pure, like `scenario`. What is accepted can always be fetched in time, so nothing may expire.
"""

from __future__ import annotations

import random

from bulkgrok.simulator.settings import SimulatorSettings
from histories.api import Spell
from histories.scenario import HOUR, Scenario


def long_day(seed: int) -> Scenario:
    """Return a day or two of deferred work with a storm of 429s of 6 h, or an outage of 18 h, somewhere in it."""
    chance = random.Random(f"a long day {seed}")
    kind, lasts = chance.choice(
        (("storm", 6 * HOUR), ("unreachable", 18 * HOUR), ("dropping", 18 * HOUR), ("failing", 18 * HOUR))
    )
    begins = chance.uniform(0.0, 4 * HOUR)
    rows = tuple({"prompt": f"row {number} says x", "deferred": True} for number in range(12))
    median_s = chance.choice((60.0, HOUR, 3 * HOUR))
    values = {"seed": seed, "deferred_latency": median_s, "deferred_sigma": 0.3}
    if chance.random() < 0.5:
        values["rps"] = 1.0
    return Scenario(
        seed=seed,
        rows=rows,
        output="out.jsonl",
        flags={
            "concurrency": chance.choice((1, 4)),
            "max_outage": 40 * HOUR,
            "max_outstanding": chance.choice((None, 3)),
        },
        settings=SimulatorSettings().merged(values),
        weather=(Spell(kind, begins, begins + lasts),),
        plans=(),
        tick_s=60.0,
    )


def outage(kind: str, *, rows: int, rps: float, begins: float, lasts: float) -> Scenario:
    """Return a run of direct requests that an outage meets while it uses all of its rate."""
    return Scenario(
        seed=0,
        rows=tuple({"prompt": f"row {number} says x"} for number in range(rows)),
        output="out.jsonl",
        flags={"concurrency": 40, "max_outage": 40 * HOUR, "rps": rps},
        settings=SimulatorSettings().merged({"latency": 0.5}),
        weather=(Spell(kind, begins, begins + lasts),),
        plans=(),
        tick_s=5.0,
    )
