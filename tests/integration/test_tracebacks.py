"""Errors that reach the user of the library: not even a traceback that shows every variable shows the key."""

import asyncio
import contextlib
import copy
import io
import pickle

import pytest
from rich.console import Console
from rich.traceback import Traceback

import bulkgrok
from bulkgrok.config import load
from bulkgrok.engine import Engine
from bulkgrok.transport import AiohttpTransport

KEY = "xai-CaNaRy-0123456789-not-to-be-seen"


@pytest.fixture(autouse=True)
def in_environment(monkeypatch):
    monkeypatch.setenv("XAI_API_KEY", KEY)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a question"}\n' * 3)
    return path


def shown(error):
    """Return an error as rich shows it, with the variables of every call it came through but the test's own."""
    said = io.StringIO()
    trace = Traceback.from_exception(
        type(error),
        error,
        error.__traceback__.tb_next,
        show_locals=True,
        locals_max_length=1_000,
        locals_max_string=100_000,
    )
    Console(file=said, width=1_000).print(trace)
    return said.getvalue()


BAD = [
    {"concurrency": 0}, {"no_such_flag": 1}, {"ca_file": "/nowhere/ca.pem"}, {"ca_file": __file__}, {"base_url": "http://x"},
    {"prompt": "{{"}, {"output": "/dev/null"}, {"proxy": "http://user:hunter2hunter2@[::1"}, {"proxy": "http://[x:hunter2hunter2@y/"},
    {"run_dir": "/proc/self/run"}, {"api_key_file": __file__}, {"kind": "audio"}, {"prices": "/dev/null/x"},
]  # fmt: skip


@pytest.mark.parametrize("flags", BAD, ids=str)
def test_a_refused_run_shows_no_key(source, flags):
    with pytest.raises(bulkgrok.BulkgrokError) as caught:
        bulkgrok.run(source, max_outage=0, **flags)
    text = shown(caught.value)
    assert type(caught.value).__name__ in text
    assert KEY not in text
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


@pytest.mark.parametrize(
    "arguments", [{"proxy": "x"}, {"base_url": "http://x"}, {"ca_file": "/nowhere"}, {"api_key": "a b"}]
)
def test_a_refused_client_shows_no_key(arguments):
    with pytest.raises(bulkgrok.BulkgrokError) as caught:
        bulkgrok.Client(**arguments)
    assert KEY not in shown(caught.value)


def test_a_call_that_is_refused_broken_off_or_given_up_shows_no_key(play):
    said = play.reply(f'{{"error": "no: Bearer {KEY}"}}'.encode(), status=400)

    async def silent(wire, reader, writer):
        await wire.request(reader)
        await asyncio.sleep(60)

    async def broken(wire, reader, writer):
        await wire.request(reader)
        writer.write(f"HTTP/1.1 {KEY}\r\n\r\n".encode())
        await writer.drain()

    async def main(handler):
        async with play.serving(handler) as wire, bulkgrok.Client(base_url=wire.base_url) as client:
            try:
                await asyncio.wait_for(client.chat({"messages": [{"role": "user", "content": "q"}]}), 0.3)
            except Exception as error:  # noqa: BLE001 - what a user's program would show
                assert wire.requests[0][0].count(KEY.encode()) == 1
                return shown(error) + repr(error) + str(error)

    for handler, name in ((play.always(said), "ApiError"), (silent, "TimeoutError"), (broken, "ApiError")):
        text = asyncio.run(main(handler))
        assert name in text
        assert KEY not in text


def test_nothing_that_knows_the_key_shows_it(source):
    config = load({"input": source, "proxy": "http://user:hunter2hunter2@proxy:1"})
    transport = AiohttpTransport(
        base_url="https://api.x.ai/v1", api_key=config.api_key, concurrency=1, proxy=config.proxy
    )
    client = bulkgrok.Client()
    things = [config, Engine(config, events=print), transport, client, client.videos, copy.copy(config)]
    for thing in things:
        for text in (repr(thing), str(thing), f"{getattr(thing, '__dict__', '')}"):
            assert KEY not in text
            assert thing is transport or "hunter2" not in text
        with contextlib.suppress(TypeError, AttributeError):
            assert KEY.encode() not in pickle.dumps(thing)
