"""An object as a file that is read in pieces.

Law: memory is that of a few pieces. After each piece the store is asked whether it is still the object that was opened:
a piece of another content is never handed on.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from bulkgrok.objects.failures import ObjectFailure, Unreachable, mapping
from bulkgrok.objects.store import Found, ObjectStore

#: n bytes asked for at once, at first and where reading goes straight on.
_PIECE_BYTES: Final = 1 << 20
_LARGEST_BYTES: Final = 8 << 20
#: n bytes that are kept.
_KEPT_BYTES: Final = 32 << 20
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 15.0


class Changed(ObjectFailure):
    """Another object is there now."""


class ObjectFile(io.RawIOBase):
    """An object, open for reading.

    Args:
        store: Where it is.
        key: Its name.
        expected: What is said of the one that is meant; None takes the one that is there.
        patience_s: How long a store that cannot be reached is asked again before that is an error.
        given_up: Once set, it is an error at once.

    Raises:
        Changed: Another one is there, at the start or at any later read.
        ObjectFailure: It cannot be opened or read.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        expected: Found | None = None,
        patience_s: float = 0.0,
        given_up: threading.Event | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._patience_s = patience_s
        self._given_up = given_up or threading.Event()
        self._place = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._next = -1
        """Where the last piece ended."""
        self._step = _PIECE_BYTES
        self._file, self.found = self._patiently(lambda: self._store.open(self._key))
        if expected is not None and not expected.same(self.found):
            raise Changed(_CHANGED)

    def _patiently(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - what `call` returns
        waited, wait = 0.0, _FIRST_WAIT_S
        while True:
            try:
                return call()
            except Unreachable:
                if waited >= self._patience_s or self._given_up.wait(wait):
                    raise
                waited, wait = waited + wait, min(2 * wait, _LONGEST_WAIT_S)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.found.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - anything that holds bytes
        """Fill as much of a buffer as one piece holds; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._at(self._place, len(view))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, fewer only at the end; the rest for -1."""
        left = self.found.size - self._place if size < 0 else size
        pieces = []
        while left > 0 and (data := self._at(self._place, left)):
            pieces.append(bytes(data))
            self._place += len(data)
            left -= len(data)
        return b"".join(pieces)

    def pread(self, size: int, offset: int) -> bytes:
        """Return bytes from a place, without going there."""
        place, self._place = self._place, offset
        try:
            return self.read(size)
        finally:
            self._place = place

    def _at(self, place: int, size: int) -> memoryview:
        if place >= self.found.size or size <= 0:
            return memoryview(b"")
        for start in self._kept:
            piece = self._kept[start]
            if start <= place < start + len(piece):
                self._kept.move_to_end(start)
                return memoryview(piece)[place - start : place - start + size]
        return memoryview(self._fetch(place))[:size]

    def _fetch(self, place: int) -> bytes:
        self._step = min(2 * self._step, _LARGEST_BYTES) if place == self._next else _PIECE_BYTES
        size = min(self._step, self.found.size - place)
        piece: bytes = self._patiently(lambda: self._read(place, size))
        self._next = place + len(piece)
        self._kept[place] = piece
        self._kept_bytes += len(piece)
        while self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return piece

    def _read(self, place: int, size: int) -> bytes:
        with mapping():
            piece = bytes(self._file.read_at(size, place))
        now = self._store.look(self._key)
        if now is None or not now.same(self.found) or len(piece) != size:
            raise Changed(_CHANGED)
        return piece

    def close(self) -> None:
        """Let go of it."""
        if not self.closed:
            self._kept.clear()
            file = getattr(self, "_file", None)
            if file is not None:
                file.close()
        super().close()


_CHANGED: Final = "another object is there now"
