"""Copies the outbox to a sink.

Law: a sink's bytes are durable before its position is stored; after a crash the sink goes back to the stored position
and the outbox is replayed from there. There is no other way into an output file, so that way is always the tested one.
"""

from __future__ import annotations

from typing import Final

from bulkgrok.core import failpoints
from bulkgrok.core.model import Position
from bulkgrok.core.ports import Checkpoint, Offload, Sink, Store

_BATCH: Final = 1_000


class Projector:
    """Keeps one sink up to date.

    Args:
        store: Where the outbox is, read through the checkpoint.
        checkpoint: Runs calls of the store in order with its commits.
        sink: Where outcomes go.
        offload: Runs the sink's blocking calls.
    """

    def __init__(self, *, store: Store, checkpoint: Checkpoint, sink: Sink, offload: Offload) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._sink = sink
        self._offload = offload
        self._stored: Position | None = None
        self._cursor = 0

    async def restore(self) -> None:
        """Bring the output back to its stored position, or to its beginning where it is missing or damaged."""
        await self._rewind(await self._checkpoint.call(self._store.position, self._sink.name))

    async def _rewind(self, position: Position | None) -> None:
        restored = await self._offload(self._sink.restore, position)
        await self._advance(restored)
        self._cursor = restored.seq

    async def catch_up(self) -> None:
        """Write everything that is committed and not yet written."""
        while batch := await self._checkpoint.call(self._store.outbox, self._cursor, _BATCH):
            if not self._sink.appendable and self._stored is not None and self._stored.seq > 0:
                await self._rewind(None)
                continue
            await self._offload(self._sink.write, batch)
            self._cursor = batch[-1].seq
            failpoints.hit("sink.written")
            await self._advance(await self._offload(self._sink.commit))

    async def finish(self, *, complete: bool) -> None:
        """Write the rest and close what is open; `complete` tells that every row has its outcome."""
        await self.catch_up()

        def finish() -> Position:
            return self._sink.finish(complete=complete)

        await self._advance(await self._offload(finish))

    async def _advance(self, position: Position) -> None:
        failpoints.hit("sink.durable")
        if position != self._stored:
            await self._checkpoint.call(self._store.advance, self._sink.name, position)
            self._stored = position
