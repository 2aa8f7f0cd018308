"""Places to work in: on a real disk, since what is measured is durable."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bulkgrok-bench"


@contextmanager
def folder_of(work: Path) -> Iterator[Path]:
    """Make a folder for one measurement, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def turns_of(*, short: bool) -> int:
    """Return how often two things that are compared take turns."""
    return 3 if short else 5
