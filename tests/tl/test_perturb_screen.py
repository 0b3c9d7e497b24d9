"""Estimates by `tl.screen`: where they are stored, which are refined exactly, and how good they are on real cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import stats

import scgeneformer as sg

from .test_perturb_inputs import dense
from .test_perturb_oracle import GOAL

KINDS = ["delete", "overexpress", "inhibit", "activate"]


def exactly(adata, folder, **options):
    return sg.tl.perturb(adata, folder, copy=True, **(GOAL | options))


def screened(adata, folder, **options):
    return sg.tl.screen(adata, folder, copy=True, allow_poor=True, **(GOAL | options))  # random weights


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    ("kind", "genes"), [*[(kind, None) for kind in KINDS], ("overexpress", "vocabulary"), ("delete", "some")]
)
def test_estimates_stand_where_exact_values_would(tokenized, folder, kind, genes, pooling):
    genes = ["SYM3", "SYM9", "SYM20"] if genes == "some" else genes
    options = {"kind": kind, "genes": genes, "pooling": pooling, "quartiles": 2}
    exact, found = (run(tokenized, folder, **options) for run in (exactly, screened))
    of_random = (
        {"shift__reference", "shift__reference_sick", "shift__reference_odd", "shift__reference__untrained"}
        if genes is not None and genes != "vocabulary"
        else set()
    )
    assert set(found.layers) - {None} == {"shift", "shift_sick", "shift_odd", "shift__untrained"} | of_random
    for layer in ("shift", "shift_sick", "shift_odd"):
        assert found.layers[layer].dtype == np.float32
        np.testing.assert_array_equal(np.isnan(dense(found, layer)), np.isnan(dense(exact, layer)))
    assert found.uns["shift"]["params"]["verb"] == "tl.screen"
    assert found.uns["shift"]["params"]["n_pairs"] == exact.uns["shift"]["params"]["n_pairs"]
    for state, position in exact.uns["shift"]["centroids"].items():
        np.testing.assert_array_equal(found.uns["shift"]["centroids"][state], position)


@pytest.mark.parametrize(("kind", "genes"), [("delete", None), ("overexpress", "vocabulary"), ("inhibit", None)])
@pytest.mark.parametrize("refine", [1, 4, 100])
def test_what_is_marked_is_exact(tokenized, folder, kind, genes, refine):
    options = {"kind": kind, "genes": genes}
    exact, screen = (run(tokenized, folder, **options) for run in (exactly, screened))
    both = screened(tokenized, folder, refine=refine, **options)
    marks = dense(both, "shift__method")
    assert both.layers["shift__method"].dtype == np.int8
    np.testing.assert_array_equal(np.isnan(marks), np.isnan(dense(exact)))
    for layer in ("shift", "shift_sick", "shift_odd"):
        assert both.layers[layer].dtype == np.float64
        expected = np.where(marks == 1, dense(exact, layer), dense(screen, layer))
        np.testing.assert_allclose(dense(both, layer), expected, rtol=0, atol=1e-6)
    estimates = dense(screen)[:, :28]
    mean = np.nanmean(estimates, axis=0)
    order = np.argsort(mean)
    order = order[np.sum(~np.isnan(estimates), axis=0)[order] >= 5]  # genes in fewer cells are not worth it
    chosen = sorted({*order[:refine].tolist(), *order[-refine:].tolist()})
    assert np.flatnonzero(np.nanmax(marks[:, :28], axis=0)).tolist() == chosen
    ranked = sg.tl.rank_shifts(both, min_cells=1, copy=True)
    assert ranked.varm["shift"]["fraction_exact"].iloc[chosen].eq(1).all()


def test_marks_go_with_the_run(tokenized, folder):
    sg.tl.screen(tokenized, folder, refine=2, allow_poor=True, **GOAL)
    assert "shift__method" in tokenized.layers
    sg.tl.screen(tokenized, folder, allow_poor=True, **GOAL)
    assert "shift__method" not in tokenized.layers


def test_cells_without_genes_and_with_few(tokenized, folder):
    tokens = tokenized.obsm["geneformer_tokens"]
    sick = np.flatnonzero(tokenized.obs["state"] == "sick")
    for i, n in enumerate((0, 1, 2, 3)):  # special tokens, then genes
        row = tokens[sick[i]]
        row[n + 1] = 3
        row[n + 2 :] = 0
    tokenized.obs["n_tokens"] = (tokens > 0).sum(1)
    for kind, genes in (("delete", None), ("overexpress", "vocabulary"), ("activate", None)):
        exact, found = (run(tokenized, folder, kind=kind, genes=genes) for run in (exactly, screened))
        np.testing.assert_array_equal(np.isnan(dense(found)), np.isnan(dense(exact)))


@pytest.fixture(scope="module")
def kang(shared):
    """Real cells of 250 to 300 genes in two conditions, and two of them that are perturbed."""
    adata = ad.read_h5ad(shared / "data" / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad")[:120].copy()
    sg.pp.tokenize(adata, "default")
    fit = adata.obs["n_tokens"].between(250, 300) & (adata.obs["condition"] == "control")
    return adata, adata.obs_names[fit][:2]


@pytest.mark.parametrize("kind", [*KINDS, "in", "kept"])
def test_on_real_cells(kang, kind):
    adata, cells = kang
    known = adata.var["token_id"].to_numpy() >= 0
    held = (adata[cells].X > 0).toarray().all(0)
    pool = adata.var_names[known & (~held if kind == "in" else held)]
    genes = pool[:: max(1, len(pool) // 30)][:30]
    options = {
        "kind": {"in": "overexpress", "kept": "delete"}.get(kind, kind),
        "positions": "kept" if kind == "kept" else "renumbered",
        "genes": genes,
        "cells": cells,
        "groupby": "condition",
        "source": "control",
        "target": "stimulated",
        "max_state_cells": 5,
        "copy": True,
    }
    exact = sg.tl.perturb(adata, "default", **options).layers["shift"]
    found = sg.tl.screen(adata, "default", **options).layers["shift"]
    np.testing.assert_array_equal(found.indices, exact.indices)
    for cell in adata.obs_names.get_indexer(cells):
        of_cell = slice(exact.indptr[cell], exact.indptr[cell + 1])
        expected, estimated = exact.data[of_cell], found.data[of_cell]
        assert len(expected) >= 20
        assert stats.pearsonr(estimated, expected)[0] > 0.85
        assert stats.spearmanr(estimated, expected)[0] > 0.85
