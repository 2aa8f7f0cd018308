"""Files that are removed, replaced or run out while a run is at work: it stops in words, and loses nothing."""

import json
import os
import shutil
import subprocess

import pytest
from harness.command import COMMAND, environment
from harness.judge import judge, read_lines, read_results
from harness.lives import Lives
from harness.places import places
from harness.reconcile import reconcile
from harness.rows import mixed, write

CONCURRENCY = 8


class Working:
    """A run that is at work, and what becomes of it."""

    def __init__(self, folder, api, *, form="lines", prefix=(), checkpoint=None, rows=60):
        self.api, self.rows = api, rows
        self.places = places(form, folder)
        self.source = folder / "in.jsonl"
        write(self.source, mixed(rows))
        self.checkpoint = checkpoint or self.places.run_dir / "checkpoint.db"
        more = () if checkpoint is None else ("--checkpoint", checkpoint)
        self.lives = Lives(
            (
                *COMMAND, "run", self.source, *self.places.flags, "--base-url", api.base_url, "--concurrency",
                CONCURRENCY, "--poll-interval", "0.1", "--rps", 150, "--progress", "none", *more,
            ),
            environ=environment(),
            run_dir=self.places.run_dir,
            log=folder / "said.log",
        )  # fmt: skip
        self.lives.begin(*prefix)

    def after(self, posts):
        """Wait until the API has seen so many POSTs."""
        assert self.lives.wait_for(lambda: self.api.sums()["posts"] >= posts, look_s=0.01, within_s=30)
        return self

    def end(self, *codes):
        """Wait for the end, and demand one of these exit codes."""
        code = self.lives.await_end("drained", within_s=60)
        assert code in codes, (code, self.lives.last_words())
        return self.lives.last_words()

    def goes_on(self):
        """Type the same command again: it must come to its end, and nothing may have been lost or paid twice."""
        self.lives.begin()
        self.end(0)
        audit, ledger = json.loads(self.lives.ask("audit", self.checkpoint, "--json")), self.api.ledger()
        verdict = judge(
            rows=self.rows,
            results=read_results(self.places.output),
            errors=read_lines(self.places.errors),
            base=self.places.base,
            ledger=ledger,
            audit=audit,
            lives=self.lives.lived,
            concurrency=CONCURRENCY,
        )
        left = reconcile(self.source, output=self.places.output, errors=self.places.errors, audit=audit, ledger=ledger)
        assert verdict.wrong + left.wrong == []
        assert (verdict.lost, verdict.in_doubt) == (0, 0), verdict


@pytest.fixture
def working(tmp_path, simulator):
    """Return a function that starts a run and waits until it is well under way."""
    begun = []

    def start(**how):
        api = simulator("--latency=0.02", "--deferred-latency=0.3", "--video-latency=0.3")
        begun.append(Working(tmp_path, api, **how))
        return begun[-1].after(15)

    yield start
    for run in begun:
        run.lives.bury()


@pytest.mark.parametrize("what", ["the run directory", "the checkpoint"])
def test_a_checkpoint_that_is_removed_under_its_runner_is_written_again(working, what):
    run = working()
    if what == "the checkpoint":
        run.checkpoint.unlink()
    else:
        shutil.rmtree(run.places.run_dir, ignore_errors=True)
        while run.places.run_dir.exists():  # what is there again is what the runner made meanwhile
            shutil.rmtree(run.places.run_dir, ignore_errors=True)
    said = run.end(8)
    assert "was removed, moved or replaced" in said
    assert "written again, with everything that was in it" in said
    assert run.checkpoint.stat().st_mode & 0o777 == 0o600
    run.goes_on()


def test_a_run_directory_that_is_moved_away_goes_on_when_it_is_back(working, tmp_path):
    run = working()
    run.places.run_dir.rename(tmp_path / "elsewhere")
    assert "once you have put its files back" in run.end(8)
    assert not run.checkpoint.exists(), "there must not be two of one run"
    (tmp_path / "elsewhere").rename(run.places.run_dir)
    run.goes_on()


def test_a_checkpoint_that_is_replaced_is_not_written_to(working, tmp_path):
    run = working()
    run.checkpoint.rename(tmp_path / "ours")
    run.checkpoint.write_bytes(b"theirs")
    assert "was removed, moved or replaced" in run.end(8)
    assert run.checkpoint.read_bytes() == b"theirs"
    (tmp_path / "ours").rename(run.checkpoint)
    run.goes_on()


def test_a_lock_that_is_removed_still_keeps_a_second_runner_away(working):
    run = working()
    (run.places.run_dir / "run.lock").unlink()
    second = run.lives.second()
    assert (second.exit_code, "Another runner" in second.said) == (6, True), second
    run.end(0)
    run.goes_on()


def test_two_runs_with_one_checkpoint_never_both_act(working, tmp_path):
    run = working(checkpoint=tmp_path / "shared.db")
    other = places("lines", tmp_path / "other")
    second = subprocess.run(
        [
            *COMMAND, "run", run.source, *map(str, other.flags), "--base-url", run.api.base_url, "--checkpoint",
            run.checkpoint, "--progress", "none",
        ],
        env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (second.returncode, "Another runner" in second.stderr) == (6, True), second
    run.end(0)
    run.goes_on()


def test_an_output_that_is_removed_is_built_again(working):
    run = working()
    run.places.output.unlink()
    run.end(8)
    run.goes_on()


def test_a_folder_of_parts_that_is_removed_is_built_again(working):
    run = working(form="parts")
    shutil.rmtree(run.places.output)
    run.end(0, 8)  # 0: it was made again with the next part
    run.goes_on()


@pytest.mark.parametrize("how", ["longer", "shorter"])
def test_an_output_that_is_written_to_by_others_stops_the_run_and_is_mended(working, how):
    run = working()
    assert run.lives.wait_for(lambda: run.places.output.stat().st_size > 1000)
    if how == "longer":
        with run.places.output.open("ab") as file:
            file.write(b'{"not": "ours"}\n')
    else:
        os.truncate(run.places.output, 100)
    assert "changed by someone else" in run.end(8)
    run.goes_on()


def test_an_output_that_is_replaced_is_left_alone_until_it_is_moved_away(working):
    run = working()
    run.places.output.unlink()
    run.places.output.write_bytes(b"theirs\n")
    assert "replaced or changed by someone else" in run.end(8)
    run.lives.begin()
    assert "was not written by this run" in run.end(2)
    assert run.places.output.read_bytes() == b"theirs\n"
    run.places.output.unlink()
    run.goes_on()


def test_an_input_that_is_removed_stops_the_run_and_can_be_put_back(working, tmp_path):
    run = working(rows=200)  # more than are read ahead
    run.source.rename(tmp_path / "elsewhere")
    assert "put out of reach while the run was reading it. What was sent is in the checkpoint" in run.end(6)
    (tmp_path / "elsewhere").rename(run.source)
    run.goes_on()


# Limits of the process


def test_too_few_open_files_are_refused_before_anything_is_sent(tmp_path, simulator):
    api = simulator()
    run = Working(tmp_path, api, prefix=("prlimit", "--nofile=30:30"))
    assert "ulimit -n 72" in run.end(2)
    assert api.sums()["posts"] == 0


def test_a_run_lives_within_the_open_files_it_asks_for_and_raises_the_limit_itself(tmp_path, simulator):
    api = simulator("--latency=0.02", "--deferred-latency=0.3", "--video-latency=0.3")
    run = Working(tmp_path, api, prefix=("prlimit", "--nofile=20:72"))
    run.end(0)
    run.goes_on()


def test_a_file_that_may_not_grow_further_stops_the_run_and_costs_nothing(tmp_path, simulator):
    """RLIMIT_FSIZE: the disk has room, and the log of the checkpoint may not have it."""
    api = simulator("--latency=0.02", "--deferred-latency=0.3", "--video-latency=0.3", "--media-size=1000")
    run = Working(tmp_path, api, prefix=("prlimit", "--fsize=800000"))
    said = run.end(8)
    assert "SQLITE_IOERR_WRITE" in said
    run.goes_on()
