"""The machine, and the versions of what is measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("bulkgrok", "aiohttp", "uvloop", "orjson", "apsw", "pyarrow", "structlog")


def facts(work: Path) -> dict[str, str]:
    """Return what a reader needs to compare with another run."""
    import apsw

    found = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()) + " (other processes, before this run)",
        "disk": f"{_file_system(work)} at {work}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "nginx": _first_line(["nginx", "-v"]),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["compiled"] = "yes" if _compiled() else "no: plain Python"
    return found


def _compiled() -> bool:
    """Tell whether the modules a run spends its time in are compiled where they are measured."""
    found = find_spec("bulkgrok.scheduler.scheduler")
    return found is not None and not str(found.origin).endswith(".py")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(place: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split()
        if str(place).startswith(mount) and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _first_line(command: list[str]) -> str:
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return (found.stdout or found.stderr).strip().partition("\n")[0].rpartition("/")[2]
