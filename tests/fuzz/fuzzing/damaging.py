"""Targets that need files: readers, standard input, the checkpoint and what lies beside it.

Law: as in `targets`. Where a format would refuse almost any bytes at its door, the bytes are edits of a real file:
five bytes each, four for where and one for what. Files lie in memory where the system has such a place.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bulkgrok.checkpoint.memory import MemoryStore
from bulkgrok.checkpoint.spill import Spill
from bulkgrok.checkpoint.sqlite import SqliteStore
from bulkgrok.checkpoint.tally import Tally
from bulkgrok.cli.status import _text as status_text
from bulkgrok.core.errors import BulkgrokError, InputError, RunMismatch, StorageFailed, UsageError
from bulkgrok.core.lifecycle import Accept, Doubt, Fail, Redeem, Submit, Succeed
from bulkgrok.core.model import Code, Item, Mode, Position, RequestId, RowError, RunIdentity, Settled, Unusable
from bulkgrok.core.ports import Sink
from bulkgrok.engine.lookup import find_run, reading, summary
from bulkgrok.engine.recovery import owned_by
from bulkgrok.readers import fingerprint, open_reader, spool_stdin, verify
from bulkgrok.readers.lines import rows
from bulkgrok.simulator.server import SimulatorServer
from bulkgrok.sinks import open_sink
from bulkgrok.sinks.line import row_of, speaks_of

PAGE = 16_384
MOST_ROWS = 3_000
_SHM = Path("/dev/shm")


@cache
def folder() -> Path:
    """Return this process's folder for files."""
    return Path(tempfile.mkdtemp(prefix="bulkgrok-fuzz-", dir=_SHM if _SHM.is_dir() else None))


def edits(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where and what of each edit."""
    for at in range(0, len(data) - 4, 5):
        yield int.from_bytes(data[at : at + 4]), data[at + 4]


def edited(base: bytes, data: bytes) -> bytearray:
    """Return a file after the edits."""
    changed = bytearray(base)
    for at, value in edits(data):
        changed[at % len(changed)] ^= value or 0xFF
    return changed


# Readers


def lines(data: bytes) -> None:
    """Lines are the same whatever the sizes of the blocks they come in; none is longer than the cap."""
    size, cap, text = 1 + (data[0] if data else 0), 1 + (data[1] if len(data) > 1 else 0), data[2:]
    blocks = (text[at : at + size] for at in range(0, len(text), size))
    found = [raw for chunk in rows(blocks, Path("in"), line_bytes=cap) for raw in chunk]
    kept = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    expected = [line.removesuffix(b"\r") if len(line) <= cap else b"" for line in kept if line.strip()]
    assert [raw.value for raw in found] == expected


NAMES = (
    "in.jsonl", "in.txt", "in", "in.json", "in.jsonl.gz", "in.txt.gz", "in.jsonl.zst", "in.txt.zst",
    "in.parquet", "in.pq.gz",
)  # fmt: skip


def any_input(data: bytes) -> None:
    """Any file of any name is read, or refused in words."""
    _read(NAMES[(data[0] if data else 0) % len(NAMES)], data[1:])


def _read(name: str, content: bytes) -> None:
    path = folder() / name
    path.write_bytes(content)
    fingerprint(path)
    with suppress(InputError):
        verify(path)
        reader = open_reader(path)
        count = 0
        for chunk in reader.chunks():
            assert [raw.row for raw in chunk] == list(range(count, count + len(chunk)))
            count += len(chunk)
            if count > MOST_ROWS:
                break


def packed(data: bytes) -> None:
    """Damaged gzip and zstd end in words, after every line before the damage."""
    base = PACKED[(data[0] if data else 0) % len(PACKED)]()
    _read("in.jsonl.gz" if base.startswith(b"\x1f\x8b") else "in.jsonl.zst", bytes(edited(base, data[1:])))


def parquet(data: bytes) -> None:
    """Damaged tables end in words."""
    base = TABLES[(data[0] if data else 0) % len(TABLES)]()
    _read("in.parquet", bytes(edited(base, data[1:])))


def _text() -> bytes:
    return b"".join(json.dumps({"custom_id": str(row), "prompt": "x" * row}).encode() + b"\n" for row in range(200))


def _zstd() -> bytes:
    return bytes(pa.compress(_text(), "zstd", asbytes=True))


PACKED: tuple[Callable[[], bytes], ...] = (
    cache(lambda: zlib.compress(_text(), wbits=31)),
    cache(_zstd),
    cache(lambda: zlib.compress(b"a\n", wbits=31) + zlib.compress(_text(), wbits=31)),
    cache(lambda: _zstd() + b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + _zstd()),
)


def _table(**options: object) -> bytes:
    sink = io.BytesIO()
    columns = {
        "prompt": [f"question {row}" for row in range(60)],
        "n": [row % 3 if row % 5 else None for row in range(60)],
        "list": [[{"a": row, "b": "x"}] * (row % 4) for row in range(60)],
        "at": pa.array(range(60), pa.timestamp("ns", "UTC")),
        "raw": [b"\xff" * (row % 3) for row in range(60)],
        "map": pa.array([[("k", 1)]] * 60, pa.map_(pa.string(), pa.int32())),
    }
    pq.write_table(pa.table(columns), sink, row_group_size=25, **options)
    return sink.getvalue()


TABLES: tuple[Callable[[], bytes], ...] = (
    cache(lambda: _table(compression="none")),
    cache(lambda: _table(compression="zstd", data_page_version="2.0")),
    cache(lambda: _table(compression="snappy", use_dictionary=False)),
    cache(lambda: _table(compression="gzip", write_page_index=True, use_byte_stream_split=False)),
)


def standard_input(data: bytes) -> None:
    """A kept standard input is only ever continued with the same bytes, or none."""
    at = 1 + (data[0] if data else 0)
    first, second = data[1:at], data[at:]
    place = folder() / "spool"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if not first:
        return
    spool = spool_stdin(io.BytesIO(first), place)
    assert spool.read_bytes() == first
    same = second in {b"", first}
    try:
        spool_stdin(io.BytesIO(second), place)
        assert same
    except RunMismatch:
        assert not same
    assert spool.read_bytes() == first


# The checkpoint, and what lies beside it


def _item(row: int, mode: Mode) -> Item:
    return Item(
        row=row, line=row + 1, custom_id=f"q{row}", kind="chat", mode=mode, model="grok-4.3", stream=False, body=b"{}",
        digest=bytes(16), max_usd=0.01, tokens=9,
    )  # fmt: skip


def _fill(store: SqliteStore) -> None:
    """Bring rows into every state there is."""
    body = b'{"choices": [{"message": {"content": "' + b"y" * 20_000 + b'"}}]}'
    for row in range(12):
        store.apply([Submit(item=_item(row, Mode.DIRECT if row % 2 else Mode.DEFERRED), attempt=1, at=1.0)])
        redeem = Redeem(row=row, at=3.0, status_code=200, raw=body[: 500 * row], request_id=None)
        match row % 6:
            case 0:
                store.apply([Accept(row=row, request_id=RequestId(f"r{row}"), at=2.0, deadline_at=9e9)])
            case 1:
                succeed = Succeed(row=row, model="m", cost_usd=0.1, usage=b'{"a": 1}', tokens=(1, 2, 3, 4))
                store.apply([redeem, succeed])
            case 2:
                store.apply([Doubt(row=row, at=2.0, reason="no reply")])
            case 3:
                error = RowError(code=Code.INVALID_RESPONSE, message="no answer", status_code=200)
                fail = Fail(
                    row=row, at=4.0, error=error, custom_id="q", kind="chat", mode="direct", model="m", digest=bytes(16)
                )
                store.apply([redeem, fail])
            case 4:
                store.apply([redeem])
            case _:
                pass
    identity = RunIdentity(
        run_id="/out.jsonl", input_name="/in.jsonl", input=None, settings={"mode": "direct"}, endpoint="https://api/v1",
        key_salt="00", key_hash="00", simulated=False, created_at=1.0,
    )  # fmt: skip
    store.bind(identity)
    store.advance("jsonl:/out.jsonl", Position(seq=1, state={"offset": 10, "crc": 5}))
    store.note("report", {"exit_code": 3, "rows": 12, "output": "/out.jsonl", "errors": "/e", "duration_s": 1.0})


@cache
def _checkpoints() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the files of a checkpoint that was closed, and of one whose process was killed."""
    place = folder() / "base"
    place.mkdir()
    store = SqliteStore(place / "checkpoint.db")
    store.open()
    _fill(store)
    killed = {path.name: path.read_bytes() for path in place.iterdir() if not path.name.endswith("-shm")}
    store.close()
    return {path.name: path.read_bytes() for path in place.iterdir()}, killed


def _resealed(changed: bytearray) -> None:
    """Give every page the checksum of what it holds now: for what gets by the first look."""
    for at in range(0, len(changed) - PAGE + 1, PAGE):
        changed[at + PAGE - 4 : at + PAGE] = zlib.crc32(changed[at : at + PAGE - 4], at).to_bytes(4)


def checkpoint(data: bytes) -> None:
    """A damaged checkpoint is read and written as what it is, or refused in words."""
    choice = data[0] if data else 0
    files = dict(_checkpoints()[choice & 1])
    name = ("checkpoint.db", "checkpoint.db-wal", "checkpoint.db-mark")[(choice >> 1) % 3]
    if files.get(name):
        changed = edited(files[name], data[1:])
        if choice & 8 and name == "checkpoint.db":
            _resealed(changed)
        files[name] = bytes(changed)
    place = folder() / "checkpoint"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for each, content in files.items():
        (place / each).write_bytes(content)
    for read_only in (True, False):
        store = SqliteStore(place / "checkpoint.db", read_only=read_only)
        with suppress(BulkgrokError):
            try:
                store.open()
                _use(store, write=not read_only)
            finally:
                store.close()


def _use(store: SqliteStore, *, write: bool) -> None:
    """Ask a store for everything."""
    store.identity()
    store.totals()
    store.recount()
    len(store.taken())
    store.waiting()
    list(islice(store.jobs(), MOST_ROWS))
    for row in (*store.redeemed(), *store.submitting(), 0, 1):
        for ask in (store.record, store.counts, store.outcome):
            with suppress(KeyError):
                ask(row)
    store.outbox(0, 100)
    list(islice(store.failures(), MOST_ROWS))
    list(islice(store.ledger(), MOST_ROWS))
    store.pending_doubts()
    store.unexplained()
    store.position("jsonl:/out.jsonl")
    store.recall("report")
    if write:
        with suppress(ValueError):  # the lifecycle's refusal
            store.apply([Submit(item=_item(40, Mode.DIRECT), attempt=1, at=5.0)])
        store.wind_up()


def spill(data: bytes) -> None:
    """A spill file is entered as it was written, or refused in words."""
    place = folder() / "spill"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    found = Spill(place / "checkpoint.db")
    store = MemoryStore()
    store.open()
    store.apply([Submit(item=_item(row, Mode.DIRECT), attempt=1, at=1.0) for row in (1, 2)])
    found.save([Redeem(row=1, at=2.5, status_code=200, raw=b"an answer", request_id="x")])
    if data[:1] == b"\x01":
        found.places[0].write_bytes(data[1:])
    else:
        found.places[0].write_bytes(bytes(edited(found.places[0].read_bytes(), data[1:])))
    with suppress(StorageFailed):
        found.recover(store)
    if store.redeemed():
        assert store.redeemed() == [1]
        assert store.record(1).raw == b"an answer"


def journal(data: bytes) -> None:
    """A simulator's journal is taken up as it was written, or refused in words."""
    path = folder() / "simulator.jsonl"
    line = b'{"t":"direct","ticks":5}'
    base = b'{"crc32":%d,"record":%b}\n' % (zlib.crc32(line), line)
    path.write_bytes(data[1:] if data[:1] == b"\x01" else bytes(edited(base, data[1:])))
    server = SimulatorServer(journal=path)

    async def live() -> int:
        await server.start()
        await server.stop()
        return server.world.ledger.accepted

    with suppress(StorageFailed):
        assert asyncio.run(live()) in {0, 1}


def status(data: bytes) -> None:
    """Whatever a status file says, the run is shown."""
    place = folder() / "status"
    if not place.exists():
        place.mkdir()
        for name, content in _checkpoints()[0].items():
            (place / name).write_bytes(content)
    (place / "status.json").write_bytes(data)
    found = find_run(str(place))
    with reading(found) as store:
        json.dumps(summary(found, store))
    assert status_text(found)


@cache
def _outcomes() -> tuple[SqliteStore, list[Settled]]:
    """Return a store that holds some outcomes, and them."""
    place = folder() / "outcomes"
    place.mkdir()
    store = SqliteStore(place / "checkpoint.db")
    store.open()
    _fill(store)
    return store, store.outbox(0, 100)


@cache
def _written(output_format: str, *, parts: bool) -> tuple[Path, bytes, Position]:
    """Return where a sink wrote, what, and its last position."""
    _, outcomes = _outcomes()
    path = folder() / "written" / f"{output_format}{parts:d}"
    sink = _sink(path, output_format, parts=parts)
    sink.restore(None)
    sink.write(outcomes)
    last = sink.finish(complete=True)
    while sink.unfinished:  # what was planned is put in place once that is stored
        last = sink.finish(complete=True)
    sink.close()
    file = next(path.glob("part-*")) if parts else path
    return file, file.read_bytes(), last


def _sink(path: Path, output_format: str, *, parts: bool) -> Sink:
    nothing = Unusable(code=Code.INVALID_RESPONSE, message="")
    return open_sink(
        output=path, folder=parts, output_format=output_format, simulated=False, summarise=lambda _, __: nothing
    )


def results(data: bytes) -> None:
    """Whatever lies where results go is taken up as ours, or refused in words and left as it is."""
    choice = data[0] if data else 0
    output_format, parts = ("parquet" if choice & 1 else "jsonl"), bool(choice & 2)
    file, base, last = _written(output_format, parts=parts)
    content = data[1:] if choice & 4 else bytes(edited(base, data[1:]))
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    sink = _sink(file.parent if parts else file, output_format, parts=parts)
    try:
        sink.check(last if choice & 8 else Position(seq=0), owned_by(_outcomes()[0], speaks_of, row_of))
    except UsageError:
        assert file.read_bytes() == content
        return
    kept = sink.restore(last)
    sink.close()
    assert kept.seq == (last.seq if content == base else 0)


def sums(data: bytes) -> None:
    """A stored tally is one, or none."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        Tally.loads(data.decode("utf-8", "replace")).dumps()


TARGETS = {
    function.__name__: function
    for function in (
        lines, any_input, packed, parquet, standard_input, checkpoint, spill, journal, status, results, sums,
    )
}  # fmt: skip
