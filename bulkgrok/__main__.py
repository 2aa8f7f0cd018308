"""The command: `bulkgrok` and `python -m bulkgrok`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from bulkgrok.cli import main as command_line  # noqa: PLC0415 - Ctrl-C while importing is quiet, too
    except KeyboardInterrupt:
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
