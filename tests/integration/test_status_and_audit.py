"""Looking at a run on disk: going on, killed, finished, or not there at all."""

import asyncio
import csv
import dataclasses
import fcntl
import io
import json
import os
import shutil
import stat
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest

import bulkgrok
from bulkgrok.checkpoint import Committer, open_store
from bulkgrok.cli import main
from bulkgrok.core.lifecycle import Accept, Doubt, Fail, Lose, Redeem, Refuse, Retry, Submit, Succeed
from bulkgrok.core.model import Code, Entry, Fingerprint, Item, Mode, Progress, RowError, RunIdentity
from bulkgrok.core.retry import RowPolicy
from bulkgrok.engine.recovery import recover
from bulkgrok.telemetry.wording import money

AT = 1_790_000_000.0


def item(row, mode=Mode.DEFERRED, custom_id=None):
    return Item(
        row=row,
        line=row + 1,
        custom_id=custom_id or str(row),
        kind="chat",
        mode=mode,
        model="grok-4.3",
        stream=False,
        body=b"{}",
        digest=row.to_bytes(16, "big"),
        max_usd=0.5,
        tokens=10,
    )


def submit(row, attempt=1, **changes):
    return Submit(item=item(row, **changes), attempt=attempt, at=AT)


def identity(output):
    return RunIdentity(
        run_id=str(output),
        input_name="in.jsonl",
        input=Fingerprint(size=1, sha256="0" * 64),
        settings={},
        endpoint="https://api.x.ai/v1",
        key_salt="",
        key_hash="",
        simulated=False,
        created_at=AT,
    )


def moved(folder, output, **changes):
    """A run whose directory is not named after its files."""
    folder.mkdir(parents=True)
    store = open_store(folder / "checkpoint.db")
    store.open()
    store.bind(dataclasses.replace(identity(output), **changes))
    store.close()
    return folder


@pytest.fixture
def run_dir(tmp_path):
    """A killed run of six rows: answered, failed, accepted, in doubt twice, lost, and never begun."""
    folder = tmp_path / "in.bulkgrok"
    folder.mkdir()
    store = open_store(folder / "checkpoint.db")
    store.open()
    store.bind(identity(tmp_path / "in.results.jsonl"))
    store.note("rows", 6)
    store.apply([
        submit(0, mode=Mode.DIRECT),
        Redeem(row=0, at=AT + 1, status_code=200, raw=b"{}", request_id="r"),
        Succeed(row=0, model="grok-4.3", cost_usd=0.25, usage=b"{}", tokens=(10, 5, 0, 0)),
        submit(1),
        Refuse(row=1, at=AT, counted=True, entry=Entry.POSSIBLE_FEE, reason="refused"),
        Fail(
            row=1, at=AT, error=RowError(code=Code.MODERATED, message="no"), custom_id="1", kind="chat",
            mode=Mode.DEFERRED, model="grok-4.3", digest=bytes(16),
        ),
        submit(2),
        Accept(row=2, request_id="id-2", at=AT, deadline_at=time.time() + 3030),
        submit(3, custom_id="evil\x1b[2J"),
        Doubt(row=3, at=AT, reason="dropped \x1b[31m"),
        submit(3, attempt=2, custom_id="evil\x1b[2J"),
        submit(4),
        Accept(row=4, request_id="id-4", at=AT, deadline_at=AT + 86_400),
        Lose(row=4, at=AT, reason="404 twice"),
    ])  # fmt: skip
    store.close()
    return folder


def told(capsysbinary, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsysbinary.readouterr().out.decode()


def test_status_of_a_killed_run_counts_from_its_checkpoint(run_dir, capsysbinary):
    code, out = told(capsysbinary, "status", run_dir, "--json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["rows"], shown["succeeded"], shown["failed"], shown["outstanding"], shown["pending"]) == (
        6,
        1,
        1,
        1,
        3,
    )
    assert (shown["in_doubt"], shown["lost"], shown["cost_usd"]) == (2, 1, 0.25)
    assert shown["failed_by_code"] == {"moderated": 1}
    assert shown["output"] == str(run_dir.parent / "in.results.jsonl")
    assert shown["errors"] == str(run_dir.parent / "in.errors.jsonl")
    assert shown["run_dir"] == str(run_dir)
    assert shown["exit_code"] is None


@pytest.mark.parametrize(
    "name", ["in.jsonl", "in.jsonl.gz", "in.results.jsonl", "in.bulkgrok", "in.bulkgrok/checkpoint.db"]
)
def test_a_run_is_found_by_any_of_its_names(run_dir, capsysbinary, name):
    code, out = told(capsysbinary, "status", run_dir.parent / name, "--json")
    assert (code, json.loads(out)["rows"]) == (0, 6)


def test_status_in_words_tells_what_waits_the_next_deadline_and_what_to_type(run_dir, capsysbinary):
    code, out = told(capsysbinary, "status", run_dir)
    assert code == 0
    for part in (
        "2 of 6 rows done",
        "no runner",
        "1 moderated",
        "1 accepted",
        "3 still to be sent",
        "50 min",
        "$0.25",
        "next:",
    ):
        assert part in out


def alive(run_dir, **progress):
    status = {
        "pid": os.getpid(),
        "state": "running",
        "updated_at": time.time(),
        "progress": {"state": "running", "in_flight": 7, "started_at": time.time() - 10, "succeeded": 1, "failed": 1}
        | progress,
        "report": None,
    }
    (run_dir / "status.json").write_text(json.dumps(status), encoding="utf-8")
    lock = os.open(run_dir / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_a_runner_that_is_alive_is_named_and_its_open_requests_are_not_in_doubt(run_dir, capsysbinary):
    lock = alive(run_dir)
    try:
        _, words = told(capsysbinary, "status", run_dir)
        _, facts = told(capsysbinary, "status", run_dir, "--json")
        _, account = told(capsysbinary, "audit", run_dir, "--json")
    finally:
        os.close(lock)
    assert f"pid {os.getpid()}" in words
    assert "7 requests in flight" in words
    assert json.loads(facts)["in_doubt"] == 1
    assert len(json.loads(account)["in_doubt"]) == 1


@pytest.mark.parametrize(
    "rubbish", [b"", b"\xff", b"[]", b'{"pid": "x"}', b'{"pid": -1}', b'{"pid": 1e99, "progress": 3}', b"[" * 99_999]
)
def test_a_broken_status_file_is_as_good_as_none(run_dir, capsysbinary, rubbish):
    (run_dir / "status.json").write_bytes(rubbish)
    code, out = told(capsysbinary, "status", run_dir, "--json")
    assert (code, json.loads(out)["rows"]) == (0, 6)


def test_looking_changes_nothing(run_dir, capsysbinary):
    (run_dir / "run.lock").touch()
    before = {file.name: file.read_bytes() for file in run_dir.iterdir() if not file.name.endswith("-shm")}
    told(capsysbinary, "status", run_dir)
    told(capsysbinary, "audit", run_dir)
    after = {file.name: file.read_bytes() for file in run_dir.iterdir() if not file.name.endswith("-shm")}
    assert {name: data for name, data in after.items() if data} == {name: data for name, data in before.items() if data}


def test_audit_lists_every_request_that_may_have_been_billed(run_dir, capsysbinary):
    code, out = told(capsysbinary, "audit", run_dir, "--json")
    account = json.loads(out)
    assert code == 0
    assert (account["billed"], account["cost_usd"]) == (3, 0.25)
    assert [(entry["row"], entry["attempt"]) for entry in account["in_doubt"]] == [(3, 1), (3, 2)]
    assert [entry["row"] for entry in account["lost"]] == [4]
    assert [entry["row"] for entry in account["possible_fees"]] == [1]
    assert (account["expired"], account["unexplained"]) == ([], [])
    assert set(account["lost"][0]) == {
        "row", "custom_id", "attempt", "at", "reason", "max_usd", "cost_usd", "request_id"
    }  # fmt: skip
    assert account["lost"][0]["request_id"] == "id-4"


def records(out):
    return list(csv.DictReader(io.StringIO(out)))


def test_audit_as_csv_holds_what_the_other_forms_hold(run_dir, capsysbinary):
    _, words = told(capsysbinary, "audit", run_dir)
    _, as_json = told(capsysbinary, "audit", run_dir, "--json")
    code, out = told(capsysbinary, "audit", run_dir, "--csv")
    account, found = json.loads(as_json), records(out)
    assert code == 0
    assert out.splitlines()[0] == "list,row,custom_id,attempt,at,max_usd,cost_usd,request_id,reason"
    assert len(out.splitlines()) == 1 + len(found)
    for name in account["max_usd"]:
        lines = [record for record in found if record["list"] == name]
        assert [(int(line["row"]), int(line["attempt"]), float(line["max_usd"])) for line in lines] == [
            (entry["row"], entry["attempt"], entry["max_usd"]) for entry in account[name]
        ]
        assert sum(float(line["max_usd"]) for line in lines) == account["max_usd"][name]
        for line, entry in zip(lines, account[name], strict=True):
            assert datetime.fromisoformat(line["at"]).timestamp() == entry["at"]
        if lines:
            heading = f"{name.replace('_', ' ')}: {len(lines)} request{'s' * (len(lines) > 1)}, "
            assert f"\n{heading}{money(account['max_usd'][name])} at most" in words
    assert [record["request_id"] for record in found if record["list"] == "lost"] == ["id-4"]


def test_audit_as_csv_tells_cost_and_bound_apart(run_dir, capsysbinary):
    store = open_store(run_dir / "checkpoint.db")
    store.open()
    bad = RowError(code=Code.INVALID_RESPONSE, message="no")
    names = {"custom_id": "5", "kind": "chat", "mode": Mode.DIRECT, "model": "m", "digest": b""}
    store.apply([
        submit(5, mode=Mode.DIRECT),
        Redeem(row=5, at=AT, status_code=200, raw=b"?", request_id=None),
        Fail(row=5, at=AT, error=bad, cost_usd=1e-7, **names),
        Retry(row=5, at=AT),
        submit(5, attempt=2),
        Redeem(row=5, at=AT, status_code=200, raw=b"?", request_id=None),
        Fail(row=5, at=AT, error=bad, **names),
        Retry(row=5, at=AT),
    ])  # fmt: skip
    store.close()
    _, out = told(capsysbinary, "audit", run_dir, "--csv")
    replaced = [record for record in records(out) if record["list"] == "replaced"]
    assert [(record["max_usd"], record["cost_usd"]) for record in replaced] == [("0.0000001", "0.0000001"), ("0.5", "")]
    _, out = told(capsysbinary, "audit", run_dir, "--json")
    account = json.loads(out)
    assert [entry["max_usd"] for entry in account["replaced"]] == [1e-7, 0.5]
    assert account["max_usd"]["replaced"] == 0.5000001


@pytest.mark.parametrize(
    "hostile",
    [
        "=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1+1", "a;=cmd|' /C calc'!A0", "a;\t-1", "\uff1d1+1",
        '"=1+1', "a\nb", 'a,"b"', "\x1b[2J", "\u202e=1", "\ud800", "=" * 50_000,
    ],
)  # fmt: skip
def test_audit_as_csv_is_no_formula_no_command_and_one_line_an_entry(tmp_path, capsysbinary, hostile):
    folder = moved(tmp_path / "in.bulkgrok", tmp_path / "in.results.jsonl")
    store = open_store(folder / "checkpoint.db")
    store.open()
    store.apply([submit(0, custom_id=hostile), Doubt(row=0, at=AT, reason=hostile)])
    store.close()
    code, out = told(capsysbinary, "audit", folder, "--csv")
    assert code == 0
    assert len(out.removesuffix("\n").split("\n")) == 2
    assert out.removesuffix("\n").replace("\n", "").isprintable()
    (record,) = records(out)
    assert set(record) == {"list", "row", "custom_id", "attempt", "at", "max_usd", "cost_usd", "request_id", "reason"}
    for text in (record["custom_id"], record["reason"]):
        assert len(text) < 32_767
        for part in (text, *text.split(";")):
            assert part.lstrip()[:1] not in {"=", "+", "-", "@", "\uff1d"}


def test_what_was_in_flight_at_a_kill_reads_the_same_before_and_after_the_next_start(run_dir, capsysbinary):
    async def next_start():
        store = open_store(run_dir / "checkpoint.db")
        committer = Committer(store)
        await committer.start()
        policy = RowPolicy(max_attempts=8, resubmit_doubtful=True, resubmit_lost=True)
        assert await recover(committer, store, policy=policy, at=AT + 86_400) == 1
        await committer.close()

    _, before = told(capsysbinary, "audit", run_dir, "--csv")
    asyncio.run(next_start())
    _, after = told(capsysbinary, "audit", run_dir, "--csv")
    assert sorted(records(after), key=str) == sorted(records(before), key=str)


def test_audit_in_two_forms_at_once_is_refused(run_dir, capsysbinary):
    assert main(["audit", str(run_dir), "--json", "--csv"]) == 2


def test_audit_as_csv_of_a_run_without_entries_is_its_heading(tmp_path, capsysbinary):
    folder = moved(tmp_path / "in.bulkgrok", tmp_path / "in.results.jsonl")
    _, out = told(capsysbinary, "audit", folder, "--csv")
    assert out == "list,row,custom_id,attempt,at,max_usd,cost_usd,request_id,reason\n"


def test_audit_in_words_explains_itself_and_steers_no_terminal(run_dir, capsysbinary):
    _, out = told(capsysbinary, "audit", run_dir)
    assert "in doubt: 2 requests, $1.00 at most" in out
    assert "besides: $2.00 at most, for requests whose price the API did not tell" in out
    assert "on its way: $0.5000 at most" in out
    assert "Every request is explained." in out
    assert "\x1b" not in out


@pytest.mark.parametrize("command", ["status", "audit"])
def test_where_there_is_no_run_the_code_is_2(tmp_path, capsysbinary, command):
    (tmp_path / "in.bulkgrok").mkdir()
    for place in (tmp_path, tmp_path / "in.jsonl", tmp_path / "in.bulkgrok", tmp_path / "none" / "none"):
        code, out = told(capsysbinary, command, place)
        assert (code, out) == (2, "")


@pytest.mark.parametrize("command", ["status", "audit"])
def test_a_checkpoint_of_rubbish_is_told_in_words(tmp_path, capsysbinary, command):
    folder = tmp_path / "in.bulkgrok"
    folder.mkdir()
    (folder / "checkpoint.db").write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    code = main([command, str(folder)])
    shown = capsysbinary.readouterr()
    assert code in {2, 6, 8}
    assert b"Traceback" not in shown.err
    assert b"bug" not in shown.err


def test_status_reads_a_run_whose_folder_may_not_be_written(run_dir, capsysbinary):
    run_dir.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        code, out = told(capsysbinary, "status", run_dir, "--json")
    finally:
        run_dir.chmod(stat.S_IRWXU)
    assert (code, json.loads(out)["rows"]) == (0, 6)


def test_status_of_a_finished_run_gives_its_exit_code(run_dir, capsysbinary):
    status = {
        "pid": 2**22 + 1,
        "updated_at": AT,
        "progress": {},
        "report": {"exit_code": 130, "duration_s": 3.5, "errors": "e"},
    }
    (run_dir / "status.json").write_text(json.dumps(status), encoding="utf-8")
    _, out = told(capsysbinary, "status", run_dir, "--json")
    shown = json.loads(out)
    assert (shown["exit_code"], shown["duration_s"], shown["errors"]) == (130, 3.5, "e")


def ended(run_dir, **notes):
    store = open_store(run_dir / "checkpoint.db")
    store.open()
    for name, value in notes.items():
        store.note(name, value)
    store.close()


def test_status_repeats_why_the_last_start_stopped(run_dir, capsysbinary):
    stopped = {"message": "The key is not accepted.", "hint": "Set XAI_API_KEY.", "exit_code": 5}
    ended(run_dir, report={"exit_code": 5, "rows": 6}, stopped=stopped)
    _, out = told(capsysbinary, "status", run_dir)
    assert "stopped: The key is not accepted." in out
    assert out.endswith("next: Set XAI_API_KEY.\n")
    ended(run_dir, report={"exit_code": 130, "rows": 6})
    assert "stopped:" not in told(capsysbinary, "status", run_dir)[1]


@pytest.mark.parametrize("rows", [None, 6])
def test_status_after_a_limit_counts_the_rows_that_it_covered(tmp_path, capsysbinary, rows):
    folder = moved(tmp_path / "in.bulkgrok", tmp_path / "in.results.jsonl", simulated=True)
    store = open_store(folder / "checkpoint.db")
    store.open()
    store.apply([
        submit(0, mode=Mode.DIRECT),
        Redeem(row=0, at=AT + 1, status_code=200, raw=b"{}", request_id="r"),
        Succeed(row=0, model="grok-4.3", cost_usd=0.25, usage=b"{}", tokens=(10, 5, 0, 0)),
    ])  # fmt: skip
    store.close()
    ended(folder, rows=rows)
    _, out = told(capsysbinary, "status", folder)
    assert out.startswith("1 row done, the rest not yet counted;" if rows is None else "1 of 6 rows done")
    ended(folder, report={"exit_code": 0, "rows": 1})
    _, out = told(capsysbinary, "status", folder)
    assert out.startswith("1 of the first 1 row (--limit) done; no runner; the last one ended with exit code 0")
    assert "next:" not in out
    assert "$0.2500 (simulated: nothing was paid)" in out
    assert "(simulated: nothing was paid)" in told(capsysbinary, "audit", folder)[1]


def test_progress_fields_are_those_that_status_reads():
    assert {"state", "note", "in_flight", "started_at", "succeeded", "failed", "done_before"} <= {
        each.name for each in dataclasses.fields(Progress)
    }


@pytest.fixture
def strangers_folder():
    """A run directory that this user may not enter; root becomes nobody for as long."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "in.bulkgrok").mkdir(mode=0o000)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)
    yield folder
    os.seteuid(before)
    (folder / "in.bulkgrok").chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["in.jsonl", "in.bulkgrok"])
def test_a_run_of_another_user_is_told_in_words(strangers_folder, capsysbinary, name):
    code = main(["status", str(strangers_folder / name)])
    shown = capsysbinary.readouterr()
    assert (code, shown.out) == (2, b"")
    assert b"may not be read by this user" in shown.err


def test_a_neighbour_that_may_not_be_read_hides_no_run(strangers_folder, capsysbinary):
    code = main(["status", str(strangers_folder / "other.jsonl")])
    assert (code, b"There is no run" in capsysbinary.readouterr().err) == (2, True)


def test_a_run_elsewhere_is_found_by_the_files_that_its_checkpoint_names(tmp_path, capsysbinary):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.jsonl").write_bytes(b"x")
    moved(tmp_path / "mine.bulkgrok", tmp_path / "out.parquet", input_name="data/in.jsonl")
    for name in ("data/in.jsonl", "out.parquet"):
        code, out = told(capsysbinary, "status", tmp_path / name, "--json")
        assert (code, json.loads(out)["run_dir"]) == (0, str(tmp_path / "mine.bulkgrok"))
    (tmp_path / "data" / "in.jsonl").write_bytes(b"another size")
    assert told(capsysbinary, "status", tmp_path / "data" / "in.jsonl")[0] == 2


def test_of_several_runs_of_an_input_the_user_chooses(tmp_path, capsysbinary):
    (tmp_path / "in.jsonl").write_bytes(b"x")
    one = moved(tmp_path / "one.bulkgrok", tmp_path / "one.jsonl")
    two = moved(tmp_path / "out" / "two.bulkgrok", tmp_path / "out" / "two.jsonl")
    code = main(["status", str(tmp_path / "in.jsonl")])
    err = capsysbinary.readouterr().err.decode()
    assert code == 2
    assert str(one) in err
    assert str(two) in err


def files(capsysbinary, run):
    """Return (results, errors, run directory) as `status` names them."""
    code, out = told(capsysbinary, "status", run, "--json")
    shown = json.loads(out)
    assert code == 0
    return shown["output"], shown["errors"], shown["run_dir"]


@pytest.mark.parametrize(
    ("output", "results", "errors", "run_dir"),
    [
        (None, "in.results.jsonl", "in.errors.jsonl", "in.bulkgrok"),
        ("o.jsonl", "o.jsonl", "o.errors.jsonl", "o.bulkgrok"),
        ("parts/", "parts", "parts/_errors.jsonl", "parts.bulkgrok"),
    ],
)
def test_status_of_a_moved_run_names_its_files_where_they_are_now(
    tmp_path, api, capsysbinary, output, results, errors, run_dir
):
    api()
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "in.jsonl").write_text('{"prompt": "one"}\nrubbish\n')
    bulkgrok.run(here / "in.jsonl", **({} if output is None else {"output": f"{here}/{output}"}))
    assert files(capsysbinary, here / run_dir) == tuple(f"{here}/{name}" for name in (results, errors, run_dir))
    here.rename(there)
    assert files(capsysbinary, there / run_dir) == tuple(f"{there}/{name}" for name in (results, errors, run_dir))
    assert f"first bad row: {there}/in.jsonl, line 2: " in told(capsysbinary, "status", there / run_dir)[1]


def test_status_of_a_moved_run_that_never_ended_names_its_files_where_they_will_be(tmp_path, capsysbinary):
    here, there = tmp_path / "here", tmp_path / "there"
    folder = moved(here / "in.bulkgrok", here / "in.results.jsonl")
    begun = {"format": "jsonl", "run_dir": str(folder), "input": str(here / "in.jsonl")}
    ended(folder, places=begun)
    here.rename(there)
    named = (f"{there}/in.results.jsonl", f"{there}/in.errors.jsonl", f"{there}/in.bulkgrok")
    assert files(capsysbinary, there / "in.bulkgrok") == named
    ended(there / "in.bulkgrok", places=begun | {"run_dir": named[2], "input": str(there / "in.jsonl")})
    assert files(capsysbinary, there / "in.bulkgrok") == named, "it goes on where it is now"


def test_status_of_a_run_whose_directory_alone_was_moved_names_its_files_where_they_stayed(tmp_path, api, capsysbinary):
    api()
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\nrubbish\n')
    bulkgrok.run(tmp_path / "in.jsonl")
    (tmp_path / "kept").mkdir()
    (tmp_path / "in.bulkgrok").rename(tmp_path / "kept" / "in.bulkgrok")
    results, errors, run_dir = files(capsysbinary, tmp_path / "kept" / "in.bulkgrok")
    assert (results, errors) == (str(tmp_path / "in.results.jsonl"), str(tmp_path / "in.errors.jsonl"))
    assert run_dir == str(tmp_path / "kept" / "in.bulkgrok")
