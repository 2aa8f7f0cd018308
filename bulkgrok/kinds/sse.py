"""A streamed answer, put together into the ordinary one it stands for.

Law: the whole body is in memory; nothing is guessed. A stream is an answer when it says `[DONE]` or every choice it
showed has its finish_reason; an error before the first content is that error; everything else is incomplete, which the
caller calls in doubt. Events follow the WHATWG text/event-stream grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
_FIELD: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def is_stream(reply: Reply) -> bool:
    """Tell whether a reply is a stream of events: by its type, or where that is missing by its first bytes."""
    if reply.content_type:
        return reply.content_type.split(";")[0].strip().lower() == _EVENT_STREAM
    return reply.body.removeprefix(_BOM).lstrip(b"\r\n").startswith(_FIELD)


def events(body: bytes) -> Iterator[bytes]:
    """Yield the data of each event, lines of one event joined by a newline; a last event without its blank line too."""
    data: list[bytes] = []
    for line in _LINE.split(body.removeprefix(_BOM)):
        if not line:
            if data:
                yield b"\n".join(data)
                data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
    if data:
        yield b"\n".join(data)


def assemble(reply: Reply) -> Reply:
    """Return the ordinary chat completion that a streamed reply stands for; other replies unchanged.

    An error event before any content becomes a reply with that error as its body (and the status it names, if it
    names one); a stream that breaks or errs after its first content becomes an incomplete reply.
    """
    if not 200 <= reply.status < 300 or not is_stream(reply):
        return reply
    completion = _Completion()
    for data in events(reply.body):
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
        completion.add(chunk)
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
class _Choice:
    """One choice as far as its deltas came."""

    pieces: dict[str, list[str]] = field(default_factory=dict)
    message: JsonObject = field(default_factory=dict)
    tool_calls: dict[object, JsonObject] = field(default_factory=dict)
    arguments: dict[object, list[str]] = field(default_factory=dict)
    logprobs: dict[str, list[object]] = field(default_factory=dict)
    finish_reason: object = None
    others: JsonObject = field(default_factory=dict)

    @property
    def has_content(self) -> bool:
        return bool(self.tool_calls) or any(map(any, self.pieces.values()))

    def add(self, choice: JsonObject) -> None:
        delta = choice.get("delta") or choice.get("message")
        if isinstance(delta, dict):
            self._add_delta(delta)
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

    def _add_delta(self, delta: JsonObject) -> None:
        for key, value in delta.items():
            if value is None:
                continue
            if key in _JOINED_KEYS and isinstance(value, str):
                self.pieces.setdefault(key, []).append(value)
            elif key == "tool_calls" and isinstance(value, list):
                for call in value:
                    if isinstance(call, dict):
                        self._add_call(call)
            elif isinstance(value, list) and isinstance(self.message.get(key), list):
                self.message[key] = [*self.message[key], *value]  # type: ignore[misc]
            else:
                self.message[key] = value

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
        message["content"] = "".join(self.pieces["content"]) if "content" in self.pieces else message.get("content")
        for key in ("reasoning_content", "refusal"):
            if key in self.pieces:
                message[key] = "".join(self.pieces[key])
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

    @property
    def has_content(self) -> bool:
        return any(choice.has_content for choice in self.choices.values())

    @property
    def finished(self) -> bool:
        return bool(self.choices) and all(choice.finish_reason is not None for choice in self.choices.values())

    def add(self, chunk: JsonObject) -> None:
        for key, value in chunk.items():
            if key not in {"choices", "object"} and value is not None:
                self.fields[key] = value
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                self.choices.setdefault(index if isinstance(index, int) else 0, _Choice()).add(choice)

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
