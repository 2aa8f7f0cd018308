"""The results as Parquet: one file at the end, or a folder of parts."""

from __future__ import annotations

from typing import ClassVar

from bulkgrok.sinks.files import Draft
from bulkgrok.sinks.parts import PartsSink, PartWriter
from bulkgrok.sinks.table import RowGroups
from bulkgrok.sinks.whole import WholeSink


class ParquetSink(WholeSink):
    """Write one Parquet file."""

    suffix: ClassVar[str] = "parquet"

    def _writer(self, draft: Draft) -> PartWriter:
        return RowGroups(draft, mark=self._mark, simulated=self._simulated, summarise=self._summarise)


class ParquetParts(PartsSink):
    """Write a folder of `part-00000000.parquet` …."""

    suffix: ClassVar[str] = "parquet"

    def _writer(self, draft: Draft) -> PartWriter:
        return RowGroups(draft, mark=self._mark, simulated=self._simulated, summarise=self._summarise)
