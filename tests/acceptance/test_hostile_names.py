"""Names and texts made to steer a terminal, to leave a folder, or to be taken for words of ours."""

import fcntl
import json
import os
import re
import unicodedata

import pytest

from bulkgrok.cli import main
from bulkgrok.cli.messages import error_text
from bulkgrok.core.model import Reply

EVIL = [
    "\x1b[2J\x1b[1;1H", "\x1b]0;title\x07", "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "\x9b31m",
    "\x9d0;x\x9c", "\u202edlrow\u202c", "\u2066x\u2069", "\u200bzero", "\u2028line\u2029", "\x07\x08\x0b\x0c\r", "\x7f",
    "\ufeff", "\U000e0041", "[bold red]markup[/]", "[link=file:///etc/passwd]x[/link]", "a\nnext: rm -rf ~   (do it)",
    "a\nbulkgrok: paid in full",
]  # fmt: skip
PATHS = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "", " ", "con", "NUL", "a" * 10_000, "x/../../y", "a\x00b",
    "~/.ssh/id", "-rf", "file:///etc/passwd", "\\\\host\\share", "C:\\x", "a:b", "*", "$(id)", "`id`",
    "é" * 300, "\U0001f600" * 200,
]  # fmt: skip


def steering(text):
    """Return what of a text would steer a terminal, or hide or turn what stands beside it."""
    return {
        character
        for character in text
        if character not in "\n\u200d" and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    }


def own_escapes_removed(text):
    """Return what is left of a bar of ours: colours, cursor movements and carriage returns are its own."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


@pytest.fixture
def source(tmp_path):
    names = [name for text in (*EVIL, *PATHS) for name in (text,)]
    rows = [{"custom_id": name, "prompt": f"say {name}"} for name in names]
    rows += [{"custom_id": name, "kind": "video", "prompt": f"show {name}"} for name in names]
    rows += [{"custom_id": name, "prompt": 7, "model": name} for name in EVIL]  # bad rows
    folder = tmp_path / "work"
    folder.mkdir()
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def everything_below(folder):
    return {os.path.relpath(os.path.join(base, name), folder) for base, _, files in os.walk(folder) for name in files}  # noqa: PTH118


@pytest.mark.parametrize("progress", ["rich", "json"])
def test_nothing_that_is_printed_steers_a_terminal(tmp_path, simulator, bulkgrok, source, progress):
    api = simulator("--deferred-latency", "0.1", "--video-latency", "0.1", "--media-size", "100")
    outside = everything_below(tmp_path)
    flags = ("--base-url", api.base_url, "--poll-interval", "0.1", "--log-level", "debug", "--progress", progress)
    ended = bulkgrok("run", source, *flags, env={"FORCE_COLOR": "1"} if progress == "rich" else None)
    assert ended.returncode == 3, ended.stderr
    said = [ended.stdout, own_escapes_removed(ended.stderr) if progress == "rich" else ended.stderr]
    for command in ("status", "audit"):
        for flag in ((), ("--json",)):
            told = bulkgrok(command, source, *flag)
            said += [told.stdout, told.stderr]
    told = bulkgrok("run", source, "--preview", 40)
    said += [told.stdout, told.stderr, source.with_name("in.bulkgrok").joinpath("log.jsonl").read_text()]
    assert [steering(text) for text in said] == [set()] * len(said)
    assert not any(line.strip().startswith("next: rm") for text in said for line in text.splitlines())
    # Values are the same, and no name of a row became a name of a file.
    lines = [json.loads(line) for line in source.with_name("in.results.jsonl").read_bytes().splitlines()]
    names = [json.loads(line).get("custom_id") for line in source.read_bytes().splitlines()]
    assert all(line["custom_id"] == names[line["row"]] for line in lines)
    made = everything_below(tmp_path) - outside
    media = {name for name in made if name.startswith("work/in.media/")}
    assert len(media) == len(EVIL) + len(PATHS)
    assert all(re.fullmatch(r"\d{8}-[A-Za-z0-9._-]{1,64}\.mp4", name.rpartition("/")[2]) for name in media)
    assert {name.rpartition("/")[0] for name in made} == {"work", "work/in.bulkgrok", "work/in.media"}


@pytest.fixture
def told(capfd, monkeypatch):
    """Return a function that runs a command in this process and returns its exit code and what it printed."""
    monkeypatch.setattr("bulkgrok.cli.run.shield", lambda: None)
    monkeypatch.setenv("XAI_API_KEY", "xai-names")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("name", [text for text in EVIL if "/" not in text], ids=ascii)
def test_names_of_files_and_flags_are_shown_harmlessly(tmp_path, told, name):
    source = tmp_path / f"{name}.jsonl"
    for arguments in (
        ("run", source), ("run", source, "--no-such", name), ("status", source), ("audit", source, f"--{name}"),
        (name,), ("run", source, "--param", name), ("run", source, "--prices", source),
        ("run", source, "-o", f"/dev/{name}"), ("simulator", "--settings", source),
        ("run", source, "--prompt", "{{ " + name),
    ):  # fmt: skip
        code, out, err = told(*arguments)
        assert code == 2, (arguments, err)
        assert steering(out + err) == set(), arguments
        lines = err.splitlines()
        assert sum(line.startswith("bulkgrok: ") for line in lines) == 1, err
        assert not any(line.strip().startswith("next: rm") and not line.startswith("    ") for line in lines)


def test_what_the_api_says_is_shown_harmlessly(alone, tmp_path):
    """The API's words reach messages, status.json, the log and the audit; each shows them as text."""
    for number, evil in enumerate(EVIL):
        path = tmp_path / f"{number}.jsonl"
        path.write_text('{"prompt": "a"}\n' * 3)
        body = json.dumps({"code": evil, "error": f"Incorrect API key: {evil}"}).encode()
        report = alone(lambda _, body=body: Reply(status=401, body=body), input=path).run()
        assert report.exit_code == 5
        text = error_text(report.stopped)
        assert steering(text) == set()
        assert sum(line.startswith("bulkgrok: ") for line in text.splitlines()) == 1


def test_a_status_file_that_somebody_else_wrote_is_read_harmlessly(alone, tmp_path, told):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a"}\n{"prompt": 7}\n')
    reply = Reply(status=200, body=b'{"id": "a", "choices": [{"message": {"content": "yes"}}]}')
    assert alone(lambda _: reply, input=source).run().exit_code == 3
    folder = tmp_path / "in.bulkgrok"
    whole = json.loads((folder / "status.json").read_text())
    held = os.open(folder / "run.lock", os.O_RDWR)
    odd = [*EVIL, None, [], {}, 10**400, -1, True, 1e308, "1", "[" * 50_000]
    for alive in (False, True):
        if alive:
            fcntl.flock(held, fcntl.LOCK_EX)
        for number, value in enumerate(odd):
            found = {**whole, "pid": os.getpid(), "updated_at": 1e15, "checkpoint": value}
            found["progress"] = dict.fromkeys(whole["progress"], value)
            found["report"] = dict.fromkeys(whole["report"], odd[number - 1])
            (folder / "status.json").write_text(json.dumps(found))
            for flags in ((), ("--json",)):
                code, out, err = told("status", source, *flags)
                assert (code, err, steering(out)) == (0, "", set()), value
    for rubbish in (b"", b"[" * 100_000, b"\xff\xfe", b"{}" * 1_000_000, b"null"):
        (folder / "status.json").write_bytes(rubbish)
        assert told("status", source)[0] == 0
    os.close(held)
