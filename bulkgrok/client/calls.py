"""The calls: what is sent where, and what is sent again.

Law: replies are the API's JSON as dicts. A POST is sent again only when it certainly was not done (429, or not sent in
whole); a GET also after 5xx and broken connections. A deferred answer that arrived in whole is never asked for again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bulkgrok.client import large
from bulkgrok.client.replies import as_object, checked, encode, loads, request_id_of, segment
from bulkgrok.client.streams import Stream
from bulkgrok.config import endpoint
from bulkgrok.core.errors import ApiError, DeferredTimeout, UsageError
from bulkgrok.core.model import Exchange, Mode, NoReply, NotSent, Reply
from bulkgrok.core.retry import wait_s
from bulkgrok.core.verdict import Stop, judge_post
from bulkgrok.kinds import pending
from bulkgrok.transport import AiohttpTransport

_TRIES: Final = 5
_LONGEST_WAIT_S: Final = 60.0
_AGAIN: Final = frozenset({408, 500, 502, 503, 504, 529})
_CHAT: Final = "/chat/completions"
_DEFERRED_IDLE_S: Final = 120.0
_LONGEST_S: Final = 3_600.0
_CONNECTIONS: Final = 1_000
_MEMORY_BYTES: Final = 1 << 20


class Client:
    """Single calls to the API. Use it as an async context manager.

    Args:
        api_key: The key; without it XAI_API_KEY.
        base_url: Where the API is, its version included; without it XAI_BASE_URL, then https://api.x.ai/v1.
        timeout: Seconds a direct request may take as a whole.
        ca_file: Certificates (PEM) to trust besides the system's.
        proxy: An http proxy.

    Raises:
        UsageError: There is no key, or an argument cannot be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 3_600.0,
        ca_file: str | Path | None = None,
        proxy: str | None = None,
    ) -> None:
        key, address = endpoint(api_key, base_url)
        self._timeout_s = timeout
        self._transport = AiohttpTransport(
            base_url=address,
            api_key=key,
            concurrency=_CONNECTIONS,
            ca_file=None if ca_file is None else Path(ca_file),
            proxy=proxy,
            memory_bytes=_MEMORY_BYTES,
        )
        self.videos = Videos(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def chat(self, body: Mapping[str, object]) -> dict[str, Any]:
        """POST a chat completion and return it.

        Raises:
            ApiError: The API refused, or no usable reply came (`status` is None then: it may have been billed).
        """
        _check(body)
        if body.get("stream") or body.get("deferred"):
            msg = "a body with stream or deferred is for stream_chat or submit_deferred"
            raise UsageError(msg)
        return as_object(await self._post(_CHAT, body, timeout_s=self._timeout_s))

    async def stream_chat(self, body: Mapping[str, object]) -> AsyncIterator[str]:
        """POST a chat completion and yield the pieces of its (first) choice's content as they come.

        Raises:
            ApiError: The API refused, or the stream broke after what was yielded.
        """
        _check(body)
        encoded = encode({**body, "stream": True})
        failures, delay = 0, None
        while failures == 0 or delay is not None:
            reading = Stream()
            async with aclosing(
                self._transport.stream(_CHAT, encoded, timeout_s=self._timeout_s, idle_s=None)
            ) as items:
                async for item in items:
                    if isinstance(item, bytes):
                        pieces = reading.feed(item)
                    elif (delay := self._delay_s(item, failures, repeatable=False)) is None:
                        pieces = reading.end(item)
                    else:
                        pieces = []
                    for piece in pieces:
                        yield piece
            failures += 1
            if delay is not None:
                await self._sleep(delay)

    async def submit_deferred(self, body: Mapping[str, object]) -> str:
        """POST a deferred chat completion and return its request_id.

        Raises:
            ApiError: The API refused, or accepted it without an id that can be used.
        """
        _check(body)
        body = {**{key: value for key, value in body.items() if key != "stream"}, "deferred": True}
        return request_id_of(await self._post(_CHAT, body, timeout_s=_LONGEST_S, idle_s=_DEFERRED_IDLE_S))

    async def get_deferred(self, request_id: str) -> dict[str, Any] | None:
        """Return a deferred chat completion, None while it is pending. The API hands it out once.

        Raises:
            ApiError: There is none (404: unknown, expired or handed out before), or the API refused.
        """
        return await self._redeem(request_id)

    async def api_key(self) -> dict[str, Any]:
        """Return what the API knows of the key: its name, what it may do, whether it is blocked. Costs nothing.

        Raises:
            ApiError: The API refused; with status 400 or 401, the key.
        """
        return as_object(await self._get("/api-key"))

    async def _redeem(self, request_id: str, *, until: float | None = None) -> dict[str, Any] | None:
        reply = await self._get(f"/chat/deferred-completion/{segment(request_id)}", until=until)
        if reply.status in {202, 204} or pending(reply.body):
            return None
        return as_object(reply)

    async def defer_and_wait(
        self,
        body: Mapping[str, object],
        polling_interval: float = 5.0,
        timeout: float = 600.0,  # noqa: ASYNC109 - the name of the argument is a contract
    ) -> dict[str, Any]:
        """Submit a deferred chat completion and return its answer.

        Args:
            body: The request.
            polling_interval: Seconds between two polls.
            timeout: Seconds to wait in all; only a poll that is under way then is still awaited.

        Raises:
            DeferredTimeout: It was not ready in time; `request_id` can still be given to `get_deferred`.
            ApiError: The API refused, or the job failed.
        """
        request_id = await self.submit_deferred(body)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        while (left := deadline - clock()) > 0:
            await self._sleep(min(polling_interval, left))
            try:
                done = await self._redeem(request_id, until=deadline)
            except ApiError as error:
                if error.status is not None and error.status not in _AGAIN and error.status != 429:
                    error.hint = error.hint or f"its request_id is {request_id}"
                    raise
                continue
            if done is not None:
                return done
        msg = f"not ready after {timeout:g} s; get_deferred({request_id!r}) can still fetch it within 24 h"
        raise DeferredTimeout(msg, request_id=request_id)

    async def _post(
        self, path: str, body: Mapping[str, object], *, timeout_s: float | None, idle_s: float | None = None
    ) -> Reply:
        encoded = encode(body)
        failures = 0
        while True:
            exchange = await self._transport.post(
                path, encoded, timeout_s=timeout_s, idle_s=idle_s, keep=large.new_name()
            )
            exchange = await large.in_memory(exchange)
            if (delay := self._delay_s(exchange, failures, repeatable=False)) is None:
                return checked(exchange)
            await self._sleep(delay)
            failures += 1

    async def _get(self, path: str, *, until: float | None = None) -> Reply:
        """GET, again where that may help, but not after `until` on the loop's clock."""
        failures, broken = 0, False
        clock = asyncio.get_running_loop().time
        while True:
            exchange = await large.in_memory(await self._transport.get(path, keep=large.new_name()))
            delay = self._delay_s(exchange, failures, repeatable=True)
            if delay is None or (until is not None and clock() + delay > until):
                if broken and isinstance(exchange, Reply) and exchange.status == 404:
                    msg = "the API no longer has it: it was handed out to a connection that broke"
                    raise ApiError(msg, status=404)
                return checked(exchange)
            broken = broken or not isinstance(exchange, Reply) or not exchange.complete
            await self._sleep(delay)
            failures += 1

    def _delay_s(self, exchange: Exchange, failures: int, *, repeatable: bool) -> float | None:
        """Decide whether a request is sent again, and after how many seconds; None for what stands."""
        if failures >= _TRIES - 1:
            return None
        match exchange:
            case Reply(status=429) if not isinstance(judge_post(exchange, mode=Mode.DIRECT), Stop):
                pass
            case Reply(status=status) if repeatable and status in _AGAIN:
                pass
            case Reply(complete=False, oversized=False, status=status) if repeatable and 200 <= status < 300:
                pass
            case NotSent():
                pass
            case NoReply() if repeatable:
                pass
            case _:
                return None
        retry_after_s = exchange.retry_after_s if isinstance(exchange, Reply) else None
        return min(_LONGEST_WAIT_S, wait_s(retry_after_s, failures, jitter=self._jitter()))

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _jitter(self) -> float:
        return random.random()  # noqa: S311 - spreads retries, keeps no secret


class Videos:
    """Video jobs: `client.videos`. Fields are the API's own: prompt, model, duration, image, video and so on."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def generate(self, **fields: object) -> dict[str, Any]:
        """Start a generation; the reply has its `request_id`. ApiError if the API refuses."""
        return await self._submit("/videos/generations", fields)

    async def edit(self, **fields: object) -> dict[str, Any]:
        """Start an edit of `video`; the reply has its `request_id`. ApiError if the API refuses."""
        return await self._submit("/videos/edits", fields)

    async def extend(self, **fields: object) -> dict[str, Any]:
        """Start an extension of `video`; the reply has its `request_id`. ApiError if the API refuses."""
        return await self._submit("/videos/extensions", fields)

    async def retrieve(self, request_id: str) -> dict[str, Any]:
        """Return how a job stands, in the API's words; `{"status": "pending"}` where it has none.

        Raises:
            ApiError: The API does not know it, or refused.
        """
        reply = await self._client._get(f"/videos/{segment(request_id)}")  # noqa: SLF001 - one client in two parts
        if reply.status in {202, 204}:
            value = loads(reply.body)
            return value if isinstance(value, dict) and value.get("status") else {"status": "pending"}
        return as_object(reply) if reply.body.strip() else {"status": "pending"}

    async def _submit(self, path: str, fields: Mapping[str, object]) -> dict[str, Any]:
        for name in ("image", "video"):
            if isinstance(fields.get(name), str):
                fields = {**fields, name: {"url": fields[name]}}
        reply = await self._client._post(  # noqa: SLF001 - as above
            path, fields, timeout_s=_LONGEST_S, idle_s=_DEFERRED_IDLE_S
        )
        return {**as_object(reply), "request_id": request_id_of(reply)}


def _check(body: object) -> None:
    """Refuse what is no request body.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(body, Mapping):
        msg = f"a request body is a dict as the API reads it, not {type(body).__name__}. Nothing was sent."
        raise UsageError(msg, hint='Give one like {"messages": [{"role": "user", "content": "Hello"}]}.')
