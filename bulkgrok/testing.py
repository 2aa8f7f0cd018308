"""Verified fakes for people who test code that uses bulkgrok: they pass the same contract suites as the real things.

VirtualTimeLoop     an asyncio loop on which a day of waiting takes no time
ScriptedTransport   an API that answers what the test says, and remembers what it was asked
MemoryStore         a checkpoint in a dict
MemorySink          an output in a list
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bulkgrok.checkpoint.memory import MemoryStore
from bulkgrok.core.model import Exchange, Fetched, NoReply, Position, Reply, Settled

__all__ = ["Asked", "MemorySink", "MemoryStore", "ScriptedTransport", "VirtualTimeLoop"]


class _JumpingSelector(selectors.DefaultSelector):
    """Lets time pass instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; where nothing is, jump to the time that was to be waited for."""
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing else is to be done.

    Everything must happen on the loop: time also jumps while a thread is at work. Use it as a loop factory:

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._jumping.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that a ScriptedTransport was given."""

    method: str
    path: str
    body: bytes = b""


class ScriptedTransport:
    """A transport that gives scripted replies and remembers what was asked: a verified fake of the `Transport` port.

    Args:
        replies: What to answer, in order; or a function from what was asked to an answer. When a script runs out,
            requests go unanswered (`NoReply`).
    """

    def __init__(self, replies: Iterable[Exchange] | Callable[[Asked], Exchange] = ()) -> None:
        self._answer = replies if callable(replies) else None
        self._script = deque(() if callable(replies) else replies)
        self.asked: list[Asked] = []

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        timeout_s: float | None,  # noqa: ARG002 - nothing takes time here
        idle_s: float | None,  # noqa: ARG002 - as above
        keep: str = "",  # noqa: ARG002 - everything is in memory
    ) -> Exchange:
        """Give the next reply."""
        return await self._next(Asked(method="POST", path=path, body=body))

    async def get(self, path: str, *, keep: str = "") -> Exchange:  # noqa: ARG002 - everything is in memory
        """Give the next reply."""
        return await self._next(Asked(method="GET", path=path))

    async def fetch(self, url: str, *, offset: int, etag: str | None, write: Callable[[bytes, int], None]) -> Fetched:  # noqa: ARG002 - always whole
        """Write the body of the next reply as a file."""
        exchange = await self._next(Asked(method="FETCH", path=url))
        if not isinstance(exchange, Reply):
            return Fetched(status=None, complete=False, reason=exchange.reason)
        if exchange.status != 200:
            return Fetched(status=exchange.status, complete=False, reason=f"HTTP {exchange.status}")
        write(exchange.body, 0)
        return Fetched(status=200, complete=exchange.complete)

    async def _next(self, asked: Asked) -> Exchange:
        self.asked.append(asked)
        await asyncio.sleep(0)
        if self._answer is not None:
            return self._answer(asked)
        return self._script.popleft() if self._script else NoReply(reason="the script is at its end")


class MemorySink:
    """A sink that keeps outcomes in a list: a verified fake of the `Sink` port. `rows` survives `close`."""

    name = "memory"
    appendable = True
    unfinished = False

    def __init__(self) -> None:
        self.rows: list[Settled] = []
        self.complete = False

    def check(self, position: Position | None, owned: Callable[[bytes], bool]) -> None:
        """Nothing here is foreign."""

    def restore(self, position: Position | None) -> Position:
        """Forget everything after a position; begin anew where that position is not reached."""
        seq = position.seq if position is not None else 0
        kept = [settled for settled in self.rows if settled.seq <= seq]
        whole = len(kept) == 0 if seq == 0 else bool(kept) and kept[-1].seq == seq
        self.rows = kept if whole else []
        return Position(seq=seq if whole else 0)

    def write(self, outcomes: Sequence[Settled]) -> None:
        """Take the next successes."""
        self.rows.extend(outcomes)

    def commit(self) -> Position:
        """Everything is final at once."""
        return Position(seq=self.rows[-1].seq if self.rows else 0)

    def finish(self, *, complete: bool) -> Position:
        """Note whether the run was complete."""
        self.complete = complete
        return self.commit()

    def close(self) -> None:
        """Nothing to release."""
