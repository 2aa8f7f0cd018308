"""How long a place that cannot be reached is tried again.

Law: tried again with growing pauses, without waiting here: whoever calls again meanwhile is told that it is not over.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

from bulkgrok.sinks.places import Away

#: A place that is away for longer ends the run.
LONGEST_S: Final = 300.0
_FIRST_S: Final = 1.0
_MOST_S: Final = 30.0


class Patience:
    """A context in which `Away` means: later.

    Args:
        monotonic: Seconds that never go back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since: float | None = None
        self._until = 0.0
        self._pause_s = _FIRST_S
        self._failure: Away | None = None

    @property
    def tried(self) -> bool:
        """Whether the last try found the place away."""
        return self._since is not None

    @property
    def over(self) -> bool:
        """Whether another try may be made."""
        return self._since is None or self._monotonic() >= self._until

    def give_up(self) -> None:
        """Raise what the last try ended with, if it found the place away."""
        if self._failure is not None:
            raise self._failure.failure

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Away):
            if error is None:
                self._since, self._failure, self._pause_s = None, None, _FIRST_S
            return False
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        self._failure = error
        if now - self._since >= LONGEST_S:
            raise error.failure from None
        self._until = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MOST_S)
        return True
