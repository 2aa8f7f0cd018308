"""The transport against servers that break off, lie, flood and redirect: what it calls certain must be certain."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import threading
import zlib

import pytest

from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.model import NoReply, NotSent, Reply
from bulkgrok.transport import AiohttpTransport, spilling
from bulkgrok.transport.patience import Wait
from bulkgrok.transport.sending import Body
from bulkgrok.transport.spilling import Spills

LARGE = b'{"x":"' + b"x" * (16 << 20) + b'"}'


def transport(wire, **options):
    return AiohttpTransport(**{"base_url": wire.base_url, "api_key": "xai-secret", "concurrency": 8, **options})


def post(play, handler, body=b'{"a":1}', *, timeout_s=20.0, idle_s=10.0, **options):
    """Play one POST; return what became of it and the server."""

    async def scenario():
        async with play.serving(handler) as wire, transport(wire, **options) as client:
            return await client.post("/chat/completions", body, timeout_s=timeout_s, idle_s=idle_s), wire

    return asyncio.run(scenario())


def get(play, handler, *, keep="", **options):
    """Play one GET; return what became of it and the server."""

    async def scenario():
        async with play.serving(handler) as wire, transport(wire, **options) as client:
            return await client.get("/thing", keep=keep), wire

    return asyncio.run(scenario())


def refused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- What was not sent --------------------------------------------------------------------------------------------


def test_a_refused_connection_is_not_sent():
    async def scenario():
        base = f"http://127.0.0.1:{refused_port()}/v1"
        async with AiohttpTransport(base_url=base, api_key="k", concurrency=1) as client:
            return await client.post("/x", b"{}", timeout_s=5, idle_s=5), await client.get("/x")

    for exchange in asyncio.run(scenario()):
        assert isinstance(exchange, NotSent)
        assert "Connection refused" in exchange.reason


def test_a_name_without_address_is_not_sent():
    async def scenario():
        base = "https://bulkgrok.invalid/v1"
        async with AiohttpTransport(base_url=base, api_key="k", concurrency=1) as client:
            return await client.post("/x", b"{}", timeout_s=5, idle_s=5)

    exchange = asyncio.run(scenario())
    assert isinstance(exchange, NotSent)
    assert "bulkgrok.invalid" in exchange.reason


def test_a_server_that_speaks_no_tls_is_not_sent(play):
    async def handler(wire, reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    exchange, _ = post(play, handler, base_url=f"https://127.0.0.1:{refused_port()}/v1")
    assert isinstance(exchange, NotSent)

    async def scenario():
        async with (
            play.serving(handler) as wire,
            transport(wire, base_url=wire.base_url.replace("http:", "https:")) as client,
        ):
            return await client.post("/x", b"{}", timeout_s=5, idle_s=5), await client.get("/x")

    for exchange in asyncio.run(scenario()):
        assert isinstance(exchange, NotSent)
        assert "TLS" in exchange.reason


def test_half_a_large_body_then_reset_is_not_sent(play):
    async def handler(wire, reader, writer):
        await reader.readexactly(1 << 20)
        play.reset(writer)

    exchange, _ = post(play, handler, LARGE)
    assert isinstance(exchange, NotSent), exchange


def test_half_a_large_body_then_a_clean_close_is_not_sent(play):
    async def handler(wire, reader, writer):
        await reader.readexactly(1 << 20)
        writer.close()

    exchange, _ = post(play, handler, LARGE)
    assert isinstance(exchange, NotSent), exchange


@pytest.mark.parametrize("clock", ["idle", "total"])
def test_a_server_that_stops_reading_is_not_sent_and_never_gets_the_rest(play, clock):
    got = []

    async def handler(wire, reader, writer):
        got.append(await reader.readexactly(1 << 20))
        wire.given_up = asyncio.Event()
        await wire.given_up.wait()
        while block := await reader.read(1 << 20):
            got.append(block)

    async def scenario():
        async with play.serving(handler) as wire, transport(wire) as client:
            timeout_s, idle_s = (None, 0.3) if clock == "idle" else (0.3, None)
            exchange = await client.post("/x", LARGE, timeout_s=timeout_s, idle_s=idle_s)
            wire.given_up.set()
            await asyncio.gather(*wire.tasks, return_exceptions=True)
            return exchange

    assert isinstance(asyncio.run(scenario()), NotSent)
    assert sum(map(len, got)) < len(LARGE)


def test_the_tail_of_a_body_still_in_the_buffer_is_not_sent_and_never_will_be(play):
    """Around the size that just fits into the system's buffers, where the last piece alone is left behind."""

    async def attempt(size):
        got = bytearray()
        given_up = asyncio.Event()

        async def handler(wire, reader, writer):
            writer.transport.pause_reading()
            await given_up.wait()
            writer.transport.resume_reading()
            while block := await reader.read(1 << 20):
                got.extend(block)

        async with play.serving(handler) as wire, transport(wire) as client:
            exchange = await client.post("/x", b"x" * size, timeout_s=None, idle_s=0.05)
            given_up.set()
            await asyncio.gather(*wire.tasks, return_exceptions=True)
        if isinstance(exchange, NotSent):
            assert got.count(b"x") < size
            return False
        assert isinstance(exchange, NoReply)
        return True

    async def scenario():
        fits, fits_not = 1 << 16, 1 << 24
        while fits_not - fits > 1 << 14:
            size = (fits + fits_not) // 2
            if await attempt(size):
                fits = size
            else:
                fits_not = size
        return fits, fits_not

    fits, fits_not = asyncio.run(scenario())
    assert fits > 1 << 16
    assert fits_not < 1 << 24


def test_a_kept_connection_the_server_has_closed_is_not_written_to():
    """The farewell has arrived but the loop has not read it: the connection still looks alive. A new one is made."""
    asked = []
    listener = socket.create_server(("127.0.0.1", 0))
    may_close, closed = threading.Event(), threading.Event()

    def serve():
        for _ in range(2):
            connection, _ = listener.accept()
            asked.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            may_close.wait()
            asked.append(connection.recv(65536) if closed.is_set() else b"")
            connection.close()
            closed.set()

    thread = threading.Thread(target=serve)
    thread.start()

    async def scenario():
        base = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        async with AiohttpTransport(base_url=base, api_key="k", concurrency=1) as client:
            first = await client.get("/x")
            may_close.set()
            closed.wait()  # blocks the loop: it must not notice
            return first, await client.post("/x", b"{}", timeout_s=5, idle_s=5)

    first, second = asyncio.run(scenario())
    if not isinstance(second, Reply):  # the server still waits for a connection
        socket.create_connection(listener.getsockname()).close()
    thread.join()
    listener.close()
    assert isinstance(first, Reply)
    assert isinstance(second, Reply), second
    assert [request[:4] for request in asked] == [b"GET ", b"", b"POST", b""]


def test_a_request_whose_time_is_over_before_it_is_connected_is_not_sent(play):
    async def scenario():
        loop = asyncio.get_running_loop()
        async with play.serving(play.always(play.reply())) as wire, transport(wire) as client:
            with Wait(set(), loop, timeout_s=1.0, idle_s=None) as wait:
                wait.look(loop.time() + 2.0)
                return await client._send("/x", Body(b"{}", wait=wait), wait), wire

    exchange, wire = asyncio.run(scenario())
    assert exchange == NotSent(reason="not done within 1 s")
    assert wire.requests == []


# --- What was sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b'{"a":1}', LARGE], ids=["small", "large"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_all_read_and_no_reply_is_no_reply(play, body, end):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        play.reset(writer) if end == "reset" else writer.close()

    exchange, wire = post(play, handler, body)
    assert isinstance(exchange, NoReply), exchange
    assert len(wire.requests) == 1


@pytest.mark.parametrize(("timeout_s", "idle_s"), [(None, 0.2), (0.2, None)])
def test_silence_after_the_request_is_no_reply(play, timeout_s, idle_s):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        await reader.read()

    exchange, wire = post(play, handler, timeout_s=timeout_s, idle_s=idle_s)
    assert isinstance(exchange, NoReply)
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "rubbish", [b"\x00" * 100, b"HELLO\r\n\r\n", b"HTTP/1.1 banana OK\r\n\r\n", b"{}", b"\r\n" * 50]
)
def test_what_is_not_http_is_no_reply(play, rubbish):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(rubbish)
        await writer.drain()

    exchange, _ = post(play, handler)
    assert isinstance(exchange, NoReply), exchange


def test_half_a_status_line_is_no_reply(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 20")

    assert isinstance(post(play, handler)[0], NoReply)


# --- Replies that break off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "reset", "silence", "total"])
def test_half_a_reply_is_incomplete_and_keeps_its_beginning(play, end):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(play.reply(b'{"half":', length=100))
        await writer.drain()
        if end == "reset":
            play.reset(writer)
        elif end in {"silence", "total"}:
            await reader.read()

    limits = {"silence": {"timeout_s": None, "idle_s": 0.2}, "total": {"timeout_s": 0.3, "idle_s": None}}
    exchange, _ = post(play, handler, **limits.get(end, {}))
    if end == "reset" and isinstance(exchange, NoReply):
        return  # a reset may overtake what was written before it
    assert isinstance(exchange, Reply), exchange
    assert exchange.status == 200
    assert not exchange.complete
    assert exchange.body in {b'{"half":', b""} if end == "reset" else exchange.body == b'{"half":'


def test_a_broken_chunk_is_incomplete(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzzz\r\n")
        await writer.drain()
        await reader.read()

    exchange, _ = get(play, handler)
    assert isinstance(exchange, NoReply) or not exchange.complete


def test_chunks_without_an_end_are_incomplete(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    exchange, _ = get(play, handler)
    assert exchange.body == b"hello"
    assert not exchange.complete


@pytest.mark.parametrize(("body", "complete"), [(b'{"a":1}', True), (b'{"a":', False), (b"", True)])
def test_without_a_length_an_answer_is_whole_when_it_is_json(play, body, complete):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + body)

    exchange, _ = get(play, handler)
    assert exchange.body == body
    assert exchange.complete is complete


def test_one_byte_at_a_time_is_a_reply(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        for byte in play.reply(b'{"slow": true}'):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    exchange, _ = post(play, handler, idle_s=1.0)
    assert exchange.body == b'{"slow": true}'
    assert exchange.complete


# --- Nothing behind the caller's back ------------------------------------------------------------------------------


def test_a_get_dropped_on_a_kept_connection_is_never_sent_again(play):
    """The library does so by default, and has no public switch for it."""

    async def handler(wire, reader, writer):
        while await wire.request(reader) is not None:
            if len(wire.requests) == 2:
                writer.close()
                return
            writer.write(play.reply())

    async def scenario():
        async with play.serving(handler) as wire, transport(wire) as client:
            return await client.get("/a"), await client.get("/b"), wire

    first, second, wire = asyncio.run(scenario())
    assert isinstance(first, Reply)
    assert isinstance(second, NoReply)
    assert len(wire.requests) == 2
    assert wire.connections == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirects_are_replies(play, status):
    async def scenario():
        async with play.serving(play.always(play.reply())) as other:
            handler = play.always(play.reply(b"", status=status, headers=[f"Location: {other.url('/x')}"]))
            async with play.serving(handler) as wire, transport(wire) as client:
                return [await client.post("/x", b"{}", timeout_s=5, idle_s=5), await client.get("/x")], wire, other

    replies, wire, other = asyncio.run(scenario())
    assert [reply.status for reply in replies] == [status, status]
    assert len(wire.requests) == 2
    assert not other.requests


def test_cookies_are_neither_kept_nor_sent(play):
    async def scenario():
        handler = play.always(play.reply(headers=["Set-Cookie: a=b; Path=/"]))
        # By its name: the library keeps no cookies of addresses, whatever its settings.
        async with play.serving(handler) as wire, transport(wire, base_url=wire.named_url) as client:
            await client.get("/a")
            await client.post("/b", b"{}", timeout_s=5, idle_s=5)
            await client.fetch(wire.named_url + "/c", offset=0, etag=None, write=lambda data, position: None)
            await client.fetch(wire.named_url + "/d", offset=0, etag=None, write=lambda data, position: None)
            return wire

    wire = asyncio.run(scenario())
    assert len(wire.requests) == 4
    assert not any(b"cookie" in head.lower() for head, _ in wire.requests)


def test_the_environment_names_no_proxy_and_no_login(play, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{refused_port()}")
    exchange, wire = get(play, play.always(play.reply()))
    assert isinstance(exchange, Reply)
    assert b"Authorization: Bearer xai-secret" in wire.requests[0][0]


@pytest.mark.parametrize("late", [False, True])
def test_a_reply_nobody_asked_for_does_not_answer_the_next_request(play, late):
    async def scenario():
        go_on = asyncio.Event()

        async def handler(wire, reader, writer):
            while await wire.request(reader) is not None:
                writer.write(play.reply(b'{"n":%d}' % len(wire.requests)))
                if len(wire.requests) == 1:
                    if late:
                        await go_on.wait()
                    writer.write(play.reply(b'{"stray":1}'))
                await writer.drain()

        async with play.serving(handler) as wire, transport(wire) as client:
            await client.get("/a")
            if late:
                go_on.set()
                ((_, kept, _),) = client._origin._idle._kept
                while not kept.should_close:  # noqa: ASYNC110 - it is the library's own state
                    await asyncio.sleep(0)
            exchange = await client.post("/b", b"{}", timeout_s=5, idle_s=5)
            if isinstance(exchange, NotSent):
                exchange = await client.post("/b", b"{}", timeout_s=5, idle_s=5)
            return exchange

    exchange = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert isinstance(exchange, Reply)
    assert exchange.body == b'{"n":2}'


def test_a_reply_nobody_asked_for_that_the_loop_has_not_read_does_not_answer_the_next_request():
    """It lies in the system's buffer when the connection is taken: nothing would tell it from the reply."""
    listener = socket.create_server(("127.0.0.1", 0))
    may_speak, spoken = threading.Event(), threading.Event()
    asked = []

    def serve():
        with listener.accept()[0] as kept:
            asked.append(kept.recv(65536))
            kept.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            may_speak.wait()
            kept.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nstray")
            spoken.set()
            with listener.accept()[0] as other:
                asked.append(other.recv(65536))
                other.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    thread = threading.Thread(target=serve)
    thread.start()

    async def scenario():
        base = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        async with AiohttpTransport(base_url=base, api_key="k", concurrency=1) as client:
            await client.get("/x")
            may_speak.set()
            spoken.wait()  # blocks the loop: it must not notice
            return await client.post("/x", b"{}", timeout_s=5, idle_s=5)

    exchange = asyncio.run(scenario())
    if not isinstance(exchange, Reply) or exchange.body != b"[]":  # the server still waits for a connection
        socket.create_connection(listener.getsockname()).close()
    thread.join()
    listener.close()
    assert isinstance(exchange, Reply), exchange
    assert exchange.body == b"[]"
    assert [request[:4] for request in asked] == [b"GET ", b"POST"]


# --- Floods --------------------------------------------------------------------------------------------------------


def flood(play, block, head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(head)
        while True:
            writer.write(block)
            await writer.drain()

    return handler


ENDLESS = b"10000\r\n" + b"y" * 65536 + b"\r\n"


def test_an_endless_body_that_nobody_keeps_is_cut_at_its_beginning(play):
    exchange, _ = get(play, flood(play, ENDLESS), memory_bytes=300_000)
    assert exchange.oversized
    assert not exchange.complete
    assert exchange.body == b"y" * 65_536


def test_an_endless_refusal_keeps_its_beginning_only(play, tmp_path):
    head = b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n"
    exchange, _ = get(play, flood(play, ENDLESS, head), keep="r", spill_dir=tmp_path)
    assert exchange.status == 500
    assert exchange.body == b"y" * 65_536
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunked", [True, False])
def test_a_large_body_is_in_a_file_of_ours_alone(play, tmp_path, chunked):
    body = bytes(range(256)) * 40_000
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
    whole = head + body + b"\r\n0\r\n\r\n" if chunked else play.reply(body)
    exchange, _ = get(play, play.always(whole), keep="row-7", spill_dir=tmp_path / "replies")
    assert exchange.complete
    assert not exchange.oversized
    assert exchange.body == body[:65_536]
    large = exchange.large
    assert (large.size_bytes, large.framed) == (len(body), True)
    assert large.read() == b"".join(large.blocks()) == body
    (path,) = (tmp_path / "replies").iterdir()
    assert path.name == "row-7-1.part"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    kept = large.keep()
    large.discard()
    assert kept == str(path.with_name("row-7-1.reply"))
    assert path.with_name("row-7-1.reply").read_bytes() == body


def test_a_file_is_flushed_before_it_gets_its_name_and_its_name_before_it_is_told(tmp_path, monkeypatch):
    body = Spills(tmp_path / "replies").begin("row-7")
    body.write(b"x")
    flushed = []

    def sync(path):
        flushed.append((path.name, sorted(found.name for found in (tmp_path / "replies").iterdir())))

    monkeypatch.setattr(spilling, "_sync", sync)
    body.keep()
    assert flushed == [("row-7-1.part", ["row-7-1.part"]), ("replies", ["row-7-1.reply"])]


def test_a_large_body_that_nobody_needs_any_more_leaves_nothing(play, tmp_path):
    exchange, _ = get(play, play.always(play.reply(b"x" * (2 << 20))), keep="row-7", spill_dir=tmp_path)
    exchange.large.discard()
    exchange.large.discard()
    assert not list(tmp_path.iterdir())


def test_no_file_is_ever_written_over(play, tmp_path):
    for number in range(3):
        body = bytes([number]) * (2 << 20)
        exchange, _ = get(play, play.always(play.reply(body)), keep="row-7", spill_dir=tmp_path)
        if number != 1:
            exchange.large.keep()
    found = {path.name: path.read_bytes()[0] for path in tmp_path.iterdir()}
    assert found == {"row-7-1.reply": 0, "row-7-2.part": 1, "row-7-3.reply": 2}


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "\x00", "x" * 65, "\u00e9", "a\n"])
def test_a_name_for_a_file_is_ours_or_none(tmp_path, name):
    with pytest.raises(ValueError, match="no name"):
        Spills(tmp_path).begin(name)


def test_an_endless_body_is_kept_up_to_its_limit(play, tmp_path, monkeypatch):
    monkeypatch.setattr(spilling, "_MOST_BYTES", 5_000_000)
    exchange, _ = get(play, flood(play, ENDLESS), keep="row-7", spill_dir=tmp_path)
    assert exchange.oversized
    assert not exchange.complete
    assert 5_000_000 <= exchange.large.size_bytes < 6_000_000


def test_what_is_too_large_to_be_an_answer_takes_only_so_much_of_the_disk(play, tmp_path, monkeypatch):
    monkeypatch.setattr(spilling, "_MOST_TOGETHER_BYTES", 8_000_000)
    monkeypatch.setattr(spilling, "ANSWER_BYTES", 2_000_000)

    async def scenario():
        async with play.serving(flood(play, ENDLESS)) as wire, transport(wire, spill_dir=tmp_path) as client:
            client._reading._spills.answer_bytes = 2_000_000
            return await asyncio.gather(*(client.get("/x", keep=f"row-{number}") for number in range(5)))

    replies = asyncio.run(scenario())
    assert all(reply.oversized for reply in replies)
    assert sum(reply.large.size_bytes for reply in replies) < 5 * 2_000_000 + 8_000_000


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_large_body_cut_short_is_incomplete(play, tmp_path, end):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(play.reply(b"x" * (3 << 20), length=4 << 20))
        await writer.drain()
        if end == "reset":
            play.reset(writer)

    exchange, _ = get(play, handler, keep="row-7", spill_dir=tmp_path)
    assert not exchange.complete
    assert not exchange.oversized
    assert exchange.large is None or exchange.large.size_bytes <= 3 << 20


def test_a_large_body_whose_end_is_not_told_says_so(play, tmp_path):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b"1" * (2 << 20))

    exchange, _ = get(play, handler, keep="row-7", spill_dir=tmp_path)
    assert exchange.large.size_bytes == 2 << 20
    assert not exchange.large.framed


def test_a_disk_without_room_for_an_answer_stops_the_run(play, tmp_path, monkeypatch):
    monkeypatch.setattr(spilling, "_LEAST_RESERVE_BYTES", 1 << 62)
    with pytest.raises(StorageFailed, match="no room"):
        get(play, play.always(play.reply(b"x" * (2 << 20))), keep="row-7", spill_dir=tmp_path)


def test_a_folder_that_cannot_be_made_stops_the_run(play, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed):
        get(play, play.always(play.reply(b"x" * (2 << 20))), keep="row-7", spill_dir=tmp_path / "file" / "replies")


def test_a_body_of_exactly_its_share_is_in_memory(play):
    exchange, _ = get(play, play.always(play.reply(b"z" * 100_000)), memory_bytes=100_000, keep="r")
    assert exchange.complete
    assert exchange.large is None
    assert len(exchange.body) == 100_000


def test_a_slow_server_holds_up_no_other_large_body(play, tmp_path):
    """However large what came of the slow one is, and however long it takes."""

    async def scenario():
        async def handler(wire, reader, writer):
            head, _ = await wire.request(reader)
            writer.write(play.reply(b"x" * (8 << 20), length=9 << 20 if b"/slow" in head else None))
            await reader.read()

        async with play.serving(handler) as wire, transport(wire, spill_dir=tmp_path) as client:
            slow = asyncio.create_task(client.get("/slow", keep="slow"))
            while not list(tmp_path.iterdir()):  # noqa: ASYNC110 - what is on the disk tells nobody
                await asyncio.sleep(0)
            quick = await client.get("/quick", keep="quick")
            assert not slow.done()
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            return quick

    assert asyncio.run(asyncio.wait_for(scenario(), 20)).complete


def test_many_small_chunks_are_one_body(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5_000):
            writer.write(b"2\r\nab\r\n")
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    exchange, _ = get(play, handler)
    assert exchange.body == b"ab" * 5_000


@pytest.mark.parametrize(
    ("begin", "block"),
    [
        (b"HTTP/1.1 200 OK\r\nX: y\r\n", b"A: b\r\n" * 1000),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 ", b"O" * 65536),
        (b"HTTP/1.1 ", b"2" * 65536),
        (b"", b"\r\n" * 32768),
    ],
    ids=["headers", "header", "name", "reason", "status", "line breaks"],
)
def test_a_head_without_end_is_no_reply(play, memory, begin, block):
    with memory() as grown:
        exchange, _ = post(play, flood(play, block, begin), timeout_s=5.0)
    assert isinstance(exchange, NoReply), exchange
    assert "not HTTP" in exchange.reason
    assert grown.megabytes < 32


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 10_000 + b"\r\n\r\n",
    ],
    ids=["100", "102", "103"],
)
def test_interim_replies_without_end_are_no_reply(play, memory, interim):
    with memory() as grown:
        exchange, _ = post(play, flood(play, interim * (1 + 65536 // len(interim)), b""))
    assert isinstance(exchange, NoReply), exchange
    assert "interim" in exchange.reason
    assert grown.megabytes < 32


def test_some_interim_replies_are_passed_over(play):
    head = b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 20
    exchange, _ = post(play, play.always(head + play.reply(b'{"n":1}')))
    assert exchange.body == b'{"n":1}'


@pytest.mark.parametrize("together", [True, False])
def test_replies_to_nobody_without_end_are_not_kept(play, memory, together):
    """Whether they come with a reply that was asked for, or on a kept connection after it."""
    stray = play.reply(b"", headers=["X: " + "x" * 20]) * 1000

    async def scenario():
        stopped = asyncio.Event()

        async def handler(wire, reader, writer):
            await wire.request(reader)
            writer.write(play.reply(b'{"n":1}') + (stray if together else b""))
            try:
                for _ in range(200):
                    await writer.drain()
                    writer.write(stray)
                    await asyncio.sleep(0)
                wire.all_taken = True
            finally:
                stopped.set()

        async with play.serving(handler) as wire, transport(wire) as client:
            wire.all_taken = False
            exchange = await client.get("/a")
            await stopped.wait()
            return exchange, wire

    with memory() as grown:
        exchange, wire = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert exchange.body == b'{"n":1}'
    assert not wire.all_taken
    assert grown.megabytes < 32


def test_twenty_huge_bodies_at_once_take_little_memory(play, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(spilling, "_MOST_BYTES", 8 << 20)

    async def scenario():
        async with (
            play.serving(flood(play, ENDLESS)) as wire,
            transport(wire, concurrency=20, spill_dir=tmp_path) as client,
        ):
            return await asyncio.gather(*(client.get("/x", keep=f"row-{number}") for number in range(20)))

    with memory() as grown:
        assert all(exchange.oversized for exchange in asyncio.run(scenario()))
    assert grown.megabytes < 80


# --- Packed replies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda raw: zlib.compress(raw, wbits=-15)),
        ("GZIP", lambda raw: gzip.compress(raw[:5]) + gzip.compress(raw[5:])),
    ],
)
def test_a_packed_reply_is_unpacked_all_the_same(play, encoding, pack):
    body = pack(b'{"packed": true}')
    exchange, wire = get(play, play.always(play.reply(body, headers=[f"Content-Encoding: {encoding}"])))
    assert b"Accept-Encoding: identity\r\n" in wire.requests[0][0]
    assert exchange.body == b'{"packed": true}'
    assert exchange.complete


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_large_packed_body_is_unpacked_into_its_file(play, tmp_path, pack):
    body = random.Random(1).randbytes(1 << 20) * 3
    packed = play.reply(pack(body), headers=["Content-Encoding: gzip"])
    exchange, _ = get(play, play.always(packed), keep="row-7", spill_dir=tmp_path)
    assert exchange.complete
    assert exchange.large.read() == body
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("size", [100 << 20, 1 << 30])
def test_a_gzip_bomb_stays_packed(play, memory, tmp_path, size):
    bomb = zlib.compressobj(6, wbits=31)
    packed = b"".join(bomb.compress(b"\0" * (1 << 20)) for _ in range(size >> 20)) + bomb.flush()
    with memory() as grown:
        exchange, _ = get(
            play,
            play.always(play.reply(packed, headers=["Content-Encoding: gzip"])),
            keep="row-7",
            spill_dir=tmp_path,
        )
    assert exchange.oversized
    assert not exchange.complete
    assert grown.megabytes < 32
    (path,) = tmp_path.iterdir()
    assert exchange.large.keep().endswith(".reply.packed")
    assert path.with_name("row-7-1.reply.packed").read_bytes() == packed


def test_a_bomb_that_nobody_keeps_is_thrown_away(play, memory):
    packed = gzip.compress(b"\0" * (100 << 20), compresslevel=1)
    with memory() as grown:
        exchange, _ = get(play, play.always(play.reply(packed, headers=["Content-Encoding: gzip"])))
    assert exchange.oversized
    assert grown.megabytes < 32


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", b"\x0b\x02\x80abc"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
        ("identity", b"{}"),
        ("x" * 1000, b"{}"),
    ],
)
def test_other_packings_stay_as_they_came(play, encoding, body):
    exchange, _ = get(play, play.always(play.reply(body, headers=[f"Content-Encoding: {encoding}"])))
    assert exchange.complete
    assert exchange.body == body


def test_one_layer_is_unpacked(play):
    twice = gzip.compress(gzip.compress(b"{}"))
    exchange, _ = get(play, play.always(play.reply(twice, headers=["Content-Encoding: gzip"])))
    assert gzip.decompress(exchange.body) == b"{}"


def test_a_large_body_that_is_not_packed_stays_as_it_came(play, tmp_path):
    body = b"no gzip at all " * 200_000
    packed = play.reply(body, headers=["Content-Encoding: gzip"])
    exchange, _ = get(play, play.always(packed), keep="row-7", spill_dir=tmp_path)
    assert exchange.complete
    assert exchange.large.read() == body


def test_half_a_large_gzip_is_incomplete(play, tmp_path):
    half = gzip.compress(random.Random(1).randbytes(3 << 20))[:-9]
    exchange, _ = get(
        play, play.always(play.reply(half, headers=["Content-Encoding: gzip"])), keep="row-7", spill_dir=tmp_path
    )
    assert not exchange.complete
    assert not exchange.oversized


def test_an_unpacked_refusal_is_its_beginning(play):
    body = gzip.compress(b'{"error":"no"}')
    exchange, _ = get(play, play.always(play.reply(body, 403, headers=["Content-Encoding: gzip"])))
    assert exchange.body == b'{"error":"no"}'


def test_broken_gzip_stays_as_it_came(play):
    exchange, _ = get(play, play.always(play.reply(b"no gzip at all", headers=["Content-Encoding: gzip"])))
    assert exchange.body == b"no gzip at all"
    assert exchange.complete


def test_half_a_gzip_is_incomplete(play):
    half = gzip.compress(b"abc" * 1000)[:-9]
    exchange, _ = get(play, play.always(play.reply(half, headers=["Content-Encoding: gzip"])))
    assert not exchange.complete


# --- Early replies --------------------------------------------------------------------------------------------------


def test_a_refusal_before_the_body_was_read_is_a_reply(play):
    async def handler(wire, reader, writer):
        await reader.readexactly(65536)
        writer.write(play.reply(b'{"error":"too large"}', status=413))
        await writer.drain()
        while await reader.read(1 << 20):
            pass

    exchange, _ = post(play, handler, LARGE)
    assert isinstance(exchange, Reply), exchange
    assert exchange.status == 413
    assert exchange.body == b'{"error":"too large"}'


def test_cancelling_closes_the_connection(play):
    async def scenario():
        asked, gone = asyncio.Event(), asyncio.Event()

        async def handler(wire, reader, writer):
            await wire.request(reader)
            asked.set()
            await reader.read()
            gone.set()

        async with play.serving(handler) as wire, transport(wire) as client:
            call = asyncio.create_task(client.post("/x", b"{}", timeout_s=None, idle_s=None))
            await asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(gone.wait(), 5)

    asyncio.run(scenario())
