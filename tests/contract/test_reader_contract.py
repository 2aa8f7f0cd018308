"""What every reader keeps, over the registry: each text format plain and packed, and tables; files and objects."""

import gzip
import itertools
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from bulkgrok.core.address import Address
from bulkgrok.core.errors import InputError
from bulkgrok.core.model import Item
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings
from bulkgrok.objects import ObjectStore
from bulkgrok.readers import FORMATS, ObjectInput, open_reader, verify
from bulkgrok.readers.formats import COMPRESSIONS

NUMBERS = itertools.count()
PROMPTS = [f"question {n}, {'long ' * (n % 50)}\u2028\x0b\x85 Grüße" for n in range(3000)]


def jsonl_bytes(prompts):
    return b"".join(json.dumps({"prompt": text}, ensure_ascii=False).encode() + b"\n" for text in prompts)


def txt_bytes(prompts):
    return b"".join(text.encode() + b"\n" for text in prompts)


def parquet_bytes(prompts):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.string())}), sink, row_group_size=700, compression="none")
    return sink.getvalue().to_pybytes()


WRITERS = {"jsonl": jsonl_bytes, "txt": txt_bytes, "parquet": parquet_bytes}


def zstd(data):
    """Two frames, which together are one text."""
    middle = len(data) // 2
    return b"".join(pa.Codec("zstd").compress(part, asbytes=True) for part in (data[:middle], data[middle:]) if part)


def members(data):
    """Two gzip members, which together are one text."""
    middle = len(data) // 2
    return gzip.compress(data[:middle]) + gzip.compress(data[middle:])


PACKERS = {"gzip": members, "zstd": zstd}

ALL_NAMES = [
    (name, suffix, packing, packed_suffix)
    for name, found in FORMATS.items()
    for suffix in found.suffixes
    for packing, packed_suffix in [
        (None, ""),
        *[(p, s) for p, suffixes in COMPRESSIONS.items() for s in suffixes if found.text],
    ]
]
each_name = pytest.mark.parametrize("variant", ALL_NAMES, ids=[f"{v[1]}{v[3]}" for v in ALL_NAMES])
VARIANTS = list({(name, packing): (name, *rest) for name, *rest in ALL_NAMES for packing in [rest[1]]}.values())
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=[f"{v[1]}{v[3]}" for v in VARIANTS])
text_variants = [v for v in VARIANTS if FORMATS[v[0]].text]
each_text = pytest.mark.parametrize("variant", text_variants, ids=[f"{v[1]}{v[3]}" for v in text_variants])
packed_variants = [v for v in text_variants if v[2]]
each_packed = pytest.mark.parametrize("variant", packed_variants, ids=[f"{v[1]}{v[3]}" for v in packed_variants])


def place(tmp_path, variant, data):
    _, suffix, packing, packed_suffix = variant
    path = tmp_path / f"in{suffix}{packed_suffix}"
    path.write_bytes(PACKERS[packing](data) if packing else data)
    return path


@pytest.fixture(params=["disk", "pretend", "s3"])
def at(request, tmp_path):
    """Return what makes of a file what a reader is given: itself, or an object of the same content."""
    match request.param:
        case "disk":
            return lambda path: path
        case "pretend":
            store = ObjectStore(pafs.LocalFileSystem(), str(tmp_path))
            return lambda path: pinned(path.name, stores=lambda _: store)
    server = request.getfixturevalue("s3_server")
    bucket = f"readers-{next(NUMBERS)}"
    server.make_bucket(bucket)

    def uploaded(path):
        server.put(bucket, path.name, path.read_bytes())
        return pinned(path.name, bucket)

    return uploaded


def pinned(name, bucket="pretend", **stores):
    found = ObjectInput(address=Address(scheme="s3", root=bucket, key=name), **stores)
    return found.pin(found.look())


def rows_of(reader):
    return [raw for chunk in reader.chunks() for raw in chunk]


def prompt_of(raw):
    assert raw.defect is None
    return (json.loads(raw.value) if isinstance(raw.value, bytes) else raw.value)["prompt"]


def rows_before_the_break(reader):
    found = []
    with pytest.raises(InputError) as caught:
        found.extend(raw for chunk in reader.chunks() for raw in chunk)
    return found, caught.value


def test_every_format_of_the_registry_is_tested():
    assert set(WRITERS) == set(FORMATS)
    assert set(PACKERS) == set(COMPRESSIONS)


@each_variant
def test_all_formats_give_the_same_rows(tmp_path, at, variant):
    path = place(tmp_path, variant, WRITERS[variant[0]](PROMPTS))
    rows = rows_of(open_reader(at(path)))
    assert [prompt_of(raw) for raw in rows] == PROMPTS
    assert [raw.row for raw in rows] == list(range(len(PROMPTS)))
    assert {raw.line - raw.row if raw.line else None for raw in rows} == ({1} if FORMATS[variant[0]].text else {None})


@each_variant
def test_reading_again_gives_the_same_even_at_the_same_time(tmp_path, at, variant):
    reader = open_reader(at(place(tmp_path, variant, WRITERS[variant[0]](PROMPTS))))
    first, second = reader.chunks(), reader.chunks()
    assert list(next(first)) == list(next(second))
    assert list(first) == list(second)
    assert rows_of(reader) == rows_of(reader)


@each_variant
@pytest.mark.parametrize("wanted", [{0}, {2999}, {1234, 1235, 2700}, set()])
def test_rows_that_nobody_wants_may_be_left_out_and_the_others_are_what_they_were(tmp_path, at, variant, wanted):
    reader = open_reader(at(place(tmp_path, variant, WRITERS[variant[0]](PROMPTS))))
    passed = set()

    def passing(first, end):
        unwanted = wanted.isdisjoint(range(first, end))
        passed.update(range(first, end) if unwanted else ())
        return unwanted

    rows = [raw for chunk in reader.chunks(passing) for raw in chunk]
    assert rows == [raw for raw in rows_of(reader) if raw.row not in passed]
    assert {raw.row for raw in rows} | passed == set(range(len(PROMPTS)))
    assert wanted.isdisjoint(passed)
    assert passed or wanted


@each_variant
def test_chunks_are_never_empty_and_never_large(tmp_path, at, variant):
    chunks = list(open_reader(at(place(tmp_path, variant, WRITERS[variant[0]](PROMPTS)))).chunks())
    assert {bool(chunk) for chunk in chunks} == {True}
    assert max(map(len, chunks)) <= 256


@each_variant
def test_no_rows_are_no_chunks(tmp_path, at, variant):
    assert list(open_reader(at(place(tmp_path, variant, WRITERS[variant[0]]([]) or b"\n"))).chunks()) == []


@each_name
def test_every_suffix_is_known(tmp_path, at, variant):
    path = place(tmp_path, variant, WRITERS[variant[0]](PROMPTS[:5]))
    assert [prompt_of(raw) for raw in rows_of(open_reader(at(path)))] == PROMPTS[:5]
    path = path.rename(path.with_name(path.name.upper()))
    assert [prompt_of(raw) for raw in rows_of(open_reader(at(path)))] == PROMPTS[:5]


@each_variant
def test_the_bytes_decide_where_the_name_says_nothing_or_something_else(tmp_path, at, variant):
    kind = variant[0]
    path = place(tmp_path, variant, WRITERS[kind](PROMPTS[:5])).rename(tmp_path / ("in.txt" if kind == "txt" else "in"))
    assert [prompt_of(raw) for raw in rows_of(open_reader(at(path)))] == PROMPTS[:5]
    if kind != "txt":
        path = path.rename(tmp_path / "in.jsonl")
        assert [prompt_of(raw) for raw in rows_of(open_reader(at(path)))] == PROMPTS[:5]


@each_variant
def test_a_file_that_is_not_there_or_no_file_is_an_input_error_that_names_it(tmp_path, variant):
    path = tmp_path / f"in{variant[1]}{variant[3]}"
    with pytest.raises(InputError, match="in") as caught:
        open_reader(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    path.mkdir()
    with pytest.raises(InputError, match="folder"):
        open_reader(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(InputError, match="regular"):
        open_reader(path)


@each_text
def test_blank_lines_are_lines_and_no_rows(tmp_path, at, variant):
    one, two, three = (WRITERS[variant[0]]([text]).removesuffix(b"\n") for text in ("one", "two", "three"))
    data = b"\n \t\n" + one + b"\r\n\r\n\x0b\x0c\n" + two + b"\n\n" + three
    rows = rows_of(open_reader(at(place(tmp_path, variant, data))))
    assert [(raw.row, raw.line, prompt_of(raw)) for raw in rows] == [(0, 3, "one"), (1, 6, "two"), (2, 8, "three")]
    assert not any(raw.value.endswith(b"\r") for raw in rows if isinstance(raw.value, bytes))


@each_text
def test_a_byte_order_mark_at_the_start_is_skipped(tmp_path, at, variant):
    path = place(tmp_path, variant, b"\xef\xbb\xbf" + WRITERS[variant[0]](PROMPTS[:3]))
    assert [prompt_of(raw) for raw in rows_of(open_reader(at(path)))] == PROMPTS[:3]
    path = place(tmp_path, variant, b"\xef\xbb\xbf")
    assert rows_of(open_reader(at(path))) == []


@each_text
def test_the_last_line_needs_no_end(tmp_path, at, variant):
    path = place(tmp_path, variant, WRITERS[variant[0]](PROMPTS[:3]).removesuffix(b"\n"))
    assert [prompt_of(raw) for raw in rows_of(open_reader(at(path)))] == PROMPTS[:3]


@each_packed
@pytest.mark.parametrize("lost", [1, 5000])
def test_a_packed_file_cut_off_gives_every_whole_line_before_the_break(tmp_path, at, variant, lost):
    path = place(tmp_path, variant, WRITERS[variant[0]](["x" * 30 + str(os.urandom(40)) for _ in range(9000)]))
    whole = rows_of(open_reader(at(path)))
    path.write_bytes(path.read_bytes()[:-lost])
    found, error = rows_before_the_break(open_reader(at(path)))
    assert found == whole[: len(found)]
    # zstd packs blocks of 128 KiB, of which a part is nothing.
    assert len(found) >= len(whole) - (10 + lost // 20 if variant[2] == "gzip" else 1500)
    assert str(at(path)) in error.message
    assert f"after line {len(found)} ({len(found)} rows)" in error.message


@each_packed
def test_a_packed_file_damaged_in_the_middle_gives_only_true_rows_before_the_break(tmp_path, at, variant):
    """These rows, that is: damaged deflate may give a line of rubbish before it breaks, hence `readers.verify`."""
    chance = random.Random(7)
    data = WRITERS[variant[0]](["x" * 30 + str(chance.randbytes(40)) for _ in range(9000)])
    path = tmp_path / f"in{variant[1]}{variant[3]}"
    packed = bytearray(gzip.compress(data) if variant[2] == "gzip" else pa.Codec("zstd").compress(data, asbytes=True))
    path.write_bytes(packed)
    whole = rows_of(open_reader(at(path)))
    packed[len(packed) * 2 // 3 :] = b"\xff" * (len(packed) - len(packed) * 2 // 3)
    path.write_bytes(packed)
    found, error = rows_before_the_break(open_reader(at(path)))
    assert found == whole[: len(found)]
    assert len(found) > 1000
    assert str(at(path)) in error.message


def test_a_table_damaged_in_a_later_row_group_gives_the_rows_of_those_before(tmp_path, at):
    path = place(tmp_path, ("parquet", ".parquet", None, ""), parquet_bytes(PROMPTS))
    whole = rows_of(open_reader(at(path)))
    group = pq.ParquetFile(path).metadata.row_group(3).column(0)
    with path.open("r+b") as file:
        file.seek(min(filter(None, (group.dictionary_page_offset, group.data_page_offset))))
        file.write(b"\xff" * 200)
    found, error = rows_before_the_break(open_reader(at(path)))
    assert found == whole[:2100]
    assert str(at(path)) in error.message
    assert "after row 2100" in error.message


@each_variant
def test_a_reading_that_is_given_up_leaves_no_file_open(tmp_path, variant):
    reader = open_reader(place(tmp_path, variant, WRITERS[variant[0]](PROMPTS)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    chunks = reader.chunks()
    next(chunks)
    chunks.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@each_variant
@pytest.mark.parametrize(
    "rubbish", [b"", b"\x00", b"\xff" * 100, b"PAR1", b"PAR1PAR1PAR1", b"\x1f\x8b", b"(\xb5/\xfd", b"P*M\x18"]
)
def test_rubbish_is_rows_or_an_input_error_and_nothing_else(tmp_path, at, variant, rubbish):
    path = tmp_path / f"in{variant[1]}{variant[3]}"
    path.write_bytes(rubbish)
    try:
        rows_of(open_reader(at(path)))
    except InputError as error:
        assert str(at(path)) in error.message  # noqa: PT017 - either way is right


@each_variant
def test_a_whole_input_passes_verification(tmp_path, at, variant):
    verify(at(place(tmp_path, variant, WRITERS[variant[0]](PROMPTS))))


@each_packed
@pytest.mark.parametrize("left", [0.99, 0.5, 0.02])
def test_a_damaged_packed_input_is_refused_before_anything_is_sent(tmp_path, at, variant, left):
    path = place(tmp_path, variant, WRITERS[variant[0]](PROMPTS))
    packed = path.read_bytes()
    path.write_bytes(packed[: int(len(packed) * left)])
    with pytest.raises(InputError) as read:
        rows_of(open_reader(at(path)))
    with pytest.raises(InputError, match=r"Nothing was sent\.$") as verified:
        verify(at(path))
    line = read.value.message.partition(" (")[0]
    assert verified.value.message.startswith(line + ":")


def test_an_input_that_is_not_there_does_not_pass_verification(tmp_path):
    with pytest.raises(InputError):
        verify(tmp_path / "none.jsonl.gz")


NULLS = [
    {"custom_id": "a", "prompt": "p", "messages": None, "q": "Q", "n": None},
    {"custom_id": None, "prompt": None, "messages": [{"role": "user", "content": "m"}], "q": None, "n": 1},
]


@pytest.mark.parametrize(
    "settings",
    [{}, {"prompt": "{{ q }} [{{ n }}] {{ row.n }}"}, {"system": "[{{ n }}]"}],
    ids=["shapes", "prompt", "system"],
)
def test_a_null_means_the_same_in_json_lines_and_in_a_table(tmp_path, settings):
    lines, table = tmp_path / "in.jsonl", tmp_path / "in.parquet"
    lines.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in NULLS))
    pq.write_table(pa.Table.from_pylist(NULLS), table)
    encoder = RowEncoder(RowSettings(**settings), Prices.shipped())
    sent = [
        [encoder.encode(raw) for raw in rows_of(open_reader(path, columns=encoder.columns))] for path in (lines, table)
    ]
    assert all(isinstance(item, Item) for items in sent for item in items)
    assert [[item.custom_id for item in items] for items in sent] == [["a", "1"]] * 2
    # Fields of the body that are null are sent from JSON lines, where null can be told from absent.
    said = [[json.loads(item.body)["messages"] for item in items] for items in sent]
    assert said[0] == said[1]
