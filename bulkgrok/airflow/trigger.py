"""`BulkGrokTrigger`: sleeps until the next round of a deferred task.

Law: it sends nothing to the API. A result is handed out once, and what a triggerer received could be committed nowhere:
only the worker asks. What it sleeps to is a moment of the wall clock, so a triggerer that is restarted loses nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from bulkgrok.airflow.compat import BaseTrigger, TriggerEvent

#: The wall clock may be set, and a machine may sleep: it is looked at again that often.
_LOOKS_S: Final = 30.0


class BulkGrokTrigger(BaseTrigger):
    """Fires once, at a time.

    Args:
        run_id: Of the run that waits.
        at: When its next round pays, as UNIX seconds.
    """

    def __init__(self, run_id: str, at: float) -> None:
        super().__init__()
        self.run_id = run_id
        self.at = at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again."""
        return "bulkgrok.airflow.trigger.BulkGrokTrigger", {"run_id": self.run_id, "at": self.at}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the one event: which run, and the time that has come."""
        while (left_s := self.at - time.time()) > 0:  # noqa: ASYNC110 - it is time that is waited for
            await asyncio.sleep(min(left_s, _LOOKS_S))
        yield TriggerEvent({"run_id": self.run_id, "next_at": self.at})
