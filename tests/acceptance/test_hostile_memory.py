"""P10 on the installed command: a server that floods all of its connections at once, and the memory that takes.

In the ordinary run all tricks that need no disk are played at once. `BULKGROK_HOSTILE=1` (`tox run -e hostile`) plays
each trick on all 20 connections, with bodies of a gigabyte and without end: minutes, and some gigabytes of disk.
"""

import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import threading
import zlib
from pathlib import Path

import pytest
from harness.command import COMMAND, KEY, environment
from harness.listening import Listener

MOST_MIB = 300
ROWS = 20
WHOLE = bool(os.environ.get("BULKGROK_HOSTILE"))
MIB = 1 << 20
CODE = re.compile(rb'"error":\{"code":"([a-z_]+)"')

only_on_demand = pytest.mark.skipif(not WHOLE, reason="minutes and gigabytes: set BULKGROK_HOSTILE=1")


def head(size=None, *, status=200, more=b"Content-Type: application/json\r\n"):
    framing = b"Transfer-Encoding: chunked" if size is None else b"Content-Length: %d" % size
    return b"HTTP/1.1 %d Whatever\r\n%s%s\r\n\r\n" % (status, more, framing)


def chunk(block):
    return b"%x\r\n%s\r\n" % (len(block), block)


def answer(content="x", **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"model": "grok-4.3", "choices": [choice], "usage": {"prompt_tokens": 1}, **more}).encode()


def wide(size):
    """An answer of about `size` bytes whose letters take four bytes each, in memory as well as on the wire."""
    return answer("@").replace(b"@", "\U0001f600".encode() * (size // 4))


def tokens(size):
    """An answer of about `size` bytes that says of each token how likely it was: many values."""
    one = {
        "token": "word",
        "logprob": -0.25,
        "top_logprobs": [{"token": "other", "logprob": -1.5, "bytes": [1, 2]}] * 8,
    }
    return answer(logprobs={"content": [one] * (size // len(json.dumps(one)))})


def stream(size):
    frame = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
    return frame * (size // len(frame)) + b"data: [DONE]\n\n"


def bomb(size, wbits=31):
    """`size` zeros, packed."""
    packer = zlib.compressobj(6, wbits=wbits)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()


def whole(body, **more):
    """A reply that ends, as (what begins it, what follows once)."""
    return head(len(body), **more), [body], None


def endless(begin, block):
    """A reply that goes on with one block for ever."""
    return begin, [], block


def times(begin, block, size):
    """A reply that goes on with one block until so many bytes have come."""
    return begin, [block] * (size // len(block)), None


GZIP = b"Content-Type: application/json\r\nContent-Encoding: gzip\r\n"
DEFLATE = b"Content-Encoding: deflate\r\n"
EVENTS = b"Content-Type: text/event-stream\r\n"
BLOCK = b"y" * 65_536

#: What needs little disk and little time.
QUICK = {
    "a million headers": lambda: times(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1_000, 6_000_000),
    "headers without end": lambda: endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1_000),
    "a header without end": lambda: endless(b"HTTP/1.1 200 OK\r\nX: ", BLOCK),
    "a status line without end": lambda: endless(b"HTTP/1.1 200 ", BLOCK),
    "interim replies without end": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000),
    "early hints without end": lambda: endless(b"", b"HTTP/1.1 103 Hints\r\nLink: " + b"x" * 8_000 + b"\r\n\r\n"),
    "a refusal of a gigabyte": lambda: times(head(1 << 30, status=500), BLOCK, 1 << 30),
    "a refusal without end": lambda: endless(head(status=404), chunk(BLOCK)),
    "a bomb in a refusal": lambda: whole(bomb(100 * MIB), status=400, more=GZIP),
    "garbage without end": lambda: endless(b"", bytes(range(256)) * 256),
    "answers to nobody without end": lambda: endless(head(2) + b"{}", (head(2) + b"{}") * 1_000),
    "lists": lambda: whole(b'{"choices":[' + b"[]," * (MIB // 4) + b"0]}"),
    "usage of lists": lambda: whole(answer()[:-1] + b',"usage":{"x":[' + b"[]," * (MIB // 4) + b"0]}}"),
    "names": lambda: whole(b"{" + b'"a":{},' * (MIB // 8) + b'"b":0}'),
    "nesting": lambda: whole(b"[" * MIB),
    "digits": lambda: whole(b'{"id":' + b"9" * MIB),
    "escapes": lambda: whole(answer('\n"' * (MIB // 8))),
    "wide letters": lambda: whole(wide(MIB)),
    "many values": lambda: whole(tokens(MIB)),
    "an answer of four megabytes": lambda: whole(answer("x" * 4 * MIB)),
}  # fmt: skip

#: On all connections at once, each on demand.
SLOW = {
    "a gigabyte": lambda: times(head(1 << 30), BLOCK, 1 << 30),
    "a gigabyte in chunks": lambda: times(head(), chunk(BLOCK), 1 << 30),
    "a body without end": lambda: endless(head(), chunk(BLOCK)),
    "chunks of one byte without end": lambda: endless(head(), chunk(b"y") * 10_000),
    "a gzip bomb": lambda: whole(bomb(1 << 30), more=GZIP),
    "a deflate bomb": lambda: whole(bomb(1 << 30, wbits=-15), more=DEFLATE),
    "a bomb in a bomb": lambda: whole(gzip.compress(bomb(1 << 30)), more=GZIP),
    "an event without end": lambda: endless(head(more=EVENTS) + chunk(b"data: "), chunk(BLOCK)),
    "comments without end": lambda: endless(head(more=EVENTS), chunk(b":\n\n" * 10_000)),
    "frames without end": lambda: endless(head(more=EVENTS), chunk(stream(65_536)[:-14])),
    "streams of 32 MiB": lambda: whole(stream(32 * MIB), more=EVENTS),
    "answers of 60 MiB": lambda: whole(answer("x" * 60 * MIB)),
    "answers of 20 MiB with wide letters": lambda: whole(wide(20 * MIB)),
    "answers of 8 MiB of many values": lambda: whole(tokens(8 * MIB)),
    "lists of 20 MiB": lambda: whole(b'{"choices":[' + b"[]," * (20 * MIB // 3) + b"0]}"),
    "usage of 20 MiB of lists": lambda: whole(answer()[:-1] + b',"usage":{"x":[' + b"[]," * (20 * MIB // 3) + b"0]}}"),
}  # fmt: skip


class Flood(Listener):
    """A server in a thread of its own: each row gets the trick that it names, again and again."""

    def __init__(self, tricks, *, mode="direct"):
        super().__init__()
        self._tricks = {name: make() for name, make in tricks.items()}
        self._mode = mode
        self.keys_elsewhere = 0

    async def answer(self, asked, body, writer):
        names = list(self._tricks)
        path = asked.split(b" ")[1]
        if path.endswith(b"/api-key"):
            path = b"/0-0"
        if body and self._mode != "direct":
            name = json.loads(body).get("prompt") or json.loads(body)["messages"][-1]["content"]
            row, _, trick = name.partition(" ")
            receipt = b'{"request_id":"r-%d-%d"}' % (int(row), names.index(trick))
            writer.write(head(len(receipt)) + receipt)
            return
        if body:
            trick = self._tricks[json.loads(body)["messages"][-1]["content"].partition(" ")[2]]
        elif b"/film-" in path:
            self.keys_elsewhere += b"authorization" in asked.lower()
            trick = self._tricks[names[int(path.rpartition(b"-")[2])]]
        elif self._mode == "media":
            number = int(path.rpartition(b"-")[2])
            done = b'{"status":"done","video":{"url":"%s/film-%d"}}' % (self.base_url[:-3].encode(), number)
            trick = head(len(done)) + done, [], None
        else:
            trick = self._tricks[names[int(path.rpartition(b"-")[2])]]
        begin, blocks, block = trick
        writer.write(begin)
        for part in blocks:
            for start in range(0, len(part), MIB):
                writer.write(part[start : start + MIB])
                await writer.drain()
        while block is not None:
            writer.write(block)
            await writer.drain()


def peak_mib(process):
    """Return the most memory that a process had so far, 0 when it is gone."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0
    return 0


def torment(folder, tricks, *flags, mode="direct", rows=ROWS, timeout_s=600):
    """Run the command against a flood; return its peak of memory, its exit code, and the failures' codes."""
    source = folder / "in.jsonl"
    source.write_text(
        "".join(
            json.dumps({"prompt": f"{row} {name}"}) + "\n"
            for row, name in enumerate(list(tricks) * (rows // len(tricks)))
        )
    )
    kind = {"deferred": ["--mode", "deferred"], "video": ["--kind", "video"], "media": ["--kind", "video"]}
    fixed = [
        "--on-ambiguous", "fail", "--on-lost", "fail", "--max-attempts", "1", "--max-outage", "5",
        "--poll-interval", "0.1", "--timeout", "120",
    ]  # fmt: skip
    with Flood(tricks, mode=mode) as flood:
        arguments = ["run", source, "--base-url", flood.base_url, *fixed, *kind.get(mode, []), *flags]
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(BULKGROK_CONCURRENCY=str(ROWS)),
            text=True,
        )
        peak, watching = [0.0], threading.Event()

        def watch():
            while not watching.wait(0.01):
                peak[0] = max(peak[0], peak_mib(process))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            _, told = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
            watching.set()
            watcher.join()
        assert flood.keys_elsewhere == 0
    assert "Traceback" not in told
    assert KEY not in told
    errors = folder / "in.errors.jsonl"
    lines = errors.read_bytes().splitlines() if errors.exists() else []
    codes = [CODE.findall(line)[-1].decode() for line in lines]
    return peak[0], process.returncode, codes


@pytest.fixture
def told(capsys):
    """Return what prints a figure whatever is captured."""

    def tell(text):
        with capsys.disabled():
            print(f"\n{text}", end=" ")

    return tell


@pytest.fixture(autouse=True)
def room(tmp_path):
    """Skip, saying so, where the peak cannot be read or the disk is too small; leave no gigabytes behind."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory cannot be read here")
    if WHOLE and shutil.disk_usage(tmp_path).free < 10 << 30:
        pytest.skip("bodies of gigabytes need 10 GB of disk")
    yield
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("mode", ["direct", "deferred"])
def test_every_quick_trick_at_once(tmp_path, told, mode):
    peak, code, codes = torment(tmp_path, QUICK, mode=mode)
    told(f"20 connections, each with another trick, {mode}: peak {peak:.0f} MiB, exit {code}")
    assert 0 < peak <= MOST_MIB
    assert code in {3, 7}
    assert set(codes) <= {"in_doubt", "invalid_response", "rejected", "gave_up", "lost", "failed", "too_large"}


STREAMS = ["an event without end", "comments without end", "frames without end", "streams of 32 MiB"]
ENDED_BY_THE_CLOCK = ["chunks of one byte without end"]
BODIES = [name for name in SLOW if name not in STREAMS + ENDED_BY_THE_CLOCK]
HEADS = list(QUICK)[:6]
PLAYED = [
    *(("direct", name) for name in [*SLOW, *QUICK]),
    *(("stream", name) for name in [*STREAMS, *BODIES[:6]]),
    *(("deferred", name) for name in [*BODIES, *HEADS]),
    *(("video", name) for name in BODIES[:6]),
]


@only_on_demand
@pytest.mark.parametrize(("mode", "name"), PLAYED)
def test_one_trick_on_all_connections(tmp_path, told, mode, name):
    flags = ["--stream"] if mode == "stream" else []
    peak, code, codes = torment(
        tmp_path, {name: (SLOW | QUICK)[name]}, *flags, mode="direct" if mode == "stream" else mode
    )
    told(f"{name} on 20 connections, {mode}: peak {peak:.0f} MiB, exit {code}, {len(codes)} failed")
    assert 0 < peak <= MOST_MIB
    assert code in {0, 3, 5, 7}


@only_on_demand
@pytest.mark.parametrize("name", ["a gigabyte", "a body without end", "a gzip bomb", "headers without end"])
def test_one_trick_of_the_host_of_the_files(tmp_path, told, name):
    peak, code, codes = torment(tmp_path, {name: SLOW.get(name) or QUICK[name]}, mode="media", rows=4)
    told(f"{name} from the host of the files: peak {peak:.0f} MiB, exit {code}, {len(codes)} failed")
    assert 0 < peak <= MOST_MIB
    assert code in {0, 3}
