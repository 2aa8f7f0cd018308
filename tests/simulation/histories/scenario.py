"""What happens in a history, drawn from its seed: each seed switches some faults on and leaves the others out.

Law: pure; the same seed is the same scenario for ever on one version of this file. Times are seconds of the world.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Final

from bulkgrok.core.part import Part
from bulkgrok.simulator.settings import SimulatorSettings
from histories.api import Spell
from histories.disk import Trouble

HOUR: Final = 3_600.0

#: Moments worth dying in: those of the product, then those of the disk. A crash names one and how often it came before.
POINTS: Final = (
    "post.intended", "post.replied", "post.accepted", "poll.replied", "settle.redeemed", "store.before-commit",
    "store.after-commit", "recovery.doubted", "sink.written", "sink.durable", "sink.before_sync", "sink.synced",
    "sink.before_rename", "sink.renamed", "errors.before_plan", "errors.renamed", "errors.before_rename",
    "sqlite.write", "sqlite.before-flush", "sqlite.flushed", "file.write", "file.before-flush", "file.flushed",
    "folder.before-flush", "folder.flushed", "name.changes",
)  # fmt: skip

_EVERYWHERE: Final = (
    "post.intended", "post.replied", "store.before-commit", "store.after-commit", "sqlite.write",
    "sqlite.before-flush", "sqlite.flushed", "folder.flushed",
)  # fmt: skip
"""Points that nearly every life comes to."""

_BEFORE: Final = (
    "drop_before", "error_408", "error_429", "error_500", "error_502", "error_503", "error_504", "error_520",
    "error_529", "ok_error", "error_403",
)  # fmt: skip
_AFTER: Final = ("drop_after", "hang", "cut_body", "malformed", "slow", "no_id", "stream_break", "stream_error")
_FATE: Final = ("moderated", "failed", "failed_retryable", "no_video")
_MEDIA: Final = ("media_error", "media_drop", "media_cut")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """How a life ends before its time: at the n-th coming of a point, or at a moment, whichever is named."""

    point: str = ""
    nth: int = 1
    after_s: float = 0.0
    power: bool = False
    """Whether what was not flushed may be lost; else the process alone dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Something that happens to a living run."""

    after_s: float
    what: str
    """Second (another runner), drain, abort, suspend (the machine sleeps), clock (the wall clock jumps)."""
    size_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One life: what happens to it, and how long nothing runs after it."""

    crash: Crash | None = None
    disturbances: tuple[Disturbance, ...] = ()
    trouble: tuple[str, int, int] | None = None
    down_s: float = 1.0
    retry_failed: bool = False
    part: Part = Part.WHOLE
    """What it does of the run."""

    def disk_trouble(self) -> Trouble | None:
        """Return a fresh trouble."""
        return Trouble(*self.trouble) if self.trouble is not None else None


#: The folder that is reached as an object store.
BUCKET: Final = "bucket/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One history to be."""

    seed: int
    rows: tuple[dict[str, Any], ...]
    output: str
    flags: dict[str, Any]
    settings: SimulatorSettings
    weather: tuple[Spell, ...]
    plans: tuple[Plan, ...]
    """The first lives; those behind them are left alone."""
    tick_s: float = 20.0
    budget: float | None = None
    """USD for the planned lives; those behind them have no limit."""
    max_at_risk: float | None = None
    """USD, as above."""


def draw(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    chance = random.Random(seed)
    slow = chance.random() < 0.12
    rows = tuple(_rows(chance, slow=slow))
    settings = _settings(chance, slow=slow)
    weather = tuple(_weather(chance)) if chance.random() < 0.3 else ()
    halves = random.Random(f"halves of {seed}")
    scenario = Scenario(
        seed=seed,
        rows=rows,
        output=_output(seed, chance),
        flags=_flags(chance, slow=slow),
        settings=settings,
        weather=weather,
        plans=tuple(_plan(chance) for _ in range(chance.choice((0, 2, 4, 6, 8, 10, 12)))),
        tick_s=60.0 if slow else chance.choice((5.0, 20.0)),
        budget=chance.choice((0.002, 0.02, 0.5, 3.0)) if chance.random() < 0.2 else None,
        max_at_risk=chance.choice((0.05, 0.3, 1.0)) if chance.random() < 0.2 else None,
    )
    return _in_parts(scenario, halves) if halves.random() < 0.35 else scenario


def _output(seed: int, chance: random.Random) -> str:
    """Return where the output lies; what begins with the bucket's name is an object store."""
    drawn = chance.choice(("out.jsonl", "out.jsonl", "new/er/out.jsonl", "out.parquet", "parts/", "lines/"))
    stores = random.Random(f"stores of {seed}")
    if stores.random() < 0.2:
        return BUCKET + stores.choice(("parts/", "lines/", "out.jsonl", "out.parquet"))
    return drawn


def _in_parts(scenario: Scenario, chance: random.Random) -> Scenario:
    """Return the scenario with a part of the run for most of its lives; only deferred rows can be submitted."""
    parts = [Part.WHOLE, Part.COLLECT, Part.ROUND, Part.ROUND]
    if all(row.get("deferred", scenario.flags["mode"] == "deferred" or "kind" in row) for row in scenario.rows):
        parts += [Part.SUBMIT, Part.SUBMIT]
    return replace(scenario, plans=tuple(replace(plan, part=chance.choice(parts)) for plan in scenario.plans))


def _rows(chance: random.Random, *, slow: bool) -> list[dict[str, Any]]:
    count = chance.randint(2, 12 if slow else 40)
    kinds = chance.choices(("chat", "deferred", "stream", "video", "edit", "bad", "refused"), k=3)
    return [_row(chance, number, chance.choice(kinds)) for number in range(count)]


def _row(chance: random.Random, number: int, kind: str) -> dict[str, Any]:
    prompt = f"row {number} says {'x' * chance.choice((1, 10, 300))}"
    match kind:
        case "deferred":
            row: dict[str, Any] = {"prompt": prompt, "deferred": True}
        case "stream":
            row = {"messages": [{"role": "user", "content": prompt}], "stream": True}
        case "video":
            row = {"kind": "video", "prompt": prompt, "duration": chance.randint(1, 3)}
        case "edit":
            row = {"kind": "video", "prompt": prompt, "video": "https://example.com/in.mp4"}
        case "bad":
            row = {"nothing": number}
        case "refused":
            word = chance.choice(("[[refuse]]", "[[long]]", "[[fail]]"))
            row = {"prompt": f"{prompt} {word}", "deferred": chance.random() < 0.5}
        case _:
            row = {"prompt": prompt}
    if chance.random() < 0.3:
        row["custom_id"] = f"id-{number // 2}"
    return row


def _settings(chance: random.Random, *, slow: bool) -> SimulatorSettings:
    values: dict[str, Any] = {
        "seed": chance.getrandbits(30),
        "latency": chance.choice((0.0, 0.5, 5.0, 60.0)),
        "latency_sigma": chance.choice((0.0, 0.5)),
        "deferred_latency": chance.choice((600.0, 3 * HOUR, 12 * HOUR)) if slow else chance.choice((0.1, 3.0, 60.0)),
        "deferred_sigma": chance.choice((0.0, 0.5)),
        "video_latency": chance.choice((0.5, 20.0, 120.0)),
        "media_size": chance.choice((100, 5_000)),
        "media_ttl": chance.choice((30.0, 3_600.0)),
        "pending_shape": "mixed",
        "video_shape": chance.choice(("current", "mixed")),
        "submit_shape": "mixed",
        "error_shape": chance.choice(("documented", "mixed")),
        "failed_form": chance.choice(("400", "200-error", "mixed")),
        "retry_after": chance.choice(("on", "off", "mixed")),
        "cost_ticks": chance.random() < 0.8,
        "error_accepted": chance.choice((0.0, 0.5)),
        "faults_on": chance.choice(("both", "both", "post", "get")),
    }
    for names, most in ((_BEFORE, 0.35), (_AFTER, 0.35), (_FATE, 0.4), (_MEDIA, 0.4)):
        chosen = [name for name in names if chance.random() < 0.3]
        for name in chosen:
            values[name] = most * chance.random() / len(chosen)
    if chance.random() < 0.15:
        values["rps"] = chance.choice((1.0, 5.0))
    return SimulatorSettings().merged(values)


def _weather(chance: random.Random) -> list[Spell]:
    spells, at = [], 0.0
    for _ in range(chance.randint(1, 2)):
        kind = chance.choice(("unreachable", "dropping", "hanging", "failing", "storm"))
        longest = {"storm": 6.0, "hanging": 2.0}.get(kind, 30.0) * HOUR
        begins = at + chance.expovariate(1 / 20.0)
        lasts = min(longest, 2.0 ** chance.uniform(0.0, 17.0))
        spells.append(Spell(kind, begins, begins + lasts))
        at = begins + lasts
    return spells


def _flags(chance: random.Random, *, slow: bool) -> dict[str, Any]:
    flags: dict[str, Any] = {
        "concurrency": chance.choice((1, 2, 5, 16)),
        "mode": chance.choice(("direct", "deferred")),
        "max_outage": chance.choice((7_200.0, 40 * HOUR)),
        "max_attempts": chance.choice((2, 8)),
        "timeout": chance.choice((600.0, 3_600.0)),
        "on_ambiguous": chance.choice(("resubmit", "resubmit", "fail")),
        "on_lost": chance.choice(("resubmit", "resubmit", "fail")),
    }
    if slow:
        flags["poll_interval"] = 300.0
    if chance.random() < 0.2:
        flags["rps"] = chance.choice((0.5, 3.0, 20.0))
    if chance.random() < 0.2:
        flags["max_outstanding"] = chance.randint(1, 4)
    if chance.random() < 0.1:
        flags["download"] = False
    return flags


def _plan(chance: random.Random) -> Plan:
    crash = None
    if chance.random() < 0.95:
        power = chance.random() < 0.85
        if chance.random() < 0.85:
            nth = min(60, 1 + int(chance.expovariate(1 / chance.choice((1.0, 4.0, 20.0)))))
            crash = Crash(point=chance.choice(chance.choice((POINTS, _EVERYWHERE))), nth=nth, power=power)
        else:
            crash = Crash(after_s=chance.expovariate(1 / 10.0), power=power)
    disturbances = [
        Disturbance(after_s=chance.expovariate(1 / 5.0), what=what, size_s=_size(chance, what))
        for what in ("second", "drain", "abort", "suspend", "clock")
        if chance.random() < 0.1
    ]
    trouble = None
    if chance.random() < 0.15:
        trouble = (chance.choice(("full", "write", "sync")), chance.randint(1, 60), chance.choice((1, 5, 1_000)))
    down_s = chance.expovariate(1 / 5.0) if chance.random() < 0.93 else chance.uniform(1.0, 30.0) * HOUR
    return Plan(
        crash=crash,
        disturbances=tuple(sorted(disturbances, key=lambda found: found.after_s)),
        trouble=trouble,
        down_s=down_s,
        retry_failed=chance.random() < 0.08,
    )


def _size(chance: random.Random, what: str) -> float:
    if what == "suspend":
        return chance.choice((10.0, HOUR, 20 * HOUR))
    return chance.choice((-24.0, -1.0, 1.0, 24.0)) * HOUR if what == "clock" else 0.0
