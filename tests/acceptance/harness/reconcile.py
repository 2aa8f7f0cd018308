"""Sets what a run says it paid against what the simulator billed, to zero: in requests and in dollars.

    accepted by the API  =  answered + lost + expired + failed jobs + replaced + those in doubt that were accepted
    billed in dollars    =  what the run says it cost + what the requests cost of which it knows no price

Law: reads the simulator's ledger, the run's outputs and what `bulkgrok audit` printed, nothing else of the run.
Requests are told apart by their bodies: rows that ask the same are reckoned together.
"""

import csv
import io
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq

from bulkgrok.config import from_keywords
from bulkgrok.core.model import Item
from bulkgrok.engine.preview import encoder_of
from bulkgrok.readers import open_reader

TICKS = 10_000_000_000
#: Lists of the audit whose entries are requests that the API accepted for certain.
ACCEPTED = ("lost", "expired", "failed_jobs", "replaced")
#: Codes of rows that failed with an answer that was paid; all others stand in the audit or cost nothing.
ANSWERED = frozenset({"invalid_response", "too_large", "download_failed", "moderated", "expired"})


@dataclass(slots=True, kw_only=True)
class Reconciled:
    """What is left over when everything is set against everything: nothing, or `wrong` says what."""

    wrong: list[str] = field(default_factory=list)
    requests: int = 0
    """Accepted by the API and not explained, or explained and never accepted."""
    ticks: int = 0
    """Billed by the API and not explained, or the reverse."""
    accepted: int = 0
    doubted: int = 0
    """Requests in doubt that the API had accepted."""

    def __str__(self):
        return (
            f"accepted={self.accepted} accepted_in_doubt={self.doubted} left_over={self.requests} requests "
            f"{self.ticks / TICKS:.10f} USD {self.wrong}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an output file says of a row."""

    row: int
    cost_usd: float | None
    answered: bool


def outcomes(output, errors):
    """Return what the results, in any format, and the errors file say."""
    output = Path(output)
    found = []
    for part in sorted(output.glob("part-*")) if output.is_dir() else [output]:
        if part.suffix == ".parquet":
            lines = pq.read_table(part, columns=["row", "cost_usd"]).to_pylist()
        else:
            lines = [{"row": line["row"], "cost_usd": line["bulkgrok"]["cost_usd"]} for line in _lines(part)]
        found += [Outcome(row=line["row"], cost_usd=line["cost_usd"], answered=True) for line in lines]
    for line in _lines(errors):
        reply = line["response"] or {}
        answered = reply.get("status_code") == 200 and line["error"]["code"] in ANSWERED
        found.append(Outcome(row=line["row"], cost_usd=line["bulkgrok"]["cost_usd"], answered=answered))
    return found


def _lines(path):
    return [json.loads(line) for line in Path(path).read_bytes().split(b"\n") if line]


def rows_by_body(source, **flags):
    """Return SHA-256 of a request's body (hex) -> the rows that send it."""
    encoder = encoder_of(from_keywords(source, simulate=True, **flags))
    rows = defaultdict(list)
    for chunk in open_reader(Path(source), columns=encoder.columns).chunks():
        for raw in chunk:
            item = encoder.encode(raw)
            if isinstance(item, Item):
                rows[sha256(item.body).hexdigest()].append(item.row)
    return rows


def reconcile(source, *, output, errors, audit, table, ledger, **flags):
    """Return what is left over of a run of which nothing is on its way.

    Args:
        source: The input.
        output: The results file or folder.
        errors: The errors file.
        audit: What `bulkgrok audit --json` printed, parsed.
        table: What `bulkgrok audit --csv` printed.
        ledger: The simulator's, with its list of requests.
        **flags: Those of the run that shape requests (mode, model, params…), in snake case.
    """
    found = outcomes(output, errors)
    entries = list(csv.DictReader(io.StringIO(table)))
    told = _Told(entries, found)
    result = Reconciled(accepted=ledger["accepted"])
    _same_account(result, audit, entries)
    served = defaultdict(list)
    for entry in ledger["requests"]:
        served[entry["marker"]].append(entry)
    known = rows_by_body(source, **flags)
    for marker in served.keys() - known.keys():
        result.wrong.append(f"{len(served[marker])} requests were accepted that no row sends")
        result.requests += len(served[marker])
    reported = 0
    for marker, rows in known.items():
        reported += _set_against(result, rows, served[marker], told)
    _names(result, entries, {entry["id"]: entry["marker"] for entry in ledger["requests"]}, known)
    _sums(result, audit, ledger, found, round(audit["cost_usd"] * TICKS) - reported)
    return result


class _Told:
    """What the run says, by row."""

    def __init__(self, entries, found):
        self.answered = Counter(outcome.row for outcome in found if outcome.answered)
        self.costs = defaultdict(list)
        for outcome in found:
            if outcome.cost_usd is not None and outcome.answered:
                self.costs[outcome.row].append(round(outcome.cost_usd * TICKS))
        self.doubts, self.accepted = Counter(), Counter()
        for entry in entries:
            row = int(entry["row"])
            self.doubts[row] += entry["list"] == "in_doubt"
            self.accepted[row] += entry["list"] in ACCEPTED
            if entry["cost_usd"]:
                self.costs[row].append(round(float(entry["cost_usd"]) * TICKS))


def _same_account(result, audit, entries):
    """The two forms of the audit must say the same."""
    for name, most in audit["max_usd"].items():
        lines = [entry for entry in entries if entry["list"] == name]
        said = [(entry["row"], entry["attempt"], entry["max_usd"]) for entry in audit[name]]
        if [(int(line["row"]), int(line["attempt"]), float(line["max_usd"])) for line in lines] != said:
            result.wrong.append(f"--csv and --json list other requests as {name}")
        if round(most * TICKS) != sum(round(float(line["max_usd"]) * TICKS) for line in lines):
            result.wrong.append(f"--json sums {name} to {most}")


def _names(result, entries, marker_of, known):
    """What was accepted for certain and has a name must be the simulator's, and its row's, and be named once."""
    seen = Counter(entry["request_id"] for entry in entries if entry["list"] in ACCEPTED and entry["request_id"])
    for entry in entries:
        name, row = entry["request_id"], int(entry["row"])
        if entry["list"] not in ACCEPTED or name not in marker_of:
            continue  # a direct answer is named by its x-request-id, which the simulator does not keep
        if seen[name] > 1:
            result.wrong.append(f"row {row}: {name} is in the ledger {seen[name]} times")
        if row not in known[marker_of[name]]:
            result.wrong.append(f"row {row}: {name} is a request of the rows {known[marker_of[name]][:3]}")
    lost = [
        entry["row"]
        for entry in entries
        if entry["list"] in {"lost", "expired"} and entry["request_id"] not in marker_of
    ]
    if lost:
        result.wrong.append(f"lost or expired under names that the API never gave: rows {lost[:3]}")


def _set_against(result, rows, served, told):
    """Set the requests of rows that ask the same against what is said of them; return the ticks that are known of."""
    claims = sum(told.answered[row] + told.accepted[row] for row in rows)
    doubts = sum(told.doubts[row] for row in rows)
    accepted_in_doubt = len(served) - claims
    result.doubted += max(0, min(accepted_in_doubt, doubts))
    if not 0 <= accepted_in_doubt <= doubts:
        left = accepted_in_doubt if accepted_in_doubt < 0 else accepted_in_doubt - doubts
        result.requests += left
        result.wrong.append(
            f"rows {rows[:3]}: {len(served)} accepted, {claims} said to be, {doubts} in doubt: {left} left over"
        )
    bills = {round(entry["usd"] * TICKS) for entry in served if entry["billed"]}
    if len(bills) > 1:
        result.wrong.append(f"rows {rows[:3]}: equal requests were billed differently: {bills}")
    bill = max(bills, default=0)
    costs = [cost for row in rows for cost in told.costs[row]]
    for cost in costs:
        if cost != bill:
            result.wrong.append(f"rows {rows[:3]}: cost {cost} ticks in the output, billed {bill}")
    unknown = sum(entry["billed"] for entry in served) - len(costs)
    result.ticks += sum(round(entry["usd"] * TICKS) for entry in served) - sum(costs) - unknown * bill
    if unknown < 0:
        result.wrong.append(f"rows {rows[:3]}: paid {len(costs)} times, billed {len(costs) + unknown} times")
    return sum(costs)


def _sums(result, audit, ledger, found, unreported):
    """Set the sums against each other: the audit's, the output's and the simulator's."""
    claims = sum(outcome.answered for outcome in found) + sum(len(audit[name]) for name in ACCEPTED)
    if audit["billed"] != claims:
        result.wrong.append(f"the audit counts {audit['billed']} billed; outputs and its own lists come to {claims}")
    if ledger["accepted"] != audit["billed"] + result.doubted + result.requests:
        result.wrong.append(f"accepted {ledger['accepted']}, billed {audit['billed']}, in doubt {result.doubted}")
    if unreported:
        result.ticks += unreported
        result.wrong.append(f"the audit's cost is {audit['cost_usd']}: {unreported / TICKS} more than its rows cost")
    fees, doubts = len(audit["possible_fees"]), len(audit["in_doubt"])
    if not fees <= ledger["content_refusals"] <= fees + doubts:
        result.wrong.append(f"refused for content {ledger['content_refusals']}, fees noted {fees}")
    if audit["unexplained"]:
        result.wrong.append(f"unexplained: {audit['unexplained'][:3]}")
