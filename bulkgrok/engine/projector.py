"""Copies the outbox to a sink.

Law: only the run's owner writes. A sink's bytes are durable before its position is stored; after a crash the sink goes
back to the stored position and the outbox is replayed from there. There is no other way into an output file, so that
way is always the tested one.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from bulkgrok.core import failpoints
from bulkgrok.core.address import Address, is_address, parse
from bulkgrok.core.model import Asset, Position
from bulkgrok.core.ports import Checkpoint, Lease, Offload, Sink, Store

T = TypeVar("T")

_BATCH: Final = 1_000
#: Between two questions whether a place that is away is back.
_PAUSE_S: Final = 1.0


def rebasing(old: Path | Address, new: Path | Address) -> Callable[[Asset], Asset] | None:
    """Return what makes asset paths that are relative to `old` relative to `new`, None if they are the same."""
    if old == new:
        return None

    def rebase(asset: Asset) -> Asset:
        if asset.path is None:
            return asset
        return replace(asset, path=_way(_join(old, asset.path), new))

    return rebase


def _join(base: Path | Address, path: str) -> Path | Address:
    if is_address(path):
        return parse(path)
    if isinstance(base, Path) or path.startswith("/"):
        return Path(str(base)) / path
    return base.joined(path)


def _way(there: Path | Address, base: Path | Address) -> str:
    """Return a path relative to a base, the whole one where it lies in another store."""
    if isinstance(there, Path) and isinstance(base, Path):
        return Path(os.path.relpath(there, base)).as_posix()
    if isinstance(there, Path) or isinstance(base, Path):
        return str(there)
    return there.relative_to(base)


class Projector:
    """Keeps one sink up to date.

    Args:
        store: Where the outbox is, read through the checkpoint.
        checkpoint: Runs calls of the store in order with its commits.
        sink: Where outcomes go.
        offload: Runs the sink's blocking calls.
        lease: Tells whether the run is still ours; None where nobody can take it over.
        rebase: Rewrites asset paths for an output that lies elsewhere than the run's first one; None if it does not.
    """

    def __init__(  # noqa: PLR0913 - the engine names each
        self,
        *,
        store: Store,
        checkpoint: Checkpoint,
        sink: Sink,
        offload: Offload,
        lease: Lease | None = None,
        rebase: Callable[[Asset], Asset] | None = None,
    ) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._sink = sink
        self._offload = offload
        self._lease = lease
        self._rebase = rebase
        self._stored: Position | None = None
        self._cursor = 0
        self._at_work = asyncio.Lock()
        self._closed = False
        self._alone = threading.Lock()
        self._ticket: object = None
        """Of the sink's call that may be carried out."""
        self._torn = False
        """Whether a call of the sink failed: how far it got, nobody knows."""

    async def restore(self) -> None:
        """Bring the output back to its stored position, or to its beginning where it is missing or damaged."""
        await self._whole(self._restore())

    async def catch_up(self) -> None:
        """Write everything that is committed and not yet written."""
        await self._whole(self._catch_up())

    async def finish(self, *, complete: bool) -> None:
        """Write the rest and close what is open; `complete` tells that every row has its outcome."""
        await self._whole(self._finish(complete=complete))

    async def close(self) -> None:
        """Let a step whose caller was cancelled come to its end, then let go of the output. No step follows."""
        self._closed = True

        async def let_go() -> None:
            async with self._at_work:
                await self._do(self._sink.close)

        await asyncio.shield(asyncio.ensure_future(let_go()))

    async def _whole(self, step: Coroutine[None, None, None]) -> None:
        """Carry out a step to its end even if its caller is cancelled: a sink is never written by two steps at once."""

        async def alone() -> None:
            async with self._at_work:
                if self._closed:
                    step.close()
                else:
                    await step

        await asyncio.shield(asyncio.ensure_future(alone()))

    async def _do(self, call: Callable[..., T], *args: object) -> T:
        """Carry out a blocking call of the sink.

        One that could not be handed to a new thread stays in the queue, where an old thread finds it: it is not carried
        out any more once it was reported as failed, nor beside another one. Whose run it is is asked on the thread too:
        a process may have been stopped on the way there.
        """
        ticket = self._ticket = object()

        def carry_out() -> tuple[T] | None:
            with self._alone:
                if self._ticket is not ticket:
                    msg = "a call that was given up"
                    raise RuntimeError(msg)
                return (call(*args),) if self._is_ours() or call == self._sink.close else None

        try:
            while (done := await self._offload(carry_out)) is None:
                await self._own()
        except BaseException:
            self._torn = True
            raise
        return done[0]

    def _is_ours(self) -> bool:
        """Tell whether the run is certainly ours. One that was not projected yet was opened just now."""
        return self._lease is None or self._stored is None or self._lease.holds()

    async def _restore(self) -> None:
        await self._rewind(await self._checkpoint.call(self._store.position, self._sink.name))

    async def _rewind(self, position: Position | None) -> None:
        await self._own()
        restored = await self._do(self._sink.restore, position)
        self._torn = False
        await self._advance(restored)
        self._cursor = restored.seq

    async def _catch_up(self) -> None:
        """Write batches as long as the output's place takes them; after a failure from the stored position on."""
        if self._torn:
            await self._restore()
        while not (self._sink.unfinished and not await self._settle(self._sink.commit)):
            if not await self._write_batch():
                return
            failpoints.hit("sink.written")
            await self._settle(self._sink.commit)

    async def _settle(self, step: Callable[[], Position]) -> bool:
        """Carry out a step of the sink that may take several calls; False where its place is away for now."""
        while True:
            before = self._stored
            await self._own()
            await self._advance(await self._do(step))
            if not self._sink.unfinished:
                return True
            if self._stored == before:
                return False

    async def _write_batch(self) -> bool:
        """Write the next outcomes; False when there is none. They are let go of before others are read."""
        if not self._sink.appendable and self._stored is not None and self._stored.seq > 0:
            if not await self._checkpoint.call(self._store.outbox, self._cursor, 1):
                return False
            await self._rewind(None)
        batch = await self._checkpoint.call(self._store.outbox, self._cursor, _BATCH)
        if not batch:
            return False
        if self._rebase is not None:
            batch = [replace(one, assets=tuple(map(self._rebase, one.assets))) for one in batch]
        await self._own()
        await self._do(self._sink.write, batch)
        self._cursor = batch[-1].seq
        return True

    async def _finish(self, *, complete: bool) -> None:
        def finish() -> Position:
            return self._sink.finish(complete=complete)

        await self._catch_up()
        while complete and self._sink.unfinished and not self._closed:
            await asyncio.sleep(_PAUSE_S)
            await self._catch_up()
        while not await self._settle(finish) and not self._closed:  # noqa: ASYNC110 - nothing tells when a store is back
            await asyncio.sleep(_PAUSE_S)

    async def _own(self) -> None:
        """Ask the checkpoint whose run it is where that is not certain: only its owner touches the output."""
        if self._stored is not None and not self._is_ours():
            await self._checkpoint.call(self._store.advance, self._sink.name, self._stored)

    async def _advance(self, position: Position) -> None:
        failpoints.hit("sink.durable")
        if position != self._stored:
            await self._checkpoint.call(self._store.advance, self._sink.name, position)
            self._stored = position
