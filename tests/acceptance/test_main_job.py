"""A file in, every row answered once out, on real HTTP."""

import json

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

MIXED = [
    {"custom_id": "plain", "prompt": "What is 2+2?"},
    {"custom_id": "messages", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.5},
    {"custom_id": "later", "prompt": "Take your time", "deferred": True},
    {"custom_id": "later-2", "prompt": "Take your time too", "mode": "deferred"},
    {
        "custom_id": "batch",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "grok-4.3", "messages": [{"role": "user", "content": "batch line"}]},
    },
    {"custom_id": "video", "kind": "video", "prompt": "A rocket", "duration": 2, "resolution": "720p"},
    {"custom_id": "edit", "kind": "video", "prompt": "Make it slow", "video": "https://example.com/in.mp4"},
    {
        "custom_id": "extend",
        "kind": "video-extension",
        "prompt": "Go on",
        "video": {"url": "https://example.com/a.mp4"},
    },
    {
        "custom_id": "batch-video",
        "method": "POST",
        "url": "/v1/videos/generations",
        "body": {"prompt": "sea", "duration": 1},
    },
    {"custom_id": "streamed", "prompt": "stream me", "stream": True},
    {"custom_id": "refused", "prompt": "[[refuse]] something bad"},
    {"custom_id": "too-long", "kind": "video", "prompt": "x", "duration": 99},
    {"custom_id": "both", "prompt": "x", "messages": [{"role": "user", "content": "x"}]},
    {"custom_id": "none"},
]
BROKEN = ["not json", '{"prompt": NaN}', '{"prompt": "\\ud800"}', "[1]", '{"n": ' + "9" * 5000 + "}", "[" * 50_000]


def write_mixed(path):
    path.write_text("\n".join([*(json.dumps(row) for row in MIXED), "", *BROKEN]) + "\n")


def test_a_mixed_file_is_answered_once_a_row_and_the_same_command_again_sends_nothing(
    tmp_path, simulator, bulkgrok, lines
):
    api = simulator("--deferred-latency", "0.3", "--video-latency", "0.3")
    write_mixed(tmp_path / "in.jsonl")
    command = (
        "run",
        tmp_path / "in.jsonl",
        "--concurrency",
        3,
        "--base-url",
        api.base_url,
        "--poll-interval",
        "0.1",
        "--json",
    )
    done = bulkgrok(*command)
    assert done.returncode == 3, done.stderr
    summary = json.loads(done.stdout)
    results, errors = lines(tmp_path / "in.results.jsonl"), lines(tmp_path / "in.errors.jsonl")
    rows = [found["row"] for found in results + errors]
    assert sorted(rows) == list(range(len(MIXED) + len(BROKEN)))
    by_name = {found["custom_id"]: found for found in results}
    assert set(by_name) == {
        "plain", "messages", "later", "later-2", "batch", "video", "edit", "extend", "batch-video", "streamed",
    }  # fmt: skip
    assert {found["custom_id"]: found["error"]["code"] for found in errors if found["row"] < len(MIXED)} == {
        "refused": "moderated",
        "too-long": "invalid_row",
        "both": "invalid_row",
        "none": "invalid_row",
    }
    assert all(found["error"]["line"] == found["row"] + 2 for found in errors if found["row"] >= len(MIXED))
    for name in ("video", "edit", "extend", "batch-video"):
        (asset,) = by_name[name]["bulkgrok"]["assets"]
        assert (tmp_path / asset["path"]).stat().st_size == asset["bytes"] > 0
    assert by_name["streamed"]["response"]["body"]["object"] == "chat.completion"
    assert by_name["later"]["bulkgrok"]["mode"] == "deferred"
    ledger = api.ledger()
    assert ledger["max_in_flight"] <= 3
    assert ledger["gets_after_consumption"] == 0
    assert ledger["media_with_credentials"] == 0
    assert summary["succeeded"] == 10
    assert summary["pending"] == summary["outstanding"] == 0
    before = api.ledger()
    again = bulkgrok(*command)
    assert again.returncode == 3
    assert api.ledger()["posts"] == before["posts"]
    assert api.ledger()["gets"] == before["gets"]
    again_summary = json.loads(again.stdout)
    assert {**again_summary, "duration_s": 0} == {**summary, "duration_s": 0}


def test_the_gsm8k_questions_end_to_end_and_equal_from_and_to_parquet(
    tmp_path, simulator, bulkgrok, lines, shared_data
):
    api = simulator()
    source = shared_data / "gsm8k-test.jsonl"
    questions = lines(source)
    pq.write_table(pa.Table.from_pylist(questions), tmp_path / "q.parquet", row_group_size=200)
    common = ("--prompt", "Question: {{ question }}", "--base-url", api.base_url, "--concurrency", 20)
    done = bulkgrok("run", source, "-o", tmp_path / "a.jsonl", *common)
    assert done.returncode == 0, done.stderr
    done = bulkgrok("run", tmp_path / "q.parquet", "-o", tmp_path / "b.parquet", *common)
    assert done.returncode == 0, done.stderr
    answers = {
        found["row"]: found["response"]["body"]["choices"][0]["message"]["content"]
        for found in lines(tmp_path / "a.jsonl")
    }
    assert sorted(answers) == list(range(1319))
    frame = pd.read_parquet(tmp_path / "b.parquet")
    assert dict(zip(frame["row"], frame["content"], strict=True)) == answers
    read = duckdb.sql(f"select row, content from '{tmp_path}/b.parquet'").fetchall()
    assert dict(read) == answers


def test_the_parts_in_a_folder_are_one_data_set_to_readers_though_videos_lie_beside_them(tmp_path, simulator, bulkgrok):
    api = simulator("--video-latency", "0.1")
    rows = [{"prompt": "one"}, {"kind": "video", "prompt": "two", "duration": 1}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    done = bulkgrok("run", tmp_path / "in.jsonl", "-o", f"{tmp_path}/out/", "--base-url", api.base_url)
    assert done.returncode == 0, done.stderr
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert (tmp_path / "out" / "media" / "00000001-1.mp4").is_file()
    assert sorted(pq.read_table(parts)["row"].to_pylist()) == [0, 1]
    assert sorted(pd.read_parquet(parts)["row"]) == [0, 1]
    assert sorted(duckdb.read_parquet(f"{tmp_path}/out/*.parquet").fetchnumpy()["row"].tolist()) == [0, 1]


def test_the_vbench_prompts_become_videos_on_disk(tmp_path, simulator, bulkgrok, lines, shared_data):
    api = simulator("--video-latency", "0.2", "--media-size", "2000")
    done = bulkgrok(
        "run", shared_data / "vbench-prompts.txt", "--kind", "video", "-o", tmp_path / "v.jsonl",
        "--base-url", api.base_url, "--concurrency", 20, "--poll-interval", "0.3", "--param", "duration=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "v.jsonl")
    assert sorted(line["row"] for line in found) == list(range(946))
    assert len(list((tmp_path / "v.media").glob("*.mp4"))) == 946
    assert api.ledger()["billed"] == 946
