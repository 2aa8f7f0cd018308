"""A connection that a checkpoint may rely on: every durability setting pinned, read back, or refused in words.

Law: nothing is stored through a connection that did not pass. What is a risk only in some places is told, not refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import conninfo
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format
from psycopg.types.string import StrBinaryDumper, StrDumper

from bulkgrok.checkpoint.postgres_mishaps import cannot_connect
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import UsageError

Connection = psycopg.Connection[tuple[Any, ...]]

# A connection that is lost is told by whoever used it; the driver's own words about it belong on nobody's terminal.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_OLDEST: Final = 130_000
_ODD: Final = "\x01wtf8:"
_ODD_BYTES: Final = _ODD.encode()
#: What a connection is opened with where the address does not say otherwise.
_DEFAULTS: Final = {
    "application_name": "bulkgrok",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
#: Of PostgreSQL 14.
_NEW: Final = "idle_session_timeout"
#: A runner that stands still in a transaction must not keep others from taking its run over.
_PINNED: Final = (
    ("client_encoding", "UTF8"),
    ("idle_in_transaction_session_timeout", "10000"),
    (_NEW, "0"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("extra_float_digits", "1"),
    ("timezone", "UTC"),
    ("default_transaction_isolation", "read committed"),
)
_STRONG: Final = frozenset({"on", "remote_apply"})


def encode_text(value: str) -> str:
    """Return text as PostgreSQL can hold it: as it is, or as hex digits of WTF-8 behind a mark."""
    if "\0" not in value and not value.startswith(_ODD):
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            return value
    return _ODD + value.encode("utf-8", "surrogatepass").hex()


class _Text(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return encode_text(obj).encode()


class _BinaryText(StrBinaryDumper):
    def dump(self, obj: str) -> Buffer | None:
        return encode_text(obj).encode()


class _Loaded(Loader):
    format = Format.TEXT

    def load(self, data: Buffer) -> str:
        raw = bytes(data)
        if raw.startswith(_ODD_BYTES):
            return bytes.fromhex(raw[len(_ODD_BYTES) :].decode()).decode("utf-8", "surrogatepass")
        return raw.decode()


class _BinaryLoaded(_Loaded):
    format = Format.BINARY


def connect(url: DatabaseUrl) -> Connection:
    """Connect, without looking at anything yet.

    Raises:
        psycopg.Error: It cannot be done.
    """
    asked = conninfo.conninfo_to_dict(url.whole.reveal())
    given = {name: value for name, value in _DEFAULTS.items() if name not in asked}
    connection: Connection = psycopg.Connection.connect(
        url.whole.reveal(),
        autocommit=True,
        cursor_factory=psycopg.RawCursor,
        **given,  # type: ignore[arg-type] # names of libpq's settings
    )
    for dumper in (_Text, _BinaryText):
        connection.adapters.register_dumper(str, dumper)
    for loader in (_Loaded, _BinaryLoaded):
        connection.adapters.register_loader("text", loader)
    new = connection.info.server_version >= 140_000
    pinned = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _PINNED if new or name != _NEW)
    connection.execute(f"SELECT {pinned}")
    return connection


def first_connection(url: DatabaseUrl) -> Connection:
    """Connect at the start of a run.

    Raises:
        UsageError: Address, login or database are wrong.
        StorageFailed: The server is away.
    """
    try:
        return connect(url)
    except psycopg.Error as error:
        raise cannot_connect(url, error).with_traceback(None) from None


def make_durable(connection: Connection, url: DatabaseUrl) -> list[str]:
    """Pin what decides whether a commit is durable and read it back; return what a user should know.

    Raises:
        UsageError: This server, or this session, would lose what it acknowledged, or cannot be written to.
        psycopg.Error: It cannot be asked.
    """
    settings = _settings(connection)
    if settings["synchronous_commit"] not in _STRONG:
        connection.execute("SELECT set_config('synchronous_commit', 'on', false)")
        settings = _settings(connection)
    for wrong, what, hint in _refusals(settings, connection.info.server_version):
        if wrong:
            msg = f"The checkpoint {url} cannot be relied on: {what}. Nothing was sent."
            raise UsageError(msg, hint=hint)
    warnings = []
    if settings["full_page_writes"] != "on":
        warnings.append(
            f"{url} runs with full_page_writes=off: a power cut can tear a page of the checkpoint, unless its file "
            "system never does that (ZFS)."
        )
    return warnings


def refuse_unlogged(connection: Connection, url: DatabaseUrl) -> None:
    """Refuse tables that the server empties after a crash.

    Raises:
        UsageError: There is one.
        psycopg.Error: It cannot be asked.
    """
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'bulkgrok'::regnamespace AND relkind = 'r' "
        "AND relpersistence <> 'p' ORDER BY relname"
    ).fetchall()
    if found:
        names = ", ".join(f"bulkgrok.{name}" for (name,) in found)
        msg = (
            f"The checkpoint {url} cannot be relied on: {names} is unlogged and empty after a crash. Nothing was sent."
        )
        raise UsageError(msg, hint=f"ALTER TABLE bulkgrok.{found[0][0]} SET LOGGED")


def _settings(connection: Connection) -> dict[str, str]:
    found = connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', "
        "'server_encoding', 'transaction_read_only') "
        "UNION ALL SELECT 'in_recovery', CASE WHEN pg_is_in_recovery() THEN 'on' ELSE 'off' END"
    ).fetchall()
    return {str(name): str(value) for name, value in found}


def _refusals(settings: dict[str, str], version: int) -> Sequence[tuple[bool, str, str]]:
    """Return (whether it is so, what is wrong, what to do) of everything that is refused."""
    return (
        (
            version < _OLDEST,
            f"it is PostgreSQL {version // 10_000}, and 13 is the oldest that is supported",
            "Name another server.",
        ),
        (
            settings["in_recovery"] == "on",
            "the server is a standby and takes no changes",
            "Name the primary; with several hosts: ?target_session_attrs=read-write",
        ),
        (
            settings["transaction_read_only"] == "on",
            "the session is read-only (default_transaction_read_only)",
            "ALTER ROLE … SET default_transaction_read_only = off",
        ),
        (
            settings["fsync"] != "on",
            "the server runs with fsync=off, and a power cut loses answers that were paid for",
            "Set fsync = on in postgresql.conf and restart the server, or name another one.",
        ),
        (
            settings["synchronous_commit"] not in _STRONG,
            f"synchronous_commit stays {settings['synchronous_commit']}, and a crash loses what was acknowledged",
            "Let this role set synchronous_commit = on.",
        ),
        (
            settings["server_encoding"] != "UTF8",
            f"the database is encoded in {settings['server_encoding']}, which cannot hold every answer",
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
        ),
    )
