"""Everything a run makes is its owner's alone, whatever the umask."""

import json
import os
import stat
import subprocess
import sys

import pytest


def seen(folder, found):
    """Add what lies in a folder, and its modes, to what was found."""
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(base, name)  # noqa: PTH118 - os.walk's own
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:  # it was a temporary one
                continue
            found.setdefault(os.path.relpath(path, folder), set()).add((stat.S_IFMT(mode), stat.S_IMODE(mode)))


@pytest.mark.parametrize(
    ("umask", "output"),
    [(0o000, "new/parts/"), (0o000, "new/out.jsonl"), (0o022, "new/parts/"), (0o077, "new/out.parquet")],
)
def test_files_are_0600_and_folders_that_hold_them_0700(tmp_path, simulator, umask, output):
    api = simulator(
        "--latency", "0.05", "--deferred-latency", "0.2", "--video-latency", "0.2", "--media-size", "3000000"
    )
    rows = [{"prompt": "q"}, {"prompt": "d", "deferred": True}, {"kind": "video", "prompt": "v"}, {"nothing": 1}]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row | {"custom_id": str(n)}) + "\n" for n, row in enumerate(rows * 15)))
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "bulkgrok", "run", "-", "-o", output, "--base-url", api.base_url]
    command += ["--concurrency", "3", "--poll-interval", "0.1", "--log-level", "debug"]
    environment = {"PATH": os.environ["PATH"], "XAI_API_KEY": "xai-modes", "PYTHONWARNINGS": "error"}
    with source.open("rb") as stdin:
        process = subprocess.Popen(
            command,
            cwd=work,
            umask=umask,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
    found = {}
    while process.poll() is None:
        seen(work, found)
    _, told = process.communicate()
    assert process.returncode == 3, told
    seen(work, found)
    names = {os.path.basename(path) for path in found}  # noqa: PTH119 - os.walk's own
    run_files = {"checkpoint.db", "checkpoint.db-wal", "checkpoint.db-shm", "checkpoint.db-mark", "ballast", "run.lock"}
    assert names >= run_files | {"status.json", "log.jsonl", "input.jsonl"}, names
    assert any(name.endswith(".mp4") for name in names)
    wrong = {}
    for path, modes in found.items():
        for kind, mode in modes:
            parent = path == "new"  # an ordinary folder on the way, as mkdir -p makes it, but never open to others
            if kind == stat.S_IFDIR:
                right = mode == 0o755 & ~umask if parent else mode == 0o700
            else:
                right = kind == stat.S_IFREG and mode == 0o600
            if not right:
                wrong[path] = oct(mode)
    assert wrong == {}
