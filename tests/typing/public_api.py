"""The public API as mypy --strict sees it. Never executed."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

import bulkgrok


def run_a_file() -> None:
    report = bulkgrok.run("inputs.jsonl", output="results.jsonl", concurrency=20)
    assert_type(report, bulkgrok.Report)
    assert_type(report.succeeded, int)
    assert_type(report.rows, int | None)
    assert_type(report.cost_usd, float)
    assert_type(report.exit_code, int)
    assert_type(report.as_json(), dict[str, Any])


def run_in_halves() -> None:
    assert_type(bulkgrok.submit("inputs.jsonl", mode="deferred"), bulkgrok.Report)
    assert_type(bulkgrok.collect("inputs.bulkgrok", poll_interval=5.0), bulkgrok.Report)


async def run_inside_a_loop() -> None:
    assert_type(await bulkgrok.asubmit("inputs.jsonl"), bulkgrok.Report)
    assert_type(await bulkgrok.acollect("inputs.jsonl"), bulkgrok.Report)
    assert_type(await bulkgrok.arun("inputs.jsonl", mode="deferred"), bulkgrok.Report)


async def stream_rows(rows: AsyncIterator[dict[str, object]]) -> None:
    async for result in bulkgrok.stream(rows, concurrency=20, run_dir="here"):
        assert_type(result, dict[str, Any])
    async for result in bulkgrok.stream([{"prompt": "hi"}]):
        assert_type(result, dict[str, Any])


async def single_calls(body: dict[str, Any]) -> None:
    async with bulkgrok.Client() as client:
        request_id = await client.submit_deferred(body)
        assert_type(request_id, str)
        assert_type(await client.get_deferred(request_id), dict[str, Any] | None)
        try:
            assert_type(await client.defer_and_wait(body, polling_interval=5.0, timeout=600.0), dict[str, Any])
        except bulkgrok.DeferredTimeout as error:
            assert_type(error.request_id, str)
        assert_type(await client.videos.generate(prompt="sea", duration=1), dict[str, Any])
        assert_type(await client.videos.edit(prompt="sea", video="https://example.com/a.mp4"), dict[str, Any])
        assert_type(await client.videos.retrieve(request_id), dict[str, Any])
        assert_type([piece async for piece in client.stream_chat(body)], list[str])


def errors() -> None:
    try:
        bulkgrok.run("inputs.jsonl")
    except bulkgrok.BulkgrokError as error:
        assert_type(error.exit_code, int)
        assert_type(error.hint, str | None)
