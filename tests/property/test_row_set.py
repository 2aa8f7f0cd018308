"""A set of rows in bits is the set that it stands for."""

from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.core.model import RowSet

ROWS = st.integers(0, 2_000)
RANGES = st.tuples(ROWS, st.integers(0, 1_500)).map(lambda found: range(found[0], sum(found)))
PARTS = st.lists(st.one_of(st.sets(ROWS), RANGES), max_size=4)


@given(PARTS, st.lists(RANGES, max_size=10))
def test_rows_added_in_runs_are_those_added_one_by_one(parts, asked):
    runs, single, model = RowSet(), RowSet(), set()
    for part in parts:
        runs.add_all(sorted(part))
        for row in part:
            single.add(row)
        model.update(part)
    assert len(runs) == len(single) == len(model)
    assert [row for row in range(4_000) if row in runs] == sorted(model)
    for found in asked:
        assert runs.holds(found.start, found.stop) == model.issuperset(found)
        assert runs.below(found.stop) == sum(row < found.stop for row in model)
