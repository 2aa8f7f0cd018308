"""Servers on loopback: a raw one that plays whatever a test writes to its connections, and the simulator."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from bulkgrok.simulator.server import SimulatorServer
from bulkgrok.simulator.settings import SimulatorSettings

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


# Made for these tests and used nowhere else: localhost and 127.0.0.1, valid for a hundred years.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6JadyVPBNnN5oGqB
PLfVn5WDorNd4oyM8wykOAoAOt2hRANCAATXUtwCa9wwNbdZRQzPSbcR9n+Xq0x+
kDwObGKI4O3q7NxD0mBLnZ5rKbBdHhEpxRqZ1lgzCK7aWSK1S89RphEH
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBpDCCAUmgAwIBAgIUcJx0HRfX754hmyxVHDcjRUKDOOEwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNYnVsa2dyb2sgdGVzdDAgFw0yNjExMjEwMzQ2NTdaGA8yMTI2
MTAyODAzNDY1N1owGDEWMBQGA1UEAwwNYnVsa2dyb2sgdGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABNdS3AJr3DA1t1lFDM9JtxH2f5erTH6QPA5sYojg7ers
3EPSYEudnmspsF0eESnFGpnWWDMIrtpZIrVLz1GmEQejbzBtMB0GA1UdDgQWBBQ8
b+YowtPEw9DWssKUglIucVlpLDAfBgNVHSMEGDAWgBQ8b+YowtPEw9DWssKUglIu
cVlpLDAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNJADBGAiEA2cNlnpjhcNbdy2Wt/99cx8o6tJXPqS+jn2yH
2IcFZ/MCIQDNWRxIs8m4s7R36022n9SvmP7pPCGzzNa6n6Y5ufnnHg==
-----END CERTIFICATE-----
"""


class Wire:
    """One running server: what it was asked, and where it is."""

    def __init__(self):
        self.requests = []
        self.connections = 0
        self.tasks = set()
        self.port = 0
        self.scheme = "http"

    @property
    def base_url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    @property
    def named_url(self):
        return f"http://localhost:{self.port}/v1"

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    async def request(self, reader):
        """Read one whole request and return (head, body); None at the end of the connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.requests.append((head, body))
        return head, body


def reset(writer):
    """Close a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def reply(body=b"{}", status=200, headers=(), length=None):
    """Return the bytes of a whole reply."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(handler, **options):
    """Serve on loopback: `handler(wire, reader, writer)` is called for each connection."""
    wire = Wire()

    async def connected(reader, writer):
        wire.connections += 1
        task = asyncio.current_task()
        wire.tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(wire, reader, writer)
        finally:
            wire.tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, **options)
    wire.port = server.sockets[0].getsockname()[1]
    wire.scheme = "https" if options.get("ssl") else "http"
    try:
        yield wire
    finally:
        server.close()
        for task in tuple(wire.tasks):
            task.cancel()
        await asyncio.gather(*wire.tasks, return_exceptions=True)


def always(*replies):
    """Return a handler that answers each request of a connection with the next of these, the last one for ever."""

    async def handler(wire, reader, writer):
        while await wire.request(reader) is not None:
            writer.write(replies[min(len(wire.requests), len(replies)) - 1])
            await writer.drain()

    return handler


class Play:
    """What tests need to play a server."""

    serving = staticmethod(serving)
    reply = staticmethod(reply)
    reset = staticmethod(reset)
    always = staticmethod(always)


class Growth:
    """How much more memory than at its beginning a block took at its peak."""

    megabytes = 0.0


@contextmanager
def measured():
    """Measure the growth of this process's resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, grown = _status("VmRSS"), Growth()
    yield grown
    grown.megabytes = (_status("VmHWM") - before) / 1024


def _status(name):
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1])


@pytest.fixture
def memory():
    """Return what measures the growth of memory, or skip, saying so."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory cannot be reset here")
    return measured


@pytest.fixture
def play():
    return Play


class Api:
    """The simulator on a loop of its own, so that blocking calls can be tested."""

    def __init__(self, **settings):
        self._ready = threading.Event()
        self._stop = None
        self._settings = SimulatorSettings(**settings)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait(10)

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = SimulatorServer(self._settings)
        await server.start()
        self.base_url, self.world, self.ledger = server.base_url, server.world, server.world.ledger
        self._ready.set()
        await self._stop.wait()
        await server.stop()

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def api(monkeypatch):
    """Return a function that starts a simulator, which library and command then talk to."""
    monkeypatch.setenv("XAI_API_KEY", "xai-library")
    started = []

    def start(**settings):
        started.append(Api(**settings))
        monkeypatch.setenv("XAI_BASE_URL", started[-1].base_url)
        return started[-1]

    yield start
    for found in started:
        found.close()


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "certificate.pem"
    path.write_text(CERTIFICATE)
    return path


@pytest.fixture
def tls(tmp_path, certificate):
    key = tmp_path / "key.pem"
    key.write_text(KEY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context
