"""Chat completions: how a request is read and what its made-up answer looks like, whole or as a stream.

Law: pure. An answer is a function of what was asked: it repeats the end of the conversation and a digest of it. Usage
adds up as the API's does: completion tokens exclude reasoning, the total includes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from bulkgrok.simulator import catalogue
from bulkgrok.simulator.refusals import STREAM_AND_DEFERRED, TEAM, Refusal, too_long

_ECHO_CHARS: Final = 200
_MOST_CHOICES: Final = 128
_IMAGE_TOKENS: Final = 256
_EFFORT_ONLY: Final = ("reasoning_effort",)
_NOT_WITH_REASONING: Final = ("presence_penalty", "frequency_penalty", "stop")
_ROLES: Final = frozenset({"system", "user", "assistant", "tool", "function", "developer"})
_FINGERPRINT: Final = "fp_3a7881249c"
_PIECES: Final = 6


@dataclass(frozen=True, slots=True)
class Ask:
    """What an answer is made of: small enough to be kept for a million jobs."""

    model: str
    """The model that answers, not always the one that was asked."""
    text: str
    """The end of the last message, at most 200 characters."""
    digest: str
    """Names the whole last message."""
    prompt_tokens: int
    limit: int | None
    n: int
    as_json: bool
    tool: str | None
    priority: bool
    stream: bool = False
    include_usage: bool = False
    deferred: bool = False

    @property
    def ticks(self) -> int:
        """Its price."""
        return _price(self, *_spent(self))


def read_ask(body: Any) -> Ask | Refusal:  # noqa: ANN401 - any JSON
    """Read a request body as the API does, or return why it is refused."""
    refusal = _types(body) or _values(body)
    if refusal is not None:
        return refusal
    model = catalogue.serving_model(body["model"])
    prompt_tokens, last = _measure(body)
    context = catalogue.chat_model(model).context_tokens
    if prompt_tokens > context:
        return too_long(context, prompt_tokens)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    shape = body.get("response_format")
    options = body.get("stream_options")
    return Ask(
        model=model,
        text=last[-_ECHO_CHARS:],
        digest=sha256(last.encode("utf-8", "replace")).hexdigest()[:12],
        prompt_tokens=prompt_tokens,
        limit=limit if isinstance(limit, int) else None,
        n=body.get("n") or 1,
        as_json=isinstance(shape, dict) and shape.get("type") in {"json_object", "json_schema"},
        tool=_called_tool(body, last),
        priority=body.get("service_tier") in {"priority", "fast"},
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        deferred=body.get("deferred") is True,
    )


def _types(body: Any) -> Refusal | None:  # noqa: ANN401 - any JSON
    """Refuse what the API cannot deserialise."""
    problem = ""
    if not isinstance(body, dict):
        problem = "invalid type, expected struct ChatRequest"
    elif "messages" not in body:
        problem = "missing field `messages`"
    elif "model" not in body:
        problem = "missing field `model`"
    elif not isinstance(body["model"], str):
        problem = "model: invalid type, expected a string"
    elif not isinstance(body["messages"], list):
        problem = "messages: invalid type, expected a sequence"
    else:
        problem = _fields_problem(body)
    return undeserialisable(problem) if problem else None


def _fields_problem(body: dict[str, Any]) -> str:
    for position, message in enumerate(body["messages"]):
        problem = _message_problem(message, f"messages[{position}]")
        if problem:
            return problem
    for name in ("stream", "deferred"):
        if not isinstance(body.get(name), bool | None):
            return f"{name}: invalid type, expected a boolean"
    for name in ("n", "max_tokens", "max_completion_tokens", "seed"):
        if isinstance(body.get(name), bool) or not isinstance(body.get(name), int | None):
            return f"{name}: invalid type, expected an integer"
    return ""


def _message_problem(message: Any, where: str) -> str:  # noqa: ANN401 - any JSON
    if not isinstance(message, dict):
        return f"{where}: invalid type, expected struct Message"
    role = message.get("role")
    if role is None:
        return f"{where}: missing field `role`"
    if role not in _ROLES if isinstance(role, str) else True:
        return f"{where}: unknown variant `{str(role)[:40]}`"
    if not isinstance(message.get("content"), str | list | None):
        return f"{where}.content: data did not match any variant of untagged enum Content"
    return ""


def undeserialisable(problem: str) -> Refusal:
    """Return the 422 of a body that is JSON of another type."""
    text = f"Failed to deserialize the JSON body into the target type: {problem}"
    return Refusal(422, "invalid", text, shape="error-only")


def _values(body: dict[str, Any]) -> Refusal | None:
    """Refuse what can be read and not be done."""
    model = body["model"]
    if body.get("stream") and body.get("deferred"):
        return Refusal(400, "invalid", STREAM_AND_DEFERRED, shape="bare")
    if not catalogue.known(model):
        text = f"The model {model[:80]} does not exist or your team {TEAM} does not have access to it."
        return Refusal(404, "not-found", text)
    if body.get("search_parameters") is not None:
        return Refusal(410, "gone", "Live search is deprecated. Please switch to the Agent Tools API.")
    temperature = body.get("temperature")
    problem = ""
    if not body["messages"]:
        problem = "Invalid request: messages must not be empty."
    elif temperature is not None and not (isinstance(temperature, int | float) and 0 <= temperature <= 2):
        problem = "Invalid temperature: must be between 0 and 2."
    elif not 1 <= (1 if body.get("n") is None else body["n"]) <= _MOST_CHOICES:
        problem = f"Invalid n: must be between 1 and {_MOST_CHOICES}."
    elif any(body.get(name) is not None and body[name] < 1 for name in ("max_tokens", "max_completion_tokens")):
        problem = "Invalid max_completion_tokens: must be at least 1."
    elif model.endswith("-reasoning"):
        unsupported = _EFFORT_ONLY if model.endswith("non-reasoning") else _NOT_WITH_REASONING
        found = [name for name in unsupported if body.get(name) is not None]
        problem = f"Model {model} does not support parameter {found[0]}." if found else ""
    return Refusal(400, "invalid", problem) if problem else None


def _measure(body: dict[str, Any]) -> tuple[int, str]:
    """Return the prompt's tokens, about, and the text of the last message that has any."""
    tokens, last = 8, ""
    for message in body["messages"]:
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = []
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                texts.append(text)
            elif isinstance(part, dict):
                tokens += _IMAGE_TOKENS
        text = "".join(texts)
        tokens += 4 + _tokens_of(text)
        last = text or last
    tools = body.get("tools")
    if isinstance(tools, list) and tools:
        tokens += _tokens_of(orjson.dumps(tools).decode())
    return tokens, last


def _tokens_of(text: str) -> int:
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def _called_tool(body: dict[str, Any], last: str) -> str | None:
    """Return the tool the answer calls: one that is asked for by `tool_choice` or by its name in the prompt."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    names: list[str] = [
        tool["function"]["name"]
        for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
        if isinstance(tool["function"].get("name"), str)
    ]
    if not names or choice == "none":
        return None
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        wanted = choice["function"].get("name")
        return next((name for name in names if name == wanted), names[0])
    named = [name for name in names if name in last]
    return named[0] if named else (names[0] if choice == "required" else None)


def _spent(ask: Ask) -> tuple[int, int, int]:
    """Return the tokens of an answer: completion, reasoning, and how many of the prompt were cached."""
    completion_tokens = ask.n * _tokens_of(_content(ask)[0])
    return completion_tokens, 16 + int(ask.digest[:3], 16) % 240, ask.prompt_tokens // 3


def _price(ask: Ask, completion_tokens: int, reasoning: int, cached: int) -> int:
    generated = completion_tokens + reasoning
    return catalogue.completion_ticks(
        ask.model, prompt=ask.prompt_tokens, cached=cached, generated=generated, priority=ask.priority
    )


def usage_of(ask: Ask, *, cost_ticks: bool) -> dict[str, Any]:
    """Return the usage of an answer, in tokens and (if wanted) in ticks."""
    completion_tokens, reasoning, cached = _spent(ask)
    usage: dict[str, Any] = {
        "prompt_tokens": ask.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": ask.prompt_tokens + completion_tokens + reasoning,
        "prompt_tokens_details": {
            "text_tokens": ask.prompt_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": cached,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
        "num_sources_used": 0,
    }
    if cost_ticks:
        usage["cost_in_usd_ticks"] = _price(ask, completion_tokens, reasoning, cached)
    return usage


def _content(ask: Ask) -> tuple[str, str]:
    """Return an answer's text and why it ends."""
    text = f"Simulated answer {ask.digest}: {ask.text}"
    if ask.tool is not None:
        return "", "tool_calls"
    if ask.as_json:
        return orjson.dumps({"answer": _encodable(text)}).decode(), "stop"
    if ask.limit is not None and _tokens_of(text) > ask.limit:
        return text.encode("utf-8", "replace")[: ask.limit * 4].decode("utf-8", "ignore"), "length"
    return text, "stop"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _tool_calls(ask: Ask) -> list[dict[str, Any]]:
    arguments = orjson.dumps({"input": _encodable(ask.text[-40:])}).decode()
    call = {"id": f"call_{ask.digest}", "type": "function", "function": {"name": ask.tool, "arguments": arguments}}
    return [call]


def _reasoning(ask: Ask) -> str:
    return f"The user asks {ask.digest}. A simulated thought is enough."


def _head(ask: Ask, identifier: str, created: float, kind: str) -> dict[str, Any]:
    return {"id": identifier, "object": kind, "created": int(created), "model": ask.model}


def _tail(ask: Ask) -> dict[str, Any]:
    return {"system_fingerprint": _FINGERPRINT, "service_tier": "priority" if ask.priority else "default"}


def completion(ask: Ask, identifier: str, created: float, *, cost_ticks: bool) -> bytes:
    """Return the body of a `chat.completion`."""
    content, finish = _content(ask)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "reasoning_content": _reasoning(ask),
        "refusal": None,
    }
    if ask.tool is not None:
        message["tool_calls"] = _tool_calls(ask)
    choices = [
        {"index": index, "message": message, "finish_reason": finish, "logprobs": None} for index in range(ask.n)
    ]
    value = _head(ask, identifier, created, "chat.completion")
    value |= {"choices": choices, "usage": usage_of(ask, cost_ticks=cost_ticks)}
    return orjson.dumps(value | _tail(ask) | {"citations": None})


def digest(body: bytes) -> bytes:
    """Return the SHA-256 of an answer's values: keys sorted, nulls at the top left out, whether streamed or whole."""
    value = {key: inner for key, inner in orjson.loads(body).items() if inner is not None}
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


def frames(ask: Ask, identifier: str, created: float, *, cost_ticks: bool) -> tuple[bytes, ...]:
    """Return the frames of a stream, the last of them `data: [DONE]`."""
    content, finish = _content(ask)
    head = _head(ask, identifier, created, "chat.completion.chunk") | _tail(ask)
    chunks: list[dict[str, Any]] = []
    for index in range(ask.n):
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in _split(_reasoning(ask), 2)]
        deltas += [{"content": piece} for piece in _split(content, _PIECES)]
        if ask.tool is not None:
            deltas.append({"tool_calls": [call | {"index": at} for at, call in enumerate(_tool_calls(ask))]})
        chunks += [{"choices": [{"index": index, "delta": delta, "finish_reason": None}]} for delta in deltas]
        chunks.append({"choices": [{"index": index, "delta": {}, "finish_reason": finish}]})
    if ask.include_usage:
        chunks.append({"choices": [], "usage": usage_of(ask, cost_ticks=cost_ticks)})
    return (*(b"data: " + orjson.dumps(head | chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n")


def _split(text: str, pieces: int) -> list[str]:
    size = max(1, -(-len(text) // pieces))
    return [text[start : start + size] for start in range(0, len(text), size)]
