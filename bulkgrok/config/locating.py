"""Where the files of a run lie: a run is named by its output, so nothing collides.

    run data/in.jsonl   data/in.results.jsonl   data/in.errors.jsonl   data/in.media/   data/in.bulkgrok/
    -o x/y.jsonl        x/y.jsonl               x/y.errors.jsonl       x/y.media/       x/y.bulkgrok/
    -o x/out/           x/out/part-…            x/out/_errors.jsonl    x/out/media/     x/out.bulkgrok/
    -o s3://b/out/      s3://b/out/part-…       …/_errors.jsonl        …/media/         ./out.bulkgrok/
    -o s3://b/y.jsonl   s3://b/y.jsonl          s3://b/y.errors.jsonl  s3://b/y.media/  ./y.bulkgrok/

Law: looks at the disk (is it a folder, is it the same file), changes nothing. No file of a run may be another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bulkgrok.config.values import Places, RunConfig
from bulkgrok.core.address import Address, is_address
from bulkgrok.core.errors import UsageError

COMPRESSIONS: Final = (".gz", ".zst", ".zstd")
FORMATS: Final = (".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".txt")
PARQUET: Final = (".parquet", ".pq")
#: What users expect an output to be named after, and is never written.
FOREIGN: Final = (".csv", ".tsv", ".xlsx", ".xls")
#: Below these lie devices and the system's own files.
_SYSTEM: Final = (Path("/dev"), Path("/proc"), Path("/sys"))
#: A file system for ordinary files, for all that.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a name to compare with
RUN_SUFFIX: Final = ".bulkgrok"
CHECKPOINT: Final = "checkpoint.db"


def stem(name: str) -> str:
    """Return a file name without its compression's suffix, then without its format's."""
    for suffixes in (COMPRESSIONS, FORMATS):
        for suffix in suffixes:
            if name.lower().endswith(suffix) and len(name) > len(suffix):
                name = name[: -len(suffix)]
                break
    return name


def places(config: RunConfig) -> Places:
    """Return where the files of a run lie.

    Raises:
        UsageError: The output cannot be where it is asked for: nothing was sent.
    """
    if isinstance(config.output, Address):
        return _remote(config, config.output)
    output, base, folder = _output(config)
    beside = output.parent
    output_format = _format(config, output, folder=folder)
    if config.output is None:
        output = beside / f"{base}.results.{output_format}"
    run_dir = config.run_dir or beside / f"{base}{RUN_SUFFIX}"
    found = Places(
        run_id=config.run_id or str(output),
        output=output,
        folder=folder,
        output_format=output_format,
        errors=output / "_errors.jsonl" if folder else beside / f"{base}.errors.jsonl",
        media_dir=config.media_dir or (output / "media" if folder else beside / f"{base}.media"),
        asset_base=output if folder else beside,
        run_dir=run_dir,
        checkpoint=config.checkpoint or run_dir / CHECKPOINT,
    )
    _refuse_collisions(config, found)
    return found


def _remote(config: RunConfig, output: Address) -> Places:
    """Return the places of a run whose output is in an object store. A name without a format's suffix is a folder."""
    _refuse_suffix(output)
    folder = config.output_is_folder or not output.key or not output.name.lower().endswith(FORMATS)
    base = output.name if folder else stem(output.name)
    output_format = _format(config, output, folder=folder)
    run_dir = config.run_dir or Path.cwd() / f"{base}{RUN_SUFFIX}"
    found = Places(
        run_id=config.run_id or str(output),
        output=output,
        folder=folder,
        output_format=output_format,
        errors=output / "_errors.jsonl" if folder else output.with_name(f"{base}.errors.jsonl"),
        media_dir=config.media_dir or (output / "media" if folder else output.with_name(f"{base}.media")),
        asset_base=output if folder else output.parent,
        run_dir=run_dir,
        checkpoint=config.checkpoint or run_dir / CHECKPOINT,
    )
    _refuse_collisions(config, found)
    return found


def _output(config: RunConfig) -> tuple[Path, str, bool]:
    """Return the output (without -o: the input in its stead), its stem, and whether it is a folder."""
    output = config.output
    assert not isinstance(output, Address)  # noqa: S101 - for the type checker: that is `_remote`
    if output is None:
        if config.input == "-" or is_address(config.input):
            what = "Standard input has no name" if config.input == "-" else f"{config.input} has no place here"
            msg = f"{what} to call the output after. Nothing was sent."
            raise UsageError(msg, hint=f"Say where the output goes: bulkgrok run {config.input} -o results.jsonl")
        source = Path(config.input)
        return source, stem(source.name), False
    if not output.name:
        msg = f"{output} cannot be an output. Nothing was sent."
        raise UsageError(msg, hint="-o results.jsonl")
    if output.name == "-" or _is_of_the_system(output):
        what = "standard output" if output.name == "-" else str(output)
        msg = f"The results cannot go to {what}: a run that is resumed reads them back. Nothing was sent."
        raise UsageError(msg, hint="Name a file: -o FILE, such as -o results.jsonl")
    if config.output_is_folder or output.is_dir():
        if output.exists() and not output.is_dir():
            msg = f"{output} is a file, and -o {output.name}/ asks for a folder. Nothing was sent."
            raise UsageError(msg, hint="Leave the slash away, or choose another name.")
        return output, output.name, True
    _refuse_suffix(output)
    return output, stem(output.name), False


def _refuse_suffix(output: Path | Address) -> None:
    """Refuse names that promise a format in which nothing is written."""
    if output.name.lower().endswith(COMPRESSIONS):
        msg = f"The output {output} would be compressed, which is not offered. Nothing was sent."
        raise UsageError(msg, hint="-o results.parquet is compressed inside.")
    if output.name.lower().endswith(FOREIGN):
        msg = f"The output {output} is named as {output.suffix}, and results are .jsonl or .parquet. Nothing was sent."
        raise UsageError(msg, hint=f"-o {output.name.removesuffix(output.suffix)}.jsonl")


def _is_of_the_system(output: Path) -> bool:
    """Tell whether a path leads to a device or the like, by its name or by a link."""
    # /dev/stdout is itself a link, to a file at times: what a link says counts as well as where all links end.
    said = output.parent / output.readlink() if output.is_symlink() else output
    for path in (output, said, Path(os.path.realpath(output))):
        if any(root == path or root in path.parents for root in _SYSTEM) and _MEMORY not in path.parents:
            return True
    return False


def _format(config: RunConfig, output: Path | Address, *, folder: bool) -> str:
    if config.output is None or folder:
        return config.output_format or ("parquet" if folder else "jsonl")
    named = "parquet" if output.name.lower().endswith(PARQUET) else "jsonl"
    asked = config.output_format or named
    if asked != named and output.name.lower().endswith((*PARQUET, ".jsonl", ".ndjson")):
        msg = f"-o {output.name} says {named} and --output-format says {asked}. Nothing was sent."
        raise UsageError(msg, hint="Give one of them, or change the name.")
    return asked


def _refuse_collisions(config: RunConfig, found: Places) -> None:
    written: dict[str, Path | Address] = {
        "output": found.output,
        "errors file": found.errors,
        **({"checkpoint": found.checkpoint} if isinstance(found.checkpoint, Path) else {}),
        "folder of media": found.media_dir,
        "run directory": found.run_dir,
    }
    if config.log_file:
        written["log"] = config.log_file
    _refuse_overwriting_the_input(config.input, written)
    seen: dict[Path | Address, str] = {}
    for what, path in written.items():
        if path in seen:
            msg = f"The {what} and the {seen[path]} would be one: {path}. Nothing was sent."
            raise UsageError(msg, hint="Choose another place for one of them.")
        seen[path] = what
    _refuse_nesting(found)


def _refuse_overwriting_the_input(source: str, written: Mapping[str, Path | Address]) -> None:
    if source == "-":
        return
    for what, path in written.items():
        if str(path) == source or (
            isinstance(path, Path) and not is_address(source) and _same_file(path, Path(source))
        ):
            msg = f"The {what} would be the input itself, {source}. Nothing was sent."
            raise UsageError(msg, hint="Choose another output: -o OTHER.jsonl")


def _refuse_nesting(found: Places) -> None:
    """A run directory holds what the run needs and nothing it delivers, and lies in nothing that it delivers."""
    if isinstance(found.output, Address) != isinstance(found.media_dir, Address):
        msg = f"The output {found.output} and the folder of media {found.media_dir} would lie apart. Nothing was sent."
        raise UsageError(msg, hint="Name a --media-dir in the same store, or leave it away.")
    for what, path in (("output", found.output), ("folder of media", found.media_dir)):
        if isinstance(path, Path) and found.run_dir in path.parents:
            msg = f"The {what} would lie inside the run directory {found.run_dir}. Nothing was sent."
            raise UsageError(msg, hint="Choose another place for it, or another --run-dir.")
    if found.folder and isinstance(found.output, Path) and found.output in found.run_dir.parents:
        msg = f"The run directory would lie inside the output folder {found.output}. Nothing was sent."
        raise UsageError(msg, hint="Choose another --run-dir.")
    if found.run_dir.exists() and not found.run_dir.is_dir():
        msg = f"{found.run_dir} should be the run directory and is a file. Nothing was sent."
        raise UsageError(msg, hint="Choose another place: --run-dir PATH")


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def find_run_dirs(run: Path) -> Iterator[Path]:
    """Yield the run directories that `run` may mean, most likely first: itself, or that of an input or output.

    A yielded directory need not exist; the caller takes the first that does.
    """
    if run.is_dir():
        yield run
    name = stem(run.name)
    yield run.parent / f"{name}{RUN_SUFFIX}"
    yield run.parent / f"{run.name}{RUN_SUFFIX}"
    for ending in (".results", ".errors", ".media"):
        if name.endswith(ending):
            yield run.parent / f"{name.removesuffix(ending)}{RUN_SUFFIX}"
    folder = run.parent
    yield folder.parent / f"{folder.name}{RUN_SUFFIX}"
