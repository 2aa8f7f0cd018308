"""What is refused before anything is sent, and what an exit code says."""

import fcntl
import json
import os
import signal
import time

import pytest


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(json.dumps({"custom_id": f"q{row}", "prompt": f"question {row}"}) + "\n" for row in range(12))
    )
    return path


def sent(api):
    ledger = api.ledger()
    return ledger["posts"], ledger["gets"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--model", "grok-4.5"), "--model"),
        (("--param", "temperature=0"), "--param"),
        (("--system", "Be brief."), "--system"),
        (("--mode", "deferred"), "--mode"),
        (("--simulate",), "real run"),
    ],
)
def test_other_fixed_settings_are_refused_with_6(tmp_path, simulator, bulkgrok, source, change, words):
    api = simulator()
    assert bulkgrok("run", source, "--base-url", api.base_url).returncode == 0
    before = sent(api)
    done = bulkgrok("run", source, "--base-url", api.base_url, *change)
    assert done.returncode == 6
    assert words in done.stderr
    assert "-o " in done.stderr
    assert sent(api) == before


def test_another_key_is_refused_with_6_until_it_is_said_to_replace_the_first(simulator, bulkgrok, source):
    api = simulator()
    assert bulkgrok("run", source, "--base-url", api.base_url).returncode == 0
    other = {"XAI_API_KEY": "xai-another-key"}
    before = sent(api)
    done = bulkgrok("run", source, "--base-url", api.base_url, env=other)
    assert done.returncode == 6
    assert "--new-key" in done.stderr
    assert sent(api) == before
    assert bulkgrok("run", source, "--base-url", api.base_url, "--new-key", env=other).returncode == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:4], lines[4].replace("4", "9"), *lines[5:]],
        lambda lines: [*lines, '{"prompt": "one more"}'],
        lambda lines: lines[:-1],
        lambda lines: [lines[1], lines[0], *lines[2:]],
    ],
    ids=["one byte", "a row more", "a row less", "other order"],
)
def test_a_changed_input_is_refused_with_6(simulator, bulkgrok, source, change):
    api = simulator()
    assert bulkgrok("run", source, "--base-url", api.base_url).returncode == 0
    before = sent(api)
    source.write_text("\n".join(change(source.read_text().splitlines())) + "\n")
    done = bulkgrok("run", source, "--base-url", api.base_url)
    assert done.returncode == 6
    assert "in.jsonl" in done.stderr
    assert "pays for every row again" in done.stderr
    assert sent(api) == before


def test_a_second_runner_exits_6_and_sends_nothing(simulator, bulkgrok, source):
    api = simulator("--latency", "1.5")
    first = bulkgrok.start("run", source, "--base-url", api.base_url, "--concurrency", 3)
    lock = source.with_name("in.bulkgrok") / "run.lock"
    while not (lock.exists() and held(lock)):
        assert first.poll() is None
        time.sleep(0.01)
    began = time.monotonic()
    second = bulkgrok("run", source, "--base-url", api.base_url, env={"XAI_API_KEY": "xai-second"})
    took = time.monotonic() - began
    assert second.returncode == 6
    assert str(first.pid) in second.stderr
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 130, told
    assert took < 10
    assert api.ledger()["max_in_flight"] <= 3


def held(lock):
    fd = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def test_a_file_of_somebody_else_is_left_alone(tmp_path, simulator, bulkgrok, source):
    api = simulator()
    for name in ("out.jsonl", "out.errors.jsonl"):
        (tmp_path / name).write_text("mine\n")
        done = bulkgrok("run", source, "-o", tmp_path / "out.jsonl", "--base-url", api.base_url)
        assert done.returncode == 2
        assert name in done.stderr
        assert (tmp_path / name).read_text() == "mine\n"
        (tmp_path / name).unlink()
    assert sent(api) == (0, 0)


def test_a_wrong_key_stops_the_run_with_5_and_fails_no_row(simulator, bulkgrok, source, lines):
    api = simulator()
    bad = {"XAI_API_KEY": "bad-key"}
    done = bulkgrok("run", source, "--base-url", api.base_url, "--json", env=bad)
    assert done.returncode == 5
    summary = json.loads(done.stdout)
    assert (summary["failed"], summary["succeeded"]) == (0, 0)
    assert "bad-key" not in done.stdout + done.stderr
    done = bulkgrok("run", source, "--base-url", api.base_url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 12


def test_twenty_rejections_alike_stop_the_run_and_typed_again_each_row_fails(tmp_path, simulator, bulkgrok):
    api = simulator()
    source = tmp_path / "many.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"q {row}"}) + "\n" for row in range(30)))
    command = ("run", source, "--base-url", api.base_url, "--model", "no-such-model", "--json")
    done = bulkgrok(*command)
    assert done.returncode == 5, done.stderr
    assert json.loads(done.stdout)["failed"] == 0
    done = bulkgrok(*command)
    assert done.returncode == 3
    assert json.loads(done.stdout)["failed_by_code"] == {"rejected": 30}
    done = bulkgrok("run", source, "--base-url", api.base_url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 30


def test_an_api_that_is_not_there_ends_with_7(bulkgrok, source):
    done = bulkgrok("run", source, "--base-url", "http://127.0.0.1:1/v1", "--max-outage", "3s")
    assert done.returncode == 7, done.stderr
    assert "Nothing was lost" in done.stderr


def test_a_template_that_fails_everywhere_is_a_usage_error(simulator, bulkgrok, source):
    api = simulator()
    done = bulkgrok("run", source, "--base-url", api.base_url, "--prompt", "{{ questoin }}")
    assert done.returncode == 2
    assert "questoin" in done.stderr
    assert ". Nothing was sent." in done.stderr
    assert sent(api) == (0, 0)
    assert bulkgrok("run", source, "--base-url", api.base_url, "--prompt", "{{ prompt }}").returncode == 0


def test_an_input_without_rows_is_done_and_says_so(tmp_path, bulkgrok):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    done = bulkgrok("run", empty, "--simulate")
    assert done.returncode == 0, done.stderr
    assert f"note: {empty} holds no rows" in done.stderr


def test_strict_refuses_an_input_with_a_bad_row(tmp_path, simulator, bulkgrok, source):
    api = simulator()
    with source.open("a") as file:
        file.write("not json\n")
    done = bulkgrok("run", source, "--base-url", api.base_url, "--strict")
    assert done.returncode == 2
    assert "13" in done.stderr
    assert sent(api) == (0, 0)


def test_a_drained_run_ends_with_143_and_goes_on_where_it_stopped(simulator, bulkgrok, source, lines):
    api = simulator("--latency", "0.5")
    command = ("run", source, "--base-url", api.base_url, "--concurrency", 2, "--json")
    first = bulkgrok.start(*command)
    while api.ledger()["posts"] < 3:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    told, _ = first.communicate(timeout=60)
    assert first.returncode == 143
    summary = json.loads(told)
    assert summary["in_doubt"] == 0
    assert summary["succeeded"] == api.ledger()["posts"]
    assert bulkgrok(*command).returncode == 0
    assert api.ledger()["posts"] == 12
    assert sorted(found["row"] for found in lines(source.with_name("in.results.jsonl"))) == list(range(12))
