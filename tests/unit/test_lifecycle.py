"""The table of what may happen, and the page that draws it."""

import re
from pathlib import Path

import pytest

from bulkgrok.core import lifecycle
from bulkgrok.core.lifecycle import ARCS, RECOVERY, TERMINAL, Change, State, after
from bulkgrok.core.model import Entry

PAGE = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text("utf-8")
DIAGRAM = re.search(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)[1]
CHANGES = Change.__args__


def drawn():
    """The arcs of the diagram as (change, from, to)."""
    arcs = set()
    for source, target, names in re.findall(r"^ +(\w+) --> (\w+): (.+)$", DIAGRAM, re.MULTILINE):
        arcs |= {(name, source, target) for name in names.split(", ")}
    return arcs


def tabled():
    return {
        (change.__name__, source.name.lower(), target.name.lower())
        for change, arcs in ARCS.items()
        for source, target in arcs
    }


def test_the_diagram_draws_the_table():
    assert drawn() == tabled()


def test_the_diagram_begins_where_rows_begin_and_ends_where_they_end():
    assert re.findall(r"\[\*\] --> (\w+)", DIAGRAM) == ["pending"]
    ends = re.findall(r"(\w+) --> \[\*\]", DIAGRAM)
    assert set(ends) == {state.name.lower() for state in TERMINAL}


def test_every_change_has_its_arcs_and_nothing_else_has():
    assert set(ARCS) == set(CHANGES)
    assert all(ARCS.values())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_leads_from_one_state_to_one_state(change):
    sources = [source for source, _ in ARCS[change]]
    assert len(sources) == len(set(sources))
    for state in State:
        if state in sources:
            assert (state, after(state, change)) in ARCS[change]
        else:
            with pytest.raises(ValueError, match=f"{change.__name__} is not allowed in state {state.name.lower()}"):
                after(state, change)


def test_success_is_never_left():
    assert State.SUCCEEDED not in {source for arcs in ARCS.values() for source, _ in arcs}


def test_every_state_that_is_no_end_has_one_rule_for_recovery():
    assert set(RECOVERY) == set(State) - TERMINAL


def test_every_state_can_be_reached_and_every_unfinished_one_left():
    reached, arcs = {State.PENDING}, [arc for arcs in ARCS.values() for arc in arcs]
    for _ in State:
        reached |= {target for source, target in arcs if source in reached}
    assert reached == set(State)
    assert {source for source, _ in arcs} >= set(State) - TERMINAL


def test_the_numbers_of_states_are_stored_and_stay():
    assert {state.name: state.value for state in State} == {
        "PENDING": 0,
        "SUBMITTING": 1,
        "ACCEPTED": 2,
        "REDEEMED": 3,
        "SUCCEEDED": 4,
        "FAILED": 5,
    }


@pytest.mark.parametrize("state", State, ids=lambda state: state.name.lower())
def test_the_page_explains_every_state(state):
    assert re.search(rf"^\| {state.name.lower()} \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_page_explains_every_change(change):
    assert re.search(rf"^\| {change.__name__} \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("entry", Entry, ids=str)
def test_the_page_names_every_entry_of_the_ledger(entry):
    assert f"*{entry.value}*" in PAGE


def test_all_changes_of_the_module_are_in_the_union():
    defined = {
        value
        for value in vars(lifecycle).values()
        if isinstance(value, type) and value.__module__ == lifecycle.__name__ and hasattr(value, "__dataclass_fields__")
    }
    assert defined == set(CHANGES)
