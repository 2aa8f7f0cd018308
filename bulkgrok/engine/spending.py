"""What a limit on money means for a run: when it ends for one, in which words, and what observers are told.

Law: money is limited before it is spent and never after: nothing that is on its way is given up for a limit. A run
whose limit covers no further request goes on until what was accepted is fetched and stored, and then ends with exit 4.
"""

from __future__ import annotations

from typing import Final

from bulkgrok.config import RunConfig
from bulkgrok.core.errors import BulkgrokError, LimitReached, UsageError
from bulkgrok.core.money import TICKS, Budget, ticks
from bulkgrok.core.ports import Store
from bulkgrok.telemetry.wording import money as dollars
from bulkgrok.telemetry.wording import noun, printable

LIMITS: Final = "limits"
_KEPT: Final = "Nothing was given up: what was accepted is fetched, and rows that were not sent stay pending."


def budget_of(config: RunConfig) -> Budget | None:
    """Return what decides about a run's money, None where it is not limited."""
    if config.budget is None and config.max_at_risk is None:
        return None
    return Budget(budget_usd=config.budget, max_at_risk_usd=config.max_at_risk)


def note_limits(store: Store, config: RunConfig) -> None:
    """Keep the limits of this start for those who look at the run."""
    limits = {"budget": config.budget, "max_at_risk": config.max_at_risk}
    if (store.recall(LIMITS) or dict.fromkeys(limits)) != limits:
        store.note(LIMITS, limits)


def limit_reached(budget: Budget, *, sent: bool) -> BulkgrokError:
    """Word the end of a run for which a limit covers no further request.

    Args:
        budget: The limits, and what did not fit.
        sent: Whether this start sent any request.
    """
    if budget.unpriced is not None and budget.least is None:
        return _unpriced(budget, *budget.unpriced, sent=sent)
    message, hint = _too_dear(budget)
    if budget.unpriced is not None:
        row, model = budget.unpriced
        message += f" Row {row} was not sent either: the price of {printable(model, limit=80)} is not known (--prices)."
    return LimitReached(f"{message}\n{_KEPT}", hint=hint)


def room_reached(outstanding: int, *, for_money: bool) -> BulkgrokError:
    """Word the end of a start that only submits, when no more may be outstanding or at risk before some is collected.

    Args:
        outstanding: n accepted requests.
        for_money: Whether it is money that holds up the next row.
    """
    why = f"{noun(outstanding, 'request')} are outstanding, and that is as many as may be"
    how = "the default of --max-outstanding is what can be redeemed in time"
    if for_money:
        why = (
            f"{noun(outstanding, 'request')} are outstanding, and with what they may cost the limit on money is reached"
        )
        how = "--budget, --max-at-risk and --max-outstanding set it"
    return LimitReached(
        f"{why} ({how}). Rows that were not sent stay pending.",
        hint="Fetch what is ready with `bulkgrok collect`, then type the same command again.",
    )


def _too_dear(budget: Budget) -> tuple[str, str]:
    """Return what is short and what to type; of two limits, the one that the cheapest request passes."""
    money, least = budget.money, budget.least or 0
    following = f", and the cheapest request left costs {_dollars(least)} at most" if budget.least is not None else ""
    limit = budget.max_at_risk_usd
    if limit is not None and (budget.budget_usd is None or money.in_doubt + least > ticks(limit)):
        message = (
            f"The limit of {dollars(limit)} at risk is reached: {_dollars(money.in_doubt)} is in doubt{following}."
        )
        more = f"--max-at-risk {_cents(money.in_doubt + least)} or more; `bulkgrok audit` lists what is in doubt."
        return message, f"Type the same command again with {more}"
    unsure = money.spent - money.paid
    of_it = f" ({_dollars(unsure)} of it at most, where the API told no price)" if unsure else ""
    spent = f"{_dollars(money.spent)} is spent{of_it}{following}."
    message = f"The budget of {dollars(budget.budget_usd or 0.0)} is reached: {spent}"
    return message, f"Type the same command again with --budget {_cents(money.spent + least)} or more."


def _dollars(amount: int) -> str:
    """Return ticks in dollars."""
    return dollars(amount / TICKS)


def _cents(amount: int) -> str:
    """Return a round sum in dollars that is not less than so many ticks."""
    cents = -(-amount // (TICKS // 100))
    return f"{cents / 100:.2f}"


def _unpriced(budget: Budget, row: int, model: str, *, sent: bool) -> BulkgrokError:
    message = (
        f"The price of {printable(model, limit=80)} is not known (row {row}), and without it no limit on money can be "
        f"kept: {noun(budget.refused, 'row')} could not be sent."
    )
    hint = "Name the prices of your models in a file and add it with --prices FILE.toml (README.md shows how)."
    if not sent:
        return UsageError(f"{message} Nothing was sent.", hint=hint)
    return LimitReached(f"{message}\n{_KEPT}", hint=hint)
