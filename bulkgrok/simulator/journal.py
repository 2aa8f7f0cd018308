"""A world's records in a file, so that a simulated run resumes as a real one does.

Law: appended and never rewritten, one JSON object a line, written to the operating system before the reply it tells of
(a killed process loses nothing; a power cut may, which costs nothing here). A torn last line is cut off.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import orjson

from bulkgrok.core.errors import StorageFailed

_MODE: Final = 0o600


class Journal:
    """The file of one world. One process at a time holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def open(self) -> list[dict[str, Any]]:
        """Create or open the file and return its records, those that cannot be read left out.

        Raises:
            StorageFailed: It cannot be read or written.
        """
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
            os.fchmod(self._file, _MODE)
            with Path(self._path).open("rb") as file:
                data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.ftruncate(self._file, whole)
        except OSError as error:
            raise self._failed(error) from error
        return [record for line in data[:whole].splitlines() if (record := _read(line)) is not None]

    def append(self, record: dict[str, Any]) -> None:
        """Write one record.

        Raises:
            StorageFailed: The disk refused it.
        """
        if self._file is None:
            return
        line = orjson.dumps(record) + b"\n"
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _failed(self, error: OSError) -> StorageFailed:
        msg = f"The simulator's journal {self._path} cannot be used: {error.strerror or error}. It holds nothing paid."
        return StorageFailed(
            msg, hint="free space or remove the simulated run's directory, then the same command again"
        )


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None
