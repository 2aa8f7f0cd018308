"""Real processes: the installed command and the simulator, on loopback."""

import json
import subprocess
from pathlib import Path

import pytest
from harness.command import COMMAND, Simulator, environment


@pytest.fixture
def simulator():
    """Return a function that starts a simulator with flags."""
    started = []

    def start(*flags):
        started.append(Simulator(*flags))
        return started[-1]

    yield start
    for found in started:
        found.stop()


@pytest.fixture(scope="module")
def api():
    """A simulator that the runs of a module share, one after the other."""
    found = Simulator("--latency=0.02", "--deferred-latency=0.2", "--video-latency=0.2", "--media-size=3000")
    yield found
    found.stop()


@pytest.fixture
def bulkgrok():
    """Return a function that runs the command to its end, and its `start` that does not wait."""

    def run(*arguments, cwd=None, env=None, stdin=subprocess.DEVNULL, timeout=120):
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment(**(env or {})),
            cwd=cwd,
            stdin=stdin,
            timeout=timeout,
            check=False,
        )

    def start(*arguments, cwd=None, env=None):
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**(env or {})),
            cwd=cwd,
            text=True,
        )

    run.start = start
    return run


@pytest.fixture
def lines():
    """Return a function that reads a JSON Lines file."""

    def read(path):
        return [json.loads(line) for line in Path(path).read_bytes().split(b"\n") if line]

    return read


@pytest.fixture
def shared_data():
    """Return the folder of real inputs, or skip, saying so."""
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real inputs are not here: {folder}")
    return folder
