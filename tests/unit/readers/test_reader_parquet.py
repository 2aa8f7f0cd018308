"""Tables as rows: only what is needed, absent where missing, and nothing that JSON cannot say."""

import datetime as dt
import uuid
from decimal import Decimal

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from bulkgrok.core.errors import InputError
from bulkgrok.readers import open_reader

UTC = dt.UTC


def read(tmp_path, table, *, columns=None, **arguments):
    path = tmp_path / "in.parquet"
    pq.write_table(table, path, **arguments)
    return [raw for chunk in open_reader(path, columns=columns).chunks() for raw in chunk]


def values(tmp_path, table, **arguments):
    rows = read(tmp_path, table, **arguments)
    assert [raw.defect for raw in rows] == [None] * len(rows)
    found = [raw.value for raw in rows]
    assert [orjson.loads(orjson.dumps(value)) for value in found] == found
    return found


def cell(tmp_path, array):
    return [value.get("c") for value in values(tmp_path, pa.table({"c": array}))]


def test_nested_messages_keep_their_shape_without_their_nulls(tmp_path):
    messages = [
        [{"role": "system", "content": "s", "name": None}, {"role": "user", "content": None, "name": "n"}],
        None,
        [],
    ]
    assert values(tmp_path, pa.table({"messages": messages})) == [
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "name": "n"}]},
        {"messages": None},
        {"messages": []},
    ]


def test_nulls_inside_lists_stay(tmp_path):
    assert cell(tmp_path, [[1, None, 2], [None]]) == [[1, None, 2], [None]]


def test_json_in_a_text_column_stays_text(tmp_path):
    assert cell(tmp_path, ['{"a": 1}', "[1]"]) == ['{"a": 1}', "[1]"]


def test_only_the_needed_columns_that_exist_are_in_the_rows(tmp_path):
    table = pa.table({"a.b": ["x"], "a": [{"b": 1, "c": 2}], "d": [3]})
    assert values(tmp_path, table, columns=frozenset({"a.b", "nowhere"})) == [{"a.b": "x"}]
    assert values(tmp_path, table, columns=frozenset({"a"})) == [{"a": {"b": 1, "c": 2}}]
    assert values(tmp_path, table, columns=frozenset({"nowhere"})) == [{}]
    assert values(tmp_path, table) == [{"a.b": "x", "a": {"b": 1, "c": 2}, "d": 3}]


def test_a_bad_cell_in_a_column_that_is_not_needed_does_no_harm(tmp_path):
    table = pa.table({"prompt": ["x"], "noise": [float("nan")]})
    assert values(tmp_path, table, columns=frozenset({"prompt"})) == [{"prompt": "x"}]


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="more than one column 'a'"):
        read(tmp_path, pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary(2)]
)
def test_text_is_text_however_it_is_stored(tmp_path, kind):
    assert cell(
        tmp_path,
        pa.array(["\u00fc", None]).cast(pa.binary() if pa.types.is_fixed_size_binary(kind) else kind).cast(kind),
    ) == ["\u00fc", None]


def test_dictionaries_are_what_they_hold(tmp_path):
    assert cell(tmp_path, pa.array(["x", "y", None, "x"]).dictionary_encode()) == ["x", "y", None, "x"]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([True, False]), [True, False]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([0.5], pa.float32()), [0.5]),
        (pa.array([0.5], pa.float16()), [0.5]),
        (pa.array([Decimal("1.10"), Decimal("3.00")]), [1.1, 3]),
        (pa.array([Decimal("12345678901234567890.12")]), ["12345678901234567890.12"]),
        (pa.array([Decimal(10) ** 30]), [1e30]),
        (pa.array([1], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000001"]),
        (pa.array([0], pa.timestamp("ms", "Europe/Berlin")), ["1970-01-01T00:00:00.000Z"]),
        (pa.array([0], pa.timestamp("s", "No/Where")), ["1970-01-01T00:00:00.000Z"]),
        (pa.array([dt.date(2024, 2, 29)]), ["2024-02-29"]),
        (pa.array([dt.time(1, 2, 3)]), ["01:02:03.000000"]),
        (pa.array([1500], pa.duration("ms")), [1.5]),
        (pa.nulls(2), [None, None]),
        (pa.array([[("k", 1), ("z", None)]], pa.map_(pa.string(), pa.int32())), [{"k": 1}]),
        (pa.array([[(1, "x")]], pa.map_(pa.int32(), pa.string())), [{"1": "x"}]),
        (pa.array([[{"t": dt.datetime(2024, 1, 1, tzinfo=UTC)}]]), [[{"t": "2024-01-01T00:00:00.000000Z"}]]),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [[1, 2]]),
        (pa.array([[b"x"]], pa.large_list(pa.binary())), [["x"]]),
        (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), [str(uuid.UUID(int=1))]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_type_becomes_json(tmp_path, array, expected):
    assert cell(tmp_path, array) == expected


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (pa.array([1.0, float("nan")]), "nan is not JSON"),
        (pa.array([[1.0], [float("inf")]]), "inf is not JSON"),
        (pa.array([{"x": 1.0}, {"x": float("-inf")}]), "-inf is not JSON"),
        (pa.array([b"x", b"\xff"]), "binary data"),
        (pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32()), "cannot be written as JSON"),
        (pa.Array.from_buffers(pa.string(), 2, pa.array([b"x", b"\xff"]).buffers()), "not UTF-8"),
    ],
    ids=["nan", "inf", "struct", "binary", "date", "text"],
)
def test_a_cell_that_json_cannot_say_is_a_defect_of_its_row_alone(tmp_path, array, words):
    good, bad = read(tmp_path, pa.table({"prompt": ["one", "two"], "c": array}))
    assert good.defect is None
    assert good.value["prompt"] == "one"
    assert (bad.row, bad.line, bad.value) == (1, None, {})
    assert bad.defect.startswith("column c: ")
    assert words in bad.defect


def test_rows_go_on_across_row_groups_and_chunks_stay_small(tmp_path):
    table = pa.table({"prompt": [str(n) for n in range(2000)]})
    found = read(tmp_path, table, row_group_size=700)
    assert [(raw.row, raw.value["prompt"]) for raw in found] == [(n, str(n)) for n in range(2000)]


def test_large_rows_come_few_at_a_time_even_where_they_are_stored_once(tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": ["x" * 400_000] * 50}), path)
    assert {len(chunk) for chunk in open_reader(path).chunks()} == {2}


def test_memory_is_flat_in_the_size_of_a_row_group(tmp_path):
    path = tmp_path / "in.parquet"
    table = pa.table({"prompt": [str(n) * 500 for n in range(40_000)]})
    pq.write_table(table, path, row_group_size=40_000, compression="none", use_dictionary=False)
    size = table.nbytes
    del table
    before = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() - before for _ in open_reader(path).chunks())
    assert size > 80 << 20
    assert peak < 16 << 20
