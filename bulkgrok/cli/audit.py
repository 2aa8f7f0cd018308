"""`bulkgrok audit RUN`: explains every request that may have been billed, in rows and dollars."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from bulkgrok.cli.lookup import find_run, reading
from bulkgrok.cli.messages import write_out
from bulkgrok.core.model import Entry, LedgerEntry
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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every entry.")
def audit(run: str, *, as_json: bool) -> int:
    """Explain every request that may have been billed: answered, in doubt, lost, expired.

    RUN is a run directory, a checkpoint, or the input or output path it belongs to. Exit code 3 says that a request
    is not explained.
    """
    found = find_run(run)
    with reading(found) as store:
        account = collect(store, running=found.pid is not None)
        identity = store.identity()
    simulated = identity is not None and identity.simulated
    write_out(json.dumps(account) if as_json else text(account, simulated=simulated))
    return 3 if account["unexplained"] else 0


def collect(store: Store, *, running: bool) -> dict[str, Any]:
    """Return the account of a run: counts, dollars, and a list of entries for each word.

    Args:
        store: The run's checkpoint.
        running: Whether a runner is alive; requests that are under way are then not in doubt.
    """
    totals = store.totals()
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    for entry in store.ledger():
        lists[_LIST_OF[entry.entry]].append(_as_json(entry))
    if not running:
        lists["in_doubt"].extend(_as_json(entry) for entry in store.pending_doubts())
    lists["unexplained"].extend(_as_json(entry) for entry in store.unexplained())
    return {"billed": totals.billed, "cost_usd": totals.cost_usd, **lists}


def _as_json(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "row": entry.row,
        "custom_id": entry.custom_id,
        "attempt": entry.attempt,
        "at": entry.at,
        "reason": entry.reason,
        "max_usd": entry.max_usd,
    }


def text(account: dict[str, Any], *, simulated: bool = False) -> str:
    """Return the account in words: what was billed for certain, then a short table for each other word."""
    told = "(simulated: nothing was paid)" if simulated else "as far as the API told"
    lines = [f"billed: {noun(account['billed'], 'request')}, {money(account['cost_usd'])} {told}"]
    empty = []
    for name, meaning in LISTS.items():
        entries = account[name]
        if not entries:
            empty.append(name.replace("_", " "))
            continue
        worst = sum(entry["max_usd"] for entry in entries)
        lines += ["", f"{name.replace('_', ' ')}: {noun(len(entries), 'request')}, {money(worst)} at most - {meaning}"]
        lines += [_line(entry) for entry in entries[:SHOWN]]
        if len(entries) > SHOWN:
            lines.append(f"  … and {noun(len(entries) - SHOWN, 'more', 'more')}: --json lists all")
    if empty:
        lines += ["", f"none: {', '.join(empty)}"]
    if not account["unexplained"]:
        lines += ["", "Every request is explained."]
    return "\n".join(lines)


def _line(entry: dict[str, Any]) -> str:
    from time import localtime, strftime  # noqa: PLC0415 - only for text

    at = strftime("%Y-%m-%d %H:%M:%S", localtime(entry["at"]))
    name = printable(entry["custom_id"], limit=40)
    return (
        f"  row {entry['row']} ({name}), attempt {entry['attempt']}, {at}, at most {money(entry['max_usd'])}: "
        f"{printable(entry['reason'], limit=120)}"
    )
