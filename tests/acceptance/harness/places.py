"""Where the files of a run lie, for each form of output."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The files of a run whose input is `in.jsonl`, and what to type for them to lie there."""

    flags: tuple
    output: Path
    errors: Path
    media: Path
    run_dir: Path
    base: Path
    """What the paths of assets are relative to."""

    @property
    def drafts(self):
        """Hidden files that are there while the outputs are being concluded."""
        return [
            path.with_name(f".{path.name}.tmp") for path in (self.errors, self.output, self.output / "_manifest.json")
        ]


def places(folder, form):
    """Return the places of a form: `lines` (beside the input), `table`, `parts` (Parquet) or `line-parts`."""
    match form:
        case "lines":
            flags, output, name = (), folder / "in.results.jsonl", "in"
        case "table":
            flags, output, name = ("-o", folder / "out.parquet"), folder / "out.parquet", "out"
        case "parts" | "line-parts":
            more = ("--output-format", "jsonl") if form == "line-parts" else ()
            output = folder / "out"
            return Places(
                flags=("-o", f"{output}/", *more),
                output=output,
                errors=output / "_errors.jsonl",
                media=output / "media",
                run_dir=folder / "out.bulkgrok",
                base=output,
            )
    return Places(
        flags=flags,
        output=output,
        errors=folder / f"{name}.errors.jsonl",
        media=folder / f"{name}.media",
        run_dir=folder / f"{name}.bulkgrok",
        base=folder,
    )
