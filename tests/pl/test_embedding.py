from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from scipy import sparse

import scgeneformer as sg

GREY = "#D9D9D9"


def stored(adata, layer: str, gene: int) -> np.ndarray:
    column = adata.layers[layer][:, [gene]].tocoo()
    values = np.full(adata.n_obs, np.nan)
    values[column.row] = column.data
    return values


def drawn(ax) -> tuple[np.ndarray, np.ndarray]:
    """Places and values, in drawing order."""
    (dots,) = ax.collections
    return np.asarray(dots.get_offsets()), np.ma.filled(dots.get_array(), np.nan)


@pytest.mark.parametrize(("state", "layer"), [(None, "shift"), ("A", "shift_A")])
def test_dots_are_cells_in_the_colour_of_their_shift(perturbed, state, layer) -> None:
    adata = perturbed()
    ax = sg.pl.shift_embedding(adata, "SYM5", state=state, centered=False, show=False)
    values = stored(adata, layer, 5)
    places, shown = drawn(ax)
    order = np.lexsort(places.T)
    expected = np.lexsort(adata.obsm["X_umap"].T)
    np.testing.assert_allclose(places[order], adata.obsm["X_umap"][expected])
    np.testing.assert_allclose(shown[order], values[expected])
    tested = np.isfinite(shown)
    assert not tested[: (~tested).sum()].any()  # untested cells are at the back
    assert (np.diff(np.abs(shown[tested])) >= 0).all()
    ax.figure.canvas.draw()
    colours = ax.collections[0].get_facecolors()
    np.testing.assert_allclose(colours[~tested], np.tile(to_rgba(GREY), ((~tested).sum(), 1)))
    low, high = ax.collections[0].get_clim()
    assert -low == high == pytest.approx(np.nanpercentile(np.abs(values), 99))
    assert ax.get_title() == f"SYM5 ({tested.sum()} cells)"
    assert f"towards {state or 'T'}" in ax.figure.axes[1].get_ylabel()


def test_several_genes_share_their_limits(perturbed) -> None:
    adata = perturbed()
    names = [adata.var_names[3], "SYM7", "sarcomere"]
    axes = sg.pl.shift_embedding(adata, names, ncols=2, centered=False, show=False)
    assert [ax.get_title().split(" (")[0] for ax in axes] == ["ENSG00000267882", "SYM7", "sarcomere"]
    assert len({ax.collections[0].get_clim() for ax in axes}) == 1
    shown = drawn(axes[2])[1]
    expected = adata.obsm["shift_sets"]["sarcomere"]
    np.testing.assert_allclose(np.sort(shown), np.sort(expected))
    assert len(axes[0].figure.axes) == 4  # three panels and one colour bar


def test_titles_lie_apart(perturbed, assert_apart) -> None:
    adata = perturbed()
    figure = sg.pl.shift_embedding(adata, ["ENSG00000267882", "HLA-DQA1-AS1", "RP11-532N4.2"], return_fig=True)
    *panels, bar = figure.axes
    assert_apart(figure, [*(panel.title for panel in panels), bar.yaxis.label])


def test_without_goal_states_limits_start_at_0(perturbed) -> None:
    adata = perturbed(goal=False)
    ax = sg.pl.shift_embedding(adata, "SYM5", vmax=0.01, centered=False, show=False)
    assert ax.collections[0].get_clim() == (0, 0.01)
    np.testing.assert_allclose(np.sort(drawn(ax)[1]), np.sort(1 - stored(adata, "shift", 5)))


@pytest.mark.parametrize("name", ["SYM5", "sarcomere"])
def test_colours_are_centred_shifts(perturbed, centred, name) -> None:
    adata = perturbed(rank=False)
    ours = sg.pl.shift_embedding(adata, name, show=False)
    expected = sg.pl.shift_embedding(centred(adata), name, centered=False, show=False)
    for x, y in zip(drawn(ours), drawn(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)
    assert "beyond other genes" in ours.figure.axes[1].get_ylabel().replace("\n", " ")


def test_a_gene_that_was_perturbed_alone_is_not_centred(perturbed) -> None:
    adata = perturbed(rank=False)
    for name in [x for x in adata.layers if x is not None]:
        only = sparse.csr_matrix(adata.layers[name].multiply(np.arange(adata.n_vars) == 5))
        only.eliminate_zeros()
        adata.layers[name] = only
    with pytest.raises(ValueError, match="centered=False"):
        sg.pl.shift_embedding(adata, "SYM5")
    sg.pl.shift_embedding(adata, "SYM5", centered=False, show=False)


def test_any_basis(perturbed) -> None:
    adata = perturbed(rank=False)
    adata.obsm["spatial"] = adata.obsm["X_umap"] * 2
    ax = sg.pl.shift_embedding(adata, "SYM5", basis="spatial", show=False)
    np.testing.assert_allclose(np.sort(drawn(ax)[0], axis=0), np.sort(adata.obsm["spatial"], axis=0))


@pytest.mark.parametrize(
    ("genes", "options", "error", "match"),
    [
        ("SYM5", {"basis": "tsne"}, KeyError, r"\.obsm\['X_tsne'\]"),
        ("SYM5", {"key": "other"}, KeyError, r"sg\.tl\.perturb"),
        ("SYM5", {"state": "C"}, ValueError, "not an end state"),
        ("nothing", {}, KeyError, r"The sets are \['up\|down', 'sarcomere'\]"),
        ([], {}, ValueError, "names no gene"),
    ],
)
def test_errors(perturbed, genes, options, error, match) -> None:
    with pytest.raises(error, match=match):
        sg.pl.shift_embedding(perturbed(rank=False), genes, **options)
    assert plt.get_fignums() == []


def test_one_axes_takes_one_gene(perturbed) -> None:
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="one gene"):
        sg.pl.shift_embedding(perturbed(rank=False), ["SYM5", "SYM6"], ax=ax)


def test_no_shifts_at_all(perturbed) -> None:
    adata = perturbed(rank=False)
    del adata.layers["shift"], adata.obsm["shift_sets"]
    with pytest.raises(KeyError, match=r"No shifts in \.layers\['shift'\]"):
        sg.pl.shift_embedding(adata, "SYM5")
