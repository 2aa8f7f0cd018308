"""Chat completions: what may be asked, what it costs at most, how the answer reads.

Law: pure. Only what is documented to fail is refused beforehand; everything else is the API's to judge. An answer is a
JSON object with at least one choice that holds a message; whatever else is missing or odd is read as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from bulkgrok.core.errors import InvalidRow
from bulkgrok.core.model import Answer, Code, Decoded, JsonObject, Reply, RequestId, Unusable
from bulkgrok.kinds import sse
from bulkgrok.kinds.jsonread import loads, mended_text
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.replies import (
    EXPIRED_WORDS,
    FAILED_WORDS,
    job_failed,
    status_word,
    text_or_none,
    ticks_of,
    tokens_of,
    unreadable,
    usage_of,
)
from bulkgrok.kinds.skim import PARSED_BYTES, Text

DEFAULT_MODEL: Final = "grok-4.3"

#: `max_completion_tokens` where the request names none (the API's own default).
_DEFAULT_COMPLETION_TOKENS: Final = 128_000
#: What an answer takes of the token limit where the request names no maximum; corrected by what answers really take.
_USUAL_COMPLETION_TOKENS: Final = 1_024
#: Tokens the API adds to a prompt unseen: up to about 700 were observed.
_HIDDEN_PROMPT_TOKENS: Final = 700
_IMAGE_TOKENS: Final = 1_792
#: Of a message. A tuple is asked six times as fast as a union.
_CONTENT: Final = (str, list, dict, type(None))
_IMAGE_DATA: Final = re.compile(rb"data:[a-z]+/[a-zA-Z0-9.+-]+;base64,[A-Za-z0-9+/=\\]*")
#: What is read of an answer's outermost object.
_READ: Final = frozenset({"choices", "code", "error", "message", "model", "service_tier", "status", "usage"})
_DOCUMENT_PARTS: Final = frozenset({"file", "input_file", "document"})
_DOCUMENT_TOOLS: Final = frozenset({"file_search", "document_search", "attachment_search", "collections_search"})


class Chat:
    """`POST /chat/completions`, direct or deferred."""

    name: Final = "chat"
    submit_path: Final = "/chat/completions"
    once_only: Final = True
    default_model: Final = DEFAULT_MODEL

    def result_path(self, request_id: RequestId) -> str:
        """Return where to redeem a deferred completion; that consumes it."""
        return f"/chat/deferred-completion/{quote(request_id, safe='')}"

    def prepare(self, fields: JsonObject) -> JsonObject:
        """Check a request body and return it.

        Raises:
            InvalidRow: It cannot be sent; the message names field, value and limit.
        """
        check_messages(fields.get("messages"))
        check_n(fields)
        return fields

    def appraise(self, body: JsonObject, encoded: bytes, model: str, prices: Prices) -> tuple[float | None, int]:
        """Return what the request takes: USD at most, and about how many tokens of the token limit.

        USD are None for a model without a price. A token is at least a byte of text. Reasoning is not bounded by any
        field of the request, nor is what the server's own tools read and charge, so a long chain of thought may cost
        more. Against the token limit counts the prompt plus what may be generated.
        """
        size, images = _prompt_bytes(encoded)
        limit, n = _completion_limit(body), _n(body)
        tokens = size // 4 + images + 16 + n * (limit or _USUAL_COMPLETION_TOKENS)
        price = prices.of_chat(model)
        if price is None:
            return None, tokens
        prompt = size + images + _HIDDEN_PROMPT_TOKENS
        completion = n * (_DEFAULT_COMPLETION_TOKENS if limit is None else limit)
        priority = body.get("service_tier") in {"priority", "fast"}
        return prices.tokens_usd(price, (prompt, completion, 0, 0), priority=priority), tokens

    def unstream(self, reply: Reply) -> Reply:
        """Put a streamed reply together; see `sse.assemble`."""
        return sse.assemble(reply)

    def assemble(self, reply: Reply, blocks: Iterable[bytes]) -> Reply:
        """Put a streamed reply together whose body comes in blocks."""
        return sse.assemble(reply, blocks)

    def decode(self, raw: bytes, *, text: bool = True) -> Decoded:
        """Read the body of a complete 200. Never raises. Without `text`, content and reasoning stay unread."""
        try:
            if len(raw) > PARSED_BYTES:
                return _skimmed(raw, text=text)
            body = loads(raw)
        except ValueError as error:
            return unreadable(f"the reply is not JSON: {str(error)[:200]}")
        if not isinstance(body, dict):
            return unreadable(f"the reply is a JSON {type(body).__name__}, not the object of a chat completion")
        choices = body.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(first, dict):
            message = first.get("message")
            if isinstance(message, dict) or isinstance(first.get("text"), str):
                told = message if isinstance(message, dict) else {"content": first["text"]}
                return _answer(body, first, told if text else {})
        return _no_answer(body, raw)


def _skimmed(raw: bytes, *, text: bool) -> Decoded:
    """Do what `decode` does with a text that is too large to be parsed."""
    found = Text(raw)
    if found.type_name != "dict":
        return unreadable(f"the reply is a JSON {found.type_name}, not the object of a chat completion")
    members = found.members(_READ)
    choice = found.first_element(members.pop("choices", None))
    body = found.values(members)
    if found.is_object(choice):
        parts = found.members({"message", "text", "finish_reason"}, choice)
        finish = {"finish_reason": found.value(parts.get("finish_reason"))}
        if found.is_object(parts.get("message")):
            told = found.members({"content", "reasoning_content"}, parts["message"])
            message = {name: found.value(span, most_bytes=None) for name, span in told.items()} if text else {}
            return _answer(body, finish, message)
        if found.is_text(parts.get("text")):
            message = {"content": found.value(parts["text"], most_bytes=None)} if text else {}
            return _answer(body, finish, message)
    return _no_answer(body, raw)


def _no_answer(body: JsonObject, raw: bytes) -> Unusable:
    """Read an object without an answer: an error, or nothing known."""
    word = status_word(body)
    if word in EXPIRED_WORDS:
        return Unusable(code=Code.EXPIRED, message="the API says that the result has expired")
    if body.get("error") or word in FAILED_WORDS or (body.get("code") and body.get("message")):
        return job_failed(body, raw)
    return unreadable("the reply is no chat completion: it has no choice with a message")


def _answer(body: JsonObject, choice: JsonObject, message: JsonObject) -> Answer:
    usage = usage_of(body)
    return Answer(
        model=text_or_none(body.get("model")),
        usage=usage,
        ticks=ticks_of(usage),
        tokens=tokens_of(usage),
        content=_text(message.get("content")),
        reasoning=_text(message.get("reasoning_content")),
        finish_reason=text_or_none(choice.get("finish_reason")),
        service_tier=text_or_none(body.get("service_tier")),
    )


def _text(content: object) -> str | None:
    """Return a message's text: as it is, or the text of its parts joined."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if texts else None
    return mended_text(content) if isinstance(content, str) else None


def check_messages(messages: object) -> None:
    """Refuse messages that are no conversation.

    Raises:
        InvalidRow: Not a non-empty list of objects.
    """
    if not isinstance(messages, list) or not messages:
        msg = f"messages must be a non-empty list of objects, not {_shown(messages)}"
        raise InvalidRow(msg)
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or not message:
            msg = f"messages[{position}] must be an object with role and content, not {_shown(message)}"
            raise InvalidRow(msg)
        content = message.get("content")
        if not isinstance(content, _CONTENT):
            msg = f"messages[{position}].content must be a string or a list of parts, not {_shown(content)}"
            raise InvalidRow(msg)


def check_n(body: JsonObject) -> None:
    """Refuse several answers of a request that searches documents.

    Raises:
        InvalidRow: `n` is more than 1 and a file is attached or a tool searches documents.
    """
    if _n(body) > 1 and (where := _document_search(body)):
        msg = (
            f"n is {body['n']}, and {where} makes the API search documents: such a request answers once (n = 1); "
            "give the row several times instead"
        )
        raise InvalidRow(msg)


def _document_search(body: JsonObject) -> str | None:
    """Return what in a body makes the API search documents, None if nothing does."""
    if body.get("file_ids"):
        return "file_ids"
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        name = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(name, str) and name in _DOCUMENT_TOOLS:
            return f"the tool {name}"
    messages = body.get("messages")
    for position, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and (part.get("type") in _DOCUMENT_PARTS or part.get("file_id")):
                return f"the file in messages[{position}]"
    return None


def _n(body: JsonObject) -> int:
    found = body.get("n")
    if found is None:
        return 1
    if isinstance(found, str) and found.isdecimal() and len(found) < 9:
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 1 <= found <= 10**6:
        return 1
    return int(found)


def _completion_limit(body: JsonObject) -> int | None:
    for key in ("max_completion_tokens", "max_tokens"):
        found = body.get(key)
        if found is not None and isinstance(found, int | float) and not isinstance(found, bool) and 0 < found < 10**9:
            return int(found)
    return None


def _prompt_bytes(encoded: bytes) -> tuple[int, int]:
    """Return the size of a body without its images in bytes, and the tokens of the images."""
    if b"image" not in encoded:
        return len(encoded), 0
    embedded = sum(len(match.group()) for match in _IMAGE_DATA.finditer(encoded)) if b";base64," in encoded else 0
    return len(encoded) - embedded, encoded.count(b'"image_url":') * _IMAGE_TOKENS


def _shown(value: object) -> str:
    if isinstance(value, str | int | float | None):
        text = repr(value)
        return text if len(text) <= 80 else text[:77] + "..."
    return "an empty " + type(value).__name__ if not value else f"a {type(value).__name__}"
