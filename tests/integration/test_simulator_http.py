"""The simulated API over real HTTP: what the wire does, two ports, a journal, a process."""

import asyncio
import contextlib
import io
import json
import signal
import socket
import stat
import subprocess
import sys

import aiohttp
import pytest

from bulkgrok.core.errors import StorageFailed
from bulkgrok.simulator.server import SimulatorServer
from bulkgrok.simulator.settings import SimulatorSettings

CHAT = {"model": "grok-4.3", "messages": [{"role": "user", "content": "hello"}]}


@contextlib.asynccontextmanager
async def served(journal=None, **settings):
    server = SimulatorServer(SimulatorSettings(**settings), journal=journal)
    await server.start()
    try:
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer any"}) as session:
            yield server, session
    finally:
        await server.stop()


async def post(server, session, body, path="/chat/completions"):
    async with session.post(server.base_url + path, json=body) as reply:
        return reply.status, await reply.json()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the server has no event to wait for: its counters are its interface
            await asyncio.sleep(0.005)


def test_a_deferred_completion_travels_and_is_delivered_once():
    async def scenario():
        async with served(deferred_latency=0) as (server, session):
            _, receipt = await post(server, session, CHAT | {"deferred": True})
            address = f"{server.base_url}/chat/deferred-completion/{receipt['request_id']}"
            async with session.get(address) as reply:
                assert (await reply.json())["object"] == "chat.completion"
            async with session.get(address) as reply:
                assert reply.status == 404
            assert server.world.ledger.deliveries == 1

    asyncio.run(scenario())


def test_dropped_cut_and_dribbled_replies_look_so_to_a_client():
    async def scenario():
        async with served(drop_before=1.0) as (server, session):
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await post(server, session, CHAT)
            assert server.world.ledger.accepted == 0
        async with served(drop_after=1.0) as (server, session):
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await post(server, session, CHAT)
            assert server.world.ledger.replies_lost == server.world.ledger.billed == 1
        for body in (CHAT, CHAT | {"stream": True}):
            async with served(cut_body=1.0) as (server, session):
                reply = await session.post(server.base_url + "/chat/completions", json=body)
                assert reply.status == 200
                with pytest.raises(aiohttp.ClientPayloadError):
                    await reply.read()
                assert server.world.ledger.replies_lost == 1
        async with served(slow=1.0, slow_s=0.08) as (server, session):
            assert (await post(server, session, CHAT))[1]["choices"]
            assert server.world.ledger.deliveries == 1

    asyncio.run(scenario())


def test_a_stream_arrives_as_server_sent_events():
    async def scenario():
        async with served(stream_interval=0.001) as (server, session):
            async with session.post(server.base_url + "/chat/completions", json=CHAT | {"stream": True}) as reply:
                assert reply.content_type == "text/event-stream"
                text = await reply.text()
            assert text.endswith("data: [DONE]\n\n")
            assert server.world.ledger.deliveries == 1

    asyncio.run(scenario())


def test_a_client_that_leaves_frees_its_place_and_is_billed_all_the_same():
    async def scenario():
        async with served(latency=3600) as (server, session):
            task = asyncio.create_task(post(server, session, CHAT))
            await until(lambda: server.world.ledger.accepted == 1)
            task.cancel()
            await until(lambda: server.world.ledger.in_flight == 0)
            ledger = server.world.ledger
            assert (ledger.billed, ledger.replies_lost, ledger.deliveries, ledger.max_in_flight) == (1, 1, 0, 1)

    asyncio.run(scenario())


def test_requests_in_flight_are_counted_as_the_server_sees_them():
    async def scenario():
        async with served(latency=0.05) as (server, session):
            gate = asyncio.Semaphore(7)

            async def one():
                async with gate:
                    await post(server, session, CHAT)

            await asyncio.gather(*(one() for _ in range(40)))
            assert server.world.ledger.max_in_flight == 7
            assert server.world.ledger.in_flight == 0

    asyncio.run(scenario())


def test_a_video_lies_on_another_port_in_whole_and_in_parts():
    async def scenario():
        async with served(video_latency=0, media_size=3_000_000) as (server, session):
            _, receipt = await post(server, session, {"prompt": "x"}, "/videos/generations")
            async with session.get(f"{server.base_url}/videos/{receipt['request_id']}") as reply:
                url = (await reply.json())["video"]["url"]
            assert url.startswith(server.media_url + "/")
            assert not server.base_url.startswith(server.media_url)
            async with session.get(url) as reply:
                assert reply.status == 400
            async with aiohttp.ClientSession() as plain:
                async with plain.get(url) as reply:
                    whole, etag = await reply.read(), reply.headers["ETag"]
                assert len(whole) == 3_000_000
                async with plain.get(url, headers={"Range": "bytes=100000-", "If-Range": etag}) as reply:
                    assert reply.status == 206
                    assert await reply.read() == whole[100_000:]
                async with plain.head(url) as reply:
                    assert reply.headers["Content-Length"] == "3000000"
            assert server.world.ledger.media_fetched == 2
            assert server.world.ledger.media_with_credentials == 1

    asyncio.run(scenario())


def test_a_file_may_be_cut():
    async def scenario():
        async with served(video_latency=0, media_cut=1.0) as (server, session):
            _, receipt = await post(server, session, {"prompt": "x"}, "/videos/generations")
            async with session.get(f"{server.base_url}/videos/{receipt['request_id']}") as reply:
                url = (await reply.json())["video"]["url"]
            async with aiohttp.ClientSession() as plain:
                reply = await plain.get(url)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await reply.read()

    asyncio.run(scenario())


def test_large_bodies_and_expect_continue_are_taken():
    async def scenario():
        async with served() as (server, session):
            body = CHAT | {"messages": [{"role": "user", "content": "x" * 3_900_000}]}
            for padding in ("", "y" * (64 << 20)):
                data = io.BytesIO(json.dumps(body | {"user": padding}).encode())
                headers = {"Content-Type": "application/json"}
                address = server.base_url + "/chat/completions"
                async with session.post(address, data=data, headers=headers, expect100=True) as reply:
                    assert reply.status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "data",
    [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"x" * 70_000],
)
def test_rubbish_on_the_wire_ends_one_connection_only(data):
    async def scenario():
        async with served() as (server, session):
            port = int(server.base_url.rsplit(":", 1)[1].split("/")[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert (await post(server, session, CHAT))[0] == 200

    asyncio.run(scenario())


def test_controls_work_over_http_without_a_key():
    async def scenario():
        async with served(deferred_latency=100) as (server, _):
            control = server.base_url.removesuffix("/v1") + "/_simulator/"
            async with aiohttp.ClientSession() as plain:
                async with plain.post(control + "settings", json={"latency": 0.5}) as reply:
                    assert (await reply.json())["latency"] == 0.5
                async with plain.post(control + "clock", json={"advance_s": 50}) as reply:
                    assert (await reply.json()) == {"skew_s": 50.0}
                async with plain.get(control + "ledger") as reply:
                    ledger = await reply.json()
            assert ledger["max_in_flight"] == ledger["gets"] == ledger["posts"] == 0

    asyncio.run(scenario())


def test_only_loopback_addresses_are_listened_on():
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(ValueError, match="loopback"):
            asyncio.run(SimulatorServer().start(host=host))


def test_a_port_that_is_taken_leaves_nothing_behind():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            asyncio.run(SimulatorServer().start(media_port=port))


def test_a_journal_takes_the_world_to_the_next_server_even_with_a_torn_end(tmp_path):
    path = tmp_path / "simulator.jsonl"

    async def first():
        async with served(path, deferred_latency=0, video_latency=0) as (server, session):
            await post(server, session, CHAT)
            kept = (await post(server, session, CHAT | {"deferred": True}))[1]["request_id"]
            used = (await post(server, session, CHAT | {"deferred": True, "user": "2"}))[1]["request_id"]
            async with session.get(f"{server.base_url}/chat/deferred-completion/{used}") as reply:
                assert reply.status == 200
            return kept, used

    kept, used = asyncio.run(first())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("ab") as file:
        file.write(b'{"t":"job","id":"torn')

    async def second():
        async with served(path, deferred_latency=0) as (server, session):
            statuses = []
            for request_id in (kept, used):
                async with session.get(f"{server.base_url}/chat/deferred-completion/{request_id}") as reply:
                    statuses.append(reply.status)
            ledger = server.world.ledger
            return statuses, ledger.accepted, ledger.billed, ledger.consumed

    assert asyncio.run(second()) == ([200, 404], 3, 3, 2)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert asyncio.run(second())[0] == [404, 404]


def test_addresses_given_out_stay_good_in_the_next_life_of_a_journal(tmp_path):
    path = tmp_path / "simulator.jsonl"

    async def scenario():
        async with served(path, video_latency=0) as (server, session):
            _, receipt = await post(server, session, {"prompt": "x"}, "/videos/generations")
            async with session.get(f"{server.base_url}/videos/{receipt['request_id']}") as reply:
                url = (await reply.json())["video"]["url"]
        async with served(path), aiohttp.ClientSession() as plain, plain.get(url) as reply:
            assert (reply.status, len(await reply.read())) == (200, 20_000)
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_server(("127.0.0.1", port)):
            async with served(path) as (server, _):
                assert server.media_url != url.partition("/xai")[0]

    asyncio.run(scenario())


def test_a_damaged_journal_and_one_that_cannot_be_opened_are_told_of(tmp_path):
    path = tmp_path / "simulator.jsonl"

    async def scenario():
        async with served(path) as (server, session):
            await post(server, session, CHAT)

    asyncio.run(scenario())
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(StorageFailed, match=r"line \d is damaged. It holds nothing paid"):
            asyncio.run(SimulatorServer(journal=path).start())
    with pytest.raises(StorageFailed, match="nothing paid"):
        asyncio.run(SimulatorServer(journal=tmp_path / "no" / "such.jsonl").start())
    with pytest.raises(StorageFailed):
        asyncio.run(SimulatorServer(journal=tmp_path).start())


def start(*arguments):
    command = [sys.executable, "-W", "error", "-m", "bulkgrok", "simulator", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_is_and_ends_cleanly_with_its_ledger(tmp_path, number):
    (tmp_path / "s.toml").write_text("latency = '0.001s'\nrps = 7\n")
    process = start("--settings", tmp_path / "s.toml", "--rps", 9, "--ledger-file", tmp_path / "ledger.json")
    base_url = process.stdout.readline().strip().removeprefix("base_url=")

    async def scenario():
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer any"}) as session:
            async with session.post(base_url + "/chat/completions", json=CHAT) as reply:
                assert reply.status == 200
            async with session.get(base_url.removesuffix("/v1") + "/_simulator/settings") as reply:
                found = await reply.json()
                assert (found["latency"], found["rps"]) == (0.001, 9)

    asyncio.run(scenario())
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert out == ""
    assert base_url in err
    assert json.loads((tmp_path / "ledger.json").read_text())["billed"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--latency", "soon"), "latency must be seconds"),
        (("--error-503", "2"), "share from 0 to 1"),
        (("--drop-before", "0.6", "--error-503", "0.6"), "add up to 1.2"),
        (("--error-shape", "round"), "must be one of"),
        (("--settings", "/nonexistent.json"), "cannot be read"),
        (("--port", "70000"), "port"),
        (("--no-such-flag",), "no-such-flag"),
    ],
)
def test_the_command_refuses_what_it_cannot_play(arguments, words):
    process = start(*arguments)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 2
    assert out == ""
    assert words in err
    assert "Traceback" not in err
