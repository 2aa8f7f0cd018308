"""The key and signed addresses: nowhere but where they belong, whatever the API says back and however the run ends.

A run against an API that repeats the key in every way it can think of, with everything switched on that may talk:
debug log, development mode, warnings, fault handler. Then all that was written or said is searched.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

KEY = 'xai-CaNaRy"7\\q+/%zZ&K9-not-to-be-seen-anywhere'
SIGNATURE = "SiGnAtUrE-0123456789-not-to-be-logged"
PASSWORD = "PaSsWoRd-of-the-proxy"
_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
_KEY = re.compile(rb"(?i)authorization: ([^\r\n]*)")


def forms(secret):
    """Return how a secret may stand in a file."""
    data = secret.encode()
    found = {
        data,
        json.dumps(secret)[1:-1].encode(),
        json.dumps(json.dumps(secret)[1:-1])[1:-1].encode(),
        repr(secret)[1:-1].encode(),
    }
    found |= {quote(secret, safe="").encode(), quote(secret).encode(), data.hex().encode()}
    for shift in range(3):  # without its ends, which hold bits of what surrounds it
        found |= {encode(bytes(shift) + data)[4:-4] for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return found


def where(secret, texts):
    """Return the names of the texts that hold a secret in any form, and how."""
    return {name: form for name, data in texts.items() for form in forms(secret) if form in data}


class Echo:
    """An API on a raw socket that says the key back, as each prompt asks; and the host of its videos."""

    def __init__(self):
        self._ready = threading.Event()
        self._polls = {}
        self._tasks = set()
        self._seen = {}
        self.keys = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self):
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _connected(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                sent = self._reply(head, body)
                if sent is None:
                    await asyncio.sleep(3_600)
                writer.write(sent)
                await writer.drain()
                if b"close" in sent[:200]:
                    break

    def _reply(self, head, body):
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        found = _KEY.search(head)
        said = found[1].decode() if found else ""
        if target.startswith("/v1"):
            self.keys.add(said)
        if target.startswith("/media/"):
            return self._media(target)
        if method == "GET":
            return self._poll(target.rpartition("/")[2], said)
        asked = json.loads(body)
        prompt = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
        self._seen[prompt] = self._seen.get(prompt, 0) + 1
        return getattr(self, f"_{prompt.split()[0]}")(said, prompt)

    # One method a prompt

    def _well(self, _said, _prompt):
        return ok({"id": "a", "choices": [{"message": {"content": "fine"}}], "usage": {"prompt_tokens": 1}})

    def _raw(self, said, _prompt):
        return ok({"error": {"message": f"no: {said}", "code": "bad", "param": said}}, 400)

    def _text(self, said, _prompt):
        return reply(f"<html>no: {said}</html>".encode(), 400, "Content-Type: text/html")

    def _nested(self, said, _prompt):
        return ok({"error": json.dumps({"message": f"no: {said}"})}, 422)

    def _escaped(self, said, _prompt):
        letters = "".join(f"\\u{ord(letter):04x}" for letter in said)
        return reply(f'{{"error": {{"message": "no: {letters}"}}}}'.encode(), 400)

    def _base64(self, said, _prompt):
        return ok({"error": f"no: {base64.b64encode(said.encode()).decode()}"}, 400)

    def _percent(self, said, _prompt):
        return ok({"error": f"no: https://api/?key={quote(said, safe='')}"}, 404)

    def _passing(self, said, prompt):
        if self._seen[prompt] > 1:
            return self._well(said, prompt)
        headers = (f"Retry-After: {said}", f"x-request-id: {said}", f"Content-Type: application/json; a={said}")
        return reply(json.dumps({"error": said}).encode(), 503, *headers)

    def _doubtful(self, said, prompt):
        return ok({"error": f"internal: {said}"}, 500) if self._seen[prompt] < 2 else self._well(said, prompt)

    def _busy(self, said, prompt):
        return ok({"error": f"slow down: {said}"}, 429) if self._seen[prompt] < 2 else self._well(said, prompt)

    def _headers(self, said, _prompt):
        body = json.dumps({"id": "a", "choices": [{"message": {"content": "fine"}}]}).encode()
        return reply(
            body, 200, f"x-request-id: {said}", f"Content-Type: application/json; a={said}", f"Set-Cookie: k={said}"
        )

    def _within(self, said, prompt):
        return ok({"error": {"message": f"busy: {said}"}}) if self._seen[prompt] < 2 else self._well(said, prompt)

    def _status(self, said, prompt):
        return (
            f"HTTP/1.1 {said}\r\nConnection: close\r\n\r\n".encode()
            if self._seen[prompt] < 2
            else self._well(said, prompt)
        )

    def _elsewhere(self, said, _prompt):
        return reply(b"", 307, f"Location: https://elsewhere.example/?key={quote(said)}")

    def _cut(self, said, prompt):
        if self._seen[prompt] > 1:
            return self._well(said, prompt)
        return f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9999\r\n\r\n{{{said}".encode()

    def _stream(self, said, _prompt):
        return reply(
            f"data: {json.dumps({'error': {'message': said, 'code': 400}})}\n\n".encode(),
            200,
            "Content-Type: text/event-stream",
        )

    def _silent(self, _said, _prompt):
        return None

    def _later(self, _said, prompt):
        return ok({"request_id": f"d-{prompt.split()[1]}-{len(self._seen)}-{self._seen[prompt]}"})

    def _video(self, _said, prompt):
        return ok({"request_id": f"v-{prompt.split()[1]}-{len(self._seen)}-{self._seen[prompt]}"})

    def _poll(self, request_id, said):
        if request_id == "api-key":
            return ok({"name": said})
        kind, how = request_id.split("-")[:2]
        times = self._polls[request_id] = self._polls.get(request_id, 0) + 1
        if kind == "v":
            return self._finished_video(how)
        match how:
            case "well":
                return self._well(said, "") if times > 1 else reply(b"", 202, f"x-request-id: {said}")
            case "refused":
                return ok({"error": f"failed: {said}"}, 400)
            case "failed":
                return ok({"status": "failed", "error": {"message": f"failed: {said}"}})
            case _:
                return ok({"code": "internal_error", "error": f"failed: {said}"}, 400)

    def _finished_video(self, how):
        url = f"{self.origin}/media/{how}/{SIGNATURE}/a.mp4?sig={SIGNATURE}&e=1"
        match how:
            case "unreachable":
                url = f"http://127.0.0.1:9/{SIGNATURE}/a.mp4?sig={SIGNATURE}"
            case "forbidden":
                url = f"http://10.0.0.1/{SIGNATURE}?sig={SIGNATURE}"
            case "strange":
                url = f"https://{SIGNATURE}@[::1/{SIGNATURE}"
        return ok({"status": "done", "video": {"url": url, "duration": 2}, "model": "grok-imagine-video"})

    def _media(self, target):
        match target.split("/")[2]:
            case "well":
                return reply(b"video" * 1_000, 200, "Content-Type: video/mp4")
            case "gone":
                return reply(f"no {target}".encode(), 403)
            case "status":
                return f"HTTP/1.1 {target}\r\n\r\nclose".encode()
            case "redirect":
                return reply(b"", 302, f"Location: http://10.1.2.3{target}")
            case _:
                return f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9999\r\n\r\n{target}".encode()


def reply(body=b"", status=200, *headers):
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ok(value, status=200):
    return reply(json.dumps(value).encode(), status, "Content-Type: application/json")


@pytest.fixture
def echo():
    found = Echo()
    yield found
    found.stop()


class Work:
    """A folder that holds everything a process may write, and all that processes said in it."""

    def __init__(self, folder):
        self.folder = folder
        self.said = {}
        (folder / "tmp").mkdir()

    def environment(self, **more):
        talkative = ("PYTHONFAULTHANDLER", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE")
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "XAI_API_KEY": KEY,
            "PYTHONWARNINGS": "default",
            **dict.fromkeys(talkative, "1"),
            **more,
        }

    def start(self, *command, **more):
        return subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=self.folder, env=self.environment(**more),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self, process, name, timeout=120):
        out, err = process.communicate(timeout=timeout)
        self.said[f"{name} stdout"], self.said[f"{name} stderr"] = out, err
        return process.returncode

    def run(self, name, *command, **more):
        return self.end(self.start(*command, **more), name)

    def bulkgrok(self, name, *arguments, **more):
        return self.run(name, "-m", "bulkgrok", *arguments, **more)

    def files(self):
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }

    def everything(self):
        return self.files() | self.said


@pytest.fixture
def work(tmp_path):
    """Return a folder to work in; processes begun there may dump cores, unless they forbid it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield Work(tmp_path)
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def write(path, prompts):
    rows = []
    for number, prompt in enumerate(prompts):
        row = {"custom_id": f"{number}", "prompt": prompt}
        if prompt.startswith("video"):
            row["kind"] = "video"
        if prompt.startswith("later"):
            row["deferred"] = True
        if prompt.startswith("stream"):
            row["stream"] = True
        rows.append(json.dumps(row) + "\n")
    path.write_text("".join(rows))
    return path


PROMPTS = (
    """
well|raw|text|nested|escaped|base64|percent|passing|doubtful|busy|headers|within|status|elsewhere|cut|stream|well
later well|later refused|later failed|later passing
video well|video gone|video redirect|video forbidden|video strange
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def holds_signature(name):
    """Tell where signed addresses belong: in the checkpoint and, as the API wrote them, in the output."""
    return name.startswith(("in.results", "in.errors", "in.bulkgrok/checkpoint.db"))


def test_the_key_and_signed_addresses_are_nowhere_else(work, echo):
    source = write(work.folder / "in.jsonl", PROMPTS)
    base = ("--base-url", f"{echo.origin}/v1")
    run = (
        "run",
        source,
        *base,
        "--log-level",
        "debug",
        "--max-attempts",
        3,
        "--poll-interval",
        "0.1",
        "--max-outage",
        "20s",
    )
    assert work.bulkgrok("run", *run, "--progress", "json") == 3
    assert echo.keys == {f"Bearer {KEY}"}
    for command in ("status", "audit"):
        assert work.bulkgrok(command, command, source) in {0, 3}
        assert work.bulkgrok(f"{command} json", command, source, "--json") in {0, 3}
    assert work.bulkgrok("again", *run, "--retry-failed", "--progress", "plain", "--json") == 3
    lines = [json.loads(line) for line in (work.folder / "in.errors.jsonl").read_bytes().splitlines()]
    quoted = {PROMPTS[line["row"]] for line in lines if "[hidden]" in line["error"]["message"]}
    assert quoted == {
        "raw",
        "text",
        "nested",
        "escaped",
        "base64",
        "percent",
        "stream",
        "later refused",
        "later failed",
        "later passing",
    }
    texts = work.everything()
    assert len(texts["in.bulkgrok/log.jsonl"].splitlines()) > 50
    assert where(KEY, texts) == {}
    found = where(SIGNATURE, texts)
    assert {name for name in found if not holds_signature(name)} == set()
    assert "in.results.jsonl" in found  # as the API wrote it


def test_an_answer_that_holds_the_key_stays_as_it_was_written(alone, tmp_path):
    from bulkgrok.core.model import Reply  # noqa: PLC0415 - only here

    source = write(tmp_path / "in.jsonl", ["repeat after me"])
    body = json.dumps({"id": "a", "choices": [{"message": {"content": f"it is {KEY}"}}]})
    assert alone(lambda _: Reply(status=200, body=body.encode()), key=KEY, input=source).run().exit_code == 0
    line = json.loads((tmp_path / "in.results.jsonl").read_bytes())
    assert line["response"]["body"] == json.loads(body)


@pytest.mark.parametrize("prompt", ["refused", "blocked"])
def test_a_run_that_the_api_stops_does_not_repeat_the_key(work, echo, prompt):
    echo._refused = lambda said, _: ok({"error": f"Incorrect API key provided: {said}"}, 401)
    echo._blocked = lambda said, _: ok({"code": "unauthorized:blocked-key", "error": said}, 403)
    source = write(work.folder / "in.jsonl", [prompt] * 3)
    base = ("--base-url", f"{echo.origin}/v1")
    assert work.bulkgrok("run", "run", source, *base, "--log-level", "debug") == 5
    assert work.bulkgrok("status", "status", source) == 0
    texts = work.everything()
    assert b"[hidden]" in texts["run stderr"]
    assert where(KEY, texts) == {}


CRASH = """
import sys
from bulkgrok.core import failpoints
from bulkgrok.cli import main

def crash(name):
    if name == {point!r}:
        raise RuntimeError("planted")

failpoints.install(crash)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("point", ["post.replied", "poll.replied", "sink.written"])
def test_a_crash_tells_everything_but_the_key(work, echo, point):
    source = write(work.folder / "in.jsonl", ["well", "raw", "later well", "video well"])
    (work.folder / "crash.py").write_text(CRASH.format(point=point))
    run = ("run", source, "--base-url", f"{echo.origin}/v1", "--log-level", "debug", "--poll-interval", "0.1")
    assert work.run("crash", "crash.py", *run) == 1
    texts = work.everything()
    assert any(b"planted" in text for name, text in texts.items() if "log" in name)
    assert where(KEY, texts) == {}
    assert {name for name in where(SIGNATURE, texts) if not holds_signature(name)} == set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_run_that_is_killed_leaves_no_core_and_no_key(work, echo, number):
    source = write(work.folder / "in.jsonl", ["well", "raw", "video unreachable", "silent"])
    run = ("run", source, "--base-url", f"{echo.origin}/v1", "--log-level", "debug", "--poll-interval", "0.1")
    process = work.start("-m", "bulkgrok", *run)
    results = work.folder / "in.results.jsonl"
    while not (results.exists() and results.stat().st_size):
        assert process.poll() is None, process.communicate()
    limits = Path(f"/proc/{process.pid}/limits")
    if limits.exists():
        core = next(line for line in limits.read_text().splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
    process.send_signal(number)
    assert work.end(process, "killed") == -number
    assert work.bulkgrok("status", "status", source) == 0
    texts = work.everything()
    assert [name for name in texts if "core" in Path(name).name.split(".")] == []
    assert where(KEY, texts) == {}
    assert {name for name in where(SIGNATURE, texts) if not holds_signature(name)} == set()


@pytest.mark.skipif(sys.platform != "linux", reason="a switch of Linux")
def test_the_command_shields_its_process_and_the_library_does_not(work):
    ask = "import ctypes, resource; print(ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE)[0])"
    work.run("shielded", "-c", f"from bulkgrok.cli.shielding import shield; shield(); {ask}")
    work.run("library", "-c", f"import bulkgrok; bulkgrok.run, bulkgrok.stream, bulkgrok.Client(); {ask}")
    assert work.said["shielded stdout"].split() == [b"0", b"0"]
    assert work.said["library stdout"].split() == [b"1", b"-1"]


def test_no_fault_of_the_api_brings_the_key_or_an_address_to_light(work, simulator):
    faults = ("drop-before", "ok-error", *(f"error-{code}" for code in (408, 429, 500, 502, 503, 504, 520, 529)))
    after = ("drop-after", "cut-body", "malformed", "no-id", "stream-break", "stream-error")
    shares = dict.fromkeys((*faults, *after), "0.03")
    shares |= dict.fromkeys(("moderated", "failed", "failed-retryable", "no-video"), "0.1")
    shares |= dict.fromkeys(("media-error", "media-drop", "media-cut"), "0.2")
    flags = [part for name, share in shares.items() for part in (f"--{name}", share)]
    flags += ["--deferred-latency", "0.1", "--video-latency", "0.1", "--retry-after", "off", "--error-shape", "mixed"]
    api = simulator(*flags)
    source = write(work.folder / "in.jsonl", ["well", "later well", "video well", "stream"] * 6)
    run = (
        "run",
        source,
        "--base-url",
        api.base_url,
        "--log-level",
        "debug",
        "--poll-interval",
        "0.1",
        "--max-outage",
        "60s",
    )
    assert work.bulkgrok("run", *run, "--progress", "json") in {0, 3}
    assert work.bulkgrok("audit", "audit", source) == 0
    texts = work.everything()
    assert where(KEY, texts) == {}
    signatures = set(re.findall(rb"[?&]sig=([0-9a-f]{16,})", texts["in.results.jsonl"]))
    assert signatures
    shown = {name for signature in signatures for name in where(signature.decode(), texts)}
    assert {name for name in shown if not holds_signature(name)} == set()


def test_neither_a_key_file_nor_a_proxy_password_is_repeated(work):
    source = write(work.folder / "in.jsonl", ["well"])
    keys = work.folder.parent / f"{work.folder.name}-keys"
    keys.mkdir()
    away = ("--base-url", "http://127.0.0.1:9/v1", "--max-outage", "0", "--log-level", "debug")
    (keys / "two").write_text(f"{KEY}\n{KEY}")
    (keys / "one").write_text(KEY)
    for name, proxy, code in (("two", "127.0.0.1:9", 2), ("one", "[::1", 2), ("one", "127.0.0.1:9", 7)):
        flags = ("--api-key-file", keys / name, "--proxy", f"http://user:{PASSWORD}@{proxy}", *away)
        assert work.bulkgrok(f"{name} {proxy}", "run", source, *flags, XAI_API_KEY="") == code
    texts = work.everything()
    assert where(KEY, texts) == {}
    assert where(PASSWORD, texts) == {}
