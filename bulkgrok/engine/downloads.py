"""Fetches the files of redeemed rows, a few at a time, before the rows count as succeeded.

Law: the answer is durable already, so a download may be cut off at any moment and begins again at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.model import AssetRef, Code, Reply, RequestId
from bulkgrok.core.ports import Kind, Transport
from bulkgrok.dispatch.assets import AssetDownloader, Downloaded
from bulkgrok.dispatch.settle import Settler

AT_ONCE: Final = 4


class Downloads:
    """A queue of rows whose files are missing, and the workers that empty it.

    Args:
        settler: Knows the rows and settles them.
        downloader: Fetches files.
        settled: Called after each row.
        failed: Called with what must stop the run (the disk refused).
    """

    def __init__(
        self,
        *,
        settler: Settler,
        downloader: AssetDownloader,
        settled: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._settler = settler
        self._downloader = downloader
        self._settled = settled
        self._failed = failed
        self._rows: asyncio.Queue[int] = asyncio.Queue()
        self.open = 0

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
            except BulkgrokError as error:
                self._failed(error)
                return
            finally:
                self.open -= 1
                self._settled()

    async def _fetch(self, row: int) -> None:
        record, refs = await self._settler.record(row)
        result = await self._downloader.fetch_all(record, refs)
        if isinstance(result, Downloaded):
            await self._settler.downloaded(record, result.assets)
        else:
            code = Code.EXPIRED if result.gone else Code.DOWNLOAD_FAILED
            await self._settler.download_failed(record, code=code, message=result.reason)


async def fresh_refs(transport: Transport, kind: Kind, request_id: str) -> tuple[AssetRef, ...] | None:
    """Ask a repeatable result for its addresses again: None if the API no longer knows it, empty if unclear."""
    if kind.once_only:
        return ()
    reply = await transport.get(kind.result_path(RequestId(request_id)))
    if isinstance(reply, Reply) and reply.status in {404, 410}:
        return None
    if not isinstance(reply, Reply) or not reply.complete or reply.status != 200:
        return ()
    decoded = kind.decode(reply.body)
    return getattr(decoded, "assets", ())
