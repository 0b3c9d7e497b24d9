"""The same perturbation by an untrained encoder: its values, the slots that it leaves unchanged, and its use in rankings."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import scgeneformer as sg
from scgeneformer import engine
from scgeneformer.tl._perturbation import _untrained

from .test_perturb_inputs import GOAL, dense

LISTED = ["SYM1", "SYM2", "SYM7"]
RUNS = {
    "all": {},
    "kept": {"positions": "kept"},
    "inhibited": {"kind": "inhibit", "genes": LISTED, "n_reference": 0},
    "beside random genes": {"genes": LISTED, "n_reference": 3},
    "in": {"kind": "overexpress", "genes": "vocabulary"},
    "median": {"centroids": "median"},
}


def draw_encoder(folder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sg.nn.Encoder(sg.hub.load(folder).encoder.config).eval()


def by_hand(adata, folder, kind="delete", positions="renumbered", centroids="mean", **_):
    """Shifts towards well of all genes in all sick cells, cell by cell, (n_obs, n_vars)."""
    encoder, tokens = draw_encoder(folder), adata.obsm["geneformer_tokens"]
    options = {"pooling": "cls", "n_special": 4}
    well = (adata.obs["state"] == "well").to_numpy()
    summary = np.mean if centroids == "mean" else np.median
    goal = summary(engine.embed(encoder, tokens[well], **options).cells.astype(np.float64), axis=0)[None]
    column_of = {token: column for column, token in enumerate(adata.var["token_id"]) if token >= 0}
    shifts = np.full(adata.shape, np.nan)
    for cell in np.flatnonzero(adata.obs["state"] == "sick"):
        row = tokens[[cell]]
        values = engine.perturb.screen(encoder, row, kind, goal, positions=positions, **options)[0, :, 0]
        for token, value in zip(row[0], values, strict=True):
            if token >= 4:
                shifts[cell, column_of[token]] = value
        if kind == "overexpress":
            absent = np.setdiff1d(list(column_of), row)
            values = engine.perturb.screen_absent(encoder, row, absent, goal, **options)[0, :, 0]
            shifts[cell, [column_of[token] for token in absent]] = values
    return shifts


@pytest.mark.parametrize("verb", [sg.tl.perturb, sg.tl.screen])
@pytest.mark.parametrize("name", RUNS)
def test_shifts_are_those_of_an_encoder_drawn_anew(tokenized, folder, monkeypatch, name, verb) -> None:
    monkeypatch.setattr(_untrained, "N_CELLS", 5)
    verb(tokenized, folder, **GOAL, **RUNS[name])
    expected = by_hand(tokenized, folder, **RUNS[name])
    layers = {"shift": "shift__untrained", "shift__reference": "shift__reference__untrained"}
    assert (layers["shift__reference"] in tokenized.layers) == ("shift__reference" in tokenized.layers)
    for of_model, layer in layers.items():
        if of_model not in tokenized.layers:
            continue
        shifts, values = dense(tokenized, of_model), dense(tokenized, layer)
        assert tokenized.layers[layer].dtype == tokenized.layers[of_model].dtype
        drawn = ~np.isnan(values).all(axis=1)
        assert drawn.sum() == 5 < (~np.isnan(shifts).all(axis=1)).sum()
        np.testing.assert_array_equal(np.isnan(values[drawn]), np.isnan(shifts[drawn]))
        measured = ~np.isnan(values)
        np.testing.assert_allclose(values[measured], expected[measured], rtol=1e-3, atol=1e-8)


def test_refined_screens_and_groups_have_it(tokenized, folder, monkeypatch) -> None:
    monkeypatch.setattr(_untrained, "N_CELLS", 2)
    tokenized.obs["type"] = np.array(["a", "b/c"])[np.arange(40) % 2]
    sg.tl.screen(tokenized, folder, **GOAL, within="type", refine=2, allow_poor=True)
    assert tokenized.layers["shift__untrained"].dtype == np.float64
    drawn = np.diff(tokenized.layers["shift__untrained"].indptr) > 0
    assert tokenized.obs["type"][drawn].value_counts().to_dict() == {"a": 2, "b/c": 2}
    sg.tl.rank_shifts(tokenized, min_cells=1)
    assert set(tokenized.uns["shift"]["rank"]["agreement"]) == {"a", "b|c"}
    assert all("untrained" in values for values in tokenized.uns["shift"]["rank"]["agreement"].values())


def test_cells_are_drawn_by_the_seed(tokenized, folder, monkeypatch) -> None:
    monkeypatch.setattr(_untrained, "N_CELLS", 3)
    monkeypatch.setattr(_untrained, "N_STATE_CELLS", 4)
    first, again, other = (
        sg.tl.screen(tokenized, folder, **GOAL, rng=seed, copy=True, allow_poor=True).layers["shift__untrained"]
        for seed in (0, 0, 1)
    )
    assert abs(first - again).nnz == 0
    assert (np.diff(first.indptr) > 0).tolist() != (np.diff(other.indptr) > 0).tolist()


@pytest.mark.parametrize("seed", [0, "generator"])
def test_nothing_else_changes(tokenized, folder, seed) -> None:
    options = GOAL | {"genes": LISTED, "max_cells": 6, "max_state_cells": 5, "n_reference": 2}
    runs, next_numbers = [], []
    for untrained in (True, False):
        rng = np.random.default_rng(3) if seed == "generator" else seed
        before = torch.random.get_rng_state()
        runs.append(sg.tl.perturb(tokenized, folder, **options, rng=rng, untrained=untrained, copy=True))
        assert torch.equal(torch.random.get_rng_state(), before)
        next_numbers.append(np.random.default_rng(rng).random())
    with_it, without = runs
    assert next_numbers[0] == next_numbers[1]
    assert set(with_it.layers) - set(without.layers) == {"shift__untrained", "shift__reference__untrained"}
    for layer in without.layers:
        if layer is not None:
            np.testing.assert_array_equal(dense(with_it, layer), dense(without, layer))
    np.testing.assert_equal(with_it.uns["shift"]["centroids"], without.uns["shift"]["centroids"])
    assert with_it.uns["shift"]["params"]["untrained"]
    assert "untrained" not in without.uns["shift"]["params"]


@pytest.mark.parametrize(
    "options",
    [
        {"groupby": "state", "source": "sick"},
        {"groupby": "state", "target": "well"},
        GOAL | {"compat": "official"},
        {
            "groupby": "state",
            "source": "sick",
            "target": "far",
            "centroids": {"far": np.ones(16), "sick": np.arange(16.0)},
        },
    ],
    ids=["no target", "no source", "official", "no cells of the target"],
)
def test_runs_without_it(tokenized, folder, options) -> None:
    sg.tl.perturb(tokenized, folder, **GOAL, max_cells=3)
    assert "shift__untrained" in tokenized.layers
    sg.tl.perturb(tokenized, folder, **options, max_cells=3)
    assert "shift__untrained" not in tokenized.layers
    sg.tl.rank_shifts(tokenized, min_cells=1)
    assert "untrained" not in tokenized.varm["shift"]


def test_given_centroids_are_not_those_of_the_untrained_encoder(tokenized, folder) -> None:
    given = {"well": np.ones(16), "sick": np.arange(16.0), "odd": np.arange(16.0)}
    of_given, computed = (
        sg.tl.screen(tokenized, folder, **GOAL, **more, copy=True, allow_poor=True)
        for more in ({"centroids": given}, {})
    )
    np.testing.assert_array_equal(dense(of_given, "shift__untrained"), dense(computed, "shift__untrained"))


def test_an_interrupted_run_writes_nothing(tokenized, folder, tmp_path, monkeypatch, interrupted) -> None:
    monkeypatch.setitem(engine.perturb._run.PART_SIZE, "exact", 60)
    before = set(tokenized.layers)
    options = GOAL | {"checkpoint": tmp_path / "run", "max_cells": 8}
    interrupted(1, sg.tl.perturb, tokenized, folder, **options)
    assert set(tokenized.layers) == before
    sg.tl.perturb(tokenized, folder, **options)
    at_once = sg.tl.perturb(tokenized, folder, **GOAL, max_cells=8, copy=True)
    np.testing.assert_array_equal(dense(tokenized, "shift__untrained"), dense(at_once, "shift__untrained"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["genes"]


@pytest.mark.parametrize(("verb", "least"), [(sg.tl.screen, 0.999), (sg.tl.perturb, 0.7)])
@pytest.mark.parametrize("centered", [False, True])
def test_a_model_that_is_untrained_agrees(tokenized, folder, verb, least, centered) -> None:
    pretrained = sg.hub.load(folder)
    drawn = sg.hub.Pretrained("drawn", pretrained.vocabulary, model=draw_encoder(folder))
    agreement = {}
    for name, model in {"drawn": drawn, "other": pretrained}.items():
        verb(tokenized, model, **GOAL)
        sg.tl.rank_shifts(tokenized, test="aggregate", centered=centered)
        agreement[name] = tokenized.uns["shift"]["rank"]["agreement"]["untrained"]
    assert agreement["drawn"] > least > abs(agreement["other"])


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("genes", [None, LISTED + [f"SYM{i}" for i in range(10, 22)]], ids=["all", "listed"])
@pytest.mark.parametrize("options", [{}, {"centered": False}, {"compat": "official"}], ids=str)
def test_rankings_have_its_means(tokenized, folder, tmp_path, monkeypatch, genes, options) -> None:
    monkeypatch.setattr(_untrained, "N_CELLS", 9)
    sg.tl.perturb(tokenized, folder, genes, **GOAL)
    values = dense(tokenized, "shift__untrained")
    if not options:  # centred, unless shifts are to be as official
        base = values if genes is None else dense(tokenized, "shift__reference__untrained")
        values = values - np.nanmean(base, axis=1, keepdims=True)
    sg.tl.rank_shifts(tokenized, min_cells=4, **options)
    table = tokenized.varm["shift"]
    np.testing.assert_allclose(table["untrained"], np.nanmean(values, axis=0), rtol=1e-9, atol=1e-15)
    both = (table["n_cells"] >= 4).to_numpy() & ((~np.isnan(values)).sum(axis=0) >= 4)
    agreement = tokenized.uns["shift"]["rank"]["agreement"]
    expected = spearmanr(table["effect"][both], table["untrained"][both]).statistic
    np.testing.assert_allclose(agreement["untrained"], expected)
    without = tokenized.copy()
    del without.layers["shift__untrained"]
    sg.tl.rank_shifts(without, min_cells=4, **options)
    assert without.uns["shift"]["rank"]["agreement"] == {k: x for k, x in agreement.items() if k != "untrained"}
    assert "untrained" in sg.get.shifts(tokenized)
    assert "untrained" not in sg.get.shifts(tokenized, state="sick")  # it is towards the target
    tokenized.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    sg.tl.rank_shifts(back, min_cells=4, **options)
    pd.testing.assert_frame_equal(back.varm["shift"], table)


def test_too_few_genes_or_cells_have_no_agreement(tokenized, folder, monkeypatch) -> None:
    monkeypatch.setattr(_untrained, "N_CELLS", 4)
    sg.tl.perturb(tokenized, folder, **GOAL)
    sg.tl.rank_shifts(tokenized)  # min_cells=5
    assert "untrained" in tokenized.varm["shift"]
    assert "untrained" not in tokenized.uns["shift"]["rank"]["agreement"]
