"""Embeddings depend on the cell alone, and a lack of memory is handled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgeneformer import engine

OPTIONS = {"n_special": 4, "device": "cpu", "precision": "float32"}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("emb_layer", [0, -1, -3])
def test_equals_one_cell_at_a_time(small, random_cells, pooling, emb_layer):
    found = engine.embed(small, random_cells, pooling=pooling, emb_layer=emb_layer, **OPTIONS).cells
    for row, ours in zip(random_cells, found, strict=True):
        tokens = torch.from_numpy(row[row != 0].astype(np.int64))[None]
        with torch.inference_mode():
            hidden = small(tokens, n_layers=3 + emb_layer)[0]
        expected = hidden[0] if pooling == "cls" else hidden[1:-1].mean(0)
        np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 64, 10_000])
@pytest.mark.parametrize("more_padding", [0, 2])
def test_does_not_depend_on_batches_padding_or_order(small, random_cells, token_budget, more_padding):
    expected = engine.embed(small, random_cells, pooling="mean", genes=True, **OPTIONS)
    order = np.random.default_rng(1).permutation(len(random_cells))
    wide = np.pad(random_cells, ((0, 0), (0, more_padding)))[order]
    found = engine.embed(small, wide, pooling="mean", genes=True, token_budget=token_budget, **OPTIONS)
    np.testing.assert_allclose(found.cells, expected.cells[order], atol=1e-5)
    np.testing.assert_allclose(found.genes, expected.genes, atol=1e-5)
    np.testing.assert_array_equal(found.n_cells, expected.n_cells)


def test_genes_are_means_over_the_cells_that_hold_them(small, random_cells):
    found = engine.embed(small, random_cells, pooling="cls", genes=True, **OPTIONS)
    sums, counts = np.zeros((60, 16)), np.zeros(60, dtype=int)
    for row in random_cells:
        tokens = row[row != 0].astype(np.int64)
        with torch.inference_mode():
            hidden = small(torch.from_numpy(tokens)[None], n_layers=2)[0].numpy()
        for token, state in zip(tokens[1:-1], hidden[1:-1], strict=True):
            sums[token] += state
            counts[token] += 1
    np.testing.assert_array_equal(found.n_cells, counts)
    there = counts > 0
    np.testing.assert_allclose(found.genes[there], sums[there] / counts[there, None], atol=1e-5)
    assert np.isnan(found.genes[~there]).all()


def test_a_cell_without_genes_has_no_mean(small):
    tokens = np.array([[2, 3, 0, 0], [2, 9, 3, 0], [0, 0, 0, 0]], dtype=np.uint16)
    cells = engine.embed(small, tokens, pooling="mean", **OPTIONS).cells
    np.testing.assert_array_equal(np.isnan(cells).all(1), [True, False, True])


def test_bfloat16_is_close_and_leaves_the_encoder_alone(small, random_cells):
    exact = engine.embed(small, random_cells, pooling="mean", **OPTIONS).cells
    rough = engine.embed(small, random_cells, pooling="mean", **OPTIONS | {"precision": "bfloat16"}).cells
    assert next(small.parameters()).dtype == torch.float32
    assert 0 < np.abs(rough - exact).max() < 0.1


class Stingy(torch.nn.Module):
    """An encoder whose device has room for `room` tokens."""

    def __init__(self, encoder, room, error):
        super().__init__()
        self.encoder, self.config, self.room, self.error = encoder, encoder.config, room, error
        self.calls = []

    def forward(self, tokens, *args, **kwargs):
        self.calls.append(tokens.numel())
        if tokens.numel() > self.room:
            raise self.error
        return self.encoder(tokens, *args, **kwargs)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("MPS backend out of memory")]
)
def test_halves_and_retries_when_memory_runs_out(small, random_cells, error):
    stingy = Stingy(small, 80, error).eval()
    found = engine.embed(stingy, random_cells, pooling="mean", token_budget=400, **OPTIONS).cells
    np.testing.assert_allclose(found, engine.embed(small, random_cells, pooling="mean", **OPTIONS).cells, atol=1e-5)
    first_fit = next(i for i, n in enumerate(stingy.calls) if n <= 80)
    assert max(stingy.calls[first_fit:]) <= 80, "the smaller budget is kept"


def test_gives_up_when_one_cell_does_not_fit_and_on_other_errors(small, random_cells):
    with pytest.raises(MemoryError):
        engine.embed(Stingy(small, 10, MemoryError()).eval(), random_cells, pooling="mean", **OPTIONS)
    with pytest.raises(RuntimeError, match="something else"):
        engine.embed(Stingy(small, 10, RuntimeError("something else")).eval(), random_cells, pooling="mean", **OPTIONS)


def test_bad_requests_are_refused(small, random_cells):
    with pytest.raises(ValueError, match="pooling='max'"):
        engine.embed(small, random_cells, pooling="max", **OPTIONS)
    with pytest.raises(ValueError, match="emb_layer=1"):
        engine.embed(small, random_cells, pooling="mean", emb_layer=1, **OPTIONS)
    with pytest.raises(ValueError, match="emb_layer=-4"):
        engine.embed(small, random_cells, pooling="mean", emb_layer=-4, **OPTIONS)
    with pytest.raises(ValueError, match="precision='float8'"):
        engine.embed(small, random_cells, pooling="mean", **OPTIONS | {"precision": "float8"})


def test_a_device_that_is_not_there_is_named(small, random_cells):
    absent = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    with pytest.raises(ValueError, match=f"device='{absent}' is not available"):
        engine.embed(small, random_cells, pooling="mean", **OPTIONS | {"device": absent})
