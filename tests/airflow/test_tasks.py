"""The operator as tasks of a real Airflow."""

import json
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

DAG = """
from datetime import datetime, timedelta
from airflow.sdk import DAG, Asset
from bulkgrok.airflow import BulkGrokOperator

with DAG({name!r}, schedule=None, start_date=datetime(2026, 1, 1)) as dag:
    BulkGrokOperator(task_id="answer", retry_delay=timedelta(seconds=1), outlets=[Asset("answers")], **{arguments!r})

if __name__ == "__main__":
    run = dag.test()
    print("STATE", run.state)
"""
DEFERRED = {"mode": "deferred", "concurrency": 4, "poll_interval": 0.5}


def dag(name, **arguments):
    return DAG.format(name=name, arguments=arguments)


def reconciles(summary):
    done = summary["succeeded"] + summary["failed"]
    return summary["rows"] == done + summary["pending"] + summary["outstanding"]


def test_dag_test_answers_every_row_and_returns_the_summary(airflow, simulator, told, tmp_path):
    api = simulator("--deferred-latency=1")
    airflow.connect(api.base_url, concurrency=4)
    source = told.write(tmp_path / "in.jsonl", 8)
    output = tmp_path / "out-{{ dag_run.dag_id }}.jsonl"
    airflow.dag("dagtest", dag("dagtest", input=str(source), output=str(output), options=DEFERRED, deferrable=True))
    said = airflow.run(sys.executable, airflow.home / "dags" / "dagtest.py")
    assert "STATE success" in said, said[-5000:]
    assert said.count("Pausing task as DEFERRED") >= 1
    assert sorted(found.row for found in told.results(tmp_path / "out-dagtest.jsonl")) == list(range(8))
    sums = api.sums()
    assert (sums["posts"], sums["gets_after_consumption"]) == (8, 0)
    summary = airflow.xcom("dagtest")
    assert reconciles(summary)
    assert (summary["succeeded"], summary["exit_code"]) == (8, 0)
    assert summary["run_id"].startswith("dagtest/answer/manual__")
    assert summary["cost_usd"] == pytest.approx(sums["usd"], rel=1e-6)


def test_a_retry_goes_on_with_the_run_that_an_outage_ended(airflow, simulator, told, tmp_path):
    api = simulator("--error-503=1")
    airflow.connect(api.base_url)
    source = told.write(tmp_path / "in.jsonl", 6)

    def mend():
        until = time.monotonic() + 120
        while api.sums()["refused"].get("503", 0) < 3 and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(3)
        api.set(error_503=0)

    healer = threading.Thread(target=mend)
    healer.start()
    options = {"concurrency": 2, "max_outage": 2}
    state = airflow.test(
        "again", dag("again", input=str(source), options=options, retries=8, xai_conn_id="xai_default")
    )
    healer.join()
    assert state == "success", airflow.said[-5000:]
    assert "UP_FOR_RETRY" in airflow.said or "up_for_retry" in airflow.said
    assert sorted(found.row for found in told.results(tmp_path / "in.results.jsonl")) == list(range(6))
    assert api.sums()["accepted"] == 6


def test_what_a_retry_cannot_change_fails_at_once_with_the_reason(airflow, simulator, told, tmp_path):
    api = simulator("--accepted-keys=xai-of-somebody-else")
    airflow.connect(api.base_url)
    source = told.write(tmp_path / "in.jsonl", 3)
    arguments = {"input": str(source), "retries": 5}
    assert airflow.test("key", dag("key", **arguments)) == "failed"
    assert "up_for_retry" not in airflow.said.lower()
    assert "AirflowFailException" in airflow.said
    assert airflow.test("flag", dag("flag", **arguments, options={"concurency": 3})) == "failed"
    assert "concurrency" in airflow.said
    assert airflow.test("gone", dag("gone", input=str(tmp_path / "none.jsonl"), retries=5)) == "failed"
    assert "up_for_retry" not in airflow.said.lower()
    assert api.sums()["accepted"] == 0


def test_failed_rows_are_judged_by_the_fraction_that_may_fail(airflow, simulator, told, tmp_path):
    airflow.connect(simulator().base_url)
    source = told.write(tmp_path / "in.jsonl", 9)
    with source.open("a") as file:
        file.write('{"nothing": 1}\n')
    one = {"input": str(source), "output": str(tmp_path / "{{ dag.dag_id }}.jsonl")}
    assert airflow.test("strict", dag("strict", **one)) == "failed"
    assert "1 of 10 rows failed (1 invalid_row)" in airflow.said
    assert airflow.test("lenient", dag("lenient", **one, max_failed_fraction=0.1)) == "success"
    summary = airflow.xcom("lenient")
    assert reconciles(summary)
    assert (summary["failed"], summary["failed_by_code"]) == (1, {"invalid_row": 1})


KILLED = """
import signal, sys, time, types
from bulkgrok.airflow import BulkGrokOperator

operator = BulkGrokOperator(task_id="t", xai_conn_id=None, input=sys.argv[1], options={"mode": sys.argv[2],
    "concurrency": 4, "poll_interval": 0.2})
signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
print("READY", flush=True)
try:
    operator.execute({"ti": types.SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)})
except Exception as error:
    print("RAISED", type(error).__name__, error, flush=True)
    print("ENDED", time.monotonic(), flush=True)
"""


def killed(airflow, api, source, mode, *, after_posts):
    """Run a task, send it SIGTERM as Airflow does; return (seconds to its end, what it said)."""
    environ = airflow.environ | {"XAI_API_KEY": "xai-killed", "XAI_BASE_URL": api.base_url}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, source, mode], env=environ, stdout=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while api.sums()["posts"] < after_posts and time.monotonic() < until:
        time.sleep(0.02)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    return float(re.search(r"^ENDED (\S+)$", said, re.MULTILINE)[1]) - began, said


def audit(run):
    command = [sys.executable, "-m", "bulkgrok", "audit", str(run), "--json"]
    return json.loads(subprocess.check_output(command, text=True))


def test_a_killed_task_keeps_what_arrives_and_loses_nothing(airflow, simulator, told, tmp_path):
    api = simulator("--latency=1", "--latency-sigma=0")
    source = told.write(tmp_path / "in.jsonl", 40)
    took_s, said = killed(airflow, api, source, "direct", after_posts=6)
    posts = api.sums()["posts"]
    assert took_s < 5
    assert "RAISED AirflowException" in said
    assert posts < 40
    assert audit(tmp_path / "in.bulkgrok")["in_doubt"] == []
    assert audit(tmp_path / "in.bulkgrok")["billed"] == posts


def test_a_killed_task_ends_in_time_and_the_ledger_names_what_was_unanswered(airflow, simulator, told, tmp_path):
    api = simulator("--latency=60", "--latency-sigma=0")
    source = told.write(tmp_path / "in.jsonl", 40)
    took_s, said = killed(airflow, api, source, "direct", after_posts=4)
    assert 3.5 < took_s < 5
    assert "RAISED AirflowException" in said
    assert api.sums()["posts"] == 4
    api.set(latency=0.01)
    environ = airflow.environ | {"XAI_API_KEY": "xai-killed", "XAI_BASE_URL": api.base_url}
    subprocess.run([sys.executable, "-c", KILLED, source, "direct"], env=environ, check=True, timeout=120)
    assert len(told.results(tmp_path / "in.results.jsonl")) == 40
    assert len(audit(tmp_path / "in.bulkgrok")["in_doubt"]) == 4
    assert api.sums()["accepted"] <= 44


def test_a_run_that_another_holds_is_waited_for(airflow, simulator, told, tmp_path):
    api = simulator("--latency=0.02", "--deferred-latency=6", "--deferred-sigma=0")
    airflow.connect(api.base_url)
    source = told.write(tmp_path / "in.jsonl", 4)
    arguments = {"input": str(source), "options": DEFERRED, "retries": 0}
    airflow.dag("held", dag("held", **arguments))
    first = subprocess.Popen(
        airflow.command("dags", "test", "held", "2026-01-02"), env=airflow.environ, cwd=airflow.home,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while api.sums()["posts"] < 4 and time.monotonic() < until:
        time.sleep(0.05)
    code = (
        "import types, sys\n"
        "from bulkgrok.airflow import BulkGrokOperator\n"
        f"found = BulkGrokOperator(task_id='answer', **{arguments!r}).execute({{'ti': types.SimpleNamespace("
        "dag_id='held', task_id='answer', run_id=sys.argv[1], map_index=-1)})\n"
        "print('FOUND', found['succeeded'])\n"
    )
    # The name of the first one's run is in its status.
    status = json.loads((tmp_path / "in.bulkgrok" / "status.json").read_bytes())
    said = airflow.run(sys.executable, "-c", code, status["run_id"].split("/")[2])
    assert "FOUND 4" in said, said[-3000:]
    assert "Waiting for it" in said
    assert "success" in first.communicate(timeout=120)[0]
    assert api.sums()["posts"] == 4


def test_a_local_checkpoint_is_warned_of_where_tasks_run_on_several_machines(airflow, told, tmp_path):
    source = told.write(tmp_path / "in.jsonl", 1)
    arguments = {
        "input": str(source),
        "output": str(tmp_path / "{{ dag.dag_id }}.jsonl"),
        "options": {"simulate": True},
    }
    assert airflow.test("near", dag("near", **arguments)) == "success"
    assert "is a path of this worker" not in airflow.said
    code = (
        "import logging, types\n"
        "from bulkgrok.airflow.judging import warn_of_a_local_checkpoint\n"
        "from bulkgrok.config import load\n"
        "logging.basicConfig()\n"
        f"config = load({{'input': {str(source)!r}, 'simulate': True}})\n"
        "warn_of_a_local_checkpoint(config, logging.getLogger('t'), 'CeleryExecutor')\n"
    )
    assert "is a path of this worker" in airflow.python(code)


def test_a_function_runs_inside_of_a_task(airflow, simulator, told, tmp_path):
    airflow.connect(simulator().base_url)
    source = told.write(tmp_path / "in.jsonl", 3)
    text = f"""
from datetime import datetime
from airflow.sdk import dag, task

@dag(schedule=None, start_date=datetime(2026, 1, 1))
def function():
    @task
    def answer():
        from bulkgrok.airflow import run_bulkgrok
        return run_bulkgrok({str(source)!r})

    @task
    def count(summary: dict):
        print("COUNTED", summary["succeeded"])

    count(answer())

function()
"""
    assert airflow.test("function", text) == "success", airflow.said[-5000:]
    assert re.search(r"COUNTED 3", airflow.said)
    assert not (tmp_path / "in.bulkgrok" / "log.jsonl").exists()
