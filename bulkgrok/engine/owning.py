"""Requests leave only while the run is certainly this runner's.

Law: between an intent that is durable and the request's first byte anything may have passed: a stopped process, a
machine that slept, a database that was away. So it is asked right before a request leaves, and a runner that cannot
tell waits until it can. What stays open between the last look and the first byte is as long as a system call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bulkgrok.core.model import Exchange, Fetched, NotSent
from bulkgrok.core.ports import Lease, Transport

_LOOK_S: Final = 0.05
_NOT_OURS: Final = "another runner may own this run by now"


class OwnedTransport:
    """A transport for as long as a lease holds.

    Args:
        transport: HTTP.
        lease: Tells whether the run is ours.
        over: Tells whether the run has come to its end meanwhile: then nobody waits.
    """

    def __init__(self, transport: Transport, *, lease: Lease, over: Callable[[], bool]) -> None:
        self._transport = transport
        self._lease = lease
        self._over = over

    async def post(
        self, path: str, body: bytes, *, timeout_s: float | None, idle_s: float | None, keep: str = ""
    ) -> Exchange:
        """POST, if the run is ours."""
        if not self._lease.holds() and not await self._regained():
            return NotSent(reason=_NOT_OURS)
        return await self._transport.post(path, body, timeout_s=timeout_s, idle_s=idle_s, keep=keep)

    async def get(self, path: str, *, keep: str = "") -> Exchange:
        """GET, if the run is ours."""
        if not self._lease.holds() and not await self._regained():
            return NotSent(reason=_NOT_OURS)
        return await self._transport.get(path, keep=keep)

    async def fetch(self, url: str, *, offset: int, etag: str | None, write: Callable[[bytes, int], None]) -> Fetched:
        """Download; what came is put in its place only while the run is ours.

        Raises:
            RunTakenOver: It is another runner's by now.
        """
        found = await self._transport.fetch(url, offset=offset, etag=etag, write=write)
        if not self._lease.holds() and not await self._regained() and self._lease.lost:
            raise self._lease.taken_over()
        return found

    async def _regained(self) -> bool:
        """Wait until the lease was renewed; False when that cannot come any more."""
        while not self._lease.holds():
            if self._lease.lost or self._over():
                return False
            await asyncio.sleep(_LOOK_S)
        return True
