"""Estimates against exact values, and their independence of batches, padding and other states."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from scgeneformer import engine
from scgeneformer.engine import _device
from scgeneformer.engine.perturb import Perturbation

from .conftest import as_matrix
from .test_edits import edited_by_hand

STATES = np.random.default_rng(2).normal(size=(3, 16))
KINDS = [("delete", 1), ("overexpress", 1), ("inhibit", 1), ("activate", 2)]
OPTIONS = {"n_special": 4, "device": "cpu"}


def cosines(encoder, row, pooling, n_layers):
    with torch.inference_mode():
        hidden = encoder(torch.from_numpy(np.asarray(row, np.int64))[None], n_layers=n_layers)[0].numpy()
    cell = hidden[0] if pooling == "cls" else hidden[np.asarray(row) >= 4].mean(0)
    return STATES @ cell / np.linalg.norm(STATES, axis=1) / np.linalg.norm(cell)


def exact(encoder, tokens, kind, quartiles, pooling, n_layers=2):
    """Change of the cosines by each perturbation, (n, L, S); NaN if no gene would be left."""
    out = np.full((*tokens.shape, 3), np.nan)
    for i, row in enumerate(tokens):
        row = row[row > 0]
        before = cosines(encoder, row, pooling, n_layers)
        for j, token in enumerate(row):
            edited = edited_by_hand(row, [int(token)], kind, quartiles) if token >= 4 else np.zeros(0)
            if (np.asarray(edited) >= 4).any():
                out[i, j] = cosines(encoder, edited, pooling, n_layers) - before
    return out


@pytest.fixture
def double(small, monkeypatch):
    """The small encoder in double precision, closer to linear: positions differ less."""
    monkeypatch.setitem(_device._PRECISIONS, "float64", torch.float64)

    def scaled(by):
        encoder = copy.deepcopy(small).double()
        with torch.no_grad():
            encoder.embedding.position.weight.mul_(by)
        return encoder

    return scaled


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(("kind", "quartiles"), KINDS)
def test_close_to_exact(double, random_cells, kind, quartiles, pooling):
    encoder = double(0.01)
    long = random_cells[(random_cells > 0).sum(1) > 15]
    expected = exact(encoder, long, kind, quartiles, pooling)
    found = engine.perturb.screen(
        encoder, long, kind, STATES, quartiles=quartiles, pooling=pooling, precision="float64", **OPTIONS
    )
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    there = ~np.isnan(found)
    assert np.corrcoef(found[there], expected[there])[0, 1] > (0.9 if kind == "delete" else 0.99)
    np.testing.assert_array_equal(np.isnan(found[..., 0]), long < 4)


@pytest.mark.parametrize("kind", ["inhibit", "activate"])
def test_moves_by_ranks_are_close_to_exact(double, random_cells, kind):
    encoder, cells = double(0.01), random_cells[(random_cells > 0).sum(1) > 15]
    estimated = engine.perturb.screen(
        encoder, cells, kind, STATES, ranks=5, pooling="mean", precision="float64", **OPTIONS
    )
    edits = engine.perturb.enumerate_edits(
        cells, Perturbation(kind, genes=np.arange(4, encoder.config.vocab_size), ranks=5), n_special=4, max_length=64
    )
    expected = engine.perturb.measure(
        encoder, edits, Perturbation(kind, ranks=5), states=STATES, pooling="mean", precision="float64", **OPTIONS
    )
    rank = np.array(
        [np.flatnonzero(cells[cell] == gene)[0] for cell, gene in zip(edits.cells, edits.what, strict=True)]
    )
    assert np.corrcoef(estimated[edits.cells, rank].ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_tolerance_is_of_moves(double, random_cells, pooling):
    """Deleting the lowest gene moves no other gene, so the tolerance has no effect on it; nor has a tolerance above every error."""
    encoder, tokens = double(1.0), random_cells[[3, 4]]
    strict, wide, wider = (
        engine.perturb.screen(
            encoder, tokens, "delete", STATES, tolerance=by, pooling=pooling, precision="float64", **OPTIONS
        )
        for by in (0.0, 1e6, 1e9)
    )
    np.testing.assert_array_equal(wide, wider)
    lowest = (tokens > 0).sum(1) - 2
    for i, j in enumerate(lowest):
        np.testing.assert_allclose(wide[i, j], strict[i, j], rtol=0, atol=1e-12)
    assert np.nanmax(np.abs(strict - wide)) > 1e-4


def test_sharp_models_take_more_points(double, random_cells):
    """If large differences between positions cause jumps, the curve is computed at the jumps, and estimates stay close."""
    encoder, tokens = double(30.0), random_cells[(random_cells > 0).sum(1) > 25]
    expected = exact(encoder, tokens, "delete", 1, "mean")
    agreement = {}
    for tolerance in (1e9, 0.2):
        found = engine.perturb.screen(
            encoder, tokens, "delete", STATES, tolerance=tolerance, pooling="mean", precision="float64", **OPTIONS
        )
        pairs = [(found[i, row >= 4, s], expected[i, row >= 4, s]) for i, row in enumerate(tokens) for s in range(3)]
        agreement[tolerance] = np.mean([spearmanr(*pair).statistic for pair in pairs])
    assert agreement[0.2] > agreement[1e9] + 0.05


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(("kind", "quartiles"), KINDS)
def test_a_cell_alone_is_a_cell_among_others(double, random_cells, kind, quartiles, pooling):
    encoder = double(1.0)
    call = lambda tokens, **more: engine.perturb.screen(
        encoder, tokens, kind, STATES, quartiles=quartiles, pooling=pooling, precision="float64", **OPTIONS, **more
    )
    together = call(random_cells)
    assert together.shape == (*random_cells.shape, 3)
    assert together.dtype == np.float64
    for budget in (1, 100):
        np.testing.assert_allclose(call(random_cells, token_budget=budget), together, rtol=0, atol=1e-10)
    for i, row in enumerate(random_cells):
        np.testing.assert_allclose(call(row[None, row > 0])[0], together[i, : (row > 0).sum()], rtol=0, atol=1e-10)
    wide = np.pad(random_cells, ((0, 2), (0, 20)))  # columns of padding, and cells without anything
    np.testing.assert_array_equal(np.isnan(call(wide)[12:]), True)
    np.testing.assert_allclose(call(wide)[:12, :40], together, rtol=0, atol=1e-10)
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_allclose(call(random_cells[order]), together[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["delete", "activate"])
def test_every_state_alone_is_the_state_among_others(small, random_cells, kind):
    call = lambda states: engine.perturb.screen(small, random_cells, kind, states, pooling="mean", **OPTIONS)
    together = call(STATES)
    for s in range(3):
        np.testing.assert_allclose(call(STATES[[s]])[..., 0], together[..., s], rtol=0, atol=2e-6)
    np.testing.assert_allclose(call(7 * STATES.astype(np.float32)), together, rtol=0, atol=2e-6)


def test_float32_is_close(double, small, random_cells):
    wide = engine.perturb.screen(
        double(1.0), random_cells, "delete", STATES, pooling="cls", precision="float64", **OPTIONS
    )
    found = engine.perturb.screen(small, random_cells, "delete", STATES, pooling="cls", precision="float32", **OPTIONS)
    np.testing.assert_allclose(found, wide, rtol=0, atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_layers(double, random_cells, n_layers, pooling):
    encoder, cell = double(0.01), random_cells[[4]]
    found = engine.perturb.screen(
        encoder, cell, "delete", STATES, emb_layer=n_layers - 3, pooling=pooling, precision="float64", **OPTIONS
    )
    expected = exact(encoder, cell, "delete", 1, pooling, n_layers)
    there = ~np.isnan(found)
    assert np.corrcoef(found[there], expected[there])[0, 1] > 0.85


@pytest.mark.parametrize(("kind", "quartiles"), KINDS)
@pytest.mark.parametrize("special", [True, False])
def test_cells_of_few_genes(small, kind, quartiles, special):
    genes = [[9], [9, 30], [9, 30, 5], [7, 8, 9, 10]]
    tokens = as_matrix([np.array([2, *g, 3] if special else g) for g in genes])
    for pooling in ("mean", "cls") if special else ("mean",):
        found = engine.perturb.screen(small, tokens, kind, STATES, quartiles=quartiles, pooling=pooling, **OPTIONS)
        np.testing.assert_array_equal(np.isfinite(found).all(-1), tokens >= 4)
    if kind == "overexpress":
        np.testing.assert_array_equal(found[:, int(special)], 0)  # is at the top already


def test_without_special_tokens(double, random_cells):
    encoder = double(0.01)
    tokens = as_matrix([row[row >= 4] for row in random_cells[[0, 3, 4]]])
    for kind, quartiles in KINDS:
        expected = exact(encoder, tokens, kind, quartiles, "mean")
        found = engine.perturb.screen(
            encoder, tokens, kind, STATES, quartiles=quartiles, pooling="mean", precision="float64", **OPTIONS
        )
        there = ~np.isnan(found)
        assert np.corrcoef(found[there], expected[there])[0, 1] > (0.85 if kind == "delete" else 0.99)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_genes_that_come_in(double, random_cells, pooling, special):
    """In a cell that fills all positions the lowest gene is dropped, before and after, in every batch."""
    if pooling == "cls" and not special:
        return
    encoder = double(0.1)
    rows = [row[row > 0] if special else row[row >= 4] for row in random_cells]
    if not special:
        rows[0] = np.r_[rows[0], [t for t in range(4, 60) if t not in rows[0]][:2]].astype(np.uint16)
    tokens = as_matrix(rows)
    assert tokens.shape[1] == encoder.config.max_length
    genes = np.arange(4, 60, 3)
    call = lambda tokens, **more: engine.perturb.screen_absent(
        encoder, tokens, genes, STATES, pooling=pooling, precision="float64", **OPTIONS, **more
    )
    found = call(tokens)
    assert found.shape == (12, len(genes), 3)
    assert found.dtype == np.float32
    held = np.stack([np.isin(genes, row) for row in tokens])
    np.testing.assert_array_equal(np.isnan(found).all(-1), held)
    np.testing.assert_allclose(call(tokens, token_budget=1), found, rtol=0, atol=1e-6)
    np.testing.assert_allclose(call(tokens[3:]), found[3:], rtol=0, atol=1e-6)
    expected = np.full(found.shape, np.nan)
    for i, row in enumerate(rows):
        if len(row) == encoder.config.max_length:
            row = np.delete(row, np.flatnonzero(row >= 4)[-1])
        before = cosines(encoder, row, pooling, 2)
        for j in np.flatnonzero(~held[i]):
            put_in = np.r_[row[: int(special)], genes[j], row[int(special) :]]
            expected[i, j] = cosines(encoder, put_in, pooling, 2) - before
    long = (tokens > 0).sum(1) > 15
    for some in (long, np.arange(12) == 0):
        there = ~np.isnan(expected) & some[:, None, None]
        assert np.corrcoef(found[there], expected[there])[0, 1] > 0.8


@pytest.mark.parametrize("kind", ["delete", "activate"])
def test_where_positions_are_nothing_moves_are_nothing(double, random_cells, kind):
    found = engine.perturb.screen(
        double(0.0), random_cells, kind, STATES, pooling="mean", precision="float64", **OPTIONS
    )
    if kind == "activate":
        np.testing.assert_allclose(found[~np.isnan(found)], 0, atol=1e-12)
    else:
        assert np.nanmax(np.abs(found)) > 1e-2


def test_the_encoder_is_left_as_it_was(small, random_cells):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    small.train()
    engine.perturb.screen(small, random_cells, "delete", STATES, pooling="cls", **OPTIONS)
    assert small.training
    small.eval()
    assert all(p.grad is None and p.requires_grad for p in small.parameters())
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


def test_one_pass_for_a_plan(small, random_cells):
    """The runner gives what `screen` and `screen_absent` give."""
    perturbation = Perturbation("overexpress", genes=np.arange(4, 60, 5), absent=True)
    options = {"pooling": "cls", "n_special": 4, "device": "cpu", "precision": "float32"}
    found = engine.perturb.run(small, random_cells, perturbation, states=STATES, method="screen", **options)
    own = engine.perturb.screen(small, random_cells, "overexpress", STATES, **options)
    new = engine.perturb.screen_absent(small, random_cells, perturbation.genes, STATES, **options)
    for cell, what, values in zip(found.cells, found.what, found.values, strict=True):
        at = np.flatnonzero(random_cells[cell] == what)
        expected = own[cell, at[0]] if len(at) else new[cell, np.searchsorted(perturbation.genes, what)]
        np.testing.assert_allclose(values, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_embedding_layer(small, random_cells, pooling):
    found = engine.perturb.screen(small, random_cells, "delete", STATES, pooling=pooling, emb_layer=-3, **OPTIONS)
    assert np.isfinite(found[random_cells >= 4]).all()
    if pooling == "cls":
        np.testing.assert_allclose(found[random_cells >= 4], 0, atol=1e-6)  # <cls> has seen no gene yet


def in_place(encoder, tokens, pooling, n_layers=2):
    """Change of the cosines by each deletion that keeps positions: no token attends to the gene, and it is not in the mean; (n, L, S)."""
    out = np.full((*tokens.shape, 3), np.nan)
    for i, row in enumerate(tokens):
        row = row[row > 0]
        before = cosines(encoder, row, pooling, n_layers)
        for j in np.flatnonzero(row >= 4):
            left = np.arange(len(row)) != j
            with torch.inference_mode():
                tokens_of_cell, keys = (torch.from_numpy(x)[None] for x in (row.astype(np.int64), left))
                hidden = encoder(tokens_of_cell, keys, n_layers=n_layers)[0].numpy()
            cell = hidden[0] if pooling == "cls" else hidden[left & (row >= 4)].mean(0)
            out[i, j] = STATES @ cell / np.linalg.norm(STATES, axis=1) / np.linalg.norm(cell) - before
    return out


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_positions_kept_are_close_to_exact_within_each_cell(double, random_cells, n_layers, pooling, special):
    """Cells that fill all positions, and shorter ones."""
    if pooling == "cls" and not special:
        return
    encoder = double(1.0)
    rows = [row[row > 0] if special else row[row >= 4] for row in random_cells[[0, 4, 8, 3]]]
    tokens = as_matrix(rows)
    expected = in_place(encoder, tokens, pooling, n_layers)
    found = engine.perturb.screen(
        encoder,
        tokens,
        "delete",
        STATES,
        positions="kept",
        pooling=pooling,
        emb_layer=n_layers - 3,
        precision="float64",
        **OPTIONS,
    )
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    for row, estimated, exactly in zip(tokens, found, expected, strict=True):
        for state in range(3):
            rho = spearmanr(estimated[row >= 4, state], exactly[row >= 4, state]).statistic
            assert rho > (0.9 if row[-1] else 0.7)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_positions_kept_in_any_batch(double, random_cells, pooling):
    encoder = double(1.0)
    call = lambda tokens, **more: engine.perturb.screen(
        encoder, tokens, "delete", STATES, positions="kept", pooling=pooling, precision="float64", **OPTIONS, **more
    )
    together = call(random_cells)
    assert np.isfinite(together[random_cells >= 4]).all()
    for budget in (1, 100):
        np.testing.assert_allclose(call(random_cells, token_budget=budget), together, rtol=0, atol=1e-10)
    for i, row in enumerate(random_cells):
        np.testing.assert_allclose(call(row[None, row > 0])[0], together[i, : (row > 0).sum()], rtol=0, atol=1e-10)


def test_axes_are_further_states_without_further_ranks(double, random_cells):
    """With a tolerance above every error no ranks are added for any state, so that axes are states; states never depend on axes."""
    encoder, axes = double(1.0), 3 * np.random.default_rng(4).normal(size=(5, 16))

    def estimates(states, tolerance, **further):
        options = {"pooling": "mean", "precision": "float64", "tolerance": tolerance, **further, **OPTIONS}
        return engine.perturb.screen(encoder, random_cells, "delete", states, **options)

    both = np.vstack([STATES, axes])
    np.testing.assert_allclose(estimates(STATES, 1e9, axes=axes), estimates(both, 1e9), rtol=0, atol=1e-12)
    sharp = estimates(STATES, 0.01, axes=axes)
    np.testing.assert_allclose(sharp[..., :3], estimates(STATES, 0.01), rtol=0, atol=1e-12)
    np.testing.assert_allclose(sharp[..., 3:], estimates(both, 1e9)[..., 3:], rtol=0, atol=1e-12)


def test_movements_are_estimated_along_axes_only(small, random_cells):
    perturbation = Perturbation("delete", genes=np.arange(4, small.config.vocab_size))
    options = {"states": STATES, "method": "screen", "directions": True, "pooling": "mean", **OPTIONS}
    with pytest.raises(ValueError, match="movements along `axes`"):
        engine.perturb.run(small, random_cells, perturbation, **options)
