"""Neighbourhoods of genes in a network."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.patches import FancyArrowPatch
from scipy import sparse

import scgeneformer as sg


@pytest.fixture
def scored():
    """A network of 40 genes, as `tl.network` writes it, of a score with a direction; and one of a symmetric score."""
    rng = np.random.default_rng(0)
    var = pd.DataFrame({"symbol": [f"SYM{i}" for i in range(40)]}, index=[f"ENSG{i:011d}" for i in range(40)])
    adata = AnnData(np.ones((3, 40), np.float32), var=var)
    weights = rng.normal(size=(40, 40))
    np.fill_diagonal(weights, 0)
    for key, score, matrix in (("network", "attention", weights), ("same", "contextual", weights + weights.T)):
        adata.varp[key] = sparse.csr_matrix(matrix.astype(np.float32))
        adata.uns[key] = {"params": {"verb": "tl.network", "score": score}}
    return adata


def arrows(ax):
    return [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]


def shown(ax):
    return {text.get_text() for text in ax.texts}


def test_the_strongest_edges_of_each_gene_are_drawn(scored):
    edges = sg.get.edges(scored, gene_symbols="symbol")
    parts = [edges[edges[["source", "target"]].eq(gene).any(axis=1)][:6] for gene in ("SYM3", "SYM8")]
    expected = pd.concat(parts).drop_duplicates()
    ax = sg.pl.network(scored, ["SYM3", scored.var_names[8]], n_top=6, show=False)
    assert len(arrows(ax)) == len(expected)
    assert shown(ax) == set(expected["source"]) | set(expected["target"])
    bold = {text.get_text() for text in ax.texts if text.get_fontweight() == "bold"}
    assert bold == {"SYM3", "SYM8"}


def test_edges_of_few_cells_are_not_drawn(scored):
    numbers = scored.varp["network"].copy()
    numbers.data[:] = np.random.default_rng(3).integers(5, 40, numbers.nnz)
    scored.varp["network__n"] = numbers
    edges = sg.get.edges(scored, genes=["SYM3"], min_cells=20, gene_symbols="symbol")
    ax = sg.pl.network(scored, "SYM3", n_top=6, min_cells=20, show=False)
    assert shown(ax) == set(edges[["source", "target"]].head(6).to_numpy().ravel())


def test_an_edge_without_a_direction_is_drawn_once(scored):
    ax = sg.pl.network(scored, "SYM3", key="same", n_top=7, show=False)
    assert len(arrows(ax)) == 7
    assert len(shown(ax)) == 8


def test_names_lie_apart_and_within_the_figure(scored, assert_apart):
    figure = sg.pl.network(scored, ["SYM3", "SYM8"], n_top=10, return_fig=True)
    assert_apart(figure, figure.axes[0].texts)


@pytest.mark.parametrize("key", ["network", "same"])
def test_names_do_not_cover_the_edges_of_one_gene(scored, key):
    figure = sg.pl.network(scored, "SYM3", key=key, n_top=10, return_fig=True)
    figure.draw_without_rendering()
    edges = [edge.get_transform().transform_path(edge.get_path()).to_polygons()[0] for edge in arrows(figure.axes[0])]
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert not any(box.count_contains(edge) for edge in edges), text.get_text()


def test_pictures_are_the_same_every_time(scored):
    offsets = [
        np.concatenate([points.get_offsets() for points in sg.pl.network(scored, ["SYM3"], show=False).collections])
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*offsets)


@pytest.mark.parametrize(
    ("genes", "options", "error", "text"),
    [
        (["NOPE"], {}, ValueError, "not in .var: NOPE"),
        (["SYM1"], {"key": "gone"}, KeyError, r"Run `sg\.tl\.network\(adata\)` first"),
        (["SYM1"], {"group": "a"}, ValueError, "group='a'"),
        (["SYM1"], {"n_top": 0}, ValueError, "n_top above 0"),
        (["SYM1"], {"min_cells": 9}, ValueError, "min_cells=9 has no meaning"),
        (["SYM1"], {"gene_symbols": "gone"}, KeyError, "No column 'gone'"),
    ],
)
def test_bad_requests_leave_no_figure(scored, genes, options, error, text):
    with pytest.raises(error, match=text):
        sg.pl.network(scored, genes, **options)
    assert not plt.get_fignums()
