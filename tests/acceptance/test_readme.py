"""What the README tells a newcomer to type is typed here."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulkgrok.config import FLAGS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def blocks(info):
    return re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def simulator():
    """The address of a running `bulkgrok simulator`."""
    process = subprocess.Popen([BIN / "bulkgrok", "simulator"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process.stdout.readline().decode().strip().removeprefix("base_url=")
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture
def newcomer(tmp_path):
    """A folder with the files that the README speaks of."""
    (tmp_path / "inputs.jsonl").write_text(blocks("json")[0], encoding="utf-8")
    (tmp_path / "system.txt").write_text("Be brief.\n", encoding="utf-8")
    pq.write_table(pa.table({"question": ["What is 1 + 1?", "What is 2 + 2?"]}), tmp_path / "questions.parquet")
    return tmp_path


def in_order(program, folder, address):
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BULKGROK_", "XAI_"))}
    environ |= {"PATH": f"{BIN}:{os.environ['PATH']}", "XAI_BASE_URL": address, "XAI_API_KEY": "xai-readme"}
    return subprocess.run(
        program,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_command_of_the_readme_works_in_order(newcomer, simulator):
    script = "\n".join(blocks("bash"))
    done = in_order(["bash", "-euxo", "pipefail", "-c", script], newcomer, simulator)
    assert done.returncode == 0, done.stderr
    results = (newcomer / "inputs.results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(results) == len(blocks("json")[0].splitlines())
    assert '"simulated"' not in "".join(results)
    assert "Every request is explained." in done.stdout
    assert len((newcomer / "questions.results.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_the_python_of_the_readme_works(newcomer, simulator):
    for code in blocks("python"):
        done = in_order([sys.executable, "-W", "error", "-c", code], newcomer, simulator)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("4 0 ")


def test_two_lines_are_enough_and_ci_runs_the_very_same():
    [lines] = blocks("bash two-lines")
    first, second = lines.splitlines()
    assert "pip install" in first
    assert "--simulate" in first
    assert "tox" in second
    script = re.search(r"awk '(.*?)' README.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))[1]
    found = subprocess.run(["awk", script, ROOT / "README.md"], capture_output=True, text=True, check=True)
    assert found.stdout == lines


def test_flags_that_the_readme_names_exist():
    named = set(re.findall(r"`(?:bulkgrok run [^`]*?)?(?:-o, )?--([a-z][a-z-]+)", README))
    known = {flag.name for flag in FLAGS} | {"watch", "help", "version"}
    assert named - known == set()


def test_sample_inputs_that_the_readme_names_exist():
    for name in re.findall(r"sample_inputs/[\w.-]+", blocks("bash two-lines")[0]):
        assert (ROOT / name).is_file()


def test_the_changelog_has_a_place_for_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{version}]" in changelog
