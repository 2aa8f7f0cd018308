"""A world's records in a file, so that a simulated run resumes as a real one does.

Law: appended and never rewritten, one JSON object a line, written to the operating system before the reply it tells of
(a killed process loses nothing; a power cut may, which costs nothing here). A torn last line is cut off; each line
carries its checksum, and one that is damaged is told of: a world that is not what it was would give wrong answers.
Lines of runs that began before there were checksums carry none.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from bulkgrok.core.errors import StorageFailed

_MODE: Final = 0o600
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_BLOCK_BYTES: Final = 1 << 20
_HEAD: Final = b'{"crc32":'
_RECORD: Final = b',"record":'
_BARE: Final = b'{"t":'


class Journal:
    """The file of one world. One process at a time holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def open(self) -> list[dict[str, Any]]:
        """Create or open the file and return its records.

        Raises:
            StorageFailed: It cannot be read or written, or is damaged.
        """
        try:
            self._file = os.open(self._path, _FLAGS, _MODE)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")  # noqa: TRY301 - told like what the system says
            os.fchmod(self._file, _MODE)
            data = b"".join(iter(lambda: os.read(self._file or 0, _BLOCK_BYTES), b""))
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.ftruncate(self._file, whole)
        except OSError as error:
            self.close()
            raise self._failed(error.strerror or str(error)) from error
        return [self._read(line, number) for number, line in enumerate(data[:whole].splitlines(), 1)]

    def append(self, record: dict[str, Any]) -> None:
        """Write one record.

        Raises:
            StorageFailed: The disk refused it.
        """
        if self._file is None:
            return
        data = orjson.dumps(record)
        line = b"%b%d%b%b}\n" % (_HEAD, zlib.crc32(data), _RECORD, data)
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self, line: bytes, number: int) -> dict[str, Any]:
        head, _, rest = line.partition(_RECORD)
        data = rest[:-1]
        with suppress(orjson.JSONDecodeError):
            if line.startswith(_BARE):
                return dict(orjson.loads(line))
            if head == b"%b%d" % (_HEAD, zlib.crc32(data)) and rest.endswith(b"}"):
                record = orjson.loads(data)
                if isinstance(record, dict):
                    return record
        self.close()
        why = f"line {number} is damaged"
        raise self._failed(why)

    def _failed(self, why: str) -> StorageFailed:
        msg = f"The simulator's journal {self._path} cannot be used: {why}. It holds nothing paid."
        return StorageFailed(
            msg, hint="free space or remove the simulated run's directory, then the same command again"
        )
