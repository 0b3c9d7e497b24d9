"""Deletions against rows edited by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer import engine
from scgeneformer.engine._edits import delete

OPTIONS = {"n_special": 4, "device": "cpu", "precision": "float32"}


def state(encoder, tokens, n_layers):
    with torch.inference_mode():
        return encoder(torch.from_numpy(tokens.astype(np.int64))[None], n_layers=n_layers)[0].double().numpy()


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def by_hand(encoder, row, position, pooling, states, n_layers=2):
    before_tokens = row[row != 0]
    after_tokens = np.delete(before_tokens, position)
    before, after = state(encoder, before_tokens, n_layers), state(encoder, after_tokens, n_layers)
    summary = {"cls": lambda h: h[0], "mean": lambda h: h[1:-1].mean(0)}[pooling]
    if states is not None:
        return cosine(summary(after), states) - cosine(summary(before), states)
    if pooling == "cls":
        return [cosine(before[0], after[0])]
    background = np.delete(before, position, axis=0)
    return [cosine(background, after)[1:-1].mean()]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("goal", [True, False])
@pytest.mark.parametrize("token_budget", [1, 150, 10_000])
def test_equals_editing_by_hand(small, random_cells, pooling, goal, token_budget):
    rows, positions = engine.deletions(random_cells, 4)
    states = np.random.default_rng(2).normal(size=(3, 16)) if goal else None
    found = engine.delete_one_by_one(
        small, random_cells, rows, positions, pooling=pooling, states=states, token_budget=token_budget, **OPTIONS
    )
    expected = [by_hand(small, random_cells[r], p, pooling, states) for r, p in zip(rows, positions, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_pairs_are_all_genes_of_cells_with_more_than_one():
    tokens = np.array([[2, 7, 9, 3], [2, 7, 3, 0], [2, 3, 0, 0], [2, 9, 8, 3]], dtype=np.uint16)
    rows, positions = engine.deletions(tokens, 4)
    assert list(zip(rows, positions, strict=True)) == [(0, 1), (0, 2), (3, 1), (3, 2)]
    rows, positions = engine.deletions(tokens, 4, only=np.array([9]))
    assert list(zip(rows, positions, strict=True)) == [(0, 2), (3, 1)]


@given(st.data())
def test_delete_is_numpy_delete(data):
    length = data.draw(st.integers(1, 30))
    positions = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=8))
    rows = np.random.default_rng(0).integers(0, 100, (len(positions), length))
    source = delete(length, torch.tensor(positions)).numpy()
    expected = np.stack([np.delete(row, p) for row, p in zip(rows, positions, strict=True)])
    np.testing.assert_array_equal(np.take_along_axis(rows, source, 1), expected)


def test_survives_lack_of_memory(small, random_cells):
    rows, positions = engine.deletions(random_cells, 4)
    expected = engine.delete_one_by_one(small, random_cells, rows, positions, pooling="mean", **OPTIONS)
    real = small.forward

    def stingy(tokens, *args, **kwargs):
        if tokens.numel() > 90:
            raise MemoryError
        return real(tokens, *args, **kwargs)

    small.forward = stingy
    try:
        found = engine.delete_one_by_one(
            small, random_cells, rows, positions, pooling="mean", token_budget=1000, **OPTIONS
        )
    finally:
        small.forward = real
    np.testing.assert_allclose(found, expected, atol=2e-6)
