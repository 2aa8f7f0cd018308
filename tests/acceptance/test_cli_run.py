"""The installed command at work against its own simulator: what is printed where, and what signals do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("bulkgrok")
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("BULKGROK_", "XAI_"))}


def start(folder, *arguments, **options):
    return subprocess.Popen(
        [COMMAND, "run", *arguments, "--simulate"],
        cwd=folder,
        env=ENVIRON | options.pop("environ", {}),
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode() if out else "", err.decode()


def run(folder, *arguments, **options):
    return finish(start(folder, *arguments, **options))


def until_running(process):
    """Read the progress of a run that was started with `--progress json` until requests are on their way."""
    for line in process.stderr:
        told = json.loads(line)
        if told.get("state") == "running":
            return
    pytest.fail("the run ended before it was running")


def last_progress(err):
    """Return the last object of progress that a run with `--progress json` showed."""
    objects = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    return [found for found in objects if found["type"] == "progress"][-1]


@pytest.fixture
def few(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\nrubbish\n', encoding="ascii")
    return tmp_path


@pytest.fixture
def many(tmp_path):
    rows = "".join(f'{{"prompt": "number {row}"}}\n' for row in range(600))
    (tmp_path / "in.jsonl").write_text(rows, encoding="ascii")
    return tmp_path


def test_the_summary_is_all_that_standard_output_carries(few):
    code, out, err = run(few, "in.jsonl")
    assert code == 3
    assert out.startswith("Finished with failures (simulated: nothing was paid): 3 of 3 rows in ")
    assert "1 (1 invalid_row)" in out
    where = f"{few}/in.jsonl, line 3: "
    why = "the row is not JSON: unexpected character, expected a JSON value at character 1"
    assert f"first bad row: {where}{why}\nnext: " in err
    assert "--retry-failed" not in err
    assert "Traceback" not in err


def test_json_on_standard_output_is_one_object_with_the_documented_keys(few):
    code, out, _ = run(few, "in.jsonl", "--json", "--progress", "none")
    shown = json.loads(out)
    assert code == shown["exit_code"] == 3
    assert list(shown) == [
        "run_id", "rows", "succeeded", "failed", "pending", "outstanding", "failed_by_code", "in_doubt", "lost",
        "cost_usd", "tokens", "output", "errors", "run_dir", "duration_s", "exit_code",
    ]  # fmt: skip


def test_the_last_progress_that_is_shown_is_the_end(many):
    code, out, err = run(many, "in.jsonl", "--progress", "json", "--json")
    summary, last = json.loads(out), last_progress(err)
    assert (code, last["state"]) == (0, "finished")
    assert (last["in_flight"], last["outstanding"], last["downloads"]) == (0, 0, 0)
    assert {name: last[name] for name in ("rows", "succeeded", "failed", "cost_usd", "tokens")} == {
        name: summary[name] for name in ("rows", "succeeded", "failed", "cost_usd", "tokens")
    }


def test_a_finished_run_typed_again_sends_nothing_and_gives_its_code_again(few):
    first, second = run(few, "in.jsonl"), run(few, "in.jsonl")
    assert (first[0], second[0]) == (3, 3)
    assert "request" not in second[1].splitlines()[0]


def test_a_preview_prints_requests_and_leaves_nothing_behind(few):
    code, out, _ = run(few, "in.jsonl", "--preview", "1")
    assert code == 0
    assert [set(json.loads(line)) for line in out.splitlines()] == [
        {"row", "custom_id", "kind", "mode", "method", "url", "body"}
    ]
    assert [file.name for file in few.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("arguments", [["in.jsonl", "--preview", "3"], ["in.jsonl"], ["in.jsonl", "--json"]])
def test_a_reader_that_hangs_up_is_no_error(few, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    code, _, err = run(few, *arguments, stdout=writing)
    os.close(writing)
    assert code in {0, 3}
    assert "Broken pipe" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_and_the_same_command_ends_the_run(many, number, code):
    process = start(many, "in.jsonl", "--progress", "json", "--json", "--rps", "300")
    until_running(process)
    process.send_signal(number)
    drained, out, err = finish(process)
    assert drained == code
    assert "nothing new is sent" in err
    summary, last = json.loads(out), last_progress(err)
    assert summary["in_doubt"] == 0
    assert last["state"] == "finished"
    assert (last["in_flight"], last["succeeded"]) == (0, summary["succeeded"])
    ended, out, _ = run(many, "in.jsonl", "--json")
    shown = json.loads(out)
    assert (ended, shown["succeeded"], shown["in_doubt"]) == (0, 600, 0)


def test_a_hang_up_that_is_ignored_stays_ignored(many):
    process = start(
        many,
        *("in.jsonl", "--progress", "json", "--rps", "300"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    until_running(process)
    process.send_signal(signal.SIGHUP)
    assert finish(process)[0] == 0


def test_ctrl_c_before_a_pipe_has_ended_stops_at_once_and_keeps_no_half_input(tmp_path):
    reading, writing = os.pipe()
    process = start(tmp_path, "-", "-o", "out.jsonl", "--progress", "json", stdin=reading)
    os.close(reading)
    os.write(writing, b'{"prompt": "one"}\n')
    assert json.loads(process.stderr.readline())["state"] == "starting"
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    os.close(writing)
    assert (code, out) == (130, "")
    assert "Nothing was sent" in err
    assert not (tmp_path / "out.bulkgrok" / "input.jsonl").exists()


def test_environment_and_toml_reach_the_run(few):
    (few / "flags.toml").write_text('output = "from-toml.jsonl"\nlimit = 2\n', encoding="ascii")
    code, _, _ = run(few, "in.jsonl", "--config", "flags.toml", environ={"BULKGROK_OUTPUT": "from-environment.jsonl"})
    assert code == 0
    assert len((few / "from-environment.jsonl").read_bytes().splitlines()) == 2
    assert not (few / "from-toml.jsonl").exists()


def test_neither_key_prompt_nor_answer_is_left_anywhere_but_where_it_belongs(few):
    canary = "xai-canary0123456789canary0123456789"
    (few / "in.jsonl").write_text('{"prompt": "the-secret-prompt"}\n', encoding="ascii")
    code, out, err = run(few, "in.jsonl", "--log-level", "debug", environ={"XAI_API_KEY": canary})
    assert code == 0
    kept = {file: file.read_bytes() for file in few.rglob("*") if file.is_file()}
    assert not [file for file, data in kept.items() if canary.encode() in data]
    assert canary not in out + err
    log = kept[few / "in.bulkgrok" / "log.jsonl"]
    assert b"the-secret-prompt" not in log
    assert json.loads(log.splitlines()[0])["event"] == "run.starting"


def test_a_neighbour_that_holds_the_answers_is_told_of_once_and_how_to_use_it(few):
    run(few, "in.jsonl")
    run(few, "in.jsonl", "-o", "two.jsonl")
    (few / "zz.bulkgrok").mkdir(mode=0o000)
    code, _, err = run(few, "in.jsonl", "-o", "three/")
    told = [line for line in err.splitlines() if "already holds 2 answers" in line]
    assert (code, len(told)) == (3, 1)
    assert f"--run-dir {few / 'in.bulkgrok'} writes them" in told[0]
    code, out, err = run(few, "in.jsonl", "-o", "four.jsonl", "--run-dir", few / "in.bulkgrok")
    assert (code, "request" in out.splitlines()[0]) == (3, False)
    assert len((few / "four.jsonl").read_bytes().splitlines()) == 2


def test_standard_input_is_told_of_no_neighbour(tmp_path):
    rows = tmp_path / "rows"
    rows.write_text('{"prompt": "one"}\n', encoding="ascii")
    for name in ("one.jsonl", "two.jsonl"):
        with rows.open("rb") as pipe:
            code, _, err = run(tmp_path, "-", "-o", name, stdin=pipe)
        assert (code, "already holds" in err) == (0, False)
