"""`bulkgrok audit RUN`: explains every request that may have been billed, in rows and dollars."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from bulkgrok.cli.messages import write_out
from bulkgrok.core.errors import UsageError
from bulkgrok.core.model import Entry, LedgerEntry
from bulkgrok.core.money import TICKS, Money, ticks
from bulkgrok.engine.lookup import find_run, reading
from bulkgrok.telemetry.wording import money, noun, printable

if TYPE_CHECKING:
    from bulkgrok.core.ports import Store

#: list of the JSON object -> what the word means.
LISTS: Final = {
    "in_doubt": "sent, and no usable reply came: the API may have done and billed it",
    "lost": "the API handed the answer out once, and it never arrived",
    "expired": "accepted, and not fetched before the deadline",
    "failed_jobs": "accepted, and the API says that the job failed",
    "replaced": "answered and paid, and asked again by --retry-failed",
    "possible_fees": "refused for its content: the API may charge a fee for that",
    "unexplained": "requests that the ledger does not account for: a bug, please report it",
}
_LIST_OF: Final = {
    Entry.IN_DOUBT: "in_doubt",
    Entry.LOST: "lost",
    Entry.EXPIRED: "expired",
    Entry.JOB_FAILED: "failed_jobs",
    Entry.REPLACED: "replaced",
    Entry.POSSIBLE_FEE: "possible_fees",
}
SHOWN: Final = 20
COLUMNS: Final = ("list", "row", "custom_id", "attempt", "at", "max_usd", "cost_usd", "request_id", "reason")
_LONGEST_CELL: Final = 32_000
_FORMULA: Final = re.compile(r"(^|;)(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every entry.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one line of CSV for every entry, safe for spreadsheets.")
def audit(run: str, *, as_json: bool, as_csv: bool) -> int:
    """Explain every request that may have been billed: answered, in doubt, lost, expired.

    RUN is a run directory, a checkpoint, or the input or output path it belongs to. Exit code 3 says that a request
    is not explained.
    """
    if as_json and as_csv:
        msg = "--json and --csv are two forms of the same: give one of them."
        raise UsageError(msg)
    found = find_run(run)
    with reading(found) as store:
        account = collect(store, running=found.running)
        identity = store.identity()
    if as_csv:
        write_out(table(account))
    elif as_json:
        write_out(json.dumps(as_object(account)))
    else:
        write_out(text(account, simulated=identity is not None and identity.simulated))
    return 3 if account.lists["unexplained"] else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of every request of a run, and its money."""

    billed: int
    """n requests that were answered, or accepted and came to nothing."""
    money: Money
    lists: Mapping[str, list[LedgerEntry]]
    """Word -> entries, in order of time."""

    def most_usd(self, name: str) -> float:
        """Return what the requests of a list cost at most."""
        return sum(ticks(at_most(entry)) for entry in self.lists[name]) / TICKS


def at_most(entry: LedgerEntry) -> float:
    """Return what a request cost, or at most where the API did not tell it."""
    return entry.max_usd if entry.cost_usd is None else entry.cost_usd


def collect(store: Store, *, running: bool) -> Account:
    """Return the account of a run.

    Args:
        store: The run's checkpoint.
        running: Whether a runner is alive; requests that are under way are then not in doubt.
    """
    lists: dict[str, list[LedgerEntry]] = {name: [] for name in LISTS}
    for entry in store.ledger():
        lists[_LIST_OF[entry.entry]].append(entry)
    money = store.money()
    if not running:
        doubts = store.pending_doubts()
        lists["in_doubt"].extend(doubts)
        most = sum(ticks(entry.max_usd) for entry in doubts)
        money = replace(money, in_doubt=money.in_doubt + most, on_its_way=money.on_its_way - most)
    lists["unexplained"].extend(store.unexplained())
    return Account(billed=store.totals().billed, money=money, lists=lists)


def as_object(account: Account) -> dict[str, Any]:
    """Return the object of `--json`."""
    lists = {name: [_as_json(entry) for entry in entries] for name, entries in account.lists.items()}
    most = {name: account.most_usd(name) for name in account.lists}
    return {"billed": account.billed, "cost_usd": account.money.paid / TICKS, **lists, "max_usd": most}


def _as_json(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "row": entry.row,
        "custom_id": entry.custom_id,
        "attempt": entry.attempt,
        "at": entry.at,
        "reason": entry.reason,
        "max_usd": at_most(entry),
        "cost_usd": entry.cost_usd,
        "request_id": entry.request_id,
    }


def text(account: Account, *, simulated: bool = False) -> str:
    """Return the account in words: what was billed for certain, then a short table for each other word."""
    told = "(simulated: nothing was paid)" if simulated else "as far as the API told"
    lines = [f"billed: {noun(account.billed, 'request')}, {money(account.money.paid / TICKS)} {told}"]
    if besides := account.money.spent - account.money.paid:
        lines.append(f"besides: {money(besides / TICKS)} at most, for requests whose price the API did not tell")
    if account.money.on_its_way:
        lines.append(f"on its way: {money(account.money.on_its_way / TICKS)} at most")
    empty = []
    for name, meaning in LISTS.items():
        entries = account.lists[name]
        if not entries:
            empty.append(name.replace("_", " "))
            continue
        most = money(account.most_usd(name))
        lines += ["", f"{name.replace('_', ' ')}: {noun(len(entries), 'request')}, {most} at most - {meaning}"]
        lines += [_line(entry) for entry in entries[:SHOWN]]
        if len(entries) > SHOWN:
            lines.append(f"  … and {noun(len(entries) - SHOWN, 'more', 'more')}: --json or --csv lists all")
    if empty:
        lines += ["", f"none: {', '.join(empty)}"]
    if not account.lists["unexplained"]:
        lines += ["", "Every request is explained."]
    return "\n".join(lines)


def _line(entry: LedgerEntry) -> str:
    from time import localtime, strftime  # noqa: PLC0415 - only for text

    at = strftime("%Y-%m-%d %H:%M:%S", localtime(entry.at))
    name = printable(entry.custom_id, limit=40)
    most = "at most " if entry.cost_usd is None else ""
    return (
        f"  row {entry.row} ({name}), attempt {entry.attempt}, {at}, {most}{money(at_most(entry))}: "
        f"{printable(entry.reason, limit=120)}"
    )


def table(account: Account) -> str:
    """Return the entries as CSV (RFC 4180, but for line feeds as line ends), under a line that names the columns."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, entries in account.lists.items():
        for entry in entries:
            at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            known = "" if entry.cost_usd is None else _decimal(entry.cost_usd)
            names = (cell(entry.custom_id), entry.attempt, at, _decimal(at_most(entry)), known)
            writer.writerow((name, entry.row, *names, cell(entry.request_id or ""), cell(entry.reason)))
    return file.getvalue().removesuffix("\n")


def cell(value: str) -> str:
    """Return text that no spreadsheet takes for a formula and no terminal for a command.

    Control characters are shown as escapes, and an apostrophe goes before what begins a formula; also behind a
    semicolon, at which some spreadsheets begin a cell.
    """
    return _FORMULA.sub(r"\1'\2", printable(value, limit=_LONGEST_CELL))


def _decimal(usd: float) -> str:
    """Return dollars in full, without an exponent."""
    whole, _, part = f"{ticks(usd) / TICKS:.10f}".partition(".")
    return f"{whole}.{part.rstrip('0') or '0'}"
