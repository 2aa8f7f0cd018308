"""The sums of a run, kept as its rows change: totals must not scan ten million rows each second.

Law: written in the same transaction as the changes it counts; equal to a recount of the tables at any moment. Money is
summed in ticks (integers), so the sum does not depend on the order of its parts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from bulkgrok.core.lifecycle import State
from bulkgrok.core.model import Entry, LedgerEntry, Totals
from bulkgrok.core.money import TICKS, Money, ticks

TOKENS: Final = ("prompt", "completion", "reasoning", "cached")
_BILLED: Final = (Entry.LOST, Entry.EXPIRED, Entry.JOB_FAILED, Entry.REPLACED)
_BILLED_STATES: Final = (State.ACCEPTED, State.REDEEMED, State.SUCCEEDED)


class Tally:
    """Counts rows by state and failure, ledger entries, money and tokens."""

    def __init__(self) -> None:
        self.groups = 0
        """Groups of changes that were applied, ever; see `mark`."""
        self.states = [0] * len(State)
        self.codes: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.answered_failures = 0
        """Rows that failed with a paid answer."""
        self.ticks = 0
        """What answers cost, as the API told it."""
        self.untold = 0
        """What answers cost at most of which the API did not tell it, in ticks."""
        self.entry_ticks: Counter[str] = Counter()
        """What the requests of ledger entries cost at most, where the API did not tell it."""
        self.on_its_way = 0
        """What the requests of rows that are submitting, accepted or redeemed cost at most, in ticks."""
        self.tokens = [0] * len(TOKENS)

    def copy(self) -> Tally:
        """Return an independent copy, to go back to when a transaction fails."""
        copied = Tally()
        copied.groups = self.groups
        copied.states = self.states.copy()
        copied.codes = self.codes.copy()
        copied.entries = self.entries.copy()
        copied.answered_failures = self.answered_failures
        copied.ticks = self.ticks
        copied.untold = self.untold
        copied.entry_ticks = self.entry_ticks.copy()
        copied.on_its_way = self.on_its_way
        copied.tokens = self.tokens.copy()
        return copied

    def __eq__(self, other: object) -> bool:
        """Tell whether two tallies hold the same sums, however many groups of changes they came of."""
        return isinstance(other, Tally) and self._sums() == other._sums()

    __hash__ = None  # type: ignore[assignment] # it changes

    def move(self, source: State | None, target: State) -> None:
        """Note that a row went from one state to another; None for a row that was not known."""
        if source is not None:
            self.states[source] -= 1
        self.states[target] += 1

    def failed(self, code: str, count: int, *, answered: bool) -> None:
        """Note that a row failed (1), or fails no more (-1)."""
        self.codes[code] += count
        self.answered_failures += count if answered else 0

    def enter(self, entry: Entry, most_ticks: int, cost_usd: float | None) -> None:
        """Note a ledger entry; what it costs counts as paid where it is known, else with what it costs at most."""
        self.entries[entry.value] += 1
        if cost_usd is None:
            self.entry_ticks[entry.value] += most_ticks

    def enter_entry(self, entry: LedgerEntry) -> None:
        """Note a ledger entry as it stands in the ledger."""
        self.enter(entry.entry, ticks(entry.max_usd), entry.cost_usd)

    def answer(self, most_ticks: int, cost_usd: float | None) -> None:
        """Note an answer with what it cost, and at most."""
        self.ticks += ticks(cost_usd)
        if cost_usd is None:
            self.untold += most_ticks

    def unanswer(self, most_ticks: int, cost_usd: float | None) -> None:
        """Take back what `answer` noted."""
        self.answer(-most_ticks, None if cost_usd is None else -cost_usd)

    def used(self, tokens: Iterable[int]) -> None:
        """Add the tokens of an answer."""
        for index, number in enumerate(tokens):
            self.tokens[index] += number

    def dumps(self) -> str:
        """Return the tally as JSON, equal for equal tallies."""
        return json.dumps({"groups": self.groups} | self._sums(), separators=(",", ":"))

    def _sums(self) -> dict[str, Any]:
        return {
            "states": self.states,
            "codes": {code: count for code, count in sorted(self.codes.items()) if count},
            "entries": {entry: count for entry, count in sorted(self.entries.items()) if count},
            "answered_failures": self.answered_failures,
            "ticks": self.ticks,
            "untold": self.untold,
            "entry_ticks": {entry: number for entry, number in sorted(self.entry_ticks.items()) if number},
            "on_its_way": self.on_its_way,
            "tokens": self.tokens,
        }

    @classmethod
    def loads(cls, text: str) -> Tally:
        """Return a tally from its JSON.

        Raises:
            ValueError, KeyError, TypeError: It is none.
        """
        value = json.loads(text)
        tally = cls()
        tally.groups = int(value.get("groups", 0))
        tally.states = [int(number) for number in value["states"]]
        tally.codes.update(value["codes"])
        tally.entries.update(value["entries"])
        tally.answered_failures = int(value["answered_failures"])
        tally.ticks = int(value["ticks"])
        tally.untold = int(value["untold"])
        tally.entry_ticks.update(value["entry_ticks"])
        tally.on_its_way = int(value["on_its_way"])
        tally.tokens = [int(number) for number in value["tokens"]]
        if len(tally.states) != len(State) or len(tally.tokens) != len(TOKENS):
            msg = "a tally of another shape"
            raise ValueError(msg)
        return tally

    @property
    def money(self) -> Money:
        """Return the sums of money."""
        in_doubt = self.entry_ticks[Entry.IN_DOUBT]
        return Money(
            paid=self.ticks,
            untold=self.untold,
            written_off=self.entry_ticks.total() - in_doubt,
            in_doubt=in_doubt,
            on_its_way=self.on_its_way,
        )

    def totals(self, next_deadline_at: float | None) -> Totals:
        """Return the sums as summaries show them."""
        states, entries = self.states, self.entries
        return Totals(
            succeeded=states[State.SUCCEEDED],
            failed=states[State.FAILED],
            accepted=states[State.ACCEPTED],
            submitting=states[State.SUBMITTING],
            redeemed=states[State.REDEEMED],
            pending_known=states[State.PENDING],
            failed_by_code={code: count for code, count in sorted(self.codes.items()) if count},
            in_doubt=entries[Entry.IN_DOUBT],
            lost=entries[Entry.LOST],
            expired=entries[Entry.EXPIRED],
            billed=sum(entries[entry] for entry in _BILLED)
            + sum(states[state] for state in _BILLED_STATES)
            + self.answered_failures,
            cost_usd=self.ticks / TICKS,
            money=self.money,
            tokens=dict(zip(TOKENS, self.tokens, strict=True)),
            next_deadline_at=next_deadline_at,
        )
