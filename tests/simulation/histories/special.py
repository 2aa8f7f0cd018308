"""Scenarios that ask for one thing: days with one long bad spell, and purses that are too tight.

Law: pure, like `scenario`.
"""

from __future__ import annotations

import random

from bulkgrok.simulator.settings import SimulatorSettings
from histories.api import Spell
from histories.scenario import HOUR, Crash, Plan, Scenario


def long_day(seed: int) -> Scenario:
    """Return a day or two of deferred work with a storm of 429s of 6 h, or an outage of 18 h, somewhere in it.

    What is accepted can be fetched in time, so nothing may expire.
    """
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


def tight_purse(seed: int) -> Scenario:
    """Return videos at random prices that cost more than may be spent or be at risk, with doubts and crashes."""
    chance = random.Random(f"a tight purse {seed}")
    rows = tuple(
        {"kind": "video", "prompt": f"row {number} says x", "duration": chance.randint(1, 10)} for number in range(30)
    )
    total_usd = sum(0.05 * int(row["duration"]) for row in rows)
    of_what = chance.choice(("budget", "max_at_risk", "both"))
    values = {"seed": seed, "video_latency": chance.choice((5.0, 600.0)), "media_size": 100}
    for fault in ("drop_after", "no_id", "failed", "error_500"):
        values[fault] = chance.choice((0.0, 0.15))
    return Scenario(
        seed=seed,
        rows=rows,
        output="out.jsonl",
        flags={"concurrency": chance.choice((1, 4)), "max_outage": 40 * HOUR},
        settings=SimulatorSettings().merged(values | {"faults_on": "post", "error_accepted": 0.5}),
        weather=(),
        plans=tuple(
            Plan(crash=Crash(point="post.replied", nth=chance.randint(1, 20), power=True) if crashes else None)
            for crashes in (chance.random() < 0.5, chance.random() < 0.3, False)
        ),
        budget=None if of_what == "max_at_risk" else total_usd * chance.uniform(0.2, 0.6),
        max_at_risk=None if of_what == "budget" else total_usd * chance.uniform(0.1, 0.3),
    )
