"""The sums of a run, kept as its rows change: totals must not scan ten million rows each second.

Law: written in the same transaction as the changes it counts; equal to a recount of the tables at any moment. Money is
summed in ticks (integers), so the sum does not depend on the order of its parts.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from bulkgrok.core.lifecycle import State
from bulkgrok.core.model import Entry, Totals

TICKS: Final = 10_000_000_000
"""1 USD is 10,000,000,000 ticks (docs.x.ai, cost tracking)."""

TOKENS: Final = ("prompt", "completion", "reasoning", "cached")
_BILLED: Final = (Entry.LOST, Entry.EXPIRED, Entry.JOB_FAILED, Entry.REPLACED)
_BILLED_STATES: Final = (State.ACCEPTED, State.REDEEMED, State.SUCCEEDED)


def ticks(cost_usd: float | None) -> int:
    """Return money in ticks, 0 where it is not known."""
    return 0 if cost_usd is None else round(cost_usd * TICKS)


class Tally:
    """Counts rows by state and failure, ledger entries, money and tokens."""

    __slots__ = ("answered_failures", "codes", "entries", "groups", "states", "ticks", "tokens")

    def __init__(self) -> None:
        self.groups = 0
        """Groups of changes that were applied, ever; see `mark`."""
        self.states = [0] * len(State)
        self.codes: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.answered_failures = 0
        """Rows that failed with a paid answer."""
        self.ticks = 0
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
        copied.tokens = self.tokens.copy()
        return copied

    def move(self, source: State | None, target: State) -> None:
        """Note that a row went from one state to another; None for a row that was not known."""
        if source is not None:
            self.states[source] -= 1
        self.states[target] += 1

    def failed(self, code: str, count: int, *, answered: bool) -> None:
        """Note that a row failed (1), or fails no more (-1)."""
        self.codes[code] += count
        self.answered_failures += count if answered else 0

    def used(self, tokens: tuple[int, int, int, int]) -> None:
        """Add the tokens of an answer."""
        for index, number in enumerate(tokens):
            self.tokens[index] += number

    def dumps(self) -> str:
        """Return the tally as JSON, equal for equal tallies."""
        value = {
            "groups": self.groups,
            "states": self.states,
            "codes": {code: count for code, count in sorted(self.codes.items()) if count},
            "entries": {entry: count for entry, count in sorted(self.entries.items()) if count},
            "answered_failures": self.answered_failures,
            "ticks": self.ticks,
            "tokens": self.tokens,
        }
        return json.dumps(value, separators=(",", ":"))

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
        tally.tokens = [int(number) for number in value["tokens"]]
        if len(tally.states) != len(State) or len(tally.tokens) != len(TOKENS):
            msg = "a tally of another shape"
            raise ValueError(msg)
        return tally

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
            tokens=dict(zip(TOKENS, self.tokens, strict=True)),
            next_deadline_at=next_deadline_at,
        )
