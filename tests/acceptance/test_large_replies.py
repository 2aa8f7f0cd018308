"""Replies too large for memory: answers that succeed, bodies that stay in a file, and a process killed in between."""

import json
import threading
from pathlib import Path

import pytest
from harness.listening import Listener

MIB = 1 << 20


def answer(size):
    choice = {"index": 0, "message": {"content": "word " * (size // 5)}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3}}).encode()


class Server(Listener):
    """A server in a thread of its own that gives each request the next reply: a body, and how much of it is sent."""

    def __init__(self, *replies):
        super().__init__()
        self._replies = iter(replies)
        self.sent_all = threading.Event()

    async def answer(self, head, body, writer):
        body, part = next(self._replies)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body[:part])
        await writer.drain()
        self.sent_all.set()
        if part is not None:
            await self._ended.wait()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "hello"}\n')
    return path


def replies(folder):
    found = folder / "in.bulkgrok" / "replies"
    return {path.name: path for path in found.iterdir()} if found.exists() else {}


@pytest.mark.parametrize("mode", ["direct", "deferred"])
def test_an_answer_of_40_mib_succeeds_and_leaves_no_file(bulkgrok, source, lines, mode):
    body = answer(40 * MIB)
    first = [] if mode == "direct" else [(b'{"request_id":"r-1"}', None)]
    with Server(*first, (body, None)) as server:
        done = bulkgrok("run", source, "--base-url", server.base_url, "--mode", mode, "--poll-interval", "0.1")
    assert done.returncode == 0, done.stderr
    (row,) = lines(source.with_name("in.results.jsonl"))
    assert row["response"]["body"] == json.loads(body)
    assert row["bulkgrok"]["usage"] == {"prompt_tokens": 3}
    assert replies(source.parent) == {}


@pytest.mark.parametrize("mode", ["direct", "deferred"])
def test_what_is_larger_than_any_answer_is_in_a_file_that_the_failure_names(bulkgrok, source, lines, mode):
    body = answer(70 * MIB)
    first = [] if mode == "direct" else [(b'{"request_id":"r-1"}', None)]
    with Server(*first, (body, None)) as server:
        done = bulkgrok("run", source, "--base-url", server.base_url, "--mode", mode, "--poll-interval", "0.1")
    assert done.returncode == 3, done.stderr
    (row,) = lines(source.with_name("in.errors.jsonl"))
    assert row["error"]["code"] == "too_large"
    ((name, path),) = replies(source.parent).items()
    assert name == "row-00000000-1.reply"
    assert str(path) in row["error"]["message"]
    assert path.read_bytes() == body
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(bulkgrok("audit", source, "--json").stdout)["billed"] == 1


def test_a_process_killed_while_a_large_answer_comes_leaves_it_to_be_looked_at(bulkgrok, source, lines):
    body = answer(20 * MIB)
    with Server((body, 5 * MIB), (body, None)) as server:
        command = ("run", source, "--base-url", server.base_url)
        process = bulkgrok.start(*command)
        server.sent_all.wait(60)
        while not any(path.stat().st_size >= 4 * MIB for path in replies(source.parent).values()):
            assert process.poll() is None
        process.kill()
        process.communicate()
        assert list(replies(source.parent)) == ["row-00000000-1.part"]
        done = bulkgrok(*command)
    assert done.returncode == 0, done.stderr
    assert "large replies were on their way" in " ".join(done.stderr.split())
    ((name, path),) = replies(source.parent).items()
    assert name == "row-00000000-1.cut"
    assert body.startswith(path.read_bytes())
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(lines(source.with_name("in.results.jsonl"))) == 1
    audit = json.loads(bulkgrok("audit", source, "--json").stdout)
    assert (audit["billed"], len(audit["in_doubt"]), audit["unexplained"]) == (1, 1, []), audit
    again = bulkgrok(*command)
    assert again.returncode == 0
    assert Path(path).exists()
    assert "on their way" not in again.stderr
