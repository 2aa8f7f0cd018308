"""PostgreSQL's errors end here and leave as ours, in words a user can act on.

Law: no message holds a password: addresses are shown without it, and what the library says of an address that it cannot
read is not repeated. A lost connection is told apart from everything else: what became of the transaction that was
under way is then not known, and may be asked.
"""

from __future__ import annotations

from typing import Final

import psycopg

from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import BulkgrokError, StorageFailed, UsageError

SAFE: Final = "Every answer committed so far is kept."
_AGAIN: Final = "then type the same command again"
#: What the server says of a login or a database that will not be there the next time either.
_REFUSED: Final = ("authentication failed", "no password supplied", "does not exist", "pg_hba.conf",
                   "permission denied", "role", "certificate", "is not permitted to log in", "SSL")  # fmt: skip
#: SQLSTATE -> (what happened, what to do)
_WORDS: Final = {
    "53100": ("the server's disk is full", f"Make room on it, {_AGAIN}."),
    "53200": ("the server is out of memory", f"Look at its log, {_AGAIN}."),
    "42501": ("this role lacks a privilege", "Grant it what docs/postgres.md lists, then type the same command again."),
    "25006": (
        "the server is read-only (a standby, or a session set so)",
        "Name the primary; with several hosts: ?target_session_attrs=read-write",
    ),
    "XX001": ("its data are damaged", "Restore a backup of the database, or start afresh with another --run-id."),
    "XX002": ("an index of it is damaged", "REINDEX the tables of schema bulkgrok, then type the same command again."),
}
#: The server ends the session: restarting, ended by an administrator, or tired of a transaction that stood still.
_ENDED: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "53300"})
#: Nothing was done, and the same may be tried at once.
_TRY_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})


class ConnectionLost(Exception):
    """The connection is gone; what became of a transaction that was under way is not known."""


def is_lost(error: psycopg.Error, connection: psycopg.Connection[object] | None) -> bool:
    """Tell whether the connection is gone."""
    state = error.sqlstate or ""
    if state in _ENDED or state.startswith("08"):
        return True
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        connection is None or connection.closed or connection.broken
    )


def may_be_tried_again(error: psycopg.Error) -> bool:
    """Tell whether nothing was done and the same may succeed at once (a deadlock)."""
    return error.sqlstate in _TRY_AGAIN


def storage_failed(url: DatabaseUrl, error: psycopg.Error) -> StorageFailed:
    """Return PostgreSQL's error in our words."""
    what, hint = _WORDS.get(error.sqlstate or "", ("", f"Look at the cause, {_AGAIN}."))
    detail = _detail(url, error)
    told = f"{what} ({detail})" if what else detail
    return StorageFailed(f"The checkpoint {url}: {told}. {SAFE}", hint=hint)


def out_of_reach(url: DatabaseUrl, error: BaseException, *, waited_s: float) -> StorageFailed:
    """Return the end of a run whose database stays away."""
    return StorageFailed(
        f"The checkpoint {url}: the database was out of reach for {waited_s:.0f} s; the last try: "
        f"{_detail(url, error)}. {SAFE}",
        hint=f"See that the database runs and can be reached, {_AGAIN}.",
    )


def cannot_connect(url: DatabaseUrl, error: psycopg.Error) -> BulkgrokError:
    """Return why a run cannot begin: a setting that is wrong (exit 2), or a server that is away (exit 8)."""
    if isinstance(error, psycopg.ProgrammingError):  # what it says repeats a part of the address, maybe the password
        msg = f"--checkpoint {url}: PostgreSQL's library cannot read this address. Nothing was sent."
        return UsageError(msg, hint="postgresql://user@host:5432/database, the password in PGPASSWORD or ~/.pgpass")
    detail = _detail(url, error)
    msg = f"The checkpoint {url} cannot be opened: {detail}. Nothing was sent."
    if any(word in detail for word in _REFUSED):
        return UsageError(
            msg,
            hint="Mend user, password or database: the password goes into PGPASSWORD, ~/.pgpass or the address. "
            "docs/postgres.md tells how to set the database up.",
        )
    return StorageFailed(msg, hint=f"See that the database runs and can be reached, {_AGAIN}.")


def damaged(url: DatabaseUrl, detail: str) -> StorageFailed:
    """Return the error for tables that hold what was never written."""
    return StorageFailed(
        f"The checkpoint {url}: its tables are damaged ({detail}).",
        hint="Restore a backup of the database, or start afresh with another --run-id.",
    )


def _detail(url: DatabaseUrl, error: BaseException) -> str:
    """Return what was said, on one line and without a password."""
    text = str(error)
    for secret in (*url.secrets, url.whole):
        text = secret.hide(text)
    lines = [line.strip().removeprefix("FATAL:").strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines)[:500].rstrip(".") or type(error).__name__
