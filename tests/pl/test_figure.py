"""Properties of all plots: `ax`, `show`, `return_fig`, and an unchanged adata."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc

import scgeneformer as sg
from scgeneformer.pl import _figure

PLOTS = {
    "volcano": lambda adata, **options: sg.pl.shift(adata, **options),
    "rank": lambda adata, **options: sg.pl.shift(adata, kind="rank", **options),
    "plane": lambda adata, **options: sg.pl.shift(adata, kind="plane", **options),
    "heatmap": lambda adata, **options: sg.pl.shift_heatmap(adata, groupby="group", **options),
    "embedding": lambda adata, **options: sg.pl.shift_embedding(adata, "SYM5", **options),
    "effects": lambda adata, **options: sg.pl.effects(adata, "ENSG00000000000", **options),
}


@pytest.fixture(params=PLOTS)
def plot(request):
    return PLOTS[request.param]


@pytest.fixture
def autoshow():
    before = sc.settings.autoshow
    sc.settings.autoshow = True
    yield
    sc.settings.autoshow = before


@pytest.mark.usefixtures("autoshow")
def test_own_figure_is_returned_or_shown(perturbed, plot, monkeypatch) -> None:
    adata = perturbed()
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert isinstance(plot(adata, show=False), plt.Axes)
    assert isinstance(plot(adata, return_fig=True), plt.Figure)
    assert shown == []
    assert plot(adata, show=True) is None
    assert plot(adata) is None
    assert len(shown) == 2


@pytest.mark.usefixtures("autoshow")
def test_given_axes_are_drawn_on_and_not_shown(perturbed, plot, monkeypatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    assert plot(perturbed(), ax=left) is left
    assert plt.get_fignums() == [figure.number]
    assert not right.has_data()
    assert plot(perturbed(), ax=right, return_fig=True) is figure


def test_adata_is_left_as_it_was(perturbed, plot) -> None:
    adata, before = perturbed(), perturbed()
    plot(adata, show=False)
    assert set(adata.uns) == set(before.uns)
    assert list(adata.obs) == list(before.obs)
    assert list(adata.var) == list(before.var)
    for slot in ("layers", "obsm", "varm", "varp"):
        assert set(getattr(adata, slot)) == set(getattr(before, slot))
    for name in ("shift", "shift_A", "shift_B"):
        np.testing.assert_array_equal(adata.layers[name].data, before.layers[name].data)
        np.testing.assert_array_equal(adata.layers[name].indices, before.layers[name].indices)
    np.testing.assert_array_equal(adata.obsm["X_umap"], before.obsm["X_umap"])


def test_of_a_modality(perturbed, plot) -> None:
    from mudata import MuData

    assert isinstance(plot(MuData({"rna": perturbed()}), show=False), plt.Axes)


def test_axes_of_a_subfigure(perturbed, plot) -> None:
    figure = plt.figure(figsize=(12, 5), layout="constrained")
    ax = figure.subfigures(1, 2)[0].subplots()
    assert plot(perturbed(), ax=ax) is ax
    assert plot(perturbed(), ax=ax, return_fig=True) is figure


@pytest.mark.parametrize(
    ("largest", "exponent"), [(0.0, 0), (0.5, 0), (0.01, 0), (0.009, -3), (3.2e-5, -5), (np.nan, 0), (12.0, 0)]
)
def test_exponent(largest, exponent) -> None:
    assert _figure.exponent_of(np.array([0.0, -largest])) == exponent


def test_long_names_are_broken() -> None:
    text = _figure.with_unit(
        "mean shift towards " + "very " * 12 + "diseased cells", "Δ cosine similarity", -3, width=60
    )
    assert max(map(len, text.splitlines())) <= 60
    assert text.endswith("(Δ cosine similarity, 10$^{-3}$)")


@pytest.mark.parametrize("name", ["heatmap", "embedding", "effects"])
def test_a_plot_that_fails_leaves_no_figure(perturbed, name) -> None:
    adata = perturbed()
    plt.close("all")
    mine = plt.figure()
    with pytest.raises(ValueError, match="no such map"):
        PLOTS[name](adata, cmap="no such map", show=False)
    assert plt.get_fignums() == [mine.number]
