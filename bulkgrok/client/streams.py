"""A streamed answer as it comes: events in, pieces of text out.

Law: nothing is held back that is whole, nothing is taken for the end but `[DONE]` or a finish_reason.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from bulkgrok.client.replies import as_object, checked, loads
from bulkgrok.core.errors import ApiError
from bulkgrok.core.model import Exchange, JsonObject
from bulkgrok.core.verdict import api_error
from bulkgrok.kinds.sse import events

#: Up to and with the last end of an event.
_WHOLE: Final = re.compile(rb".*(?>\r\n|\n|\r){2}", re.DOTALL)
_MOST_PENDING_BYTES: Final = 4 << 20
_MOST_UNREAD_BYTES: Final = 32 << 20


class Stream:
    """The pieces of one streamed answer, as they come."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._unread = bytearray()
        self._streams = False
        self._done = False

    def feed(self, block: bytes) -> list[str]:
        """Take a block of the body and return the pieces that are whole with it."""
        if not self._streams:
            self._unread += block
            if len(self._unread) > _MOST_UNREAD_BYTES:
                msg = "the reply holds no event in its first 32 MiB; it may have been billed"
                raise ApiError(msg)
        self._rest += block
        if len(self._rest) > _MOST_PENDING_BYTES:
            msg = "the stream holds an event larger than 4 MiB; what came so far may have been billed"
            raise ApiError(msg)
        found = _WHOLE.match(self._rest, self._searched)
        end = 0 if found is None else found.end()
        del found  # it holds the buffer
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        self._searched = max(0, len(self._rest) - 3)
        return self._pieces(whole)

    def end(self, exchange: Exchange) -> list[str]:
        """Take what became of the request and return the last pieces.

        Raises:
            ApiError: There was no stream, or it did not come to its end.
        """
        pieces = self._pieces(bytes(self._rest))
        if not self._streams:  # an ordinary answer all the same, or an error with status 200
            reply = checked(exchange)
            return _contents(as_object(replace(reply, body=reply.body or bytes(self._unread))), "message")
        if not self._done:
            msg = "the stream broke off; what came so far may have been billed"
            raise ApiError(msg)
        return pieces

    def _pieces(self, whole: bytes) -> list[str]:
        pieces: list[str] = []
        for data in events((whole,)):
            self._streams = True
            self._unread.clear()
            if data.strip() == b"[DONE]":
                self._done = True
                continue
            value = loads(data)
            if not isinstance(value, dict):
                continue
            if not value.get("choices") and (value.get("error") or (value.get("code") and value.get("message"))):
                raise ApiError(api_error(data).message)
            pieces += _contents(value, "delta")
            self._done = self._done or _finished(value)
        return pieces


def _first(value: JsonObject) -> JsonObject:
    """Return the choice with index 0, empty where there is none."""
    choices = value.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return {}


def _contents(value: JsonObject, key: str) -> list[str]:
    message = _first(value).get(key)
    content = message.get("content") if isinstance(message, dict) else None
    return [content] if isinstance(content, str) and content else []


def _finished(value: JsonObject) -> bool:
    return _first(value).get("finish_reason") is not None
