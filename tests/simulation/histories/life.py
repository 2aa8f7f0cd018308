"""One process of a run: born on a disk as it was left, dead at a planned moment or at its end.

Law: from the moment of death nothing of it reaches the world, and of the disk only the picture taken then remains.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bulkgrok.checkpoint import Committer
from bulkgrok.config import RunConfig
from bulkgrok.core import failpoints
from bulkgrok.core.errors import BulkgrokError, RunLocked
from bulkgrok.core.money import TICKS, ticks
from bulkgrok.core.ports import Store, Transport
from bulkgrok.core.report import Report
from bulkgrok.engine import Engine
from bulkgrok.engine.surroundings import Surroundings
from histories.api import Api, Link
from histories.bucket import FlushedBucket
from histories.disk import Disk, Picture
from histories.scenario import BUCKET, Crash, Disturbance, Plan

_STATUS_S: Final = 3_600.0


class WorldClock:
    """The machine's clocks: the wall clock may be wrong and jump, the monotonic one stands still while it sleeps."""

    def __init__(self, began_at: float) -> None:
        self._began_at = began_at
        self.slept_s = 0.0
        self.wrong_s = 0.0
        self.sleeps: list[tuple[float, float]] = []
        """(from, to) in true seconds."""

    def world(self) -> float:
        """Return true seconds since the beginning."""
        return asyncio.get_running_loop().time() + self.slept_s

    def sleep(self, for_s: float) -> None:
        """Suspend the machine."""
        self.sleeps.append((self.world(), self.world() + for_s))
        self.slept_s += for_s

    def wall(self) -> float:
        """Return UNIX seconds, as the machine has them."""
        return self._began_at + self.world() + self.wrong_s

    def monotonic(self) -> float:
        """Return the loop's seconds."""
        return asyncio.get_running_loop().time()


async def inline(function: Callable[..., object], /, *args: object) -> object:
    """Run what would be run on a thread where it is called."""
    await asyncio.sleep(0)
    return function(*args)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1_000.0)


@dataclass(slots=True, kw_only=True)
class Death:
    """How a life ended."""

    report: Report | None = None
    error: BaseException | None = None
    picture: Picture | None = None
    """Of the disk, where it crashed."""
    at: str = ""
    """The point it crashed at, or "moment"."""
    posts_in_flight: int = 0
    gets_in_flight: int = 0


class Life:
    """One life.

    Args:
        config: What is run.
        plan: What happens to it.
        api: The world.
        disk: What it stands on.
        clock: Its clocks.
        chance: Jitter, and what a power cut leaves.
        events: Told what the run tells.
        tick_s: How often it looks up.
        vanish: Ends what the checkpoint's store holds outside of this process, where it holds anything there.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        *,
        api: Api,
        disk: Disk,
        clock: WorldClock,
        chance: random.Random,
        events: Callable[..., None],
        tick_s: float,
        vanish: Callable[[Store], None] | None = None,
    ) -> None:
        self._vanish_store = vanish
        self._stores: list[Store] = []
        self._config = replace(config, retry_failed=plan.retry_failed)
        self._plan = plan
        self._api = api
        self._disk = disk
        self._clock = clock
        self._chance = chance
        self._events = events
        self._tick_s = tick_s
        self._bucket = FlushedBucket(disk.root / BUCKET)
        self.link: Link = api.link()
        self.links = [self.link]
        self._others: list[asyncio.Task[None]] = []
        self.reached: Counter[str] = Counter()
        self.second_runners = 0
        self.problems: list[str] = []
        self._death: asyncio.Future[Death] | None = None
        self._engine: Engine | None = None

    def reach(self, point: str) -> None:
        """Note a moment worth dying in, and die in it if that is the plan."""
        if self._death is None or self._death.done():
            return
        self.reached[point] += 1
        crash = self._plan.crash
        if crash is not None and crash.point == point and crash.nth == self.reached[point]:
            self._die(crash, point)

    def _die(self, crash: Crash, at: str) -> None:
        assert self._death is not None
        picture = self._disk.after_power_cut() if crash.power else self._disk.after_kill()
        death = Death(
            picture=picture,
            at=at,
            posts_in_flight=self.link.posts_in_flight,
            gets_in_flight=self.link.gets_in_flight,
        )
        for link in self.links:
            link.cut()
        if self._vanish_store is not None:
            for store in self._stores:
                self._vanish_store(store)
        self._death.set_result(death)

    async def live(self) -> Death:
        """Run to the end of this life; afterwards nothing of it is left but its death."""
        loop = asyncio.get_running_loop()
        self._death = loop.create_future()
        failpoints.install(self.reach)
        self._disk.trouble = self._plan.disk_trouble()
        running = asyncio.ensure_future(self._run(self.link, self._config))
        happening = asyncio.ensure_future(self._happen())
        whole = asyncio.ensure_future(self._to_the_end(running, happening))
        try:
            await asyncio.wait({whole, self._death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failpoints.install(None)
            self._disk.trouble = None
        if self._death.done():
            await self._vanish([running, happening, *self._others])
            return self._death.result()
        self._death.set_result(whole.result())
        return whole.result()

    async def _to_the_end(self, running: asyncio.Future[Report], happening: asyncio.Future[None]) -> Death:
        """Wait until this run, and a second one that took its place, came to their end."""
        await asyncio.wait({running})
        happening.cancel()
        await asyncio.gather(happening, return_exceptions=True)
        await asyncio.gather(*self._others)
        error = running.exception()
        return Death(error=error) if error is not None else Death(report=running.result())

    async def _vanish(self, roots: list[asyncio.Future[Any]]) -> None:
        """End every task of a process that died, first those that the others hang on: each lets go of its files."""
        here = asyncio.current_task()
        await _end(roots)
        for _ in range(50):
            left = [task for task in asyncio.all_tasks() if task is not here]
            if not left:
                return
            await _end(sorted(left, key=lambda task: task.get_name()))
        self.problems.append("tasks of a dead process do not end")

    async def _run(self, link: Link, config: RunConfig) -> Report:
        async def connect(config: RunConfig, run_dir: Path, stack: AsyncExitStack) -> Transport:
            del config, run_dir, stack
            return link

        def committer(store: Store) -> Committer:
            self._stores.append(store)
            return Committer(store, inline=True, ballast_bytes=0)

        engine = Engine(
            config,
            events=self._events,
            surroundings=Surroundings(
                clock=self._clock,
                jitter=self._chance.random,
                offload=inline,
                committer=committer,
                connect=connect,
                stores=lambda _: self._bucket,
                tick_s=self._tick_s,
                status_s=_STATUS_S,
            ),
            part=self._plan.part,
        )
        if link is self.link:
            self._engine = engine
        link.posting = lambda: self._hold_against_limits(engine)
        link.asking = self._hold_against_part
        return await engine.run()

    def _hold_against_part(self, path: str) -> None:
        if not self._plan.part.asks and not path.endswith("/api-key"):
            self.problems.append(f"a start that only submits asked for {path}")

    def _hold_against_limits(self, engine: Engine) -> None:
        """P4, to the tick: with what is about to be sent, all that the checkpoint counts is within the limits.

        Here every request costs at most what it is taken to cost at most, so nothing can go beyond.
        """
        assert engine.stages is not None
        if not self._plan.part.sends:
            self.problems.append("a start that only collects sent a request")
        store: Store = engine.stages.conductor._store
        money, config = store.money(), engine.config
        for limit, taken in (
            (config.budget, money.spent + money.on_its_way),
            (config.max_at_risk, money.at_risk),
        ):
            if limit is not None and taken > ticks(limit):
                self.problems.append(f"P4: a request left with {taken / TICKS} USD taken of {limit}")

    async def _happen(self) -> None:
        """Let happen what is planned, at its time."""
        began = self._clock.monotonic()
        crash = self._plan.crash
        planned: list[tuple[float, Disturbance | None]] = [(one.after_s, one) for one in self._plan.disturbances]
        if crash is not None and not crash.point:
            planned.append((crash.after_s, None))
        for after_s, what in sorted(planned, key=lambda found: found[0]):
            await asyncio.sleep(max(0.0, began + after_s - self._clock.monotonic()))
            if what is None:
                assert crash is not None
                if self._death is not None and not self._death.done():
                    self._die(crash, "moment")
                return
            await self._disturb(what)

    async def _disturb(self, what: Disturbance) -> None:
        engine = self._engine
        match what.what:
            case "second":
                self._others.append(asyncio.ensure_future(self._second_runner()))
            case "drain" if engine is not None:
                engine.drain(143)
            case "abort" if engine is not None:
                engine.drain(130)
                engine.abort()
            case "suspend":
                self._clock.sleep(what.size_s)
            case "clock":
                self._clock.wrong_s += what.size_s
            case _:
                pass

    async def _second_runner(self) -> None:
        """Start the same command once more: while the first is at work, it must be told off."""
        link = self._api.link()
        link.first = self.link
        self.links.append(link)
        self.second_runners += 1
        try:
            await self._run(link, self._config)
        except RunLocked:
            pass
        except BulkgrokError:
            pass  # the first one ended just then, and this one met what the first would have met
        except Exception as error:  # noqa: BLE001 - a defect, for the checker
            self.problems.append(f"a second runner ended with {error!r}")
