"""Downloads the files of an answer, so that they are in place before its row counts as succeeded.

Law: a file's final name points only at whole bytes that are on the disk, and is never taken from what another has
written: where it is in use, another one is found. Names are made of the row and its custom_id, never of anything a
server said. What cannot be had is a value; a disk that refuses stops the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bulkgrok.core.address import Address
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.model import Asset, AssetRef, Fetched, Record
from bulkgrok.core.ports import Events, Offload, Transport
from bulkgrok.core.retry import backoff_s
from bulkgrok.dispatch.bucket import media_place
from bulkgrok.dispatch.placing import PartFile
from bulkgrok.objects import ObjectStore, Unreachable, store_of

_TRIES: Final = 8
_MOST_TRIES: Final = 100
"""Of tries that each brought some bytes."""
_FRESH_ADDRESSES: Final = 2
_GONE: Final = frozenset({401, 403, 404, 410})

#: A store that is away for longer ends the run.
_PATIENCE_S: Final = 300.0
_LONGEST_PAUSE_S: Final = 30.0

T = TypeVar("T")
Fresh = Callable[[Record], Awaitable[tuple[AssetRef, ...] | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """All files of a row are in place."""

    assets: tuple[Asset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadFailed:
    """A file cannot be had; `gone` when the API no longer knows the answer it belongs to."""

    reason: str
    gone: bool = False


@dataclass(slots=True, kw_only=True)
class _Source:
    """Where one file comes from, and how often it was tried."""

    url: str
    failures: int = 0
    tries: int = 0
    refreshed: int = 0
    etag: str | None = None


class AssetDownloader:
    """Fetches files, a row at a time.

    Args:
        transport: HTTP without the key.
        offload: Runs what waits for the disk.
        media_dir: Where files go; made when the first one comes.
        asset_base: What paths in the output are relative to.
        fresh: Asks the API for the addresses of a row again: None when it no longer knows the row, empty when unclear.
        events: Told of files and failed tries.
        sleep: Waits.
        jitter: Uniform in [0, 1).
        scratch: A folder on the disk for what goes to an object store.
        stores: Opens an object store.
    """

    def __init__(  # noqa: PLR0913 - a stage takes its ports one by one
        self,
        *,
        transport: Transport,
        offload: Offload,
        media_dir: Path | Address,
        asset_base: Path | Address,
        fresh: Fresh,
        events: Events,
        sleep: Callable[[float], Awaitable[object]],
        jitter: Callable[[], float],
        scratch: Path | None = None,
        stores: Callable[[Address], ObjectStore] = store_of,
    ) -> None:
        self._transport = transport
        self._where = media_dir
        self._offload = offload
        self._folder = media_place(media_dir, asset_base, scratch, stores)
        self._fresh = fresh
        self._events = events
        self._sleep = sleep
        self._jitter = jitter

    async def fetch_all(
        self, record: Record, refs: Sequence[AssetRef], *, known: Sequence[Asset] = ()
    ) -> Downloaded | DownloadFailed:
        """Bring all files of a row into place.

        Args:
            record: The row.
            refs: Its files, in the answer's order.
            known: Files the output already names; those that are still there and whole are not fetched again.

        Raises:
            StorageFailed: The disk refused.
        """
        assets = []
        for number, ref in enumerate(refs):
            if number < len(known) and await self._patiently(self._folder.holds, known[number]):
                assets.append(known[number])
                continue
            result = await self._fetch(record, ref, number)
            if isinstance(result, DownloadFailed):
                return result
            assets.append(result)
        return Downloaded(assets=tuple(assets))

    async def _fetch(self, record: Record, ref: AssetRef, number: int) -> Asset | DownloadFailed:
        part = await self._begin(record, number)
        try:
            source = _Source(url=ref.url)
            if (failed := await self._download(record, source, number, part)) is not None:
                return failed
            asset = await self._patiently(self._folder.place, part, source.url)
        finally:
            part.discard()
        self._events("asset.downloaded", row=record.row, path=asset.path, bytes=asset.bytes)
        return asset

    async def lacking(self, assets: Sequence[Asset]) -> list[bool]:
        """Tell, at a glance, which of some files the output names are not there.

        Raises:
            StorageFailed: The store refused.
        """
        return await self._patiently(self._folder.lacks, assets)

    async def _patiently(self, call: Callable[..., T], *args: object) -> T:
        """Call what asks a store, again where that is away for now."""
        waited, failures = 0.0, 0
        while True:
            try:
                return await self._offload(call, *args)
            except Unreachable as failure:
                if waited >= _PATIENCE_S:
                    msg = f"{self._where} is away: {failure}; every answer so far is kept in the checkpoint"
                    raise StorageFailed(msg, hint="when it is back, type the same command again") from None
                pause_s = min(backoff_s(failures, jitter=self._jitter()), _LONGEST_PAUSE_S)
            await self._sleep(pause_s)
            waited, failures = waited + pause_s, failures + 1

    async def _begin(self, record: Record, number: int) -> PartFile:
        """Open a part file; whoever is cancelled meanwhile leaves none behind."""
        beginning: asyncio.Future[PartFile] = asyncio.ensure_future(
            self._offload(self._folder.begin, record.row, record.custom_id, number)
        )
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            await asyncio.wait([beginning])
            if not beginning.cancelled() and beginning.exception() is None:
                beginning.result().discard()
            raise

    async def _download(self, record: Record, source: _Source, number: int, part: PartFile) -> DownloadFailed | None:
        """Fill the part file, in as many tries as are worth it."""
        while True:
            before = part.size
            fetched = await self._transport.fetch(source.url, offset=part.size, etag=source.etag, write=part.write)
            if fetched.complete and part.size > 0:
                return None
            source.etag = fetched.etag
            source.tries += 1
            source.failures = 1 if part.size > before else source.failures + 1
            reason = fetched.reason or ("an empty file" if fetched.complete else "the download failed")
            self._events("asset.retry", row=record.row, reason=reason, status=fetched.status, tries=source.tries)
            if fetched.forbidden or fetched.too_large:
                return DownloadFailed(reason=f"the file cannot be downloaded: {reason}")
            if (failed := await self._renew(record, source, number, fetched, reason)) is not None:
                return failed
            if source.failures >= _TRIES or source.tries >= _MOST_TRIES:
                return DownloadFailed(reason=f"the file could not be downloaded in {source.tries} tries: {reason}")
            await self._sleep(backoff_s(source.failures - 1, jitter=self._jitter()))

    async def _renew(
        self, record: Record, source: _Source, number: int, fetched: Fetched, reason: str
    ) -> DownloadFailed | None:
        """Ask for a fresh address where the one at hand has expired."""
        if fetched.status not in _GONE:
            return None
        if source.refreshed >= _FRESH_ADDRESSES:
            return DownloadFailed(reason=f"the file is not at its address any more, nor at a fresh one: {reason}")
        refs = await self._fresh(record)
        if refs is None:
            return DownloadFailed(reason="the API no longer knows the answer this file belongs to", gone=True)
        if number < len(refs):
            source.refreshed += 1
            if refs[number].url.partition("?")[0] != source.url.partition("?")[0]:
                source.etag = None  # another file, for all anyone knows
            source.url = refs[number].url
        return None
