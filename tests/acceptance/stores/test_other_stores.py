"""Azure's store and Google's, each against an emulator on loopback, where one is installed.

Azurite comes from npm (`npm install -g azurite`), the other with `tox run -e s3`. Every Azurite has the same key.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from harness.command import environment
from harness.s3 import free_port
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from bulkgrok.objects.store import _with_account

AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
ACCOUNT = "devstoreaccount1"
LINES = b"".join(json.dumps({"prompt": f"question {n}"}).encode() + b"\n" for n in range(30))


def program(name):
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def started(*command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return process


def round_trip(bulkgrok, tmp_path, filesystem, base, query, env):
    """Write an input with pyarrow, run, type it again, read the output with pyarrow."""
    scheme, _, below = base.partition("://")
    bucket = below.rpartition("@")[2]
    with filesystem.open_output_stream(f"{bucket}/in put.jsonl") as file:
        file.write(LINES)
    for _ in range(2):
        done = bulkgrok(
            "run", f"{base}/in put.jsonl{query}", "-o", f"{base}/out/{query}", "--simulate", cwd=tmp_path, env=env
        )
        assert done.returncode == 0, done.stderr
        assert AZURE_KEY not in done.stderr + done.stdout
    with filesystem.open_input_file(f"{bucket}/out/part-00000000.parquet") as file:
        rows = pq.read_table(pa.BufferReader(file.read()))["row"].to_pylist()
    assert sorted(rows) == list(range(30))
    missing = bulkgrok(
        "run", f"{base}/none.jsonl{query}", "-o", f"{base}/other/{query}", "--simulate", cwd=tmp_path, env=env
    )
    assert missing.returncode == 2, missing.stderr
    assert "There is no input" in missing.stderr, scheme


def test_azure_is_read_and_written_by_either_scheme(bulkgrok, tmp_path):
    azurite, port = program("azurite-blob"), free_port()
    place = f"127.0.0.1:{port}"
    command = (azurite, "--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck")
    process = started(*command, port=port)
    try:
        filesystem = pafs.AzureFileSystem(
            ACCOUNT, account_key=AZURE_KEY, blob_storage_authority=place, dfs_storage_authority=place,
            blob_storage_scheme="http", dfs_storage_scheme="http",
        )  # fmt: skip
        filesystem.create_dir("container")
        filesystem.create_dir("second")
        query = f"?blob_storage_authority={place}&dfs_storage_authority={place}&enable_tls=false"
        env = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}
        round_trip(bulkgrok, tmp_path, filesystem, "az://container", query, env)
        other = tmp_path / "other"
        other.mkdir()
        round_trip(bulkgrok, other, filesystem, f"abfs://{ACCOUNT}@second", query, env)
    finally:
        process.kill()
        process.wait()


def test_google_is_read_and_written(bulkgrok, tmp_path):
    emulator, port = program("gcp-storage-emulator"), free_port()
    command = (
        emulator,
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--in-memory",
        "--default-bucket",
        "bucket",
    )
    process = started(*command, port=port)
    try:
        filesystem = pafs.GcsFileSystem(anonymous=True, scheme="http", endpoint_override=f"127.0.0.1:{port}")
        query = f"?scheme=http&endpoint_override=127.0.0.1:{port}"
        round_trip(bulkgrok, tmp_path, filesystem, "gs://anonymous@bucket", query, environment())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("root", "environ", "expected"),
    [
        ("container", {"AZURE_STORAGE_ACCOUNT_NAME": "a"}, "a@container"),
        ("container", {"AZURE_STORAGE_ACCOUNT": "a"}, "a@container"),
        ("container", {}, "container"),
        ("b@container", {"AZURE_STORAGE_ACCOUNT_NAME": "a"}, "b@container"),
        ("c@b.dfs.core.windows.net", {"AZURE_STORAGE_ACCOUNT_NAME": "a"}, "c@b.dfs.core.windows.net"),
    ],
)
def test_a_container_alone_is_in_the_account_of_the_environment(root, environ, expected):
    assert _with_account(root, environ) == expected
