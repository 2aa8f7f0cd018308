"""A real PostgreSQL for tests: started from the binaries on PATH, or the one that BULKGROK_TEST_POSTGRES names.

Law: durable as in production (fsync on); listens on this machine only; gone when the tests are over, whatever happens.
"""

import atexit
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

DSN = os.environ.get("BULKGROK_TEST_POSTGRES", "")
PASSWORD = "s3kr1t-Passw0rd/@#"
_PROGRAMS = ("initdb", "postgres", "pg_ctl")
_ORDINARY = ("postgres", "nobody")


def missing() -> str:
    """Return why there is no PostgreSQL for tests, empty where there is one."""
    try:
        import psycopg  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        return f"psycopg is not installed ({error}): pip install 'bulkgrok[postgres]', or tox run -e postgres"
    if not DSN and (gone := [name for name in _PROGRAMS if _program(name) is None]):
        return f"PostgreSQL is not on PATH ({', '.join(gone)}), and BULKGROK_TEST_POSTGRES names none"
    return ""


def _program(name):
    found = shutil.which(name)
    if found is None:  # where Debian puts them
        places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(places[-1]) if places else None
    return found


def _roomy():
    """Return where the files of a server lie: in memory where there is room, so that flushes keep nobody waiting."""
    memory = Path("/dev/shm")
    with suppress(OSError):
        found = os.statvfs(memory)
        if os.access(memory, os.W_OK) and found.f_bavail * found.f_frsize > 1 << 30:
            return memory
    return None


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """One server with a data directory of its own.

    Args:
        settings: Lines of postgresql.conf beside the defaults.
    """

    def __init__(self, **settings):
        self.root = Path(tempfile.mkdtemp(prefix="bulkgrok-postgres-", dir=_roomy()))
        self.data = self.root / "data"
        self.port = _free_port()
        self._as = {}
        if os.geteuid() == 0:
            user = next(name for name in _ORDINARY if _known(name))
            self._as = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
            os.chown(self.root, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        atexit.register(self.remove)
        words = self.root / "password"
        words.write_text(PASSWORD + "\n")
        words.chmod(0o644)
        self._run("initdb", "-D", self.data, "-U", "owner", "--pwfile", words, "-A", "scram-sha-256", "-E", "UTF8",
                  "--no-locale", "--no-sync")  # fmt: skip
        lines = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "shared_buffers": "32MB",
            "log_line_prefix": "%m [%p] ", "max_connections": 200,
        } | settings  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        self.start()

    def _run(self, program, *arguments):
        done = subprocess.run(
            [_program(program), *map(str, arguments)], check=False, cwd=self.root, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment(), **self._as,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}\n{self.log()}"
        return done.stdout

    def log(self):
        """Return what the server wrote."""
        try:
            return (self.root / "log").read_text(errors="replace")[-5_000:]
        except OSError:
            return ""

    def start(self):
        """Start, and wait until it answers."""
        with (self.root / "started").open("wb") as out:  # what it inherits must not be a pipe that a reader waits for
            done = subprocess.run(
                [_program("pg_ctl"), "-D", self.data, "-l", self.root / "log", "-w", "-t", "60", "start"],
                check=False, cwd=self.root, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment(),
                **self._as,
            )  # fmt: skip
        assert done.returncode == 0, self.log()

    def stop(self, mode="fast"):
        """Stop; `immediate` is a crash of the server."""
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def crash(self):
        """Crash the server and start it again."""
        self.stop("immediate")
        self.start()

    def remove(self):
        """Stop it and remove its files."""
        if (self.data / "postmaster.pid").exists():
            with suppress(AssertionError):
                self.stop("immediate")
        shutil.rmtree(self.root, ignore_errors=True)

    def url(self, database="postgres", *, user="owner", password=PASSWORD, **settings):
        """Return an address of a database on it."""
        from urllib.parse import quote, urlencode  # noqa: PLC0415 - only here

        login = user if password is None else f"{user}:{quote(password, safe='')}"
        tail = f"?{urlencode(settings)}" if settings else ""
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}{tail}"

    def sql(self, query, *parameters, database="postgres"):
        """Carry a statement out as the server's owner; return its rows, if it has any."""
        return sql(self.url(database), query, *parameters)


@cache
def shared():
    """Return the server that all tests of a process share."""
    return Given() if DSN else Server()


class Given:
    """The server that the environment names."""

    def url(self, **_):
        return DSN

    def remove(self):
        """Leave it alone."""

    def sql(self, query, *parameters):
        return sql(DSN, query, *parameters)


def sql(url, query, *parameters):
    """Carry a statement out over a connection of its own."""
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, parameters or None)
        return cursor.fetchall() if cursor.description else []


def abandon(store):
    """End a store as a killed process would: its connections are gone, nothing is given back."""
    session = store._open_session
    session._connection.pgconn.finish()  # first: a transaction that is open keeps the lease's thread waiting
    session._heartbeat.stop()
    # Here the next one is the same process, and certainly alive.
    sql(
        store.url.whole.reveal(),
        "UPDATE bulkgrok.run SET owner = 'process 999999999 on this machine' WHERE no = %s",
        session.run,
    )
    store._open_access = store._open_session = None


def _known(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def wait_until(true, *, at_most_s=30.0):
    """Wait until something is true; tell whether it came to be."""
    until = time.monotonic() + at_most_s
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
