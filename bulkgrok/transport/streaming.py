"""A reply in the blocks it comes in, for a caller who wants to see them at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from bulkgrok.core.model import Exchange, NoReply, NotSent
from bulkgrok.core.secret import Secret
from bulkgrok.transport.asking import Response
from bulkgrok.transport.patience import Wait
from bulkgrok.transport.quoting import quoted
from bulkgrok.transport.reading import Incoming, Reading, head


async def streamed(
    send: Callable[[Wait], Awaitable[Response | NotSent | NoReply]],
    patience: Callable[[], Wait],
    reading: Reading,
    api_key: Secret,
) -> AsyncGenerator[bytes | Exchange, None]:
    """Send a request and yield the blocks of a 2xx body as they come, at last what became of the request.

    That last item is a Reply without body if blocks came, `complete` telling whether all did, and the whole
    refusal otherwise. Ending the iteration early closes the connection.

    Args:
        send: Sends it and returns the reply as far as the end of its headers.
        patience: Begins the wait for it.
        reading: Reads refusals.
        api_key: Hidden wherever the API quotes it.
    """
    with patience() as wait:
        response = await send(wait)
        if isinstance(response, NotSent | NoReply):
            yield response
            return
        if not 200 <= response.status < 300 or "Content-Encoding" in response.headers:
            yield quoted(await reading.read(response, wait), api_key)
            return
        incoming = Incoming(response.content, wait)
        try:
            while not incoming.ended and not incoming.broken:
                await incoming.fill(0)
                if block := incoming.take():
                    yield block
            yield quoted(head(response, complete=not incoming.broken), api_key)
        finally:
            response.close()
