"""One runner a run: an flock on `run.lock`, held for life and given back by the kernel however the process ends.

Law: the file is never unlinked, so that two runners can never lock two different files of one name.
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


class RunLock:
    """Takes the lock of a run directory, or says who has it.

    Raises:
        RunLocked: Another runner holds it.
        StorageFailed: The directory cannot be written.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / LOCK_NAME
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            msg = f"The run directory {run_dir} cannot be written ({LOCK_NAME}: {error.strerror}). Nothing was sent."
            raise StorageFailed(msg, hint="Mend it, or choose another place: --run-dir PATH") from error
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(self._fd)
            msg = f"{path} is no file of a run, or has a second name. Nothing was sent."
            raise StorageFailed(msg, hint="Remove it, or choose another place: --run-dir PATH")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            who = f"Another runner (process {holder})" if holder.isdigit() else "Another runner"
            msg = f"{who} is at work on {run_dir}. Nothing was sent."
            raise RunLocked(msg, hint=f"Watch it with: bulkgrok status {run_dir} --watch") from None
        except OSError as error:
            os.close(self._fd)
            msg = f"The run directory {run_dir} cannot be locked: {error.strerror}. Nothing was sent."
            raise StorageFailed(msg, hint="Name a place on a local disk: --run-dir PATH") from error
        self._sign()

    def _sign(self) -> None:
        """Write down who holds the lock. A full disk that refuses it refuses a courtesy."""
        name = f"{os.getpid()}\n".encode()
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, name, 0)
            os.ftruncate(self._fd, len(name))

    def release(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(OSError):
            os.close(self._fd)


def runner_of(run_dir: Path) -> int | None:
    """Return the process id of the runner that holds a run's lock, 0 if it is not known, None if nobody does."""
    try:
        fd = os.open(run_dir / LOCK_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return int(holder) if holder.isdigit() else 0
    else:
        return None
    finally:
        os.close(fd)
