"""Standard input, kept as a file so that it can be read again.

Law: the spool exists under its name only when it is complete and durable; what a crash leaves behind is thrown away.
A complete spool is never written to again: a pipe that comes with it must hold the same bytes, or none.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from bulkgrok.core.errors import InputError, RunMismatch, StorageFailed

#: The spool's name in the run directory. Its content is sniffed: it may be compressed, or Parquet.
SPOOL: Final = "input.jsonl"

_BLOCK: Final = 1 << 18
#: How gzip, zstd and Parquet begin: lines mean nothing in them.
_BINARY: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1")


def spool_stdin(stream: BinaryIO | None, directory: Path) -> Path:
    """Return the file that holds standard input, after reading `stream` to its end.

    With a complete spool from an earlier start, the stream is compared with it; an empty one, a terminal or None
    means the spool. Blocks while the stream does.

    Args:
        stream: Standard input, binary; None where there is none.
        directory: The run directory. It exists, and no other runner uses it.

    Raises:
        InputError: Nothing came and there is no complete spool, or the stream failed.
        RunMismatch: What came differs from the spool, which is as it was.
        StorageFailed: The spool could not be written or read.
    """
    spool = directory / SPOOL
    if stream is not None and (stream.closed or stream.isatty()):
        stream = None
    if stream is not None:
        _make_blocking(stream)
    first = _read(stream) if stream is not None else b""
    if _is_kept(spool):
        if stream is not None and first:
            _compare(stream, first, spool)
        return spool
    if stream is None or not first:
        msg = "Standard input is empty, and no earlier start of this run kept it. Nothing was sent."
        raise InputError(msg, hint="Pipe the input again: bulkgrok run - -o results.jsonl < inputs.jsonl")
    _keep(stream, first, spool)
    return spool


def _is_kept(spool: Path) -> bool:
    """Tell whether there is a complete spool.

    Raises:
        StorageFailed: Something else is in its place.
    """
    try:
        mode = spool.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_be_read(spool, error.strerror or str(error)) from None
    if not stat.S_ISREG(mode):
        raise _cannot_be_read(spool, "it is no regular file")
    return True


def _cannot_be_read(spool: Path, why: str) -> StorageFailed:
    msg = f"The kept input {spool} cannot be read: {why}. Nothing was sent."
    return StorageFailed(msg, hint="Check the disk, then type the same command again.")


def _make_blocking(stream: BinaryIO) -> None:
    """See to it that an empty read means the end: some parents hand down a pipe that does not wait."""
    with suppress(OSError, ValueError):
        os.set_blocking(stream.fileno(), True)


def _read(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_BLOCK)
    except (OSError, ValueError) as error:
        msg = f"Standard input cannot be read: {error}. Nothing was sent."
        raise InputError(msg, hint="Type the same command again.") from None


def _keep(stream: BinaryIO, block: bytes, spool: Path) -> None:
    partial = spool.with_name(f"{SPOOL}.partial")
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                while block:
                    _write(file, block)
                    block = _read(stream)
                os.fsync(file.fileno())
            partial.replace(spool)
        except BaseException:
            # A full disk is full because of it.
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_directory(spool.parent)
    except OSError as error:
        msg = f"Standard input could not be kept in {spool}: {error.strerror or error}. Nothing was sent."
        raise StorageFailed(msg, hint="Make room or choose another --run-dir, then pipe the input again.") from None


def _write(file: BinaryIO, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compare(stream: BinaryIO, block: bytes, spool: Path) -> None:
    """Read the stream to its end against the spool; raise at the first difference."""
    done = 0
    lines = 0
    text = not block.startswith(_BINARY)
    try:
        with spool.open("rb") as file:
            while block:
                kept = file.read(len(block))
                if kept != block:
                    same = next(
                        (i for i, pair in enumerate(zip(kept, block, strict=False)) if pair[0] != pair[1]), len(kept)
                    )
                    line = lines + kept.count(b"\n", 0, same) + 1 if text else None
                    raise _differs(done + same, line, longer=same == len(kept))
                done += len(block)
                lines += block.count(b"\n")
                block = _read(stream)
            if file.read(1):
                raise _differs(done, lines + 1 if text else None, shorter=True)
    except OSError as error:
        raise _cannot_be_read(spool, error.strerror or str(error)) from None


def _differs(position: int, line: int | None, *, longer: bool = False, shorter: bool = False) -> RunMismatch:
    where = f"byte {position + 1}" if line is None else f"byte {position + 1} (line {line})"
    if shorter:
        how = f"it ends before {where}, where the input of this run goes on"
    elif longer:
        how = f"it goes on at {where}, where the input of this run ends"
    else:
        how = f"the first difference is at {where}"
    msg = f"Standard input is not what this run was begun with: {how}. Nothing was sent, and all answers are kept."
    hint = (
        "-o OTHER.jsonl starts afresh with it; to go on with the input that was kept, end the command with < /dev/null"
    )
    return RunMismatch(msg, hint=hint)
