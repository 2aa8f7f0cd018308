"""Chance without a generator: every draw is a function of the seed and of what it is drawn for.

Law: pure and stateless, so the same request meets the same fate whatever else happens around it, in whatever order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, TypeVar

T = TypeVar("T")

_SCALE: Final = 1.0 / (1 << 64)


class Chance:
    """Draws that depend on the seed and on the subject they are made for.

    Args:
        seed: Any whole number.
    """

    __slots__ = ("_key",)

    def __init__(self, seed: int) -> None:
        self._key = blake2b(str(seed).encode(), digest_size=32).digest()

    def digest(self, subject: bytes, purpose: str, size: int = 16) -> bytes:
        """Return `size` bytes (at most 64) for a purpose."""
        return blake2b(purpose.encode() + b"\0" + subject, digest_size=size, key=self._key).digest()

    def uniform(self, subject: bytes, purpose: str) -> float:
        """Return a number from 0 (inclusive) to 1 (exclusive)."""
        return (int.from_bytes(self.digest(subject, purpose, 8), "big") >> 11 << 11) * _SCALE

    def pick(self, options: Sequence[T], subject: bytes, purpose: str) -> T:
        """Return one of the options, all as likely."""
        return options[int(self.uniform(subject, purpose) * len(options))]

    def spread(self, median: float, sigma: float, subject: bytes, purpose: str) -> float:
        """Return a log-normal draw; the median itself where `sigma` is 0."""
        if sigma <= 0 or median <= 0:
            return median
        radius = math.sqrt(-2 * math.log(1 - self.uniform(subject, purpose + ".radius")))
        angle = math.tau * self.uniform(subject, purpose + ".angle")
        return median * math.exp(max(-20.0, min(20.0, sigma * radius * math.cos(angle))))

    def identifier(self, subject: bytes, purpose: str) -> str:
        """Return an identifier in the form the API uses, which is that of a UUID."""
        text = self.digest(subject, purpose).hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
