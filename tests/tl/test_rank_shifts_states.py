"""Permuted labels: movements give the shifts towards any centroid, the test equals an explicit loop, and it holds its level."""

from __future__ import annotations

import numpy as np
import pytest

import scgeneformer as sg
from scgeneformer import stats

STATES = {"groupby": "state", "source": "sick", "target": "well"}


@pytest.fixture
def moved(tokenized):
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    sg.tl.perturb(tokenized, directions=True, max_cells=8, **STATES)
    return tokenized


def mean_shifts(adata, layer: str = "shift") -> np.ndarray:
    x = adata.layers[layer].tocsc()
    return np.array([x.data[a:b].mean() if b > a else np.nan for a, b in zip(x.indptr, x.indptr[1:], strict=False)])


def test_movements_tell_the_shifts_towards_both_states(moved):
    directions = moved.varm["shift__direction"]
    for state, layer in (("well", "shift"), ("sick", "shift_sick")):
        centroid = moved.uns["shift"]["centroids"][state]
        towards = directions @ centroid / np.linalg.norm(centroid)
        np.testing.assert_allclose(towards, mean_shifts(moved, layer), atol=2e-6)
        cells = moved.obsm["shift__embedding"][moved.obs["state"] == state]
        np.testing.assert_allclose(cells.mean(0), centroid, atol=1e-5)


def test_the_test_is_that_of_the_arrays(moved):
    sg.tl.rank_shifts(moved, test="permuted_labels", n_permutations=50, rng=3)
    perturbed = np.diff(moved.layers["shift"].indptr) > 0
    assert perturbed.sum() == 8
    expected = stats.permuted_labels(
        moved.varm["shift__direction"].astype(float),
        moved.obsm["shift__embedding"][~perturbed].astype(float),
        (moved.obs["state"] == "well").to_numpy()[~perturbed],
        n_permutations=50,
        rng=np.random.default_rng(3),
    )
    table = moved.varm["shift"]
    tested = table["n_cells"] >= 5
    np.testing.assert_allclose(table["scores"][tested], expected.of_shift.score[tested])
    np.testing.assert_allclose(table["contrast_scores"][tested], expected.of_contrast.score[tested])
    np.testing.assert_allclose(
        table["contrast_pvals_adj"][tested], stats.benjamini_hochberg(expected.of_contrast.pvalue[tested])
    )
    np.testing.assert_allclose(table["contrast"], mean_shifts(moved) - mean_shifts(moved, "shift_sick"))
    frame = sg.get.shifts(moved, state="sick")
    assert {"contrast", "contrast_pvals"} <= set(frame)


@pytest.mark.parametrize("listed", [False, True])
def test_centred_shifts_are_tested_by_centred_movements(tokenized, listed):
    """Less the mean movement of each of its cells, a gene's movement tells its centred effects on both states."""
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    often = np.argsort(-np.asarray((tokenized.X > 0).sum(0)).ravel(), kind="stable")
    genes = tokenized.var_names[often][tokenized.var["token_id"].to_numpy()[often] > 0][:3].tolist() if listed else None
    sg.tl.perturb(tokenized, genes=genes, directions=True, max_cells=8, n_reference=4, **STATES)
    assert ("shift__reference" in tokenized.layers) == listed
    sg.tl.rank_shifts(tokenized, test="permuted_labels", centered=True, n_permutations=50, rng=3, min_cells=1)
    table = tokenized.varm["shift"]
    deletions, movement = tokenized.layers["shift"].tocsc(), tokenized.obsm["shift__movement"].astype(float)
    assert (np.isnan(movement).any(axis=1) == (np.diff(tokenized.layers["shift"].tocsr().indptr) == 0)).all()
    directions = np.full((tokenized.n_vars, movement.shape[1]), np.nan)
    for gene in range(tokenized.n_vars):
        cells = deletions.indices[deletions.indptr[gene] : deletions.indptr[gene + 1]]
        if len(cells):
            directions[gene] = tokenized.varm["shift__direction"][gene] - movement[cells].mean(0)
    tested = table["n_cells"].to_numpy() > 0
    for state, column in (("well", "effect"), ("sick", "effect_sick")):
        centroid = tokenized.uns["shift"]["centroids"][state]
        towards = directions @ centroid / np.linalg.norm(centroid)
        np.testing.assert_allclose(towards[tested], table[column][tested], atol=2e-6)
    left = np.isnan(movement).any(axis=1)
    expected = stats.permuted_labels(
        directions,
        tokenized.obsm["shift__embedding"][left].astype(float),
        (tokenized.obs["state"] == "well").to_numpy()[left],
        n_permutations=50,
        rng=np.random.default_rng(3),
    )
    np.testing.assert_allclose(table["scores"][tested], expected.of_shift.score[tested], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        table["contrast_scores"][tested], expected.of_contrast.score[tested], rtol=1e-3, atol=1e-3
    )


def test_every_ranking_of_two_states_has_the_contrast(moved):
    sg.tl.rank_shifts(moved)
    np.testing.assert_allclose(
        moved.varm["shift"]["contrast"], mean_shifts(moved) - mean_shifts(moved, "shift_sick"), atol=1e-12
    )


@pytest.mark.parametrize("centered", [False, True])
def test_level_under_labels_drawn_anew(moved, centered):
    """The run is done once: labels of the cells that were not perturbed are drawn anew, as if they had been so from the start."""
    perturbed = np.diff(moved.layers["shift"].indptr) > 0
    rng, pvalues = np.random.default_rng(0), []
    state = moved.obs["state"].to_numpy(dtype=object)
    for _ in range(60):
        state[~perturbed] = rng.permutation(state[~perturbed])
        moved.obs["state"] = state
        sg.tl.rank_shifts(moved, test="permuted_labels", n_permutations=60, rng=rng, centered=centered)
        pvalues.append(moved.varm["shift"][["pvals", "contrast_pvals"]].dropna().iloc[0].to_numpy())
    assert (np.mean(np.array(pvalues) < 0.05, axis=0) <= 0.15).all()


def test_within_groups_and_donors(tokenized):
    tokenized.obs["half"] = np.where(np.arange(tokenized.n_obs) % 2, "odd", "even")
    tokenized.obs["batch_of"] = [f"{i % 3}" for i in range(tokenized.n_obs)]
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    sg.tl.perturb(tokenized, directions=True, max_cells=5, within="half", **STATES)
    assert {"shift__direction_odd", "shift__direction_even"} <= set(tokenized.varm)
    sg.tl.rank_shifts(tokenized, test="permuted_labels", donor="batch_of", n_permutations=30)
    odd = tokenized[tokenized.obs["half"] == "odd"].copy()
    sg.tl.perturb(odd, directions=True, max_cells=5, **STATES)
    sg.tl.rank_shifts(odd, test="permuted_labels", donor="batch_of", n_permutations=30)
    for column in ("effect", "contrast", "scores", "contrast_scores"):
        np.testing.assert_allclose(tokenized.varm["shift_odd"][column], odd.varm["shift"][column], rtol=1e-3, atol=1e-5)


def test_runs_in_parts_are_runs_at_once(moved, tmp_path, monkeypatch, interrupted):
    from scgeneformer.engine.perturb import _run

    monkeypatch.setitem(_run.PART_SIZE, "exact", 40)
    again = moved.copy()
    options = STATES | {"directions": True, "max_cells": 8, "checkpoint": tmp_path}
    interrupted(1, sg.tl.perturb, again, **options)
    sg.tl.perturb(again, **options)
    np.testing.assert_allclose(again.varm["shift__direction"], moved.varm["shift__direction"], atol=1e-6)
    np.testing.assert_allclose(again.obsm["shift__movement"], moved.obsm["shift__movement"], atol=1e-6)
    with pytest.raises(ValueError, match="directions was"):
        sg.tl.perturb(again, **options | {"directions": False})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": True, **STATES}, "Perturb fewer: max_cells=10"),
        ({"directions": True, "target": "well", "groupby": "state"}, "name `source` and `target`"),
        (
            {"directions": True, "centroids": {"well": np.ones(16), "sick": np.ones(16)}, **STATES},
            "leave out given `centroids`",
        ),
    ],
)
def test_runs_that_are_refused(moved, options, message):
    before = moved.copy()
    with pytest.raises(ValueError, match=message):
        sg.tl.perturb(moved, **options)
    assert set(moved.varm) == set(before.varm)


@pytest.mark.parametrize(
    "gone", ["varm/shift__direction", "obsm/shift__embedding", "obsm/shift__movement", "obs/state"]
)
def test_rankings_that_are_refused(moved, gone):
    place, name = gone.split("/")
    del getattr(moved, place)[name]
    with pytest.raises(KeyError, match="directions=True" if place != "obs" else "Put the column back"):
        sg.tl.rank_shifts(moved, test="permuted_labels", centered=True)
    with pytest.raises(ValueError, match="n_permutations=5 must be an integer of at least 20"):
        sg.tl.rank_shifts(moved, test="permuted_labels", n_permutations=5)


def test_a_further_run_takes_its_slots_away(moved):
    sg.tl.perturb(moved, **STATES)
    assert "shift__direction" not in moved.varm
    assert not {"shift__embedding", "shift__movement"} & set(moved.obsm)
