from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection

import scgeneformer as sg


def lines_of(ax) -> LineCollection:
    return next(c for c in ax.collections if isinstance(c, LineCollection))


@pytest.mark.parametrize("name", ["ENSG00000000001", "MIR133A1HG"])
def test_lines_lead_to_the_most_affected_genes(perturbed, name) -> None:
    adata = perturbed(rank=False)
    ax = sg.pl.effects(adata, name, n_top=12, show=False)
    cosine, number = (adata.varp[key].toarray()[1] for key in ("shift", "shift_n"))
    eligible = (number >= 5) & (np.arange(adata.n_vars) != 1)
    most = np.argsort(np.where(eligible, cosine, np.inf), kind="stable")[:12]
    symbols = adata.var["gene_symbols"].to_numpy()
    assert [text.get_text() for text in ax.texts] == ["MIR133A1HG", *symbols[most]]
    lines = lines_of(ax)
    np.testing.assert_allclose(lines.get_array(), 1 - cosine[most])
    assert (np.diff(lines.get_linewidths()) <= 0).all()
    assert lines.get_clim() == (0, 1 - cosine[most[0]])
    for segment, text in zip(lines.get_segments(), ax.texts[1:], strict=True):
        np.testing.assert_allclose(segment, [(0, 0), text.xy])


@pytest.mark.parametrize("n_top", [1, 2, 5, 30])
def test_labels_lie_apart_within_the_figure(perturbed, assert_apart, n_top) -> None:
    figure = sg.pl.effects(perturbed(rank=False), "ENSG00000000000", n_top=n_top, min_cells=1, return_fig=True)
    ax, bar = figure.axes
    assert len(ax.texts) == 1 + min(n_top, 29)
    assert_apart(figure, [*ax.texts, bar.yaxis.label])


def test_labels_stay_within_given_axes(perturbed) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    sg.pl.effects(perturbed(rank=False), "ENSG00000000000", n_top=10, ax=axes[0])
    frame = axes[0].get_window_extent()
    for text in axes[0].texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1


def test_effects_of_a_set(perturbed) -> None:
    adata = perturbed(rank=False)
    ax = sg.pl.effects(adata, "sarcomere", n_top=5, show=False)
    smallest = adata.varm["shift_sets"]["sarcomere"].nsmallest(5)
    np.testing.assert_allclose(lines_of(ax).get_array(), 1 - smallest)


def test_too_few_cells(perturbed) -> None:
    with pytest.raises(ValueError, match="affected no gene in min_cells=1000"):
        sg.pl.effects(perturbed(rank=False), "ENSG00000000000", min_cells=1000)
    assert plt.get_fignums() == []


def test_a_gene_without_effects(perturbed) -> None:
    with pytest.raises(KeyError):
        sg.pl.effects(perturbed(rank=False), "SYM20")
    assert plt.get_fignums() == []
