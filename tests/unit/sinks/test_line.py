"""The shape of a line, key by key."""

import dataclasses
import json
import tracemalloc

import pytest

from bulkgrok.core.model import Asset, Code, Mode, RowError, Settled
from bulkgrok.sinks import line

SUCCESS = Settled(
    seq=3,
    row=17,
    line=18,
    custom_id="q-17",
    kind="chat",
    mode=Mode.DEFERRED,
    model="grok-4.3",
    attempts=1,
    submitted_at=1_790_000_000.1,
    completed_at=1_790_000_003.3,
    request_id="r-1",
    status_code=200,
    body=b'{"id": "x", "n": 1.0}',
    cost_usd=0.00012,
    usage=b'{"total_tokens":135}',
    assets=(Asset(url="https://v/1", path="media/17.mp4", bytes=1, sha256="ab"),),
)
FAILURE = Settled(
    seq=0,
    row=2,
    line=3,
    custom_id="2",
    kind="chat",
    mode=Mode.DIRECT,
    model="grok-4.3",
    attempts=0,
    submitted_at=None,
    completed_at=None,
    request_id=None,
    status_code=None,
    body=None,
    cost_usd=None,
    usage=None,
    error=RowError(code=Code.INVALID_ROW, message="line 3: no prompt", line=3),
)


def test_a_success_is_exactly_the_documented_line():
    assert line.render(SUCCESS, simulated=False) == (
        b'{"custom_id":"q-17","row":17,"response":{"status_code":200,"request_id":"r-1","body":{"id": "x", "n": 1.0}},'
        b'"error":null,"bulkgrok":{"kind":"chat","mode":"deferred","model":"grok-4.3","attempts":1,'
        b'"submitted_at":1790000000.1,"completed_at":1790000003.3,"latency_s":3.2,"cost_usd":0.00012,'
        b'"usage":{"total_tokens":135},'
        b'"assets":[{"path":"media/17.mp4","bytes":1,"sha256":"ab","url":"https://v/1"}]}}'
    )


def test_a_row_that_was_never_sent_has_no_response():
    assert line.render(FAILURE, simulated=False) == (
        b'{"custom_id":"2","row":2,"response":null,"error":{"code":"invalid_row","message":"line 3: no prompt",'
        b'"status_code":null,"retryable":false,"line":3},"bulkgrok":{"kind":"chat","mode":"direct","model":"grok-4.3",'
        b'"attempts":0,"submitted_at":null,"completed_at":null,"latency_s":null,"cost_usd":null,"usage":null,"assets":[]}}'
    )


@pytest.mark.parametrize("settled", [SUCCESS, FAILURE])
@pytest.mark.parametrize("simulated", [True, False])
def test_the_dict_is_the_parsed_line_in_the_same_order(settled, simulated):
    text = json.dumps(json.loads(line.render(settled, simulated=simulated)))
    assert json.dumps(line.as_dict(settled, simulated=simulated)) == text


def test_only_simulated_rows_say_so():
    assert json.loads(line.render(SUCCESS, simulated=True))["bulkgrok"]["simulated"] is True
    assert "simulated" not in json.loads(line.render(SUCCESS, simulated=False))["bulkgrok"]


def test_lines_end_with_a_newline_each_and_none_is_nothing():
    assert b"".join(line.render_all([], simulated=False)) == b""
    assert b"".join(line.render_all([SUCCESS, FAILURE], simulated=False)).count(b"\n") == 2


LARGE = {
    "plain": b'{"a":"' + b"x" * 2_000_000 + b'","usage":{"n":1.00}}',
    "pretty": json.dumps({"a": list(range(300_000)), "usage": {"n": [1]}}, indent=1).encode(),
    "marked": b'\xef\xbb\xbf {"a":"' + b'\\"body\\":null' * 100_000 + b'"}\n',
    "no object": b"[" + b"0,\r\n" * 300_000 + b"0]",
    "not JSON": '"é\U0001f600\n\x00'.encode() * 150_000 + b"\xff",
    "usage beyond all sense": b'{"usage":{"n":"' + b"x" * 2_000_000 + b'"}}',
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE.keys())
def test_a_large_line_comes_in_blocks_and_is_the_same_line(body):
    settled = dataclasses.replace(SUCCESS, custom_id='"body":null', body=body)
    blocks = list(line.render_all([SUCCESS, settled, FAILURE], simulated=False))
    rendered = [line.render(one, simulated=False) for one in (SUCCESS, settled, FAILURE)]
    assert b"".join(blocks) == b"\n".join([*rendered, b""])


def test_a_large_line_is_in_memory_but_once():
    settled = dataclasses.replace(SUCCESS, body=json.dumps(["x" * 100] * 150_000, indent=1).encode())
    tracemalloc.start()
    try:
        for _ in line.render_all([settled], simulated=False):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_a_line_is_known_however_it_is_laid_out_and_whatever_was_measured():
    value = json.loads(line.render(SUCCESS, simulated=True))
    value["bulkgrok"] = {}
    assert line.speaks_of(json.dumps(value, indent=1, sort_keys=True).encode(), SUCCESS)
    assert line.speaks_of(line.render(FAILURE, simulated=False), FAILURE)


@pytest.mark.parametrize("key", ["custom_id", "row", "response", "error"])
@pytest.mark.parametrize("settled", [SUCCESS, FAILURE])
def test_a_line_that_differs_in_what_it_says_is_not_known(settled, key):
    value = json.loads(line.render(settled, simulated=False))
    assert not line.speaks_of(json.dumps(value | {key: {"other": 1}}).encode(), settled)
    del value[key]
    assert not line.speaks_of(json.dumps(value).encode(), settled)


@pytest.mark.parametrize("rubbish", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 100_000, b"9" * 5000])
def test_rubbish_is_not_known(rubbish):
    assert not line.speaks_of(rubbish, SUCCESS)


@pytest.mark.parametrize(
    ("body", "usage", "written"),
    [
        (b'{"usage":{"n":99999999999999999999999999,"m":1e400}}', b'{"n":1e26,"m":null}',
         b'{"n":99999999999999999999999999,"m":1e400}'),
        (b'{"a": "\\"usage\\": {", "usage" : { "n": [{}], "x": "}" }, "z": {"usage": {"n": 2}}}', b'{"n":[{}]}',
         b'{ "n": [{}], "x": "}" }'),
        (b'{"z":{"usage":{"n":1}},"usage":{"n":1.00}}', b'{"n":1}', b'{"n":1.00}'),
        (b'{"usage":{"n":1},"usage":{"n":1e999}}', b'{"n":null}', b'{"n":1e999}'),
        (b'{"usage":{"n":1},"\\u0075sage":{"n":1e999}}', b'{"n":3}', b'{"n":1e999}'),
        (b'{"x":["usage",{"usage":{"n":2}}],"usage":[{"n":1}]}', b'{"n":3}', b'{"n":3}'),
        (b'{"usage":{"n":1},"usage":null,"w":{"n":9}}', b'{"n":3}', b'{"n":3}'),
        (b'["usage",{"usage":{"n":2}}]', b'{"n":3}', b'{"n":3}'),
        (b'{"usage":{"n":2}', b'{"n":3}', b'{"n":3}'),
        (b'{"x":["usage",{"n":1}],"\\u0075sage":{"n":1.00}}', b'{"n":1}', b'{"n":1.00}'),
        (b'{"x":{"usage":{"n":2}},"\\u0075sage":{"n":1.00}}', b'{"n":1}', b'{"n":1.00}'),
        (b'{"x": 1, "usage" : {"n": {"m": 1.00}}, "y": 2}', b'{"n":{"m":1.0}}', b'{"n": {"m": 1.00}}'),
        (b'{\n"usage":{\n"n":2.50}}', b'{"n":2.5}', b'{"n":2.50}'),
    ],
)  # fmt: skip
def test_usage_is_the_text_that_the_api_wrote(body, usage, written):
    text = line.render(dataclasses.replace(SUCCESS, body=body, usage=usage), simulated=False)
    assert b'"usage":' + written + b',"assets"' in text
    assert b"\n" not in text


def test_a_row_that_was_never_sent_was_never_completed():
    never = dataclasses.replace(FAILURE, completed_at=0.0)
    assert line.render(never, simulated=False) == line.render(FAILURE, simulated=False)
