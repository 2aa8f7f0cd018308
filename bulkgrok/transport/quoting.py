"""What is repeated of a server's words: never the key, though a server may say it back.

Law: a refusal is quoted without the key, in its body as in every reason that is made of it. An answer is what was paid
for (it has choices, or the address of a file) and stays byte for byte as the API wrote it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

from bulkgrok.core.model import Reply
from bulkgrok.core.secret import Secret
from bulkgrok.core.verdict import api_error


def quoted(reply: Reply, key: Secret) -> Reply:
    """Return a reply without the key where that is repeated."""
    request_id = reply.request_id and key.hide(reply.request_id)
    content_type = _hidden(key, reply.content_type)
    answers = 200 <= reply.status < 300 and (b'"choices"' in reply.body or b'"url"' in reply.body)  # what was paid for
    body = reply.body if answers else _without(reply.body, key)
    if (body, content_type, request_id) == (reply.body, reply.content_type, reply.request_id):
        return reply
    return replace(reply, body=body, content_type=content_type, request_id=request_id)


@lru_cache(maxsize=64)  # all replies have the same few
def _hidden(key: Secret, words: str) -> str:
    return key.hide(words)


def _without(body: bytes, key: Secret) -> bytes:
    """Return a body without the key; what says it only when it is read (escapes in escapes) is put in plain words."""
    hidden = key.hide_bytes(body)
    if b"\\" not in hidden and b"\0" not in hidden:  # no escapes, no UTF-16: it says what stands there
        return body if hidden == body else hidden
    text = api_error(hidden)
    if (message := key.hide(text.message)) != text.message:
        return json.dumps({"code": key.hide(text.code), "error": message}).encode()
    return body if hidden == body else hidden
