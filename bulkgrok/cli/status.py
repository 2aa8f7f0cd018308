"""`bulkgrok status RUN`: what is done, waiting, failed, lost; money; deadlines. Reads, never disturbs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import rich_click as click

from bulkgrok.cli.lookup import FoundRun, find_run, reading, summary
from bulkgrok.cli.messages import write_out
from bulkgrok.core.model import Report, Totals

WATCH_S = 2.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary object.")
@click.option("--watch", is_flag=True, help="Print again every 2 s until the runner ends.")
def status(run: str, *, as_json: bool, watch: bool) -> int:
    """Show what is done, waiting, failed and lost, the money, and the next deadline.

    RUN is a run directory, a checkpoint, or the input or output path it belongs to.
    """
    while True:
        found = find_run(run)
        text = _json(found) if as_json else _text(found)
        if watch and not as_json and sys.stdout is not None and sys.stdout.isatty():
            text = f"\x1b[H\x1b[2J{text}"
        write_out(text)
        if not watch or found.pid is None:
            return 0
        time.sleep(WATCH_S)


def _json(found: FoundRun) -> str:
    with reading(found) as store:
        return json.dumps(summary(found, store))


def _text(found: FoundRun) -> str:
    from bulkgrok.cli.summary import aligned, places_table, rows_table  # noqa: PLC0415 - help must not wait for it
    from bulkgrok.telemetry.wording import count, noun, printable  # noqa: PLC0415 - as above

    with reading(found) as store:
        facts = summary(found, store)
        totals = store.totals()
    report = Report(**{**facts, "exit_code": facts["exit_code"] or 0})
    done = report.succeeded + report.failed
    rows = (
        f"{count(done)} of {noun(report.rows, 'row')}" if report.rows is not None else f"{noun(done, 'row')}, of more"
    )
    lines = [*rows_table(report), *_deadline(totals), *_live(found.live), *places_table(report)]
    head = f"{rows} done; {_runner(found, facts)}"
    note = printable((found.live or {}).get("note") or "", limit=300)
    return "\n".join(part for part in (head, note, aligned(lines), _next(found, facts)) if part)


def _runner(found: FoundRun, facts: Mapping[str, Any]) -> str:
    if found.pid is not None:
        state = (found.live or {}).get("state", "silent: it has not written its status for a while")
        return f"a runner is alive (pid {found.pid}, {state})"
    code = facts["exit_code"]
    return "no runner" if code is None else f"no runner; the last one ended with exit code {code}"


def _deadline(totals: Totals) -> list[tuple[str, str]]:
    from bulkgrok.telemetry.wording import duration  # noqa: PLC0415 - help must not wait for it

    if totals.next_deadline_at is None:
        return []
    left = totals.next_deadline_at - time.time()
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(totals.next_deadline_at))
    return [("deadline", f"{at}, in {duration(left)}" if left > 0 else f"{at}, which is over")]


def _live(progress: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    from bulkgrok.telemetry.wording import noun, rate  # noqa: PLC0415 - help must not wait for it

    if progress is None:
        return []
    seconds = max(time.time() - float(progress.get("started_at") or 0), 1e-9)
    settled = int(progress.get("succeeded") or 0) + int(progress.get("failed") or 0)
    since = max(settled - int(progress.get("done_before") or 0), 0)
    flight = noun(int(progress.get("in_flight") or 0), "request")
    return [("now", f"{rate(since / seconds)} rows, {flight} in flight")]


def _next(found: FoundRun, facts: Mapping[str, Any]) -> str:
    if found.pid is not None:
        return ""
    if facts["pending"] or facts["outstanding"] or facts["pending"] is None:
        return "next: type the same `bulkgrok run …` again; it continues where it stopped"
    if facts["failed"]:
        return "next: type the same `bulkgrok run …` again with --retry-failed, or read the errors file"
    return ""
