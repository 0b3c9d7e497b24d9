from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import scgeneformer as sg


def means(adata, layer: str, genes, min_cells: int) -> np.ndarray:
    """Group by group and gene by gene, from stored values."""
    table = np.full((len(genes), 3), np.nan)
    for i, gene in enumerate(genes):
        column = adata.layers[layer][:, [adata.var_names.get_loc(gene)]].tocoo()
        for j, group in enumerate(adata.obs["group"].cat.categories):
            values = column.data[(adata.obs["group"] == group).to_numpy()[column.row]]
            if len(values) >= min_cells:
                table[i, j] = values.mean()
    return table


def drawn(ax) -> np.ndarray:
    return ax.collections[0].get_array().filled(np.nan).reshape(len(ax.get_yticks()), -1)


@pytest.mark.parametrize(("state", "layer"), [(None, "shift"), ("T", "shift"), ("B", "shift_B")])
def test_heat_is_the_mean_of_stored_values(perturbed, state, layer) -> None:
    adata = perturbed()
    genes = adata.var_names[[5, 2, 0]].tolist()
    ax = sg.pl.shift_heatmap(adata, groupby="group", genes=genes, state=state, centered=False, show=False)
    np.testing.assert_allclose(drawn(ax), means(adata, layer, genes, 5))
    assert np.isnan(drawn(ax)).sum() == 1  # gene 2 was not tested in T/NK
    assert [t.get_text() for t in ax.get_yticklabels()] == adata.var.loc[genes, "gene_symbols"].tolist()
    assert [t.get_text() for t in ax.get_xticklabels()] == list(adata.obs["group"].cat.categories)
    low, high = ax.collections[0].get_clim()
    assert -low == high == np.nanmax(np.abs(drawn(ax)))
    bar = ax.figure.axes[1]
    assert f"towards {state or 'T'}" in bar.get_ylabel()
    assert ax.patch.get_hatch() == "////"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["< 5 cells"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_groups_may_be_of_the_mudata_or_another_modality(perturbed) -> None:
    adata = perturbed()
    genes = adata.var_names[[5, 0]].tolist()
    expected = drawn(sg.pl.shift_heatmap(adata, groupby="group", genes=genes, show=False))
    groups = adata.obs.pop("group")
    mdata = MuData({"rna": adata, "prot": AnnData(np.ones((len(groups), 1)), obs=pd.DataFrame({"gate": groups}))})
    mdata.obs["group"] = groups
    for groupby in ("group", "prot:gate"):
        ax = sg.pl.shift_heatmap(mdata, groupby=groupby, genes=genes, show=False)
        np.testing.assert_array_equal(drawn(ax), expected)


def test_without_goal_states_heat_is_one_minus_similarity(perturbed) -> None:
    adata = perturbed(goal=False)
    genes = adata.var_names[:2].tolist()
    ax = sg.pl.shift_heatmap(
        adata, groupby="group", genes=adata.var["gene_symbols"][:2], min_cells=1, centered=False, show=False
    )
    np.testing.assert_allclose(drawn(ax), 1 - means(adata, "shift", genes, 1))
    assert ax.collections[0].get_clim()[0] == 0
    assert ax.get_legend() is None
    assert "1 − cosine similarity" in ax.figure.axes[1].get_ylabel()


@pytest.mark.parametrize("goal", [True, False])
@pytest.mark.parametrize("reference", [True, False])
def test_heat_is_the_mean_of_centred_shifts(perturbed, centred, goal, reference) -> None:
    adata = perturbed(goal=goal, rank=False)
    if reference:
        for name in [x for x in adata.layers if x is not None]:
            adata.layers[name.replace("shift", "shift__reference")] = adata.layers[name][:, ::-1].tocsr()
    genes = [*adata.var_names[[5, 0]], "sarcomere"]
    ours = drawn(sg.pl.shift_heatmap(adata, groupby="group", genes=genes, show=False))
    plain = drawn(sg.pl.shift_heatmap(centred(adata), groupby="group", genes=genes, centered=False, show=False))
    np.testing.assert_allclose(ours, plain if goal else plain - 1, atol=1e-12)


def test_by_default_the_strongest_tested_genes(perturbed, assert_apart) -> None:
    adata = perturbed()
    figure = sg.pl.shift_heatmap(adata, groupby="group", n_top=8, return_fig=True)
    ax = figure.axes[0]
    table = adata.varm["shift"].set_index(adata.var["gene_symbols"])
    strongest = table["effect"][table["scores"].abs().nlargest(8).index].sort_values(ascending=False)
    assert [t.get_text() for t in ax.get_yticklabels()] == strongest.index.tolist()
    assert ax.get_legend() is None  # all are tested in all groups
    bar = figure.axes[1]
    assert_apart(figure, [*ax.get_yticklabels(), bar.yaxis.label])


def test_sets_by_their_names(perturbed) -> None:
    adata = perturbed()
    ax = sg.pl.shift_heatmap(adata, groupby="group", genes=["up/down", "sarcomere"], centered=False, show=False)
    expected = adata.obsm["shift_sets"].groupby(adata.obs["group"], observed=False).mean().T
    np.testing.assert_allclose(drawn(ax), expected)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["up/down", "sarcomere"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"groupby": "type"}, KeyError, r"No column 'type' in \.obs"),
        ({"key": "other"}, KeyError, r"sg\.tl\.perturb"),
        ({"genes": ["nothing"]}, KeyError, "'nothing' is neither"),
        ({"genes": ["SYM39"]}, ValueError, "'SYM39' was perturbed in no cell"),
        ({"genes": []}, ValueError, "names no gene"),
        ({"state": "C"}, ValueError, "not an end state"),
        ({"gene_symbols": "names"}, KeyError, "No column 'names'"),
        ({"rank": False}, KeyError, r"sg\.tl\.rank_shifts"),
    ],
)
def test_errors(perturbed, options, error, match) -> None:
    adata = perturbed(rank=options.pop("rank", True))
    with pytest.raises(error, match=match):
        sg.pl.shift_heatmap(adata, **({"groupby": "group"} | options))
    assert plt.get_fignums() == []


def test_a_dense_layer_is_refused(perturbed) -> None:
    adata = perturbed()
    adata.layers["shift"] = adata.layers["shift"].toarray()
    with pytest.raises(ValueError, match="only a CSR or CSC"):
        sg.pl.shift_heatmap(adata, groupby="group")
