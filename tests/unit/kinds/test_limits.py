import json

import pytest

from bulkgrok.core.model import BadRow, Item, RawRow
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings

ENCODER = RowEncoder(RowSettings(), Prices.shipped())


def encode(row):
    return ENCODER.encode(RawRow(row=0, line=1, value=json.dumps(row).encode()))


@pytest.mark.parametrize("key", ["duration", "seconds"])
@pytest.mark.parametrize("value", [1, 15, "1", "15", 8.0, None])
def test_a_video_of_1_to_15_seconds_passes(key, value):
    item = encode({"kind": "video", "prompt": "p", key: value})
    assert isinstance(item, Item)
    assert json.loads(item.body)[key] == value


@pytest.mark.parametrize("key", ["duration", "seconds"])
@pytest.mark.parametrize("value", [0, 16, -1, 8.5, "16", "0", "x", "", True, [], {}, "1e1", 10**300, "5 s", "٣٣"])
def test_any_other_duration_is_refused_with_the_limit(key, value):
    for row in (
        {"kind": "video", "prompt": "p", key: value},
        {"method": "POST", "url": "/v1/videos/generations", "body": {"prompt": "p", key: value}},
    ):
        bad = encode(row)
        assert isinstance(bad, BadRow)
        assert key in bad.message
        if value != 10**300:
            assert "from 1 to 15" in bad.message


@pytest.mark.parametrize(
    ("value", "fine"), [(1, False), (2, True), (10, True), (11, False), ("10", True), ("11", False)]
)
def test_an_extension_is_2_to_10_seconds_long(value, fine):
    row = {"kind": "video-extension", "prompt": "p", "video": "https://v", "duration": value}
    assert isinstance(encode(row), Item if fine else BadRow)


@pytest.mark.parametrize(
    ("fields", "fine"),
    [
        ({"video": {"url": "u", "duration": 8.7}}, True),
        ({"video": {"url": "u", "duration": 8.71}}, False),
        ({"video": {"url": "u", "duration": "9"}}, False),
        ({"video": "u", "duration": 9}, False),
        ({"video": "u", "video_duration": 100}, False),
        ({"video": "u", "duration": "unknown"}, True),
    ],
)
def test_an_edits_input_is_at_most_8_7_seconds_long_where_that_is_known(fields, fine):
    result = encode({"kind": "video", "prompt": "p", **fields})
    assert isinstance(result, Item if fine else BadRow)
    if not fine:
        assert "8.7 s" in result.message


@pytest.mark.parametrize(
    "searching",
    [
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "file_search"}]},
        {"prompt": "x", "file_ids": ["f"]},
    ],
)
def test_several_answers_with_document_search_are_refused(searching):
    for n in (2, 2.0, "2"):
        bad = encode({**searching, "n": n})
        assert isinstance(bad, BadRow)
        assert "n is 2" in bad.message
    assert isinstance(encode({**searching, "n": 1}), Item)


def test_several_answers_without_documents_pass_and_so_does_what_else_is_odd():
    tools = ["x", {"type": 5}, {"type": "web_search"}, None]
    assert isinstance(encode({"prompt": "x", "n": 5, "tools": tools, "model": "no-such-model"}), Item)
    assert isinstance(encode({"prompt": "x", "n": "many", "max_tokens": "lots", "tools": 5}), Item)
    assert isinstance(encode({"kind": "video", "prompt": "x", "resolution": [1], "image": 5, "keyframes": 5}), Item)


def test_an_image_makes_the_prompt_optional():
    assert isinstance(encode({"kind": "video", "image": "https://i"}), Item)
    assert isinstance(encode({"kind": "video", "image_url": "https://i", "prompt": ""}), Item)
    assert isinstance(encode({"kind": "video", "prompt": 5, "image": "https://i"}), BadRow)
