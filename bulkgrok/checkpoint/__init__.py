"""The checkpoint: what makes a run resumable, and every paid answer safe.

Law: one writer; changes become durable in groups, each one transaction; what was acknowledged survives a power cut.
Opening is table-driven: a new store is one new file and one line in STORES, and the contract suite picks it up.

sqlite       SqliteStore: one file, write-ahead log, flushed at every commit
memory       MemoryStore: the same contract in a dict, for tests and simulations
committer    Committer: the store as the event loop sees it, on a thread of its own
rescue       Rescue: what is saved when the disk fails, with ballast and spill
migrating    checkpoints of older versions, brought up to date or only looked at
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from bulkgrok.core.errors import UsageError
from bulkgrok.core.ports import Store

if TYPE_CHECKING:
    from bulkgrok.checkpoint.committer import Committer
    from bulkgrok.checkpoint.sqlite import SqliteStore

__all__ = ["STORES", "Committer", "open_store", "read_store"]

#: scheme of a checkpoint's address -> where the class is. Imported when opened. The empty one is a path.
STORES: Final[Mapping[str, str]] = {
    "": "bulkgrok.checkpoint.sqlite:SqliteStore",
}


def open_store(place: Path | str) -> Store:
    """Return the store for a place. Touches nothing yet: its `open` does.

    Raises:
        UsageError: There is no store for such an address.
    """
    scheme, separator, _ = str(place).partition("://")
    scheme = scheme if separator and isinstance(place, str) else ""
    if scheme not in STORES:
        msg = f"{scheme}:// is no place for a checkpoint in this version. Nothing was sent."
        raise UsageError(msg, hint="Name a file on a local disk: --checkpoint PATH")
    module, _, name = STORES[scheme].partition(":")
    factory = getattr(import_module(module), name)
    return cast("Store", factory(place if scheme else Path(place)))


def read_store(path: Path) -> SqliteStore:
    """Open a checkpoint to look at it: while its runner works, after it was killed, or where nothing may be written.

    What is read is the run as it stood at this moment. Close it soon: until then the runner's log cannot be wound up.

    Raises:
        StorageFailed: It is not there, cannot be read or is damaged.
        RunMismatch: It was written by a newer version.
    """
    from bulkgrok.checkpoint.sqlite import SqliteStore  # noqa: PLC0415 - apsw loads when a store is opened

    store = SqliteStore(Path(os.path.realpath(path)), read_only=True)  # its log lies beside the file, not beside a link
    store.open()
    return store


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module attribute is
    """Load Committer, and with it asyncio, when it is asked for."""
    if name == "Committer":
        from bulkgrok.checkpoint.committer import Committer  # noqa: PLC0415 - see above

        return Committer
    raise AttributeError(name)
