"""A real Airflow with a home, a metadata database and DAGs of its own; the simulator's ledger is the judge."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness.command import Simulator
from harness.judge import read_lines, read_results

KEY = "xai-airflow-canary-0123456789abcdef"
BIN = Path(sys.executable).parent
_NOISE = re.compile(r"loc=\S+|\x1b\[[0-9;]*m")


def pytest_collection_modifyitems(items):
    """Skip, saying so, where there is no Airflow."""
    if find_spec("airflow") is None:
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="Airflow is not installed: tox run -e airflow"))


class Airflow:
    """One AIRFLOW_HOME.

    Args:
        home: An empty folder.
    """

    def __init__(self, home):
        self.home = home
        (home / "dags").mkdir()
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        self.environ = kept | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API__EXPOSE_CONFIG": "True",
        }

    def connect(self, base_url, **options):
        """Let the connection xai_default lead to a simulator."""
        found = {"conn_type": "xai", "password": KEY, "host": base_url, "extra": options}
        self.environ["AIRFLOW_CONN_XAI_DEFAULT"] = json.dumps(found)

    def set(self, **variables):
        """Set Airflow's variables."""
        self.environ |= {f"AIRFLOW_VAR_{name.upper()}": str(value) for name, value in variables.items()}

    def dag(self, name, text):
        """Put a DAG where Airflow finds it."""
        (self.home / "dags" / f"{name}.py").write_text(text, encoding="utf-8")

    def command(self, *arguments):
        """Return a command of Airflow's."""
        return [BIN / "airflow", *map(str, arguments)]

    def run(self, *arguments, timeout=240):
        """Run a command to its end; return what it said, in whole."""
        done = subprocess.run(
            self.command(*arguments) if arguments[0] != sys.executable else [*map(str, arguments)],
            env=self.environ, cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        self.code, self.said = done.returncode, _NOISE.sub("", done.stdout)
        assert KEY not in done.stdout
        return self.said

    def python(self, code, **options):
        """Run Python in this Airflow; return what it said."""
        said = self.run(sys.executable, "-c", code, **options)
        assert self.code == 0, said
        return said

    def test(self, name, text, logical_date="2026-01-02"):
        """Let Airflow run a DAG once (`airflow dags test`); return the state that it ended in."""
        self.dag(name, text)
        said = self.run("dags", "test", name, logical_date)
        found = re.findall(r"DagRun Finished.*?\bstate=(\w+)", said)
        assert found, said[-5000:]
        return found[-1]

    def xcom(self, name, task="answer"):
        """Return what a task of the last run of a DAG returned."""
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            query = "select value from xcom where dag_id = ? and task_id = ? and key = 'return_value'"
            found = json.loads(database.execute(f"{query} order by timestamp desc", (name, task)).fetchone()[0])
        return json.loads(found) if isinstance(found, str) else found


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory):
    """A home whose metadata database is ready, to be copied."""
    found = Airflow(tmp_path_factory.mktemp("airflow"))
    said = found.run("db", "migrate")
    assert found.code == 0, said
    return found.home


@pytest.fixture
def airflow(_migrated, tmp_path):
    """An Airflow of the test's own."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(_migrated / "airflow.db", home / "airflow.db")
    return Airflow(home)


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


def write(path, count, **more):
    """Write n rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": f"later {row}"} | more) + "\n" for row in range(count)))
    return path


class Told:
    """What tests ask of files."""

    write = staticmethod(write)
    results = staticmethod(read_results)
    lines = staticmethod(read_lines)


@pytest.fixture
def told():
    return Told
