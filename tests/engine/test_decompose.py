"""The three parts of a deletion against loops over cells and genes."""

from __future__ import annotations

import numpy as np
import pytest

from scgeneformer import engine
from scgeneformer.engine.perturb import Perturbation
from scgeneformer.engine.perturb._decompose import decompose_shifts

from .conftest import as_matrix
from .test_measure import GENES, N_SPECIAL, OPTIONS, STATES, by_hand, cosine, enumerate_of, state

DELETE, IN_PLACE = Perturbation("delete", genes=GENES), Perturbation("delete", positions="kept", genes=GENES)


def decomposed(encoder, tokens, pooling, **options):
    """Edits, shifts (P, S), and own, network and renumbering (P, S) each."""
    edits, given = enumerate_of(tokens, DELETE), {"pooling": pooling, "states": STATES, **OPTIONS, **options}
    shifts = engine.perturb.measure(encoder, edits, DELETE, **given)
    parts = decompose_shifts(encoder, edits, DELETE, shifts, **given)
    return edits, shifts, np.split(parts, 3, axis=1)


@pytest.mark.parametrize("special", [True, False], ids=["V2", "V1"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_parts_are_loops_and_add_up(small, random_cells, pooling, special):
    if pooling == "cls" and not special:
        return
    cells = random_cells[[1, 4, 5, 6, 11]]
    tokens = cells if special else as_matrix([row[row >= N_SPECIAL] for row in cells])
    edits, shifts, (own, network, renumbering) = decomposed(small, tokens, pooling)
    np.testing.assert_allclose(own + network + renumbering, shifts, rtol=0, atol=1e-12)
    for p, (cell, gene) in enumerate(zip(edits.cells, edits.what, strict=True)):
        row = tokens[cell][tokens[cell] > 0]
        renumbered, kept = (by_hand(small, row, [gene], edit, pooling, STATES)[0] for edit in (DELETE, IN_PLACE))
        vectors = state(small, row)[row >= N_SPECIAL]
        without = vectors[row[row >= N_SPECIAL] != gene].mean(0)
        of_vector = cosine(without, STATES) - cosine(vectors.mean(0), STATES) if pooling == "mean" else 0 * STATES[:, 0]
        np.testing.assert_allclose(own[p], of_vector, rtol=0, atol=1e-6)
        np.testing.assert_allclose(network[p], kept - of_vector, rtol=0, atol=3e-6)
        np.testing.assert_allclose(renumbering[p], renumbered - kept, rtol=0, atol=4e-6)


@pytest.mark.parametrize("layer", [0, -3])
def test_layers(small, random_cells, layer):
    """At the embedding layer no token has attended to another, so the network part is zero."""
    _, shifts, parts = decomposed(small, random_cells[:3], "mean", emb_layer=layer)
    np.testing.assert_allclose(sum(parts), shifts, rtol=0, atol=1e-12)
    assert (np.abs(parts[1]).max() < 1e-6) == (layer == -3)
    assert all(np.abs(part).max() > 1e-3 for part in (parts[0], parts[2]))


def test_batches_do_not_matter(small, random_cells):
    expected = decomposed(small, random_cells, "mean")[2]
    for token_budget in (1, 150):
        for ours, theirs in zip(
            decomposed(small, random_cells, "mean", token_budget=token_budget)[2], expected, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6)
