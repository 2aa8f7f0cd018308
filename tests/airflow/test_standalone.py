"""`airflow standalone` from end to end through its REST API, which takes minutes: BULKGROK_STANDALONE=1."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.skipif(
    not os.environ.get("BULKGROK_STANDALONE"), reason="takes minutes: BULKGROK_STANDALONE=1 tox run -e airflow"
)
SECRET = "of-this-test-alone, and long enough to sign tokens with" * 2
DAG = """
from datetime import datetime
from airflow.sdk import DAG
from bulkgrok.airflow import BulkGrokOperator

with DAG({name!r}, schedule=None, start_date=datetime(2026, 1, 1)):
    BulkGrokOperator(task_id="answer", **{arguments!r})
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Standalone:
    """A scheduler, a triggerer, a DAG processor and an API server, with one slot for tasks."""

    def __init__(self, airflow):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._token = ""
        self._log = (airflow.home / "standalone.log").open("wb")
        self._process = subprocess.Popen(
            airflow.command("standalone"), cwd=airflow.home, stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=subprocess.STDOUT, start_new_session=True, env=airflow.environ | {
                "AIRFLOW__API__HOST": "127.0.0.1", "AIRFLOW__API__PORT": str(port), "AIRFLOW__API__WORKERS": "1",
                "AIRFLOW__API__BASE_URL": self.url, "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
                "AIRFLOW__CORE__PARALLELISM": "1",
                "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
                "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
                "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            },
        )  # fmt: skip

    def stop(self):
        """End all of it."""
        for number, within_s in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(within_s)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._log.close()

    def ask(self, method, path, body=None):
        """Return what the REST API answers."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, method=method, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def until(self, condition, *, within_s=180):
        """Look until something is so, and return it; what the server refuses meanwhile is not so yet."""
        end, last = time.monotonic() + within_s, None
        while time.monotonic() < end:
            try:
                if last := condition():
                    return last
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                last = error
            time.sleep(0.3)
        pytest.fail(f"not so within {within_s} s: {last!r}")

    def log_in(self, dag):
        def token():
            self._token = self.ask("GET", "/auth/token")["access_token"]
            return self._token

        self.until(token)
        self.until(lambda: self.ask("GET", f"/api/v2/dags/{dag}"))

    def trigger(self, dag):
        """Start a DAG; return its run's path."""
        self.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})
        run = self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
        return f"/api/v2/dags/{dag}/dagRuns/{urllib.request.quote(run)}", run

    def state(self, path):
        return self.ask("GET", f"{path}/taskInstances/answer")["state"]

    def mark_failed(self, path):
        self.ask("PATCH", f"{path}/taskInstances/answer", {"new_state": "failed"})

    def clear(self, dag, run):
        body = {
            "dry_run": False,
            "task_ids": ["answer"],
            "dag_run_id": run,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.ask("POST", f"/api/v2/dags/{dag}/clearTaskInstances", body)


@pytest.fixture
def standalone(airflow):
    """Return a function that starts it, when the DAGs are there."""
    started = []

    def start():
        started.append(Standalone(airflow))
        return started[-1]

    yield start
    for found in started:
        found.stop()


def test_a_deferred_task_holds_no_slot_and_goes_on_after_it_was_marked_failed_and_cleared(
    airflow, simulator, standalone, told, tmp_path
):
    api = simulator("--deferred-latency=40", "--deferred-sigma=0")
    airflow.connect(api.base_url)
    source = told.write(tmp_path / "in.jsonl", 12)
    options = {"mode": "deferred", "concurrency": 4, "poll_interval": 15}
    arguments = {"input": str(source), "options": options, "deferrable": True, "retries": 0}
    airflow.dag("waits", DAG.format(name="waits", arguments=arguments))
    other = {"input": str(told.write(tmp_path / "other.jsonl", 2)), "options": {"concurrency": 1}}
    airflow.dag("other", DAG.format(name="other", arguments=other))
    server = standalone()
    server.log_in("waits")
    path, run = server.trigger("waits")
    server.until(lambda: server.state(path) == "deferred")
    pool = server.ask("GET", "/api/v2/pools/default_pool")
    assert (pool["running_slots"], pool["queued_slots"], pool["deferred_slots"]) == (0, 0, 1)
    gets = api.sums()["gets"]
    beside, _ = server.trigger("other")  # there is one slot for tasks, and it is free
    server.until(lambda: server.state(beside) == "success")
    server.until(lambda: server.state(path) == "deferred")
    server.mark_failed(path)
    assert server.state(path) == "failed"
    server.clear("waits", run)
    server.until(lambda: server.state(path) == "success", within_s=240)
    found = server.ask("GET", f"{path}/taskInstances/answer/xcomEntries/return_value")["value"]
    found = json.loads(found) if isinstance(found, str) else found
    assert (found["rows"], found["succeeded"], found["in_doubt"], found["lost"]) == (12, 12, 0, 0)
    sums = api.sums()
    assert sums["posts"] == 14  # two of them the other's: nothing was sent twice
    assert sums["deliveries_max"] == 1
    assert sums["gets"] > gets
    assert sorted(one.row for one in told.results(tmp_path / "in.results.jsonl")) == list(range(12))


def test_a_running_task_that_is_marked_failed_drains_and_goes_on_when_it_is_cleared(
    airflow, simulator, standalone, told, tmp_path
):
    api = simulator("--latency=1.5", "--latency-sigma=0")
    airflow.connect(api.base_url)
    source = told.write(tmp_path / "in.jsonl", 60)
    arguments = {"input": str(source), "options": {"concurrency": 4}, "retries": 0}
    airflow.dag("stops", DAG.format(name="stops", arguments=arguments))
    server = standalone()
    server.log_in("stops")
    path, run = server.trigger("stops")
    server.until(lambda: api.sums()["posts"] >= 6)
    server.mark_failed(path)
    seen = []

    def at_rest():  # the supervisor hears of it at its next heartbeat
        seen.append(api.sums()["posts"])
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    server.until(at_rest)
    assert seen[-1] < 60, "it went on to its end"
    api.set(latency=0.05)
    server.clear("stops", run)
    server.until(lambda: server.state(path) == "success", within_s=240)
    assert api.sums()["accepted"] == 60, "something was sent twice"
    assert sorted(one.row for one in told.results(tmp_path / "in.results.jsonl")) == list(range(60))
