"""The installed command as somebody types it: what is refused before anything starts, and how that reads."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from bulkgrok.config import FLAGS
from bulkgrok.simulator.settings import FIELDS

COMMAND = Path(sys.executable).with_name("bulkgrok")
KEY = "xai-canary0123456789canary0123456789"


def bulkgrok(*arguments, environ=None, cwd=None, **options):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BULKGROK_", "XAI_"))}
    return subprocess.run(
        [COMMAND, *arguments],
        env=clean | {"XAI_API_KEY": KEY} | (environ or {}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
        **options,
    )


def test_the_version_is_printed_on_standard_output():
    done = bulkgrok("--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"bulkgrok 0.")


def test_python_m_bulkgrok_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "bulkgrok", "--version"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, bulkgrok("--version").stdout)


def test_the_version_loads_none_of_the_heavy_packages():
    code = (
        "import sys, bulkgrok.__main__, bulkgrok.cli\n"
        "bulkgrok.cli.main(['--version'])\n"
        "heavy = {'aiohttp', 'pyarrow', 'apsw', 'jinja2', 'rich', 'structlog', 'asyncio', 'uvloop', 'orjson'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert done.stdout.splitlines()[-1] == b"[]", done


@pytest.mark.parametrize("command", ["run", "status", "audit"])
def test_help_explains_each_command(command):
    done = bulkgrok(command, "-h", environ={"COLUMNS": "200"})
    assert done.returncode == 0
    assert b"Usage: bulkgrok " + command.encode() in done.stdout


def test_help_names_every_flag():
    shown = bulkgrok("run", "--help", environ={"COLUMNS": "200"}).stdout.decode()
    assert [flag.name for flag in FLAGS if f"--{flag.name}" not in shown] == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("run",),
        ("run", "in.jsonl", "more.jsonl"),
        ("run", "in.jsonl", "--concurrency", "0"),
        ("run", "in.jsonl", "--concurrency", "many"),
        ("run", "in.jsonl", "--rps", "-1"),
        ("run", "in.jsonl", "--mode", "batch"),
        ("run", "in.jsonl", "--timeout", "soon"),
        ("run", "in.jsonl", "--base-url", "http://api.x.ai/v1"),
        ("run", "in.jsonl", "--base-url", f"https://u:{KEY}@api.x.ai/v1"),
        ("run", "in.jsonl", "--output", "ftp://host/out.jsonl"),
        ("run", "in.jsonl", "--output", "in.jsonl"),
        ("run", "in.jsonl", "--output", "out.jsonl.gz"),
        ("run", "in.jsonl", "--checkpoint", "mysql://u:p@h/d"),
        ("run", "in.jsonl", "--checkpoint", f"postgresql://u:{KEY}@p@h/d"),
        ("run", "in.jsonl", "--checkpoint", f"postgresql://u:p/{KEY}@h/d"),
        ("run", "in.jsonl", "--config", "nowhere.toml"),
        ("run", "in.jsonl", "--prompt", "@nowhere.txt"),
        ("run", "in.jsonl", "--param", "novalue"),
        ("run", "in.jsonl", "--api-key-file", "nowhere"),
        ("run", "in.jsonl", "--api-key", KEY),
        ("run", "in.jsonl", f"--api-key={KEY}"),
        ("run", "in.jsonl", "--budget", "much"),
        ("run", "in.jsonl", "--max-at-risk", "-1"),
        ("run", "in.jsonl", "--run-id", " "),
        ("run", "-"),
        ("submit", "in.jsonl"),
        ("run", "in.jsonl", "--strict", "--prompt", "{{ nothing }}"),
        ("collect", "in.jsonl"),
        ("status",),
        ("status", "nowhere"),
        ("status", "in.jsonl", "--csv"),
        ("audit", "nowhere"),
        ("audit", "s3://h/d"),
        ("audit", f"postgresql://h/d?{KEY}"),
    ],
)
def test_what_cannot_be_done_is_exit_2_in_words_and_leaves_nothing_behind(tmp_path, arguments):
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n', encoding="ascii")
    done = bulkgrok(*arguments, cwd=tmp_path)
    told = done.stderr.decode()
    assert done.returncode == 2, done
    assert done.stdout == b""
    assert "Traceback" not in told
    assert KEY not in told
    assert "next:" in told or "Usage:" in told or "Nothing was sent" in told
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]


def test_without_a_key_the_message_says_how_to_give_one(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n', encoding="ascii")
    done = bulkgrok("run", "in.jsonl", environ={"XAI_API_KEY": ""}, cwd=tmp_path)
    assert done.returncode == 2
    assert b"XAI_API_KEY" in done.stderr
    assert b"--simulate" in done.stderr


def test_escape_sequences_in_arguments_reach_no_terminal(tmp_path):
    for arguments in (["run", "in\x1b[2J.jsonl", "--mode", "\x1b[31m"], ["status", "no\x1b[2Jrun"], ["\x1b[2J"]):
        done = bulkgrok(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert b"\x1b" not in done.stderr


def test_an_argument_that_is_not_utf_8_is_told_in_words(tmp_path):
    done = bulkgrok("status", b"no\xff\xferun", cwd=tmp_path)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_a_locale_without_utf_8_stops_nothing(tmp_path):
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    for arguments in (["run", "--help"], ["status", "nowhere"], ["run", "x", "--rps", "é"]):
        assert b"Traceback" not in bulkgrok(*arguments, environ=environ, cwd=tmp_path).stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_stops_nothing(tmp_path, stream):
    redirect = {"stdout": ">&-", "stderr": "2>&-"}[stream]
    done = subprocess.run(
        ["bash", "-c", f"'{COMMAND}' status nowhere {redirect}"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["statsu"], b"There is no command 'statsu'. Did you mean 'status'? Nothing was sent."),
        (["zzzzz"], b"There is no command 'zzzzz'. Nothing was sent."),
        (["run", "x", "--concurency", "3"], b"? Nothing was sent."),
    ],
)
def test_a_slip_is_told_what_it_resembles(typed, told):
    done = bulkgrok(*typed)
    assert done.returncode == 2
    assert told in done.stderr
    assert b"?." not in done.stderr


def test_no_flag_of_the_simulator_breaks_on_a_narrow_terminal():
    shown = bulkgrok("simulator", "--help", environ={"COLUMNS": "80"}).stdout.decode()
    flags = {f"--{name.replace('_', '-')}" for name in FIELDS}
    assert flags <= set(shown.replace("│", " ").split())
    assert "VALUE" not in shown
    assert "86400" not in shown
    assert "24h" in shown


def test_on_a_terminal_a_refusal_has_a_line_of_its_own_and_leaves_no_bar_behind(tmp_path):
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [COMMAND, "run", "absent.jsonl"],
            env={"PATH": os.environ["PATH"], "TERM": "xterm", "XAI_API_KEY": KEY},
            cwd=tmp_path,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            check=False,
            timeout=60,
        )
        os.set_blocking(master, False)
        written = os.read(master, 65_536).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 2
    before, refusal = written.split("bulkgrok: There is no input")
    assert before.rpartition("\x1b[2K")[2].rpartition("\n")[2] == ""
    assert "rows" not in refusal
