"""Events of a run to the log of its task, through the standard library's logging."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from bulkgrok.core.secret import Secret
from bulkgrok.telemetry.logging import level_of
from bulkgrok.telemetry.redaction import Redaction


class TaskLog:
    """An `Events` port; `say` is what the engine tells users in words.

    Args:
        logger: The task's.
        secrets: What must never be seen in it.
    """

    def __init__(self, logger: logging.Logger, secrets: Iterable[Secret]) -> None:
        self._logger = logger
        self._redact = Redaction(secrets)

    def __call__(self, name: str, /, **fields: object) -> None:
        """Log an event under its level."""
        level = level_of(name)
        if self._logger.isEnabledFor(level):
            told = " ".join(f"{key}={value!r}" for key, value in fields.items())
            self._logger.log(level, "%s", self._redact(f"{name} {told}".rstrip()))

    def say(self, text: str) -> None:
        """Log what a user should know."""
        self._logger.info("%s", self._redact(text))
