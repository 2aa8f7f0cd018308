"""Standard input is kept whole or not at all, and compared on resume."""

import gzip
import io
import os
import stat
import threading

import pytest

from bulkgrok.core.errors import InputError, RunMismatch, StorageFailed
from bulkgrok.readers import SPOOL, open_reader, spool_stdin

DATA = b"".join(b'{"prompt": "%d"}\n' % n for n in range(100_000))


class Breaking(io.RawIOBase):
    """A stream that breaks after some reads."""

    def __init__(self, reads):
        self.left = reads

    def read(self, size=-1):
        if self.left == 0:
            raise OSError(5, "Input/output error")
        self.left -= 1
        return b"x" * size


def keep(directory, data=DATA):
    return spool_stdin(io.BytesIO(data), directory)


def test_what_comes_is_kept_private_under_its_name_alone(tmp_path):
    spool = keep(tmp_path)
    assert spool == tmp_path / SPOOL
    assert spool.read_bytes() == DATA
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [spool]


def test_a_real_pipe_is_read_to_its_end(tmp_path):
    end, begin = os.pipe()
    os.set_blocking(end, False)

    def write():
        with os.fdopen(begin, "wb") as file:
            file.write(DATA)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(end, "rb") as stream:
        assert spool_stdin(stream, tmp_path).read_bytes() == DATA
    thread.join()


@pytest.mark.parametrize("stream", [None, io.BytesIO(b"")], ids=["none", "empty"])
def test_nothing_means_the_spool(tmp_path, stream):
    with pytest.raises(InputError, match="empty"):
        spool_stdin(stream, tmp_path)
    assert list(tmp_path.iterdir()) == []
    keep(tmp_path)
    assert spool_stdin(stream, tmp_path).read_bytes() == DATA


def test_a_terminal_is_not_waited_for(tmp_path):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "rb") as terminal:
        with pytest.raises(InputError):
            spool_stdin(terminal, tmp_path)
        keep(tmp_path)
        assert spool_stdin(terminal, tmp_path).read_bytes() == DATA
    os.close(ours)


def test_the_same_again_means_the_spool_untouched(tmp_path):
    before = keep(tmp_path).stat()
    assert keep(tmp_path).stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" + DATA[1:], r"first difference is at byte 1 \(line 1\)"),
        (DATA[:900_000] + b"\0" + DATA[900_001:], r"first difference is at byte 900001 \(line \d+\)"),
        (DATA[:-1] + b" ", rf"first difference is at byte {len(DATA)} \(line 100000\)"),
        (DATA + b"\n", rf"goes on at byte {len(DATA) + 1} \(line 100001\)"),
        (DATA[:-1], rf"ends before byte {len(DATA)} \(line 100000\)"),
        (DATA[: 1 << 18], rf"ends before byte {(1 << 18) + 1} \(line \d+\)"),
        (DATA[16:] + DATA[:16], r"first difference is at byte 13 \(line 1\)"),
    ],
)
def test_anything_else_is_a_mismatch_that_says_where(tmp_path, data, message):
    spool = keep(tmp_path)
    with pytest.raises(RunMismatch, match=message) as caught:
        keep(tmp_path, data)
    assert "-o OTHER.jsonl" in caught.value.hint
    assert caught.value.exit_code == 6
    assert spool.read_bytes() == DATA


def test_lines_of_packed_input_are_not_spoken_of(tmp_path):
    packed = gzip.compress(DATA, mtime=0)
    keep(tmp_path, packed)
    with pytest.raises(RunMismatch) as caught:
        keep(tmp_path, packed[:-1] + b"\xff")
    assert "line" not in caught.value.message


def test_packed_standard_input_is_read_like_a_packed_file(tmp_path):
    spool = keep(tmp_path, gzip.compress(DATA))
    assert sum(map(len, open_reader(spool).chunks())) == 100_000


def test_a_spool_that_a_crash_cut_off_is_thrown_away(tmp_path):
    (tmp_path / f"{SPOOL}.partial").write_bytes(DATA[:1000])
    assert keep(tmp_path, b"other\n").read_bytes() == b"other\n"
    assert [path.name for path in tmp_path.iterdir()] == [SPOOL]


def test_a_stream_that_breaks_leaves_no_spool(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        spool_stdin(Breaking(3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_stream_is_no_stream(tmp_path):
    stream = io.BytesIO(DATA)
    stream.close()
    with pytest.raises(InputError, match="empty"):
        spool_stdin(stream, tmp_path)


def test_a_directory_that_cannot_be_written_is_a_storage_failure(tmp_path):
    with pytest.raises(StorageFailed, match="could not be kept"):
        keep(tmp_path / "missing")
