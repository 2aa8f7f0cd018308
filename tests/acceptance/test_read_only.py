"""A file system that goes read-only under a run, as after an error of the disk: nothing that was paid is lost."""

import os
import signal

import pytest
from harness.disks import ROOT, Disks
from harness.places import places
from harness.run import CONCURRENCY, Run

DISK = ROOT / "disk"


@pytest.fixture
def working(tmp_path, api):
    """Return a function that begins a run on a file system that can break, and waits until it is well under way."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that breaks")
    disks = Disks(tmp_path)
    disks.make_real(DISK, 64 << 20)
    begun = []

    def start(form, **elsewhere):
        (tmp_path / "elsewhere").mkdir()
        environ = {"TMPDIR": str(ROOT / "elsewhere")}
        begun.append(
            Run(
                tmp_path, api, found=places(form, DISK, **elsewhere), disks=disks, environ=environ, flags=("--rps", 120)
            )
        )
        begun[-1].lives.begin()
        return begun[-1].after(15)

    yield start
    for run in begun:
        run.lives.bury()
    disks.close()


def break_off(run):
    """Let the disk go read-only between two calls of the process.

    A flush that is under way just then may be reported as done and be gone: ext4 itself forgets it, in one of twenty.
    """
    run.lives.hold()
    run.disks.break_off(DISK)
    run.lives.signal(signal.SIGCONT)


@pytest.mark.parametrize("form", ["lines", "parts"])
def test_a_run_whose_disk_goes_read_only_stops_and_goes_on_when_it_is_back(working, form):
    run = working(form)
    break_off(run)
    run.end(8)
    run.disks.bring_back(DISK)
    verdict = run.goes_on()
    assert (verdict.lost, verdict.doubled) == (0, 0)


def test_an_output_whose_disk_goes_read_only_is_written_from_the_checkpoint_later(working):
    run = working("lines", run=ROOT / "elsewhere")
    break_off(run)
    run.end(8)
    run.disks.bring_back(DISK)
    verdict = run.goes_on()
    assert (verdict.lost, verdict.in_doubt) == (0, 0)


def test_what_was_acknowledged_is_on_the_disk_when_everything_else_is_gone(working):
    """Killed, and nothing that was not flushed is left: what a power cut leaves of a real file system."""
    run = working("lines")
    run.lives.hold()
    run.disks.break_off(DISK)
    run.lives.kill()
    run.disks.bring_back(DISK)
    verdict = run.goes_on()
    assert verdict.lost + verdict.doubled <= CONCURRENCY
