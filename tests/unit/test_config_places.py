"""Where the files of a run lie."""

from pathlib import Path

import pytest

from bulkgrok.config import find_run_dirs, from_keywords, places
from bulkgrok.core.errors import UsageError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_API_KEY", "xai-test")


def located(source, **keywords):
    found = places(from_keywords(source, **keywords))
    here = Path.cwd()
    return {
        name: getattr(found, name).relative_to(here).as_posix()
        for name in ("output", "errors", "media_dir", "asset_base", "run_dir", "checkpoint")
    } | {"format": found.output_format, "folder": found.folder}


@pytest.mark.parametrize(
    "name",
    ["inputs.jsonl", "inputs.jsonl.gz", "inputs.txt.zst", "inputs.parquet", "inputs.ndjson.zstd", "inputs.JSONL"],
)
def test_without_an_output_everything_lies_beside_the_input(name):
    assert located(f"data/{name}") == {
        "output": "data/inputs.results.jsonl",
        "errors": "data/inputs.errors.jsonl",
        "media_dir": "data/inputs.media",
        "asset_base": "data",
        "run_dir": "data/inputs.bulkgrok",
        "checkpoint": "data/inputs.bulkgrok/checkpoint.db",
        "format": "jsonl",
        "folder": False,
    }


def test_a_name_without_a_known_suffix_is_kept_whole():
    assert located("data.csv")["output"] == "data.csv.results.jsonl"
    assert located(".jsonl")["output"] == ".jsonl.results.jsonl"


def test_the_default_output_takes_the_format_that_is_asked_for():
    assert located("inputs.jsonl", output_format="parquet")["output"] == "inputs.results.parquet"


@pytest.mark.parametrize(
    ("output", "stem", "kind"),
    [("x/y.jsonl", "y", "jsonl"), ("x/y.parquet", "y", "parquet"), ("x/y.json", "y", "jsonl"), ("x/y", "y", "jsonl"),
     ("x/y.txt", "y", "jsonl"), ("x/y.v2", "y.v2", "jsonl")],
)  # fmt: skip
def test_an_output_file_names_the_others(output, stem, kind):
    found = located("in.jsonl", output=output)
    assert found["output"] == output
    assert found["errors"] == f"x/{stem}.errors.jsonl"
    assert found["media_dir"] == f"x/{stem}.media"
    assert found["run_dir"] == f"x/{stem}.bulkgrok"
    assert (found["format"], found["folder"]) == (kind, False)


def folder_of_parts(kind):
    return {
        "output": "x/out",
        "errors": "x/out/_errors.jsonl",
        "media_dir": "x/out/media",
        "asset_base": "x/out",
        "run_dir": "x/out.bulkgrok",
        "checkpoint": "x/out.bulkgrok/checkpoint.db",
        "format": kind,
        "folder": True,
    }


def test_a_trailing_slash_or_an_existing_folder_is_a_folder_of_parquet_parts():
    assert located("in.jsonl", output="x/out/") == folder_of_parts("parquet")
    assert located("in.jsonl", output="x/out/", output_format="jsonl") == folder_of_parts("jsonl")
    Path("x/out").mkdir(parents=True)
    assert located("in.jsonl", output="x/out") == folder_of_parts("parquet")


def test_places_can_be_chosen_one_by_one():
    found = located("in.jsonl", run_dir="r", checkpoint="c.db", media_dir="m")
    assert (found["run_dir"], found["checkpoint"], found["media_dir"]) == ("r", "c.db", "m")
    assert found["output"] == "in.results.jsonl"


def test_standard_input_needs_an_output():
    with pytest.raises(UsageError, match="Standard input"):
        located("-")
    assert located("-", output="y.jsonl")["run_dir"] == "y.bulkgrok"


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        ("in.jsonl", {"output": "in.jsonl"}),
        ("y.errors.jsonl", {"output": "y.jsonl"}),
        ("in.jsonl", {"output": "sub/../in.jsonl"}),
        ("in.jsonl", {"output": "alias.jsonl"}),
        ("in.jsonl", {"output": "hard.jsonl"}),
        ("in.jsonl", {"checkpoint": "in.jsonl"}),
        ("in.jsonl", {"log_file": "in.jsonl"}),
        ("in.jsonl", {"output": "y.jsonl", "checkpoint": "y.jsonl"}),
        ("in.jsonl", {"output": "y.jsonl", "log_file": "y.errors.jsonl"}),
        ("in.jsonl", {"output": "r/y.jsonl", "run_dir": "r"}),
        ("in.jsonl", {"media_dir": "r/media", "run_dir": "r"}),
        ("in.jsonl", {"output": "out/", "run_dir": "out/r"}),
        ("in.jsonl", {"output": "out/", "run_dir": "out"}),
        ("in.jsonl", {"run_dir": "in.jsonl"}),
        ("in.jsonl", {"run_dir": "other.txt"}),
        ("in.jsonl", {"output": "other.txt/"}),
        ("in.jsonl", {"output": "y.jsonl.gz"}),
        ("in.jsonl", {"output": "y.parquet.zst"}),
        ("in.jsonl", {"output": "y.parquet", "output_format": "jsonl"}),
        ("in.jsonl", {"output": "y.jsonl", "output_format": "parquet"}),
        ("in.jsonl", {"output": "/"}),
    ],
)
def test_files_that_would_collide_are_refused(source, flags):
    Path("sub").mkdir()
    Path("in.jsonl").write_text("{}", encoding="ascii")
    Path("other.txt").write_text("x", encoding="ascii")
    Path("alias.jsonl").symlink_to("in.jsonl")
    Path("hard.jsonl").hardlink_to("in.jsonl")
    with pytest.raises(UsageError, match="Nothing was sent"):
        located(source, **flags)


@pytest.mark.parametrize(
    "name",
    [
        "inputs.jsonl",
        "inputs.results.jsonl",
        "inputs.errors.jsonl",
        "inputs.bulkgrok",
        "inputs.jsonl.gz",
        "inputs.media",
    ],
)
def test_a_run_is_found_by_its_directory_input_or_output(name):
    run_dir = Path.cwd() / "inputs.bulkgrok"
    run_dir.mkdir()
    assert run_dir in list(find_run_dirs(Path.cwd() / name))


def test_a_run_is_found_by_its_folder_of_parts():
    folder = Path.cwd() / "out"
    folder.mkdir()
    wanted = Path.cwd() / "out.bulkgrok"
    assert wanted in list(find_run_dirs(folder))
    assert wanted in list(find_run_dirs(folder / "_errors.jsonl"))


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/null", "/proc/self/fd/1", "/sys/x.jsonl", "link.jsonl"])
def test_results_cannot_go_to_standard_output_or_a_device(output):
    Path("link.jsonl").symlink_to("/dev/stdout")
    with pytest.raises(UsageError, match="Nothing was sent") as caught:
        located("inputs.jsonl", output=output)
    assert "-o FILE" in caught.value.hint


@pytest.mark.parametrize("output", ["x.csv", "x.TSV", "x.xlsx"])
def test_an_output_named_after_another_format_is_refused(output):
    with pytest.raises(UsageError, match="Nothing was sent") as caught:
        located("inputs.jsonl", output=output)
    assert caught.value.hint == "-o x.jsonl"


@pytest.mark.parametrize(
    ("output", "folder", "output_format"),
    [
        ("s3://bucket/some/out/", True, "parquet"),
        ("s3://bucket/some/out", True, "parquet"),
        ("az://container/out.v2", True, "parquet"),
        ("gs://bucket", True, "parquet"),
        ("s3://bucket/some/out.parquet", False, "parquet"),
        ("s3://bucket/some/out.jsonl", False, "jsonl"),
    ],
)
def test_an_output_in_an_object_store_has_its_run_directory_here(output, folder, output_format):
    found = places(from_keywords("s3://bucket/in.jsonl", output=output))
    assert (found.folder, found.output_format) == (folder, output_format)
    assert found.run_dir.parent == Path.cwd()
    assert found.run_dir.name.endswith(".bulkgrok")
    assert found.run_id == str(found.output)
    if folder:
        assert str(found.errors) == f"{found.output}/_errors.jsonl"
        assert str(found.media_dir) == f"{found.output}/media"
        assert found.asset_base == found.output
    else:
        assert str(found.errors) == "s3://bucket/some/out.errors.jsonl"
        assert str(found.media_dir) == "s3://bucket/some/out.media"
        assert str(found.asset_base) == "s3://bucket/some"
        assert found.run_dir.name == "out.bulkgrok"


@pytest.mark.parametrize(
    ("source", "keywords"),
    [
        ("s3://bucket/in.jsonl", {}),
        ("s3://bucket/in.jsonl", {"output": "s3://bucket/in.jsonl"}),
        ("in.jsonl", {"output": "s3://bucket/out.csv"}),
        ("in.jsonl", {"output": "s3://bucket/out.jsonl.gz"}),
        ("in.jsonl", {"output": "s3://bucket/out/", "media_dir": "videos"}),
        ("in.jsonl", {"output": "out/", "media_dir": "s3://bucket/videos"}),
        ("in.jsonl", {"output": "s3://bucket/out/", "media_dir": "s3://bucket/out"}),
        ("in.jsonl", {"output": "s3://bucket/out.jsonl", "output_format": "parquet"}),
    ],
)
def test_places_in_object_stores_that_cannot_be_are_refused(source, keywords):
    with pytest.raises(UsageError) as caught:
        places(from_keywords(source, **keywords))
    assert "Nothing was sent" in caught.value.message
    assert caught.value.hint
