"""For all tests: a slow machine fails none of them; and a whole run on one thread, without waiting."""

import asyncio
import random

import postgresql
import pytest
from harness import s3
from hypothesis import settings

from bulkgrok.checkpoint import Committer
from bulkgrok.config import load
from bulkgrok.engine import Engine
from bulkgrok.engine.surroundings import Surroundings
from bulkgrok.testing import ScriptedTransport, VirtualTimeLoop

settings.register_profile("bulkgrok", deadline=None)
settings.load_profile("bulkgrok")

BEGAN = 1_790_000_000.0


class _Clock:
    """Virtual time, on both clocks."""

    def wall(self):
        return BEGAN + asyncio.get_running_loop().time()

    def monotonic(self):
        return asyncio.get_running_loop().time()


def _unlogged(_name, /, **_fields):
    """Log nothing."""


class Alone:
    """One run of the engine.

    Args:
        api: Gives a reply to each request (`bulkgrok.testing.Asked`).
        hook: Called with the API and the engine before each request.
        key: The API key.
        events: Told what happens.
        after: Called with each blocking function when it has run.
        flags: As for `bulkgrok.run`, `input` among them.
    """

    def __init__(self, api, *, hook=None, key="xai-test", events=_unlogged, after=None, **flags):
        self.said = []
        self._after = after
        self._api, self._hook = api, hook
        config = load({"concurrency": 4, "poll_interval": 1.0, **flags}, environ={"XAI_API_KEY": key})
        outside = Surroundings(
            clock=_Clock(), jitter=random.Random(0).random, offload=self._inline, connect=self._connect, tick_s=1.0,
            committer=lambda store: Committer(store, inline=True),
        )  # fmt: skip
        self.engine = Engine(config, events=events, say=self.said.append, surroundings=outside)

    async def _inline(self, function, /, *arguments):
        result = function(*arguments)
        if self._after is not None:
            self._after(function)
        return result

    async def _connect(self, _config, _run_dir, _stack):
        return ScriptedTransport(self._replies)

    def _replies(self, asked):
        if self._hook is not None:
            self._hook(self._api, self.engine)
        return self._api(asked)

    def run(self):
        """Run to the end and return the report; raises what the engine raises."""
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(asyncio.wait_for(self.engine.run(), 10_000_000))


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL; the tests that need one are skipped, with a word, where there is none."""
    if why := postgresql.missing():
        pytest.skip(why)
    return postgresql.shared()


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 server that this process's environment points at; skips where moto is not installed."""
    if not s3.available():
        pytest.skip("moto is not installed: tox run -e s3")
    with s3.S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def alone():
    return Alone
