"""Real processes: the installed command and the simulator, on loopback."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "bulkgrok"]
KEY = "xai-acceptance-key"


def environment(**more):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in os.environ}
    return kept | {"XAI_API_KEY": KEY, "PYTHONWARNINGS": "error", "COLUMNS": "100"} | more


class Simulator:
    """The built-in API as a process of its own: it is never killed while a run is."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [*COMMAND, "simulator", *map(str, flags)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            text=True,
        )
        line = self.process.stdout.readline().strip()
        name, _, self.base_url = line.partition("=")
        assert name == "base_url", line
        self.control = self.base_url.removesuffix("/v1") + "/_simulator/"

    def ledger(self):
        with urllib.request.urlopen(self.control + "ledger", timeout=30) as reply:
            return json.load(reply)

    def set(self, **settings):
        self._post("settings", settings)

    def advance(self, seconds):
        self._post("clock", {"advance_s": seconds})

    def _post(self, path, value):
        request = urllib.request.Request(
            self.control + path, data=json.dumps(value).encode(), headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


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
