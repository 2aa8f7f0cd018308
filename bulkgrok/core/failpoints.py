"""Named places where a test may stop the world. No-ops in production.

A test installs a handler with `install`; the product calls `hit("name")` at each crash point of docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Callable

_handler: Callable[[str], None] | None = None


def hit(name: str) -> None:
    """Tell the installed handler, if any, that execution reached the point `name`."""
    if _handler is not None:
        _handler(name)


def install(handler: Callable[[str], None] | None) -> None:
    """Install a handler called with each point's name, or remove it with None."""
    global _handler  # noqa: PLW0603 - one switch for one process, tests only
    _handler = handler
