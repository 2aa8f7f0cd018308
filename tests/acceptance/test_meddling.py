"""Files that are removed, replaced or run out while a run is at work: it stops in words, and loses nothing."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from harness.command import COMMAND, environment
from harness.places import places
from harness.run import CONCURRENCY, Run

#: What takes from root the right to write where it may not.
MORTAL = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
    if os.geteuid() == 0
    else ("env",)
)


@pytest.fixture
def working(tmp_path, api):
    """Return a function that begins a run, and waits until it is well under way unless a prefix is to limit it."""
    begun = []

    def start(*prefix, **how):
        begun.append(Run(tmp_path, api, flags=("--rps", 120), **how))
        begun[-1].lives.begin(*prefix)
        return begun[-1] if prefix else begun[-1].after(15)

    yield start
    for run in begun:
        run.lives.bury()


def goes_on_at_no_cost(run):
    """Type the same command again: it must come to its end, and nothing may have been lost or paid twice."""
    verdict = run.goes_on()
    assert (verdict.lost, verdict.in_doubt) == (0, 0), verdict


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
    goes_on_at_no_cost(run)


def test_a_run_directory_that_is_moved_away_goes_on_when_it_is_back(working, tmp_path):
    run = working()
    run.places.run_dir.rename(tmp_path / "elsewhere")
    assert "once you have put its files back" in run.end(8)
    assert not run.checkpoint.exists(), "there must not be two of one run"
    (tmp_path / "elsewhere").rename(run.places.run_dir)
    goes_on_at_no_cost(run)


def test_a_checkpoint_that_is_replaced_is_not_written_to(working, tmp_path):
    run = working()
    run.checkpoint.rename(tmp_path / "ours")
    run.checkpoint.write_bytes(b"theirs")
    assert "was removed, moved or replaced" in run.end(8)
    assert run.checkpoint.read_bytes() == b"theirs"
    (tmp_path / "ours").rename(run.checkpoint)
    goes_on_at_no_cost(run)


def test_a_lock_that_is_removed_still_keeps_a_second_runner_away(working):
    run = working()
    (run.places.run_dir / "run.lock").unlink()
    run.lives.signal(signal.SIGSTOP)  # else it may have ended before the second is there
    second = run.lives.second()
    run.lives.signal(signal.SIGCONT)
    assert (second.exit_code, "Another runner" in second.said) == (6, True), second
    run.end(0)
    goes_on_at_no_cost(run)


def test_two_runs_with_one_checkpoint_never_both_act(working, tmp_path):
    run = working(checkpoint=tmp_path / "shared.db")
    other = places("lines", tmp_path / "other")
    run.lives.signal(signal.SIGSTOP)
    second = subprocess.run(
        [
            *COMMAND, "run", run.source, *map(str, other.flags), "--base-url", run.api.base_url, "--checkpoint",
            run.checkpoint, "--progress", "none",
        ],
        env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    run.lives.signal(signal.SIGCONT)
    assert (second.returncode, "Another runner" in second.stderr) == (6, True), second
    run.end(0)
    goes_on_at_no_cost(run)


def test_an_output_that_is_removed_is_built_again(working):
    run = working()
    run.places.output.unlink()
    run.end(8)
    goes_on_at_no_cost(run)


def test_a_folder_of_parts_that_is_removed_is_built_again(working, tmp_path):
    run = working(found=places("parts", tmp_path))
    shutil.rmtree(run.places.output)
    run.end(0, 8)  # 0: it was made again with the next part
    goes_on_at_no_cost(run)


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
    goes_on_at_no_cost(run)


def test_an_output_that_is_replaced_is_left_alone_until_it_is_moved_away(working):
    run = working()
    run.places.output.unlink()
    run.places.output.write_bytes(b"theirs\n")
    assert "replaced or changed by someone else" in run.end(8)
    run.lives.begin()
    assert "was not written by this run" in run.end(2)
    assert run.places.output.read_bytes() == b"theirs\n"
    run.places.output.unlink()
    goes_on_at_no_cost(run)


def test_an_input_that_is_removed_stops_the_run_and_can_be_put_back(working, tmp_path):
    run = working(rows=200)  # more than are read ahead
    run.source.rename(tmp_path / "elsewhere")
    assert "put out of reach while the run was reading it. What was sent is in the checkpoint" in run.end(6)
    (tmp_path / "elsewhere").rename(run.source)
    goes_on_at_no_cost(run)


@pytest.mark.parametrize("what", ["output", "run directory"])
def test_a_folder_that_is_closed_under_a_run_costs_nothing(working, tmp_path, what):
    found = places("lines", tmp_path / "outputs", run=tmp_path / "runs")
    found.base.mkdir()
    run = working(*MORTAL, found=found)
    run.after(15)
    closed = found.base if what == "output" else found.run_dir
    closed.chmod(0o500)
    said = run.end(0, 8)
    closed.chmod(0o700)
    assert what == "run directory" or "Permission denied" in said
    goes_on_at_no_cost(run)


# Limits of the process


def test_too_few_open_files_are_refused_before_anything_is_sent(working):
    run = working("prlimit", "--nofile=30:30")
    assert "ulimit -n 72" in run.end(2)
    assert run.posts == 0


def test_a_run_lives_within_the_open_files_it_asks_for_and_raises_the_limit_itself(working):
    run = working("prlimit", "--nofile=20:72")
    run.end(0)
    goes_on_at_no_cost(run)


def test_a_file_that_may_not_grow_further_stops_the_run_and_costs_nothing(working):
    """RLIMIT_FSIZE: the disk has room, and the log of the checkpoint may not have it."""
    run = working("prlimit", "--fsize=800000")
    assert "SQLITE_IOERR_WRITE" in run.end(8)
    goes_on_at_no_cost(run)


def test_a_process_that_gets_no_more_memory_ends_and_can_go_on(working):
    run = working()
    process = run.lives.process.pid
    used = int(Path(f"/proc/{process}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    subprocess.run(["prlimit", "--pid", str(process), f"--as={used}"], check=True)
    said = run.end(0, 1, end="hard")  # 0: it had what it needed
    assert "a bug" not in said
    assert "Traceback" not in said
    run.lives.forget_words()  # `open` drops its file where it gets no buffer, and here warnings are told
    verdict = run.goes_on()
    assert verdict.lost + verdict.doubled <= CONCURRENCY


def test_a_process_that_may_open_no_more_files_ends_and_goes_on_at_no_cost(working):
    run = working()
    process = run.lives.process.pid
    opened = max(int(link.name) for link in Path(f"/proc/{process}/fd").iterdir())
    subprocess.run(["prlimit", "--pid", str(process), f"--nofile={opened}"], check=True)
    run.end(0, 8)
    goes_on_at_no_cost(run)
