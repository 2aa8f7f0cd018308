"""What a run came to, for whoever called it.

Law: a caller may copy, pickle and compare it like any dataclass, to hand it to another process. So this is not among
what is compiled: objects of compiled classes cannot be pickled, nor frozen ones copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bulkgrok.core.money import TICKS, Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may spend, and what of it is taken: spent, may have been, or on its way at most."""

    budget_usd: float | None
    max_at_risk_usd: float | None
    taken_usd: float
    at_risk_usd: float

    @classmethod
    def of(cls, budget_usd: float | None, max_at_risk_usd: float | None, money: Money) -> Limits | None:
        """Return the limits and what is taken of them, None where there are none."""
        if budget_usd is None and max_at_risk_usd is None:
            return None
        return cls(
            budget_usd=budget_usd,
            max_at_risk_usd=max_at_risk_usd,
            taken_usd=(money.spent + money.on_its_way) / TICKS,
            at_risk_usd=money.at_risk / TICKS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The summary of a run. `as_json` is the object of `run --json`, `status --json` and XCom.

    succeeded + failed + pending + outstanding = rows; rows and pending are None while rows are still being counted.
    """

    run_id: str
    rows: int | None
    succeeded: int
    failed: int
    pending: int | None
    outstanding: int
    failed_by_code: Mapping[str, int]
    in_doubt: int
    lost: int
    cost_usd: float
    tokens: Mapping[str, int]
    output: str
    errors: str
    run_dir: str
    duration_s: float
    exit_code: int
    stopped: Exception | None = None
    """The BulkgrokError that ended the run early, if one did; not part of the JSON."""
    limits: Limits | None = None
    """What the money was limited to and how far that is taken, where it was limited; not part of the JSON."""

    def as_json(self) -> dict[str, Any]:
        """Return the object as it is printed."""
        return {
            name: dict(value) if isinstance(value := getattr(self, name), Mapping) else value
            for name in (
                "run_id", "rows", "succeeded", "failed", "pending", "outstanding", "failed_by_code", "in_doubt",
                "lost", "cost_usd", "tokens", "output", "errors", "run_dir", "duration_s", "exit_code",
            )
        }  # fmt: skip
