"""An API that is held, unplugged, cut off or killed while a run is at work: the run waits, and knows what it cost."""

import signal
import time

import pytest
from harness.rows import deferred
from harness.run import CONCURRENCY, Run
from harness.wire import Wire

HELD_S = 1.0


@pytest.fixture
def wire(api):
    found = Wire(api.port)
    yield found
    found.stop()


@pytest.fixture
def working(tmp_path, api):
    """Return a function that begins a run, and waits until it is well under way."""
    begun = []

    def start(**how):
        begun.append(Run(tmp_path, how.pop("api", api), flags=("--rps", 120), **how))
        begun[-1].lives.begin()
        return begun[-1].after(15)

    yield start
    for run in begun:
        run.lives.bury()


def test_an_api_that_does_not_answer_for_a_while_costs_nothing(working, api):
    run = working()
    api.process.send_signal(signal.SIGSTOP)
    time.sleep(HELD_S)
    assert not run.lives.ended
    api.process.send_signal(signal.SIGCONT)
    run.end(0)
    verdict = run.judged()
    assert (verdict.lost, verdict.in_doubt, verdict.failed) == (0, 0, 0)


def test_a_network_that_is_unplugged_for_a_while_costs_nothing(working, wire):
    run = working(wire=wire)
    wire.hold()
    time.sleep(HELD_S)
    assert not run.lives.ended
    wire.release()
    run.end(0)
    verdict = run.judged()
    assert (verdict.lost, verdict.in_doubt, verdict.failed) == (0, 0, 0)


def test_connections_that_are_cut_cost_no_more_than_was_in_flight(working, wire):
    run = working(wire=wire)
    run.lives.cut(wire)
    time.sleep(0.1)
    run.lives.cut(wire)
    run.end(0)
    verdict = run.judged()
    assert verdict.lost + verdict.in_doubt <= 2 * CONCURRENCY


def test_a_run_goes_on_when_the_api_is_back_after_a_crash(working, simulator, tmp_path):
    """Kill -9 of the simulator; another one takes up its journal on the same port."""
    flags = ("--latency=0.02", "--deferred-latency=0.2", f"--journal={tmp_path / 'world.jsonl'}")
    first = simulator(*flags)
    run = working(api=first, kinds=deferred)
    first.kill()
    run.lives.cut()
    time.sleep(HELD_S)
    assert not run.lives.ended
    second = simulator(f"--port={first.port}", *flags)
    run.api = second
    run.end(0)
    verdict = run.judged()
    assert verdict.lost + verdict.in_doubt <= CONCURRENCY


def test_an_api_that_stays_away_ends_the_run_which_goes_on_later_at_no_cost(working, wire, api, tmp_path):
    run = Run(tmp_path, api, wire=wire, flags=("--rps", 120, "--max-outage", 3))
    run.lives.begin()
    run.after(15)
    api.set(drop_before=1.0)
    try:
        assert "has not answered" in run.end(7)
    finally:
        api.set(drop_before=0.0)
    verdict = run.goes_on()
    assert (verdict.lost, verdict.doubled) == (0, 0)
