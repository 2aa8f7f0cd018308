"""The installed command and the simulator as real processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request

#: -P: what is installed, or what PYTHONPATH names (a sabotaged product), before the sources in this folder.
COMMAND = [sys.executable, "-P", "-m", "bulkgrok"]
KEY = "xai-acceptance-key"
_KEPT = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "PYTHONPATH")


def environment(**more):
    """Return a small environment with a key in it, in which warnings are errors."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
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
        self.port = int(self.base_url.removesuffix("/v1").rpartition(":")[2])
        self.control = self.base_url.removesuffix("/v1") + "/_simulator/"

    def ledger(self):
        """Return everything that was accepted, request by request."""
        return self._get("ledger")

    def sums(self):
        """Return the sums of the ledger alone."""
        return self._get("ledger?requests=0")

    def _get(self, path):
        with urllib.request.urlopen(self.control + path, timeout=30) as reply:
            return json.load(reply)

    def set(self, **settings):
        """Behave differently from now on."""
        self._post("settings", settings)

    def advance(self, seconds):
        """Put the clock forward."""
        self._post("clock", {"advance_s": seconds})

    def _post(self, path, value):
        request = urllib.request.Request(
            self.control + path, data=json.dumps(value).encode(), headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()

    def kill(self):
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
