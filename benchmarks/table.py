"""Figures as a table, and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median


@dataclass(slots=True, kw_only=True)
class Table:
    """One benchmark's outcome.

    Args:
        title: What was measured, as a claim can be read from it.
        columns: Names, with units.
        notes: What a reader must know to believe the figures.
    """

    title: str
    columns: list[str]
    rows: list[list[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """Add a row."""
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(list(cells))

    def text(self) -> str:
        """Return the table in Markdown, aligned."""
        lines = [self.columns, *([_shown(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        head, *body = ("| " + " | ".join(_padded(line, widths)) + " |" for line in lines)
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([f"### {self.title}", "", head, rule, *body, *(f"- {note}" for note in self.notes), ""])

    def as_json(self) -> dict[str, object]:
        """Return it for the file."""
        return asdict(self)


def middle(values: list[float]) -> float:
    """Return the median; one turn that was disturbed says nothing."""
    return median(values)


def _padded(line: list[str], widths: list[int]) -> list[str]:
    first, *rest = zip(line, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.2f}" if abs(cell) < 10 else f"{cell:.1f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
