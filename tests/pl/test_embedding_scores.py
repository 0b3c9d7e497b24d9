"""The table of embeddings shows what is in the slot."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scgeneformer as sg

COLUMNS = ["nmi", "bras", "silhouette_label", "total"]


@pytest.fixture
def compared() -> AnnData:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((3, 4)), index=["X_geneformer", "PCA of HVGs", "HVGs"], columns=COLUMNS)
    table["silhouette_label"] = 0.5  # no embedding is the best
    adata = AnnData(np.zeros((4, 2), dtype=np.float32))
    params = {"n_cells": 90, "n_cells_of_a_batch": 30, "n_repeats": 3, "verb": "tl.compare_embeddings"}
    adata.uns["embedding_scores"] = {"scores": table, "spread": table / 10, "params": params}
    return adata


def test_numbers_order_and_best(compared):
    ax = sg.pl.embedding_scores(compared, show=False)
    ax.figure.canvas.draw()
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert labels == ["NMI", "silhouette label", "BRAS", "total"]  # of labels, then of batches
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(compared.uns["embedding_scores"]["scores"].index)
    cells = {(text.get_position()[1], text.get_position()[0]): text for text in ax.texts if "." in text.get_text()}
    table = compared.uns["embedding_scores"]["scores"][["nmi", "silhouette_label", "bras", "total"]]
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        text = cells[row + 0.5, column + 0.5]
        assert text.get_text() == f"{value:.2f}"
        best = value == table.iloc[:, column].max() and table.iloc[:, column].nunique() > 1
        assert text.get_weight() == ("bold" if best else "normal")
    typical = np.nanmedian(compared.uns["embedding_scores"]["spread"])
    assert any(
        f"90 cells, 30 of each batch; standard deviation over 3 random samples, median {typical:.3f}"
        in " ".join(text.get_text().split())
        for text in ax.texts
    )


def test_axes_figure_and_nothing(compared):
    _, ax = plt.subplots()
    assert sg.pl.embedding_scores(compared, ax=ax) is ax
    assert sg.pl.embedding_scores(compared, return_fig=True) is not ax.figure
    with pytest.raises(KeyError, match=r"Did not find \.uns\['other'\].*compare_embeddings"):
        sg.pl.embedding_scores(compared, key="other")
