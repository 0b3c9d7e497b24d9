"""Curves are fitted through as many exact points as needed, separately for each cell and state."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer.engine.perturb._curves import MOST_POINTS, Curves

FIRST = 1


def make(rng, n_cells, length, n_states, sharpness):
    """Exact curves with a jump each, and estimates that miss them by a jump."""
    at = np.arange(length)[None, :, None]
    jump = 1 / (1 + np.exp(-sharpness * (at - rng.uniform(1, length, (n_cells, 1, n_states)))))
    exact = rng.normal(size=(n_cells, 1, n_states)) * jump + np.sin(at / length)
    return exact, np.broadcast_to(np.sin(at / length), exact.shape).copy()


def drawn(exact, estimated, n_genes, allowed):
    computed = []

    def look_up(cells, ranks):
        computed.extend(zip(cells.tolist(), ranks.tolist(), strict=True))
        return exact[cells, ranks]

    curves = Curves(estimated, FIRST, n_genes)
    curves.compute(curves.start(), look_up)
    curves.refine(look_up, np.broadcast_to(allowed, (len(exact), exact.shape[2])))
    assert len(set(computed)) == len(computed)  # nothing twice
    return curves, computed


@given(
    st.integers(0, 10_000), st.integers(1, 3), st.integers(3, 60), st.integers(1, 3), st.sampled_from([0.1, 1.0, 30.0])
)
@settings(max_examples=30, deadline=None)
def test_points_are_exact_and_the_rest_is_between_them(seed, n_cells, length, n_states, sharpness):
    rng = np.random.default_rng(seed)
    exact, estimated = make(rng, n_cells, length, n_states, sharpness)
    n_genes = rng.integers(0, length - FIRST, n_cells)
    curves, computed = drawn(exact, estimated, n_genes, 0.1)
    found = curves.drawn()
    for c, n in enumerate(n_genes):
        for s, points in enumerate(curves.points[c]):
            assert points == sorted(set(points))
            assert len(points) <= MOST_POINTS + length  # a round may go beyond, the next one does not begin
            np.testing.assert_allclose(found[c, points, s], exact[c, points, s], atol=1e-12)
            assert {FIRST, FIRST + max(n - 1, 0)} <= set(points)
    for s in range(n_states):
        alone, _ = drawn(exact[..., s : s + 1], estimated[..., s : s + 1], n_genes, 0.1)
        np.testing.assert_allclose(alone.drawn()[..., 0], found[..., s], atol=1e-12)
    together = {(c, rank) for c, rank in computed}
    assert len(together) <= sum(len({r for points in of_cell for r in points}) for of_cell in curves.points)


def test_jumps_are_found():
    rng = np.random.default_rng(1)
    exact, estimated = make(rng, 4, 200, 2, 30.0)
    n_genes = np.full(4, 199)
    few, _ = drawn(exact, estimated, n_genes, np.inf)
    many, computed = drawn(exact, estimated, n_genes, 0.02)
    miss = lambda curves: np.abs(curves.drawn() - exact)[:, FIRST:].mean()
    assert miss(many) < miss(few) / 10
    assert len(computed) < 4 * 2 * 25  # of 200 ranks each


def test_smooth_curves_need_five():
    exact, estimated = make(np.random.default_rng(0), 3, 100, 2, 1e-3)
    assert len(drawn(exact, estimated, np.full(3, 99), 0.05)[1]) == 3 * 5
