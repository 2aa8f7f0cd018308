"""TLS and proxies: what is verified, and what a proxy gets to see."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

import pytest

from bulkgrok.core.model import NotSent, Reply
from bulkgrok.transport import AiohttpTransport


def ask(play, handler, tls, *, body=b"{}", host="127.0.0.1", **options):
    async def scenario():
        async with play.serving(handler, ssl=tls) as wire:
            base_url = f"https://{host}:{wire.port}/v1"
            async with AiohttpTransport(base_url=base_url, api_key="xai-secret", concurrency=2, **options) as client:
                post = await client.post("/x", body, timeout_s=10.0, idle_s=5.0)
                return post, await client.get("/x"), wire

    return asyncio.run(scenario())


def test_a_certificate_nobody_vouches_for_is_not_accepted(play, tls):
    post, get, wire = ask(play, play.always(play.reply()), tls)
    for exchange in (post, get):
        assert isinstance(exchange, NotSent)
        assert "certificate" in exchange.reason
    assert not wire.requests


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_ca_file_vouches_for_it(play, tls, certificate, host):
    post, get, _ = ask(play, play.always(play.reply()), tls, ca_file=certificate, host=host)
    assert isinstance(post, Reply)
    assert isinstance(get, Reply)


def test_a_certificate_for_another_name_is_not_accepted(play, tls, certificate):
    post, _, wire = ask(play, play.always(play.reply()), tls, ca_file=certificate, host="127.0.0.2")
    assert isinstance(post, NotSent), post
    assert not wire.requests


def test_less_than_tls_1_2_is_not_spoken(certificate):
    client = AiohttpTransport(base_url="https://127.0.0.1/v1", api_key="k", concurrency=1, ca_file=certificate)
    assert client._tls.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client._tls.verify_mode is ssl.CERT_REQUIRED
    assert client._tls.check_hostname


def test_half_a_large_body_over_tls_is_not_sent(play, tls, certificate):
    async def handler(wire, reader, writer):
        await reader.readexactly(1 << 20 if wire.connections == 1 else 1)
        play.reset(writer)

    post, _, _ = ask(play, handler, tls, body=b"x" * (16 << 20), ca_file=certificate)
    assert isinstance(post, NotSent), post


def test_a_large_body_over_tls_arrives(play, tls, certificate):
    body = bytes(range(256)) * (1 << 14)
    post, _, wire = ask(play, play.always(play.reply()), tls, body=body, ca_file=certificate)
    assert isinstance(post, Reply)
    assert wire.requests[0][1] == body


def proxied(play, tls, certificate, proxy_handler, *, credentials=""):
    """Ask through a proxy; return the exchange, the proxy's server and the API's."""

    async def scenario():
        async with play.serving(play.always(play.reply()), ssl=tls) as api, play.serving(proxy_handler) as proxy:
            client = AiohttpTransport(
                base_url=f"https://127.0.0.1:{api.port}/v1",
                api_key="xai-secret",
                concurrency=1,
                ca_file=certificate,
                proxy=f"http://{credentials}127.0.0.1:{proxy.port}",
            )
            async with client:
                return await client.post("/x", b"{}", timeout_s=10.0, idle_s=5.0), proxy, api

    return asyncio.run(scenario())


async def tunnel(wire, reader, writer):
    head, _ = await wire.request(reader)
    host, _, port = head.split()[1].decode().rpartition(":")
    there, back = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

    async def copy(source, target):
        with suppress(ConnectionError):
            while block := await source.read(65536):
                target.write(block)
        target.close()

    await asyncio.gather(copy(reader, back), copy(there, writer))


def test_a_proxy_sees_a_name_and_no_key(play, tls, certificate):
    exchange, proxy, api = proxied(play, tls, certificate, tunnel, credentials="user:hunter2@")
    assert isinstance(exchange, Reply), exchange
    ((head, _),) = proxy.requests
    assert head.startswith(b"CONNECT 127.0.0.1:")
    assert b"Proxy-Authorization: Basic " in head
    assert b"xai-secret" not in head
    ((inner, _),) = api.requests
    assert b"Bearer xai-secret" in inner
    assert b"Proxy-Authorization" not in inner


@pytest.mark.parametrize("status", [301, 403, 407, 502])
def test_a_proxy_that_refuses_is_not_sent_and_its_password_stays_secret(play, tls, certificate, status):
    handler = play.always(play.reply(b"", status))
    exchange, _, api = proxied(play, tls, certificate, handler, credentials="user:hunter2@")
    assert isinstance(exchange, NotSent), exchange
    assert str(status) in exchange.reason
    assert "hunter2" not in exchange.reason
    assert not api.connections


def test_a_proxy_that_drops_the_connection_is_not_sent(play, tls, certificate):
    async def handler(wire, reader, writer):
        await wire.request(reader)

    exchange, _, _ = proxied(play, tls, certificate, handler)
    assert isinstance(exchange, NotSent), exchange


def test_a_handshake_that_never_ends_is_not_sent(play, certificate):
    async def handler(wire, reader, writer):
        await reader.read()

    async def scenario():
        async with play.serving(handler) as wire:
            base_url = f"https://127.0.0.1:{wire.port}/v1"
            async with AiohttpTransport(base_url=base_url, api_key="k", concurrency=2, ca_file=certificate) as client:
                return await client.post("/x", b"{}", timeout_s=0.2, idle_s=None)

    assert isinstance(asyncio.run(asyncio.wait_for(scenario(), 10)), NotSent)


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", bytes(range(256)) * 100, b"\x16\x03\x01\xff\xff" + bytes(70_000)],
)
def test_a_handshake_of_rubbish_is_not_sent(play, certificate, rubbish):
    async def handler(wire, reader, writer):
        await reader.read(10)
        writer.write(rubbish)
        await writer.drain()

    async def scenario():
        async with play.serving(handler) as wire:
            base_url = f"https://127.0.0.1:{wire.port}/v1"
            async with AiohttpTransport(base_url=base_url, api_key="k", concurrency=2, ca_file=certificate) as client:
                return await client.post("/x", b"{}", timeout_s=5, idle_s=5), await client.get("/x")

    for exchange in asyncio.run(asyncio.wait_for(scenario(), 20)):
        assert isinstance(exchange, NotSent), exchange
