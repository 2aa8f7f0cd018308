"""The simulated rate limits: requests and tokens of each model, in windows of a second or a minute.

Law: pure; time is an argument. A refused request takes nothing from the budget. Windows are fixed (the calendar's
seconds and minutes) or slide behind the present; tokens always slide over 60 s.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from bulkgrok.simulator.refusals import Refusal, over_limit
from bulkgrok.simulator.settings import SimulatorSettings

_MINUTE_S: Final = 60.0


@dataclass(slots=True)
class _Requests:
    """At most `limit` requests in `width_s` seconds."""

    times: deque[float] = field(default_factory=deque)
    window: int = -1
    taken: int = 0
    seen: int = 0

    def wait_s(self, now: float, limit: float, width_s: float, *, sliding: bool) -> float:
        """Return 0 where there is room, else how long there will be none."""
        most = max(1, int(limit))
        width_s *= most / limit if limit < 1 else 1.0
        if sliding:
            while self.times and self.times[0] <= now - width_s:
                self.times.popleft()
            self.taken = self.seen = len(self.times)
            return 0.0 if self.taken < most else max(1e-3, self.times[0] + width_s - now)
        window = int(now // width_s)
        if window != self.window:
            self.window, self.taken, self.seen = window, 0, 0
        return 0.0 if self.taken < most else max(1e-3, (window + 1) * width_s - now)

    def take(self, now: float, *, sliding: bool) -> None:
        self.taken += 1
        if sliding:
            self.times.append(now)


@dataclass(slots=True)
class _Tokens:
    """Tokens of the last minute."""

    grants: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def wait_s(self, now: float, limit: float, tokens: int) -> float:
        """Return 0 where there is room (a request above the whole limit finds it when nothing else is there)."""
        while self.grants and self.grants[0][0] <= now - _MINUTE_S:
            self.total -= self.grants.popleft()[1]
        if self.total == 0 or self.total + tokens <= limit:
            return 0.0
        excess = self.total + tokens - limit
        for at, grant in self.grants:
            excess -= grant
            if excess <= 0:
                return at + _MINUTE_S - now
        return _MINUTE_S

    def take(self, now: float, tokens: int) -> None:
        self.grants.append((now, tokens))
        self.total += tokens


@dataclass(slots=True)
class _Model:
    second: _Requests = field(default_factory=_Requests)
    minute: _Requests = field(default_factory=_Requests)
    tokens: _Tokens = field(default_factory=_Tokens)


class Limiter:
    """What each model has left. One for one world."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def admit(self, model: str, tokens: int, now: float, settings: SimulatorSettings) -> Refusal | None:
        """Take one request and its tokens from the budgets of a model, or return why not.

        Args:
            model: The serving model.
            tokens: Prompt, completion and reasoning; 0 for a poll.
            now: UNIX seconds.
            settings: They may change between two calls.
        """
        own = (settings.model_limits or {}).get(model) or {}
        rps, rpm, tpm = (own.get(name, getattr(settings, name)) for name in ("rps", "rpm", "tpm"))
        if rps is None and rpm is None and tpm is None:
            return None
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = _Model()
        sliding = settings.limit_window == "sliding"
        for window, limit, width_s, measure in (
            (found.second, rps, 1.0, "Requests per Second"),
            (found.minute, rpm, _MINUTE_S, "Requests per Minute"),
        ):
            if limit is None:
                continue
            wait_s = window.wait_s(now, limit, width_s, sliding=sliding)
            window.seen += 1
            if wait_s > 0:
                return over_limit(model, measure, window.seen, limit, retry_after_s=wait_s)
        if tpm is not None and tokens:
            wait_s = found.tokens.wait_s(now, tpm, tokens)
            if wait_s > 0:
                return over_limit(model, "Tokens per Minute", found.tokens.total + tokens, tpm, retry_after_s=wait_s)
            found.tokens.take(now, tokens)
        for window, limit in ((found.second, rps), (found.minute, rpm)):
            if limit is not None:
                window.take(now, sliding=sliding)
        return None
