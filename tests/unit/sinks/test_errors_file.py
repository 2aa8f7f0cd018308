"""The errors file: replaced as a whole, known again after a crash, never written over what is not ours."""

import json
import os

import pytest

from bulkgrok.core.errors import StorageFailed, UsageError
from bulkgrok.core.model import Code, Mode, RowError, Settled
from bulkgrok.sinks.errors import ErrorsFile

FOREIGN = b'{"mine":1}\n'


def failure(row):
    return Settled(
        seq=0,
        row=row,
        line=row + 1,
        custom_id=str(row),
        kind="chat",
        mode=Mode.DIRECT,
        model="m",
        attempts=1,
        submitted_at=1.0,
        completed_at=2.0,
        request_id=None,
        status_code=400,
        body=b"not JSON \xff",
        cost_usd=None,
        usage=None,
        error=RowError(code=Code.REJECTED, message="no", status_code=400),
    )


def nobody(line):
    return False


def rows_of(path):
    return [json.loads(line)["row"] for line in path.read_bytes().split(b"\n")[:-1]]


class Crash(Exception):
    pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a" / "in.errors.jsonl"


def replaced(path, rows, state=None):
    """Check and replace as a run does; return the state it stored."""
    stored = [state]
    file = ErrorsFile(path, simulated=False)
    file.check(state, nobody)
    file.replace(map(failure, rows), stored.append)
    return stored[-1]


def test_it_holds_the_present_failures_and_is_private(path):
    state = replaced(path, range(1300))
    assert rows_of(path) == list(range(1300))
    replaced(path, [5], state)
    assert rows_of(path) == [5]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_it_is_written_empty_when_nothing_failed(path):
    state = replaced(path, [])
    assert path.read_bytes() == b""
    replaced(path, [], state)


def test_one_object_may_replace_it_again_and_again(path):
    states = []
    file = ErrorsFile(path, simulated=False)
    file.check(None, nobody)
    for rows in ([1, 2], [2], []):
        file.replace(map(failure, rows), states.append)
        assert rows_of(path) == rows
    ErrorsFile(path, simulated=False).check(states[-1], nobody)


def test_a_crash_on_either_side_of_the_rename_leaves_a_file_that_is_known(path):
    state = replaced(path, [1, 2])
    kept = []

    def plan_and_crash(position):
        kept.append(position)
        raise Crash

    file = ErrorsFile(path, simulated=False)
    file.check(state, nobody)
    with pytest.raises(Crash):
        file.replace([failure(9)], plan_and_crash)
    assert rows_of(path) == [1, 2]
    state = replaced(path, [9], kept[0])
    ErrorsFile(path, simulated=False).check(state, nobody)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)  # another inode, the same bytes
    ErrorsFile(path, simulated=False).check(state, nobody)


def test_what_it_did_not_write_is_refused_and_left_alone(path):
    path.parent.mkdir()
    path.write_bytes(FOREIGN)
    with pytest.raises(UsageError):
        ErrorsFile(path, simulated=False).check(None, nobody)
    path.unlink()
    state = replaced(path, [1])
    path.write_bytes(FOREIGN)
    with pytest.raises(UsageError):
        ErrorsFile(path, simulated=False).check(state, nobody)
    assert path.read_bytes() == FOREIGN


def test_it_knows_its_own_lines_without_any_state(path):
    replaced(path, [1, 2])
    ErrorsFile(path, simulated=False).check(None, lambda line: json.loads(line)["row"] == 1)


def test_a_missing_or_shortened_one_is_written_again(path):
    state = replaced(path, [1, 2])
    for size in (0, 1, 10, 40):
        os.truncate(path, size)
        state = replaced(path, [1, 2], state)
        assert rows_of(path) == [1, 2]
    path.unlink()
    replaced(path, [1, 2], state)
    assert rows_of(path) == [1, 2]


def test_a_file_that_appears_during_the_run_is_not_written_over(path):
    file = ErrorsFile(path, simulated=False)
    file.check(None, nobody)
    path.parent.mkdir()
    path.write_bytes(FOREIGN)
    with pytest.raises(StorageFailed):
        file.replace([failure(1)], lambda position: None)
    assert path.read_bytes() == FOREIGN
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/nowhere/x")])
def test_a_place_that_cannot_be_written_is_refused(path, make):
    path.parent.mkdir()
    make(path)
    with pytest.raises(UsageError):
        ErrorsFile(path, simulated=False).check(None, nobody)
