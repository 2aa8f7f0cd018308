"""Judges a run that was ill-treated, by the simulator's ledger, the output files and `bulkgrok audit` alone.

    I1  each input row is in exactly one of the two outputs, once
    I2  each answer is what the server handed out under its id; each file is what the media host sent
    I3  nothing is asked for after its answer was durable, and nothing is handed out twice
    I4  billed = answered + lost + in doubt and accepted; no bill is left over
    I5  each answer that was handed out and is in no output stands in the ledger as lost, under its row
    I6  a hard end costs no more than what was in flight; a drain costs nothing
    I7  at exit 0 and 3 no row is unfinished

A *life* is one process from its start to its end. What the server accepted or handed out between the start of one life
and the start of the next is the doing of the former: the simulator has come to rest in between.
"""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from bulkgrok.simulator.answers import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One process: when it began (UNIX seconds), how it was ended, and how often its connections were cut."""

    began_at: float
    end: str
    """`drained` (a signal, or of its own accord) or `hard` (kill -9, a second Ctrl-C, a full disk…)."""
    cuts: int = 0

    @property
    def hard_ends(self):
        """How often what was in flight could be lost."""
        return self.cuts + (self.end == "hard")


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found, and what it came to."""

    wrong: list[str] = field(default_factory=list)
    rows: int = 0
    billed: int = 0
    answered: int = 0
    failed: int = 0
    in_doubt: int = 0
    doubled: int = 0
    """Requests in doubt that the server had accepted."""
    lost: int = 0
    unexplained: int = 0
    handed_in: int = 0
    """Answers that others asked for while a runner that was taken over had them in hand, and which it handed in."""
    worst_lost: int = 0
    """The most answers that one hard end cost."""
    worst: int = 0
    """The most answers and doubles together that one hard end cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One row of the results."""

    row: int
    id: str
    body: dict
    assets: list


def read_results(output):
    """Return the rows of a results file or folder, in any format."""
    output = Path(output)
    if output.is_dir():
        return [row for part in sorted(output.glob("part-*")) for row in read_results(part)]
    if output.suffix == ".parquet":
        return [_answered(line, json.loads(line["body"]), line) for line in pq.read_table(output).to_pylist()]
    return [
        _answered(line, line["response"]["body"], line["bulkgrok"] | {"request_id": line["response"]["request_id"]})
        for line in read_lines(output)
    ]


def read_lines(path):
    """Return the lines of a JSON Lines file."""
    return [json.loads(line) for line in Path(path).read_bytes().split(b"\n") if line]


def _answered(line, body, told):
    identifier = body["id"] if told["mode"] == "direct" else told["request_id"]
    return Answered(row=line["row"], id=identifier, body=body, assets=told["assets"])


def judge(*, rows, results, errors, base, ledger, audit, lives, concurrency, fenced=0):
    """Return the verdict on a finished run.

    Args:
        rows: n rows of the input.
        results: The results, read.
        errors: The lines of the errors file.
        base: What the paths of assets are relative to.
        ledger: The simulator's.
        audit: What `bulkgrok audit --json` printed.
        lives: All processes of the run, in order.
        concurrency: Requests in flight, at most.
        fenced: n runners that were taken over with answers in hand: others may ask for those before they hear of it.
    """
    verdict = Verdict(rows=rows, answered=len(results), failed=len(errors), billed=ledger["billed"])
    _rows_once(verdict, rows, results, errors)
    served = {entry["id"]: entry for entry in ledger["requests"]}
    for found in results:
        _as_served(verdict, found, served.get(found.id), Path(base))
    _asked_once(verdict, ledger, results, served, fenced * concurrency)
    used = {found.id for found in results}
    unused = [entry for entry in ledger["requests"] if entry["billed"] and entry["id"] not in used]
    _bills(verdict, results, served, unused, audit)
    _bounded(verdict, unused, lives, concurrency)
    return verdict


def _rows_once(verdict, rows, results, errors):
    found = Counter([answer.row for answer in results] + [line["row"] for line in errors])
    missing = sorted(set(range(rows)) - set(found))
    if missing:
        verdict.wrong.append(f"I1: rows missing: {missing[:5]}")
    if twice := [row for row, count in found.items() if count > 1 or not 0 <= row < rows]:
        verdict.wrong.append(f"I1: rows twice or from nowhere: {twice[:5]}")
    if codes := {line["error"]["code"] for line in errors} - {"in_doubt", "lost"}:
        verdict.wrong.append(f"I7: rows failed as {codes}, and the simulator makes none fail")


def _as_served(verdict, found, entry, base):
    if entry is None:
        verdict.wrong.append(f"I2: row {found.row} has an answer that nobody gave: {found.id}")
        return
    if not found.assets:
        if digest(orjson.dumps(found.body)).hex() != entry["sha256"]:
            verdict.wrong.append(f"I2: row {found.row}: not the answer that was handed out under {found.id}")
        return
    (asset,) = found.assets
    held = hashlib.sha256((base / asset["path"]).read_bytes()).hexdigest()
    if not held == asset["sha256"] == entry["sha256"]:
        verdict.wrong.append(f"I2: row {found.row}: {asset['path']} is not the file that was served")


def _asked_once(verdict, ledger, results, served, in_hand):
    again = [found.row for found in results if served.get(found.id, {}).get("polls_after")]
    verdict.handed_in = len(again)
    if len(again) > in_hand:
        verdict.wrong.append(f"I3: asked for again after they were durable: rows {again[:5]}")
    if ledger["deliveries_max"] > 1:
        verdict.wrong.append("I3: an answer that is handed out once was handed out twice")


def _bills(verdict, results, served, unused, audit):
    """Set each bill without an answer against an entry of the ledger of the same row."""
    row_of = {served[found.id]["marker"]: found.row for found in results if found.id in served}
    failed = Counter({name: len(audit[name]) for name in ("lost", "in_doubt")})
    told = {name: Counter(entry["row"] for entry in audit[name]) for name in failed}
    verdict.in_doubt, verdict.lost = failed["in_doubt"], failed["lost"]
    spent = {name: Counter() for name in failed}
    for entry in unused:
        name = "lost" if entry["consumed"] else "in_doubt"
        verdict.doubled += name == "in_doubt"
        row = row_of.get(entry["marker"], -1)
        spent[name][row] += 1
    for name, letter in (("lost", "I5"), ("in_doubt", "I4")):
        rowless = spent[name].pop(-1, 0)
        over = {row: count - told[name][row] for row, count in spent[name].items() if count > told[name][row]}
        spare = sum(told[name].values()) - sum(spent[name].values())
        verdict.unexplained += sum(over.values()) + max(0, rowless - spare)
        if over or rowless > spare:
            verdict.wrong.append(f"{letter}: bills that no entry under {name} explains: {over} and {rowless - spare}")
    if verdict.lost != sum(entry["consumed"] for entry in unused):
        verdict.wrong.append(f"I5: {verdict.lost} lost in the ledger, {len(unused)} unused at the server")
    answered = sum(served[found.id]["billed"] for found in results if found.id in served)
    if verdict.billed != answered + len(unused):
        verdict.wrong.append(f"I4: billed {verdict.billed}, answered {answered}, not used {len(unused)}")
    if audit["billed"] != answered + verdict.lost:
        verdict.wrong.append(f"I4: the audit counts {audit['billed']} billed, not {answered} + {verdict.lost} lost")
    if audit["unexplained"]:
        verdict.unexplained += len(audit["unexplained"])
        verdict.wrong.append(f"I4: unexplained: {audit['unexplained'][:3]}")


def _bounded(verdict, unused, lives, concurrency):
    begins = [life.began_at for life in lives]
    lost, all_of_it = Counter(), Counter()
    for entry in unused:
        at = entry["consumed_at"] if entry["consumed"] else entry["accepted_at"]
        life = max(0, bisect_right(begins, at) - 1)
        lost[life] += entry["consumed"]
        all_of_it[life] += 1
    verdict.worst_lost = max(lost.values(), default=0)
    verdict.worst = max(all_of_it.values(), default=0)
    for life, count in all_of_it.items():
        if count > concurrency * lives[life].hard_ends:
            verdict.wrong.append(f"I6: {count} answers or doubles lost in life {life}: {lives[life]}")
