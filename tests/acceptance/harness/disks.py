"""Disks that are small or fail. Small ones: tmpfs in a mount namespace of its own, which goes with who keeps it.

Works as root, and for everybody where the kernel lets users have namespaces (`unshare -Urm`).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path("/mnt")
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


class Disks:
    """A mount namespace in which folders can be made small disks.

    Args:
        folder: What is to be seen as /mnt there, to be written by the command.

    Raises:
        Skipped: Neither root nor a namespace of one's own is to be had here.
    """

    def __init__(self, folder):
        self._keeper = None
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            pytest.skip("unshare and nsenter (util-linux) are not here, so no small disks can be made")
        flags = ["-m"] if os.geteuid() == 0 else ["-U", "-r", "-m"]
        keeper = subprocess.Popen(
            ["unshare", *flags, "--propagation", "private", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._keeper = keeper
        if keeper.stdout.readline() != b"ready\n":
            why = keeper.stderr.read().decode().strip()
            self.close()
            pytest.skip(f"no small disks can be made here: {why}")
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        self.enter = ["nsenter", "-t", str(keeper.pid), *user, "-m", "--"]
        """What makes a command see the disks; the process stays the same."""
        self._mount("--bind", folder, ROOT)

    def make(self, folder, size_bytes):
        """Make a folder below /mnt a disk of its own."""
        self.seen(folder).mkdir(parents=True)
        self._mount("-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", folder)

    def make_real(self, folder, size_bytes):
        """Make a folder below /mnt a file system of its own that can break: ext4 in a file, for root only."""
        image = self.seen(folder).with_suffix(".ext4")
        with image.open("wb") as file:
            file.truncate(size_bytes)
        self._run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self.seen(folder).mkdir(parents=True)
        self.bring_back(folder)

    def break_off(self, folder):
        """Let an ext4 go read-only at once, as the kernel does after an error; what is not flushed is gone."""
        self._mount("-o", "remount,abort", folder)

    def bring_back(self, folder):
        """Mount an ext4, again if it was broken off."""
        if os.path.ismount(self.seen(folder)):
            self._run(*self.enter, "umount", folder)
        self._mount("-o", "loop", Path(folder).with_suffix(".ext4"), folder)
        self.seen(folder).chmod(0o700)

    def resize(self, folder, size_bytes):
        """Make a disk larger or smaller."""
        self._mount("-o", f"remount,size={size_bytes}", folder)

    def close_temporary(self):
        """Let nobody write to the system's folders for temporary files; return whether that can be done.

        It cannot where Python itself lies in one of them.
        """
        homes = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, *sys.path)}
        if any(home.is_relative_to(folder) for home in homes for folder in _TEMPORARY):
            return False
        for folder in _TEMPORARY:
            self._mount("-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", folder)
        return True

    def _mount(self, *arguments):
        self._run(*self.enter, "mount", *arguments)

    def _run(self, *command):
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            pytest.skip(f"no disk can be made here: {error}")
        if done.returncode:
            pytest.skip(f"no disk can be made here: {done.stderr.strip()}")

    def seen(self, path):
        """Return where this process sees a path of the namespace."""
        return Path(f"/proc/{self._keeper.pid}/root{path}")

    def close(self):
        """Let the namespace go, and every disk with it."""
        for pipe in (self._keeper.stdin, self._keeper.stdout, self._keeper.stderr):
            pipe.close()
        self._keeper.wait(30)


def works(*command):
    """Tell whether a tool that makes a disk fail is here and may be used."""
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run([*command, "true"], capture_output=True, check=False, timeout=60)
    return done.returncode == 0
