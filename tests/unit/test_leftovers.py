"""What a killed run leaves of large replies is set aside, and never written over."""

import pytest

from bulkgrok.core.errors import StorageFailed
from bulkgrok.engine.leftovers import REPLIES, set_aside


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / REPLIES
    found.mkdir()
    return found


def names(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_without_leftovers_nothing_is_said(tmp_path):
    assert set_aside(tmp_path) is None


def test_what_is_finished_stays(folder):
    (folder / "row-1-1.reply").write_text("whole")
    assert set_aside(folder.parent) is None
    assert names(folder) == {"row-1-1.reply": "whole"}


def test_what_was_on_its_way_is_set_aside_once_and_named(folder):
    for number in range(7):
        (folder / f"row-{number}-1.part").write_text(str(number))
    said = set_aside(folder.parent)
    assert "row-0-1.cut" in said
    assert "and 2 more" in said
    assert str(folder) in said
    assert names(folder) == {f"row-{number}-1.cut": str(number) for number in range(7)}
    assert set_aside(folder.parent) is None


def test_nothing_is_written_over(folder):
    for text in ("first", "second", "third"):
        (folder / "row-1-1.part").write_text(text)
        set_aside(folder.parent)
    assert names(folder) == {"row-1-1.cut": "first", "row-1-1.cut2": "second", "row-1-1.cut3": "third"}


def test_a_folder_that_is_none_stops_the_run(folder, monkeypatch):
    (folder / "row-1-1.part").write_text("x")
    folder.chmod(0o500)
    try:
        (folder / "probe").touch()
    except PermissionError:
        with pytest.raises(StorageFailed):
            set_aside(folder.parent)
    else:
        (folder / "probe").unlink()
        pytest.skip("nothing is forbidden to this user")
    finally:
        folder.chmod(0o700)
