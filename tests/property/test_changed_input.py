"""A changed input is refused before a cent is spent: whatever was changed in it, and however little.

BULKGROK_MUTATIONS sets how many changes are tried (500 in the ordinary test run), BULKGROK_SEED where they begin:

    tox run -e mutations
"""

import gzip
import io
import json
import os
import random
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulkgrok import readers
from bulkgrok.core.errors import InputError, RunMismatch
from bulkgrok.core.model import Reply

MUTATIONS = int(os.environ.get("BULKGROK_MUTATIONS", "500"))
SEED = int(os.environ.get("BULKGROK_SEED", "1"))
ROWS = 40
FORMS = ("in.jsonl", "in.jsonl.gz", "in.jsonl.zst", "in.parquet", "in.txt", "-")
LATER = b'\xc3\xbc{}[]",:\\\r\n 0x\x00\xff'


class Api:
    """Answers every prompt with itself; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, asked):
        self.asked.append(asked)
        prompt = json.loads(asked.body)["messages"][-1]["content"]
        return Reply(status=200, body=json.dumps({"id": "a", "choices": [{"message": {"content": prompt}}]}).encode())


def rows(chance):
    """Return rows that differ, so that none can take another's place unseen."""
    return [{"custom_id": f"q{row}", "prompt": f"question {row} {chance.random()}"} for row in range(ROWS)]


def stored(form, found):
    """Return an input of a form as the bytes of its file."""
    if form == "in.parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(found), sink, row_group_size=15)
        return sink.getvalue()
    if form == "in.txt":
        return "".join(row["prompt"] + "\n" for row in found).encode()
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in found)
    if form.endswith(".gz"):
        return gzip.compress(lines, mtime=0)
    return pa.compress(lines, "zstd", asbytes=True) if form.endswith(".zst") else lines


def in_rows(chance, form, found):
    """Change rows: another order, one more, one less, one of them otherwise."""
    at = chance.randrange(ROWS)
    match chance.choice(["swap", "move", "insert", "delete", "twice", "edit", "renumber"]):
        case "swap":
            other = chance.choice([row for row in range(ROWS) if row != at])
            found[at], found[other] = found[other], found[at]
        case "move":
            found.insert((at + chance.randrange(1, ROWS)) % ROWS, found.pop(at))
        case "insert":
            found.insert(at, {"custom_id": "new", "prompt": "one more"})
        case "delete":
            del found[at]
        case "twice":
            found.insert(at, dict(found[at]))
        case "edit":
            text = found[at]["prompt"]
            found[at]["prompt"] = text[: at + 1] + chance.choice("abcxyz") + text[at + 1 :]
        case "renumber":
            found[at]["custom_id"], found[at]["prompt"] = "q", found[at]["prompt"][:-1]
    return stored(form, found)


def in_bytes(chance, data):
    """Change bytes: one of them, some more, some less, some elsewhere."""
    at = chance.randrange(len(data))
    match chance.choice(["byte", "byte", "bit", "insert", "delete", "swap", "cut", "grow"]):
        case "byte":
            return data[:at] + bytes([chance.choice([b for b in range(256) if b != data[at]])]) + data[at + 1 :]
        case "bit":
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case "insert":
            return data[:at] + bytes(chance.choices(LATER, k=chance.randrange(1, 5))) + data[at:]
        case "delete":
            return data[:at] + data[at + chance.randrange(1, 5) :]
        case "swap":
            other = chance.randrange(len(data))
            changed = bytearray(data)
            changed[at], changed[other] = changed[other], changed[at]
            return bytes(changed)
        case "cut":
            return data[:at] or data[:1]
        case _:
            return data + chance.choice([b"\n", b" ", b"\0", b"{}\n", data[:20]])


class Begun:
    """A run of one form of input that was begun and stopped, and whose input is then changed again and again."""

    def __init__(self, alone, folder, form, chance):
        folder.mkdir()
        self.form = form
        self.rows = rows(chance)
        self.whole = stored(form, self.rows)
        self._alone = alone
        self._folder = folder
        self._path = folder / form
        self._times = (1_700_000_000_000_000_000,) * 2
        first = Api()
        self.put(self.whole)

        def drain(api, engine):
            if len(api.asked) == 7:
                engine.drain(130)

        assert self.start(first, hook=drain).exit_code == 130
        self.begun = len(first.asked)

    def put(self, data):
        """Write the input in place; neither its time of writing nor, often, its size tells of it."""
        if self.form == "-":
            self._piped = data
        else:
            self._path.write_bytes(data)
            os.utime(self._path, ns=self._times)

    def start(self, api, **options):
        if self.form != "-":
            return self._alone(api, input=self._path, **options).run()
        before, sys.stdin = sys.stdin, SimpleNamespace(buffer=io.BytesIO(self._piped))
        try:
            return self._alone(api, input="-", output=self._folder / "out.jsonl", **options).run()
        finally:
            sys.stdin = before

    def finish(self):
        """Put the old input back, finish, and return how many rows were asked for anew."""
        self.put(self.whole)
        api = Api()
        report = self.start(api)
        assert (report.exit_code, report.succeeded) == (0, ROWS)
        return len(api.asked)


def changed(begun, chance):
    while True:
        rowwise = chance.random() < 0.4
        data = (
            in_rows(chance, begun.form, [dict(row) for row in begun.rows]) if rowwise else in_bytes(chance, begun.whole)
        )
        if data not in {begun.whole, b""}:
            return data


def test_a_changed_input_is_refused_before_anything_is_sent(alone, tmp_path):
    chance = random.Random(SEED)
    runs = [Begun(alone, tmp_path / str(number), form, chance) for number, form in enumerate(FORMS)]
    refused = requests = 0
    codes = {}
    for number in range(MUTATIONS):
        begun = runs[number % len(runs)]
        begun.put(changed(begun, chance))
        api, code = Api(), None
        try:
            code = begun.start(api).exit_code
        except (RunMismatch, InputError) as error:
            code = error.exit_code
        refused += code in {2, 6}
        requests += len(api.asked)
        codes[code] = codes.get(code, 0) + 1
        assert (code in {2, 6}, len(api.asked)) == (True, 0), f"seed {SEED}, change {number} of {begun.form}"
    print(f"refused={refused} of={MUTATIONS} requests={requests} by_exit_code={dict(sorted(codes.items()))}")
    # Nothing of the runs was lost by all this: with their old inputs they end as if nothing had been.
    assert [begun.begun + begun.finish() for begun in runs] == [ROWS] * len(runs)


def test_a_kept_standard_input_that_was_changed_is_refused(alone, tmp_path):
    begun = Begun(alone, tmp_path / "run", "-", random.Random(SEED))
    spool = tmp_path / "run" / "out.bulkgrok" / readers.SPOOL
    for piped in (b"", begun.whole):
        data = bytearray(begun.whole)
        data[100] ^= 1
        spool.write_bytes(data)
        begun.put(piped)
        api = Api()
        with pytest.raises(RunMismatch):
            begun.start(api)
        assert api.asked == []
        spool.write_bytes(begun.whole)
    assert begun.begun + begun.finish() == ROWS


@pytest.mark.parametrize("form", FORMS[:-1])
def test_rows_exchanged_between_the_fingerprint_and_the_reading_are_never_sent(alone, tmp_path, form):
    begun = Begun(alone, tmp_path / "run", form, random.Random(SEED))
    other = [*begun.rows[::-1]]
    api = Api()

    def swap(function):
        if function is readers.fingerprint:
            begun.put(stored(form, other))

    with pytest.raises((RunMismatch, InputError)):
        begun.start(api, after=swap)
    assert api.asked == []
    assert begun.begun + begun.finish() == ROWS


@pytest.mark.parametrize("form", ["in.jsonl", "in.txt"])
def test_rows_changed_while_the_run_goes_on_are_never_sent(alone, tmp_path, form):
    path = tmp_path / form
    found = [{"prompt": f"question {row} " + "x" * 5_000} for row in range(800)]
    data = stored(form, found)
    path.write_bytes(data)
    os.utime(path, ns=(0, 0))

    def edit(api, _engine):
        if len(api.asked) == 50:
            path.write_bytes(data.replace(b"question", b"Question"))  # as large as it was
            os.utime(path, ns=(0, 0))

    api = Api()
    report = alone(api, input=path, hook=edit).run()
    assert (report.exit_code, type(report.stopped)) == (6, RunMismatch)
    assert len(api.asked) < 700
    assert not any(b"Question" in asked.body for asked in api.asked)
    path.write_bytes(data)
    assert alone(Api(), input=path).run().exit_code == 0


def test_an_input_that_is_only_touched_stops_nothing(alone, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(stored("in.jsonl", [{"prompt": f"question {row} " + "x" * 5_000} for row in range(600)]))

    def touch(api, _engine):
        if len(api.asked) in {20, 150, 400}:
            path.chmod(0o640)
            os.utime(path)

    assert alone(Api(), input=path, hook=touch).run().exit_code == 0
