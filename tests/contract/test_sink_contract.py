"""What every sink promises, over all of them, parametrized from the registry, on a disk and in object stores."""

import io
import json
import os
import random
import resource
from dataclasses import replace
from types import SimpleNamespace

import duckdb
import pandas as pd
import pytest
from harness.s3 import ObjectPath
from pyarrow import fs as pafs

from bulkgrok.core.address import Address
from bulkgrok.core.errors import StorageFailed, UsageError
from bulkgrok.core.model import Answer, Asset, Code, Mode, Position, Settled, Unusable
from bulkgrok.objects import ObjectStore, store_of
from bulkgrok.sinks import SINKS, line, open_sink

FOREIGN = b'{"mine":1}\n{"mine":2}\n'


def settled(n):
    """Outcome number n (from 1): pretty-printed, odd and plain bodies, with and without assets."""
    body = (b'{"n": %d, "text": "a\\nb \xe2\x80\xa8 \xc3\xa9"}' % n, b'{\n  "n": %d,\n  "big": 1e400\n}\n' % n, b"{}")[
        n % 3
    ]
    asset = Asset(url="https://v/1", path=f"media/{n}.mp4", bytes=n, sha256="ab" * 32)
    return Settled(
        seq=n,
        row=n * 7 % 1009,
        line=n,
        custom_id=f"q-{n}",
        kind="video" if n % 5 == 0 else "chat",
        mode=Mode.DEFERRED if n % 2 else Mode.DIRECT,
        model="grok-4.3",
        attempts=1 + n % 3,
        submitted_at=1_790_000_000.25 + n,
        completed_at=1_790_000_003.5 + n,
        request_id=None if n % 4 else f"r-{n}",
        status_code=200,
        body=body,
        cost_usd=None if n % 6 == 0 else n / 1000,
        usage=b'{"total_tokens": %d}' % n,
        assets=(asset,) * (n % 5 == 0),
    )


def summarise(kind, body):
    if body == b"{}":
        return Unusable(code=Code.INVALID_RESPONSE, message="nothing in it")
    return Answer(model="m", usage=None, ticks=None, tokens=(1, 2, 3, 4), content=body.decode(), finish_reason="stop")


class Disk:
    """A sink's place is a folder or a file."""

    remote = False

    def __init__(self, root):
        self.root = root

    def beside(self, root):
        return Disk(root)

    def sink_arguments(self, output):
        return {"output": output}


class PretendBucket(Disk):
    """A folder that is reached as if it were a bucket: no lock, no append, no ETags."""

    remote = True

    def beside(self, root):
        return PretendBucket(root)

    def sink_arguments(self, output):
        bucket = self.root.parent
        output.parent.mkdir(exist_ok=True, parents=True)
        if not output.suffix:
            output.mkdir(exist_ok=True)
        address = Address(scheme="s3", root="pretend", key=output.relative_to(bucket).as_posix())
        store = ObjectStore(pafs.LocalFileSystem(), str(bucket))
        return {"output": address, "stores": lambda _: store, "scratch": self.root / "scratch"}


class RealBucket:
    """A bucket of a real server."""

    remote = True

    def __init__(self, server, local):
        self.server, self.local = server, local
        self.root = ObjectPath(server, "contract", str(local).strip("/"))

    def beside(self, root):
        return RealBucket(self.server, root)

    def sink_arguments(self, output):
        address = Address(scheme="s3", root="contract", key=output.key)
        return {"output": address, "stores": store_of, "scratch": self.local / "scratch"}


class Place:
    """One sink on one place, with a store that has n outcomes and remembers the position."""

    def __init__(self, root, output_format, folder, outcomes=40, lies=None):
        self.lies = lies or Disk(root)
        self.root = root = self.lies.root
        self.kind = (output_format, folder)
        self.output = root / ("out" if folder else f"out.{output_format}")
        self.outbox = [settled(n) for n in range(1, outcomes + 1)]
        self.position = None
        self.sink = None
        self.lenient = False
        self.mark = "a mark"

    def open(self):
        """As the engine opens: check, restore, store the position; a sink that cannot append starts over."""
        output_format, folder = self.kind
        self.sink = open_sink(
            **self.lies.sink_arguments(self.output),
            folder=folder,
            output_format=output_format,
            simulated=False,
            summarise=summarise,
        )
        if folder:
            self.sink._quota._most_rows = 7
        if hasattr(self.sink, "_new_mark"):
            self.sink._new_mark = lambda: self.mark
        self.sink.check(self.position, self.owned)
        self.position = self.sink.restore(self.position)
        if self.rest() and self.position.seq and not self.sink.appendable:
            self.position = self.sink.restore(None)
        return self.sink

    def owned(self, text):
        """Exactly a line of ours; where `lenient`, one that speaks of an outcome of ours."""
        if self.lenient:
            return any(line.speaks_of(text, each) for each in self.outbox)
        return any(line.render(each, simulated=False) == text for each in self.outbox)

    def rest(self):
        return [each for each in self.outbox if each.seq > self.position.seq]

    def feed(self, rng=None, limit=None):
        """Write what is missing in random batches; return whether it was all of it."""
        rest = self.rest()
        done = 0
        while done < len(rest):
            if limit is not None and done >= limit:
                return False
            size = rng.randint(1, 9) if rng else 5
            self.sink.write(rest[done : done + size])
            done += size
            if rng is None or rng.random() < 0.5:
                self.position = self.sink.commit()
        return True

    def settle(self, step):
        """Call a step of the sink as often as it wants to be called, storing its position each time."""
        self.position = step()
        while self.sink.unfinished:
            self.position = step()

    def finish(self, *, complete=True):
        self.settle(lambda: self.sink.finish(complete=complete))
        self.sink.close()

    def proceed(self):
        self.feed()
        self.finish()

    def run(self):
        self.open()
        self.proceed()

    def files(self):
        if self.output.is_dir():
            paths = [path for path in sorted(self.output.iterdir()) if path.name != "_errors.jsonl"]
        else:
            paths = [path for path in sorted(self.root.iterdir()) if path.is_file()]
        return {path.name: path.read_bytes() for path in paths}

    def data_files(self):
        output_format, folder = self.kind
        return sorted(self.output.glob(f"part-*.{output_format}")) if folder else [self.output]

    def rows(self):
        """Every row as (seq by custom_id, body), read back."""
        found = []
        for path in self.data_files():
            if self.kind[0] == "jsonl":
                lines = [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]]
                found += [(each["custom_id"], each["row"], json.dumps(each["response"]["body"])) for each in lines]
            else:
                table = pd.read_parquet(io.BytesIO(path.read_bytes()))
                bodies = [json.dumps(json.loads(text)) for text in table["body"]]
                found += list(zip(table["custom_id"], table["row"], bodies, strict=True))
        return found

    def expected(self):
        return [(each.custom_id, each.row, json.dumps(json.loads(each.body))) for each in self.outbox]


@pytest.fixture(params=sorted(SINKS), ids=lambda key: f"{key[0]}-{'folder' if key[1] else 'file'}")
def kind(request):
    return request.param


@pytest.fixture(params=["disk", "pretend", "s3"])
def lies(request, tmp_path):
    """Where the output lies."""
    match request.param:
        case "disk":
            return Disk(tmp_path)
        case "pretend":
            (tmp_path / "in").mkdir()
            return PretendBucket(tmp_path / "in")
        case "s3":
            return RealBucket(request.getfixturevalue("s3_contract"), tmp_path)


@pytest.fixture(scope="session")
def s3_contract(s3_server):
    s3_server.make_bucket("contract")
    return s3_server


@pytest.fixture
def place(tmp_path, kind, lies):
    return Place(tmp_path, *kind, lies=lies)


@pytest.fixture
def on_disk(tmp_path, kind):
    return Place(tmp_path, *kind)


@pytest.fixture
def undisturbed(tmp_path_factory, kind, lies):
    other = Place(None, *kind, lies=lies.beside(tmp_path_factory.mktemp("undisturbed")))
    other.run()
    return other


def tear(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.randint(0, len(data))])


def rebuild(place, undisturbed):
    """Run on; an object that nothing shows to be ours any more may be refused instead, and is left alone then."""
    before = place.files()
    try:
        place.run()
    except UsageError:
        assert place.lies.remote
        assert place.files() == before
    else:
        assert place.files() == undisturbed.files()


def test_each_outcome_is_there_once_in_order(place):
    place.run()
    assert place.rows() == place.expected()


def test_files_are_private(on_disk):
    on_disk.run()
    assert {path.stat().st_mode & 0o777 for path in on_disk.data_files()} == {0o600}


@pytest.mark.parametrize("seed", range(12))
def test_crashes_anywhere_leave_what_an_undisturbed_run_leaves(place, undisturbed, seed):
    rng = random.Random(seed)
    for _ in range(4):
        place.open()
        stored = place.position
        place.feed(rng, limit=rng.randint(0, 30))
        if rng.random() < 0.5:
            place.position = stored  # the bytes were durable, the position was not yet
        place.sink.close()
        if place.lies.remote:
            continue
        leftover = (place.output if place.output.is_dir() else place.root) / (
            ".part-00000001.jsonl.tmp" if place.output.is_dir() else f".{place.output.name}.tmp"
        )
        leftover.write_bytes(b"PAR1 half of it")
        if place.kind == ("jsonl", False) and rng.random() < 0.5:
            with place.output.open("ab") as file:
                file.write(b'{"custom_id":"q-')
    place.open()
    place.feed(rng)
    place.finish()
    assert place.rows() == place.expected()
    if place.kind != ("jsonl", False) and not place.lies.remote:
        (place.root / f".{place.output.name}.tmp").unlink(missing_ok=True)
    assert {k: v for k, v in place.files().items() if not k.startswith(".")} == undisturbed.files()


def test_a_finished_run_opened_again_changes_nothing(place):
    place.run()
    before, position = place.files(), place.position
    place.open()
    assert place.rest() == []
    place.finish()
    assert place.files() == before
    assert place.position.seq == position.seq == 40


def test_finishing_twice_is_harmless(place):
    place.open()
    place.feed()
    place.settle(lambda: place.sink.finish(complete=True))
    assert place.sink.finish(complete=True) == place.sink.finish(complete=True) == place.position
    place.sink.close()
    place.sink.close()
    assert place.rows() == place.expected()


@pytest.mark.parametrize("between", [True, False], ids=["finished", "interrupted"])
def test_rows_after_the_end_are_added_once(tmp_path, kind, lies, between):
    place = Place(tmp_path, *kind, outcomes=10, lies=lies)
    place.open()
    place.feed()
    place.finish(complete=between)
    place.outbox += [settled(n) for n in range(11, 20)]
    place.run()
    assert place.rows() == place.expected()


def test_more_rows_interrupted_and_killed_still_end_as_they_should(tmp_path, kind, lies):
    place = Place(tmp_path, *kind, outcomes=10, lies=lies)
    place.run()
    place.outbox += [settled(n) for n in range(11, 31)]
    for crash in (True, False, True):
        place.open()
        place.feed(limit=12)
        if not crash:
            place.finish(complete=False)
        place.sink.close()
    place.run()
    assert place.rows() == place.expected()


def test_a_run_without_successes_leaves_an_output_that_can_be_read(tmp_path, kind, lies):
    place = Place(tmp_path, *kind, outcomes=0, lies=lies)
    place.run()
    assert place.rows() == []
    assert len(place.data_files()) == 1
    place.outbox = [settled(1), settled(2)]
    place.run()
    assert place.rows() == place.expected()


def test_a_missing_output_is_rebuilt(place, undisturbed):
    place.run()
    for path in place.data_files():
        path.unlink()
    place.run()
    assert place.files() == undisturbed.files()


@pytest.mark.parametrize("seed", range(8))
def test_a_shortened_output_is_rebuilt(place, undisturbed, seed):
    rng = random.Random(seed)
    place.run()
    tear(rng.choice(place.data_files()), rng)
    rebuild(place, undisturbed)


def test_an_output_cut_to_any_of_its_first_bytes_is_rebuilt(place, undisturbed):
    place.run()
    path = place.data_files()[0]
    whole = path.read_bytes()
    for size in (*range(24), 60, 200):
        path.write_bytes(whole[:size])
        rebuild(place, undisturbed)


@pytest.mark.parametrize("seed", range(25))
def test_an_edited_output_is_rebuilt(place, undisturbed, seed):
    rng = random.Random(seed)
    place.run()
    path = rng.choice(place.data_files())
    data = bytearray(path.read_bytes())
    data[rng.randrange(600 if place.kind[0] == "jsonl" else 4, len(data))] ^= 1
    path.write_bytes(data)
    rebuild(place, undisturbed)


@pytest.mark.parametrize("plant", [FOREIGN, b"PAR1 and more that is not ours", b"hello", b"\xff\xfe\x00", b"[]\n"])
def test_what_a_new_run_finds_is_refused_and_left_alone(place, plant):
    path = place.output / "part-00000000.jsonl" if place.kind[1] else place.output
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(plant)
    with pytest.raises(UsageError) as caught:
        place.open()
    assert caught.value.exit_code == 2
    assert "nothing was sent" in caught.value.message
    assert caught.value.hint
    assert path.read_bytes() == plant


@pytest.mark.parametrize("in_place", [True, False])
def test_a_foreign_file_put_in_the_place_of_ours_is_refused_and_left_alone(place, in_place):
    place.run()
    path = place.data_files()[0]
    if not in_place:
        path.unlink()  # the next file often gets the same inode
    path.write_bytes(FOREIGN)
    with pytest.raises(UsageError):
        place.open()
    assert path.read_bytes() == FOREIGN


def test_the_output_of_another_run_is_refused(place, tmp_path_factory):
    other = Place(None, *place.kind, lies=place.lies.beside(tmp_path_factory.mktemp("other")))
    other.outbox = [replace(each, custom_id=f"other-{each.seq}") for each in other.outbox]
    other.mark = "another mark"
    other.run()
    place.run()
    mine, theirs = place.data_files()[0], other.data_files()[0].read_bytes()
    mine.write_bytes(theirs)
    with pytest.raises(UsageError):
        place.open()
    assert mine.read_bytes() == theirs


@pytest.mark.parametrize("lies", ["disk"], indirect=True)
def test_an_output_that_was_moved_with_its_run_is_known_by_its_rows(place, undisturbed):
    place.run()
    moved = place.root / "moved"
    place.output.rename(moved)
    place.output, place.position, place.lenient = moved, None, True
    place.run()
    if place.kind[1]:
        assert place.files() == undisturbed.files()
    assert place.rows() == place.expected()


def test_the_other_format_takes_a_place_of_this_run_over(tmp_path, kind, lies):
    output_format, folder = kind
    place = Place(tmp_path, *kind, lies=lies)
    place.run()
    place.kind = ({"jsonl": "parquet", "parquet": "jsonl"}[output_format], folder)
    place.position, place.lenient = None, True
    place.run()
    assert place.rows() == place.expected()
    if folder:
        assert not list(place.output.glob(f"*.{output_format}"))


def test_an_empty_file_in_the_way_is_used(place):
    if place.kind[1]:
        place.output.mkdir()
        (place.output / ".gitkeep").touch()
    else:
        place.output.touch()
    place.run()
    assert place.rows() == place.expected()


def test_missing_folders_are_made(tmp_path, kind):
    place = Place(tmp_path, *kind)
    place.output = tmp_path / "a" / "b" / place.output.name
    place.run()
    assert place.rows() == place.expected()


@pytest.mark.parametrize("obstacle", ["wrong", "fifo", "dangling", "loop", "below a file", "too long", "nul"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_sent(tmp_path, kind, obstacle):
    place = Place(tmp_path, *kind)
    match obstacle:
        case "wrong":
            place.output.touch() if kind[1] else place.output.mkdir()
        case "fifo":
            os.mkfifo(place.output)
        case "dangling":
            place.output.symlink_to(tmp_path / "nowhere")
        case "loop":
            place.output.symlink_to(place.output)
        case "below a file":
            (tmp_path / "file").touch()
            place.output = tmp_path / "file" / "out"
        case "too long":
            place.output = tmp_path / ("x" * 300)
        case "nul":
            place.output = tmp_path / "x\0y"
    with pytest.raises(UsageError):
        place.open()


def test_a_long_name_is_fine(tmp_path, kind):
    place = Place(tmp_path, *kind)
    place.output = tmp_path / ("x" * 255)
    place.run()
    assert place.rows() == place.expected()


def test_a_symbolic_link_is_written_through(tmp_path, kind):
    place = Place(tmp_path, *kind)
    real = tmp_path / "real"
    real.mkdir() if kind[1] else real.touch()
    place.output.symlink_to(real)
    place.run()
    assert place.output.is_symlink()
    assert place.rows() == place.expected()


def test_two_sinks_on_two_places_keep_their_positions_apart(tmp_path):
    names = set()
    for output_format, folder in SINKS:
        for where in "ab":
            sink = open_sink(
                output=tmp_path / where,
                folder=folder,
                output_format=output_format,
                simulated=False,
                summarise=summarise,
            )
            names.add(sink.name)
    assert len(names) == 2 * len(SINKS)


def test_positions_survive_json(place, undisturbed):
    place.run()
    place.position = SimpleNamespace(
        **json.loads(json.dumps({"seq": place.position.seq, "state": place.position.state}))
    )
    place.run()
    assert place.files() == undisturbed.files()


@pytest.mark.parametrize("state", [{}, {"offset": "x", "crc": None}, {"parts": 7}, {"parts": [1, {"name": "../x"}]}])
def test_a_position_of_rubbish_means_starting_over(place, undisturbed, state):
    place.position = Position(seq=3, state=state)
    place.run()
    assert place.files() == undisturbed.files()


@pytest.mark.parametrize("lies", ["disk"], indirect=True)
def test_a_full_disk_stops_the_run_and_the_next_one_completes(place, undisturbed, monkeypatch):
    place.open()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        patch.setattr(os, "fdatasync", os.fsync)
        with pytest.raises(StorageFailed) as caught:
            place.proceed()
    assert caught.value.exit_code == 8
    assert str(place.output) in caught.value.message
    assert "No space left" in caught.value.message
    place.sink.close()
    place.run()
    assert place.files() == undisturbed.files()


@pytest.mark.parametrize("lies", ["disk"], indirect=True)
def test_a_write_that_the_disk_takes_only_in_part_leaves_nothing_of_it(place, undisturbed):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    place.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, unlimited[1]))
    try:
        with pytest.raises(StorageFailed) as caught:
            place.proceed()
        place.sink.close()
        assert not [name for name in place.files() if name.endswith(".tmp")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "EFBIG" in caught.value.message
    assert len(place.rows()) == place.position.seq if place.kind[0] == "jsonl" else True
    place.run()
    assert place.files() == undisturbed.files()


def test_parquet_and_jsonl_hold_the_same_rows_for_pandas_and_duckdb(tmp_path):
    places = {}
    for key in SINKS:
        root = tmp_path / f"{key[0]}-{key[1]}"
        root.mkdir()
        places[key] = Place(root, *key)
        places[key].run()
        if key[1]:
            (places[key].output / "_errors.jsonl").write_bytes(FOREIGN)
    lines = [json.loads(text) for text in places["jsonl", False].output.read_bytes().splitlines() if text]
    glob = str(places["parquet", True].output / "*.parquet")
    tables = [
        pd.read_parquet(places["parquet", False].output),
        pd.read_parquet(places["parquet", True].output),
        duckdb.sql(f"select * from read_parquet('{glob}')").to_arrow_table().to_pandas(),
        duckdb.sql(f"select * from '{places['parquet', False].output}'").to_arrow_table().to_pandas(),
    ]
    for table in tables:
        by_row = {row["row"]: row for row in table.to_dict("records")}
        assert len(table) == len(by_row) == len(lines)
        for each in lines:
            row, bulkgrok, response = by_row[each["row"]], each["bulkgrok"], each["response"]
            assert row["custom_id"] == each["custom_id"]
            assert json.loads(row["body"]) == response["body"]
            assert row["status_code"] == response["status_code"]
            assert (None if pd.isna(row["request_id"]) else row["request_id"]) == response["request_id"]
            assert [row[key] for key in ("kind", "mode", "model", "attempts", "latency_s")] == [
                bulkgrok[key] for key in ("kind", "mode", "model", "attempts", "latency_s")
            ]
            assert (None if pd.isna(row["cost_usd"]) else row["cost_usd"]) == bulkgrok["cost_usd"]
            assert [row[key].timestamp() for key in ("submitted_at", "completed_at")] == [
                bulkgrok[key] for key in ("submitted_at", "completed_at")
            ]
            assert [dict(asset) for asset in row["assets"]] == bulkgrok["assets"]
