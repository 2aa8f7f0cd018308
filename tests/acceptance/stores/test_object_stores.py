"""The command over a real S3 server: what it reads and writes, what it refuses, what it says."""

import gzip
import itertools
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from harness.command import COMMAND, Simulator, environment
from harness.s3 import SECRET
from harness.wire import Wire
from pyarrow import parquet as pq

from bulkgrok.core.address import parse
from bulkgrok.core.errors import RunMismatch
from bulkgrok.objects import Unreachable, store, store_of
from bulkgrok.readers import ObjectInput, open_reader

PROMPTS = [f"question {n}, Grüße \u2028 {'long ' * (n % 50)}" for n in range(300)]
LINES = b"".join(json.dumps({"custom_id": f"q{n}", "prompt": text}).encode() + b"\n" for n, text in enumerate(PROMPTS))


def table():
    sink = pa.BufferOutputStream()
    columns = {"custom_id": [f"q{n}" for n in range(len(PROMPTS))], "prompt": PROMPTS}
    pq.write_table(pa.table(columns), sink, row_group_size=70)
    return sink.getvalue().to_pybytes()


NUMBERS = itertools.count()
INPUTS = {
    "in put.jsonl": lambda: LINES,
    "ü/100%.jsonl.gz": lambda: gzip.compress(LINES),
    "a?b#c.jsonl.zst": lambda: pa.Codec("zstd").compress(LINES, asbytes=True),
    "x..y.parquet": table,
    "t.txt": lambda: b"".join(text.encode() + b"\n" for text in PROMPTS),
}


@pytest.fixture(scope="module")
def bucket(s3_server):
    s3_server.make_bucket("stores")
    return s3_server


@pytest.fixture(scope="module")
def api():
    found = Simulator("--latency=0.01", "--deferred-latency=0.2", "--video-latency=0.2", "--media-size=3000")
    yield found
    found.stop()


@pytest.fixture
def run(bulkgrok, bucket, api, tmp_path, request):
    """Return a function that types `bulkgrok run` for a place of this test's own, its run directory at hand."""
    prefix = f"{re.sub(r'[^A-Za-z0-9]+', '-', request.node.name)[:60]}{next(NUMBERS)}"

    def typed(source, output, *flags, url=None, **env):
        return bulkgrok(
            "run", address(source), "-o", address(output), "--base-url", api.base_url, "--progress", "none", *flags,
            cwd=tmp_path, env={**bucket.environment(url), **env},
        )  # fmt: skip

    def address(name):
        escaped = name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
        return name if "://" in name or name.startswith("/") else f"s3://stores/{prefix}/{escaped}"

    typed.key = lambda name: f"{prefix}/{name}"
    typed.address = address
    return typed


def rows_of(data):
    return [json.loads(line) for line in data.split(b"\n") if line]


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_of_every_format_and_odd_names_are_read(run, bucket, name):
    bucket.put("stores", run.key(name), INPUTS[name]())
    done = run(name, "out/", "--output-format", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = rows_of(bucket.get("stores", run.key("out/part-00000000.jsonl")))
    assert sorted(row["row"] for row in rows) == list(range(len(PROMPTS)))


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_holds_what_the_documents_say_and_is_delivered_again_where_it_is_missing(run, bucket, slash):
    bucket.put("stores", run.key("in.jsonl"), LINES)
    output = f"out{slash}"
    assert run("in.jsonl", output).returncode == 0
    before = {key: bucket.get("stores", key) for key in bucket.keys("stores", run.key("out"))}
    names = [key.removeprefix(run.key("out/")) for key in before]
    assert names == ["_errors.jsonl", "_manifest.json", "part-00000000.parquet"]
    (part,) = json.loads(before[run.key("out/_manifest.json")])["parts"]
    assert (part["name"], part["rows"]) == ("part-00000000.parquet", len(PROMPTS))
    for key in before:
        bucket.delete("stores", key)
        done = run("in.jsonl", output)
        assert done.returncode == 0, done.stderr
        after = {key: bucket.get("stores", key) for key in bucket.keys("stores", run.key("out"))}
        after.pop(run.key("out/"), None)  # pyarrow leaves it where it deletes
        assert after == before


def test_one_object_as_output_is_there_whole_at_the_end_with_its_errors_beside_it(run, bucket):
    bucket.put("stores", run.key("in.jsonl"), LINES + b'{"neither": 1}\n')
    assert run("in.jsonl", "out.jsonl").returncode == 3
    assert len(rows_of(bucket.get("stores", run.key("out.jsonl")))) == len(PROMPTS)
    assert [row["row"] for row in rows_of(bucket.get("stores", run.key("out.errors.jsonl")))] == [len(PROMPTS)]


def test_a_changed_input_is_refused_before_anything_is_sent(run, bucket, api):
    bucket.put("stores", run.key("in.jsonl"), LINES)
    assert run("in.jsonl", "out/", "--limit", "5").returncode == 0
    before = api.sums()["posts"]
    bucket.put("stores", run.key("in.jsonl"), LINES.replace(b"question 7", b"question 8", 1))
    done = run("in.jsonl", "out/")
    assert done.returncode == 6, done.stderr
    assert "changed" in done.stderr
    assert "Nothing was sent" in done.stderr
    bucket.put("stores", run.key("in.jsonl"), LINES)  # the same content has the same ETag
    assert api.sums()["posts"] == before
    assert run("in.jsonl", "out/").returncode == 0


def test_what_is_not_ours_is_refused_and_left_alone(run, bucket, api):
    bucket.put("stores", run.key("in.jsonl"), LINES)
    before = api.sums()["posts"]
    for name in ("out/part-00000000.jsonl", "out/data.parquet", "out/_manifest.json"):
        bucket.put("stores", run.key(name), b'{"mine": 1}\n')
        done = run("in.jsonl", "out/")
        assert done.returncode == 2, done.stderr
        assert name.rpartition("/")[2] in done.stderr
        assert bucket.get("stores", run.key(name)) == b'{"mine": 1}\n'
        bucket.delete("stores", run.key(name))
    bucket.put("stores", run.key("out.jsonl"), b'{"mine": 1}\n')
    assert run("in.jsonl", "out.jsonl").returncode == 2
    assert api.sums()["posts"] == before


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("none.jsonl", "out/", "There is no input"),
        ("s3://no-such-bucket/in.jsonl", "out/", "no such bucket"),
        ("in.jsonl", "s3://no-such-bucket/out/", "no such bucket"),
        ("in.jsonl", "s3://no-such-bucket/out.parquet", "no such bucket"),
    ],
)
def test_what_is_not_there_is_exit_2_in_words(run, bucket, source, output, words):
    bucket.put("stores", run.key("in.jsonl"), LINES)
    done = run(source, output)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "othing was sent" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_remote_input_needs_a_name_for_its_output(bulkgrok, bucket, api, tmp_path):
    done = bulkgrok("run", "s3://stores/in.jsonl", "--base-url", api.base_url, cwd=tmp_path, env=bucket.environment())
    assert done.returncode == 2
    assert "-o results.jsonl" in done.stderr


class Answering:
    """A server that says the same to everything, or nothing."""

    def __init__(self, reply):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._reply = reply
        self._held = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            self._held.append(one)
            if self._reply:
                one.recv(65536)
                one.sendall(self._reply)
                one.close()

    def close(self):
        self._socket.close()
        for one in self._held:
            one.close()


@pytest.mark.parametrize("what", ["input", "output"])
def test_a_store_that_does_not_let_us_in_is_exit_2_without_its_words(run, tmp_path, what):
    body = b"<Error><Code>AccessDenied</Code><Message>Denied to topsecret</Message></Error>"
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    server = Answering(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    source = tmp_path / "in.jsonl"
    source.write_bytes(LINES)
    try:
        if what == "input":
            done = run("in.jsonl", f"{tmp_path}/out.jsonl", url=server.url)
        else:
            done = run(str(source), "out/", url=server.url)
    finally:
        server.close()
    assert done.returncode == 2, done.stderr
    assert "ACCESS_DENIED" in done.stderr
    assert "topsecret" not in done.stderr
    assert SECRET not in done.stderr


def test_a_store_that_cannot_be_reached_is_exit_2_at_the_start(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    began = time.monotonic()
    done = run("in.jsonl", "out/", url=url)
    assert done.returncode == 2, done.stderr
    assert "cannot be reached" in done.stderr
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(store, "_IDLE_S", 1.0)
    server = Answering(b"")
    address = parse(f"s3://stores/x?endpoint_override={server.url.removeprefix('http://')}&scheme=http&region=x")
    began = time.monotonic()
    with pytest.raises(Unreachable):
        store_of(address).look(address.key)
    assert time.monotonic() - began < 20
    server.close()


def test_a_store_that_goes_away_during_the_run_ends_it_with_8_and_nothing_is_lost(run, bucket, api, tmp_path):
    wire = Wire(bucket.port)
    bucket.put("stores", run.key("in.jsonl"), LINES)
    program = (
        "from bulkgrok.sinks import parts, patience\n"
        "parts.PartsSink.__init__.__kwdefaults__.update(rows_a_part=20)\n"
        "patience.LONGEST_S = 2.0\n"
        "from bulkgrok.__main__ import main\n"
        "raise SystemExit(main())\n"
    )
    process = subprocess.Popen(
        [COMMAND[0], "-c", program, "run", run.address("in.jsonl"), "-o", run.address("out/"), "--rps", "60",
         "--base-url", api.base_url, "--progress", "none"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=environment(**bucket.environment(f"http://127.0.0.1:{wire.port}")),
    )  # fmt: skip
    until = time.monotonic() + 60
    while not any("part-" in key for key in bucket.keys("stores", run.key("out"))):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    wire.unplug()
    said = process.communicate(timeout=90)[1]
    wire.stop()
    assert process.returncode == 8, said
    assert "cannot be reached" in said
    assert "kept in the checkpoint" in said
    posts = api.sums()["posts"]
    done = run("in.jsonl", "out/", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["succeeded"], report["in_doubt"], report["lost"]) == (len(PROMPTS), 0, 0)
    assert api.sums()["posts"] <= posts + len(PROMPTS)
    keys = [key for key in bucket.keys("stores", run.key("out")) if "part-" in key]
    rows = [row for key in keys for row in pq.read_table(pa.BufferReader(bucket.get("stores", key)))["row"].to_pylist()]
    assert sorted(rows) == list(range(len(PROMPTS)))


def test_videos_are_put_beside_the_parts_never_over_what_is_there_and_again_where_they_are_missing(run, bucket):
    rows = [{"custom_id": f"v{n}", "kind": "video", "prompt": f"clip {n}", "duration": 1} for n in range(3)]
    bucket.put("stores", run.key("in.jsonl"), b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    bucket.put("stores", run.key("out/media/00000001-v1.mp4"), b"somebody's")
    done = run("in.jsonl", "out/", "--output-format", "jsonl", "--poll-interval", "0.1")
    assert done.returncode == 0, done.stderr
    found = {}
    for row in rows_of(bucket.get("stores", run.key("out/part-00000000.jsonl"))):
        (asset,) = row["bulkgrok"]["assets"]
        found[row["row"]] = asset
        data = bucket.get("stores", run.key(f"out/{asset['path']}"))
        assert len(data) == asset["bytes"]
    assert found[0]["path"] == "media/00000000-v0.mp4"
    assert found[1]["path"] == "media/00000001-v1-2.mp4"
    assert bucket.get("stores", run.key("out/media/00000001-v1.mp4")) == b"somebody's"
    before = bucket.get("stores", run.key("out/media/00000000-v0.mp4"))
    bucket.delete("stores", run.key("out/media/00000000-v0.mp4"))
    assert run("in.jsonl", "out/", "--output-format", "jsonl").returncode == 0
    assert bucket.get("stores", run.key("out/media/00000000-v0.mp4")) == before


def test_a_run_is_found_by_the_address_it_reads_or_writes(run, bulkgrok, bucket, tmp_path):
    bucket.put("stores", run.key("in.jsonl"), LINES)
    assert run("in.jsonl", "out/").returncode == 0
    assert (tmp_path / "out.bulkgrok" / "checkpoint.db").is_file()
    for name in ("in.jsonl", "out", "out/", "out/part-00000000.parquet"):
        told = bulkgrok("status", run.address(name), "--json", cwd=tmp_path)
        assert told.returncode == 0, told.stderr
        report = json.loads(told.stdout)
        assert (report["succeeded"], report["errors"]) == (len(PROMPTS), run.address("out/_errors.jsonl"))
    assert bulkgrok("audit", run.address("out/"), cwd=tmp_path).returncode == 0
    missing = bulkgrok("status", "s3://stores/elsewhere/", cwd=tmp_path)
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr


def test_no_secret_is_kept_or_said(run, bucket, tmp_path):
    bucket.put("stores", run.key("in.jsonl"), LINES)
    done = run("in.jsonl", "out/", "--log-level", "debug")
    assert done.returncode == 0
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in kept
    assert SECRET not in done.stderr + done.stdout
    refused = run("in.jsonl", f"s3://AKIA:{SECRET.replace('/', '')}@stores/out/")
    assert refused.returncode == 2
    assert SECRET.replace("/", "") not in refused.stderr


def test_an_output_of_local_files_moves_to_a_bucket_at_no_cost(run, bulkgrok, bucket, api, tmp_path):
    video = b'{"kind": "video", "prompt": "clip", "duration": 1}\n'
    (tmp_path / "in.jsonl").write_bytes(LINES + video)
    flags = (
        "--base-url", api.base_url, "--progress", "none", "--poll-interval", "0.1", "--run-dir", tmp_path / "run",
    )  # fmt: skip
    source = tmp_path / "in.jsonl"
    assert bulkgrok("run", source, "-o", tmp_path / "out.jsonl", *flags, env=bucket.environment()).returncode == 0
    posts = api.sums()["posts"]
    moved = bulkgrok("run", source, "-o", run.address("out/"), *flags, env=bucket.environment(), cwd=tmp_path)
    assert moved.returncode == 0, moved.stderr
    assert api.sums()["posts"] == posts
    part = pq.read_table(pa.BufferReader(bucket.get("stores", run.key("out/part-00000000.parquet"))))
    assert sorted(part["row"].to_pylist()) == list(range(len(PROMPTS) + 1))
    ((asset,),) = [assets for assets in part["assets"].to_pylist() if assets]
    assert Path(asset["path"]).stat().st_size == asset["bytes"]  # it stays where it is, and is named in full
    Path(asset["path"]).unlink()
    again = bulkgrok("run", source, "-o", run.address("out/"), *flags, env=bucket.environment(), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert bucket.keys("stores", run.key("out/media")) == [run.key("out/media/00000300-300.mp4")]


def test_nothing_that_matters_lies_in_the_scratch_folder(run, bucket, api, tmp_path):
    bucket.put("stores", run.key("in.jsonl"), LINES)
    assert run("in.jsonl", "out/", "--limit", "50").returncode == 0
    shutil.rmtree(tmp_path / "out.bulkgrok" / "scratch")
    assert run("in.jsonl", "out/").returncode == 0


def test_many_objects_are_listed_whole(s3_server):
    s3_server.make_bucket("many-objects")
    names = [f"{n:05d} ü%.txt" for n in range(1100)]
    for name in names:
        s3_server.put("many-objects", f"folder/{name}", b"x")
    found = store_of(parse("s3://many-objects")).names("folder")
    assert list(found) == names
    assert set(found.values()) == {1}


def test_an_upload_that_is_broken_off_leaves_no_object(s3_server):
    s3_server.make_bucket("broken-off")
    place = store_of(parse("s3://broken-off"))

    def blocks():
        yield b"x" * (12 << 20)
        msg = "the disk broke"
        raise OSError(msg)

    with pytest.raises(OSError, match="the disk broke"):
        place.put("half", blocks(), size=13 << 20)
    assert s3_server.keys("broken-off") == []


def test_an_object_that_changes_while_it_is_read_stops_the_reading(s3_server):
    s3_server.make_bucket("changing")
    data = LINES * 60
    s3_server.put("changing", "in.jsonl", data)
    source = ObjectInput(address=parse("s3://changing/in.jsonl"))
    chunks = open_reader(source.pin(source.look())).chunks()
    next(chunks)
    s3_server.put("changing", "in.jsonl", data.replace(b"question", b"Question"))
    with pytest.raises(RunMismatch, match="changed"):
        list(chunks)


def test_the_program_in_the_documents_reads_what_a_run_wrote(run, bucket):
    document = (Path(__file__).parents[3] / "docs" / "object-stores.md").read_text("utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    bucket.put("stores", run.key("in.jsonl"), LINES)
    assert run("in.jsonl", "answers/").returncode == 0
    program = program.replace("s3://bucket/answers", run.address("answers"))
    done = subprocess.run(
        [COMMAND[0], "-c", program],
        env=environment(**bucket.environment()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{len(PROMPTS)} answers\n"), done.stderr
