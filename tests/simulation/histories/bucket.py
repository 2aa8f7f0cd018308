"""A bucket on the disk of a history: an object is there whole or not at all, and stays once its put has returned.

Law: what a store promises and a disk does not, made of a hidden file, flushes and a rename, each of which is a moment
to die in. It has no ETags, as the least of stores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow.fs as pafs

from bulkgrok.objects import Found, ObjectStore
from bulkgrok.objects.failures import ObjectFailure, mapping


class FlushedBucket(ObjectStore):
    """A folder as a bucket.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(pafs.LocalFileSystem(), str(root))
        self._root = root

    def put(self, key: str, blocks: Iterable[bytes], *, size: int) -> Found:
        """Write an object."""
        path, hidden = self._root / key, self._root / ".putting"
        with mapping():
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (path.parent, *path.parent.parents):
                _flush(folder)
                if folder == self._root:
                    break
            with hidden.open("wb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            self._show(hidden, path)
        found = self.look(key)
        if found is None or found.size != size:
            msg = "the store keeps something else"
            raise ObjectFailure(msg)
        return found

    def _show(self, hidden: Path, path: Path) -> None:
        """Let an object be seen; what was seen stays, so one that cannot be flushed was never there."""
        before = self._root / ".before"
        before.unlink(missing_ok=True)
        if path.exists():
            before.hardlink_to(path)
        hidden.rename(path)
        try:
            _flush(path.parent)
        except OSError:
            if before.exists():
                before.rename(path)
            else:
                path.unlink()
            raise
        before.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        """Remove an object."""
        super().delete(key)
        with mapping():
            if (self._root / key).parent.is_dir():
                _flush((self._root / key).parent)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
