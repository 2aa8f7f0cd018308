"""The command as processes that are begun, ill-treated and ended, one life after the other."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.command import COMMAND
from harness.judge import Life

LOCKED = 6
_LOOK_S = 0.0005
_TRACEBACK = re.compile("Traceback|Exception ignored|never retrieved|was destroyed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What a second runner of the same run did."""

    exit_code: int
    wall_s: float
    cpu_s: float
    said: str


class Lives:
    """Begins and ends processes of one command.

    Args:
        command: The command with its arguments.
        environ: Its environment.
        run_dir: The run's directory.
        log: Where its standard error goes, appended.
    """

    def __init__(self, command, *, environ, run_dir, log):
        self.lived = []
        self.process = None
        self._command = [str(part) for part in command]
        self._environ = environ
        self._run_dir = Path(run_dir)
        self._log = Path(log)
        self._began_at = 0.0
        self._cuts = 0

    def types(self, *command):
        """Type another command from now on: another part of the same run."""
        self._command = [str(part) for part in command]

    def begin(self, *prefix):
        """Begin a life; `prefix` is a command that runs ours."""
        assert self.process is None
        self._began_at, self._cuts = time.time(), 0
        self.process = self._start(*prefix)

    def _start(self, *prefix):
        command = [*map(str, prefix), *self._command]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )

    @property
    def ended(self):
        """Whether the process ended of its own accord."""
        return self.process.poll() is not None

    def wait_for(self, condition, *, within_s=5.0, look_s=_LOOK_S):
        """Look until something is so, the process has ended or time is over; return whether it is so."""
        until = time.monotonic() + within_s
        while not self.ended and time.monotonic() < until:
            if condition():
                return True
            time.sleep(look_s)
        return False

    def at_work(self):
        """Tell whether the process holds the run's lock."""
        with suppress(OSError):
            return (self._run_dir / "run.lock").read_bytes() == b"%d\n" % self.process.pid
        return False

    def signal(self, number):
        """Send a signal; harmless when the process has ended."""
        self.process.send_signal(number)

    def hold(self):
        """Stop the process as SIGSTOP does, and return once none of its threads is in a call of the system any more."""
        self.signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        until = time.monotonic() + 30
        while not all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in tasks.glob("*/stat")):
            assert time.monotonic() < until
            time.sleep(_LOOK_S)

    def cut(self, wire=None):
        """Cut the connections of this life; without a wire, note that something else did."""
        if wire is not None:
            wire.cut()
        self._cuts += 1

    def kill(self):
        """Kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.await_end("hard", within_s=30)

    def await_end(self, end, *, within_s):
        """Wait for the end and enter the life; return the exit code.

        Raises:
            TimeoutExpired: It did not end in time.
        """
        code = self.process.wait(within_s)
        self.lived.append(Life(began_at=self._began_at, end=end, cuts=self._cuts))
        self.process = None
        return code

    def second(self, **environ):
        """Start a second runner beside this life and wait for its end."""
        began = time.monotonic()
        second = subprocess.Popen(
            self._command, env=self._environ | environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with second.stderr:
            said = second.stderr.read()
        _, status, used = os.wait4(second.pid, 0)
        second.returncode = os.waitstatus_to_exitcode(status)
        return Second(
            exit_code=second.returncode,
            wall_s=time.monotonic() - began,
            cpu_s=used.ru_utime + used.ru_stime,
            said=said,
        )

    def race(self):
        """Begin two runners at once; the one that gets the run lives on. Return the exit code of the other."""
        self.begin()
        other = self._start()
        until = time.monotonic() + 30
        while self.process.poll() is None and other.poll() is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
        if self.process.poll() == LOCKED or (other.poll() is None and self.process.poll() is not None):
            self.process, other = other, self.process
        if other.poll() != LOCKED:  # the first to end did what was left: the other may have the run now, or be refused
            self.wait_for(self.at_work, within_s=30.0)
            if self.process.poll() == LOCKED:
                self.process, other = other, self.process
        return other.wait(30)

    def ask(self, *arguments, enter=()):
        """Return what another command prints; `enter` makes it see what the run sees."""
        command = [*enter, *COMMAND, *map(str, arguments)]
        return subprocess.check_output(command, env=self._environ, text=True, timeout=60)

    def tracebacks(self):
        """Return what no user should see, with what it belongs to."""
        said = self._log.read_text("utf-8", "replace")
        return [said[max(0, found.start() - 500) : found.end() + 1500] for found in _TRACEBACK.finditer(said)]

    def forget_words(self):
        """Drop what was said on standard error so far."""
        self._log.write_bytes(b"")

    def last_words(self):
        """Return the end of what was said on standard error."""
        return self._log.read_text("utf-8", "replace")[-6000:]

    def bury(self):
        """End what is left, at the end of a test that failed."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait()
