"""One runner a run: locks held for life and given back by the kernel however the process ends (flock).

Law: whoever shares a run directory or a checkpoint with a runner is refused before it reads or changes anything. Three
things are locked: `run.lock`, which tells who holds it and is never unlinked; the run directory itself, because others
do unlink files; and a checkpoint that lies elsewhere, because two runs may name the same one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from bulkgrok.core.errors import RunLocked, StorageFailed

LOCK_NAME: Final = "run.lock"
_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class RunLock:
    """Takes the locks of a run, or says who has them.

    Args:
        run_dir: The run directory.
        checkpoint: The checkpoint's file; its folder must be there. None for one in a database, which has its own lock.

    Raises:
        RunLocked: Another runner holds one.
        StorageFailed: A place cannot be written or locked.
    """

    def __init__(self, run_dir: Path, checkpoint: Path | None) -> None:
        self._held: list[int] = []
        try:
            self._sign(self._take(run_dir / LOCK_NAME, _FILE, of=run_dir))
            self._take(run_dir, _FOLDER, of=run_dir)
            if checkpoint is not None and checkpoint.parent != run_dir:
                self._take(checkpoint.with_name(checkpoint.name + "-lock"), _FILE, of=checkpoint)
        except BaseException:
            self.release()
            raise

    def _take(self, path: Path, flags: int, *, of: Path) -> int:
        """Lock one place."""
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            msg = f"{of} cannot be written ({path.name}: {error.strerror}). Nothing was sent."
            raise StorageFailed(msg, hint=_ELSEWHERE) from error
        self._held.append(fd)
        found = os.fstat(fd)
        if not stat.S_ISDIR(found.st_mode) and (not stat.S_ISREG(found.st_mode) or found.st_nlink != 1):
            msg = f"{path} is no file of a run, or has a second name. Nothing was sent."
            raise StorageFailed(msg, hint=f"Remove it. {_ELSEWHERE}")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _locked(fd, of) from None
        except OSError as error:
            msg = f"{of} cannot be locked: {error.strerror}. Nothing was sent."
            raise StorageFailed(msg, hint=_ELSEWHERE) from error
        return fd

    def _sign(self, fd: int) -> None:
        """Write down who holds the lock. A full disk that refuses it refuses a courtesy."""
        name = f"{os.getpid()}\n".encode()
        with contextlib.suppress(OSError):
            os.pwrite(fd, name, 0)
            os.ftruncate(fd, len(name))

    def release(self) -> None:
        """Give the locks back."""
        while self._held:
            with contextlib.suppress(OSError):
                os.close(self._held.pop())


_ELSEWHERE: Final = "Choose another place on a local disk: --run-dir PATH, --checkpoint PATH"


def _locked(fd: int, of: Path) -> RunLocked:
    holder = ""
    with contextlib.suppress(OSError):  # a folder, which holds no name
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    who = f"Another runner (process {holder})" if holder.isdigit() else "Another runner"
    msg = f"{who} is at work on {of}. Nothing was sent."
    return RunLocked(msg, hint=f"Watch it with: bulkgrok status {of} --watch")
