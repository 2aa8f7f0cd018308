"""A streamed answer, put together into the ordinary one it stands for.

Law: nothing is guessed. A stream is an answer when it says `[DONE]` or every choice it showed has its finish_reason; an
error before the first content is that error; everything else is incomplete, which the caller calls in doubt. Events
follow the WHATWG text/event-stream grammar. The body comes in blocks, and what is kept of it is bounded: text that the
choices hold, and everything else that chunks bring.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from bulkgrok.core.model import JsonObject, Reply
from bulkgrok.kinds.jsonread import loads_halves, mended

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_DONE: Final = b"[DONE]"
_JOINED_KEYS: Final = frozenset({"content", "reasoning_content", "refusal"})
_EVENT_STREAM: Final = "text/event-stream"
#: Of one event; of all text; of what is no text as it came, which takes up to ten times as much once it is parsed.
_MOST_BYTES: Final = 16 << 20
_MOST_OTHER_BYTES: Final = 8 << 20
_OBJECT_BYTES: Final = 64
_JOINED: Final = 1_024
#: A chunk with as much beside its text brings nothing that is kept.
_ORDINARY_BYTES: Final = 1_024
_ORDINARY: Final = frozenset({
    "id", "object", "created", "model", "choices", "system_fingerprint", "usage", "service_tier",
    "index", "delta", "finish_reason", "role", "content", "reasoning_content", "refusal",
})  # fmt: skip
#: Of a chunk that brings a piece of content and nothing else.
_PLAIN: Final = frozenset({"id", "object", "created", "model", "choices", "system_fingerprint"})
_PLAIN_CHOICE: Final = frozenset({"index", "delta", "finish_reason"})
_PLAIN_DELTA: Final = frozenset({"role", "content"})
_NO_FIELDS: Final = frozenset({"choices", "object"})
_FIELD: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def is_stream(reply: Reply) -> bool:
    """Tell whether a reply is a stream of events: by its type, or where that is missing by its first bytes."""
    if reply.content_type:
        return reply.content_type.split(";")[0].strip().lower() == _EVENT_STREAM
    return reply.body.removeprefix(_BOM).lstrip(b"\r\n").startswith(_FIELD)


class TooLarge(Exception):
    """A stream holds more than is kept."""


def events(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the data of each event, lines of one event joined by a newline; a last event without its blank line too.

    Raises:
        TooLarge: One event has more than 16 MiB.
    """
    data: list[bytes] = []
    size = 0
    for line in _lines(blocks):
        if not line:
            if data:
                yield b"\n".join(data)
                data, size = [], 0
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
            size += len(value) + _OBJECT_BYTES
            if size > _MOST_BYTES:
                raise TooLarge
    if data:
        yield b"\n".join(data)


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a body, the last one too if it does not end."""
    waiting: list[bytes] = []
    size, begun = 0, False
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if b"\n" not in block and b"\r" not in block and begun:  # not looked at twice
            if size > _MOST_BYTES:
                raise TooLarge
            continue
        text = b"".join(waiting)
        if not begun:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                continue
            text, begun = text.removeprefix(_BOM), True
        held = text.endswith(b"\r")  # a newline may follow that belongs to it
        lines = _LINE.split(text[:-1] if held else text)
        rest = lines.pop() + (b"\r" if held else b"")
        waiting, size = [rest], len(rest)
        yield from lines
    yield b"".join(waiting).removesuffix(b"\r")


def assemble(reply: Reply, blocks: Iterable[bytes] | None = None) -> Reply:
    """Return the ordinary chat completion that a streamed reply stands for; other replies unchanged.

    An error event before any content becomes a reply with that error as its body (and the status it names, if it
    names one); a stream that breaks or errs after its first content becomes an incomplete reply, one that holds more
    than is kept an oversized one.

    Args:
        reply: The reply.
        blocks: Its body, where that comes in blocks.
    """
    if not 200 <= reply.status < 300 or not is_stream(reply):
        return reply
    try:
        return _assembled(reply, (reply.body,) if blocks is None else blocks)
    except TooLarge:
        return replace(reply, complete=False, oversized=True)


def _assembled(reply: Reply, blocks: Iterable[bytes]) -> Reply:
    completion = _Completion()
    for data in events(blocks):
        if data.strip() == _DONE:
            return _finished(reply, completion, done=True)
        try:
            chunk = _parse(data)
        except ValueError:
            break
        if not isinstance(chunk, dict):
            continue
        if _is_error(chunk):
            if completion.has_content or completion.finished:
                break
            return replace(
                reply, status=_status(chunk, reply.status), body=data, complete=True, content_type="application/json"
            )
        completion.add(chunk, len(data))
    return _finished(reply, completion, done=False)


def _parse(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except ValueError:
        return loads_halves(data)


def _finished(reply: Reply, completion: _Completion, *, done: bool) -> Reply:
    if completion.choices and (done or completion.finished):
        try:
            body = completion.encode()
        except (TypeError, RecursionError):
            return replace(reply, complete=False)
        return replace(reply, body=body, complete=True, content_type="application/json")
    return replace(reply, complete=False)


def _told(holder: JsonObject) -> set[str]:
    return {key for key, value in holder.items() if value is not None}


def _is_error(chunk: JsonObject) -> bool:
    if chunk.get("choices"):
        return False
    return bool(chunk.get("error")) or bool(chunk.get("code") and chunk.get("message"))


def _status(chunk: JsonObject, status: int) -> int:
    """Return the HTTP status an error event names, in itself or in its `error`."""
    inner = chunk.get("error")
    for holder in (chunk, inner):
        if not isinstance(holder, dict):
            continue
        for key in ("status", "status_code", "code"):
            found = holder.get(key)
            if isinstance(found, str) and len(found) == 3 and found.isdecimal():
                found = int(found)
            if isinstance(found, int) and not isinstance(found, bool) and 400 <= found <= 599:
                return found
    return status


@dataclass(slots=True)
class _Pieces:
    """Text that comes in pieces: many small ones are soon made one, which takes a tenth of the memory."""

    joined: list[str] = field(default_factory=list)
    latest: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(self.joined) or any(self.latest)

    def append(self, piece: str) -> int:
        """Add a piece; return how much memory it takes."""
        self.latest.append(piece)
        if len(self.latest) >= _JOINED:
            self.joined.append("".join(self.latest))
            self.latest.clear()
        return len(piece) if piece.isascii() else sys.getsizeof(piece)

    def text(self) -> str:
        return "".join([*self.joined, *self.latest])


@dataclass(slots=True)
class _Choice:
    """One choice as far as its deltas came."""

    pieces: dict[str, _Pieces] = field(default_factory=dict)
    message: JsonObject = field(default_factory=dict)
    tool_calls: dict[object, JsonObject] = field(default_factory=dict)
    arguments: dict[object, list[str]] = field(default_factory=dict)
    logprobs: dict[str, list[object]] = field(default_factory=dict)
    finish_reason: object = None
    others: JsonObject = field(default_factory=dict)

    @property
    def has_content(self) -> bool:
        return bool(self.tool_calls) or any(self.pieces.values())

    def add(self, choice: JsonObject) -> int:
        """Take a piece; return how much memory its text takes."""
        delta = choice.get("delta") or choice.get("message")
        taken_bytes = self._add_delta(delta) if isinstance(delta, dict) else 0
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            for key, part in logprobs.items():
                if isinstance(part, list):
                    self.logprobs.setdefault(key, []).extend(part)
        if choice.get("finish_reason") is not None:
            self.finish_reason = choice["finish_reason"]
        for key, value in choice.items():
            if key not in {"index", "delta", "message", "logprobs", "finish_reason"} and value is not None:
                self.others[key] = value
        return taken_bytes

    def _add_delta(self, delta: JsonObject) -> int:
        taken_bytes = 0
        for key, value in delta.items():
            if value is None:
                continue
            if key in _JOINED_KEYS and isinstance(value, str):
                taken_bytes += self.pieces.setdefault(key, _Pieces()).append(value)
            elif key == "tool_calls" and isinstance(value, list):
                for call in value:
                    if isinstance(call, dict):
                        self._add_call(call)
            elif isinstance(value, list) and isinstance(self.message.get(key), list):
                self.message[key].extend(value)  # type: ignore[attr-defined]
            else:
                self.message[key] = value
        return taken_bytes

    def _add_call(self, call: JsonObject) -> None:
        """Add a piece of a tool call: `index` tells which, without it the id, without both the last one."""
        key = call.get("index")
        if not isinstance(key, int):
            key = call.get("id") or next(reversed(self.tool_calls), 0)
        if not isinstance(key, int | str):
            key = 0
        known = self.tool_calls.setdefault(key, {})
        for name, value in call.items():
            if name not in {"index", "function"} and value is not None:
                known[name] = value
        function = call.get("function")
        if not isinstance(function, dict):
            return
        merged = known.setdefault("function", {})
        for name, value in function.items():
            if name == "arguments" and isinstance(value, str):
                self.arguments.setdefault(key, []).append(value)
            elif value and isinstance(merged, dict):
                merged[name] = value

    def as_json(self, index: object) -> JsonObject:
        message: JsonObject = {"role": "assistant", **self.message}
        message["content"] = self.pieces["content"].text() if "content" in self.pieces else message.get("content")
        for key in ("reasoning_content", "refusal"):
            if key in self.pieces:
                message[key] = self.pieces[key].text()
        message.setdefault("refusal", None)
        for number, call in self.tool_calls.items():
            function = call.get("function")
            if isinstance(function, dict):
                function["arguments"] = "".join(self.arguments.get(number, ()))
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls.values())
        return {
            "index": index,
            "message": message,
            "finish_reason": self.finish_reason,
            "logprobs": self.logprobs or None,
            **self.others,
        }


@dataclass(slots=True)
class _Completion:
    """A chat completion as far as its chunks came."""

    fields: JsonObject = field(default_factory=dict)
    choices: dict[int, _Choice] = field(default_factory=dict)
    text_bytes: int = 0
    others_bytes: int = 0

    @property
    def has_content(self) -> bool:
        return any(choice.has_content for choice in self.choices.values())

    @property
    def finished(self) -> bool:
        return bool(self.choices) and all(choice.finish_reason is not None for choice in self.choices.values())

    def add(self, chunk: JsonObject, size_bytes: int) -> None:
        """Take a chunk that was so large as it came.

        Raises:
            TooLarge: That is more than is kept.
        """
        if not self._add_text(chunk, size_bytes):
            if not self._is_ordinary(chunk, size_bytes):
                self.others_bytes += size_bytes + _OBJECT_BYTES
            choices = chunk.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict):
                    index = choice.get("index")
                    known = self.choices.setdefault(index if isinstance(index, int) else 0, _Choice())
                    self.text_bytes += known.add(choice)
        for key, value in chunk.items():
            if key not in _NO_FIELDS and value is not None:
                self.fields[key] = value
        if self.others_bytes > _MOST_OTHER_BYTES or self.text_bytes > _MOST_BYTES:
            raise TooLarge

    def _add_text(self, chunk: JsonObject, size_bytes: int) -> bool:
        """Take a chunk that brings one more piece of a choice's content and nothing else, as nearly all do.

        Returns:
            Whether it is one: then what is done for every chunk need not be done for this one.
        """
        choices = chunk.get("choices")
        if not isinstance(choices, list) or len(choices) != 1 or not chunk.keys() <= _PLAIN:
            return False
        choice = choices[0]
        if (
            not isinstance(choice, dict)
            or not choice.keys() <= _PLAIN_CHOICE
            or choice.get("finish_reason") is not None
        ):
            return False
        delta, index = choice.get("delta"), choice.get("index")
        if not isinstance(delta, dict) or not delta.keys() <= _PLAIN_DELTA or type(index) is not int:
            return False
        content, known = delta.get("content"), self.choices.get(index)
        if not isinstance(content, str) or known is None or size_bytes - len(content) > _ORDINARY_BYTES:
            return False
        pieces, role = known.pieces.get("content"), delta.get("role")
        if pieces is None or (role is not None and not (isinstance(role, str) and role == known.message.get("role"))):
            return False
        self.text_bytes += pieces.append(content)
        return True

    def _is_ordinary(self, chunk: JsonObject, size_bytes: int) -> bool:
        """Tell whether a chunk brings text for known choices, and nothing else that adds up."""
        if not _told(chunk) <= _ORDINARY:
            return False
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict) or not _told(delta) <= _ORDINARY or not _told(choice) <= _ORDINARY:
                return False
            if choice.get("index", 0) not in self.choices:
                return False
            size_bytes -= sum(len(value) for value in delta.values() if isinstance(value, str))
        return size_bytes <= _ORDINARY_BYTES

    def encode(self) -> bytes:
        """Return the completion as JSON, identity first, then choices, then everything else.

        Raises:
            TypeError, RecursionError: A chunk nests too deeply to be written again.
        """
        fields = dict(self.fields)
        body: JsonObject = {"id": fields.pop("id", None), "object": "chat.completion"}
        for key in ("created", "model"):
            if key in fields:
                body[key] = fields.pop(key)
        body["choices"] = [self.choices[index].as_json(index) for index in sorted(self.choices)]
        try:
            return orjson.dumps({**body, **fields})
        except TypeError:
            return orjson.dumps(mended({**body, **fields}))
