"""Large replies that were on their way when a run ended without warning: set aside for a human.

Law: whether such a file is whole nobody knows, so no row gets it. Its row is in the ledger as in doubt, or its result
is asked for again. Nothing is removed and nothing written over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from bulkgrok.core.errors import StorageFailed

REPLIES: str = "replies"
"""The folder of large replies, in the run directory."""


def set_aside(run_dir: Path) -> str | None:
    """Rename what an earlier run left; return what to say of it, None where there is nothing.

    Raises:
        StorageFailed: The disk refused.
    """
    folder = run_dir / REPLIES
    try:
        found = sorted(folder.glob("*.part"))
        names = [_rename(path).name for path in found]
    except OSError as error:
        msg = f"{folder} cannot be put in order: {error.strerror}. Nothing was sent."
        raise StorageFailed(msg) from error
    if not names:
        return None
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"large replies were on their way when the last run ended; as far as they came they are in {folder}: {shown}. "
        "Their rows are asked for again, or are in the ledger."
    )


def _rename(path: Path) -> Path:
    free = next(name for name in _names(path) if not name.exists())
    path.rename(free)
    return free


def _names(path: Path) -> Iterator[Path]:
    yield path.with_suffix(".cut")
    for number in count(2):
        yield path.with_suffix(f".cut{number}")
