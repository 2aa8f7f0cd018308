"""What a budget lets go, and what it says when it does not."""

import pytest

from bulkgrok.core.money import Budget, Leave, Money, ticks


def usd(**amounts):
    return Money(**{name: ticks(amount) for name, amount in amounts.items()})


def budget(total=None, at_risk=None, **amounts):
    found = Budget(budget_usd=total, max_at_risk_usd=at_risk)
    found.money = usd(**amounts)
    return found


@pytest.mark.parametrize(
    ("amounts", "most", "leave"),
    [
        ({}, 1.0, Leave.GO),
        ({}, 1.01, Leave.NEVER),
        ({"paid": 0.5}, 0.5, Leave.GO),
        ({"paid": 0.5}, 0.51, Leave.NEVER),
        ({"untold": 0.5}, 0.51, Leave.NEVER),
        ({"written_off": 0.5}, 0.51, Leave.NEVER),
        ({"in_doubt": 0.5}, 0.51, Leave.NEVER),
        ({"on_its_way": 0.5}, 0.51, Leave.WAIT),
        ({"paid": 0.25, "on_its_way": 0.5}, 0.25, Leave.GO),
        ({"paid": 1.2}, 0.0, Leave.NEVER),
        ({}, None, Leave.NEVER),
    ],
)
def test_a_budget_covers_what_is_spent_what_is_on_its_way_and_the_request(amounts, most, leave):
    assert budget(1.0, **amounts).ask(most) is leave


@pytest.mark.parametrize(
    ("amounts", "most", "leave"),
    [
        ({"paid": 50.0, "untold": 9.0, "written_off": 9.0}, 1.0, Leave.GO),
        ({"on_its_way": 0.5}, 0.51, Leave.WAIT),
        ({"in_doubt": 0.5}, 0.51, Leave.NEVER),
        ({"in_doubt": 0.5, "on_its_way": 0.25}, 0.25, Leave.GO),
        ({"in_doubt": 0.5, "on_its_way": 0.25}, 0.26, Leave.WAIT),
        ({}, None, Leave.NEVER),
    ],
)
def test_at_risk_is_what_is_on_its_way_and_in_doubt(amounts, most, leave):
    assert budget(None, 1.0, **amounts).ask(most) is leave


def test_of_two_limits_the_narrower_decides():
    assert budget(1.0, 0.5).ask(0.6) is Leave.NEVER
    assert budget(0.5, 1.0).ask(0.6) is Leave.NEVER
    assert budget(1.0, 0.5, on_its_way=0.25).ask(0.3) is Leave.WAIT
    assert budget(1.0, 0.5, paid=0.5).ask(0.5) is Leave.GO


def test_what_is_let_go_is_held_until_it_is_counted_and_no_longer():
    found = budget(1.0)
    found.let_go(7, 0.6)
    assert found.ask(0.5) is Leave.WAIT
    found.money = usd(on_its_way=0.6)
    assert found.counted(7)
    assert found.ask(0.4) is Leave.GO
    assert found.ask(0.5) is Leave.WAIT
    assert not found.counted(7)


def test_a_budget_remembers_the_cheapest_request_it_refused_and_the_first_without_a_price():
    found = budget(1.0)
    found.refuse(3, "dear", 2.0)
    found.refuse(4, "new", None)
    found.refuse(5, "cheaper", 1.5)
    found.refuse(6, "newer", None)
    assert (found.refused, found.least, found.unpriced) == (4, ticks(1.5), (4, "new"))


def test_it_is_enough_after_a_thousand_refusals_in_a_row_or_when_nothing_is_left():
    found = budget(1.0, paid=0.5)
    for row in range(Budget.ENOUGH - 1):
        found.refuse(row, "m", 2.0)
    assert not found.closed
    found.let_go(1, 0.1)
    for row in range(Budget.ENOUGH - 1):
        found.refuse(row, "m", 2.0)
    assert not found.closed
    found.refuse(1, "m", 2.0)
    assert found.closed
    assert budget(1.0, paid=1.0).closed
    assert budget(1.0, in_doubt=1.5).closed
    assert not budget(None, 1.0, in_doubt=1.0).closed


def test_money_is_summed_in_whole_ticks_whatever_the_order():
    assert sum(ticks(0.1) for _ in range(10)) == ticks(1.0)
    assert ticks(None) == 0
