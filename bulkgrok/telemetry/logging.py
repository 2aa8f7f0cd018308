"""The run's log: one JSON object a line, in the run directory.

Law: names and numbers only; prompts, answers and keys are never in it. What the errors file says already (one line a
failed row) is logged at level debug, what may cost money at level warning. A log that cannot be written stops nothing.
No global logging is configured: the logger is this object's own.
"""

from __future__ import annotations

import json
import os
import traceback
from collections import deque
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
import structlog

from bulkgrok.telemetry.redaction import Redaction
from bulkgrok.telemetry.wording import json_printable

#: Without O_NONBLOCK, opening a named pipe would wait for its reader.
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: Fields that could hold what a user asked or was answered.
_PRIVATE: Final = frozenset(
    {"answer", "answers", "api_key", "body", "content", "key", "messages", "prompt", "raw", "reply", "system", "text"}
)
#: Events that happen once a row or oftener.
_PER_ROW: Final = ("asset.", "download.", "item.", "job.", "poll.", "request.", "result.", "row.", "transport.")
_COSTLY: Final = ("in_doubt", "lost", "expired", "doubt", "ambiguous")
_BAD: Final = ("failed", "crashed", "damaged", "stopped", "outage", "refused", "spilled", "broken")


def level_of(event: str) -> int:
    """Return the level of an event by its name: `item.lost` is a warning, `item.succeeded` is for debugging."""
    if event.endswith(_COSTLY):
        return LEVELS["warning"]
    if event.startswith(_PER_ROW):
        return LEVELS["debug"]
    return LEVELS["warning"] if event.endswith(_BAD) else LEVELS["info"]


class EventLog:
    """Writes the events of a run to its log: an `Events` port.

    The file is opened at the first event that is kept and whose directory exists; what happened before that is kept
    in memory (the last 1,000 events), so that a run that is refused leaves no file behind.

    Args:
        path: The file; it is appended to, and created readable by its owner only.
        level: The least level that is kept: debug, info, warning or error.
        redact: What takes secrets out of a line.
        links: Whether the file may be a symbolic link: where the user named it, not where it merely has to be.
    """

    def __init__(
        self, path: Path, *, level: str = "info", redact: Callable[[str], str] | None = None, links: bool = False
    ) -> None:
        self.path = path
        self._flags = _FLAGS if links else _FLAGS | os.O_NOFOLLOW
        self.broken: str | None = None
        """Why the log could not be written, if it could not."""
        self._least = LEVELS[level]
        self._levels: dict[str, int] = {}
        self._early: deque[bytes] = deque(maxlen=1000)
        self._file: BinaryIO | None = None
        self._redact = redact or Redaction()
        self._logger = structlog.wrap_logger(
            _LineSink(self._write_line),
            processors=[_without_private, structlog.processors.TimeStamper(fmt="iso", utc=True), self._render],
            wrapper_class=structlog.BoundLoggerBase,
            cache_logger_on_first_use=True,
        ).bind()

    def __call__(self, name: str, /, **fields: object) -> None:
        """Log an event, if its level is kept. Never raises for what a field holds."""
        level = self._levels.get(name)
        if level is None:
            level = self._levels[name] = level_of(name)
        if level >= self._least:
            self._logger._proxy_to_logger(_NAMES[level], name, **fields)  # noqa: SLF001 - how structlog's own wrappers call it

    def crashed(self, error: BaseException) -> bool:
        """Write the traceback of an unexpected error, without secrets, and tell whether it is on disk."""
        trace = "".join(traceback.format_exception(error))
        self._logger._proxy_to_logger("error", "run.crashed", traceback=trace)  # noqa: SLF001 - as above
        return self._file is not None and self.broken is None

    def close(self) -> None:
        """Close the file. What has no directory to go to is dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _render(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        line = {"at": event.pop("timestamp"), "level": method, "event": event.pop("event"), **event}
        try:
            text = orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # integers beyond 64 bits, surrogates, nesting without end
            text = json.dumps({ascii(key)[1:-1]: ascii(value) for key, value in line.items()})
        return json_printable(self._redact(text))

    def _write_line(self, line: str) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        if self.broken is not None:
            return
        try:
            if self._file is None and not self._open():
                self._early.append(data)
                return
            assert self._file is not None  # noqa: S101 - for the type checker; _open said so
            self._file.write(data)
        except OSError as error:
            self.broken = error.strerror or str(error)

    def _open(self) -> bool:
        if not self.path.parent.is_dir():
            return False
        handle = os.open(self.path, self._flags, 0o600)
        os.set_blocking(handle, True)
        # Unbuffered: each event is one write, so lines of a killed run are whole and none is missing.
        self._file = os.fdopen(handle, "ab", buffering=0)
        while self._early:
            self._file.write(self._early.popleft())
        return True


_NAMES: Final = {number: name for name, number in LEVELS.items()}


class _LineSink:
    """What structlog calls at the end of its chain: every level writes the line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.debug = self.info = self.warning = self.error = write


def _without_private(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in _PRIVATE.intersection(event):
        event[name] = "[not logged]"
    for name in {"timestamp", "level", "at"}.intersection(event):
        event[f"{name}_"] = event.pop(name)
    return event
