"""The stages of one run, built and wired: the one place that knows every constructor."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from bulkgrok import kinds
from bulkgrok.config import RunConfig
from bulkgrok.core.model import AssetRef, Exchange, Fetched, Job, Progress, Record, Totals
from bulkgrok.core.money import Budget
from bulkgrok.core.part import Part
from bulkgrok.core.ports import Events, Transport
from bulkgrok.core.retry import Health, RowPolicy
from bulkgrok.dispatch.account import Account, Rejections
from bulkgrok.dispatch.assets import AssetDownloader
from bulkgrok.dispatch.deferred import Redeemer
from bulkgrok.dispatch.large import LargeReplies, Memory
from bulkgrok.dispatch.post import Poster
from bulkgrok.dispatch.settle import Settler
from bulkgrok.engine.conductor import Conductor, Known
from bulkgrok.engine.downloads import AT_ONCE, Downloads, fresh_refs
from bulkgrok.engine.lookup import last_covered
from bulkgrok.engine.opening import SCRATCH, OpenRun
from bulkgrok.engine.owning import OwnedTransport
from bulkgrok.engine.source import FileSource, NoSource, ObjectSource, RowsSource
from bulkgrok.engine.spending import budget_of
from bulkgrok.engine.surroundings import Surroundings
from bulkgrok.scheduler.door import Door
from bulkgrok.scheduler.limits import Limits
from bulkgrok.scheduler.polling import PollSchedule
from bulkgrok.scheduler.purse import Purse
from bulkgrok.scheduler.scheduler import Scheduler

_DRAIN_S: Final = 6 * 3600.0
#: The note of what a round learnt.
ROUND: Final = "round"


class Gate:
    """A transport that never has more than n requests to the API in flight, nor sends them faster than was allowed.

    Whoever asks for them: what the scheduler hands out evenly, a commit bunches together, and not all asks it.
    """

    def __init__(self, transport: Transport, *, concurrency: int, door: Door | None) -> None:
        self._transport = transport
        self._free = concurrency
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._door = door

    async def post(
        self, path: str, body: bytes, *, timeout_s: float | None, idle_s: float | None, keep: str = ""
    ) -> Exchange:
        """POST when there is room."""
        if self._free:
            self._free -= 1
        else:
            await self._turn()
        try:
            if self._door is not None:
                await self._door.depart()
            return await self._transport.post(path, body, timeout_s=timeout_s, idle_s=idle_s, keep=keep)
        finally:
            self._leave()

    async def get(self, path: str, *, keep: str = "") -> Exchange:
        """GET when there is room."""
        if self._free:
            self._free -= 1
        else:
            await self._turn()
        try:
            if self._door is not None:
                await self._door.depart()
            return await self._transport.get(path, keep=keep)
        finally:
            self._leave()

    async def _turn(self) -> None:
        """Wait until one that leaves gives its place."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given a place in the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    async def fetch(self, url: str, *, offset: int, etag: str | None, write: Callable[[bytes, int], None]) -> Fetched:
        """Download: not the API, so it needs no room."""
        return await self._transport.fetch(url, offset=offset, etag=etag, write=write)


@dataclass(slots=True, kw_only=True)
class Stages:
    """Everything that works on a run."""

    health: Health
    scheduler: Scheduler
    account: Account
    rejections: Rejections
    poster: Poster
    redeemer: Redeemer
    settler: Settler
    conductor: Conductor
    source: FileSource | ObjectSource | NoSource | RowsSource
    budget: Budget | None
    unsettled: Callable[[], int]
    """Redeemed rows that are not settled yet."""
    downloading: Callable[[], int]
    """Those of them that wait for files."""
    side_work: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)
    note_stopped_alike: bool = False


class Building:
    """Builds the stages of a run that is open and recovered.

    Args:
        opened: The run.
        config: What to do.
        policy: When a row is given up.
        surroundings: The outside.
        events: Told what happens, for the log.
        say: Told, in words, what a user should know at once.
        progress: Counters.
        stop: Called with what must stop the run.
        part: What is done of it.
    """

    def __init__(  # noqa: PLR0913 - the composition root
        self,
        opened: OpenRun,
        *,
        config: RunConfig,
        policy: RowPolicy,
        surroundings: Surroundings,
        events: Events,
        say: Callable[[str], None],
        progress: Progress,
        stop: Callable[[BaseException], None],
        part: Part = Part.WHOLE,
    ) -> None:
        self._opened = opened
        self._part = part
        self._config = config
        self._policy = policy
        self._outside = surroundings
        self._clock = surroundings.clock
        self._jitter = surroundings.jitter
        self._memory = Memory()
        self._large = LargeReplies(offload=surroundings.offload, memory=self._memory)
        self._events = events
        self._say = say
        self._progress = progress
        self._stop = stop
        self._conductor: Conductor | None = None
        self._downloads: Downloads | None = None
        self._unsettled = 0
        self._handed_in: Callable[[], int] = int

    async def build(self, stack: AsyncExitStack) -> Stages:
        """Return the stages, knowing what the checkpoint knows."""
        opened, config, committer = self._opened, self._config, self._opened.committer
        totals: Totals = await committer.call(opened.store.totals)
        connected = await self._outside.connect(config, opened.places.run_dir, stack)
        if (lease := opened.store.lease) is not None:
            connected = OwnedTransport(connected, lease=lease, over=lambda: committer.failed is not None)
        limits = Limits(rps=config.rps, rpm=config.rpm, tpm=config.tpm)
        transport = Gate(connected, concurrency=config.concurrency, door=limits.door())
        health = Health(max_outage_s=config.max_outage)
        budget = budget_of(config)
        scheduler = self._scheduler(health, limits, budget)
        if budget is not None:
            await committer.watch_money(scheduler.paid)
        account = Account(transport)
        begun = totals.succeeded or totals.accepted or totals.redeemed
        rejections = Rejections(
            checkpoint=committer,
            account=account,
            armed=not begun and not await committer.call(opened.store.recall, "stopped_alike"),
            progress=self._progress,
        )
        settler = self._settler()
        self._handed_in = lambda: settler.open
        if config.download:
            self._downloads = self._downloading(settler, transport)
        poster = self._poster(transport, settler, rejections, scheduler)
        redeemer = self._redeemer(transport, settler, account, health)
        self._conductor = conductor = await self._conducting(scheduler, rejections, budget)
        stages = Stages(
            health=health,
            scheduler=scheduler,
            account=account,
            rejections=rejections,
            poster=poster,
            redeemer=redeemer,
            settler=settler,
            conductor=conductor,
            source=opened.source,
            budget=budget,
            unsettled=lambda: self._unsettled + self._downloading_rows(),
            downloading=self._downloading_rows,
        )
        await self._resume(stages)
        return stages

    async def _resume(self, stages: Stages) -> None:
        """Poll what was accepted before, settle what was redeemed."""
        committer, store = self._opened.committer, self._opened.store
        await committer.call(store.keep_for, self._config.deferred_ttl)
        if self._part.sends:
            stages.side_work.append(stages.conductor.count)
        jobs = await committer.call(lambda: list(store.jobs()))
        if self._part is Part.ROUND:
            await self._recall_round(stages.scheduler, jobs)
        for job in jobs:
            # At once, and polls go first: what is ready is fetched before a POST can be refused and end the run.
            stages.scheduler.watch(job, delay_s=0.0)
        if self._downloads is not None:
            stages.side_work += [self._downloads.work] * AT_ONCE
        if self._part.asks:  # what is redeemed and not settled may need the API for its files: that is for others
            await self._settle_redeemed(stages)

    async def _settle_redeemed(self, stages: Stages) -> None:
        """Settle what was redeemed and not settled, and fetch files that are missing."""
        committer, store, downloads = self._opened.committer, self._opened.store, self._downloads
        redeemed = await committer.call(store.redeemed)
        self._unsettled = len(redeemed)

        async def settle() -> None:
            try:
                for row in redeemed:
                    await stages.settler.resume(row)
                    self._unsettled -= 1
                    stages.conductor.changed()
            except Exception as error:  # noqa: BLE001 - stop for it, or drain and tell if it is a defect
                self._stop(error)

        if redeemed:
            stages.side_work.append(settle)
        if downloads is not None:
            downloads.mending = True
            stages.side_work.append(downloads.mend)

    async def _recall_round(self, scheduler: Scheduler, jobs: list[Job]) -> None:
        """Take over what the last round knew: how long results take, and that none of these was ready then."""
        known = await self._opened.committer.call(self._opened.store.recall, ROUND)
        if not isinstance(known, dict):
            return
        scheduler.recall(known["latencies"])
        for job in jobs:
            job.pending_s = max(0.0, known["asked_at"] - job.submitted_at)

    def _settling(self) -> int:
        mending = self._downloads is not None and self._downloads.mending
        return self._handed_in() + self._unsettled + self._downloading_rows() + mending

    def _downloading_rows(self) -> int:
        return self._downloads.open if self._downloads is not None else 0

    def _again(self, row: int) -> None:
        if self._conductor is not None:
            self._conductor.again(row)

    def _settled(self) -> None:
        if self._conductor is not None:
            self._conductor.changed()

    def _scheduler(self, health: Health, limits: Limits, budget: Budget | None) -> Scheduler:
        config = self._config
        return Scheduler(
            concurrency=config.concurrency,
            max_outstanding=config.max_outstanding,
            drain_s=min(_DRAIN_S, config.deferred_ttl / 4),
            limits=limits,
            polling=PollSchedule(interval_s=config.poll_interval, asks_all=self._part is Part.ROUND),
            health=health,
            clock=self._clock,
            jitter=self._jitter,
            purse=Purse(budget, self._settled),
            part=self._part,
        )

    def _settler(self) -> Settler:
        return Settler(
            checkpoint=self._opened.committer,
            load=self._opened.store.record,
            kinds=kinds.KINDS,
            cost=self._opened.prices.cost_usd,
            policy=self._policy,
            memory=self._memory,
            offload=self._outside.offload,
            clock=self._clock,
            encode_json=orjson.dumps,
            events=self._events,
            progress=self._progress,
            again=self._again,
            hide=self._config.api_key.hide,
            download=self._download if self._config.download else None,
            settled=self._answer_settled,
        )

    def _answer_settled(self, error: BaseException | None) -> None:
        if error is not None:
            self._stop(error)
        self._settled()

    def _download(self, row: int) -> None:
        if self._downloads is not None:
            self._downloads.add(row)

    def _downloading(self, settler: Settler, transport: Transport) -> Downloads:
        places = self._opened.places

        async def fresh(record: Record) -> tuple[AssetRef, ...] | None:
            return await fresh_refs(transport, kinds.get(record.kind), record.request_id or "", jitter=self._jitter)

        downloader = AssetDownloader(
            transport=transport,
            offload=self._outside.offload,
            media_dir=places.media_dir,
            asset_base=self._opened.asset_base,
            fresh=fresh,
            events=self._events,
            sleep=asyncio.sleep,
            jitter=self._jitter,
            scratch=places.run_dir / SCRATCH / "media",
            stores=self._outside.stores,
        )
        return Downloads(
            checkpoint=self._opened.committer,
            store=self._opened.store,
            settler=settler,
            downloader=downloader,
            settled=self._settled,
            failed=self._stop,
            say=self._say,
        )

    def _poster(self, transport: Transport, settler: Settler, rejections: Rejections, scheduler: Scheduler) -> Poster:
        return Poster(
            transport=transport,
            checkpoint=self._opened.committer,
            kinds=kinds.KINDS,
            settler=settler,
            rejections=rejections,
            policy=self._policy,
            health=scheduler.health,
            large=self._large,
            clock=self._clock,
            jitter=self._jitter,
            events=self._events,
            progress=self._progress,
            timeout_s=self._config.timeout,
            deferred_ttl_s=self._config.deferred_ttl,
            refusal_usd=self._opened.prices.refusal,
            intended=scheduler.counted,
        )

    def _redeemer(self, transport: Transport, settler: Settler, account: Account, health: Health) -> Redeemer:
        unclear_s = self._opened.store.unclear_s
        return Redeemer(
            transport=transport,
            checkpoint=self._opened.committer,
            store=self._opened.store,
            kinds=kinds.KINDS,
            says_pending=kinds.pending,
            settler=settler,
            account=account,
            policy=self._policy,
            health=health,
            large=self._large,
            clock=self._clock,
            jitter=self._jitter,
            events=self._events,
            progress=self._progress,
            again=self._again,
            unclear_until=self._clock.monotonic() + unclear_s if unclear_s else None,
        )

    async def _conducting(self, scheduler: Scheduler, rejections: Rejections, budget: Budget | None) -> Conductor:
        opened, committer = self._opened, self._opened.committer
        rows = await committer.call(opened.store.recall, "rows")
        if not self._part.sends:
            rows = await committer.call(last_covered, opened.store)
        known = Known(
            taken=await committer.call(opened.store.taken),
            waiting=await committer.call(opened.store.waiting),
            rebound=opened.rebound,
            rows=rows if isinstance(rows, int) else None,
        )
        return Conductor(
            source=opened.source,
            encoder=opened.encoder,
            scheduler=scheduler,
            checkpoint=committer,
            store=opened.store,
            rejections=rejections,
            known=known,
            settling=self._settling,
            progress=self._progress,
            events=self._events,
            say=self._say,
            prefetch=max(64, 2 * self._config.concurrency),
            limit=self._config.limit,
            budget=budget,
            part=self._part,
        )
