"""Reading a checkpoint in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import apsw

from bulkgrok.checkpoint import blobs
from bulkgrok.checkpoint.mishaps import damaged, mapped
from bulkgrok.checkpoint.reading import Reading
from bulkgrok.checkpoint.statements import load
from bulkgrok.checkpoint.values import Columns
from bulkgrok.core.errors import StorageFailed

_SQL: Final = load("reads.sql")


class FileReading(Reading):
    """The reading half of a store in a file.

    Args:
        path: The file.
        connection: To it, where it is open already.
    """

    def __init__(self, path: Path, connection: apsw.Connection | None = None) -> None:
        self.path = path
        self._open_connection = connection

    @property
    def _connection(self) -> apsw.Connection:
        if self._open_connection is None:
            msg = f"The checkpoint {self.path} is not open."
            raise StorageFailed(msg)
        return self._open_connection

    def _mapped(self) -> AbstractContextManager[None]:
        return mapped(self.path)

    def _all(self, statement: str, *parameters: object) -> list[Any]:
        with self._mapped():
            return self._connection.execute(_SQL[statement], parameters).fetchall()

    def _sized(self, statement: str, *parameters: object) -> Iterator[Columns]:
        with self._mapped():
            cursor = self._connection.execute(_SQL[statement], parameters)
            try:
                yield from cursor
            finally:
                cursor.close()

    def _large(self, row: int) -> bytes:
        with self._mapped():
            return blobs.read(self._connection, row)

    def _damaged(self, detail: str) -> StorageFailed:
        return damaged(self.path, detail)
