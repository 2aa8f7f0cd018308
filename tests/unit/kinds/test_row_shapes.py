import json

import pytest

from bulkgrok.core.model import BadRow, Item, Mode, RawRow
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings


def encode(row, *, ordinal=7, **settings):
    value = row if isinstance(row, bytes) else json.dumps(row).encode()
    return encoder(**settings).encode(RawRow(row=ordinal, line=ordinal + 1, value=value))


def encode_cells(cells, **settings):
    return encoder(**settings).encode(RawRow(row=7, line=None, value=cells))


def encoder(**settings):
    return RowEncoder(RowSettings(**settings), Prices.shipped())


def body(item):
    assert isinstance(item, Item), item
    return json.loads(item.body)


def refusal(bad):
    assert isinstance(bad, BadRow), bad
    return bad.message


USER = [{"role": "user", "content": "hi"}]


def test_a_prompt_becomes_a_conversation():
    item = encode({"prompt": "hi", "temperature": 0, "unknown": {"b": 1, "a": [1.5, None]}})
    assert body(item) == {
        "messages": USER,
        "model": "grok-4.3",
        "temperature": 0,
        "unknown": {"b": 1, "a": [1.5, None]},
    }
    assert (item.kind, item.mode, item.model, item.stream, item.custom_id) == (
        "chat",
        Mode.DIRECT,
        "grok-4.3",
        False,
        "7",
    )
    assert (item.row, item.line, len(item.digest)) == (7, 8, 16)


def test_a_rows_own_system_goes_before_the_flag():
    assert body(encode({"prompt": "hi", "system": "own"}, system="flag"))["messages"][0]["content"] == "own"
    assert body(encode({"prompt": "hi"}, system="flag {{ prompt }}"))["messages"][0]["content"] == "flag hi"


def test_the_system_flag_reaches_conversations_and_batch_lines_that_have_no_system_message():
    line = {"method": "POST", "url": "/v1/chat/completions", "body": {"messages": USER}}
    for row in ({"messages": USER}, line):
        assert body(encode(row, system="S"))["messages"] == [{"role": "system", "content": "S"}, *USER]
    own = [{"role": "system", "content": "own"}, *USER]
    assert body(encode({"messages": own}, system="S"))["messages"] == own
    assert "both system and a system message" in refusal(encode({"messages": own, "system": "x"}))


def test_messages_are_sent_as_they_are():
    messages = [{"role": "odd", "content": [{"type": "text", "text": "é"}], "extra": 1}, {"role": "user"}]
    assert body(encode({"messages": messages, "seed": 18446744073709551615})) == {
        "messages": messages,
        "model": "grok-4.3",
        "seed": 18446744073709551615,
    }


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("v1/chat/completions/", "chat"),
        ("https://api.x.ai/v1/chat/completions", "chat"),
        ("/v1/videos/generations", "video"),
        ("/v1/videos", "video"),
        ("/v1/videos/edits", "video-edit"),
        ("/v1/videos/extensions", "video-extension"),
    ],
)
def test_a_batch_lines_url_tells_its_kind(url, kind):
    fields = {"messages": USER} if kind == "chat" else {"prompt": "p", "video": {"url": "u"}, "kind": "k"}
    item = encode({"custom_id": "c", "method": "POST", "url": url, "body": {**fields, "model": "m"}}, kind="video")
    assert (item.kind, item.model, item.custom_id) == (kind, "m", "c")
    assert body(item) == {**fields, "model": "m"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "/v1/embeddings"}, "/v1/videos/extensions"),
        ({"url": 5}, "url is 5"),
        ({"url": "/v2/chat/completions"}, "/v1/chat/completions"),
        ({"method": "GET"}, "only POST"),
        ({"method": 1}, "only POST"),
        ({"body": None}, "body must be an object"),
        ({"body": [1]}, "body must be an object"),
        ({"body": "{"}, "body is a string and not JSON"),
        ({"body": {}}, "messages must be a non-empty list"),
        ({"prompt": "x"}, "both body and prompt"),
        ({"mode": "later"}, "direct or deferred"),
    ],
)
def test_a_batch_line_that_cannot_be_sent_says_why(change, words):
    row = {"method": "POST", "url": "/v1/chat/completions", "body": {"messages": USER}, **change}
    assert words in refusal(encode(row))


def test_a_batch_body_given_as_text_is_parsed():
    row = {"url": "/v1/chat/completions", "method": "post", "body": json.dumps({"messages": USER, "n": 2})}
    assert body(encode(row)) == {"messages": USER, "model": "grok-4.3", "n": 2}
    assert body(encode({"messages": json.dumps(USER)}))["messages"] == USER


def test_a_video_row_keeps_its_prompt_and_turns_strings_into_urls():
    item = encode({"kind": "video", "prompt": "p", "image": "https://i", "duration": "15", "resolution": "8k"})
    assert (item.kind, item.mode, item.model) == ("video", Mode.DEFERRED, "grok-imagine-video")
    assert body(item) == {
        "prompt": "p",
        "image": {"url": "https://i"},
        "duration": "15",
        "resolution": "8k",
        "model": "grok-imagine-video",
    }


def test_a_video_in_a_video_row_makes_it_an_edit_and_the_kind_an_extension():
    edit = encode({"kind": "video", "prompt": "p", "video": "https://v"})
    assert (edit.kind, body(edit)["video"]) == ("video-edit", {"url": "https://v"})
    extension = encode({"kind": "video_extension", "prompt": "p", "video": {"file_id": "f"}})
    assert (extension.kind, body(extension)["video"]) == ("video-extension", {"file_id": "f"})


def test_with_a_template_only_names_and_switches_of_the_row_count():
    row = {
        "custom_id": "c",
        "kind": "chat",
        "deferred": True,
        "model": "m",
        "question": "Q",
        "messages": 5,
        "body": 1,
        "temperature": 9,
        "system": "not used",
        "stream": True,
    }
    item = encode(row, prompt="{{ question }} {{ row['temperature'] }}?", params={"top_p": 0.5}, kind="video")
    assert body(item) == {
        "deferred": True,
        "messages": [{"role": "user", "content": "Q 9?"}],
        "model": "m",
        "top_p": 0.5,
    }
    assert item.custom_id == "c"
    assert body(encode(row | {"kind": "video"}, prompt="{{ question }}"))["prompt"] == "Q"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x", "messages": USER}, "both prompt and messages"),
        ({"prompt": "x", "messages": []}, "both prompt and messages"),
        ({}, "neither prompt nor messages"),
        ({"question": "x"}, "it has question"),
        ({"prompt": None}, "neither prompt nor messages nor body (it has prompt (null))"),
        ({"prompt": ""}, "prompt must be a non-empty string"),
        ({"prompt": "  \n"}, "prompt must be a non-empty string"),
        ({"prompt": 5}, "it is 5"),
        ({"prompt": ["x"]}, "prompt must be"),
        ({"messages": []}, "non-empty list"),
        ({"messages": {}}, "non-empty list"),
        ({"messages": ["x"]}, "messages[0] must be an object"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": "hello"}, "messages is a string and not JSON"),
        ({"prompt": "x", "system": 5}, "system must be a string"),
        ({"prompt": "x", "kind": "audio"}, "there are chat, video"),
        ({"prompt": "x", "kind": 5}, "kind is 5"),
        ({"prompt": "x", "mode": "batch"}, "direct or deferred"),
        ({"prompt": "x", "mode": ["direct"]}, "direct or deferred"),
        ({"prompt": "x", "deferred": "yes"}, "true or false"),
        ({"prompt": "x", "stream": 1}, "true or false"),
        ({"prompt": "x", "mode": "direct", "deferred": True}, '"deferred": true'),
        ({"prompt": "x", "model": 5}, "model must be a non-empty string"),
        ({"prompt": "x", "model": ""}, "model must be a non-empty string"),
        ({"kind": "video", "messages": USER}, "has a prompt, not messages"),
        ({"kind": "video"}, "it is missing"),
        ({"kind": "video-edit", "prompt": "x"}, "video must be a URL"),
        ({"kind": "video", "prompt": "x", "video": ""}, "video must be a URL"),
        ({"kind": "video", "prompt": "x", "video": {"url": None}}, "video must be a URL"),
        ({"kind": "video", "video": "https://v"}, "prompt must be"),
    ],
)
def test_a_row_of_no_shape_says_what_it_lacks(row, words):
    assert words in refusal(encode(row))


def test_a_row_with_messages_is_a_chat_whatever_the_kind_flag_says():
    assert encode({"messages": USER}, kind="video").kind == "chat"
    assert encode({"prompt": "x"}, kind="video").kind == "video"


@pytest.mark.parametrize(
    ("own", "flag", "mode"),
    [
        ({}, Mode.DIRECT, Mode.DIRECT),
        ({}, Mode.DEFERRED, Mode.DEFERRED),
        ({"mode": "direct"}, Mode.DEFERRED, Mode.DIRECT),
        ({"mode": "deferred"}, Mode.DIRECT, Mode.DEFERRED),
        ({"deferred": True}, Mode.DIRECT, Mode.DEFERRED),
        ({"deferred": False}, Mode.DEFERRED, Mode.DEFERRED),
    ],
)
def test_a_rows_own_mode_wins(own, flag, mode):
    item = encode({"prompt": "x", **own}, mode=flag)
    assert item.mode is mode
    assert body(item).get("deferred", False) is (mode is Mode.DEFERRED)
    line = {"method": "POST", "url": "/v1/chat/completions", "body": {"messages": USER}}
    assert encode(line | own, mode=flag).mode is mode


def test_deferred_inside_a_batch_body_counts_as_the_rows_own():
    line = {"method": "POST", "url": "/v1/chat/completions", "body": {"messages": USER, "deferred": True}}
    assert encode(line).mode is Mode.DEFERRED
    assert "deferred" in refusal(encode(line | {"mode": "direct"}))


def test_streaming_asks_for_usage_and_is_dropped_from_deferred_rows():
    item = encode({"prompt": "x", "stream": True, "stream_options": {"a": 1}})
    assert item.stream
    assert body(item)["stream_options"] == {"a": 1, "include_usage": True}
    assert encode({"prompt": "x"}, stream=True).stream
    assert not encode({"prompt": "x", "stream": False}, stream=True).stream
    deferred = encode({"prompt": "x", "stream": True, "deferred": True}, stream=True)
    assert not deferred.stream
    assert body(deferred).keys() == {"deferred", "messages", "model"}
    assert body(encode({"kind": "video", "prompt": "x", "stream": True, "deferred": True})).keys() == {
        "model",
        "prompt",
    }


def test_fields_of_the_row_go_before_flags_and_flags_before_params():
    params = {"model": "param", "temperature": 1, "top_p": 0.5}
    assert body(encode({"prompt": "x", "temperature": 0}, params=params)) == {
        "messages": [{"role": "user", "content": "x"}],
        "model": "param",
        "temperature": 0,
        "top_p": 0.5,
    }
    assert encode({"prompt": "x"}, params=params, model="flag").model == "flag"
    assert encode({"prompt": "x", "model": "own"}, params=params, model="flag").model == "own"
    assert encode({"prompt": "x", "model": None}, model="flag").model == "flag"


def test_equal_requests_have_equal_bytes_and_digests():
    first = encode({"prompt": "x", "temperature": 1, "seed": 2, "custom_id": "a"})
    second = encode({"seed": 2, "temperature": 1, "messages": [{"role": "user", "content": "x"}]}, ordinal=9)
    assert first.body == second.body
    assert first.digest == second.digest
    others = [
        encode({"prompt": "x", "temperature": 1, "seed": 3}),
        encode({"prompt": "x", "temperature": 1, "seed": 2, "deferred": True}),
        encode({"prompt": "x", "temperature": 1, "seed": 2, "stream": True}),
    ]
    assert len({item.digest for item in (first, *others)}) == 4


def test_order_inside_values_is_kept():
    schema = '{"z": 1, "a": {"y": 1, "b": 2}}'
    assert (
        schema.replace(" ", "").encode() in encode(b'{"prompt": "x", "response_format": ' + schema.encode() + b"}").body
    )


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"custom_id": "a", "id": "b"}, "a"),
        ({"id": "b"}, "b"),
        ({"custom_id": None, "id": 5}, "5"),
        ({"custom_id": ""}, ""),
        ({"custom_id": 1.5}, "1.5"),
        ({"custom_id": True}, "true"),
        ({"custom_id": {"a": [1]}}, '{"a":[1]}'),
        ({"custom_id": 10**30}, str(10**30)),
        ({"custom_id": "../\x1b[31m\u202e" * 500}, "../\x1b[31m\u202e" * 500),
        ({}, "7"),
    ],
)
def test_the_custom_id_is_always_a_string(row, name):
    assert encode({"prompt": "x", **row}).custom_id == name
    assert encode(row).custom_id == name


def test_table_cells_that_are_null_are_not_given():
    item = encode_cells({"prompt": "x", "messages": None, "temperature": None, "custom_id": None, "kind": None})
    assert body(item).keys() == {"messages", "model"}


def test_table_cells_may_hold_json_as_text_and_counts_as_floats():
    cells = {
        "messages": json.dumps(USER),
        "tools": '[{"type": "function"}]',
        "response_format": '{"type": "json_object"}',
        "metadata": "[not json",
        "n": 2.0,
        "temperature": 1.0,
    }
    sent = encode_cells(cells)
    assert body(sent)["metadata"] == "[not json"
    assert body(sent)["tools"] == [{"type": "function"}]
    assert b'"n":2,' in sent.body
    assert b'"temperature":1.0' in sent.body


def test_nested_nulls_of_a_table_are_not_given():
    cells = {"messages": [{"role": "user", "content": "x", "name": None}], "image": {"url": None}}
    assert body(encode_cells(cells))["messages"] == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("cell", [float("nan"), float("inf"), b"\xff", 2**64, {1, 2}, "\ud800", object()])
def test_a_cell_json_cannot_say_is_refused_by_name(cell):
    assert "odd" in refusal(encode_cells({"prompt": "x", "odd": cell}))


def test_cells_a_template_does_not_use_may_hold_anything():
    item = encode_cells({"q": "x", "blob": b"\xff", "nan": float("nan"), "when": object()}, prompt="{{ q }}")
    assert body(item)["messages"][0]["content"] == "x"
