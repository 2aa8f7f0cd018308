"""Reading a checkpoint in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

from bulkgrok.checkpoint import blobs
from bulkgrok.checkpoint.postgres_connecting import Connection
from bulkgrok.checkpoint.postgres_mishaps import damaged
from bulkgrok.checkpoint.reading import Reading
from bulkgrok.checkpoint.statements import load
from bulkgrok.checkpoint.values import Columns
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.errors import StorageFailed

T = TypeVar("T")

_SQL: Final = load("postgres_reads.sql")
#: statement -> where its columns hold an answer; the answer's size is then the last of them.
_BODIES: Final = {"record": 12, "outbox": 12, "failures": 12, "outcome": 12}


class Access(Protocol):
    """What reads: a runner's session, or an observer's."""

    @property
    def run(self) -> int:
        """The number of the run."""
        ...

    def read(self, ask: Callable[[Connection], T]) -> T:
        """Return what a function reads. Raises StorageFailed."""
        ...


class PostgresReading(Reading):
    """The reading half of a store in PostgreSQL.

    Args:
        url: The database.
    """

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url
        self._open_access: Access | None = None

    @property
    def _access(self) -> Access:
        if self._open_access is None:
            msg = f"The checkpoint {self.url} is not open."
            raise StorageFailed(msg)
        return self._open_access

    def _all(self, statement: str, *parameters: object) -> list[Any]:
        access = self._access

        def ask(connection: Connection) -> list[Any]:
            cursor = connection.cursor(binary=True)
            return cursor.execute(_SQL[statement], (access.run, *parameters)).fetchall()

        found = access.read(ask)
        at = _BODIES.get(statement)
        return found if at is None else [_sized(columns, at) for columns in found]

    def _sized(self, statement: str, *parameters: object) -> Iterator[Columns]:
        return iter(self._all(statement, *parameters))

    def _large(self, row: int) -> bytes:
        return b"".join(piece for (piece,) in self._all("large", row))

    def _damaged(self, detail: str) -> StorageFailed:
        return damaged(self.url, detail)


def _sized(columns: Columns, at: int) -> Columns:
    """Return columns without the size of their answer, which takes the answer's place where that is large."""
    *found, size = columns
    if size is not None and size > blobs.LARGE_BYTES:
        found[at] = size
    return found
