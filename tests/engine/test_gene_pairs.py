"""Where pairs of genes are in cells, and the mean features of their states, against one cell at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgeneformer import engine, nn

CONFIG = nn.EncoderConfig(vocab_size=30, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=24)


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    tokens = np.zeros((15, 20), dtype=np.uint16)
    for row in tokens[:-1]:  # the last has no tokens
        genes = 4 + rng.permutation(12)[: rng.integers(5, 11)]
        row[: len(genes) + 2] = [2, *genes, 3]
    return tokens


PAIRS = np.array([[4, 5], [5, 4], [9, 12], [6, 14], [4, 29]])  # 29 is in no cell


def one_by_one(network, cells, pair):
    """Features of a pair in each cell that has both genes."""
    for row in cells.astype(np.int64):
        genes = row[row > 0]
        if np.isin(pair, genes).all():
            a, b = (int(np.flatnonzero(genes == gene)[0]) for gene in pair)
            with torch.no_grad():
                states = network.encoder(torch.from_numpy(genes)[None])[0]
            yield nn.pair_features(states[a], states[b], directed=network.directed).numpy()


@pytest.mark.parametrize("directed", [False, True])
def test_features_are_means_over_the_cells_with_both_genes(cells, directed):
    torch.manual_seed(0)
    network = nn.PairClassifier(CONFIG, 2, directed=directed).eval()
    read = engine.pair_features(network, cells, PAIRS, precision="float32", token_budget=25)
    rows, n_cells = engine.count_pairs(cells, PAIRS, 30)
    np.testing.assert_array_equal(read.n_cells, n_cells)
    used = np.zeros(len(cells), dtype=bool)
    for pair, features, n in zip(PAIRS, read.features, n_cells, strict=True):
        expected = list(one_by_one(network, cells, pair))
        used |= np.isin(cells, pair).sum(1) == 2
        assert n == len(expected)
        if n:
            np.testing.assert_allclose(features, np.mean(expected, axis=0), atol=1e-5)
        else:
            assert np.isnan(features).all()
    assert n_cells[-1] == 0 < n_cells[0]
    np.testing.assert_array_equal(rows, used)
    turned = read.features[:2]
    assert np.allclose(turned[0], turned[1]) != directed


def test_what_is_found_in_rows_are_the_genes_of_the_pairs(cells):
    row, source, target, pair = engine.find_pairs(cells, PAIRS, 30).T
    np.testing.assert_array_equal(np.column_stack([cells[row, source], cells[row, target]]), PAIRS[pair])
    assert len(row) == engine.count_pairs(cells, PAIRS, 30)[1].sum()
