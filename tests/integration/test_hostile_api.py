"""A whole run against a server that plays every trick once: each row gets its clear verdict, and the run goes on.

A row asks for a trick by its name; its second request is answered well. So what a row came to tells what the first
reply was taken for, and the ledger tells what may have been paid.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field

import pytest

from bulkgrok.checkpoint import read_store
from bulkgrok.config import from_keywords
from bulkgrok.core.secret import Secret
from bulkgrok.dispatch import post as dispatch_post
from bulkgrok.dispatch.account import Account
from bulkgrok.engine import Engine
from bulkgrok.engine.surroundings import Surroundings
from bulkgrok.telemetry.logging import EventLog
from bulkgrok.transport import AiohttpTransport, api, spilling

KEY = "xai-hostile-key-0123456789"
GOOD = json.dumps({
    "id": "c", "model": "grok-4.3", "usage": {"prompt_tokens": 1},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
}).encode()  # fmt: skip
JSON = b"Content-Type: application/json\r\n"
ELSEWHERE = b"http://elsewhere:00000"
"""Stands for a server of another origin, whose address is as long."""


def reply(body=GOOD, headers=JSON, status=200, *, length=None):
    size = len(body) if length is None else length
    return b"HTTP/1.1 %d Whatever\r\n%sContent-Length: %d\r\n\r\n" % (status, headers, size) + body


def chunked(*pieces, headers=JSON, end=b"0\r\n\r\n"):
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\n" + headers + b"Transfer-Encoding: chunked\r\n\r\n" + body + end


@dataclass(frozen=True)
class Trick:
    """What is written, how the connection ends, and what it is taken for as the reply to a POST and to a poll."""

    data: bytes
    post: str
    poll: str
    then: str = "keep"
    slowly: bool = False
    endless: bytes = b""


def answered(body, **more):
    """A whole reply that is no answer."""
    return Trick(reply(body, **more), "bad", "bad")


def broken(data, then="close", **more):
    """A reply that does not come whole, or is none."""
    return Trick(data, "doubt", "again", then, **more)


def taken(data, then="keep", **more):
    """A good reply, however odd."""
    return Trick(data, "good", "good", then, **more)


def redirect(status):
    return Trick(reply(b"", b"Location: " + ELSEWHERE + b"/v1/x\r\n", status), "rejected", "again")


def throttled(header):
    return Trick(reply(b'{"error":"slow down"}', header, 429), "again", "again")


def completion(**fields):
    return json.dumps({**json.loads(GOOD), **fields}).encode()


def job(url):
    """A finished video job."""
    return b'{"status":"done","video":{"url":"' + url + b'"},"model":"m"}'


DEEP = b"[" * 100_000
TRICKS = {
    "good": taken(reply()),
    # Bodies that do not come whole
    "half a body": broken(reply(GOOD[:40], length=len(GOOD))),
    "half a body, reset": broken(reply(GOOD[:40], length=len(GOOD)), "reset"),
    "no body": broken(reply(b"", length=100)),
    "half a chunk": broken(chunked(end=b"ff\r\n" + GOOD[:20])),
    "no last chunk": broken(chunked(GOOD, end=b"")),
    "a chunk of no size": broken(chunked(GOOD[:40], end=b"zz\r\n" + GOOD[40:] + b"\r\n0\r\n\r\n")),
    "a chunk of negative size": broken(chunked(GOOD[:40], end=b"-5\r\nhello\r\n0\r\n\r\n")),
    "a chunk larger than said": broken(chunked(end=b"5\r\n" + GOOD + b"\r\n0\r\n\r\n")),
    "a chunk of a huge size": broken(chunked(end=b"ffffffffffffffffff\r\n" + GOOD)),
    "a longer length": broken(reply(length=len(GOOD) + 10)),
    "a shorter length": broken(reply(length=20)),
    "two lengths": broken(reply(headers=JSON + b"Content-Length: 5\r\n")),
    "a length of letters": broken(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + GOOD),
    "a negative length": broken(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + GOOD),
    "a length and chunks": broken(chunked(GOOD, headers=JSON + b"Content-Length: 5\r\n")),
    "no length, cut": broken(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n" + GOOD[:-5]),
    # Replies that are none
    "nothing": broken(b""),
    "nothing, reset": broken(b"", "reset"),
    "half a head": broken(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "half a head, reset": broken(b"HTTP/1.1 200 OK\r\nContent-Le", "reset"),
    "HTTP/0.9": broken(GOOD),
    "HTTP/2": broken(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40)),
    "garbage": broken(bytes(range(256)) * 20),
    "no status": broken(b"HTTP/1.1 \r\n\r\n" + GOOD),
    "a status of letters": broken(b"HTTP/1.1 OK 200\r\n\r\n" + GOOD),
    "a status too long": broken(b"HTTP/1.1 20000 OK\r\n\r\n" + GOOD),
    "an upgrade": broken(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + GOOD),
    "a header without a name": broken(b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\n{}"),
    "a header line too long": broken(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}"),
    "an id of a megabyte": broken(reply(headers=b"x-request-id: " + b"x" * (1 << 20) + b"\r\n")),
    "many headers": broken(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"Content-Length: 2\r\n\r\n{}"),
    "headers without end": broken(b"HTTP/1.1 200 OK\r\n", endless=b"A: b\r\n" * 1_000),
    "a header without end": broken(b"HTTP/1.1 200 OK\r\nX: ", endless=b"x" * 10_000),
    "interim replies without end": broken(b"", endless=b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "early hints without end": broken(b"", endless=b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100),
    # Odd and good all the same
    "chunks": taken(chunked(GOOD[:1], GOOD[1:50], GOOD[50:])),
    "a chunk extension and a trailer": taken(chunked(end=b"%x;a=b\r\n" % len(GOOD) + GOOD + b"\r\n0\r\nX: y\r\n\r\n")),
    "no length": taken(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n" + GOOD, "close"),
    "HTTP/1.0": taken(b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\n" + GOOD, "close"),
    "byte by byte": taken(reply(), slowly=True),
    "interim replies": taken(b"HTTP/1.1 102 Processing\r\n\r\n" * 5 + reply()),
    "a farewell": taken(reply(headers=JSON + b"Connection: close\r\n"), "close"),
    "a farewell that is none": taken(reply(headers=JSON + b"Connection: close\r\n")),
    "an answer to nobody": taken(reply() + reply(b'{"stray":1}')),
    "line breaks behind the answer": taken(reply() + b"\r\n\r\n"),
    "garbage behind the answer": broken(reply() + bytes(range(256)), "keep"),
    "a cookie": taken(reply(headers=JSON + b"Set-Cookie: session=s3cret; Path=/\r\nSet-Cookie: b=c\r\n")),
    "a far future": taken(reply(headers=JSON + b"Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n")),
    "a far past": taken(reply(headers=JSON + b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")),
    "a date that is none": taken(reply(headers=JSON + b"Date: \xff\xfe tomorrow\r\n")),
    "an id that is a path": taken(reply(headers=JSON + b"x-request-id: ../../../etc/passwd\r\n")),
    "an id with escapes": taken(reply(headers=JSON + b"x-request-id: \x1b[31mred\xe9\xff\r\n")),
    "an id of a kilobyte": taken(reply(headers=JSON + b"x-request-id: " + b"x" * 5_000 + b"\r\n")),
    "a byte-order mark": taken(reply(b"\xef\xbb\xbf" + GOOD)),
    "white space": taken(reply(b" \r\n\t" + GOOD + b"\n\n")),
    "a name twice": taken(reply(b'{"choices":[],' + GOOD[1:])),
    "half a surrogate pair": taken(reply(GOOD.replace(b"well", b"\\ud83d"))),
    "a huge integer": taken(reply(completion(created=10**4_000))),
    "an infinite number": taken(reply(GOOD.replace(b'"prompt_tokens": 1', b'"prompt_tokens": 1e999'))),
    "usage of text": taken(reply(completion(usage="free"))),
    "usage of odd types": taken(reply(completion(usage={"prompt_tokens": [1], "completion_tokens": -5, "x": None}))),
    "ticks beyond all sense": taken(reply(completion(usage={"cost_in_usd_ticks": 10**30}))),
    "a model of numbers": taken(reply(completion(model=4.3))),
    "content of numbers": taken(reply(completion(choices=[{"message": {"content": 7}, "finish_reason": 8}]))),
    "content of odd parts": taken(reply(completion(choices=[{"message": {"content": [1, {"text": None}, "x"]}}]))),
    "gzip": taken(reply(gzip.compress(GOOD), JSON + b"Content-Encoding: gzip\r\n")),
    "deflate": taken(reply(zlib.compress(GOOD), JSON + b"Content-Encoding: deflate\r\n")),
    "gzip that is none": taken(reply(GOOD, JSON + b"Content-Encoding: gzip\r\n")),
    "a large answer": taken(reply(completion(x="y" * 3_000_000))),
    "a large answer in gzip": taken(reply(gzip.compress(completion(x="y" * 3_000_000)), b"Content-Encoding: gzip\r\n")),
    # Whole, and no answer
    "null": answered(b"null"),
    "a number": answered(b"5"),
    "a list": answered(b"[]"),
    "text": answered(b'"well"'),
    "not JSON": answered(b"<html>"),
    "choices of a number": answered(b'{"choices":5}'),
    "choices of text": answered(b'{"choices":"well"}'),
    "choices of nulls": answered(b'{"choices":[null,null]}'),
    "a message of a list": answered(b'{"choices":[{"message":[]}]}'),
    "not a number": answered(b'{"choices":[{"message":{"content":NaN}}]}'),
    "single quotes": answered(b"{'choices':[]}"),
    "no length, not UTF-8": Trick(
        b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n" + GOOD.replace(b"well", b"\xff\xfe"), "bad", "bad", "close"
    ),
    "not UTF-8": answered(GOOD.replace(b"well", b"\xff\xfe")),
    "UTF-16": answered(GOOD.decode().encode("utf-16")),
    "deep nesting": answered(DEEP),
    "deep nesting that ends": answered(DEEP + DEEP.replace(b"[", b"]")),
    "deep nesting in an answer": answered(GOOD[:-1] + b',"x":' + DEEP + DEEP.replace(b"[", b"]") + b"}"),
    "a megabyte of digits": answered(b'{"id":' + b"9" * 1_000_000),
    "gzip in gzip": answered(gzip.compress(gzip.compress(GOOD)), headers=b"Content-Encoding: gzip\r\n"),
    "brotli": answered(b"\x0b\x02\x80well\x03", headers=b"Content-Encoding: br\r\n"),
    "zstd": answered(b"\x28\xb5\x2f\xfd\x04\x00", headers=b"Content-Encoding: zstd\r\n"),
    "half a gzip": broken(reply(gzip.compress(GOOD)[:-9], b"Content-Encoding: gzip\r\n"), "keep"),
    # Too large
    "a bomb": Trick(reply(gzip.compress(bytes(80 << 20)), b"Content-Encoding: gzip\r\n"), "too_large", "too_large"),
    # Refusals
    **{f"redirect {status}": redirect(status) for status in (301, 302, 303, 307, 308)},
    "not modified": Trick(reply(b"", b"", 304), "rejected", "again"),
    "a status nobody knows": Trick(reply(b"{}", b"", 799), "doubt", "again"),
    "a refusal without end": Trick(
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n", "again", "again", endless=b"5\r\nxxxxx\r\n" * 100
    ),
    "wait -1": throttled(b"Retry-After: -1\r\n"),
    "wait for ever": throttled(b"Retry-After: 1000000000\r\n"),
    "wait until 9999": throttled(b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n"),
    "wait for nonsense": throttled(b"Retry-After: \xff soon; \x01\r\n"),
}  # fmt: skip


# --- Playing ---------------------------------------------------------------------------------------------------------


@dataclass
class Played:
    """What a run came to, and what its server saw."""

    report: object = None
    succeeded: dict[str, dict] = field(default_factory=dict)
    failed: dict[str, dict] = field(default_factory=dict)
    ledger: dict[str, list[str]] = field(default_factory=dict)
    posts: Counter = field(default_factory=Counter)
    polls: Counter = field(default_factory=Counter)
    heads: list[bytes] = field(default_factory=list)
    strangers: list[bytes] = field(default_factory=list)


class Pace:
    """How long a server waits between two pieces of what never ends."""

    pause_s = 0.0


async def act(play, trick, writer, elsewhere):
    """Play a trick; return whether the connection stays."""
    data = trick.data.replace(ELSEWHERE, elsewhere)
    for start in range(0, len(data), 1 if trick.slowly else len(data) or 1):
        writer.write(data[start : start + 1] if trick.slowly else data)
        await asyncio.sleep(0)
    await writer.drain()
    while trick.endless:
        writer.write(trick.endless)
        await writer.drain()
        await asyncio.sleep(Pace.pause_s)
    if trick.then == "reset":
        play.reset(writer)
    return trick.then == "keep"


def server(play, played, tricks, *, mode, elsewhere):
    """Return a handler that answers each row's first request of the kind that is tried with its trick."""
    names = list(tricks)

    async def handler(wire, reader, writer):
        while (request := await wire.request(reader)) is not None:
            head, body = request
            played.heads.append(head)
            polled = re.search(rb"/r-(\d+)-\d+ ", head)
            name = json.loads(body)["prompt" if mode == "video" else "messages"] if body else names[int(polled[1])]
            name = name if isinstance(name, str) else name[-1]["content"]
            counted = played.polls if polled else played.posts
            counted[name] += 1
            if polled:
                usual = reply() if mode != "video" else reply(job(elsewhere + b"/film"))
            elif mode in {"post", "stream"}:
                usual = reply()
            else:
                usual = reply(b'{"request_id":"r-%d-%d"}' % (names.index(name), counted[name]))
            tried = bool(polled) == (mode in {"poll", "video"}) and counted[name] == 1
            if not await act(play, tricks[name] if tried else taken(usual), writer, elsewhere):
                return

    return handler


def run(play, folder, tricks, *, mode, tls=None, ca_file=None):
    """Run a row for each trick, good ones between them; return what it came to."""
    played = Played()
    tricks = {
        name: trick for pair in tricks.items() for name, trick in (pair, (f"well after {pair[0]}", TRICKS["good"]))
    }
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"custom_id": name, "prompt": name}) + "\n" for name in tricks))

    async def elsewhere(wire, reader, writer):
        while (request := await wire.request(reader)) is not None:
            played.strangers.append(request[0])
            film = b"Content-Type: video/mp4\r\n" if mode == "video" else b""
            writer.write(reply(b"film", film))

    async def scenario():
        async with play.serving(elsewhere) as other:
            where = b"http://127.0.0.1:%d" % other.port
            async with play.serving(server(play, played, tricks, mode=mode, elsewhere=where), ssl=tls) as wire:
                config = from_keywords(
                    path,
                    output=folder / "out.jsonl",
                    base_url=wire.base_url,
                    ca_file=ca_file,
                    concurrency=4,
                    poll_interval=0.01,
                    mode="deferred" if mode in {"poll", "submit"} else "direct",
                    kind="video" if mode == "video" else "chat",
                    stream=mode == "stream",
                )
                log = EventLog(folder / "run.log", level="debug")
                played.report = await Engine(config, events=log, surroundings=Surroundings(jitter=lambda: 0.0)).run()
                log.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))
    for name, into in (("out.jsonl", played.succeeded), ("out.errors.jsonl", played.failed)):
        for line in (folder / name).read_bytes().splitlines():
            row = json.loads(line)
            into[row["custom_id"]] = row
    store = read_store(folder / "out.bulkgrok" / "checkpoint.db")
    for entry in store.ledger():
        played.ledger.setdefault(entry.custom_id, []).append(str(entry.entry))
    assert store.unexplained() == []
    store.close()
    return played


def verdict(played, name, requests):
    """Say in a word what a trick was taken for."""
    ledger, tries = played.ledger.get(name, []), requests[name]
    if name in played.succeeded:
        return {(1, 0): "good", (2, 0): "again", (2, 1): "doubt"}[tries, len(ledger)]
    code = played.failed[name]["error"]["code"]
    assert (tries, ledger) == (1, [])
    return "bad" if code == "invalid_response" else code


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("XAI_API_KEY", KEY)


def assert_harmless(played, folder):
    """The key went to its server only, and is in no file; nothing broke inside."""
    assert not any(b"authorization" in head.lower() or KEY.encode() in head for head in played.strangers)
    assert not any(b"cookie" in head.lower() or b"s3cret" in head for head in played.heads)
    for path in folder.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    assert "Traceback" not in (folder / "run.log").read_text()


@pytest.mark.parametrize("mode", ["post", "poll"])
def test_every_trick_is_taken_for_what_it_is_and_the_run_goes_on(play, tmp_path, memory, mode):
    with memory() as grown:
        played = run(play, tmp_path, TRICKS, mode=mode)
    found = {name: verdict(played, name, played.posts if mode == "post" else played.polls) for name in TRICKS}
    assert found == {name: getattr(trick, mode) for name, trick in TRICKS.items()}
    assert all(f"well after {name}" in played.succeeded for name in TRICKS)
    assert played.report.exit_code == 3
    assert played.strangers == []
    assert grown.megabytes < 150
    assert_harmless(played, tmp_path)


def test_over_tls_every_trick_is_taken_for_the_same(play, tmp_path, tls, certificate):
    (tmp_path / "run").mkdir()
    played = run(play, tmp_path / "run", TRICKS, mode="post", tls=tls, ca_file=str(certificate))
    assert {name: verdict(played, name, played.posts) for name in TRICKS} == {
        name: trick.post for name, trick in TRICKS.items()
    }
    assert_harmless(played, tmp_path / "run")


def test_what_drips_for_ever_ends_by_the_clock(play, tmp_path, monkeypatch):
    """A receipt or a result of which a byte comes now and then, so that no silence is long enough."""
    monkeypatch.setattr(dispatch_post, "_LONGEST_SUBMISSION_S", 0.3)
    monkeypatch.setattr(api, "_GET_TOTAL_S", 0.3)
    drips = {
        "good": receipt("r-0-0", "good"),
        "a head": Trick(b"HTTP/1.1 200 OK\r\nX: ", "doubt", "again", endless=b"x"),
        "a body": Trick(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", "doubt", "again", endless=b"x"),
    }
    monkeypatch.setattr(Pace, "pause_s", 0.01)
    for mode in ("submit", "poll"):
        (tmp_path / mode).mkdir()
        tricks = drips | ({"good": TRICKS["good"]} if mode == "poll" else {})
        played = run(play, tmp_path / mode, tricks, mode=mode)
        found = {name: verdict(played, name, played.posts if mode == "submit" else played.polls) for name in tricks}
        assert found == {name: trick.post if mode == "submit" else trick.poll for name, trick in tricks.items()}


# --- Streams ---------------------------------------------------------------------------------------------------------


def frame(content=None, **choice):
    delta = {} if content is None else {"content": content}
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, **choice}]}).encode() + b"\n\n"


STOP = frame(finish_reason="stop")
DONE = b"data: [DONE]\n\n"
EVENTS = b"Content-Type: text/event-stream\r\n"
WELL = frame("we") + frame("ll")


def stream(*frames, post="good", then="keep", **more):
    return Trick(chunked(*frames, headers=EVENTS), post, "", then, **more)


def endless(*frames, block, post="too_large"):
    """A stream that goes on with one block."""
    return Trick(chunked(*frames, headers=EVENTS, end=b""), post, "", endless=b"%x\r\n%s\r\n" % (len(block), block))


STREAMS = {
    "good": stream(WELL, STOP, DONE),
    "no end but a reason": stream(WELL, STOP),
    "an end but no reason": stream(WELL, DONE),
    "neither": stream(WELL, post="doubt"),
    "more after the end": stream(WELL, STOP, DONE, frame("more"), b"data: {"),
    "carriage returns": stream(*(part.replace(b"\n", b"\r") for part in (WELL, STOP, DONE))),
    "mixed line ends": stream(WELL.replace(b"\n\n", b"\r\n\n", 1), STOP.replace(b"\n\n", b"\n\r"), DONE),
    "cut between carriage return and newline": stream(
        *(WELL + STOP + DONE).replace(b"\n", b"\r\n").partition(b"\r\n\r")
    ),
    "no blank line at the end": stream(WELL, STOP, DONE[:-2]),
    "byte by byte": stream(WELL, STOP, DONE, slowly=True),
    "a byte-order mark": stream(b"\xef\xbb\xbf" + WELL, STOP, DONE),
    "comments, ids and pings": stream(b": hello\n\nid: 5\nretry: x\nevent: ping\n\n" * 10_000, WELL, STOP, DONE),
    "a huge frame": stream(frame("x" * 2_000_000), STOP, DONE),
    "many frames": stream(frame("word ") * 40_000, STOP, DONE),
    "frames of odd types": stream(b'data: null\n\ndata: 5\n\ndata: []\n\ndata: "x"\n\n', WELL, STOP, DONE),
    "choices of odd types": stream(b'data: {"choices":[null,5,{"delta":[]},{"delta":null}]}\n\n', WELL, STOP, DONE),
    "halves of a pair": stream(frame("\ud83d"), frame("\ude00"), STOP, DONE),
    "an index beyond all sense": stream(b'data: {"choices":[{"index":1e99,"delta":{"content":"a"}}]}\n\n', STOP, DONE),
    "an ordinary answer": Trick(reply(), "good", ""),
    "an answer that says it is a stream": Trick(reply(GOOD, EVENTS), "doubt", ""),
    "broken after the end": Trick(chunked(WELL, STOP, DONE, headers=EVENTS, end=b"zz\r\n"), "doubt", ""),
    "reset after the end": Trick(chunked(WELL, STOP, DONE, headers=EVENTS, end=b""), "good", "", "close"),
    "cut inside a frame": Trick(chunked(WELL, STOP[:20], headers=EVENTS, end=b""), "doubt", "", "close"),
    "cut before the end": Trick(chunked(WELL, headers=EVENTS, end=b""), "doubt", "", "close"),
    "nothing": stream(post="doubt"),
    "only comments": stream(b": x\n\n" * 1_000, post="doubt"),
    "a frame that is not JSON": stream(WELL, b"data: <html>\n\n", STOP, DONE, post="doubt"),
    "a frame that is not UTF-8": stream(WELL, b'data: {"x":"\xff"}\n\n', STOP, DONE, post="doubt"),
    "a frame nested deeply": stream(WELL, b"data: " + DEEP + b"\n\n", STOP, DONE, post="doubt"),
    "an error first": stream(b'data: {"error":{"message":"busy","code":503}}\n\n', post="again"),
    "an error later": stream(WELL, b'data: {"error":"broken"}\n\n', DONE, post="doubt"),
    "text without end": endless(block=frame("x" * 4_000)),
    "an event without end": endless(b"data: ", block=b"x" * 4_000),
    "a line without end": endless(block=b"x" * 4_000),
    "comments without end": endless(WELL, block=b": x\n\n" * 1_000),
    "an answer, then comments without end": endless(WELL, STOP, block=b": x\n\n" * 1_000, post="good"),
    "an answer and its end, then more without end": endless(WELL, DONE, block=frame("x"), post="good"),
    "packed": Trick(reply(gzip.compress(WELL + STOP + DONE), EVENTS + b"Content-Encoding: gzip\r\n"), "good", ""),
}


def test_every_stream_is_taken_for_what_it_is(play, tmp_path, memory, monkeypatch):
    monkeypatch.setattr(spilling, "_MOST_BYTES", 3 << 20)
    with memory() as grown:
        played = run(play, tmp_path, STREAMS, mode="stream")
    found = {name: verdict(played, name, played.posts) for name in STREAMS}
    assert found == {name: trick.post for name, trick in STREAMS.items()}
    answers = {
        name: row["response"]["body"]["choices"][0]["message"]["content"] for name, row in played.succeeded.items()
    }
    other = {"a huge frame": "x" * 2_000_000, "many frames": "word " * 40_000, "halves of a pair": "\U0001f600"}
    other |= {"an index beyond all sense": "a", "choices of odd types": "well"}
    assert answers == {name: other.get(name, "well") for name in answers}
    assert grown.megabytes < 150
    assert_harmless(played, tmp_path)


# --- Receipts --------------------------------------------------------------------------------------------------------


def receipt(request_id, post="doubt"):
    return Trick(reply(json.dumps({"request_id": request_id}).encode()), post, "")


RECEIPTS = {
    "good": receipt("r-0-0", "good"),
    "an answer at once": Trick(reply(), "good", ""),
    "a large answer at once": Trick(reply(completion(x="y" * 3_000_000)), "good", ""),
    **{f"an id of {value!r}": receipt(value) for value in (None, 5, True, [], {}, "", " ", ".", "..", "...")},
    **{
        f"the id {value!r}": receipt(value)
        for value in (
            "../../etc/passwd", "a/b", "a\\b", "%2e%2e", "a b", "a?b", "a#b", "a\r\nX: y", "\x00", "\u00e9", "\ud800",
            "~" * 257, "x" * (1 << 20), "C:x", "<script>",
        )
    },
    "an id of another row": receipt("r-0-0"),
    "no id": Trick(reply(b"{}"), "doubt", ""),
    "no object": Trick(reply(b'["r-1"]'), "doubt", ""),
    "nothing": Trick(reply(b""), "doubt", ""),
    "no content": Trick(reply(b"", b"", 204), "doubt", ""),
    "half a receipt": Trick(reply(b'{"request_id":"r', length=50), "doubt", "", "close"),
    "deep nesting": Trick(reply(DEEP), "doubt", ""),
    "a receipt of three megabytes": Trick(reply(b'{"request_id":"r-9","x":"' + b"y" * 3_000_000 + b'"}'), "doubt", ""),
    "a bomb": Trick(reply(gzip.compress(bytes(80 << 20)), b"Content-Encoding: gzip\r\n"), "too_large", ""),
    "a redirect": redirect(307),
    "an error with status 200": Trick(reply(b'{"code":"unavailable","error":"busy"}'), "again", ""),
}  # fmt: skip


def test_every_receipt_is_taken_for_what_it_is(play, tmp_path):
    played = run(play, tmp_path, RECEIPTS, mode="submit")
    assert {name: verdict(played, name, played.posts) for name in RECEIPTS} == {
        name: trick.post for name, trick in RECEIPTS.items()
    }
    lines = [head.split(b"\r\n")[0] for head in played.heads]
    assert all(re.fullmatch(rb"(POST|GET) /v1/[a-z-]+/[a-z-]+(/r-\d+-\d+)? HTTP/1.1", line) for line in lines)
    assert played.strangers == []
    assert_harmless(played, tmp_path)


# --- Videos ----------------------------------------------------------------------------------------------------------


def film(url, verdict="download_failed", **fields):
    body = {"status": "done", "video": {"url": url}} | fields
    return Trick(
        reply(json.dumps(body).encode().replace(json.dumps(ELSEWHERE.decode())[1:-1].encode(), ELSEWHERE)), "", verdict
    )


JOBS = {
    "good": Trick(reply(job(ELSEWHERE + b"/film")), "", "good"),
    **{
        f"the address {url}": film(url)
        for url in (
            "http://169.254.169.254/latest/meta-data?s3cret", "http://10.0.0.1/?s3cret", "https://10.0.0.1/?s3cret",
            "https://100.64.0.1/", "https://[::ffff:10.0.0.1]/", "https://[fd00::1]/", "https://0.0.0.0/", "http://0x0a000001/",
            "http://167772161/", "http://10.1/", "file:///etc/passwd", "ftp://127.0.0.1/", "javascript:alert(1)",
            "data:video/mp4;base64,AAAA", "//169.254.169.254/", "/etc/passwd", "https://user:s3cret@1.1.1.1/",
            "http://bulkgrok.invalid/?s3cret", "https://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:1/?s3cret",
            "x" * 100_000, "http://127.0.0.1:1/\r\nAuthorization: x", "\x00", "http://", "https://exa mple/",
        )
    },
    **{f"the address {url!r}": film(url, "bad") for url in (None, 5, [], {"url": "x"}, "", " ")},
    "a pending word": Trick(reply(b'{"status":"pending"}'), "", "again"),
    "an unknown word": Trick(reply(b'{"status":"dreaming"}'), "", "again"),
    "a word of numbers": Trick(reply(b'{"status":5,"video":7}'), "", "bad"),
    "a video of a list": Trick(reply(b'{"status":"done","video":["x"]}'), "", "bad"),
    "deep nesting": Trick(reply(DEEP), "", "bad"),
    "three megabytes": film(f"{ELSEWHERE.decode()}/film", "good", x="y" * 3_000_000),
    "half a body": Trick(reply(b'{"status":"do', length=50), "", "again", "close"),
    "a bomb": Trick(reply(gzip.compress(bytes(80 << 20)), b"Content-Encoding: gzip\r\n"), "", "too_large"),
}  # fmt: skip


def test_every_video_job_is_taken_for_what_it_is_and_no_address_is_believed(play, tmp_path):
    played = run(play, tmp_path, JOBS, mode="video")
    assert {name: verdict(played, name, played.polls) for name in JOBS} == {
        name: trick.poll for name, trick in JOBS.items()
    }
    assert {head.split(b"\r\n")[0] for head in played.strangers} == {b"GET /film HTTP/1.1"}
    for row in played.failed.values():
        assert "s3cret" not in row["error"]["message"]
    assert "s3cret" not in (tmp_path / "run.log").read_text()
    assert_harmless(played, tmp_path)


# --- The question about the key --------------------------------------------------------------------------------------

WELL_ENOUGH = {"good", "bad", "too_large"}
STANDINGS = {name: "good" if trick.post in WELL_ENOUGH else "unknown" for name, trick in TRICKS.items()} | {
    name: "busy" for name in TRICKS if name.startswith("wait")
}


def test_no_trick_makes_a_bad_key_of_a_good_one(play, tmp_path, memory):
    async def scenario():
        names, found = iter(TRICKS), {}

        async def handler(wire, reader, writer):
            while await wire.request(reader) is not None:
                if not await act(play, TRICKS[found["now"]], writer, b"http://127.0.0.1:1"):
                    return

        async with (
            play.serving(handler) as wire,
            AiohttpTransport(base_url=wire.base_url, api_key=Secret(KEY), concurrency=1, spill_dir=tmp_path) as client,
        ):
            for name in names:
                found["now"] = name
                found[name] = (await Account(client).standing()).value
        del found["now"]
        return found

    with memory() as grown:
        found = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert found == {name: STANDINGS[name] for name in TRICKS}
    assert grown.megabytes < 64
    assert list(tmp_path.iterdir()) == []
