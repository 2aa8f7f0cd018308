"""Fetches the files of redeemed rows, a few at a time, before the rows count as succeeded.

Law: the answer is durable already, so a download may be cut off at any moment and begins again at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bulkgrok.core.model import Answer, AssetRef, Code, Reply, RequestId, Settled, Unusable
from bulkgrok.core.ports import Checkpoint, Kind, Store, Transport
from bulkgrok.core.retry import wait_s
from bulkgrok.core.verdict import Answered, JobRefused, Missing, Stop, judge_get
from bulkgrok.dispatch.account import stopped
from bulkgrok.dispatch.assets import AssetDownloader, Downloaded
from bulkgrok.dispatch.settle import Settler

AT_ONCE: Final = 4
_FRESH_TRIES: Final = 20
_BATCH: Final = 1_000
_NOTE: Final = "has_assets"


class Downloads:
    """A queue of rows whose files are missing, and the workers that empty it.

    Args:
        checkpoint: Runs calls of the store in order with its commits.
        store: Read, after a restart, for files that should be there.
        settler: Knows the rows and settles them.
        downloader: Fetches files.
        settled: Called after each row.
        failed: Called with what must stop the run (the disk refused).
        say: Told, in words, of a file that is missing and cannot be had again.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        checkpoint: Checkpoint,
        store: Store,
        settler: Settler,
        downloader: AssetDownloader,
        settled: Callable[[], None],
        failed: Callable[[BaseException], None],
        say: Callable[[str], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._store = store
        self._noted = False
        self._settler = settler
        self._downloader = downloader
        self._settled = settled
        self._say = say
        self._failed = failed
        self._rows: asyncio.Queue[int] = asyncio.Queue()
        self.open = 0
        """Rows that wait for files."""
        self.mending = False
        """Whether missing files are looked for."""

    def add(self, row: int) -> None:
        """Queue a redeemed row."""
        self.open += 1
        self._rows.put_nowait(row)

    async def work(self) -> None:
        """Fetch and settle rows until cancelled."""
        while True:
            row = await self._rows.get()
            try:
                await self._fetch(row)
            except Exception as error:  # noqa: BLE001 - stop for it, or drain and tell if it is a defect
                self._failed(error)
                return
            finally:
                self.open -= 1
                self._settled()

    async def mend(self) -> None:
        """Download files of succeeded rows again that are no longer there."""
        try:
            after = 0
            if not await self._checkpoint.call(self._store.recall, _NOTE):
                return
            while batch := await self._checkpoint.call(self._store.outbox, after, _BATCH):
                after = batch[-1].seq
                with_files = [settled for settled in batch if settled.assets]
                lacking = iter(await self._downloader.lacking([a for settled in with_files for a in settled.assets]))
                for settled in with_files:
                    lacks = [next(lacking) for _ in settled.assets]
                    if any(lacks):
                        await self._mend(settled)
        except Exception as error:  # noqa: BLE001 - stop for it, or drain and tell if it is a defect
            self._failed(error)
        finally:
            self.mending = False
            self._settled()

    async def _mend(self, settled: Settled) -> None:
        record, answer = await self._settler.record(settled.row)
        result = await self._downloader.fetch_all(record, _files(answer), known=settled.assets)
        if not isinstance(result, Downloaded):
            self._say(f"note: a file of row {settled.row} is missing and cannot be downloaded again: {result.reason}")

    async def _fetch(self, row: int) -> None:
        if not self._noted:
            await self._checkpoint.call(self._store.note, _NOTE, True)
            self._noted = True
        record, answer = await self._settler.record(row)
        result = await self._downloader.fetch_all(record, _files(answer))
        if isinstance(result, Downloaded):
            await self._settler.downloaded(record, answer, result.assets)
        else:
            code = Code.EXPIRED if result.gone else Code.DOWNLOAD_FAILED
            await self._settler.download_failed(record, answer, code=code, message=result.reason)


def _files(decoded: Answer | Unusable) -> tuple[AssetRef, ...]:
    return decoded.assets if isinstance(decoded, Answer) else ()


async def fresh_refs(
    transport: Transport, kind: Kind, request_id: str, *, jitter: Callable[[], float]
) -> tuple[AssetRef, ...] | None:
    """Ask a repeatable result for its addresses again: None if the API no longer knows it, empty if unclear.

    Raises:
        StoppedByApi: The API refuses the key: nothing is wrong with the row.
    """
    if kind.once_only:
        return ()
    for failures in range(_FRESH_TRIES):
        reply = await transport.get(kind.result_path(RequestId(request_id)))
        verdict = judge_get(reply, pending=False)
        match verdict:
            case Answered() if isinstance(reply, Reply):
                decoded = kind.decode(reply.body)
                if isinstance(decoded, Answer):
                    return decoded.assets
                return None if decoded.code is Code.EXPIRED else ()
            case Missing():
                return None
            case Stop(status=status, message=message):
                raise stopped(status, message)
            case JobRefused(status=410):
                return None
            case JobRefused():
                return ()
            case _:
                retry_after_s = getattr(verdict, "retry_after_s", None)
                await asyncio.sleep(wait_s(retry_after_s, failures, jitter=jitter()))
    return ()
