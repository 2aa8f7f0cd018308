"""The checkpoint: what makes a run resumable, and every paid answer safe.

Law: one writer; changes become durable in groups, each one transaction; what was acknowledged survives a power cut.
Opening is table-driven: a new store is one new file and one line in STORES, and the contract suite picks it up.

sqlite       SqliteStore: one file, write-ahead log, flushed at every commit
postgres     PostgresStore: many runs in one database, each with one owner
memory       MemoryStore: the same contract in a dict, for tests and simulations
committer    Committer: the store as the event loop sees it, on a thread of its own
rescue       Rescue: what is saved when the disk fails, with ballast and spill
reading      what every store reads alike; writing, changing: what changes make of rows, in SQL and in memory
migrating    checkpoints of older versions, brought up to date or only looked at
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import UsageError
from bulkgrok.core.ports import Store

if TYPE_CHECKING:
    from bulkgrok.checkpoint.committer import Committer
    from bulkgrok.checkpoint.postgres import PostgresStore
    from bulkgrok.checkpoint.sqlite import SqliteStore


__all__ = ["STORES", "Committer", "list_runs", "open_store", "read_store"]

#: scheme of a checkpoint's address -> where the class is. Imported when opened. The empty one is a path.
STORES: Final[Mapping[str, str]] = {
    "": "bulkgrok.checkpoint.sqlite:SqliteStore",
    "postgresql": "bulkgrok.checkpoint.postgres:PostgresStore",
    "postgres": "bulkgrok.checkpoint.postgres:PostgresStore",
}


def open_store(place: Path | DatabaseUrl | str, *, run_id: str = "", scratch: Path | None = None) -> Store:
    """Return the store for a place. Touches nothing yet: its `open` does.

    Args:
        place: A file, or the address of a database.
        run_id: The run's name in a database.
        scratch: A folder for what a database could not take.

    Raises:
        UsageError: There is no store for such an address, or what it needs is not installed.
    """
    scheme, separator, _ = str(place).partition("://")
    scheme = scheme if separator and not isinstance(place, Path) else ""
    if scheme not in STORES:
        msg = f"{scheme}:// is no place for a checkpoint in this version. Nothing was sent."
        raise UsageError(msg, hint="Name a file on a local disk: --checkpoint PATH")
    factory = _factory(scheme)
    if not scheme:
        return cast("Store", factory(Path(str(place))))
    url = place if isinstance(place, DatabaseUrl) else DatabaseUrl(str(place))
    return cast("Store", factory(url, run_id, scratch=scratch))


def _factory(scheme: str) -> Any:  # noqa: ANN401 - a class of its own signature
    return _of(STORES[scheme])


def _of(what: str) -> Any:  # noqa: ANN401 - whatever it is
    """Import something of a store.

    Raises:
        UsageError: What it needs is not installed.
    """
    module, _, name = what.partition(":")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"psycopg", "psycopg_binary"} and "libpq" not in str(error):
            raise
        msg = f"A checkpoint in PostgreSQL needs psycopg, which is not installed ({error}). Nothing was sent."
        raise UsageError(msg, hint="pip install 'bulkgrok[postgres]'") from None


def read_store(place: Path | DatabaseUrl, *, run_id: str = "") -> SqliteStore | PostgresStore:
    """Open a checkpoint to look at it: while its runner works, after it was killed, or where nothing may be written.

    What is read is the run as it stood at this moment. Close it soon: until then a file's log cannot be wound up.

    Raises:
        StorageFailed: It is not there, cannot be read or is damaged.
        UsageError: There is no such run, or the database cannot be used.
        RunMismatch: It was written by a newer version.
    """
    if isinstance(place, DatabaseUrl):
        store = _factory("postgresql")(place, run_id, read_only=True)
    else:
        # Its log lies beside the file, not beside a link.
        store = _factory("")(Path(os.path.realpath(place)), read_only=True)
    store.open()
    return cast("SqliteStore | PostgresStore", store)


def list_runs(url: DatabaseUrl) -> list[tuple[str, str | None]]:
    """Return the runs in a database, the newest first, each with who is at work on it.

    Raises:
        UsageError, StorageFailed, RunMismatch: As `read_store`.
    """
    return cast("list[tuple[str, str | None]]", _of("bulkgrok.checkpoint.postgres_session:list_runs")(url))


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module attribute is
    """Load Committer, and with it asyncio, when it is asked for."""
    if name == "Committer":
        from bulkgrok.checkpoint.committer import Committer  # noqa: PLC0415 - see above

        return Committer
    raise AttributeError(name)
