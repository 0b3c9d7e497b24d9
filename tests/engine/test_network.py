"""Scores of pairs of genes: streaming sums against loops over cells and pairs, and attention against Hugging Face's BERT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from scgeneformer.engine import network
from scgeneformer.engine.network._pairs import N_BINS

SOURCES, TARGETS = np.arange(4, 30), np.arange(10, 60)
OPTIONS = {"sources": SOURCES, "targets": TARGETS, "n_special": 4, "device": "cpu", "precision": "float32"}
OPTIONS |= {"token_budget": 100, "progress": False}
RUNS = {
    "attention": {"blocks": [0, 2]},
    "contextual": {"emb_layer": -1},
    "gradient": {"emb_layer": 0},
}


def score(name, encoder, tokens, **options):
    return getattr(network, name)(encoder, tokens, **(OPTIONS | RUNS[name] | options))


def values_of_cell(name, encoder, row, heads=None):
    """Score of each pair of positions of one cell, [source, target], the slow way."""
    row = torch.from_numpy(row[row != 0].astype(np.int64))[None]
    n = row.shape[1]
    if name == "attention":
        theirs = BertModel(BertConfig(**encoder.config.to_hf(), attn_implementation="eager"), add_pooling_layer=False)
        theirs.load_state_dict(of_hf(encoder, theirs))
        weights = theirs.eval()(row, output_attentions=True).attentions
        heads = range(encoder.config.n_heads) if heads is None else heads
        chosen = [weights[block][0, head] for block in (0, 2) for head in heads]
        return n * torch.stack(chosen).mean(0).T.detach().numpy()
    if name == "contextual":
        states = encoder(row, n_layers=2)[0].detach().numpy()
        states /= np.linalg.norm(states, axis=1, keepdims=True)
        return states @ states.T
    x = encoder.embedding(row).detach()

    def states(x):
        for block in encoder.blocks:
            x = block(x, None)
        return x[0]

    jacobian = torch.autograd.functional.jacobian(states, x)[:, :, 0]  # (target, H, source, H)
    return torch.einsum("thsk,sk->sth", jacobian, x[0]).norm(dim=-1).numpy()


def of_hf(encoder, theirs):
    """The encoder's weights under Hugging Face's names, by their order in the two models."""
    names = {
        "embedding.gene": "embeddings.word_embeddings",
        "embedding.position": "embeddings.position_embeddings",
        "embedding.segment": "embeddings.token_type_embeddings",
        "embedding.norm": "embeddings.LayerNorm",
        "blocks": "encoder.layer",
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.up": "intermediate.dense",
        "feed_forward.down": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    state = {}
    for name, value in encoder.state_dict().items():
        for ours, hf in names.items():
            name = name.replace(ours, hf)
        state[name] = value
    return state


def slow(name, encoder, tokens, *, rank_corrected, heads=None):
    """Mean over cells by loops, ranks corrected by an explicit table."""
    cells = []
    for row in tokens:
        values = values_of_cell(name, encoder, row, heads)
        genes = np.flatnonzero(row[: len(values)] >= 4)
        bins = {at: rank * N_BINS // len(genes) for rank, at in enumerate(genes)}
        cells += [(row[i], row[j], bins[i], bins[j], values[i, j]) for i in genes for j in genes if i != j]
    total, n = np.zeros((60, 60)), np.zeros((60, 60))
    by_rank = {}
    for i, _, a, b, value in cells:
        if name != "gradient" or i in SOURCES:
            by_rank.setdefault((a, b), []).append(value)
    for i, j, a, b, value in cells:
        if i in SOURCES:
            total[i, j] += value - (np.mean(by_rank[a, b]) if rank_corrected else 0)
            n[i, j] += 1
    at = np.ix_(SOURCES, TARGETS)
    return np.divide(total[at], n[at], out=np.full(n[at].shape, np.nan), where=n[at] > 0), n[at]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("rank_corrected", [False, True])
def test_streaming_equals_a_loop(small, random_cells, name, rank_corrected):
    expected, n = slow(name, small, random_cells, rank_corrected=rank_corrected)
    found = score(name, small, random_cells, rank_corrected=rank_corrected)
    other = SOURCES[:, None] != TARGETS
    np.testing.assert_array_equal(found.n_cells[other], n[other])
    np.testing.assert_allclose(found.means, expected, rtol=2e-4, atol=2e-5)


def test_chosen_heads(small, random_cells):
    expected, _ = slow("attention", small, random_cells, rank_corrected=False, heads=[1, 3])
    found = score("attention", small, random_cells, heads=[1, 3], rank_corrected=False)
    np.testing.assert_allclose(found.means, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", RUNS)
def test_batches_padding_and_order_do_not_matter(small, random_cells, name):
    together = score(name, small, random_cells, token_budget=10_000, rank_corrected=True)
    padded = np.pad(random_cells, ((0, 0), (0, 2)))[::-1]
    apart = score(name, small, padded, token_budget=1, rank_corrected=True)
    np.testing.assert_array_equal(apart.n_cells, together.n_cells)
    np.testing.assert_allclose(apart.means, together.means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_sums_of_two_halves_are_the_sum_of_the_whole(small, random_cells, name):
    """A cell contributes only to two matrices of pairs."""
    whole, *halves = (
        score(name, small, cells, rank_corrected=False) for cells in (random_cells, random_cells[:5], random_cells[5:])
    )
    np.testing.assert_array_equal(halves[0].n_cells + halves[1].n_cells, whole.n_cells)
    total = sum(np.nan_to_num(half.means) * half.n_cells for half in halves)
    np.testing.assert_allclose(total, np.nan_to_num(whole.means) * whole.n_cells, rtol=1e-4, atol=1e-4)


def test_ranks_that_decide_everything_leave_nothing(small, random_cells, monkeypatch):
    """Where attention depends on ranks alone, the correction removes all of it."""
    from scgeneformer.nn._encoder import Attention

    def by_rank(self, x, mask):
        length = x.shape[1]
        return torch.arange(length).float()[None, None, None].expand(1, self.n_heads, length, length)

    monkeypatch.setattr(Attention, "weights", by_rank)
    same_length = random_cells[random_cells.astype(bool).sum(1) == 26]
    assert len(same_length) == 3
    corrected = score("attention", small, same_length).means
    plain = score("attention", small, same_length, rank_corrected=False).means
    assert np.nanstd(corrected) < 0.1 * np.nanstd(plain)  # ranks of one bin differ a little


def test_token_cosines(small):
    table = small.embedding.gene.weight.detach().numpy()
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    found = network.token(small, sources=SOURCES, targets=TARGETS)
    other = SOURCES[:, None] != TARGETS
    np.testing.assert_allclose(found[other], (table[SOURCES] @ table[TARGETS].T)[other], atol=1e-6)
    assert np.isnan(found[~other]).all()


def test_numbers_that_are_not_finite_are_refused(small, random_cells):
    import copy

    broken = copy.deepcopy(small)
    with torch.no_grad():
        broken.embedding.gene.weight[12] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        score("attention", broken, random_cells)
