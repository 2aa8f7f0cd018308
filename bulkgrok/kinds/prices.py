"""What requests cost: at most beforehand, and in fact afterwards.

Law: the API's own figure (`cost_in_usd_ticks`) goes before any table; the model that answered is the one billed; a
model the table does not know has no price (None), never a guessed one. All amounts are USD, table entries USD for
1,000,000 tokens or for a second of video. Formula and figures: docs.x.ai, pricing and cost tracking.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from bulkgrok.core.errors import UsageError
from bulkgrok.core.model import Answer, Unusable

TICKS_PER_USD: Final = 10_000_000_000
_SHIPPED: Final = Path(__file__).with_name("prices.toml")
_MAX_NUMBER: Final = 1e12
_SUFFIX: Final = re.compile(r"-(?:latest|beta|preview|\d{4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2})\Z")

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrice:
    """USD for 1,000,000 tokens; `output` is paid for reasoning too."""

    input: float
    cached: float
    output: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPrice:
    """USD: a second of output by resolution, a second of input video, an input image."""

    per_s: Mapping[str, float]
    input_s: float
    image: float

    def second(self, resolution: object) -> float:
        """Return the price of a second of output; of an unknown resolution, the dearest one."""
        return self.per_s.get(str(resolution).lower(), max(self.per_s.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A dated price table."""

    date: str
    source: str
    chat: Mapping[str, ChatPrice]
    video: Mapping[str, VideoPrice]
    long_context_tokens: int
    long_context_factor: float
    priority_factor: float
    refusal: float
    """USD that a request refused for its content may be charged."""

    @staticmethod
    def shipped() -> Prices:
        """Return the table that came with this version."""
        return _shipped()

    @staticmethod
    def load(path: Path | None) -> Prices:
        """Return the table of a file, None for the shipped one.

        Raises:
            UsageError: The file cannot be read or is malformed; the message names file and key.
        """
        if path is None:
            return _shipped()
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            msg = f"the price file {path} cannot be read: {error}"
            raise UsageError(msg) from error
        return Prices.parse(text, name=str(path))

    @staticmethod
    def parse(text: str, *, name: str = "the price table") -> Prices:
        """Return the table a TOML text holds. `name` says in errors where it is from.

        Raises:
            UsageError: It is malformed; the message names the key.
        """
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"{name} is not valid TOML: {error}"
            raise UsageError(msg) from error
        return _Reading(name).prices(table)

    def of_chat(self, model: str | None) -> ChatPrice | None:
        """Return the price of a chat model, None if it is not known."""
        price = self.chat.get(model or "")  # as nearly all are named
        return _lookup(self.chat, model) if price is None else price

    def of_video(self, model: str | None) -> VideoPrice | None:
        """Return the price of a video model, None if it is not known."""
        return _lookup(self.video, model)

    def tokens_usd(self, price: ChatPrice, tokens: tuple[int, int, int, int], *, priority: bool = False) -> float:
        """Return the cost of (prompt, completion, reasoning, cached) tokens."""
        prompt, completion, reasoning, cached = tokens
        cached = min(cached, prompt)
        usd = (prompt - cached) * price.input + cached * price.cached + (completion + reasoning) * price.output
        if prompt >= self.long_context_tokens:
            usd *= self.long_context_factor
        if priority:
            usd *= self.priority_factor
        return usd / 1_000_000

    def cost_usd(self, kind: str, model: str, answer: Answer | Unusable, fallback_usd: float) -> float | None:
        """Return what a reply cost, None where that cannot be known.

        Args:
            kind: Name of the row's kind.
            model: The model that was asked for, in case the reply does not name one.
            answer: The decoded reply.
            fallback_usd: The request's price as computed before, in force for a billed video whose reply brings no
                figure; 0.0 where there is none. A chat's is an upper bound only and never taken for its cost.
        """
        if answer.ticks is not None:
            return answer.ticks / TICKS_PER_USD
        if kind != "chat":
            billed = isinstance(answer, Answer) or answer.usage is not None
            return fallback_usd if billed and fallback_usd > 0 else None
        price = self.of_chat(answer.model or model)
        if price is None or isinstance(answer, Unusable) or answer.usage is None:
            return None
        return self.tokens_usd(price, answer.tokens, priority=answer.service_tier == "priority")


@cache
def _shipped() -> Prices:
    return Prices.parse(_SHIPPED.read_text("utf-8"), name=_SHIPPED.name)


def _lookup(table: Mapping[str, Entry], model: str | None) -> Entry | None:
    """Find a model: as named, without an `xai/` in front, or without a date or `-latest` behind."""
    if not model:
        return None
    name = model.strip().lower().removeprefix("xai/")
    while name not in table:
        suffix = _SUFFIX.search(name)
        if suffix is None:
            return None
        name = name[: suffix.start()]
    return table[name]


class _Reading:
    """Reads a parsed TOML table; every error names the file and the key."""

    def __init__(self, name: str) -> None:
        self._name = name

    def prices(self, table: dict[str, object]) -> Prices:
        known = {
            "date", "source", "long_context_tokens", "long_context_factor", "priority_factor", "refusal",
            "chat", "video",
        }  # fmt: skip
        self._refuse_unknown("", table, known)
        chat = {
            name.lower(): self._chat(f"chat.{name}", self._table(f"chat.{name}", entry))
            for name, entry in self._table("chat", table.get("chat", {})).items()
        }
        video = {
            name.lower(): self._video(f"video.{name}", self._table(f"video.{name}", entry))
            for name, entry in self._table("video", table.get("video", {})).items()
        }
        return Prices(
            date=str(table.get("date", "")),
            source=str(table.get("source", self._name)),
            chat=chat,
            video=video,
            long_context_tokens=int(self._number("", table, "long_context_tokens", 200_000)),
            long_context_factor=self._number("", table, "long_context_factor", 2.0),
            priority_factor=self._number("", table, "priority_factor", 2.0),
            refusal=self._number("", table, "refusal", 0.05),
        )

    def _chat(self, where: str, entry: dict[str, object]) -> ChatPrice:
        self._refuse_unknown(where, entry, {"input", "cached", "output"})
        input_usd = self._number(where, entry, "input")
        return ChatPrice(
            input=input_usd,
            cached=self._number(where, entry, "cached", input_usd),
            output=self._number(where, entry, "output"),
        )

    def _video(self, where: str, entry: dict[str, object]) -> VideoPrice:
        self._refuse_unknown(where, entry, {"per_s", "input_s", "image"})
        if not (seconds := self._table(f"{where}.per_s", entry.get("per_s"))):
            self._refuse(f"{where}.per_s", "must name at least one resolution")
        return VideoPrice(
            per_s={name.lower(): self._number(f"{where}.per_s", seconds, name) for name in seconds},
            input_s=self._number(where, entry, "input_s", 0.0),
            image=self._number(where, entry, "image", 0.0),
        )

    def _number(self, where: str, table: dict[str, object], key: str, default: float | None = None) -> float:
        path = f"{where}.{key}" if where else key
        found = table.get(key, default)
        if found is None:
            self._refuse(path, "is missing")
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= _MAX_NUMBER:
            self._refuse(path, f"must be a number of at least 0, not {str(found)[:80]!r}")
        return float(found)

    def _table(self, path: str, found: object) -> dict[str, object]:
        if not isinstance(found, dict):
            self._refuse(path, "must be a table")
        return found

    def _refuse_unknown(self, where: str, table: dict[str, object], known: set[str]) -> None:
        for key in table.keys() - known:
            self._refuse(f"{where}.{key}" if where else key, f"is unknown here; known are {', '.join(sorted(known))}")

    def _refuse(self, path: str, why: str) -> NoReturn:
        msg = f"{self._name}: {path} {why}"
        raise UsageError(msg)
