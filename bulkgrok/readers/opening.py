"""What a file is, and which reader reads it.

Law: name first, then bytes. The magic bytes of gzip, zstd and Parquet can begin no line of JSON and no text in UTF-8,
so they win over a name that says otherwise; a name that promises one of them and does not keep it is an InputError.
What neither names nor shows a format is read as JSON lines. Looks at the first and last bytes only.
"""

from __future__ import annotations

from importlib import import_module
from typing import BinaryIO, Final, cast

from bulkgrok.core.errors import InputError
from bulkgrok.core.ports import Reader
from bulkgrok.readers.blocks import BrokenInput, blocks
from bulkgrok.readers.formats import COMPRESSIONS, FORMATS, named
from bulkgrok.readers.identity import Place, open_input

PARQUET_MAGIC: Final = b"PAR1"
#: n bytes unpacked at a time where only their being there matters.
_VERIFY_BYTES: Final = 1 << 20
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


#: What to assume of a file that says nothing.
_DEFAULT: Final = "jsonl"
#: What looks like an input to its user and is none; every line of it would be a bad row.
_FOREIGN: Final = (".csv", ".tsv", ".xlsx", ".xls")


def open_reader(path: Place, *, columns: frozenset[str] | None = None, format: str | None = None) -> Reader:  # noqa: A002 - the word users know
    """Return the reader of an input file, after a look at what it is.

    Args:
        path: A regular file.
        columns: The columns of a table that are needed, None for all; those it does not have are simply absent.
        format: jsonl, txt or parquet, whatever the name says; None: from name and content.

    Raises:
        InputError: There is no such file, it cannot be read, or it is not what its name says.
    """
    if format is not None and format not in FORMATS:
        msg = f"unknown input format {format!r}"
        raise InputError(msg, hint=f"One of {', '.join(FORMATS)}.")
    with open_input(path) as file:
        head = file.read(4)
        table = head == PARQUET_MAGIC and _ends_as_parquet(file)
    found = _compression_of(head)
    name, promised = named(path.name)
    if format is None and not table and name is None:
        _check_foreign(path)
    chosen = format or ("parquet" if table else name) or _DEFAULT
    text = FORMATS[chosen].text
    if text:
        _check_text(path, head, found=found, promised=promised)
        return _make(chosen, path, compression=found)
    if not table:
        raise _no_parquet(path, found=found)
    return _make(chosen, path, columns=columns)


def verify(path: Place) -> None:
    """Read a compressed text input through once, so that a damaged one is refused before anything is sent.

    Builds no rows; returns at once for plain text and Parquet, whose damage is seen when they are opened or not at all.

    Args:
        path: A regular file.

    Raises:
        InputError: It cannot be opened, or its bytes are cut off or damaged.
    """
    with open_input(path) as file:
        compression = _compression_of(file.read(4))
    if compression is None:
        return
    lines = 0
    try:
        for block in blocks(path, compression=compression, block_bytes=_VERIFY_BYTES):
            lines += block.count(b"\n")
    except BrokenInput as error:
        msg = f"{path} breaks off after line {lines}: {error}. Nothing was sent."
        raise InputError(msg, hint="The file is cut off or damaged: make or copy it again.") from None


def _make(chosen: str, path: Place, **arguments: object) -> Reader:
    module, _, name = FORMATS[chosen].reader.partition(":")
    return cast("Reader", getattr(import_module(module), name)(path, **arguments))


def _compression_of(head: bytes) -> str | None:
    """Return the compression that a file's first four bytes show."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    # A zstd file may begin with a skippable frame (RFC 8878, 3.1.2): pzstd writes one.
    if head == b"\x28\xb5\x2f\xfd" or (len(head) == 4 and head[0] & 0xF0 == 0x50 and head[1:] == b"\x2a\x4d\x18"):
        return "zstd"
    return None


def _check_foreign(path: Place) -> None:
    name = path.name.lower()
    for suffix in (suffix for suffixes in COMPRESSIONS.values() for suffix in suffixes):
        name = name.removesuffix(suffix)
    if name.endswith(_FOREIGN):
        msg = f"bulkgrok reads .jsonl, .parquet and .txt; convert {path.name} first. Nothing was sent."
        raise InputError(msg, hint='One JSON object a line, its keys the columns: {"custom_id": …, "prompt": …}')


def _ends_as_parquet(file: BinaryIO) -> bool:
    size = file.seek(0, 2)
    if size < 12:
        return False
    file.seek(-4, 2)
    return file.read(4) == PARQUET_MAGIC


def _check_text(path: Place, head: bytes, *, found: str | None, promised: str | None) -> None:
    if promised and not found:
        what = "is empty" if not head else f"is not {promised}"
        msg = f"{path} {what}, though its name says {promised}. Nothing was sent."
        raise InputError(msg, hint="Copy it again; if it is plain text, take the last suffix off its name.")
    if head.startswith(_UTF16):
        msg = f"{path} is UTF-16 or UTF-32 text; inputs are UTF-8. Nothing was sent."
        raise InputError(msg, hint=f"iconv -f UTF-16 -t UTF-8 {path} > converted{path.suffix or '.jsonl'}")


def _no_parquet(path: Place, *, found: str | None) -> InputError:
    if found:
        msg = f"{path} is compressed with {found} as a whole, which Parquet never is. Nothing was sent."
        return InputError(msg, hint="Unpack it first.")
    msg = f"{path} is no Parquet file, or an incomplete one: the marks at its beginning and end are not both there."
    return InputError(f"{msg} Nothing was sent.", hint="Copy it again; if it is JSON lines, call it .jsonl.")
