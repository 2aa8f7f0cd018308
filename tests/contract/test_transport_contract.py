"""What every Transport promises, over the real one against a loopback server and the scripted fake."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager

import pytest

from bulkgrok.core.model import Fetched, NoReply, NotSent, Reply
from bulkgrok.testing import ScriptedTransport
from bulkgrok.transport import AiohttpTransport

_LENGTH = re.compile(rb"Content-Length: (\d+)")


def encoded(reply):
    """Return a reply as a server writes it; an incomplete one ends too early."""
    lines = [f"HTTP/1.1 {reply.status} Played", f"Content-Length: {len(reply.body) + (0 if reply.complete else 100)}"]
    if reply.content_type:
        lines.append(f"Content-Type: {reply.content_type}")
    if reply.retry_after_s is not None:
        lines.append(f"Retry-After: {reply.retry_after_s}")
    if reply.request_id is not None:
        lines.append(f"x-request-id: {reply.request_id}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body


class Counted:
    """The real transport and how many requests reached its server."""

    def __init__(self, transport, base, heads):
        self.transport = transport
        self.url = base + "/file"
        self._heads = heads

    @property
    def requests(self):
        return len(self._heads)


@asynccontextmanager
async def real(script):
    heads, script = [], list(script)

    async def connected(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                await reader.readexactly(int(length[1]) if length else 0)
                heads.append(head)
                exchange = script.pop(0)
                if not isinstance(exchange, Reply):
                    break
                writer.write(encoded(exchange))
                await writer.drain()
                if not exchange.complete:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if isinstance(script[0], NotSent):
        server.close()
        await server.wait_closed()
    try:
        async with AiohttpTransport(base_url=base + "/v1", api_key="k", concurrency=2) as transport:
            yield Counted(transport, base, heads)
    finally:
        server.close()


class Played:
    """The fake and how many requests it was given."""

    url = "https://vidgen.x.ai/file"

    def __init__(self, script):
        self.transport = ScriptedTransport(script)
        self._unsent = sum(isinstance(exchange, NotSent) for exchange in script)

    @property
    def requests(self):
        return len(self.transport.asked) - self._unsent


@asynccontextmanager
async def scripted(script):
    yield Played(script)


@pytest.fixture(params=[real, scripted], ids=["aiohttp", "scripted"])
def playing(request):
    return request.param


def run(playing, script, question):
    """Ask something of a transport that plays a script; return the answer and how many requests were seen."""

    async def scenario():
        async with playing(script) as subject:
            return await question(subject), subject.requests

    return asyncio.run(asyncio.wait_for(scenario(), 20))


async def post(subject):
    return await subject.transport.post("/chat/completions", b'{"a": 1}', timeout_s=10.0, idle_s=10.0)


async def get(subject):
    return await subject.transport.get("/chat/deferred-completion/x")


CALLS = pytest.mark.parametrize("call", [post, get], ids=["post", "get"])


@CALLS
def test_a_reply_is_returned_as_it_came(playing, call):
    reply = Reply(status=200, body=b'{"b": 2}', content_type="application/json", retry_after_s=3.0, request_id="id-1")
    assert run(playing, [reply], call) == (reply, 1)


@CALLS
@pytest.mark.parametrize("status", [202, 204, 301, 307, 400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 529, 599])
def test_every_status_is_a_reply_and_nothing_is_sent_again(playing, call, status):
    exchange, requests = run(playing, [Reply(status=status), Reply(status=200)], call)
    assert (exchange.status, exchange.complete, requests) == (status, True, 1)


@CALLS
def test_a_reply_cut_short_is_incomplete(playing, call):
    exchange, requests = run(playing, [Reply(status=200, body=b"{", complete=False), Reply(status=200)], call)
    assert (exchange.status, exchange.complete, exchange.body, requests) == (200, False, b"{", 1)


@CALLS
def test_no_reply_is_a_value_and_nothing_is_sent_again(playing, call):
    exchange, requests = run(playing, [NoReply(reason="dropped"), Reply(status=200)], call)
    assert isinstance(exchange, NoReply)
    assert exchange.reason
    assert requests == 1


@CALLS
def test_not_sent_is_a_value(playing, call):
    exchange, requests = run(playing, [NotSent(reason="refused")], call)
    assert isinstance(exchange, NotSent)
    assert exchange.reason
    assert requests == 0


@CALLS
def test_calls_follow_one_another(playing, call):
    async def thrice(subject):
        return [(await call(subject)).status for _ in range(3)]

    assert run(playing, [Reply(status=status) for status in (200, 429, 200)], thrice) == ([200, 429, 200], 3)


async def fetch(subject):
    written = []
    fetched = await subject.transport.fetch(
        subject.url, offset=0, etag=None, write=lambda data, position: written.append((position, data))
    )
    return fetched, written


def test_a_file_is_written_from_its_start(playing):
    (fetched, written), _ = run(playing, [Reply(status=200, body=b"film")], fetch)
    assert fetched == Fetched(status=200, complete=True)
    assert written[0][0] == 0
    assert b"".join(data for _, data in written) == b"film"


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
def test_a_refused_download_writes_nothing(playing, status):
    (fetched, written), _ = run(playing, [Reply(status=status, body=b"page")], fetch)
    assert (fetched.status, fetched.complete, written) == (status, False, [])
    assert fetched.reason


def test_a_download_cut_short_is_incomplete(playing):
    (fetched, _), _ = run(playing, [Reply(status=200, body=b"fi", complete=False)], fetch)
    assert (fetched.status, fetched.complete) == (200, False)


@pytest.mark.parametrize("exchange", [NoReply(reason="dropped"), NotSent(reason="refused")])
def test_a_download_without_a_reply_has_no_status(playing, exchange):
    (fetched, written), _ = run(playing, [exchange], fetch)
    assert (fetched.status, fetched.complete, written) == (None, False, [])
