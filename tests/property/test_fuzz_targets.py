"""The targets of fuzzing, briefly: their seeds, what once broke them, and small changes of both.

The long way is `tox run -e fuzz -- --seconds 600`.
"""

import time
from pathlib import Path

import pytest
from fuzzing import damaging, targets
from fuzzing.seeds import SEEDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
TARGETS = targets.TARGETS | damaging.TARGETS
SLOWEST_S = 20.0


def known(name):
    return [*SEEDS[name], *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


def changed(seed, changes):
    """Return a seed after some changes: (where, how many bytes go, which come)."""
    data = bytearray(seed)
    for where, gone, come in changes:
        at = where % (len(data) + 1)
        data[at : at + gone] = come
    return bytes(data)


changes = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 6), st.binary(max_size=6)), min_size=1, max_size=5)


def test_every_target_has_seeds():
    assert set(SEEDS) == set(TARGETS)
    assert {path.name for path in CORPUS.glob("[!.]*")} <= set(TARGETS)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_known_input_breaks_a_promise_or_takes_long(name):
    for seed in known(name):
        began = time.monotonic()
        TARGETS[name](seed)
        assert time.monotonic() - began < SLOWEST_S, seed[:80]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_change_of_a_known_input_breaks_a_promise(name):
    short = [seed for seed in known(name) if len(seed) < 5_000]

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(short), changes)
    def try_one(seed, edits):
        TARGETS[name](changed(seed, edits))

    try_one()
