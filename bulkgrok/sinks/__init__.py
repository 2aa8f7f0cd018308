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

from bulkgrok.core.errors import UsageError
from bulkgrok.core.model import Decoded
from bulkgrok.core.ports import Sink

#: (output format, folder) -> where the class is. Imported when opened: a JSONL run never loads pyarrow.
SINKS: Final[Mapping[tuple[str, bool], str]] = {
    ("jsonl", False): "bulkgrok.sinks.jsonl:JsonlSink",
    ("jsonl", True): "bulkgrok.sinks.parts:JsonlParts",
    ("parquet", False): "bulkgrok.sinks.parquet:ParquetSink",
    ("parquet", True): "bulkgrok.sinks.parquet:ParquetParts",
}


def open_sink(
    *, output: Path, folder: bool, output_format: str, simulated: bool, summarise: Callable[[str, bytes], Decoded]
) -> Sink:
    """Return the sink for an output place. Touches nothing yet: `check` looks, `restore` creates.

    Args:
        output: The results file, or the folder of parts.
        folder: Whether `output` is a folder of parts.
        output_format: jsonl or parquet.
        simulated: Whether rows are marked as simulated.
        summarise: Decodes an answer, given its kind's name and its body; never raises. Tables take columns from it.

    Raises:
        UsageError: There is no such format.
    """
    try:
        module, _, name = SINKS[output_format, folder].partition(":")
    except KeyError:
        msg = f"unknown output format {output_format!r}"
        raise UsageError(msg, hint="--output-format jsonl or parquet") from None
    factory = getattr(import_module(module), name)
    return cast("Sink", factory(output, simulated=simulated, summarise=summarise))
