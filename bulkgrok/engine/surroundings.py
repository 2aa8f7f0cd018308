"""What a run stands on and does not choose: clocks, chance, threads, the network, the checkpoint's writer.

Law: the engine reaches the outside only through this value, so that a simulation can be the whole outside of a run:
virtual time, no threads, an API in the same process.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bulkgrok.checkpoint import Committer
from bulkgrok.config import RunConfig
from bulkgrok.core.address import Address
from bulkgrok.core.ports import Clock, Offload, Store, Transport
from bulkgrok.core.secret import Secret
from bulkgrok.engine.leftovers import REPLIES
from bulkgrok.objects import ObjectStore, store_of
from bulkgrok.transport import AiohttpTransport

_SIMULATED_KEY: Final = Secret("xai-simulated")
_TICK_S: Final = 0.25
_STATUS_S: Final = 2.0


class SystemClock:
    """The machine's wall clock and the running loop's monotonic one."""

    wall = staticmethod(time.time)
    """UNIX seconds."""

    def monotonic(self) -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()


async def connect(config: RunConfig, run_dir: Path, stack: AsyncExitStack) -> Transport:
    """Return HTTP to the API that the run is against, open until `stack` closes it."""
    base_url, key = config.base_url, config.api_key
    if config.simulate:
        base_url, key = await _simulator(run_dir, stack), _SIMULATED_KEY
    return await stack.enter_async_context(
        AiohttpTransport(
            base_url=base_url,
            api_key=key,
            concurrency=config.concurrency,
            ca_file=config.ca_file,
            proxy=config.proxy if not config.simulate else None,
            spill_dir=run_dir / REPLIES,
        )
    )


async def _simulator(run_dir: Path, stack: AsyncExitStack) -> str:
    """Start the built-in API on a loopback port, its world kept in the run directory; return its base URL."""
    from bulkgrok.simulator.server import SimulatorServer  # noqa: PLC0415 - only where it is asked for
    from bulkgrok.simulator.settings import SimulatorSettings  # noqa: PLC0415 - as above

    # A run of ten million rows needs no list of its direct requests in memory.
    server = SimulatorServer(SimulatorSettings(itemised=False), journal=run_dir / "simulator.jsonl")
    await server.start()
    stack.push_async_callback(server.stop)
    return server.base_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The real outside, unless something else is given."""

    clock: Clock = field(default_factory=SystemClock)
    jitter: Callable[[], float] = random.random
    """Uniform in [0, 1); jitter, not secrets."""
    offload: Offload = asyncio.to_thread
    committer: Callable[[Store], Committer] = Committer
    connect: Callable[[RunConfig, Path, AsyncExitStack], Awaitable[Transport]] = connect
    """Given the configuration, the run directory and what closes the transport at the end."""
    stores: Callable[[Address], ObjectStore] = store_of
    """Opens the object store that an address is in."""
    tick_s: float = _TICK_S
    """How often counters and the output are brought up to date."""
    status_s: float = _STATUS_S
    """How often status.json is, at most."""
