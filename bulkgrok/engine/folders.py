"""The folders of a run that hold prompts, answers and its lock: made private and durable, or found to be trustworthy.

Law: a folder that another user owns, or that every user can write to, is refused: whoever can put files there can put
them in the place of ours.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import StorageFailed, UsageError

_PRIVATE: Final = 0o700
_PARENT: Final = 0o755
_NOBODY: Final = 65_534
"""Whoever has no name here: files of a mapped user, as in a container or on a network, whose owner cannot be told."""


def make_private(folder: Path, *, flag: str) -> None:
    """Make a folder that only its owner can use, durably, with its parents; or verify one that is there.

    Args:
        folder: Which.
        flag: What names another place for it.

    Raises:
        StorageFailed: It cannot be made.
        UsageError: It is not this user's alone. Nothing was sent.
    """
    try:
        _make(folder)
        found = folder.stat()
        for place in _lineage(folder):
            _sync(place)
    except OSError as error:
        msg = f"The folder {folder} cannot be made or used: {error.strerror}. Nothing was sent."
        raise StorageFailed(msg, hint=f"Choose another place: {flag} PATH") from error
    if found.st_uid not in {os.geteuid(), 0, _NOBODY}:
        msg = f"{folder} belongs to another user, who could change what this run relies on. Nothing was sent."
        raise UsageError(msg, hint=f"Choose a place of your own: {flag} PATH")
    if found.st_mode & stat.S_IWOTH:
        msg = f"Every user can write to {folder}, and could change what this run relies on. Nothing was sent."
        raise UsageError(msg, hint=f"chmod o-w it, or choose another place: {flag} PATH")


def _make(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for place in reversed(missing):
        place.mkdir(mode=_PRIVATE if place == missing[0] else _PARENT, exist_ok=True)


def _lineage(folder: Path) -> Iterator[Path]:
    """Yield a folder and those it lies in, as far as they are on the same file system.

    All of them, though they may be old: an earlier start may have made some and ended before they were durable.
    """
    device = folder.stat().st_dev
    for place in (folder, *folder.absolute().parents):
        if place.stat().st_dev != device:
            return
        yield place


def _sync(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a parent that may be entered and not read: nothing of ours was made in it
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
