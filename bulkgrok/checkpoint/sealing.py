"""Pages that tell of themselves whether they are what was written: a flipped bit on the disk is seen, never believed.

Law: each page of the database file ends in a checksum of its other bytes and of its number, so that a damaged, zeroed,
exchanged or missing page cannot be read. Checksums are set where pages are written to the file and verified where they
are read from it, in between SQLite and the operating system; the write-ahead log has SQLite's own.

SQLite leaves the last bytes of a page alone where the file's header says so. Files without that (none of ours) are
passed through as they are. Any SQLite can read the file, but what another one writes into it counts as damage.

A flush stops no other thread: see `flushing`.
"""

from __future__ import annotations

import os
import zlib
from types import TracebackType
from typing import Final

import apsw

from bulkgrok.checkpoint.flushing import Flushing

RESERVED_BYTES: Final = 8
_SUM_BYTES: Final = 4
_HEADER_BYTES: Final = 100
_RESERVED_AT: Final = 20
_SMALLEST_PAGE: Final = 512
#: A file system feature that lets SQLite read parts of pages, which no checksum covers (SQLITE_IOCAP_SUBPAGE_READ).
_SUBPAGE_READ: Final = 0x8000
#: The VFS that goes straight to the operating system.
_SYSTEM: Final = "unix"


def sealed() -> str:
    """Return the name of the VFS that seals pages, on top of the one that is the default now. Changes no default."""
    base = apsw.vfs_names()[0]
    if base not in _REGISTERED:
        _REGISTERED[base] = _Sealing(f"bulkgrok-sealed-{base}", base)
    return f"bulkgrok-sealed-{base}"


class _Sealing(apsw.VFS):
    """Opens database files sealed, and all others as its base does."""

    def __init__(self, name: str, base: str) -> None:
        self._base = base
        super().__init__(name, base)

    def xFullPathname(self, name: str) -> str:  # noqa: N802 - SQLite's name
        """Return where a file is. SQLite reports links on the way by a code that this seam takes for an error."""
        return os.path.realpath(name)

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        """Print nothing: whoever called SQLite is told."""
        del etype, evalue, etraceback
        return True

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        """Open a file."""
        kind = _SealedFile if flags[0] & apsw.SQLITE_OPEN_MAIN_DB else _QuietFile
        return kind(self._base, name, flags)


#: By the name of what they stand on. A VFS lives as long as its object.
_REGISTERED: Final[dict[str, _Sealing]] = {}


class _QuietFile(apsw.VFSFile):
    """Any file of a checkpoint."""

    def __init__(self, base: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(base, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._flushing = Flushing(path if base == _SYSTEM else None)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        """Flush what was written."""
        if not self._flushing.flush():
            super().xSync(flags)  # the first time: it may flush the folder too
            self._flushing.begin()

    def xClose(self) -> None:  # noqa: N802 - SQLite's name
        """Close it."""
        super().xClose()
        self._flushing.end()

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        """Print nothing: whoever called SQLite is told."""
        del etype, evalue, etraceback
        return True


class _SealedFile(_QuietFile):
    """A database file whose pages are sealed, if its header says so."""

    def __init__(self, base: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(base, name, flags)
        self._page_bytes = 0
        """0 while the header has not been seen, and for a file without room for checksums."""

    def xDeviceCharacteristics(self) -> int:  # noqa: N802 - SQLite's name
        """Let whole pages be read only."""
        return super().xDeviceCharacteristics() & ~_SUBPAGE_READ

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        """Write a page with its checksum."""
        if offset == 0 and len(data) >= _SMALLEST_PAGE:
            self._look(data)
        if self._page_bytes and len(data) == self._page_bytes:
            content = bytes(memoryview(data)[:-_SUM_BYTES])
            data = content + _sum(content, offset)
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        """Read a page and verify it.

        Raises:
            CorruptError: It is not what was written.
        """
        data = super().xRead(amount, offset)
        if offset == 0 and len(data) >= _HEADER_BYTES:
            self._look(data)
        if self._page_bytes and amount == self._page_bytes:
            self._verify(data, offset)
        return data

    def _look(self, header: bytes) -> None:
        size = int.from_bytes(header[16:18])
        self._page_bytes = (65_536 if size == 1 else size) if header[_RESERVED_AT] == RESERVED_BYTES else 0

    def _verify(self, data: bytes, offset: int) -> None:
        page = offset // self._page_bytes + 1
        if len(data) < self._page_bytes:
            msg = f"page {page} is missing"
            raise apsw.CorruptError(msg)
        if _sum(memoryview(data)[:-_SUM_BYTES], offset) != data[-_SUM_BYTES:]:
            msg = f"page {page} is not what was written"
            raise apsw.CorruptError(msg)


def _sum(content: bytes | memoryview, offset: int) -> bytes:
    """Return the checksum of a page's content at its place. Begun with the place, or two pages could be exchanged."""
    return zlib.crc32(content, offset & 0xFFFFFFFF).to_bytes(_SUM_BYTES)
