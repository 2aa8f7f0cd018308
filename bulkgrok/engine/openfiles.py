"""How many files this process may have open: connections are files too.

Law: looked at before anything is opened. Later, each missing one would look like a network that is down or like a disk
that fails.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

from bulkgrok.config import RunConfig
from bulkgrok.core.errors import UsageError

_OWN: Final = 64
"""Checkpoint, outputs, log, locks, downloads, libraries that are loaded late, and the event loop's own."""


def needed(config: RunConfig) -> int:
    """Return how many open files a run needs, about: a simulated API is in the same process."""
    return _OWN + config.concurrency * (2 if config.simulate else 1)


def raise_limit(config: RunConfig) -> None:
    """Raise this process's limit to what a run needs, as far as its owner may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(config) if hard == resource.RLIM_INFINITY else min(hard, needed(config))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def verify(config: RunConfig) -> None:
    """Refuse a run that needs more open files than the process may have.

    Raises:
        UsageError: Nothing was sent.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed(config):
        msg = (
            f"This process may have {soft} files open, and --concurrency {config.concurrency} needs about "
            f"{needed(config)}. Nothing was sent."
        )
        raise UsageError(msg, hint=f"ulimit -n {needed(config)}   (or a lower --concurrency)")
