"""Where fuzzing begins: a few inputs a target, small, made of what the tests and the documents of the API know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

_ROWS: Final = [
    {"prompt": "a", "system": "b", "temperature": 0.5, "custom_id": "c"},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
        ]
    },
    {
        "custom_id": "x",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "q"}]},
    },
    {"kind": "video", "prompt": "v", "duration": 5, "image": "https://i", "resolution": "720p"},
    {"kind": "video-extension", "prompt": "v", "video": {"url": "https://v"}, "duration": 3},
    {"prompt": "a", "deferred": True, "n": 2, "tools": [{"type": "file_search"}], "stream": True, "max_tokens": 9},
    {"prompt": "a", "a": [[[[[1]]]]], "n": 7, "id": 8, "seed": 9, "x": 10, "y": 11},
]
_REPLIES: Final = [
    {"id": "i", "choices": [{"index": 0, "message": {"role": "assistant", "content": "c", "reasoning_content": "r"}}],
     "model": "grok-4.3", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cost_in_usd_ticks": 3,
     "completion_tokens_details": {"reasoning_tokens": 1}, "prompt_tokens_details": {"cached_tokens": 1}}},
    {"status": "done", "video": {"url": "https://v/a.mp4?sig=1", "duration": 2, "respect_moderation": False}},
    {"request_id": "r-1"}, {"id": "i", "status": "pending", "progress": 3}, {"status": "failed", "usage": {}},
    {"code": "The service is currently unavailable", "error": "Service temporarily unavailable."},
    {"error": {"message": "Content violates usage guidelines", "type": "x", "code": None}},
    {"error": '{"error": "nested", "code": 429}'}, [{"error": {"message": "in a list"}}], {"detail": [{"msg": "m"}]},
]  # fmt: skip
_CHUNKS: Final = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a", "tool_calls": [
        {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{"}}]}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": {"content": [1]}}], "usage": {"a": 1}},
]  # fmt: skip
_DEEP: Final = [b"[" * 60_000, b'{"a":' * 20_000, b"[" * 400 + b"]" * 400, b'{"a":' * 260 + b"1" + b"}" * 260]
_LONG: Final = [
    b'"' * 60_000,
    b'"\\' * 30_000,
    b"<script " * 8_000,
    b"<" * 60_000,
    b"1" * 60_000,
    b"\xed\xa0\x80" * 10_000,
]
_PAGE: Final = b"<html><head><style>x{}</style></head><body><h1>502 Bad Gateway</h1><script>y</script></body></html>"
_PRICES: Final = b"""
date = "2026-01-01"
long_context_factor = 2.0
[chat."grok-4.3"]
input = 1.25
cached = 0.2
output = 2.5
[video.v]
input_s = 0.01
per_s = { "480p" = 0.05 }
"""
_STATUS: Final = {
    "pid": 1, "state": "running", "updated_at": 1.0,
    "progress": {"state": "running", "succeeded": 1, "started_at": 1.0},
    "report": {"exit_code": 3, "rows": 2, "output": "/o", "errors": "/e", "duration_s": 1.0},
}  # fmt: skip


def _jsons(values: Sequence[object]) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def _edits(choices: int, *places: int) -> list[bytes]:
    return [bytes([choice]) + place.to_bytes(4) + b"\x01" for choice in range(choices) for place in places]


_TAKEN: Final = (
    b"",
    b'{"custom_id":"',
    b'{"custom_id":"q1","row":1,"response":null}\n',
    b'{"row":18446744073709551615}',
    b'{"row":-1}\n{"row":true}\n',
    b"PAR1",
    b"\0" * 9,
    _DEEP[0],
)
_EVENTS: Final = b"".join(b"data: " + chunk + b"\n\n" for chunk in _jsons(_CHUNKS)) + b"data: [DONE]\n\n"

SEEDS: Final[Mapping[str, Sequence[bytes]]] = {
    "row_line": [*_jsons(_ROWS), *_DEEP, *_LONG, b'{"prompt": "\\ud800"}', b'\xef\xbb\xbf{"n": 1e999}', b'{"n": NaN}'],
    "row_cells": [*_jsons(_ROWS), *_DEEP],
    "reply": [*_jsons(_REPLIES), *_DEEP, *_LONG, _PAGE],
    "stream": [
        b"|" + _EVENTS,
        b"\x05|" + _EVENTS.replace(b"\n", b"\r\n"),
        b"|data: [DONE]",
        b"|" + _DEEP[1],
        b"|" + _LONG[1],
    ],
    "verdict": [
        prefix + body
        for prefix in (b"\x00\x64\x01", b"\x01\x2c\x05", b"\x01\x90\x01")
        for body in (*_jsons(_REPLIES), _PAGE, *_LONG)
    ],
    "prices": [_PRICES, b"a = " + b"[" * 5_000],
    "json_text": [
        *_jsons(_REPLIES),
        *_DEEP,
        *_LONG,
        b'\xef\xbb\xbf{"a": 1}',
        b" 1 ",
        b'"\\u0000\\ud800"',
        b"1e5",
        b"-",
    ],
    "texts": [
        b"plain",
        "\x1b[2J\u202e\u2028\x9b".encode(),
        b"http://" * 3_000,
        b"a." * 9_000 + b"://",
        b"Bearer  x",
        b"\xff\xfe",
    ],
    "lines": [
        b"\x05\x09a\n\nb\r\n",
        b"\x00\x00\n\n\n",
        b"\xff\xff\xef\xbb\xbfa\n" + b"b" * 400,
        b"\x01\x02\xe2\x80\xa8\n\x0b\n",
    ],
    "any_input": [
        bytes([name]) + text
        for name in range(10)
        for text in (b"", b'{"prompt": "a"}\n', b"PAR1", b"\x1f\x8b\x08", b"\xff\xfe")
    ],
    "packed": _edits(4, 0, 3, 8, 40, 4_000_000_000),
    "parquet": _edits(4, 0, 4, 200, 9_000, 4_000_000_000, 4_294_967_290),
    "standard_input": [b"\x03abcabc", b"\x03abcabd", b"\x02ab", b"\x05\x1f\x8b\x08\x00a"],
    "checkpoint": _edits(16, 18, 60, 100, 16_400, 40_000, 70_000),
    "spill": [b"\x01{}\n", b"\x00", b"\x00\x00\x00\x00\x09\x01", b"\x01" + _DEEP[0]],
    "journal": [b"\x01{}\n", b"\x00", b"\x00\x00\x00\x00\x09\x01"],
    "status": [json.dumps(_STATUS).encode(), b"{}", b"[]", _DEEP[0], b'{"report": {"exit_code": 1e400}}'],
    "results": [
        *_edits(16, 0, 4, 300, 1_000, 4_294_967_290),
        *(bytes([choice]) + text for choice in (4, 5, 6, 7, 12, 13, 14, 15) for text in _TAKEN),
    ],
    "sums": [b'{"states":[0,0,0,0,0,0],"codes":{},"entries":{},"answered_failures":0,"ticks":0,"tokens":[0,0,0,0]}'],
}
