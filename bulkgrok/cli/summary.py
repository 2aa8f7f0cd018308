"""The end of a run in words: the summary that goes to standard output when no JSON was asked for."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from bulkgrok.core.part import Part
from bulkgrok.core.report import Limits, Report
from bulkgrok.telemetry.wording import count, duration, money, noun, printable, rate

#: Exit code -> how the run ended.
ENDINGS: Mapping[int, str] = {
    0: "Finished",
    3: "Finished with failures",
    4: "Stopped at a limit",
    5: "Stopped by the API",
    6: "Refused",
    7: "Stopped: the API is unavailable",
    8: "Stopped: the disk refused",
    130: "Interrupted",
    143: "Terminated",
}


#: How a half of a run ended that left something to the other.
_HALVES: Mapping[Part, str] = {Part.SUBMIT: "Submitted", Part.COLLECT: "Collected"}
#: Failures that the same request meets again: `--retry-failed` cannot help.
HOPELESS: Final = frozenset({"invalid_row", "moderated"})
SIMULATED: Final = " (simulated: nothing was paid)"


def rows_table(report: Report, *, simulated: bool = False) -> list[tuple[str, str]]:
    """Return label and value of every figure that is worth a line."""
    lines = [("succeeded", count(report.succeeded))]
    if report.failed:
        by_code = sorted(report.failed_by_code.items(), key=lambda pair: (-pair[1], pair[0]))
        lines.append(("failed", f"{count(report.failed)} ({', '.join(f'{count(n)} {code}' for code, n in by_code)})"))
    if report.outstanding:
        lines.append(("outstanding", f"{count(report.outstanding)} accepted by the API, not yet fetched"))
    if report.pending:
        lines.append(("pending", f"{count(report.pending)} still to be sent"))
    if report.in_doubt:
        lines.append(("in doubt", f"{noun(report.in_doubt, 'request')} sent without a usable reply (`bulkgrok audit`)"))
    if report.lost:
        lines.append(("lost", f"{noun(report.lost, 'answer')} handed out by the API and never received"))
    tokens = [f"{count(number)} {printable(name, limit=30)}" for name, number in report.tokens.items() if number]
    if tokens:
        lines.append(("tokens", ", ".join(tokens)))
    lines.append(("cost", money(report.cost_usd) + (SIMULATED if simulated else "")))
    return lines + limits_table(report.limits)


def limits_table(limits: Limits | None) -> list[tuple[str, str]]:
    """Return what money is limited to and how far that is taken."""
    lines = []
    if limits is not None and limits.budget_usd is not None:
        taken = f"{money(limits.taken_usd)} of {money(limits.budget_usd)} spent or on its way, at most"
        lines.append(("budget", taken))
    if limits is not None and limits.max_at_risk_usd is not None:
        taken = f"{money(limits.at_risk_usd)} of {money(limits.max_at_risk_usd)} on its way or in doubt, at most"
        lines.append(("at risk", taken))
    return lines


def deadline(at: float | None) -> list[tuple[str, str]]:
    """Return until when the next accepted request can be fetched, where one waits."""
    if at is None:
        return []
    left = at - time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    return [("deadline", f"{shown}, in {duration(left)}" if left > 0 else f"{shown}, which is over")]


def after_failures(report: Report, *, source: str, again: str, template: bool) -> list[str]:
    """Return what can be done about failed rows: lines that begin with `next:`, and the first bad row.

    Args:
        report: How the run ended, with failures.
        source: What the run calls its input.
        again: What tries the failed rows again.
        template: Whether the run has a `--prompt`.
    """
    lines = []
    if report.failed_by_code.get("invalid_row"):
        first = _first_bad_row(Path(report.errors))
        named = "standard input" if source == "-" else printable(source, limit=4096)
        lines += [f"first bad row: {named}, {text}" for text in first]
        if report.succeeded:
            lines.append("next: put the bad rows, mended, in a file of their own and run that: nothing is paid twice")
        else:
            hopeless = template or (first and "--prompt" not in first[0])
            other = "" if hopeless else ", or type the same again with --prompt '{{ column }}'"
            lines.append(f"next: mend the input and run it with -o OTHER.jsonl{other}")
    if set(report.failed_by_code) - HOPELESS:
        lines.append(f"next: {again}   (tries the failed rows again)")
    elif not lines:
        lines.append(f"next: read why in {printable(report.errors, limit=4096)}; tried again, these rows fail again")
    return lines


def _first_bad_row(errors: Path) -> list[str]:
    """Return which line or row is the first invalid one and what is wrong with it; nothing where the file is away."""
    try:
        if not errors.is_file():
            return []
        with errors.open("rb") as file:
            for text in islice(file, 10_000):
                row = json.loads(text)
                error = row["error"]
                if error["code"] == "invalid_row":
                    where = f"line {error['line']}" if error.get("line") else f"row {row['row']}"
                    return [printable(f"{where}: {error['message']}", limit=300)]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        pass
    return []


def after_half(report: Report, part: Part) -> list[str]:
    """Return what to do after one half of a run, where something is left for the other."""
    run = printable(shlex.quote(report.run_dir), limit=4096)
    if part is Part.SUBMIT and report.outstanding:
        return [f"next: bulkgrok collect {run}   (fetches the answers)"]
    if part is Part.COLLECT and report.pending != 0:
        left = (
            "rows are still to be sent" if report.pending is None else f"{noun(report.pending, 'row')} still to be sent"
        )
        return [f"next: type the first command (`bulkgrok submit …` or `run …`) again: {left}"]
    return []


def places_table(report: Report) -> list[tuple[str, str]]:
    """Return where the files are."""
    lines = [("results", report.output), ("errors", report.errors), ("run", report.run_dir)]
    return [(label, printable(path, limit=4096)) for label, path in lines]


def aligned(lines: list[tuple[str, str]]) -> str:
    """Return labels and values in two columns."""
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"  {label:<{width}}  {value}" for label, value in lines)


def summary_text(
    report: Report,
    *,
    requests: int,
    simulated: bool = False,
    deadline_at: float | None = None,
    part: Part = Part.WHOLE,
) -> str:
    """Return the summary of a run that has ended.

    Args:
        report: How it ended.
        requests: n requests sent by this start.
        simulated: Whether the simulator answered, so that nothing was paid.
        deadline_at: Until when the next outstanding request can be fetched.
        part: What was done of the run.
    """
    half = part is not Part.WHOLE and report.exit_code in {0, 3} and (report.outstanding or report.pending != 0)
    done = report.succeeded + report.failed + (report.outstanding if half and part is Part.SUBMIT else 0)
    rows = f"{count(done)} of {noun(report.rows, 'row')}" if report.rows is not None else noun(done, "row")
    pace = ""
    if requests and report.duration_s > 0:
        pace = f", {noun(requests, 'request')}, {rate(requests / report.duration_s)}"
    ending = ENDINGS.get(report.exit_code, "Stopped")
    if half:
        ending = _HALVES[part] + " with failures" * bool(report.failed)
    simulator = SIMULATED if simulated else ""
    head = f"{ending}{simulator}: {rows} in {duration(report.duration_s)}{pace}"
    until = deadline(deadline_at) if report.outstanding else []
    return f"{head}\n{aligned(rows_table(report) + until + places_table(report))}"
