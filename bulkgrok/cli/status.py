"""`bulkgrok status RUN`: what is done, waiting, failed, lost; money; deadlines. Reads, never disturbs."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any

import rich_click as click

from bulkgrok.cli.messages import write_out
from bulkgrok.core.report import Report
from bulkgrok.engine.lookup import FoundRun, find_run, input_of, last_end, limits_of, reading, summary

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
        if not watch or not found.running:
            return 0
        time.sleep(WATCH_S)


def _json(found: FoundRun) -> str:
    with reading(found) as store:
        return json.dumps(summary(found, store))


def _text(found: FoundRun) -> str:
    from bulkgrok.cli.summary import aligned, deadline, places_table, rows_table  # noqa: PLC0415 - help must not wait for it
    from bulkgrok.telemetry.wording import printable  # noqa: PLC0415 - as above

    with reading(found) as store:
        facts = summary(found, store)
        until = store.totals().next_deadline_at
        identity, all_rows = store.identity(), store.recall("rows")
        ended, stopped = last_end(found, store), store.recall("stopped")
        limits, source = limits_of(store), input_of(found, store)
    report = Report(**{**facts, "exit_code": facts["exit_code"] or 0}, limits=limits)
    simulated = identity is not None and identity.simulated
    lines = [
        *rows_table(report, simulated=simulated), *deadline(until), *_live(found.live), *places_table(report)
    ]  # fmt: skip
    head = f"{_rows(report, ended, all_rows)}; {_runner(found, facts)}"
    note = printable((found.live or {}).get("note") or "", limit=300)
    why, hint = _why(ended, stopped)
    template = identity is not None and identity.settings.get("prompt") is not None
    after = "" if found.running else _next(report, hint, source=source, template=template)
    return "\n".join(part for part in (head, note, why, aligned(lines), after) if part)


def _rows(report: Report, ended: Mapping[str, Any], all_rows: object) -> str:
    """Return how many rows are done of how many, as far as they are counted."""
    from bulkgrok.telemetry.wording import count, noun  # noqa: PLC0415 - help must not wait for it

    done = report.succeeded + report.failed
    if report.rows is None:
        return f"{noun(done, 'row')} done, the rest not yet counted"
    if ended.get("exit_code") in {0, 3} and all_rows != report.rows:
        return f"{count(done)} of the first {noun(report.rows, 'row')} (--limit) done"
    return f"{count(done)} of {noun(report.rows, 'row')} done"


def _why(ended: Mapping[str, Any], stopped: object) -> tuple[str, str]:
    """Return why the last start ended early and what it said to do, both empty when it did not."""
    from bulkgrok.telemetry.wording import printable  # noqa: PLC0415 - help must not wait for it

    if not isinstance(stopped, dict) or not ended or stopped.get("exit_code") != ended.get("exit_code"):
        return "", ""
    told = printable(stopped.get("message") or "", limit=2000, lines=True)
    return f"stopped: {told}" if told else "", printable(stopped.get("hint") or "", limit=1000, lines=True)


def _runner(found: FoundRun, facts: Mapping[str, Any]) -> str:
    from bulkgrok.telemetry.wording import printable  # noqa: PLC0415 - help must not wait for it

    if found.pid is not None:
        state = (found.live or {}).get("state", "silent: it has not written its status for a while")
        return f"a runner is alive (pid {found.pid}, {printable(state, limit=60)})"
    if found.owner is not None:
        return f"a runner is alive ({printable(found.owner, limit=200)})"
    code = facts["exit_code"]
    return "no runner" if code is None else f"no runner; the last one ended with exit code {code}"


def _live(progress: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    from bulkgrok.telemetry.wording import noun, rate  # noqa: PLC0415 - help must not wait for it

    if progress is None:
        return []
    seconds = max(time.time() - progress.get("started_at", 0.0), 1e-9)
    settled = progress.get("succeeded", 0) + progress.get("failed", 0)
    since = max(settled - progress.get("done_before", 0), 0)
    flight = noun(progress.get("in_flight", 0), "request")
    return [("now", f"{rate(since / seconds)} rows, {flight} in flight")]


def _next(report: Report, hint: str, *, source: str, template: bool) -> str:
    from bulkgrok.cli.summary import after_failures  # noqa: PLC0415 - help must not wait for it
    from bulkgrok.telemetry.wording import printable  # noqa: PLC0415 - as above

    if hint:
        return f"next: {hint}"
    if report.pending or report.outstanding or report.pending is None:
        half = ""
        if report.outstanding and report.run_dir:
            run = printable(shlex.quote(report.run_dir), limit=4096)
            half = f"\nnext: or `bulkgrok collect {run}`: it fetches what is outstanding and submits nothing"
        return f"next: type the same `bulkgrok run …` again; it continues where it stopped{half}"
    if report.failed:
        again = "type the same `bulkgrok run …` again with --retry-failed"
        return "\n".join(after_failures(report, source=source, again=again, template=template))
    return ""
