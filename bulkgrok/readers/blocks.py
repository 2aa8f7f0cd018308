"""The bytes of a text input, unpacked if need be, as blocks.

Law: memory is flat whatever a file unpacks to. When a file is cut off or damaged, every byte that can be unpacked in
order comes before BrokenInput; pyarrow's and the system's exceptions end here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Protocol

from bulkgrok.readers.identity import Place, open_input

#: n bytes read at a time. Splitting a block of very short lines takes dozens of times its size.
BLOCK_BYTES: Final = 1 << 18


class BrokenInput(Exception):
    """The bytes end here, and not because the file does."""


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def blocks(path: Place, *, compression: str | None, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of at most `block_bytes`, none of them empty.

    Args:
        path: A regular file.
        compression: gzip, zstd, or None for a plain file. Files of several members or frames are one text.
        block_bytes: How much to read at a time.

    Raises:
        BrokenInput: It is cut off, damaged, or the disk fails.
        InputError: It cannot be opened.
    """
    if compression is None:
        return _plain(path, block_bytes)
    return _unpacked(path, compression, block_bytes)


def _plain(path: Place, block_bytes: int) -> Iterator[bytes]:
    with open_input(path) as file:
        try:
            while block := file.read(block_bytes):
                yield block
        except OSError as error:
            raise BrokenInput(error.strerror or str(error)) from None


def _unpacked(path: Place, compression: str, block_bytes: int) -> Iterator[bytes]:
    import pyarrow as pa  # noqa: PLC0415 - plain files start without it

    failures = (pa.ArrowException, OSError, ValueError, MemoryError)
    done = 0
    try:
        with open_input(path) as file, pa.CompressedInputStream(pa.PythonFile(file, "r"), compression) as stream:
            buffer = memoryview(bytearray(block_bytes))
            while count := stream.readinto(buffer):  # `read` never gives back what it took for a block that fails
                done += count
                yield bytes(buffer[:count])
            return
    except failures as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    # The failed read has swallowed what it had got so far. Read up to there again, then byte by byte.
    with (
        suppress(*failures),
        open_input(path) as file,
        pa.CompressedInputStream(pa.PythonFile(file, "r"), compression) as stream,
    ):
        while done > 0:
            done -= len(stream.read(min(done, block_bytes))) or done
        if rest := _crumbs(stream, block_bytes, failures):
            yield rest
    raise BrokenInput(reason)


def _crumbs(stream: _Stream, limit: int, failures: tuple[type[Exception], ...]) -> bytes:
    """Return what can be read before the next failure."""
    crumbs = bytearray()
    with suppress(*failures):
        while len(crumbs) < limit and (crumb := stream.read(1)):
            crumbs += crumb
    return bytes(crumbs)
