"""The DAGs of docs/airflow.md, run by Airflow as they are printed."""

import io
import re
from pathlib import Path
from urllib.parse import quote

import postgresql
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import s3

DOCS = (Path(__file__).parents[2] / "docs" / "airflow.md").read_text(encoding="utf-8")
DAGS = dict(re.findall(r"^```python dag=(\w+)\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))


def test_every_block_of_python_in_the_docs_is_a_dag_that_is_run_here():
    assert DOCS.count("```python") == len(DAGS)
    assert set(DAGS) == {"bulkgrok_files", "bulkgrok_tables", "bulkgrok_function"}


@pytest.mark.parametrize("name", ["bulkgrok_files", "bulkgrok_function"])
def test_a_file_is_answered_into_a_file(airflow, simulator, told, tmp_path, name):
    api = simulator()
    airflow.connect(api.base_url)
    airflow.set(data=tmp_path)
    told.write(tmp_path / "questions.jsonl", 5)
    assert airflow.test(name, DAGS[name]) == "success", airflow.said[-5000:]
    assert airflow.xcom(name)["succeeded"] == 5
    assert len(told.results(airflow.xcom(name)["output"])) == 5
    assert api.sums()["posts"] == 5


def test_a_table_on_s3_is_answered_into_a_table_on_s3_with_the_run_in_postgresql(airflow, simulator):
    if not s3.available() or postgresql.missing():
        pytest.skip(postgresql.missing() or "moto is not installed: tox run -e airflow")
    api = simulator("--deferred-latency=2")
    database = postgresql.Server()
    try:
        with s3.S3Server() as store:
            airflow.connect(api.base_url, poll_interval=1)
            airflow.environ |= store.environment()
            airflow.set(checkpoint=database.url())
            table = io.BytesIO()
            pq.write_table(pa.table({"question": [f"What is {row} + 1?" for row in range(7)]}), table)
            store.make_bucket("bucket")
            store.put("bucket", "questions.parquet", table.getvalue())
            assert airflow.test("bulkgrok_tables", DAGS["bulkgrok_tables"]) == "success", airflow.said[-5000:]
            assert "Pausing task as DEFERRED" in airflow.said
            kept = (airflow.home / "airflow.db").read_bytes() + airflow.said.encode()
            assert postgresql.PASSWORD.encode() not in kept
            assert quote(postgresql.PASSWORD, safe="").encode() not in kept
            keys = store.keys("bucket", "answers/")
            rows = [
                row
                for key in keys
                if key.endswith(".parquet")
                for row in pq.read_table(io.BytesIO(store.get("bucket", key)))["row"].to_pylist()
            ]
            assert sorted(rows) == list(range(7)), keys
            assert any(key.endswith("_manifest.json") for key in keys)
            assert (api.sums()["posts"], airflow.xcom("bulkgrok_tables")["succeeded"]) == (7, 7)
    finally:
        database.remove()
