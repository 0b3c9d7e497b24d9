"""Tests of the states: movements give the shifts towards any centroid, the tests are those of the arrays, and they hold their level."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scanpy import logging as logg

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


def test_permuted_labels_are_those_of_the_arrays(moved):
    sg.tl.rank_shifts(moved, test="permuted_labels", centered=False, n_permutations=50, rng=3)
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


def centred_directions(adata) -> np.ndarray:
    """Mean movement of each gene less that of each of its cells, by a loop."""
    deletions, movement = adata.layers["shift"].tocsc(), adata.obsm["shift__movement"].astype(float)
    directions = np.full((adata.n_vars, movement.shape[1]), np.nan)
    for gene in range(adata.n_vars):
        cells = deletions.indices[deletions.indptr[gene] : deletions.indptr[gene + 1]]
        if len(cells):
            directions[gene] = adata.varm["shift__direction"][gene] - movement[cells].mean(0)
    return directions


def contrasts_of(adata, *, centered: bool) -> np.ndarray:
    """Shift towards the target less that towards the source, (n_obs, n_vars), NaN where a gene was not deleted."""
    layer, of_source = (adata.layers[name].tocoo() for name in ("shift", "shift_sick"))
    values = np.full(adata.shape, np.nan)
    values[layer.row, layer.col] = layer.data - of_source.data
    return values - np.nanmean(values, axis=1, keepdims=True) * centered


def add_scatter_of_cells(contrast: stats.Summary, values: np.ndarray, donors: np.ndarray | None) -> stats.Summary:
    """The standard error of the mean over perturbed cells, or over the means of their donors, in addition."""
    if donors is not None:
        values = np.stack([np.nanmean(values[donors == name], axis=0) for name in np.unique(donors)])
    _, genes = at = np.nonzero(~np.isnan(values))
    of_cells = stats.summarise(values[at], genes, values.shape[1])
    return stats.add_error(contrast, of_cells if donors is None else stats.moderate(of_cells))


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("within", [None, "half"])
@pytest.mark.parametrize("options", [{}, {"centered": False}, {"donor": "donor"}], ids=str)
def test_the_default_is_the_contrast_of_the_arrays(tokenized, within, options):
    """All cells of the source are perturbed, and all cells of both states are replicates."""
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    tokenized.obs["half"] = np.where(np.arange(tokenized.n_obs) % 2, "odd", "even")
    tokenized.obs["donor"] = [f"{i % 4}" for i in range(tokenized.n_obs)]
    sg.tl.perturb(tokenized, within=within, **STATES)
    sg.tl.rank_shifts(tokenized, **options)
    rank = tokenized.uns["shift"]["rank"]
    assert (rank["test"], rank["centered"]) == ("states", options.get("centered", True))
    for group in [None] if within is None else ["odd", "even"]:
        cells = tokenized if group is None else tokenized[tokenized.obs["half"] == group].copy()
        suffix = "" if group is None else f"_{group}"
        cells.varm["shift__direction"] = cells.varm[f"shift__direction{suffix}"]
        directions = cells.varm["shift__direction"] if "centered" in options else centred_directions(cells)
        donors = pd.Categorical(cells.obs["donor"]).codes.astype(int) if "donor" in options else None
        embedded = cells.obsm["shift__embedding"].astype(float)
        is_target = (cells.obs["state"] == "well").to_numpy()
        expected = stats.contrast(directions.astype(float), embedded, is_target, donors=donors)
        table = tokenized.varm[f"shift{suffix}"]
        tested = table["n_cells"].to_numpy() >= 5
        assert tested.sum() > 10
        of_cells = contrasts_of(cells, centered="centered" not in options)
        with_cells = add_scatter_of_cells(
            expected, of_cells, cells.obs["donor"].to_numpy() if "donor" in options else None
        )
        test = stats.t_test(with_cells)
        for column, values in {
            "contrast": expected.mean,
            "contrast_low": with_cells.low,
            "contrast_high": with_cells.high,
            "scores": test.score,
            "pvals": test.pvalue,
        }.items():
            scale = np.nanmax(np.abs(values[tested]))
            np.testing.assert_allclose(table[column][tested], values[tested], rtol=1e-3, atol=1e-4 * scale)
        np.testing.assert_allclose(
            table["pvals_adj"][tested], stats.benjamini_hochberg(table["pvals"][tested].to_numpy())
        )
        if "donor" not in options:  # whose centroids are means over donors
            difference = table["effect"] - table["effect_sick"]
            np.testing.assert_allclose(table["contrast"][tested], difference[tested], atol=4e-6)


def test_movements_of_removed_cells_are_refused(tokenized, monkeypatch):
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    sg.tl.perturb(tokenized, **STATES)
    genes = tokenized[:, :20].copy()
    sg.tl.rank_shifts(genes, centered=False)  # fewer genes are no obstacle
    sg.tl.rank_shifts(tokenized, centered=False)
    columns = ["effect", "contrast", "scores"]
    pd.testing.assert_frame_equal(genes.varm["shift"][columns], tokenized.varm["shift"][columns].iloc[:20])
    cells = tokenized[4:].copy()
    with pytest.raises(ValueError, match=r"some of these were removed"):
        sg.tl.rank_shifts(cells, test="states")
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    sg.tl.rank_shifts(cells)
    assert cells.uns["shift"]["rank"]["test"] == "rank_sum"
    assert sum("do not test the states: perturbed cells were removed" in warning for warning in warnings) == 1
    sg.tl.perturb(cells, directions=False, key_added="without", **STATES)
    sg.tl.rank_shifts(cells, key="without")
    assert sum("which directions=True stores" in warning for warning in warnings) == 1
    sg.tl.rank_shifts(cells, key="without", test="rank_sum")
    sg.tl.rank_shifts(cells, key="without", compat="official")
    assert sum("do not test the states" in warning for warning in warnings) == 2


def test_cells_of_both_states_must_be_left(tokenized):
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    sg.tl.perturb(tokenized, **STATES)
    perturbed_only = tokenized[:21].copy()
    with pytest.raises(ValueError, match=r"1 of one of them is left in .obsm\['shift__embedding'\].*test='rank_sum'"):
        sg.tl.rank_shifts(perturbed_only)
    sg.tl.rank_shifts(perturbed_only, test="rank_sum")


@pytest.mark.parametrize(("design", "tested"), [("both", True), ("one each", True), ("two", False), ("mixed", False)])
def test_designs_of_donors(tokenized, design, tested, monkeypatch):
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    number = np.arange(tokenized.n_obs)
    sick = number < 20
    tokenized.obs["state"] = np.where(sick, "sick", "well")
    codes = {
        "both": number % 4,
        "one each": number % 3 + 3 * sick,
        "two": number % 2,
        "mixed": np.where(number % 3 == 0, 9, number % 3 + 3 * sick),
    }
    tokenized.obs["donor"] = [f"d{code}" for code in codes[design]]
    sg.tl.perturb(tokenized, **STATES)
    sg.tl.rank_shifts(tokenized, donor="donor")
    assert tokenized.varm["shift"]["pvals"].notna().any() == tested
    assert tokenized.varm["shift"]["contrast"].notna().any()
    assert any("three donors with cells of both states" in warning for warning in warnings) != tested


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
    movement = tokenized.obsm["shift__movement"].astype(float)
    assert (np.isnan(movement).any(axis=1) == (np.diff(tokenized.layers["shift"].tocsr().indptr) == 0)).all()
    directions = centred_directions(tokenized)
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
    sg.tl.rank_shifts(moved, test="rank_sum")
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


def test_permuted_labels_need_cells_that_were_not_perturbed(tokenized):
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    sg.tl.perturb(tokenized, **STATES)
    with pytest.raises(ValueError, match=r"0 are left of one of the states.*test='states'"):
        sg.tl.rank_shifts(tokenized, test="permuted_labels")


@pytest.mark.parametrize(
    ("options", "message"),
    [
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
    sg.tl.perturb(moved, directions=False, **STATES)
    assert "shift__direction" not in moved.varm
    assert not {"shift__embedding", "shift__movement"} & set(moved.obsm)
