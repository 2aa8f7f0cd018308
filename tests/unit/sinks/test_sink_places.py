"""Particular places and positions of single sinks."""

import json
import os
import stat

import pytest

from bulkgrok.core.errors import RunLocked, StorageFailed, UsageError
from bulkgrok.core.model import Mode, Position, Settled
from bulkgrok.sinks import open_sink
from bulkgrok.sinks.files import Draft, make_folder, temporary
from bulkgrok.sinks.jsonl import JsonlSink
from bulkgrok.sinks.parts import JsonlParts


def settled(n):
    return Settled(
        seq=n,
        row=n,
        line=n,
        custom_id=str(n),
        kind="chat",
        mode=Mode.DIRECT,
        model="m",
        attempts=1,
        submitted_at=1.0,
        completed_at=2.0,
        request_id=None,
        status_code=200,
        body=b"{}",
        cost_usd=None,
        usage=None,
    )


def jsonl(path):
    return JsonlSink(path, simulated=False, summarise=lambda kind, body: None)


def nobody(line):
    return False


def stored(sink, step):
    """Call a step as often as the sink wants to be called, as if each position were stored in between."""
    position = step()
    while sink.unfinished:
        position = step()
    return position


def finished(sink, *, complete=True):
    return stored(sink, lambda: sink.finish(complete=complete))


def test_an_unknown_format_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        open_sink(
            output=tmp_path / "x", folder=False, output_format="csv", simulated=False, summarise=lambda k, b: None
        )


def test_the_first_position_is_stored_before_a_torn_line_can_be_there(tmp_path):
    path = tmp_path / "out.jsonl"
    sink = jsonl(path)
    position = sink.restore(None)
    sink.close()
    path.write_bytes(b'{"custom_id":"1","row":1,"resp')
    sink.check(position, nobody)
    with pytest.raises(UsageError):
        sink.check(None, nobody)


def test_a_file_of_zeros_as_a_power_cut_leaves_it_is_ours(tmp_path):
    path = tmp_path / "out.jsonl"
    sink = jsonl(path)
    position = sink.restore(None)
    sink.close()
    os.truncate(path, 5000)
    sink.check(position, nobody)


def test_an_output_that_is_in_use_is_refused(tmp_path):
    first, second = jsonl(tmp_path / "out.jsonl"), jsonl(tmp_path / "out.jsonl")
    first.restore(None)
    with pytest.raises(RunLocked):
        second.restore(None)
    first.close()
    second.close()


def test_a_folder_and_a_draft_in_use_are_refused(tmp_path):
    first = JsonlParts(tmp_path / "out", simulated=False, summarise=lambda kind, body: None)
    second = JsonlParts(tmp_path / "out", simulated=False, summarise=lambda kind, body: None)
    first.restore(None)
    with pytest.raises(RunLocked):
        second.restore(None)
    first.close()
    second.close()
    draft = Draft(tmp_path / "x")
    with pytest.raises(RunLocked):
        Draft(tmp_path / "x")
    draft.discard()


@pytest.mark.parametrize("meddle", ["truncate", "append", "remove", "replace"])
def test_meddling_with_the_output_during_the_run_is_noticed_and_mended(tmp_path, meddle):
    path = tmp_path / "out.jsonl"
    sink = jsonl(path)
    sink.restore(None)
    sink.write([settled(1)])
    position = sink.commit()
    match meddle:
        case "truncate":
            os.truncate(path, 5)
        case "append":
            with path.open("ab") as file:
                file.write(b"mine\n")
        case "remove":
            path.unlink()
        case "replace":
            path.rename(tmp_path / "elsewhere")
            path.write_bytes((tmp_path / "elsewhere").read_bytes())
    with pytest.raises(StorageFailed):  # noqa: PT012 - either may notice it first
        sink.write([settled(2)])
        sink.finish(complete=True)
    sink.close()
    sink.check(position, lambda line: b'"row":1,' in line)
    position = sink.restore(position)
    sink.write([settled(n) for n in range(position.seq + 1, 4)])
    sink.finish(complete=True)
    sink.close()
    assert [json.loads(line)["row"] for line in path.read_bytes().splitlines()] == [1, 2, 3]


def test_a_commit_without_new_rows_is_the_same_position(tmp_path):
    sink = jsonl(tmp_path / "out.jsonl")
    sink.restore(None)
    sink.write([])
    assert sink.commit() is sink.commit()
    sink.close()


def test_a_stored_prefix_is_kept_and_what_is_behind_it_discarded(tmp_path):
    path = tmp_path / "out.jsonl"
    sink = jsonl(path)
    sink.restore(None)
    sink.write([settled(1)])
    position = sink.commit()
    sink.write([settled(2)])
    sink.commit()
    sink.close()
    restored = sink.restore(Position(seq=position.seq, state=position.state))
    sink.close()
    assert restored.seq == 1
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("name", ["part-mine.csv", "part-00000000.jsonl", "_manifest.json", "data.parquet", "x.jsonl"])
def test_a_folder_with_somebodys_data_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UsageError):
        JsonlParts(tmp_path, simulated=False, summarise=lambda kind, body: None).check(None, nobody)
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("name", [".gitkeep", "README.md", "media", "_errors.jsonl"])
def test_a_folder_with_other_things_is_used_and_they_stay(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    sink = JsonlParts(tmp_path, simulated=False, summarise=lambda kind, body: None)
    sink.check(None, nobody)
    sink.restore(None)
    sink.finish(complete=True)
    sink.close()
    assert (tmp_path / name).read_bytes() == b"mine"


def test_the_manifest_lists_the_parts_and_goes_before_another_row_is_added(tmp_path):
    sink = JsonlParts(tmp_path, simulated=True, summarise=lambda kind, body: None, rows_a_part=2)
    sink.restore(None)
    sink.write([settled(n) for n in range(1, 4)])
    assert stored(sink, sink.commit).seq == 2
    finished(sink)
    manifest = json.loads((tmp_path / "_manifest.json").read_bytes())
    assert (manifest["format"], manifest["rows"], manifest["simulated"]) == ("jsonl", 3, True)
    assert [(part["name"], part["rows"], part["first_seq"], part["last_seq"]) for part in manifest["parts"]] == [
        ("part-00000000.jsonl", 2, 1, 2),
        ("part-00000001.jsonl", 1, 3, 3),
    ]
    sink.write([settled(4)])
    sink.commit()
    assert not (tmp_path / "_manifest.json").exists()
    sink.close()


def test_a_part_is_closed_when_its_bodies_are_large(tmp_path):
    sink = JsonlParts(tmp_path, simulated=False, summarise=lambda kind, body: None, bytes_a_part=5)
    sink.restore(None)
    sink.write([settled(n) for n in range(1, 8)])
    assert stored(sink, sink.commit).seq == 6
    sink.close()


def test_only_parts_from_the_first_damaged_one_are_written_again_with_the_rows_they_had(tmp_path):
    sink = JsonlParts(tmp_path, simulated=False, summarise=lambda kind, body: None, rows_a_part=2)
    sink.restore(None)
    sink.write([settled(n) for n in range(1, 8)])
    finished(sink, complete=False)  # closes a part of one row
    sink.write([settled(n) for n in range(8, 10)])
    position = finished(sink)
    sink.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert [path.count(b"\n") for name, path in sorted(before.items()) if name.startswith("part")] == [2, 2, 2, 1, 2]
    os.truncate(tmp_path / "part-00000002.jsonl", 100)
    first = (tmp_path / "part-00000000.jsonl").stat().st_mtime_ns
    position = sink.restore(position)
    assert position.seq == 4
    assert not (tmp_path / "_manifest.json").exists()
    sink.write([settled(n) for n in range(5, 10)])
    finished(sink)
    sink.close()
    assert (tmp_path / "part-00000000.jsonl").stat().st_mtime_ns == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_which_rows_a_part_holds_is_stored_before_it_can_be_seen(tmp_path):
    sink = JsonlParts(tmp_path, simulated=False, summarise=lambda kind, body: None, rows_a_part=2)
    sink.restore(None)
    sink.write([settled(n) for n in range(1, 4)])
    planned = sink.commit()
    assert planned.seq == 0
    assert [(part["first_seq"], part["last_seq"]) for part in planned.state["planned"]] == [(1, 2)]
    assert not (tmp_path / "part-00000000.jsonl").exists()
    assert sink.commit().seq == 2
    seen = (tmp_path / "part-00000000.jsonl").read_bytes()
    sink.close()
    # As if it were killed before the second position was stored: with other quotas, the same rows.
    later = JsonlParts(tmp_path, simulated=False, summarise=lambda kind, body: None, rows_a_part=3)
    assert later.restore(planned).seq == 2
    later.close()
    (tmp_path / "part-00000000.jsonl").unlink()
    assert later.restore(planned).seq == 0
    later.write([settled(n) for n in range(1, 6)])
    finished(later)
    later.close()
    assert (tmp_path / "part-00000000.jsonl").read_bytes() == seen
    assert (tmp_path / "part-00000001.jsonl").read_bytes().count(b"\n") == 3


def test_a_draft_is_hidden_private_and_gone_when_discarded(tmp_path):
    draft = Draft(tmp_path / "x")
    draft.write(b"abc")
    hidden = tmp_path / ".x.tmp"
    assert hidden == temporary(tmp_path / "x")
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o600
    draft.discard()
    draft.discard()
    assert list(tmp_path.iterdir()) == []


def test_only_the_folder_itself_is_private_not_its_parents(tmp_path):
    make_folder(tmp_path / "a" / "b", mode=0o700)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
