"""The formats that can be read, and how their files are named.

Law: looks at names only; what the bytes of a file say is for `opening`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format that can be read: how its files are named, and where its reader is (imported when opened)."""

    suffixes: tuple[str, ...]
    reader: str
    text: bool
    """Text formats may be compressed as a whole."""


FORMATS: Final[Mapping[str, Format]] = {
    "jsonl": Format(suffixes=(".jsonl", ".ndjson", ".json"), reader="bulkgrok.readers.jsonl:JsonlReader", text=True),
    "txt": Format(suffixes=(".txt",), reader="bulkgrok.readers.text:TextReader", text=True),
    "parquet": Format(suffixes=(".parquet", ".pq"), reader="bulkgrok.readers.parquet:ParquetReader", text=False),
}
#: compression -> its suffixes.
COMPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {"gzip": (".gz",), "zstd": (".zst", ".zstd")}
#: What begins the names of files that are no data, by the habit of Spark, Hive and of bulkgrok's own outputs.
_NO_DATA: Final = (".", "_")
#: What the names of files have in them that a run wrote beside its input.
_WRITTEN: Final = (".results.", ".errors.")


def named(name: str) -> tuple[str | None, str | None]:
    """Return the format and the compression that a file's name promises."""
    name = name.lower()
    compression = None
    for candidate, suffixes in COMPRESSIONS.items():
        if name.endswith(suffixes):
            compression = candidate
            name = name.rpartition(".")[0]
            break
    for candidate, known in FORMATS.items():
        if name.endswith(known.suffixes):
            return candidate, compression
    return None, compression


def is_named_as_input(name: str) -> bool:
    """Tell whether a file in a folder is likely meant as an input."""
    if name.startswith(_NO_DATA) or any(mark in name.lower() for mark in _WRITTEN):
        return False
    found, compression = named(name)
    return found is not None and (compression is None or FORMATS[found].text)
