"""What requests really take of a token limit, learnt from what `usage` reports.

Law: pure. Actual tokens are a straight line over the estimated ones: its height is what the API adds to each prompt
unseen (about 700 were observed), its slope what answers take of the room they ask for.
"""

from __future__ import annotations

from typing import Final

_MEMORY: Final = 0.97
"""What an observation still counts for when the next one comes."""
_STEEPEST: Final = 20.0
_NOTHING: Final[tuple[float, ...]] = (0.0, 0.0, 0.0, 0.0, 0.0)


class Estimates:
    """One line for each group of like requests: an exponentially weighted regression."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], tuple[float, float, float, float, float]] = {}

    def of(self, model: str, kind: str, estimated: int) -> float:
        """Return how many tokens a request will take, as far as is known."""
        line = self._lines.get((model, kind))
        if line is None:
            return estimated
        weight, x, y, xx, xy = line
        x, y = x / weight, y / weight
        variance, together = xx / weight - x * x, xy / weight - x * y
        # Where all were alike, a longer one is longer by its prompt, whatever answers leave of their room.
        known = variance > 1e-4 * (x * x + 1.0)
        slope = min(_STEEPEST, max(0.0, together / variance)) if known else 1.0
        return max(1.0, min(y + slope * (estimated - x), _STEEPEST * (estimated + 1_000.0)))

    def learn(self, model: str, kind: str, *, estimated: int, actual: int) -> None:
        """Note what a request took."""
        weight, x, y, xx, xy = self._lines.get((model, kind), _NOTHING)
        self._lines[model, kind] = (
            weight * _MEMORY + 1.0,
            x * _MEMORY + estimated,
            y * _MEMORY + actual,
            xx * _MEMORY + estimated * estimated,
            xy * _MEMORY + estimated * actual,
        )
