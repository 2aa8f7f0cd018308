"""Whatever the API wrote, an outcome is one line, and the values in it are the API's own text."""

import json
from decimal import Decimal

import orjson
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from bulkgrok.core.model import Asset, Code, Mode, RowError, Settled
from bulkgrok.sinks import line
from bulkgrok.sinks.quota import Quota
from bulkgrok.sinks.table import SCHEMA, _batch

NUMBERS = st.sampled_from(
    [
        "1e400",
        "-1E+400",
        "123456789012345678901234567890",
        "1.0",
        "-0",
        "-0.0",
        "1e-7",
        "0.1000",
        "1E5",
        "9007199254740993",
    ]
)
WHITE = st.text(alphabet=" \t\r\n", max_size=3)
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\u2028\u2029\x85\x0b\x1c"\\\n\r\x00'), max_size=8
)
ESCAPES = st.sampled_from(
    [r'"\u2028"', r'"\ud83d\ude00"', r'"\ud800"', r'"\/\b\f\n"', r'"\u0000"', '"\u2028 \u2029 \x85"']
)


def spaced(parts):
    return st.tuples(*(st.tuples(WHITE, st.just(part)) for part in parts)).map(
        lambda pairs: "".join(a + b for a, b in pairs)
    )


VALUES = st.recursive(
    NUMBERS
    | ESCAPES
    | TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False))
    | st.sampled_from(["null", "true"]),
    lambda inner: (
        st.lists(inner, max_size=4).flatmap(lambda parts: spaced(["[", *_between(parts, [","]), "]"]))
        | st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"a"']), inner), max_size=3).flatmap(
            lambda pairs: spaced(["{", *_between([f"{key}:{value}" for key, value in pairs], [","]), "}"])
        )
    ),
    max_leaves=8,
)
BODIES = st.tuples(WHITE, VALUES, WHITE).map("".join)


def _between(parts, comma):
    joined = []
    for part in parts:
        joined += [*(comma if joined else []), part]
    return joined


def outcome(**changes):
    values = {
        "seq": 1, "row": 0, "line": 1, "custom_id": "a", "kind": "chat", "mode": Mode.DIRECT, "model": "m",
        "attempts": 1, "submitted_at": 1.0, "completed_at": 2.5, "request_id": "r", "status_code": 200, "body": b"{}",
        "cost_usd": None, "usage": None,
    }  # fmt: skip
    return Settled(**(values | changes))


def exactly(text):
    """Parse with every number as its own text and every object as its pairs: equal only when nothing was touched."""
    keep = {"parse_int": lambda n: ("number", n), "parse_float": lambda n: ("number", n)}
    return json.loads(text, object_pairs_hook=lambda pairs: ("object", pairs), **keep)


@given(BODIES)
def test_values_are_untouched_and_a_result_is_one_line(text):
    rendered = line.render(outcome(body=text.encode()), simulated=False)
    assert rendered.split(b"\n") == [rendered]
    assert b"\r" not in rendered
    pairs = dict(exactly(rendered)[1])
    body = dict(pairs["response"][1])["body"]
    assert body == exactly(text)
    assert line.body_json(text.encode()) in rendered


@given(BODIES)
def test_the_dict_of_stream_holds_the_values_of_the_line(text):
    body = line.as_dict(outcome(body=text.encode()), simulated=False)["response"]["body"]
    assert repr(body) == repr(json.loads(text))


@given(st.binary(max_size=60) | TEXTS.map(str.encode))
def test_a_body_of_any_bytes_makes_a_line_that_can_be_read(raw):
    settled = outcome(body=raw, status_code=500, usage=raw, error=RowError(code=Code.FAILED, message="no"))
    rendered = line.render(settled, simulated=True)
    assert b"\n" not in rendered
    value = json.loads(rendered)
    assert value["bulkgrok"]["simulated"] is True
    as_dict = line.as_dict(settled, simulated=True)
    assert list(as_dict) == list(value)
    assert repr(as_dict["response"]) == repr(value["response"])


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_text_of_any_code_points_makes_a_line_and_a_table_row(custom_id, model, url):
    settled = outcome(custom_id=custom_id, model=model, request_id=url, assets=(Asset(url=url),))
    value = json.loads(line.render(settled, simulated=False))
    assert value["custom_id"] == line.clean_text(custom_id)
    batch = _batch([settled], lambda kind, body: None)
    assert batch.schema == SCHEMA
    row = batch.to_pylist()[0]
    assert (row["custom_id"], row["model"], row["assets"][0]["url"]) == tuple(
        map(line.clean_text, (custom_id, model, url))
    )


@given(st.binary(max_size=40))
def test_the_table_holds_the_body_of_the_line(raw):
    settled = outcome(body=raw)
    body = _batch([settled], lambda kind, body: None).column("body")[0].as_py()
    assert body == line.body_json(raw).decode()
    assert isinstance(pa.scalar(body), pa.StringScalar)


@given(st.decimals(min_value=0, max_value=10**9, places=6), st.decimals(min_value=0, max_value=10**6, places=6))
def test_latency_is_the_difference_of_the_times(submitted, latency):
    base = Decimal(1_790_000_000)
    settled = outcome(submitted_at=float(base + submitted), completed_at=float(base + submitted + latency))
    value = orjson.loads(line.render(settled, simulated=False))["bulkgrok"]
    assert abs(value["latency_s"] - float(latency)) < 1e-5


@given(
    st.lists(st.integers(0, 30), max_size=40),
    st.lists(st.integers(1, 7), min_size=1),
    st.integers(1, 9),
    st.integers(1, 60),
)
def test_parts_end_in_the_same_places_however_rows_are_batched(sizes, batches, rows, size_bytes):
    outcomes = [outcome(seq=n, body=b"x" * size) for n, size in enumerate(sizes)]

    def cut(steps):
        quota, ends, start, turn = Quota(rows=rows, size_bytes=size_bytes), [], 0, 0
        while start < len(outcomes):
            step = steps[turn % len(steps)]
            for piece in quota.split(outcomes[start : start + step]):
                if quota.full:
                    ends.append(piece[-1].seq)
                    quota.clear()
            start, turn = start + step, turn + 1
        return ends

    assert cut(batches) == cut([1]) == cut([1000])


BRACES = st.sampled_from(['"}"', '"{"', r'"\""', r'"\\"', '":{"', "1.00", "1e400", "[]", '"usage"', "null"])
NAMES = st.sampled_from(['"usage"', '"usage"', r'"\"usage"', r'"us\u0061ge"', '"a"', '"}"', r'"\\"'])
COLONS = st.sampled_from([":", ": ", " : "])


def members_of(values):
    return st.lists(st.tuples(NAMES, COLONS, values).map("".join), max_size=4).map(
        lambda members: "{" + ", ".join(members) + "}"
    )


REPLIES = members_of(
    st.recursive(BRACES, lambda inner: members_of(inner) | inner.map(lambda value: f"[{value}]"), max_leaves=12)
)


@given(REPLIES, st.booleans())
@example('{"a":1,"usage":{"n":1.00},"b":"}"}', False)
@example(r'{"a":{"\"usage":{"n":1}}}', True)
@example(r'{"usage":{"n":1},"us\u0061ge":{"n":2.0}}', True)
@example('{"usage":{"n":1.00},"a":{"usage":{"n":1}}}', True)
@example(r'{"us\u0061ge":{}}', False)
def test_the_usage_found_from_the_end_is_the_one_found_from_the_front(text, kept):
    body = text.encode()
    usage = json.loads(text).get("usage")
    stored = orjson.dumps(usage) if kept and isinstance(usage, dict) else None
    found = line._usage(outcome(usage=stored), body)
    reference = line._usage_in(body)
    if stored is None:
        assert found == reference
    else:  # one that says the same may be found first
        assert json.loads(found) == json.loads(reference)
