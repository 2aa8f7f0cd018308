"""A run whose checkpoint is in PostgreSQL goes on where nothing of it is on the disk."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from harness.command import COMMAND, environment

PIPED = "".join(json.dumps({"prompt": f"piped {row}"}) + "\n" for row in range(20)).encode()


@pytest.fixture
def machine(tmp_path, api, postgres):
    """Return a function that types a command on a machine whose disk is empty."""

    def on(name, run_id, *arguments, stdin=b""):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        run_id = f"{run_id} of {tmp_path}"
        command = [*COMMAND, "run", *map(str, arguments), "--checkpoint", postgres.url(), "--run-id", run_id]
        done = subprocess.run(
            [*command, "--base-url", api.base_url, "--progress", "none"], cwd=folder, input=stdin, check=False,
            capture_output=True, env=environment(),
        )  # fmt: skip
        return done.returncode, done.stderr.decode(), folder

    return on


def rows_of(path):
    return sorted(json.loads(line)["row"] for line in path.read_bytes().splitlines())


def test_a_finished_run_is_written_again_where_nothing_of_it_is(machine, api, tmp_path):
    rows = [{"prompt": f"again {row}", "deferred": row % 2 == 0} for row in range(30)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, first = machine("first", "written again", tmp_path / "in.jsonl", "-o", "out.jsonl")
    assert code == 0
    before = api.sums()["posts"]
    code, _, second = machine("second", "written again", tmp_path / "in.jsonl", "-o", "out.jsonl")
    assert (code, api.sums()["posts"]) == (0, before)
    assert (second / "out.jsonl").read_bytes() == (first / "out.jsonl").read_bytes()


def test_videos_are_downloaded_again_where_their_disk_is_gone(machine, api, tmp_path):
    rows = [{"kind": "video", "prompt": f"{tmp_path} {row}", "duration": 1} for row in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said, first = machine("first", "videos", tmp_path / "in.jsonl", "-o", "out.jsonl")
    assert code == 0, said
    clips = {path.name: path.read_bytes() for path in (first / "out.media").iterdir()}
    assert len(clips) == 4
    shutil.rmtree(first)
    before = api.sums()["posts"]
    code, said, second = machine("second", "videos", tmp_path / "in.jsonl", "-o", "out.jsonl")
    assert (code, api.sums()["posts"]) == (0, before), said
    assert {path.name: path.read_bytes() for path in (second / "out.media").iterdir()} == clips


def test_standard_input_is_piped_again_and_compared(machine):
    assert machine("first", "pipe", "-", "-o", "out.jsonl", "--limit", "5", stdin=PIPED)[0] == 0
    code, said, second = machine("second", "pipe", "-", "-o", "out.jsonl", stdin=PIPED)
    assert code == 0, said
    assert rows_of(second / "out.jsonl") == list(range(20))
    code, said, _ = machine("third", "pipe", "-", "-o", "out.jsonl")
    assert (code, "Pipe the input again" in said) == (2, True)
    code, said, _ = machine("third", "pipe", "-", "-o", "out.jsonl", stdin=PIPED[:-40])
    assert (code, "has changed since the run was begun" in said) == (6, True)


def test_a_stream_of_rows_goes_on_in_a_process_that_has_none_of_it(api, postgres, tmp_path):
    program = """
import asyncio, sys
import bulkgrok

async def main(url, base_url, run_id, stop):
    rows = ({"prompt": f"streamed {row}"} for row in range(30))
    found = []
    stream = bulkgrok.stream(rows, checkpoint=url, run_id=run_id, base_url=base_url)
    async for outcome in stream:
        found.append(outcome["row"])
        if len(found) == stop:
            break
    await stream.aclose()
    print(*sorted(found))

asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
"""

    def streamed(stop):
        arguments = [sys.executable, "-c", program, postgres.url(), api.base_url, f"stream of {tmp_path}", str(stop)]
        return subprocess.check_output(arguments, env=environment(), text=True).split()

    before = api.sums()["posts"]
    assert len(streamed(10)) == 10
    assert streamed(99) == sorted(map(str, range(30)), key=int)
    assert api.sums()["posts"] - before == 30


def test_without_the_driver_the_command_names_what_to_install(tmp_path):
    (tmp_path / "psycopg.py").write_text("raise ImportError('no psycopg', name='psycopg')\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    for arguments in (("status", "postgresql://u:geheim99@h/d"), ("run", "in.jsonl", "--checkpoint", "postgres://h/d")):
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, env=environment(PYTHONPATH=paths), check=False,
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
        if arguments[0] == "status":
            assert "pip install 'bulkgrok[postgres]'" in done.stderr
        assert "geheim99" not in done.stderr
