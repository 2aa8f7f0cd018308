"""Where the files of a run lie, for each form of output."""

from dataclasses import dataclass
from pathlib import Path

FORMS = ("lines", "table", "parts", "line-parts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The files of a run."""

    output: Path
    errors: Path
    media: Path
    run_dir: Path
    lines: bool
    """Whether the output is JSON Lines, not Parquet."""

    @property
    def flags(self):
        """Return what to type for them to lie there."""
        folder = self.errors.parent == self.output
        return (
            *("-o", f"{self.output}/" if folder else self.output, "--run-dir", self.run_dir),
            *("--media-dir", self.media, "--output-format", "jsonl" if self.lines else "parquet"),
        )

    @property
    def base(self):
        """What the paths of assets are relative to."""
        return self.errors.parent

    def leftovers(self):
        """Return what no finished run should leave behind: drafts, parts of downloads, kept room, spilled answers."""
        found = [*self.run_dir.glob("ballast"), *self.run_dir.glob("spill.jsonl"), *self.run_dir.glob("*-wal")]
        for folder in {self.run_dir, self.base, self.media}:
            found += [*folder.glob(".*.tmp"), *folder.glob(".*.part")]
        return found

    @property
    def drafts(self):
        """Hidden files that are there while the outputs are being concluded."""
        return [
            path.with_name(f".{path.name}.tmp") for path in (self.errors, self.output, self.output / "_manifest.json")
        ]


def places(form, output, *, run=None, media=None):
    """Return the places of a form, one of FORMS.

    Args:
        form: `lines`, `table` (one Parquet file), `parts` (a folder of them) or `line-parts`.
        output: The folder for the outputs.
        run: The folder for the run directory, if another.
        media: The folder for the media, if another.
    """
    lines, folder = form in {"lines", "line-parts"}, form.endswith("parts")
    return Places(
        output=output / ("out" if folder else "out.jsonl" if lines else "out.parquet"),
        errors=output / ("out/_errors.jsonl" if folder else "out.errors.jsonl"),
        media=(media or output) / "out.media",
        run_dir=(run or output) / "out.bulkgrok",
        lines=lines,
    )
