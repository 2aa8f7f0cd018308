"""The outcomes that were committed last, so that the outbox need not be read back from the file it was just written to.

Law: holds nothing but what a committed transaction stored, equal to what the outbox would read; what is given is an
unbroken run of sequence numbers. Where it has nothing to give the outbox is read, so what it forgets costs time only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from bulkgrok.core.model import Settled

_MOST: Final = 1_024
_MOST_BYTES: Final = 2 << 20
"""About one page of the outbox: what is held longer is memory that the next page takes as well."""


class Recent:
    """Keeps about a thousand outcomes, the last ones, until they were given."""

    def __init__(self) -> None:
        self._kept: deque[Settled] = deque()
        self._bytes = 0

    def add(self, committed: Sequence[Settled]) -> None:
        """Keep outcomes of a transaction that is durable, in order of seq."""
        kept = self._kept
        for outcome in committed:
            if kept and kept[-1].seq + 1 != outcome.seq:
                self.forget()
            kept.append(outcome)
            self._bytes += _size(outcome)
        while self._bytes > _MOST_BYTES or len(kept) > _MOST:
            self._bytes -= _size(kept.popleft())

    def after(self, seq: int, limit: int) -> list[Settled]:
        """Return at most `limit` outcomes from seq + 1 on; none where the first of them is not kept.

        What lies before them was taken by whoever asks, and is forgotten.
        """
        kept = self._kept
        while kept and kept[0].seq <= seq:
            self._bytes -= _size(kept.popleft())
        if not kept or kept[0].seq != seq + 1:
            return []
        return list(islice(kept, limit))

    def forget(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._bytes = 0


def _size(outcome: Settled) -> int:
    return len(outcome.custom_id) + (0 if outcome.body is None else len(outcome.body))  # all else is part of the body
