"""bulkgrok: the bulk client for the xAI API that never loses a paid answer and never pays twice without saying so.

    input                                                                              output
      |                                                                                   ^
    readers -RawRow-> kinds.rows -Item-> checkpoint -Work/Job-> scheduler -> dispatch -> checkpoint -> sinks
           (bytes or a table row)     (what is left?)            (when?)      (how?)     (durable?)  (projection)
                                                             kinds (pure codec) + transport (aiohttp)

One way, no back and forth. Stages never import each other; they meet only in `engine`, through the ports of `core`.

    run, arun            a file (or standard input) through the API; returns a Report
    submit, collect      its two halves for deferred work; asubmit and acollect on a running loop
    stream               rows from any iterable, outcomes as they settle
    Client               single calls: chat, deferred, video

Everything is imported when it is first used: `import bulkgrok` itself loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkgrok.client import Client as Client
    from bulkgrok.core.errors import ApiError as ApiError
    from bulkgrok.core.errors import BulkgrokError as BulkgrokError
    from bulkgrok.core.errors import DeferredTimeout as DeferredTimeout
    from bulkgrok.core.report import Report as Report
    from bulkgrok.engine.library import acollect as acollect
    from bulkgrok.engine.library import arun as arun
    from bulkgrok.engine.library import asubmit as asubmit
    from bulkgrok.engine.library import collect as collect
    from bulkgrok.engine.library import run as run
    from bulkgrok.engine.library import stream as stream
    from bulkgrok.engine.library import submit as submit

_WHERE = {
    "ApiError": "bulkgrok.core.errors",
    "BulkgrokError": "bulkgrok.core.errors",
    "Client": "bulkgrok.client",
    "DeferredTimeout": "bulkgrok.core.errors",
    "Report": "bulkgrok.core.report",
} | dict.fromkeys(("acollect", "arun", "asubmit", "collect", "run", "stream", "submit"), "bulkgrok.engine.library")

__all__ = [
    "ApiError", "BulkgrokError", "Client", "DeferredTimeout", "Report", "__version__",
    "acollect", "arun", "asubmit", "collect", "run", "stream", "submit",
]  # fmt: skip

__version__: str


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - costs more than all of this module

        return version("bulkgrok")
    if name not in _WHERE:
        msg = f"module 'bulkgrok' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
