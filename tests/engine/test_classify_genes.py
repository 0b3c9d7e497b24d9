from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scgeneformer import engine, nn

V, N_CLASSES = 30, 3


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = nn.EncoderConfig(
        vocab_size=V, n_layers=2, width=16, n_heads=2, feed_forward=24, max_length=24, dropout=0.5
    )
    made = nn.GeneClassifier(config, N_CLASSES).train()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


@pytest.fixture(scope="module")
def tokens():
    """Cells of several lengths, one of them empty."""
    rng = np.random.default_rng(0)
    rows = np.zeros((17, 24), dtype=np.uint16)
    for i, row in enumerate(rows[1:]):
        genes = rng.permutation(np.arange(4, V))[: 1 + i]
        row[: len(genes) + 2] = [2, *genes, 3]
    return rows


@pytest.fixture(scope="module")
def wanted():
    there = np.zeros(V, dtype=bool)
    there[[4, 9, 11, 20, 29]] = True
    return there


def by_hand(network, tokens, wanted):
    """One cell at a time, one gene at a time."""
    network.eval()
    found = []
    with torch.no_grad():
        for i, row in enumerate(tokens.astype(np.int64)):
            cell = torch.from_numpy(row[row != 0])[None]
            if cell.shape[1] == 0:
                continue
            proba = network(cell)[0].softmax(-1).numpy()
            found += [(i, j, token, proba[j]) for j, token in enumerate(cell[0].tolist()) if wanted[token]]
    return found


def test_means_over_cells_are_those_of_single_passes(network, tokens, wanted):
    found = engine.classify_genes(network, tokens, wanted=wanted, occurrences=True, device="cpu")
    expected = by_hand(network, tokens, wanted)
    for token in range(V):
        own = [proba for _, _, other, proba in expected if other == token]
        assert found.n_cells[token] == len(own)
        if own:
            np.testing.assert_allclose(found.proba[token], np.mean(own, axis=0), atol=1e-6)
        else:
            assert np.isnan(found.proba[token]).all()
    assert list(zip(found.rows, found.positions, strict=True)) == [(i, j) for i, j, _, _ in expected]
    np.testing.assert_allclose(found.occurrences, [proba for *_, proba in expected], atol=1e-6)


@pytest.mark.parametrize("token_budget", [1, 30, 47, 10_000])  # the official tool loses a cell that is left over
def test_batches_padding_and_order_do_not_matter(network, tokens, wanted, token_budget):
    expected = engine.classify_genes(network, tokens, wanted=wanted, device="cpu")
    order = np.random.default_rng(1).permutation(len(tokens))
    wide = np.pad(tokens, ((0, 0), (0, 40)))[order]
    found = engine.classify_genes(network, wide, wanted=wanted, device="cpu", token_budget=token_budget)
    np.testing.assert_array_equal(found.n_cells, expected.n_cells)
    np.testing.assert_allclose(found.proba, expected.proba, atol=1e-6)


def test_the_network_stays_as_it_was(network, tokens, wanted):
    network.train()
    engine.classify_genes(network, tokens, wanted=wanted, device="cpu", precision="bfloat16")
    assert network.training
    assert next(network.parameters()).dtype == torch.float32


def test_cells_without_wanted_genes_are_not_computed(network, tokens, monkeypatch):
    seen = []
    forward = nn.Encoder.forward
    monkeypatch.setattr(
        nn.Encoder, "forward", lambda self, t, *a, **k: seen.append(len(t)) or forward(self, t, *a, **k)
    )
    wanted = np.zeros(V, dtype=bool)
    wanted[5] = True
    found = engine.classify_genes(network, tokens, wanted=wanted, device="cpu")
    assert sum(seen) == found.n_cells[5] == (tokens == 5).sum()


def test_nothing_to_classify(network, tokens):
    found = engine.classify_genes(network, tokens, wanted=np.zeros(V, dtype=bool), occurrences=True, device="cpu")
    assert np.isnan(found.proba).all()
    assert found.occurrences.shape == (0, N_CLASSES)
    none = engine.classify_genes(network, tokens[:0], wanted=np.ones(V, dtype=bool), device="cpu")
    assert none.n_cells.sum() == 0


@given(
    arrays(np.uint16, st.tuples(st.integers(0, 7), st.integers(1, 9)), elements=st.integers(0, 11)),
    st.integers(0, 2**12 - 1),
)
def test_tokens_are_found_and_counted(matrix, bits):
    wanted = np.array([bits >> i & 1 for i in range(12)], dtype=bool)
    np.testing.assert_array_equal(engine.rows_with(matrix, wanted), [any(wanted[row]) for row in matrix])
    np.testing.assert_array_equal(engine.count_tokens(matrix, 12), [(matrix == token).sum() for token in range(12)])
