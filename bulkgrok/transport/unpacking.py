"""gzip and deflate that nobody asked for, undone a piece at a time.

Law: what comes out at once is bounded, whatever goes in. One layer only. Each of the three formats that servers call
gzip or deflate is recognised by its first bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

ZLIB: Final = frozenset({"gzip", "x-gzip", "deflate"})
_PIECE_BYTES: Final = 1 << 18
_GZIP: Final = b"\x1f\x8b"


class Unpacking:
    """One packed body."""

    def __init__(self) -> None:
        self.ended = False
        """Whether the packed data came to its end."""
        self._wbits = 0
        self._inflate: zlib._Decompress | None = None
        self._header = b""

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what a block unpacks to, in pieces of at most 256 KiB.

        Raises:
            zlib.error: It is not packed, or damaged.
        """
        while block:
            if self._inflate is None:
                block = self._header + block
                self._header = b""
                if len(block) < 2:
                    self._header = block
                    return
                if not self._begin(block):
                    return
            inflate = self._inflate
            assert inflate is not None  # noqa: S101 - begun above
            piece = inflate.decompress(block, _PIECE_BYTES)
            block = inflate.unconsumed_tail
            while piece:
                yield piece
                # Where its input is used up, there may still be output.
                piece = b"" if block or inflate.eof else inflate.decompress(b"", _PIECE_BYTES)
            if inflate.eof:
                self.ended, self._inflate, block = True, None, inflate.unused_data

    def _begin(self, block: bytes) -> bool:
        """Recognise the format: gzip or zlib by its header, else bare deflate. False for what only lies behind it."""
        if self.ended and (self._wbits < 0 or not block.startswith(_GZIP)):
            return False
        header = int.from_bytes(block[:2])
        is_zlib = block[0] & 0x0F == 8 and header % 31 == 0
        self._wbits = zlib.MAX_WBITS | 32 if block.startswith(_GZIP) or is_zlib else -zlib.MAX_WBITS
        self._inflate, self.ended = zlib.decompressobj(self._wbits), False
        return True


def unpacked(packed: bytes, most_bytes: int) -> tuple[bytes, bool] | None:
    """Unpack what is in memory; return it and whether it came to its end, None where it is larger than `most_bytes`.

    Raises:
        zlib.error: It is not packed, or damaged.
    """
    unpacking, body = Unpacking(), bytearray()
    for piece in unpacking.feed(packed):
        body += piece
        if len(body) > most_bytes:
            return None
    return bytes(body), unpacking.ended or not packed
