"""The run's log."""

import json
import stat
from pathlib import Path

import pytest
import structlog

from bulkgrok.core.secret import Secret
from bulkgrok.telemetry.logging import EventLog, level_of
from bulkgrok.telemetry.redaction import Redaction

KEY = "xai-0123456789abcdefghijABCDEFGHIJ"


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_an_event_is_one_json_line_readable_by_its_owner_only(tmp_path):
    log = EventLog(tmp_path / "log.jsonl")
    log("run.started", rows=3, mode="direct")
    log.close()
    [line] = lines(tmp_path / "log.jsonl")
    assert line["event"] == "run.started"
    assert (line["level"], line["rows"], line["mode"]) == ("info", 3, "direct")
    assert line["at"].endswith("Z")
    assert stat.S_IMODE((tmp_path / "log.jsonl").stat().st_mode) == 0o600


def test_the_level_of_an_event_follows_from_its_name():
    assert [level_of(name) for name in ("item.succeeded", "item.failed", "run.started", "limiter.paused")] == [
        10,
        10,
        20,
        20,
    ]
    assert [level_of(name) for name in ("item.lost", "item.in_doubt", "store.failed", "run.stopped")] == [30] * 4


@pytest.mark.parametrize(("level", "kept"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_events_below_the_level_are_dropped(tmp_path, level, kept):
    log = EventLog(tmp_path / "log.jsonl", level=level)
    for name in ("item.succeeded", "run.started", "item.lost"):
        log(name, row=1)
    log.close()
    assert len(lines(tmp_path / "log.jsonl")) == kept if kept else not (tmp_path / "log.jsonl").exists()


def test_prompts_and_answers_are_never_logged(tmp_path):
    log = EventLog(tmp_path / "log.jsonl")
    log("run.odd", prompt="my question", body=b"my answer", messages=["x"], content="c", at=5, level="x", timestamp=1)
    log.close()
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert "my question" not in text
    assert "my answer" not in text


def test_the_key_is_in_no_field_name_value_nesting_or_traceback(tmp_path):
    log = EventLog(tmp_path / "log.jsonl", redact=Redaction([Secret("s3cret-key")]))
    log("run.odd", a="s3cret-key", b={"c": ["x s3cret-key y"]}, d=Path("/tmp/s3cret-key"), **{"s3cret-key": 1}, e=KEY)
    error = RuntimeError(f"Bearer s3cret-key {KEY}")
    assert log.crashed(error)
    log.close()
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert "s3cret-key" not in text
    assert KEY not in text
    assert "RuntimeError" in text


def test_nothing_is_written_before_the_run_directory_exists_and_nothing_is_missing_then(tmp_path):
    log = EventLog(tmp_path / "run" / "log.jsonl")
    log("run.starting")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    log("run.started")
    log.close()
    assert [line["event"] for line in lines(tmp_path / "run" / "log.jsonl")] == ["run.starting", "run.started"]


def test_a_run_that_never_got_a_directory_leaves_none(tmp_path):
    log = EventLog(tmp_path / "run" / "log.jsonl")
    log("run.refused")
    assert not log.crashed(ValueError("x"))
    log.close()
    assert not (tmp_path / "run").exists()


def test_a_full_disk_stops_the_log_and_nothing_else():
    log = EventLog(Path("/dev/full"))
    log("run.started")
    log("run.finished")
    assert log.broken == "No space left on device"
    log.close()


def test_a_second_start_appends(tmp_path):
    for _ in range(2):
        log = EventLog(tmp_path / "log.jsonl")
        log("run.started")
        log.close()
    assert len(lines(tmp_path / "log.jsonl")) == 2


def test_odd_values_do_not_raise(tmp_path):
    log = EventLog(tmp_path / "log.jsonl")
    log("run.odd", a=object(), b=float("nan"), c={1: 2}, d=10**30, e="\ud800", f="\x1b[2J\n")
    log("run.next")
    log.close()
    assert len((tmp_path / "log.jsonl").read_bytes().splitlines()) == 2


def test_no_global_logging_is_configured(tmp_path):
    log = EventLog(tmp_path / "log.jsonl")
    log("run.started")
    log.close()
    assert not structlog.is_configured()
