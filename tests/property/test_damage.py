"""Files of a run that were damaged: the next start is right, or says in words what is wrong. It never guesses.

Each trial takes a run that was cut off, damages one of its files, and starts it again against an API that remembers
what it was asked before. BULKGROK_DAMAGES sets the number of trials (60 in the ordinary test run), BULKGROK_SEED where
they begin.
"""

import copy
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.core.errors import InputError, RunMismatch, StorageFailed, UsageError
from bulkgrok.core.model import Reply

TRIALS = int(os.environ.get("BULKGROK_DAMAGES", "60"))
SEED = int(os.environ.get("BULKGROK_SEED", "1"))
ROWS = 60
CONCURRENCY = 4
PADDING = "y" * 6_000


class Api:
    """Answers each prompt with itself; hands deferred answers out once. Remembers POSTs and hand-outs by row."""

    def __init__(self):
        self.posts = {}
        self.ready = {}
        self.delivered = set()
        self.log = []

    def __call__(self, asked):
        self.log.append(asked.method)
        if asked.method == "POST":
            body = json.loads(asked.body)
            row = int(body["messages"][-1]["content"].split()[1])
            self.posts[row] = self.posts.get(row, 0) + 1
            if not body.get("deferred"):
                return Reply(status=200, body=answer(row))
            request_id = f"r-{row}-{self.posts[row]}"
            self.ready[request_id] = row
            return Reply(status=200, body=json.dumps({"request_id": request_id}).encode())
        if asked.path == "/api-key":
            return Reply(status=200, body=b"{}")
        row = self.ready.pop(asked.path.rpartition("/")[2], None)
        if row is None:
            return Reply(status=404, body=b'{"error":"not found"}')
        self.delivered.add(row)
        return Reply(status=200, body=answer(row))


def answer(row):
    """Return the one right answer to a row, larger than a page for some."""
    content = f"answer {row} " + (PADDING * (row % 7) if row % 3 == 0 else "")
    usage = {"prompt_tokens": row + 1, "completion_tokens": 2, "cost_in_usd_ticks": 1_000_000 + row}
    return json.dumps({"id": f"a-{row}", "choices": [{"message": {"content": content}}], "usage": usage}).encode()


def write_input(folder):
    folder.mkdir()
    rows = ({"prompt": f"row {row}", "deferred": row % 2 == 0} for row in range(ROWS))
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, alone):
    """Return runs that ended early: copies of their folders and of what the API knew then.

    One was killed at a request (its log holds everything), one later, after the log was wound up; one drained.
    """
    base = tmp_path_factory.mktemp("stopped")
    found = []

    def killed_at(request):
        folder, kept = write_input(base / f"killed-{request}"), base / f"kept-{request}"

        def hook(api, _engine):
            if len(api.log) == request:
                shutil.copytree(folder, kept)
                found.append((kept, copy.deepcopy(api)))

        alone(Api(), hook=hook, input=folder / "in.jsonl").run()

    for request in (30, 75):
        killed_at(request)

    def drain(api, engine):
        if len(api.log) == 50:
            engine.drain(130)

    folder, api = write_input(base / "drained"), Api()
    alone(api, hook=drain, input=folder / "in.jsonl").run()
    # A run that goes on from there and is killed has pages in the file and newer ones in the log.
    found.append((folder, api))
    both, known = base / "both", copy.deepcopy(api)
    shutil.copytree(folder, both)

    def again(api, _engine):
        if len(api.log) == 70:
            shutil.copytree(both, base / "kept-both")
            found.append((base / "kept-both", copy.deepcopy(api)))

    alone(known, hook=again, input=both / "in.jsonl").run()
    return found


def names(folder):
    """Return what a damage may hit: whatever the run keeps for itself, the checkpoint most often."""
    run = folder / "in.bulkgrok"
    kept = ["checkpoint.db", "checkpoint.db-wal"] * 4 + ["checkpoint.db-mark", "status.json", "run.lock"]
    return [name for name in kept if (run / name).is_file() and (run / name).stat().st_size]


def flip(data, chance):
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8)
    return f"bit of byte {at} flipped"


def flip_in_a_page(data, chance):
    """Hit the beginnings of pages and frames, where structure is."""
    page = chance.randrange(max(1, len(data) // 16_384))
    at = min(page * 16_384 + chance.randrange(64), len(data) - 1)
    data[at] ^= 1 << chance.randrange(8)
    return f"bit of byte {at} flipped"


def cut(data, chance):
    size = chance.choice([0, chance.randrange(len(data)), len(data) // 16_384 * 16_384 - 16_384])
    del data[max(size, 0) :]
    return f"cut to {size}"


def zero(data, chance):
    size = chance.choice([512, 4_096, 16_384])
    at = chance.randrange(0, max(1, len(data)), size)
    data[at : at + size] = bytes(len(data[at : at + size]))
    return f"{size} bytes zeroed at {at}"


def swap(data, chance):
    pages = len(data) // 16_384
    if pages < 3:
        return flip(data, chance)
    one, other = sorted(chance.sample(range(pages), 2))
    a, b = slice(one * 16_384, (one + 1) * 16_384), slice(other * 16_384, (other + 1) * 16_384)
    data[a], data[b] = data[b], data[a]
    return f"pages {one} and {other} exchanged"


def grow(data, chance):
    data += chance.randbytes(chance.randrange(1, 40_000))
    return "grown"


DAMAGES = (flip, flip, flip_in_a_page, flip_in_a_page, cut, zero, swap, grow)


def damaged(folder, chance):
    """Damage one file of a run and say how."""
    name = chance.choice(names(folder))
    path = folder / "in.bulkgrok" / name
    if chance.random() < 0.03:
        path.unlink()
        return f"{name} removed"
    data = bytearray(path.read_bytes())
    how = chance.choice(DAMAGES)(data, chance)
    path.write_bytes(data)
    return f"{name}: {how}"


def verify(folder, api, report):
    """Check a run that claims to be at its end against what the API did."""
    assert report.exit_code == 0, report
    lines = [json.loads(line) for line in (folder / "in.results.jsonl").read_bytes().splitlines()]
    assert sorted(line["row"] for line in lines) == list(range(ROWS))
    for line in lines:
        assert line["response"]["body"] == json.loads(answer(line["row"])), line["row"]
    store = SqliteStore(folder / "in.bulkgrok" / "checkpoint.db", read_only=True)
    store.open()
    totals = store.totals()
    assert totals == store.recount()
    assert totals.succeeded == ROWS
    assert store.unexplained() == []
    entries = list(store.ledger())
    store.close()
    # Whatever was sent more than once stands in the ledger, and no more than what was in flight at the end does.
    for row in range(ROWS):
        assert api.posts[row] <= 1 + sum(entry.row == row for entry in entries), row
    assert len(entries) <= CONCURRENCY, entries


def trial(alone, stopped, seed, folder):
    """Damage a run, start it again, and return what came of it: right, or the name of the refusal."""
    chance = random.Random(seed)
    source, api = chance.choice(stopped)
    shutil.copytree(source, folder)
    how = damaged(folder, chance)
    known = copy.deepcopy(api)
    try:
        report = alone(known, input=folder / "in.jsonl").run()
    except (StorageFailed, RunMismatch, UsageError, InputError) as error:
        return how, type(error).__name__, known
    if report.stopped is not None:
        assert isinstance(report.stopped, StorageFailed | RunMismatch), (how, report.stopped)
        return how, f"{type(report.stopped).__name__} later", known
    try:
        verify(folder, known, report)
    except StorageFailed:  # an audit reads all pages, also those that the run had no need of
        return how, "right, told by audit", known
    return how, "right", known


def test_an_undamaged_run_goes_on_and_is_right(stopped, alone, tmp_path):
    for number, (source, api) in enumerate(stopped):
        folder, known = tmp_path / str(number), copy.deepcopy(api)
        shutil.copytree(source, folder)
        report = alone(known, input=folder / "in.jsonl").run()
        verify(folder, known, report)


def test_damage_is_noticed_or_does_not_matter(stopped, alone, tmp_path):
    outcomes = {}
    for seed in range(SEED, SEED + TRIALS):
        folder = tmp_path / str(seed)
        try:
            how, outcome, _ = trial(alone, stopped, seed, folder)
        except Exception as error:
            error.add_note(f"seed {seed}: BULKGROK_SEED={seed} BULKGROK_DAMAGES=1 pytest {Path(__file__).name}")
            raise
        outcomes.setdefault(outcome, []).append(how)
        shutil.rmtree(folder)
    print(
        f"damages={TRIALS} "
        + " ".join(f"{name.replace(', ', '_').replace(' ', '_')}={len(found)}" for name, found in outcomes.items())
    )
