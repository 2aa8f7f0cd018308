"""Runs that any version began are read and finished by this one. See fixtures/checkpoints/README.md."""

import asyncio
import json
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest

from bulkgrok.checkpoint import read_store
from bulkgrok.checkpoint.connecting import VERSION
from bulkgrok.cli import main
from bulkgrok.config import from_keywords
from bulkgrok.engine.run import Engine
from bulkgrok.engine.surroundings import Surroundings
from bulkgrok.simulator.journal import Journal
from bulkgrok.simulator.settings import SimulatorSettings
from bulkgrok.simulator.world import World

FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoints"
VERSIONS = sorted((found.name for found in FIXTURES.glob("v*")), key=lambda name: int(name[1:]))
OLDER = [name for name in VERSIONS if int(name[1:]) < VERSION]
ENDPOINT = "http://127.0.0.1:18790/v1"
"""Where the finished run's simulator was; nobody is there now, and nobody is asked."""
TICKS = 10_000_000_000


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def run(version, tmp_path, monkeypatch):
    """Return a function that unpacks a run of a version and returns its folder."""
    monkeypatch.setenv("XAI_API_KEY", "xai-fixture")

    def unpack(name):
        with tarfile.open(FIXTURES / version / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
        return tmp_path / name

    return unpack


def lines(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def told(folder):
    return json.loads((folder / "told.json").read_bytes())


def files(folder):
    return {found: found.read_bytes() for found in folder.rglob("*") if found.is_file() and found.suffix != ".db-shm"}


def as_then(now, then):
    """Return what an audit tells now, as far as it was told then."""
    if isinstance(then, dict):
        return {key: as_then(now[key], known) for key, known in then.items()}
    if isinstance(then, list):
        return [as_then(*both) for both in zip(now, then, strict=True)]
    return now


def printed(capsysbinary, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, json.loads(capsysbinary.readouterr().out)


def version_of(folder):
    store = read_store(folder / "in.bulkgrok" / "checkpoint.db")
    store.close()
    return store.version


@pytest.mark.parametrize("name", ["finished", "killed"])
def test_status_and_audit_of_an_old_run_say_what_they_said_and_change_nothing(run, version, capsysbinary, name):
    folder = run(name)
    before, then = files(folder), told(folder)
    code, account = printed(capsysbinary, "audit", folder / "in.jsonl", "--json")
    assert code == 0
    assert as_then(account, then["audit"]) == then["audit"]
    code, summary = printed(capsysbinary, "status", folder / "in.jsonl", "--json")
    assert code == 0
    assert (summary["succeeded"], summary["failed"]) == (then["states"]["succeeded"], then["states"]["failed"])
    assert summary["outstanding"] == then["states"]["accepted"] + then["states"]["redeemed"]
    assert summary["cost_usd"] == then["audit"]["cost_usd"]
    assert {path: data for path, data in files(folder).items() if path in before} == before
    assert f"v{version_of(folder)}" == version


def test_a_finished_old_run_typed_again_sends_nothing_and_gives_its_code_again(run, capsysbinary):
    folder = run("finished")
    results, errors = (
        sorted((folder / f"in.{name}.jsonl").read_bytes().split(b"\n")) for name in ("results", "errors")
    )
    (folder / "in.results.jsonl").unlink()
    code, summary = printed(
        capsysbinary, "run", folder / "in.jsonl", "--base-url", ENDPOINT, "--progress", "none", "--json"
    )
    assert (code, summary["exit_code"], version_of(folder)) == (3, 3, VERSION)
    assert sorted((folder / "in.results.jsonl").read_bytes().split(b"\n")) == results
    assert sorted((folder / "in.errors.jsonl").read_bytes().split(b"\n")) == errors
    _, account = printed(capsysbinary, "audit", folder / "in.jsonl", "--json")
    assert as_then(account, told(folder)["audit"]) == told(folder)["audit"]


def test_what_a_finished_old_run_may_have_spent_covers_what_it_was_billed(run):
    folder = run("finished")
    ledger = json.loads((folder / "ledger.json").read_bytes())
    store = read_store(folder / "in.bulkgrok" / "checkpoint.db")
    money = store.money()
    store.close()
    assert money.paid <= round(ledger["usd"] * TICKS) <= money.spent
    assert money.on_its_way == 0


@pytest.mark.parametrize("version", OLDER)
@pytest.mark.parametrize("flags", [("--model", "grok-4.5"), ("--param", "temperature=1")])
def test_an_old_run_that_is_refused_stays_as_it_was(run, capsysbinary, flags):
    folder = run("finished")
    before = files(folder)
    command = ("run", folder / "in.jsonl", "--base-url", ENDPOINT, "--progress", "none", *flags)
    assert main([str(part) for part in command]) == 6
    assert b"differ" in capsysbinary.readouterr().err
    assert version_of(folder) < VERSION
    after = files(folder)
    checkpoint = folder / "in.bulkgrok" / "checkpoint.db"
    assert after[checkpoint] == before[checkpoint]
    assert not list(folder.rglob("*backup*"))


@pytest.mark.parametrize("version", ["v1"])  # whose pages carry no checksums, so that bytes may be changed
def test_a_run_of_a_newer_version_is_refused_with_its_file_untouched(run, capsysbinary):
    folder = run("finished")
    checkpoint = folder / "in.bulkgrok" / "checkpoint.db"
    data = bytearray(checkpoint.read_bytes())
    data[60:64] = (VERSION + 1).to_bytes(4, "big")  # user_version: sqlite.org/fileformat.html
    checkpoint.write_bytes(data)
    for command in (
        ("run", folder / "in.jsonl", "--base-url", ENDPOINT),
        ("status", folder / "in.jsonl"),
        ("audit", folder / "in.jsonl"),
    ):
        assert main([str(part) for part in command]) == 6
        assert f"version {VERSION + 1} of a newer bulkgrok".encode() in capsysbinary.readouterr().err
    assert checkpoint.read_bytes() == data


class Later:
    """A clock that is days ahead: the run was killed long ago."""

    def __init__(self, days):
        self._ahead_s = days * 86_400.0

    def wall(self):
        return time.time() + self._ahead_s

    def monotonic(self):
        return asyncio.get_running_loop().time()


def records(path):
    """What a simulator wrote down."""
    journal = Journal(path)
    try:
        return journal.open()
    finally:
        journal.close()


def put_back(path, *, behind_s):
    """Let the simulator go on when the run was killed; its clock says what is over, not the runner's."""
    accepted = [record["accepted_at"] for record in records(path) if record["t"] == "job"]
    journal = Journal(path)
    journal.open()
    journal.append({"t": "life", "generation": 0, "skew_s": max(accepted) + behind_s - time.time()})
    journal.close()


def world_of(path):
    world = World(SimulatorSettings())
    world.restore(record for record in records(path) if record["t"] != "ports")
    return world


@pytest.mark.parametrize("days", [0, 400])
def test_a_killed_old_run_is_resumed_to_its_end_and_nothing_is_sent_twice_but_what_is_in_doubt(run, days):
    folder = run("killed")
    journal, rows = folder / "in.bulkgrok" / "simulator.jsonl", lines(folder / "in.jsonl")
    asked_before = Counter(record["t"] for record in records(journal))
    answered_before = {line["row"]: line for line in lines(folder / "in.results.jsonl")}
    put_back(journal, behind_s=5.0)
    config = from_keywords(folder / "in.jsonl", simulate=True, concurrency=8)
    engine = Engine(config, events=lambda name, **fields: None, surroundings=Surroundings(clock=Later(days)))
    report = asyncio.run(engine.run())
    assert (report.exit_code, report.succeeded, report.failed, report.rows) == (0, len(rows), 0, len(rows))
    results = {line["row"]: line for line in lines(folder / "in.results.jsonl")}
    assert (
        sorted(results) == list(range(len(rows))) == sorted(line["row"] for line in lines(folder / "in.results.jsonl"))
    )
    assert {row: results[row]["response"] for row in answered_before} == {
        row: line["response"] for row, line in answered_before.items()
    }
    for line in results.values():
        for asset in line["bulkgrok"]["assets"]:
            assert (folder / asset["path"]).stat().st_size == asset["bytes"]

    (doubt,) = told(folder)["audit"]["in_doubt"]
    ledger = world_of(journal).ledger
    bodies = Counter(entry.marker for entry in ledger.jobs.values())
    twice = ledger.accepted - len(rows)
    assert twice in {0, 1}  # the request in doubt reached the API, or it did not
    assert bodies.total() - len(bodies) == (twice if "deferred" in rows[doubt["row"]] else 0)
    assert ledger.deliveries_max == 1
    assert ledger.gets_after_consumption == 0
    assert Counter(record["t"] for record in records(journal))["consumed"] > asked_before["consumed"]

    store = read_store(folder / "in.bulkgrok" / "checkpoint.db")
    assert [(entry.row, entry.attempt) for entry in store.ledger()] == [(doubt["row"], doubt["attempt"])]
    assert store.unexplained() == []
    assert store.totals() == store.recount()
    paid, spent = store.money().paid, store.money().spent
    store.close()
    again = round(results[doubt["row"]]["bulkgrok"]["cost_usd"] * TICKS) * twice
    assert ledger.ticks - paid - again == 0
    assert spent - paid == round(doubt["max_usd"] * TICKS)


def test_a_simulated_old_run_is_replaced_with_all_that_was_kept_of_it(run):
    folder = run("killed")
    (folder / "in.jsonl").write_text('{"prompt": 7}\n', encoding="utf-8")
    assert main(["run", str(folder / "in.jsonl"), "--base-url", ENDPOINT, "--progress", "none"]) == 3
    assert version_of(folder) == VERSION
    assert not list(folder.rglob("*backup*"))
