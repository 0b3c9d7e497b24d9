"""Effects on genes, summed in any order, against a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer.engine.perturb import GeneEffects, _effects

N_WHAT, N_TOKENS = 4, 6
MEASURED = st.lists(
    st.tuples(st.integers(0, N_WHAT - 1), st.integers(0, N_TOKENS - 1), st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0])),
    max_size=30,
)


def add(effects, measured):
    what, affected, cosines = np.array(measured, dtype=float).reshape(-1, 3).T
    effects.add(what.astype(int), affected.astype(int), cosines)


def expected_of(measured):
    of_pair = {}
    for what, affected, cosine in measured:
        of_pair.setdefault((what, affected), []).append(cosine)
    return [(*pair, len(of_pair[pair]), sum(of_pair[pair]), sum(np.square(of_pair[pair]))) for pair in sorted(of_pair)]


def rows_of(effects):
    return list(zip(*(values.tolist() for values in effects.stored().values()), strict=True))


@given(st.lists(MEASURED, max_size=4))
def test_counts_and_sums(batches):
    """Also if cosines cancel: a sum of 0 is stored like any other."""
    effects = GeneEffects(N_WHAT, N_TOKENS)
    for batch in batches:
        add(effects, batch)
    assert rows_of(effects) == expected_of(sum(batches, []))


@given(st.lists(MEASURED, min_size=1, max_size=4))
def test_merging_parts_is_adding_everything(parts):
    total = GeneEffects(N_WHAT, N_TOKENS)
    for part in parts:
        own = GeneEffects(N_WHAT, N_TOKENS)
        add(own, part)
        total.merge(own.stored())
    assert rows_of(total) == expected_of(sum(parts, []))


def test_added_up_on_the_way(monkeypatch):
    """The buffer never exceeds the limit by more than one batch."""
    monkeypatch.setattr(_effects, "_MOST_PENDING", 10)
    effects, measured = GeneEffects(N_WHAT, N_TOKENS), [(i % 3, i % 5, 0.5) for i in range(40)]
    for start in range(0, 40, 4):
        add(effects, measured[start : start + 4])
        assert effects.n_pending <= 10
    assert rows_of(effects) == expected_of(measured)


def test_what_is_stored_can_be_asked_for_twice_and_in_between():
    effects = GeneEffects(N_WHAT, N_TOKENS)
    add(effects, [(1, 2, 0.5)])
    assert rows_of(effects) == rows_of(effects) == [(1, 2, 1, 0.5, 0.25)]
    add(effects, [(1, 2, 1.0), (0, 3, 1.0)])
    assert rows_of(effects) == [(0, 3, 1, 1.0, 1.0), (1, 2, 2, 1.5, 1.25)]
    assert {name: values.dtype.kind for name, values in effects.stored().items()} == {
        "effect_what": "i",
        "effect_on": "i",
        "effect_n": "f",
        "effect_sum": "f",
        "effect_squares": "f",
    }
