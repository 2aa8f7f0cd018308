"""The tables of the checkpoints in a database: made on first use, brought up to date, refused when they are newer.

Law: all of it in one transaction under one lock, so that any number of runners may start at once on an empty database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import psycopg

from bulkgrok.checkpoint.postgres_connecting import Connection
from bulkgrok.checkpoint.postgres_mishaps import storage_failed
from bulkgrok.checkpoint.statements import load
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import RunMismatch, StorageFailed, UsageError

#: Of the tables, in bulkgrok.version.
VERSION: Final = 1
#: "bulkgrok", as a number: the advisory locks of this program.
LOCKS: Final = 0x62_67_72_6B
#: There is no run 0.
_SCHEMA_LOCK: Final = 0


def _create(connection: Connection) -> None:
    if not _exists(connection, "SELECT 1 FROM pg_namespace WHERE nspname = 'bulkgrok'"):
        connection.execute("CREATE SCHEMA bulkgrok")
    for statement in load("postgres_schema.sql").values():
        connection.execute(statement)


#: version -> what makes the next one of it; 0 is an empty database.
STEPS: Final[Mapping[int, Callable[[Connection], None]]] = {0: _create}


def bring_up(connection: Connection, url: DatabaseUrl) -> str | None:
    """Make the tables, or bring them to this version; return what a user should know of it.

    Raises:
        RunMismatch: They are of a newer version.
        UsageError: The schema is there and is another program's, or this role may not make it.
        StorageFailed: The server refused.
    """
    try:
        found = version_of(connection, url)
        if found == VERSION:
            return None
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock($1, $2)", (LOCKS, _SCHEMA_LOCK))
            found = version_of(connection, url)  # somebody else may have made them meanwhile
            for version in range(found, VERSION):
                STEPS[version](connection)
            if 0 < found < VERSION:
                connection.execute("UPDATE bulkgrok.version SET number = $1", (VERSION,))
    except psycopg.errors.InsufficientPrivilege as error:
        msg = f"The checkpoint {url}: this role may not make or use schema bulkgrok ({_line(error)}). Nothing was sent."
        raise UsageError(msg, hint="docs/postgres.md lists the privileges it needs.") from None
    except psycopg.Error as error:
        raise storage_failed(url, error) from error
    return f"the checkpoints in {url} were brought from version {found} to {VERSION}" if 0 < found < VERSION else None


def version_of(connection: Connection, url: DatabaseUrl) -> int:
    """Return the version of the tables, 0 where there are none.

    Raises:
        RunMismatch: It is newer than this program.
        UsageError: What is there is another program's.
    """
    if not _exists(connection, "SELECT 1 FROM pg_namespace WHERE nspname = 'bulkgrok'"):
        return 0
    if not _exists(connection, "SELECT 1 FROM pg_tables WHERE schemaname = 'bulkgrok'"):
        return 0
    if not _exists(connection, "SELECT 1 FROM pg_tables WHERE schemaname = 'bulkgrok' AND tablename = 'version'"):
        msg = f"The schema bulkgrok in {url} holds tables that are no checkpoint. Nothing was sent."
        raise UsageError(msg, hint="Name another database.")
    found = connection.execute("SELECT number FROM bulkgrok.version").fetchone()
    if found is None:
        msg = f"The checkpoint {url}: its table of versions is empty."
        raise StorageFailed(msg, hint="Restore a backup of the database.")
    number = int(found[0])
    if number > VERSION:
        msg = (
            f"The checkpoints in {url} are of version {number}, and this program knows {VERSION}. Nothing was sent "
            "or changed."
        )
        raise RunMismatch(msg, hint="pip install --upgrade 'bulkgrok[postgres]'")
    return number


def _exists(connection: Connection, query: str) -> bool:
    return connection.execute(query).fetchone() is not None


def _line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0]
