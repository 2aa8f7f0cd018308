"""What must hold after a history. Reads the world's ledger, the run's ledger and the output files, nothing else.

I1  each input row is exactly once in the output or in the errors file
I2  each result is an answer that the world handed out whole for that very request
I3  nothing is asked for again by a client that got it whole
I4  every accepted request is explained: it is a row's answer or stands in the ledger; the ledger invents none
I5  every result that was handed out and is no row's answer stands in the ledger
I6  what a crash cost is no more than what was in flight; what ended in order cost nothing
I7  nothing is left half done at exit 0 or 3
I8  a second runner and the first are never both at work
I9  the key is in no file
I10 never more requests are in flight than were allowed
I11 each file that a result names is there, and whole
P2  the run says it spent no less than was billed
P4  no more is spent than the budget, and no more is at risk than the limit, but for what was in flight
P5  nothing expires that could have been fetched
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bulkgrok.checkpoint import read_store
from bulkgrok.core.model import Code, Entry, LedgerEntry
from bulkgrok.simulator.catalogue import TICKS_PER_USD
from bulkgrok.simulator.ledger import Entry as Accepted
from histories.api import Api
from histories.database import Database
from histories.life import Death, Life
from histories.scenario import HOUR, Plan, Scenario

_ROW = re.compile(rb"row (\d+) says")
_KILLED = "the process ended"
_MARGIN_S = 1.5 * HOUR
_SECOND_S = 1.0
"""`Date` tells whole seconds."""
#: What the ledger says of requests that were certainly accepted.
_CERTAIN = (Entry.LOST, Entry.EXPIRED, Entry.JOB_FAILED, Entry.REPLACED)


@dataclass(slots=True, kw_only=True)
class Witness:
    """What was seen of a history while it was played."""

    scenario: Scenario
    root: Path
    key: str
    database: Database | None = None
    deaths: list[str] = field(default_factory=list)
    lives: list[tuple[float, float]] = field(default_factory=list)
    """(began, ended) of each, in seconds of the world."""
    posts_risked: int = 0
    """POSTs in flight at crashes and aborts."""
    gets_risked: int = 0
    asked_after_whole: int = 0
    spoke_beside: int = 0
    given_up: list[tuple[float, str]] = field(default_factory=list)
    """(UNIX seconds of the world, request id) of results that the run called expired."""
    sleeps: list[tuple[float, float]] = field(default_factory=list)
    """(from, to) while the machine was suspended."""

    def lived(self, life: Life, death: Death, code: int | None, plan: Plan, *, began: float, ended: float) -> None:
        """Note a life that ended."""
        self.deaths.append(death.at if code is None else f"exit {code}")
        self.lives.append((began, ended))
        concurrency = self.scenario.flags["concurrency"]
        aborted = any(one.what == "abort" for one in plan.disturbances)
        if death.picture is not None or aborted:
            self.posts_risked += concurrency
            self.gets_risked += concurrency
        elif code == 8:  # what became of them could not be written down; answers must have found a place
            self.posts_risked += concurrency
        self.asked_after_whole += sum(link.asked_after_whole for link in life.links)
        self.spoke_beside += sum(link.spoke_beside for link in life.links)


@dataclass(slots=True)
class _Found:
    """What lies on the disk at the end."""

    results: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    ledger: list[LedgerEntry]
    unexplained: int
    unfinished: int
    spent: int
    """What the run says it spent, or may have, in ticks."""


def check(witness: Witness, api: Api) -> list[str]:
    """Return what does not hold, in words; nothing where all is well."""
    try:
        found = _read(witness)
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody else could read it either
        return [f"I1: what is on the disk cannot be read: {error!r}"]
    problems = [
        *_rows(witness, found),
        *_answers(found, api),
        *_explained(found, api),
        *_bounds(witness, found, api),
        *_expired(witness, found, api),
        *_secret(witness),
        *_files(witness, found),
    ]
    allowed = witness.scenario.flags["concurrency"]
    if api.in_flight_most > allowed:
        problems.append(f"I10: {api.in_flight_most} requests in flight, {allowed} allowed")
    if witness.asked_after_whole:
        problems.append(f"I3: {witness.asked_after_whole} GETs for results that were there already")
    if found.unfinished:
        problems.append(f"I7: {found.unfinished} rows are half done")
    if witness.spoke_beside:
        problems.append(f"I8: {witness.spoke_beside} requests beside another runner")
    if found.unexplained:
        problems.append(f"I4: the run itself cannot explain {found.unexplained} requests")
    if api.world.ledger.ticks > found.spent:
        problems.append(f"P2: billed {api.world.ledger.ticks} ticks, and the run knows of {found.spent} at the most")
    return problems


def overspent(witness: Witness, api: Api) -> list[str]:
    """P4: hold the world's bill against the limits, with an allowance for what was in flight.

    What is at risk is what the world accepted and nobody got: jobs whose result was not handed out, and answers and
    receipts that did not arrive.
    """
    scenario, ledger = witness.scenario, api.world.ledger
    ticks = [entry.ticks for entry in ledger.entries()]
    allowed_usd = (scenario.flags["concurrency"] + 1) * max(ticks, default=0) / TICKS_PER_USD
    problems = []
    if scenario.budget is not None and (over := ledger.ticks / TICKS_PER_USD - scenario.budget) > allowed_usd:
        problems.append(f"P4: {over:.4f} USD over the budget, with {allowed_usd:.4f} in flight at the most")
    at_risk_usd = sum(entry.ticks for entry in ledger.entries() if _is_at_risk(entry)) / TICKS_PER_USD
    if scenario.max_at_risk is not None and at_risk_usd - scenario.max_at_risk > allowed_usd:
        problems.append(
            f"P4: {at_risk_usd:.4f} USD at risk, {scenario.max_at_risk} allowed, {allowed_usd:.4f} in flight"
        )
    return problems


def _is_at_risk(entry: Accepted) -> bool:
    if entry.kind == "chat":
        return entry.reply_lost
    return entry.billed and not entry.delivered and not entry.fate.startswith("failed")


def in_doubt_after_stop(witness: Witness) -> int:
    """Return of how many requests a run that ended in order does not know the end."""
    store = _opened(witness)
    try:
        return store.totals().submitting
    finally:
        store.close()


def _opened(witness: Witness) -> Any:
    """Open the checkpoint to read it."""
    if witness.database is not None:
        return read_store(witness.database.url, run_id=witness.database.run_id)
    return read_store(_checkpoint(witness))


def _checkpoint(witness: Witness) -> Path:
    output = witness.root / witness.scenario.output
    return output.with_name(f"{output.stem}.bulkgrok") / "checkpoint.db"


def _read(witness: Witness) -> _Found:
    output = witness.root / witness.scenario.output
    folder = witness.scenario.output.endswith("/")
    errors = output / "_errors.jsonl" if folder else output.with_name(f"{output.stem}.errors.jsonl")
    store = _opened(witness)
    try:
        totals = store.totals()
        return _Found(
            results=_results(output, folder=folder),
            errors=_lines(errors),
            ledger=list(store.ledger()),
            unexplained=len(store.unexplained()),
            unfinished=totals.submitting + totals.accepted + totals.redeemed + totals.pending_known,
            spent=totals.money.spent,
        )
    finally:
        store.close()


def _results(output: Path, *, folder: bool) -> list[dict[str, Any]]:
    if not folder:
        return _table(output) if output.suffix == ".parquet" else _lines(output)
    manifest = json.loads((output / "_manifest.json").read_bytes())
    rows: list[dict[str, Any]] = []
    for part in manifest["parts"]:
        path = output / part["name"]
        rows += _table(path) if path.suffix == ".parquet" else _lines(path)
    return rows


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def _table(path: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    return [
        row | {"bulkgrok": {"assets": row["assets"]}, "response": {
            "request_id": row["request_id"], "body": json.loads(row["body"]),
        }}
        for row in rows
    ]  # fmt: skip


def _rows(witness: Witness, found: _Found) -> list[str]:
    seen = Counter(line["row"] for line in (*found.results, *found.errors))
    expected = range(len(witness.scenario.rows))
    missing = [row for row in expected if row not in seen]
    twice = [row for row, count in seen.items() if count > 1]
    foreign = [row for row in seen if row not in expected]
    if missing or twice or foreign:
        return [f"I1: rows missing {missing}, more than once {twice}, never in the input {foreign}"]
    return []


def _answers(found: _Found, api: Api) -> list[str]:
    problems = []
    handed = {digest: key for key, digests in api.arrived.items() for digest in digests}
    by_row = _rows_of(api)
    for line in found.results:
        body = line["response"]["body"]
        mine = {entry.id for entry in by_row[line["row"]]} | {entry.marker.hex() for entry in by_row[line["row"]]}
        keys = {key for digest, key in handed.items() if key in mine}
        if not keys:
            problems.append(f"I2: row {line['row']} was never answered, and has an answer: {str(body)[:200]}")
    return problems


def _rows_of(api: Api) -> defaultdict[int, list[Accepted]]:
    """Return what the world accepted, by input row."""
    accepted: defaultdict[int, list[Accepted]] = defaultdict(list)
    for entry in api.world.ledger.entries():
        match = _ROW.search(api.bodies[entry.marker.hex()])
        assert match is not None
        accepted[int(match[1])].append(entry)
    return accepted


def _explained(found: _Found, api: Api) -> list[str]:
    problems = []
    answered = {line["row"] for line in found.results}
    answered |= {line["row"] for line in found.errors if line["response"] is not None and _has_answer(line)}
    ledger: defaultdict[int, list[LedgerEntry]] = defaultdict(list)
    for entry in found.ledger:
        ledger[entry.row].append(entry)
    accepted = _rows_of(api)
    for row in sorted(accepted.keys() | ledger.keys()):
        entries, took = ledger[row], len(accepted[row])
        certain = sum(entry.entry in _CERTAIN for entry in entries)
        known = certain + (row in answered)
        doubtful = sum(entry.entry is Entry.IN_DOUBT for entry in entries)
        if not known <= took <= known + doubtful:
            problems.append(
                f"I4: row {row}: {took} accepted, {row in answered:d} answered, {certain} certain and {doubtful} "
                "doubtful in the ledger"
            )
        problems += _consumed(row, accepted[row], entries, found)
    return problems


def _has_answer(line: dict[str, Any]) -> bool:
    return line["error"]["code"] in {
        Code.INVALID_RESPONSE, Code.DOWNLOAD_FAILED, Code.MODERATED, Code.TOO_LARGE, Code.EXPIRED,
    } and line["response"]["status_code"] == 200  # fmt: skip


def _consumed(row: int, accepted: list[Accepted], entries: list[LedgerEntry], found: _Found) -> list[str]:
    """I5: results handed out are answers, or in the ledger by their id."""
    used = {line["response"]["request_id"] for line in (*found.results, *found.errors) if line["response"]}
    named = {entry.request_id for entry in entries}
    return [
        f"I5: row {row}: the result of {one.id} was handed out and is nowhere"
        for one in accepted
        if one.kind == "deferred" and one.consumed and one.id not in used and one.id not in named
    ]


def _bounds(witness: Witness, found: _Found, api: Api) -> list[str]:
    problems = []
    killed = sum(entry.entry is Entry.IN_DOUBT and entry.reason.startswith(_KILLED) for entry in found.ledger)
    if killed > witness.posts_risked:
        problems.append(f"I6: {killed} in doubt by crashes, with {witness.posts_risked} in flight")
    lost = sum(entry.entry is Entry.LOST for entry in found.ledger)
    broken = sum(entry.result_lost for entry in api.world.ledger.jobs.values())
    late = sum(entry.delivered > 0 for entry in api.world.ledger.jobs.values() if entry.kind == "deferred")
    whole_and_lost = sum(
        entry.entry is Entry.LOST
        and (job := api.world.ledger.jobs.get(entry.request_id or "")) is not None
        and job.delivered > 0
        for entry in found.ledger
    )
    if whole_and_lost > witness.gets_risked:
        problems.append(f"I6: {whole_and_lost} of {late} results arrived and were lost, {witness.gets_risked} risked")
    if lost > broken + whole_and_lost and not witness.scenario.weather:
        problems.append(f"I6: {lost} lost, and the world lost {broken}")
    return problems


def _expired(witness: Witness, found: _Found, api: Api) -> list[str]:
    """P5: whoever was up, under good weather, for long enough while a result waited, must have fetched it."""
    problems = []
    for entry in found.ledger:
        job = api.world.ledger.jobs.get(entry.request_id or "")
        if entry.entry is not Entry.EXPIRED or job is None or job.consumed:
            continue
        ready, until = job.ready_at - api.unix + api.now(), job.accepted_at + 24 * HOUR - api.unix + api.now()
        chance_s = sum(
            max(0.0, min(ended, until) - max(began, ready)) for began, ended in witness.lives
        )  # fmt: skip
        bad = [*witness.sleeps, *((spell.begins, spell.ends) for spell in witness.scenario.weather)]
        bad_s = sum(max(0.0, min(ends, until) - max(begins, ready)) for begins, ends in bad)
        if chance_s - bad_s > _MARGIN_S:
            problems.append(f"P5: row {entry.row} expired with {chance_s - bad_s:.0f} s of good time to fetch it")
    for at, request_id in witness.given_up:
        job = api.world.ledger.jobs.get(request_id)
        if job is not None and not job.consumed and (early_s := job.accepted_at + 24 * HOUR - at) > _SECOND_S:
            problems.append(f"P5: {request_id} was given up {early_s:.0f} s before its time was over")
    return problems


def _secret(witness: Witness) -> list[str]:
    key = witness.key.encode()
    return [
        f"I9: the key is in {path.name}"
        for path in sorted(witness.root.rglob("*"))
        if path.is_file() and key in path.read_bytes()
    ]


def _files(witness: Witness, found: _Found) -> list[str]:
    output = witness.root / witness.scenario.output
    base = output if witness.scenario.output.endswith("/") else output.parent
    problems = []
    for line in found.results:
        for asset in line["bulkgrok"]["assets"]:
            if asset["path"] is None:
                continue
            path = base / asset["path"]
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != asset["sha256"]:
                problems.append(f"I11: row {line['row']}: {asset['path']} is missing or not what it was")
    return problems
