"""May a checkpoint lie here? What a file system promises decides.

Law: a network file system is refused, because its locks and flushes cannot be trusted and SQLite's write-ahead log does
not work across hosts; one that is gone after a restart is warned of. What is not known is allowed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import StorageFailed

_MOUNTS: Final = Path("/proc/self/mounts")
_NETWORK: Final = frozenset({
    "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "ceph", "glusterfs",
    "lustre", "gpfs", "beegfs", "beegfs_nodev", "orangefs", "pvfs2", "davfs", "webdav", "fuse",
})  # fmt: skip
_LOCAL_FUSE: Final = frozenset({
    "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.gocryptfs", "fuse.encfs", "fuse.ext4", "fuse.ntfs-3g", "fuse.lxcfs",
})  # fmt: skip
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def examine(folder: Path) -> list[str]:
    """Return warnings about a place for a checkpoint.

    Raises:
        StorageFailed: It is on a network file system.
    """
    kind, mounted_at = _file_system(folder)
    if mounted_at != "/" and (kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)):
        msg = f"{folder} is on a network file system ({kind}), where a checkpoint would be damaged. Nothing was sent."
        raise StorageFailed(msg, hint="Name a place on a local disk: --checkpoint PATH; the output may stay there.")
    if kind in _VOLATILE:
        return [f"{folder} is in memory ({kind}): the checkpoint, and what was paid for, is gone after a restart"]
    return []


def _file_system(folder: Path) -> tuple[str, str]:
    """Return the type of the file system a folder is on and where that is mounted; empty strings if not known."""
    try:
        table = _MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return "", ""
    real = os.path.realpath(folder)
    kind, mounted_at = "", ""
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[1])
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(mounted_at):  # of two mounts on one place, the later one is seen
            kind, mounted_at = fields[2], place
    return kind, mounted_at
