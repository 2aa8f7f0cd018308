"""Replies too large for memory: what they are, and how many of their bytes are in memory at once.

Law: an answer goes from its file into the checkpoint without passing through memory. What must be in memory to be
understood waits for its turn: all of it together never takes more than `ANSWER_BYTES`. A file is removed once nobody
needs it any more, and never before what it holds is durable elsewhere; what is too large to be an answer stays in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeGuard

from bulkgrok.core.jsonscan import is_whole
from bulkgrok.core.model import Exchange, Reply
from bulkgrok.core.ports import Kind, LargeBody, Offload

ANSWER_BYTES: Final = 64 << 20
"""The largest answer."""


def name_of(row: int) -> str:
    """Return what to call the file of a row's reply."""
    return f"row-{row:08d}"


def is_large(exchange: Exchange) -> TypeGuard[Reply]:
    """Tell whether what came is a success that is not, or not in whole, in memory."""
    return (
        isinstance(exchange, Reply)
        and (exchange.large is not None or exchange.oversized)
        and 200 <= exchange.status < 300
    )


class Memory:
    """How much of it large answers may take, first come, first served.

    Args:
        total_bytes: For all of them together.
    """

    def __init__(self, total_bytes: int = ANSWER_BYTES) -> None:
        self._total = total_bytes
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def room(self, size_bytes: int | None = None) -> AsyncIterator[None]:
        """Hold room for so many bytes; None for an answer whose size is not known yet."""
        size = self._total if size_bytes is None else min(size_bytes, self._total)
        if self._waiting or self._taken + size > self._total:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # its turn came in the very moment of leaving
                    self._taken -= size
                self._admit()
                raise
        else:
            self._taken += size
        try:
            yield
        finally:
            self._taken -= size
            self._admit()

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._taken + self._waiting[0][0] <= self._total):
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._taken += size
                turn.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A complete reply in a file, of a size that an answer may have."""

    head: Reply
    body: LargeBody


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge:
    """A reply that is too large to be an answer, or to be put together; `message` says where it is."""

    head: Reply
    message: str


Resolved = Reply | Whole | TooLarge


class LargeReplies:
    """Tells what large replies are.

    Args:
        offload: Runs what waits for the disk, and what takes long.
        memory: Where they wait for their turn.
        answer_bytes: How large an answer may be.
    """

    def __init__(self, *, offload: Offload, memory: Memory, answer_bytes: int = ANSWER_BYTES) -> None:
        self._offload = offload
        self._memory = memory
        self._answer_bytes = answer_bytes

    @asynccontextmanager
    async def resolved(self, reply: Reply, kind: Kind, *, stream: bool) -> AsyncIterator[Resolved]:
        """Hold a reply while it is dealt with: room in memory is kept for it, and its file is removed afterwards.

        An exception leaves the file in place: it may be all there is.

        Args:
            reply: Of any size.
            kind: Puts streams together.
            stream: Whether a stream was asked for.

        Yields:
            An ordinary reply, which is incomplete where the large one was; a whole body, or one that is too large.
        """
        body = reply.large
        if body is None:
            yield TooLarge(head=reply, message=_TOO_LARGE) if reply.oversized else reply
            return
        async with self._memory.room(body.size_bytes):
            found = await self._offload(self._resolve, reply, body, kind if stream else None)
            yield found
        if not isinstance(found, TooLarge):
            await self._offload(body.discard)

    def _resolve(self, reply: Reply, body: LargeBody, assembler: Kind | None) -> Resolved:
        head = replace(reply, large=None)
        if assembler is not None:
            assembled = assembler.assemble(head, body.blocks())
            if assembled is not head and assembled.complete:  # an answer, whatever came after it
                return replace(assembled, oversized=False)
            if assembled.oversized:
                return self._kept(head, body)
            if assembled is not head:
                return assembled
        if reply.oversized:
            return self._kept(head, body)
        if body.size_bytes > self._answer_bytes:
            return self._kept(head, body)
        if not reply.complete or (not body.framed and not is_whole(body.read().strip())):
            return replace(head, complete=False)
        return Whole(head=head, body=body)

    def _kept(self, head: Reply, body: LargeBody) -> TooLarge:
        size = body.size_bytes
        path = body.keep()
        part = f"its first {size:,} bytes are" if head.oversized else f"all {size:,} bytes of it are"
        return TooLarge(head=head, message=f"{_TOO_LARGE}; {part} in {path}")


_TOO_LARGE: Final = f"the answer is larger than {ANSWER_BYTES >> 20} MiB"
