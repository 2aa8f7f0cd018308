"""A task that dies by SIGKILL in the middle, and is tried again where nothing of its disk is left."""

import json
import shutil
import signal
import subprocess
import sys
import time

import postgresql
import pytest
from harness.judge import Life, judge
from harness.rows import write

ROWS, CONCURRENCY = 120, 8
DAG = """
from datetime import UTC, datetime
from airflow.sdk import DAG
from bulkgrok.airflow import BulkGrokOperator

with DAG("dies", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
    BulkGrokOperator(task_id="answer", **{arguments!r})

if __name__ == "__main__":  # the same dag run each time: that is what a retry is to the task
    when = datetime(2026, 1, 2, tzinfo=UTC)
    print("STATE", dag.test(run_after=when, logical_date=when).state)
"""


@pytest.fixture
def database():
    if missing := postgresql.missing():
        pytest.skip(missing)
    server = postgresql.Server()
    yield server.url()
    server.remove()


def killed(airflow, api, *, after_posts, after_gets):
    """Let Airflow run the DAG, and kill it with SIGKILL once the API has seen so much; return when it began."""
    before, began = api.sums(), time.time()
    process = subprocess.Popen(
        [sys.executable, airflow.home / "dags" / "dies.py"], env=airflow.environ, cwd=airflow.home,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        now = api.sums()
        if now["posts"] - before["posts"] >= after_posts and now["gets"] - before["gets"] >= after_gets:
            break
        time.sleep(0.02)
    assert process.poll() is None, "the task came to its end before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    while api.sums()["in_flight"]:
        time.sleep(0.02)
    return Life(began_at=began, end="hard")


def test_every_row_comes_once_and_no_bill_is_unexplained(airflow, simulator, told, tmp_path, database):
    api = simulator("--latency=0.4", "--deferred-latency=1")
    airflow.connect(api.base_url)
    source = tmp_path / "in.jsonl"
    write(source, ({"prompt": f"row {row}", "deferred": row % 2 == 0} for row in range(ROWS)))
    work = tmp_path / "disk"
    arguments = {
        "input": str(source),
        "output": str(work / "out.jsonl"),
        "checkpoint": database,
        "options": {
            "concurrency": CONCURRENCY,
            "poll_interval": 0.3,
            "rps": 40,
            "max_attempts": 99,
        },
    }
    airflow.dag("dies", DAG.format(arguments=arguments))
    lives = []
    for moment in ({"after_posts": 25, "after_gets": 0}, {"after_posts": 20, "after_gets": 20}):
        work.mkdir()
        lives.append(killed(airflow, api, **moment))
        shutil.rmtree(work)
    work.mkdir()
    lives.append(Life(began_at=time.time(), end="drained"))
    airflow.run(sys.executable, airflow.home / "dags" / "dies.py")
    assert "STATE success" in airflow.said, airflow.said[-5000:]
    summary = airflow.xcom("dies")
    assert (summary["rows"], summary["succeeded"], summary["outstanding"]) == (ROWS, ROWS, 0)
    audit = subprocess.check_output(
        [sys.executable, "-m", "bulkgrok", "audit", f"{database}#{summary['run_id']}", "--json"],
        env=airflow.environ, text=True,
    )  # fmt: skip
    verdict = judge(
        rows=ROWS,
        results=told.results(work / "out.jsonl"),
        errors=told.lines(work / "out.errors.jsonl"),
        base=work,
        ledger=api.ledger(),
        audit=json.loads(audit),
        lives=lives,
        concurrency=CONCURRENCY,
    )
    assert verdict.wrong == [], verdict
    assert (verdict.answered, verdict.unexplained) == (ROWS, 0)
    print(verdict)
