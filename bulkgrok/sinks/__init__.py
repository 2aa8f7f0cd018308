"""Sinks: projections of the outbox onto files, one module a shape, and the errors file.

Law: a sink owns nothing that the store does not hold. Its output may vanish, be cut or be torn at any byte; `restore`
brings it back to a stored position and the outbox is replayed from there. A file that this run did not write is never
touched. Opening is table-driven: a new sink is one new file and one line in SINKS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from bulkgrok.core.address import Address
from bulkgrok.core.errors import UsageError
from bulkgrok.core.model import Decoded
from bulkgrok.core.ports import Sink
from bulkgrok.objects import ObjectStore, store_of
from bulkgrok.sinks.places import Folder, Place

#: (output format, folder) -> where the class is. Imported when opened: a JSONL run never loads pyarrow.
SINKS: Final[Mapping[tuple[str, bool], str]] = {
    ("jsonl", False): "bulkgrok.sinks.jsonl:JsonlSink",
    ("jsonl", True): "bulkgrok.sinks.parts:JsonlParts",
    ("parquet", False): "bulkgrok.sinks.parquet:ParquetSink",
    ("parquet", True): "bulkgrok.sinks.parquet:ParquetParts",
}
#: The same in an object store, where it is another one: nothing can be appended there.
REMOTE: Final[Mapping[tuple[str, bool], str]] = {**SINKS, ("jsonl", False): "bulkgrok.sinks.whole:JsonlWhole"}


def place_of(
    output: Path | Address, *, scratch: Path | None, stores: Callable[[Address], ObjectStore] = store_of
) -> Place:
    """Return the folder, on a disk or in an object store, that an output is.

    Args:
        output: Where.
        scratch: A folder on the disk for what goes to an object store.
        stores: Opens an object store.
    """
    if isinstance(output, Path):
        return Folder(output)
    from bulkgrok.sinks.remote import Bucket  # noqa: PLC0415 - only where an address is given

    if scratch is None:
        msg = f"{output} needs a folder on the disk"
        raise ValueError(msg)
    return Bucket(output, scratch=scratch, stores=stores)


def open_sink(  # noqa: PLR0913 - what an output is
    *,
    output: Path | Address,
    folder: bool,
    output_format: str,
    simulated: bool,
    summarise: Callable[[str, bytes], Decoded],
    scratch: Path | None = None,
    stores: Callable[[Address], ObjectStore] = store_of,
) -> Sink:
    """Return the sink for an output place. Touches nothing yet: `check` looks, `restore` creates.

    Args:
        output: The results file, or the folder of parts.
        folder: Whether `output` is a folder of parts.
        output_format: jsonl or parquet.
        simulated: Whether rows are marked as simulated.
        summarise: Decodes an answer, given its kind's name and its body; never raises. Tables take columns from it.
        scratch: A folder on the disk for what goes to an object store.
        stores: Opens an object store.

    Raises:
        UsageError: There is no such format.
    """
    try:
        known = SINKS if isinstance(output, Path) else REMOTE
        module, _, name = known[output_format, folder].partition(":")
    except KeyError:
        msg = f"unknown output format {output_format!r}"
        raise UsageError(msg, hint="--output-format jsonl or parquet") from None
    factory = getattr(import_module(module), name)
    if isinstance(output, Path):
        return cast("Sink", factory(output, simulated=simulated, summarise=summarise))
    place = place_of(output if folder else output.parent, scratch=scratch, stores=stores)
    if folder:
        return cast("Sink", factory(place, simulated=simulated, summarise=summarise))
    return cast("Sink", factory(output, place=place, simulated=simulated, summarise=summarise))
