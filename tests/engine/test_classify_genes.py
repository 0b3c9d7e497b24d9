from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scgeneformer import engine, nn

V, N_CLASSES = 30, 3


@pytest.fixture(scope="module", params=["bert", "linear"])
def network(request):
    torch.manual_seed(0)
    config = nn.EncoderConfig(
        vocab_size=V, n_layers=2, width=16, n_heads=2, feed_forward=24, max_length=24, dropout=0.5
    )
    made = nn.GeneClassifier(config, N_CLASSES, request.param).train()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    if request.param == "linear":
        made.standardise.mean.copy_(torch.randn(16))
        made.standardise.sd.copy_(torch.rand(16) + 0.5)
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


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


def by_hand(network, tokens, wanted):
    """Scores of one gene in one cell at a time."""
    network.eval()
    found = []
    with torch.no_grad():
        for i, row in enumerate(tokens.astype(np.int64)):
            cell = torch.from_numpy(row[row != 0])[None]
            if cell.shape[1] == 0:
                continue
            scores = network(cell)[0].double().numpy()
            found += [(i, j, token, scores[j]) for j, token in enumerate(cell[0].tolist()) if wanted[token]]
    return found


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_means_over_cells_are_those_of_single_passes(network, tokens, wanted, temperature):
    """Means of scores, from which probabilities follow, or of the probabilities of a head like BERT's, which has no temperature."""
    found = engine.classify_genes(
        network, tokens, wanted=wanted, occurrences=True, temperature=temperature, device="cpu"
    )
    expected = by_hand(network, tokens, wanted)
    for token in range(V):
        own = np.array([scores for _, _, other, scores in expected if other == token])
        assert found.n_cells[token] == len(own)
        if not len(own):
            assert np.isnan(found.proba[token]).all()
            continue
        linear = network.head == "linear"
        means = np.mean(own if linear else softmax(own), axis=0)
        np.testing.assert_allclose(found.means[token], means, atol=2e-6)
        proba = softmax(means / temperature) if linear else means
        np.testing.assert_allclose(found.proba[token], proba, atol=1e-6)
    assert list(zip(found.rows, found.positions, strict=True)) == [(i, j) for i, j, _, _ in expected]
    of_each = softmax(np.array([scores for *_, scores in expected]) / temperature)
    np.testing.assert_allclose(found.occurrences, of_each, atol=1e-6)
    assert found.states.shape == (0, 16)


def test_mean_scores_are_those_of_mean_states(network, tokens, wanted):
    found = engine.classify_genes(network, tokens, wanted=wanted, states=True, device="cpu")
    expected = engine.embed(
        network.encoder, tokens, pooling="mean", n_special=4, emb_layer=0, genes=True, device="cpu"
    ).genes
    occurs = found.n_cells > 0
    np.testing.assert_allclose(found.states[occurs], expected[occurs], atol=1e-5)
    assert np.isnan(found.states[~occurs]).all()
    if network.head == "linear":
        with torch.no_grad():
            scores = network.eval().scores(torch.from_numpy(found.states[occurs]).float()).numpy()
        np.testing.assert_allclose(found.means[occurs], scores, atol=1e-5)


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
