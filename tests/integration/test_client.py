"""The small client against a server that plays the API: what it returns, raises, and sends again."""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile

import pytest

import bulkgrok
from bulkgrok.client import Client, streams
from bulkgrok.core.errors import ApiError, DeferredTimeout, UsageError
from bulkgrok.transport import spilling

CHAT = {"model": "grok-4.3", "messages": [{"role": "user", "content": "Hello"}]}
DONE = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
RID = "f15c114e-f47d-40ca-8d5c-8c23d656eeb6"
THROTTLED = {"code": "resource-exhausted", "error": "Too many requests for team x"}


class Hasty(Client):
    """A client that notes how long it would have slept."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.slept = []

    async def _sleep(self, seconds):
        self.slept.append(seconds)

    def _jitter(self):
        return 0.5


def ask(play, handler, question, *, client_class=Hasty):
    """Ask something of a client; return the answer (or what was raised), the client and the server."""

    async def scenario():
        async with play.serving(handler) as wire, client_class("xai-key", wire.base_url) as client:
            try:
                answer = await question(client)
            except bulkgrok.BulkgrokError as error:
                answer = error
            return answer, client, wire

    return asyncio.run(scenario())


def dumps(value):
    return json.dumps(value).encode()


def sent(wire):
    return [(head.split(b" HTTP")[0].decode(), json.loads(body) if body else None) for head, body in wire.requests]


# --- Chat ----------------------------------------------------------------------------------------------------------


def test_chat_returns_the_api_s_json(play):
    answer, _, wire = ask(play, play.always(play.reply(dumps(DONE))), lambda client: client.chat(CHAT))
    assert answer == DONE
    assert sent(wire) == [("POST /v1/chat/completions", CHAT)]
    assert b"Authorization: Bearer xai-key\r\n" in wire.requests[0][0]


@pytest.mark.parametrize("call", ["chat", "submit_deferred"])
def test_what_is_no_body_is_refused_in_words(play, call):
    error, _, wire = ask(play, play.always(play.reply(dumps(DONE))), lambda client: getattr(client, call)("Hello"))
    assert isinstance(error, UsageError)
    assert "not str" in str(error)
    assert wire.requests == []


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"code": "invalid-argument", "error": "too long"}, "too long"),
        (401, {"code": "x", "error": "No credentials presented."}, "No credentials presented."),
        (500, {"error": {"message": "nested"}}, "nested"),
        (307, {"detail": "moved"}, "moved"),
        (200, {"code": "The service is currently unavailable", "error": "busy"}, "busy"),
    ],
)
def test_a_refusal_raises_the_api_s_own_words(play, status, body, message):
    answer, client, wire = ask(play, play.always(play.reply(dumps(body), status)), lambda client: client.chat(CHAT))
    assert isinstance(answer, ApiError)
    assert answer.status == status
    assert message in answer.message
    assert len(wire.requests) == 1
    assert client.slept == []


def test_a_throttled_post_is_sent_again_after_what_the_api_asked_for(play):
    refusal = play.reply(dumps(THROTTLED), 429, ["Retry-After: 7"])
    answer, client, wire = ask(play, play.always(refusal, play.reply(dumps(DONE))), lambda client: client.chat(CHAT))
    assert answer == DONE
    assert len(wire.requests) == 2
    assert client.slept == [pytest.approx(7.125)]


def test_a_long_retry_after_is_capped_and_patience_ends(play):
    refusal = play.reply(dumps(THROTTLED), 429, ["Retry-After: 9999"])
    answer, client, wire = ask(play, play.always(refusal), lambda client: client.chat(CHAT))
    assert answer.status == 429
    assert client.slept == [60.0] * 4
    assert len(wire.requests) == 5


def test_out_of_credit_is_not_asked_again(play):
    text = {"code": "x", "error": "Your team has either used all available credits or reached its spending limit."}
    answer, _, wire = ask(play, play.always(play.reply(dumps(text), 429)), lambda client: client.chat(CHAT))
    assert answer.status == 429
    assert len(wire.requests) == 1


def test_a_post_without_a_reply_is_not_sent_again(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)

    answer, _, wire = ask(play, handler, lambda client: client.chat(CHAT))
    assert isinstance(answer, ApiError)
    assert answer.status is None
    assert "billed" in answer.hint
    assert len(wire.requests) == 1


def test_what_was_not_sent_is_sent_again(play):
    async def scenario():
        async with play.serving(play.always(play.reply())) as wire:
            base_url = wire.base_url
        async with Hasty("k", base_url) as client:
            with pytest.raises(ApiError) as caught:
                await client.chat(CHAT)
            return caught.value, client

    error, client = asyncio.run(scenario())
    assert "nothing was sent" in error.message
    assert len(client.slept) == 4


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b'"text"', b"[" * 100_000])
def test_an_answer_that_is_no_object_raises(play, body):
    answer, _, _ = ask(play, play.always(play.reply(body)), lambda client: client.chat(CHAT))
    assert isinstance(answer, ApiError)


def test_half_an_answer_raises(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(play.reply(b'{"id":', length=100))

    answer, _, wire = ask(play, handler, lambda client: client.chat(CHAT))
    assert "cut short" in answer.message
    assert len(wire.requests) == 1


@pytest.mark.parametrize("body", [{"x": object()}, {"x": float("nan")}, {**CHAT, "stream": True}, {"deferred": True}])
def test_a_body_that_cannot_be_sent_is_a_usage_error(play, body):
    answer, _, wire = ask(play, play.always(play.reply()), lambda client: client.chat(body))
    assert isinstance(answer, UsageError)
    assert not wire.requests


# --- Streams -------------------------------------------------------------------------------------------------------


def chunk(content=None, **choice):
    delta = {} if content is None else {"content": content}
    return b"data: " + dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **choice}]})


def stream(*events, end=b"\n\n"):
    return end.join([*events, b""])


async def pieces(client):
    return [piece async for piece in client.stream_chat(CHAT)]


STREAM_HEADERS = ["Content-Type: text/event-stream"]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_a_stream_yields_its_pieces(play, end):
    body = stream(chunk("Hel"), b": a comment", chunk("lo"), chunk(finish_reason="stop"), b"data: [DONE]", end=end)
    answer, _, wire = ask(play, play.always(play.reply(body, headers=STREAM_HEADERS)), pieces)
    assert answer == ["Hel", "lo"]
    assert sent(wire) == [("POST /v1/chat/completions", {**CHAT, "stream": True})]


def test_pieces_come_before_the_stream_ends(play):
    async def scenario():
        go_on = asyncio.Event()

        async def handler(wire, reader, writer):
            await wire.request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + stream(chunk("first")))
            await go_on.wait()
            writer.write(stream(chunk("second"), b"data: [DONE]"))
            await writer.drain()

        async with play.serving(handler) as wire, Hasty("k", wire.base_url) as client:
            got = []
            async for piece in client.stream_chat(CHAT):
                got.append(piece)
                go_on.set()
            return got

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == ["first", "second"]


def test_a_stream_survives_any_cut_into_blocks(play):
    body = stream(chunk("Gr\u00fc\u00dfe"), chunk(" \U0001f600"), b"data: [DONE]", end=b"\r\n\r\n")

    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for byte in body:
            writer.write(b"1\r\n%c\r\n" % byte)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    answer, _, _ = ask(play, handler, pieces)
    assert "".join(answer) == "Gr\u00fc\u00dfe \U0001f600"


def test_a_stream_that_breaks_off_raises_after_its_pieces(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(play.reply(stream(chunk("Hel")), headers=STREAM_HEADERS, length=9999))

    async def question(client):
        got = []
        try:
            async for piece in client.stream_chat(CHAT):
                got.append(piece)  # noqa: PERF401 - what came before the error counts
        except ApiError as error:
            return got, error

    (got, error), _, wire = ask(play, handler, question)
    assert got == ["Hel"]
    assert "broke off" in error.message
    assert len(wire.requests) == 1


def test_a_stream_that_ends_without_saying_so_raises(play):
    answer, _, _ = ask(play, play.always(play.reply(stream(chunk("Hel")), headers=STREAM_HEADERS)), pieces)
    assert isinstance(answer, ApiError)


def test_an_error_inside_a_stream_raises_the_api_s_words(play):
    body = stream(chunk("Hel"), b'data: {"error": {"message": "overloaded"}}')
    answer, _, _ = ask(play, play.always(play.reply(body, headers=STREAM_HEADERS)), pieces)
    assert answer.message == "overloaded"


def test_an_error_instead_of_a_stream_raises(play):
    body = dumps({"code": "The service is currently unavailable", "error": "busy"})
    answer, _, _ = ask(play, play.always(play.reply(body, headers=["Content-Type: application/json"])), pieces)
    assert answer.message == "busy"


def test_an_ordinary_answer_to_a_stream_is_one_piece(play):
    answer, _, _ = ask(play, play.always(play.reply(json.dumps(DONE, indent=2).encode())), pieces)
    assert answer == ["Hi"]


def test_a_throttled_stream_is_asked_for_again(play):
    answer, client, _ = ask(
        play,
        play.always(play.reply(dumps(THROTTLED), 429), play.reply(stream(chunk("Hi"), b"data: [DONE]"))),
        pieces,
    )
    assert answer == ["Hi"]
    assert len(client.slept) == 1


def test_leaving_a_stream_early_closes_its_connection(play):
    async def scenario():
        gone = asyncio.Event()

        async def handler(wire, reader, writer):
            await wire.request(reader)
            writer.write(play.reply(stream(chunk("a")), headers=STREAM_HEADERS, length=9999))
            await reader.read()
            gone.set()

        async with play.serving(handler) as wire, Hasty("k", wire.base_url) as client:
            stream_ = client.stream_chat(CHAT)
            assert await anext(stream_) == "a"
            await stream_.aclose()
            await asyncio.wait_for(gone.wait(), 5)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "rubbish",
    [
        b"data: \xff\xfe\n\n",
        b"data: [1]\n\n",
        b'data: {"choices": [null]}\n\n',
        b"data: nonsense\n\n",
        b"\x00\n\n",
        b'data: {"choices": 7}\n\n',
    ],
)
def test_rubbish_in_a_stream_is_passed_over(play, rubbish):
    body = rubbish + stream(chunk("Hi"), b"data: [DONE]")
    answer, _, _ = ask(play, play.always(play.reply(body, headers=STREAM_HEADERS)), pieces)
    assert answer == ["Hi"]


# --- Deferred ------------------------------------------------------------------------------------------------------


def test_submitting_returns_the_request_id(play):
    answer, _, wire = ask(
        play,
        play.always(play.reply(dumps({"request_id": RID}))),
        lambda client: client.submit_deferred({**CHAT, "stream": True}),
    )
    assert answer == RID
    assert sent(wire) == [("POST /v1/chat/completions", {**CHAT, "deferred": True})]


@pytest.mark.parametrize(
    "body", [{}, {"request_id": ""}, {"request_id": "a/b"}, {"request_id": 7}, {"request_id": ".."}]
)
def test_accepted_without_a_usable_id_raises(play, body):
    answer, _, _ = ask(play, play.always(play.reply(dumps(body))), lambda client: client.submit_deferred(CHAT))
    assert isinstance(answer, ApiError)
    assert "billed" in answer.message


@pytest.mark.parametrize(("status", "body"), [(202, b""), (202, b"{}"), (200, b""), (200, b'{"status":"pending"}')])
def test_a_pending_answer_is_none(play, status, body):
    answer, _, _ = ask(play, play.always(play.reply(body, status)), lambda client: client.get_deferred(RID))
    assert answer is None


def test_a_deferred_answer_is_fetched_once(play):
    answer, _, wire = ask(play, play.always(play.reply(dumps(DONE))), lambda client: client.get_deferred(RID))
    assert answer == DONE
    assert sent(wire) == [(f"GET /v1/chat/deferred-completion/{RID}", None)]


def test_a_whole_answer_is_never_asked_for_again_whatever_it_is(play):
    answer, _, wire = ask(play, play.always(play.reply(b"not json")), lambda client: client.get_deferred(RID))
    assert isinstance(answer, ApiError)
    assert len(wire.requests) == 1


def test_an_answer_cut_short_is_asked_for_again(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(play.reply(dumps(DONE), length=None if len(wire.requests) > 1 else 9999))

    answer, _, _ = ask(play, handler, lambda client: client.get_deferred(RID))
    assert answer == DONE


def test_an_answer_lost_on_its_way_says_so(play):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        first = len(wire.requests) == 1
        writer.write(play.reply(dumps(DONE), length=9999) if first else play.reply(b"{}", 404))

    answer, _, _ = ask(play, handler, lambda client: client.get_deferred(RID))
    assert answer.status == 404
    assert "connection that broke" in answer.message


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529, 429])
def test_a_get_is_asked_again_after_trouble(play, status):
    answer, client, _ = ask(
        play, play.always(play.reply(b"{}", status), play.reply(dumps(DONE))), lambda client: client.get_deferred(RID)
    )
    assert answer == DONE
    assert len(client.slept) == 1


@pytest.mark.parametrize("request_id", ["", "..", "a/b", "a?b", "a b", "\u00e9", "x" * 257, "../../etc"])
def test_what_is_no_request_id_is_not_sent(play, request_id):
    answer, _, wire = ask(play, play.always(play.reply()), lambda client: client.get_deferred(request_id))
    assert isinstance(answer, UsageError)
    assert not wire.requests


def test_defer_and_wait_submits_polls_and_returns(play):
    handler = play.always(
        play.reply(dumps({"request_id": RID})),
        play.reply(b"", 202),
        play.reply(b"", 202),
        play.reply(dumps(DONE)),
    )
    answer, client, wire = ask(play, handler, lambda client: client.defer_and_wait(CHAT, polling_interval=3.0))
    assert answer == DONE
    assert client.slept == [3.0, 3.0, 3.0]
    assert len(wire.requests) == 4


def test_defer_and_wait_outlives_trouble(play):
    handler = play.always(
        play.reply(dumps({"request_id": RID})), *[play.reply(b"{}", 503)] * 7, play.reply(dumps(DONE))
    )
    answer, _, _ = ask(play, handler, lambda client: client.defer_and_wait(CHAT))
    assert answer == DONE


def test_what_is_not_ready_in_time_can_still_be_redeemed(play):
    handler = play.always(play.reply(dumps({"request_id": RID})), play.reply(b"", 202))
    answer, _, _ = ask(
        play,
        handler,
        lambda client: client.defer_and_wait(CHAT, polling_interval=0.02, timeout=0.1),
        client_class=Client,
    )
    assert isinstance(answer, DeferredTimeout)
    assert isinstance(answer, TimeoutError)
    assert answer.request_id == RID
    assert RID in answer.message


def test_a_job_that_failed_raises_with_its_id(play):
    handler = play.always(play.reply(dumps({"request_id": RID})), play.reply(dumps({"error": "it failed"}), 400))
    answer, _, _ = ask(play, handler, lambda client: client.defer_and_wait(CHAT))
    assert answer.status == 400
    assert RID in answer.hint


# --- Video ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields", "path", "body"),
    [
        ("generate", {"prompt": "a", "duration": 5}, "generations", {"prompt": "a", "duration": 5}),
        (
            "generate",
            {"prompt": "a", "image": "https://x/i"},
            "generations",
            {"prompt": "a", "image": {"url": "https://x/i"}},
        ),
        ("edit", {"prompt": "a", "video": "https://x/v"}, "edits", {"prompt": "a", "video": {"url": "https://x/v"}}),
        ("extend", {"prompt": "a", "video": {"url": "u"}}, "extensions", {"prompt": "a", "video": {"url": "u"}}),
    ],
)
def test_video_jobs_are_submitted(play, method, fields, path, body):
    answer, _, wire = ask(
        play,
        play.always(play.reply(dumps({"request_id": RID}))),
        lambda client: getattr(client.videos, method)(**fields),
    )
    assert answer == {"request_id": RID}
    assert sent(wire) == [(f"POST /v1/videos/{path}", body)]


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (202, b"", {"status": "pending"}),
        (202, b'{"status":"pending","progress":40}', {"status": "pending", "progress": 40}),
        (202, b"rubbish", {"status": "pending"}),
        (200, b"", {"status": "pending"}),
        (200, b'{"status":"done","video":{"url":"u"}}', {"status": "done", "video": {"url": "u"}}),
        (200, b'{"status":"failed","error":{"code":"x"}}', {"status": "failed", "error": {"code": "x"}}),
    ],
)
def test_retrieving_tells_how_a_job_stands(play, status, body, answer):
    got, _, wire = ask(play, play.always(play.reply(body, status)), lambda client: client.videos.retrieve(RID))
    assert got == answer
    assert sent(wire) == [(f"GET /v1/videos/{RID}", None)]


def test_an_unknown_video_raises(play):
    answer, _, _ = ask(play, play.always(play.reply(b"{}", 404)), lambda client: client.videos.retrieve(RID))
    assert answer.status == 404


# --- Settings ------------------------------------------------------------------------------------------------------


def test_key_and_address_come_from_the_environment(play, monkeypatch):
    async def scenario():
        async with play.serving(play.always(play.reply(dumps(DONE)))) as wire:
            monkeypatch.setenv("XAI_API_KEY", "xai-from-environment")
            monkeypatch.setenv("XAI_BASE_URL", wire.base_url)
            async with bulkgrok.Client() as client:
                await client.chat(CHAT)
            return wire

    assert b"Bearer xai-from-environment\r\n" in asyncio.run(scenario()).requests[0][0]


def test_without_a_key_it_says_so(monkeypatch):
    monkeypatch.delenv("XAI_API_KEY", raising=False)
    with pytest.raises(UsageError):
        bulkgrok.Client()


# --- Hostile servers -----------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def flood(block, head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"):
    """Return a handler whose replies go on with one chunk for ever."""

    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(head)
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(block), block))
            await writer.drain()

    return handler


QUESTIONS = {
    "chat": lambda client: client.chat(CHAT),
    "submit": lambda client: client.submit_deferred(CHAT),
    "get": lambda client: client.get_deferred(RID),
    "retrieve": lambda client: client.videos.retrieve(RID),
    "generate": lambda client: client.videos.generate(prompt="a cat"),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_body_without_end_is_an_error_that_names_its_file(play, temporary, memory, monkeypatch, question):
    monkeypatch.setattr(spilling, "_MOST_BYTES", 40_000_000)
    with memory() as grown:
        answer, _, wire = ask(play, flood(b"y" * 65536), question)
    assert isinstance(answer, ApiError), answer
    (path,) = temporary.iterdir()
    assert str(path) in answer.message
    assert path.stat().st_mode & 0o777 == 0o600
    assert 40_000_000 <= path.stat().st_size < 41_000_000
    assert len(wire.requests) == 1
    assert grown.megabytes < 64


def test_a_large_answer_is_returned_and_leaves_no_file(play, temporary):
    done = DONE | {"x": "y" * 20_000_000}
    for question in (QUESTIONS["chat"], QUESTIONS["get"]):
        answer, _, _ = ask(play, play.always(play.reply(dumps(done))), question)
        assert answer == done
    assert not list(temporary.iterdir())


def test_an_answer_of_very_many_values_is_not_read(play, temporary, memory):
    body = b'{"choices":[' + b"[]," * 2_000_000 + b"0]}"
    with memory() as grown:
        answer, _, _ = ask(play, play.always(play.reply(body)), QUESTIONS["get"])
    assert isinstance(answer, ApiError)
    assert "values" in answer.message
    (path,) = temporary.iterdir()
    assert path.read_bytes() == body
    assert grown.megabytes < 64


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_large_answer_cut_short_raises_and_leaves_no_file(play, temporary, size):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(play.reply(b"x" * size, length=size + 1))

    answer, _, _ = ask(play, handler, QUESTIONS["chat"])
    assert "cut short" in answer.message
    assert not list(temporary.iterdir())


def test_a_bomb_is_an_error_that_names_its_file(play, temporary, memory):
    bomb = gzip.compress(bytes(100 << 20), compresslevel=1)
    with memory() as grown:
        answer, _, _ = ask(play, play.always(play.reply(bomb, headers=["Content-Encoding: gzip"])), QUESTIONS["get"])
    assert isinstance(answer, ApiError)
    (path,) = temporary.iterdir()
    assert path.read_bytes() == bomb
    assert grown.megabytes < 64


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("question", [*QUESTIONS.values(), pieces], ids=[*QUESTIONS, "stream"])
def test_no_redirect_is_followed(play, status, question):
    async def scenario():
        async with play.serving(play.always(play.reply(dumps(DONE)))) as other:
            handler = play.always(play.reply(b"", status, [f"Location: {other.url('/x')}"]))
            async with play.serving(handler) as wire, Hasty("xai-key", wire.base_url) as client:
                with pytest.raises(ApiError) as caught:
                    await question(client)
                return caught.value, wire, other

    error, wire, other = asyncio.run(scenario())
    assert error.status == status
    assert len(wire.requests) == 1
    assert not other.connections


ENDLESS = {"a line": b"x" * 65536, "comments": b":\n\n" * 20_000, "an event": b"data: " + b"x" * 65536}


@pytest.mark.parametrize(
    ("name", "first"),
    [("a line", False), ("a line", True), ("an event", False), ("an event", True), ("comments", False)],
)
def test_a_stream_without_end_is_an_error(play, memory, monkeypatch, name, first):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    begun = stream(chunk("first")) if first else b""
    head += b"%x\r\n%s\r\n" % (len(begun), begun) if begun else b""
    got = []

    async def question(client):
        async for piece in client.stream_chat(CHAT):
            got.append(piece)  # noqa: PERF401 - what came before the error counts

    monkeypatch.setattr(streams, "_MOST_UNREAD_BYTES", 4 << 20)
    with memory() as grown:
        error, _, _ = ask(play, flood(ENDLESS[name], head), question)
    assert got == (["first"] if first else [])
    assert "MiB" in error.message
    assert grown.megabytes < 128


def test_comments_without_end_after_something_was_said_end_by_the_clock(play, memory):
    class Impatient(Client):
        def __init__(self, *arguments):
            super().__init__(*arguments, timeout=0.5)

    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    begun = stream(chunk("first"))
    head += b"%x\r\n%s\r\n" % (len(begun), begun)
    with memory() as grown:
        error, _, _ = ask(play, flood(ENDLESS["comments"], head), pieces, client_class=Impatient)
    assert "broke off" in error.message
    assert grown.megabytes < 32


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000,
        bytes(range(256)) * 10,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["nothing", "headers", "header", "interim", "garbage", "HTTP/2", "upgrade"],
)
def test_what_is_no_reply_raises_once_for_a_post(play, data):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(data)
        await writer.drain()

    answer, _, wire = ask(play, handler, QUESTIONS["chat"])
    assert isinstance(answer, ApiError)
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "request_id",
    [None, 5, True, [], {}, "", "..", "../x", "a/b", "a b", "a\r\nb", "\x00", "é", "x" * 257, "x" * 100_000],
)
@pytest.mark.parametrize("question", ["submit", "generate"])
def test_an_id_that_cannot_be_used_is_none(play, request_id, question):
    reply = play.reply(dumps({"request_id": request_id}))
    answer, _, wire = ask(play, play.always(reply), QUESTIONS[question])
    assert isinstance(answer, ApiError)
    assert "id" in answer.message
    assert len(wire.requests) == 1
