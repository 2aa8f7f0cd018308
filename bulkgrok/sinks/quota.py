"""Where a part or a row group ends.

Law: the boundary depends on the rows alone, never on how they were batched, so that a replay cuts in the same places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bulkgrok.core.model import Settled


class Quota:
    """Count rows until there are `rows` of them or their bodies make up `size_bytes`."""

    def __init__(self, *, rows: int, size_bytes: int) -> None:
        self._most_rows = rows
        self._most_bytes = size_bytes
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.rows = 0
        self.size_bytes = 0

    @property
    def full(self) -> bool:
        """Whether no further row belongs here."""
        return self.rows >= self._most_rows or self.size_bytes >= self._most_bytes

    def split(self, outcomes: Sequence[Settled]) -> Iterator[Sequence[Settled]]:
        """Yield the outcomes in pieces, each up to where the quota is full; whoever sees it full calls `clear`."""
        start = 0
        for end, settled in enumerate(outcomes, 1):
            self.rows += 1
            self.size_bytes += len(settled.body or b"")
            if self.full:
                yield outcomes[start:end]
                start = end
        if start < len(outcomes):
            yield outcomes[start:]
