"""What is asked: bodies, limits, costs and answers, one module a kind. Pure: no loop, clock, chance, disk or network.

Law: a kind is one module and one line of KINDS; the contract suite picks it up from there. Rows become requests in
`rows`; nothing here sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bulkgrok.kinds.chat import Chat
from bulkgrok.kinds.replies import pending
from bulkgrok.kinds.video import VIDEO, VIDEO_EDIT, VIDEO_EXTENSION, Video

AnyKind = Chat | Video

KINDS: Final[Mapping[str, AnyKind]] = MappingProxyType({
    kind.name: kind for kind in (Chat(), VIDEO, VIDEO_EDIT, VIDEO_EXTENSION)
})  # fmt: skip


def get(name: str) -> AnyKind:
    """Return the kind of a name. KeyError names those there are."""
    try:
        return KINDS[name]
    except KeyError:
        msg = f"no kind {name!r}; there are {', '.join(KINDS)}"
        raise KeyError(msg) from None


__all__ = ["KINDS", "AnyKind", "get", "pending"]
