"""The end of a run in words: the summary that goes to standard output when no JSON was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from bulkgrok.core.model import Report
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


def rows_table(report: Report) -> list[tuple[str, str]]:
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
    lines.append(("cost", money(report.cost_usd)))
    return lines


def places_table(report: Report) -> list[tuple[str, str]]:
    """Return where the files are."""
    lines = [("results", report.output), ("errors", report.errors), ("run", report.run_dir)]
    return [(label, printable(path, limit=4096)) for label, path in lines]


def aligned(lines: list[tuple[str, str]]) -> str:
    """Return labels and values in two columns."""
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"  {label:<{width}}  {value}" for label, value in lines)


def summary_text(report: Report, *, requests: int, simulated: bool = False) -> str:
    """Return the summary of a run that has ended.

    Args:
        report: How it ended.
        requests: n requests sent by this start.
        simulated: Whether the simulator answered, so that nothing was paid.
    """
    done = report.succeeded + report.failed
    rows = f"{count(done)} of {noun(report.rows, 'row')}" if report.rows is not None else noun(done, "row")
    pace = ""
    if requests and report.duration_s > 0:
        pace = f", {noun(requests, 'request')}, {rate(requests / report.duration_s)}"
    ending = ENDINGS.get(report.exit_code, "Stopped")
    simulator = " (simulated: nothing was paid)" if simulated else ""
    head = f"{ending}{simulator}: {rows} in {duration(report.duration_s)}{pace}"
    return f"{head}\n{aligned(rows_table(report) + places_table(report))}"
