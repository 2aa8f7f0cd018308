"""A history: lives, one after the other, on one disk and in one world, until the run is done.

Law: what is planned happens first; afterwards lives go on undisturbed, and at last under fine weather, so that a run
that does not come to its end then never will.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import tempfile
import uuid
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bulkgrok.config import RunConfig
from bulkgrok.config.values import Secret
from bulkgrok.core.address import Address
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.part import Part
from bulkgrok.simulator.settings import SimulatorSettings
from bulkgrok.simulator.world import World
from histories.api import Api
from histories.checker import Witness, check, in_doubt_after_stop, overspent
from histories.database import Database
from histories.disk import Disk, watched
from histories.life import Death, Life, WorldClock
from histories.loop import ShuffledLoop
from histories.scenario import BUCKET, HOUR, Plan, Scenario, draw

KEY = "xai-simulation-canary"
BEGAN_AT = 1_790_000_000.0
_UNDISTURBED = 6
_CALM = 4


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a history came to."""

    seed: int
    violations: list[str] = field(default_factory=list)
    lives: int = 0
    power_cuts: int = 0
    kills: int = 0
    second_runners: int = 0
    virtual_s: float = 0.0
    requests: int = 0
    asked_at: list[float] = field(default_factory=list)
    """When requests were sent, in seconds from the beginning."""
    expired: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    """Exit codes of lives that came to an end."""
    reached: Counter[str] = field(default_factory=Counter)
    trace: str = ""
    """A digest of all that happened; equal for equal seeds."""


class History:
    """Plays one scenario.

    Args:
        scenario: What happens.
        root: An empty folder.
        database: Where the checkpoint is kept instead of on that disk.
    """

    def __init__(self, scenario: Scenario, root: Path, database: Database | None = None) -> None:
        self._database = database
        self._scenario = scenario
        self._root = root
        self._chance = random.Random(f"lives of {scenario.seed}")
        self._trace = hashlib.sha256()
        self._verdict = Verdict(seed=scenario.seed)
        self._life: Life | None = None
        self._now = lambda: BEGAN_AT
        self._witness = Witness(scenario=scenario, root=root, key=KEY, database=database)

    def play(self) -> Verdict:
        """Play it, check it, and return the verdict."""
        with asyncio.Runner(loop_factory=lambda: ShuffledLoop(self._chance)) as runner, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the dead close nothing and await nothing
            runner.get_loop().set_exception_handler(lambda _loop, _context: None)
            runner.run(self._play())
        self._verdict.trace = self._trace.hexdigest()
        return self._verdict

    async def _play(self) -> None:
        scenario, verdict = self._scenario, self._verdict
        clock = WorldClock(BEGAN_AT)
        world = World(scenario.settings)
        self._now = lambda: BEGAN_AT + clock.world()
        api = Api(world, now=clock.world, began_at=BEGAN_AT, weather=scenario.weather, chance=self._chance)
        source = self._root / "in.jsonl"
        source.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in scenario.rows))
        (self._root / BUCKET).mkdir()
        disk = Disk(self._root, self._chance, self._reach)
        with watched(disk):
            code = await self._live(api, disk, clock)
            self._witness.sleeps = clock.sleeps
            if code is None:
                verdict.violations.append(f"the run does not come to its end; its deaths: {self._witness.deaths}")
            else:
                # What a run has come to stays, whatever happens to the machine then.
                disk.restore(disk.after_power_cut(luck=0.0))
                verdict.violations += check(self._witness, api)
                await self._again(api, disk, clock, code)
        verdict.virtual_s = clock.world()
        verdict.requests, verdict.asked_at = api.asked, api.asked_at
        verdict.expired = len(self._witness.given_up)
        self._note("end", code, api.asked, clock.world())

    async def _live(self, api: Api, disk: Disk, clock: WorldClock) -> int | None:
        """Live until an end; return its exit code, None where there is none."""
        plans = [*self._scenario.plans, *[Plan()] * _UNDISTURBED, *[Plan()] * _CALM]
        calm_from = len(plans) - _CALM
        for number, plan in enumerate(plans):
            if number == calm_from:
                seed = self._scenario.settings.seed
                api.world.configure(SimulatorSettings().merged({"seed": seed}))
                api.weather = ()
            limited = number < len(self._scenario.plans)
            code = await self._one(api, disk, clock, plan, limited=limited)
            if code in {0, 3} and number + 1 >= len(self._scenario.plans) and plan.part is Part.WHOLE:
                return code
            if code == 7 and number >= len(self._scenario.plans):
                await asyncio.sleep(self._scenario.weather[-1].ends if self._scenario.weather else HOUR)
            await asyncio.sleep(plan.down_s)
        return None

    async def _again(self, api: Api, disk: Disk, clock: WorldClock, code: int) -> None:
        """Type the command of a finished run again: it sends nothing, says the same and leaves all as it was."""
        before = api.asked
        again = await self._one(api, disk, clock, Plan())
        if again != code or api.asked != before:
            self._verdict.violations.append(
                f"a finished run typed again: exit {again} after {code}, {api.asked - before} requests"
            )
        self._verdict.violations += check(self._witness, api)

    def _reach(self, point: str) -> None:
        if self._life is not None:
            self._life.reach(point)

    async def _one(self, api: Api, disk: Disk, clock: WorldClock, plan: Plan, *, limited: bool = False) -> int | None:
        """Live one life and return its exit code, None for a crash."""
        verdict = self._verdict
        self._life = life = Life(
            self._config(limited=limited),
            plan,
            api=api,
            disk=disk,
            clock=clock,
            chance=self._chance,
            events=self._event,
            tick_s=self._scenario.tick_s,
            vanish=None if self._database is None else self._database.vanish,
        )
        began = clock.world()
        death = await life.live()
        verdict.lives += 1
        verdict.second_runners += life.second_runners
        verdict.reached.update(life.reached)
        verdict.violations += life.problems
        code = self._code(death, plan)
        if code is not None:
            verdict.exits[code] += 1
        self._witness.lived(life, death, code, plan, began=began, ended=clock.world())
        self._note("death", verdict.lives, code, death.at, clock.world(), api.asked)
        aborted = any(one.what == "abort" for one in plan.disturbances)
        if code not in {None, 1, 2, 6, 8} and not aborted and (doubtful := in_doubt_after_stop(self._witness)):
            verdict.violations.append(f"I6: a run that ended in order (exit {code}) left {doubtful} requests in doubt")
        if limited:
            verdict.violations += overspent(self._witness, api)
        if death.picture is not None:
            assert plan.crash is not None
            verdict.power_cuts += plan.crash.power
            verdict.kills += not plan.crash.power
            disk.restore(death.picture)
        return code

    def _code(self, death: Death, plan: Plan) -> int | None:
        if death.report is not None:
            return death.report.exit_code
        if death.error is None:
            return None
        if isinstance(death.error, BulkgrokError):
            unbegun = plan.part is Part.COLLECT and "nothing was ever submitted" in str(death.error)
            # At the start, a store that fails is a place that cannot be used.
            failing = plan.trouble is not None and self._scenario.output.startswith(BUCKET)
            if death.error.exit_code == 6 or (death.error.exit_code == 2 and not (unbegun or failing)):
                self._verdict.violations.append(f"refused: {death.error}")
            elif death.error.exit_code == 8 and plan.trouble is None:
                self._verdict.violations.append(f"exit 8 on a sound disk: {death.error}")
            return death.error.exit_code
        self._verdict.violations.append(f"a defect: {death.error!r}")
        return 1

    def _config(self, *, limited: bool) -> RunConfig:
        output: Path | Address = self._root / self._scenario.output
        run_dir = None
        if self._scenario.output.startswith(BUCKET):
            run_dir = self._root / BUCKET / f"{Path(self._scenario.output).stem}.bulkgrok"
            output = Address(scheme="s3", root="bucket", key=self._scenario.output.removeprefix(BUCKET).rstrip("/"))
        base = RunConfig(
            input=str(self._root / "in.jsonl"),
            api_key=Secret(KEY),
            output=output,
            run_dir=run_dir,
            output_is_folder=self._scenario.output.endswith("/"),
            output_format="jsonl" if self._scenario.output.endswith("lines/") else None,
            checkpoint=None if self._database is None else self._database.url,
            run_id=None if self._database is None else self._database.run_id,
        )
        limits = {"budget": self._scenario.budget, "max_at_risk": self._scenario.max_at_risk} if limited else {}
        return replace(base, **self._scenario.flags, **limits)

    def _event(self, name: str, /, **fields: Any) -> None:
        if name == "result.expired":
            self._witness.given_up.append((self._now(), fields["request_id"]))
        self._note(name, sorted(fields.items(), key=lambda field: field[0]), self._loop_time())

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()

    def _note(self, *what: object) -> None:
        self._trace.update(repr(what).encode())


def play(seed: int, *, scenario: Scenario | None = None, address: str = "") -> Verdict:
    """Play the history of a seed in a folder of its own. Nothing is really flushed, so any disk is fast enough.

    Args:
        seed: Which.
        scenario: What happens, if not what the seed draws.
        address: A database for the checkpoint, which is not part of what a power cut hits.
    """
    database = Database(address, f"history {seed} {uuid.uuid4()}") if address else None
    root = Path(tempfile.mkdtemp(prefix="bulkgrok-history-"))
    before = tempfile.tempdir
    inside = root / "disk"
    inside.mkdir()
    tempfile.tempdir = str(root)
    try:
        return History(scenario or draw(seed), inside.resolve(), database).play()
    finally:
        tempfile.tempdir = before
        shutil.rmtree(root, ignore_errors=True)
