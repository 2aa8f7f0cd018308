"""Links, pipes, devices and folders in the way: nothing of anybody else's is written to, and nobody is kept waiting."""

import contextlib
import json
import os
import socket
import stat

import pytest

from bulkgrok.core.errors import BulkgrokError, InputError, StorageFailed, UsageError
from bulkgrok.core.model import Reply

THEIRS = b"what somebody else wrote\n"
RUN_FILES = (
    "checkpoint.db", "checkpoint.db-wal", "checkpoint.db-shm", "checkpoint.db-journal", "checkpoint.db-mark", "ballast",
    "spill.jsonl", "run.lock", "status.json", ".status.json.tmp",
)  # fmt: skip


class Api:
    """Answers every prompt; counts requests."""

    def __init__(self):
        self.requests = 0

    def __call__(self, asked):
        self.requests += 1
        body = {"id": "a", "choices": [{"message": {"content": "yes"}}]}
        return Reply(status=200, body=json.dumps(body).encode())


@pytest.fixture
def api():
    return Api()


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {row}"}) + "\n" for row in range(5)))
    return path


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(THEIRS)
    return path


def put(kind, place, victim):
    """Put something in a place where a run wants to have a file."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    match kind:
        case "link":
            place.symlink_to(victim)
        case "link to nothing":
            place.symlink_to(victim.with_name("nothing"))
        case "link to an empty file":
            victim.with_name("empty").touch()
            place.symlink_to(victim.with_name("empty"))
        case "second name":
            place.hardlink_to(victim)
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "socket":
            with contextlib.chdir(place.parent), socket.socket(socket.AF_UNIX) as where:
                where.bind(place.name)  # the whole path would be too long for it


KINDS = ("link", "link to nothing", "link to an empty file", "second name", "pipe", "folder", "socket")


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_lies_in_the_place_of_a_runs_own_file_is_not_written_to(alone, api, source, victim, kind, name):
    place = source.with_name("in.bulkgrok") / name
    put(kind, place, victim)
    refused = None
    try:
        report = alone(api, input=source).run()
    except BulkgrokError as error:
        refused = error
    if refused is not None:
        assert refused.exit_code in {2, 6, 8}
        assert str(source.with_name("in.bulkgrok")) in refused.message
        assert api.requests == 0
    else:
        assert report.exit_code == 0
        assert len(source.with_name("in.results.jsonl").read_bytes().splitlines()) == 5
    assert victim.read_bytes() == THEIRS
    assert not victim.with_name("nothing").exists()
    assert kind != "link to an empty file" or victim.with_name("empty").read_bytes() == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["in.results.jsonl", "in.errors.jsonl", "out.parquet"])
def test_whatever_lies_in_the_place_of_an_output_is_refused_before_anything_is_sent(
    alone, api, source, victim, kind, name
):
    if (kind, name) == ("folder", "out.parquet"):
        return  # a folder of parts, as -o says
    put(kind, source.with_name(name), victim)
    flags = {"output": source.with_name(name)} if name == "out.parquet" else {}
    if kind == "link to an empty file":  # a link to a file is written through: the user's own, and nothing is lost
        assert alone(api, input=source, **flags).run().exit_code == 0
        assert source.with_name(name).is_symlink()
    else:
        with pytest.raises(UsageError) as error:
            alone(api, input=source, **flags).run()
        assert name in error.value.message
        assert api.requests == 0
        assert not source.with_name("in.bulkgrok").exists()
    assert victim.read_bytes() == THEIRS
    assert not victim.with_name("nothing").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".in.results.jsonl.tmp", ".in.errors.jsonl.tmp", ".out.parquet.tmp"])
def test_whatever_lies_in_the_place_of_a_temporary_file_is_not_written_to(alone, api, source, victim, kind, name):
    put(kind, source.with_name(name), victim)
    flags = {"output": source.with_name("out.parquet")} if "parquet" in name else {}
    report = alone(api, input=source, **flags).run()
    assert report.exit_code in {0, 8}
    assert report.exit_code == 0 or name in str(report.stopped) or "could not be written" in str(report.stopped)
    assert victim.read_bytes() == THEIRS
    assert not victim.with_name("nothing").exists()


def test_a_file_put_there_after_the_check_is_not_emptied(alone, api, source, victim):
    def swap(api, _engine):
        if api.requests == 0:
            out = source.with_name("in.results.jsonl")
            out.unlink(missing_ok=True)
            out.symlink_to(victim)

    report = alone(api, hook=swap, input=source).run()
    assert report.exit_code == 8
    assert victim.read_bytes() == THEIRS
    source.with_name("in.results.jsonl").unlink()
    report = alone(api, input=source).run()
    assert (report.exit_code, api.requests) == (0, 5)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/stdout", "/dev/fd/1", "/proc/self/mem"])
def test_devices_are_no_outputs(alone, api, source, device):
    with pytest.raises(UsageError, match="resumed reads them back"):
        alone(api, input=source, output=device).run()
    link = source.with_name("link.jsonl")
    link.symlink_to(device)
    with pytest.raises(UsageError):
        alone(api, input=source, output=link).run()
    assert api.requests == 0


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "link to nothing"])
def test_inputs_that_are_no_files_are_refused_at_once(alone, api, source, victim, kind):
    place = source.with_name("other.jsonl")
    put(kind, place, victim)
    with pytest.raises(InputError):
        alone(api, input=place).run()
    assert api.requests == 0
    assert not source.with_name("other.bulkgrok").exists()


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/proc/self/environ"])
def test_devices_are_no_inputs(alone, api, tmp_path, device):
    with pytest.raises((InputError, UsageError)):
        alone(api, input=device, output=tmp_path / "out.jsonl").run()
    assert api.requests == 0


def test_a_run_directory_that_everybody_can_write_to_is_refused(alone, api, source):
    folder = source.with_name("in.bulkgrok")
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="Every user can write"):
        alone(api, input=source).run()
    folder.chmod(0o1777)
    with pytest.raises(UsageError, match="Every user can write"):
        alone(api, input=source, run_dir=source.with_name("run"), checkpoint=folder / "c.db").run()
    assert list(folder.iterdir()) == []
    folder.chmod(0o775)
    assert alone(api, input=source).run().exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_laid_out_is_not_trusted(alone, api, source):
    folder = source.with_name("in.bulkgrok")
    folder.mkdir(mode=0o755)
    os.chown(folder, 4321, 4321)
    with pytest.raises(UsageError, match="belongs to another user"):
        alone(api, input=source).run()
    folder.rmdir()
    results = source.with_name("in.results.jsonl")
    results.touch(mode=0o666)
    os.chown(results, 4321, 4321)
    with pytest.raises(UsageError, match="was not written by this run"):
        alone(api, input=source).run()
    assert (api.requests, results.read_bytes()) == (0, b"")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", [".00000000-0.part", "00000000-0.mp4"])
def test_media_go_around_what_is_in_their_way(tmp_path, victim, kind, name):
    from bulkgrok.dispatch.placing import MediaFolder  # noqa: PLC0415 - only here

    put(kind, tmp_path / "media" / name, victim)
    folder = MediaFolder(tmp_path / "media", base=tmp_path)
    part = folder.begin(0, "0", 0)
    part.write(b"video", 0)
    asset = folder.place(part, "https://v")
    part.discard()
    assert (tmp_path / asset.path).read_bytes() == b"video"
    assert (tmp_path / asset.path).name in {"00000000-0.mp4", "00000000-0-2.mp4"}
    assert victim.read_bytes() == THEIRS
    assert stat.S_IMODE((tmp_path / asset.path).stat().st_mode) == 0o600


def test_a_checkpoint_that_is_a_link_is_refused(alone, api, source, victim):
    place = source.with_name("c.db")
    put("link to an empty file", place, victim)
    with pytest.raises(StorageFailed, match="symbolic link"):
        alone(api, input=source, checkpoint=place).run()
    assert victim.with_name("empty").read_bytes() == b""
