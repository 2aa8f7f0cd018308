"""What the provider says of itself, where Airflow is not even installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import bulkgrok.airflow
from bulkgrok.airflow.provider import get_provider_info


def test_the_provider_is_registered_and_described_without_importing_airflow():
    code = (
        "import sys, bulkgrok.airflow; from bulkgrok.airflow import get_provider_info; info = get_provider_info();"
        "assert info['connection-types'][0]['connection-type'] == 'xai';"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'airflow']"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    registered = project["entry-points"]["apache_airflow_provider"]
    assert registered == {"provider_info": "bulkgrok.airflow.provider:get_provider_info"}


def test_what_it_describes_is_there():
    info = get_provider_info()
    described = {
        module for what in ("operators", "hooks", "triggers") for one in info[what] for module in one["python-modules"]
    }
    assert described == {f"bulkgrok.airflow.{name}" for name in ("operator", "hook", "trigger")}
    assert info["connection-types"][0]["hook-class-name"] == "bulkgrok.airflow.hook.XAIHook"
    assert set(bulkgrok.airflow.__all__) == set(dir(bulkgrok.airflow))
