"""A process that knows a key does not leave its memory behind, and shows no traceback where there are words.

Law: for the command line only; a library does not change the process it is in.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def shield() -> None:
    """Let no core be dumped, wherever the system would put it, and no other process of this user read the memory.

    A limit of 0 bytes is not enough: it is not asked where cores are piped to a program.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - costs 5 ms that only a run must spend

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _hush()


def _hush() -> None:
    """Print nothing of an error of the disk that SQLite met while it dealt with the one before: that one is told."""
    before = sys.unraisablehook

    def hook(found: sys.UnraisableHookArgs) -> None:
        if found.exc_type.__module__ != "apsw":
            before(found)

    sys.unraisablehook = hook
