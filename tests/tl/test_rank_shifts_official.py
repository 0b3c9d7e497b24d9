"""The recorded statistics tables of official Geneformer, from the recorded shifts they were made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.mixture import GaussianMixture

import scgeneformer as sg
from scgeneformer import stats

if TYPE_CHECKING:
    from pathlib import Path

RTOL = 1e-9
MODES = {"v1": "cell", "v2": "cls"}
STATES = {"target": "Mono", "source": "T", "others": ["B"]}


def read_shifts(shared: Path, name: str, *, goal: bool) -> AnnData:
    """Recorded shifts as `tl.perturb` stores them: cells x perturbed tokens."""
    frame = pd.read_parquet(shared / f"conformance/perturb/{name}.parquet")
    cells, genes = pd.Index(frame["cell"].unique()), pd.Index(frame["perturbed"].unique())
    shape = len(cells), len(genes)
    adata = AnnData(sparse.csr_matrix(shape), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    for state, part in frame.groupby("state"):
        at = cells.get_indexer(part["cell"]), genes.get_indexer(part["perturbed"])
        layer = "shift" if state in ("", "Mono") else f"shift_{state}"
        adata.layers[layer] = sparse.coo_matrix((part["value"].to_numpy(), at), shape).tocsr()
        assert adata.layers[layer].nnz == len(part)
    adata.uns["shift"] = {"params": {"kind": "delete"} | (STATES if goal else {})}
    return adata


def read_table(shared: Path, name: str) -> pd.DataFrame:
    table = pd.read_csv(shared / f"conformance/stats/{name}.csv.gz", index_col=0)
    return table.set_index(table["Gene"].astype(str).rename("token"))


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_goal_state_table(shared: Path, model: str, kind: str) -> None:
    adata = read_shifts(shared, f"{model}-tiny_all_{kind}_{MODES[model]}_states", goal=True)
    sg.tl.rank_shifts(adata, pool="all", min_cells=1)
    official = read_table(shared, f"{model}-tiny_goal_state_{kind}_all")
    assert set(official.index) == set(adata.var_names)
    ours = adata.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(ours["n_cells"], official["N_Detections"])
    for column, their_column in {
        "effect": "Shift_to_goal_end",
        "effect_B": "Shift_to_alt_end_B",
        "pval": "Goal_end_vs_random_pval",
        "pval_B": "Alt_end_vs_random_pval_B",
        "fdr": "Goal_end_FDR",
        "fdr_B": "Alt_end_FDR_B",
    }.items():
        np.testing.assert_allclose(ours[column], official[their_column], rtol=RTOL, atol=1e-18, err_msg=column)
    # the order of the table, up to exchanges within equal values
    np.testing.assert_allclose(sg.get.shifts(adata)["effect"], official["Shift_to_goal_end"], rtol=RTOL, atol=1e-18)


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_listed_genes_table(shared: Path, model: str, kind: str) -> None:
    """One set of three genes, recorded as one row of means."""
    adata = read_shifts(shared, f"{model}-tiny_list-three_{kind}_{MODES[model]}_states", goal=True)
    sg.tl.rank_shifts(adata, min_cells=1)
    official = pd.read_csv(shared / f"conformance/stats/{model}-tiny_goal_state_{kind}_three.csv.gz", index_col=0)
    ours = adata.varm["shift"][["effect", "effect_B"]]
    np.testing.assert_allclose(ours, official[["Shift_to_goal_end", "Shift_to_alt_end_B"]], rtol=RTOL)
    assert adata.varm["shift"]["pval"].isna().all()  # nothing to compare with


@pytest.mark.parametrize("model", MODES)
def test_null_table(shared: Path, model: str) -> None:
    """Official p-values do not correct for ties, and a gene absent from the null counts as a test with p = 1."""
    adata = read_shifts(shared, f"{model}-tiny_all_delete_{MODES[model]}_short6", goal=False)
    null = read_shifts(shared, f"{model}-tiny_all_delete_{MODES[model]}_nk4", goal=False)
    sg.tl.rank_shifts(adata, test="vs_null", null=null, min_cells=1)
    official = read_table(shared, f"{model}-tiny_vs_null_delete")
    ours = adata.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(ours["n_cells"], official["N_Detections_test"])
    np.testing.assert_array_equal(ours["null_n_cells"], official["N_Detections_null"])
    np.testing.assert_allclose(1 - ours["effect"], official["Test_avg_shift"], rtol=RTOL)
    np.testing.assert_allclose(1 - ours["null_effect"], official["Null_avg_shift"], rtol=RTOL)

    long = [
        (x.layers["shift"].data, official.index.get_indexer(x.var_names)[x.layers["shift"].indices])
        for x in (adata, null)
    ]
    (values, genes), (null_values, null_genes) = long
    shared_genes = null_genes >= 0
    plain = stats.rank_sum_null(
        values, genes, null_values[shared_genes], null_genes[shared_genes], len(official), ties=False
    )
    pvalue = np.nan_to_num(plain.pvalue, nan=1.0)
    np.testing.assert_allclose(pvalue, official["Test_vs_null_pval"], rtol=RTOL)
    np.testing.assert_allclose(stats.benjamini_hochberg(pvalue), official["Test_vs_null_FDR"], rtol=RTOL)
    # ours: the same evidence where no values are tied, more where some are, none where there is no null
    np.testing.assert_array_equal(ours["pval"].isna(), official["N_Detections_null"] == 0)
    tested = ours["pval"].notna()
    assert (ours["pval"][tested] <= official["Test_vs_null_pval"][tested] * (1 + RTOL)).all()


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_mixture_table(shared: Path, model: str, kind: str) -> None:
    """Means and counts are official. The recorded impact follows scikit-learn's arbitrary order of components, which is shown
    by redoing it; ours is the component of larger effects."""
    adata = read_shifts(shared, f"{model}-tiny_all_{kind}_{MODES[model]}_short6", goal=False)
    sg.tl.rank_shifts(adata, test="mixture", min_cells=1)
    official = read_table(shared, f"{model}-tiny_mixture_{kind}")
    ours = adata.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(ours["n_cells"], official["N_Detections"])
    np.testing.assert_allclose(1 - ours["effect"], official["Test_avg_shift"], rtol=RTOL)

    by_token = official.sort_values("Gene")["Test_avg_shift"].to_numpy()[:, None]
    means = np.sort(GaussianMixture(2, random_state=0).fit(by_token).means_[:, 0])
    impact = official["Impact_component"].to_numpy() == 1
    average = official["Test_avg_shift"].to_numpy()
    # recorded impact ends at the lower mean, not between the two
    window = 0.1 * average.std()
    np.testing.assert_allclose([average[impact].max(), average[~impact].min()], means[0], rtol=0, atol=window)
    layer = adata[:, official.index].layers["shift"].tocsc()
    genes = np.repeat(np.arange(len(official)), np.diff(layer.indptr))
    _, below = stats.group_means(layer.data < means[0], genes, len(official))
    assert np.mean(np.abs(100 * below - official["Impact_component_percent"]) < 1e-9) > 0.99

    np.testing.assert_array_equal(ours["impact"] == 1, ours["effect"] >= ours.loc[ours["impact"] == 1, "effect"].min())
    lower, upper = adata.uns["shift"]["rank"]["components"]["mean"]
    assert lower < upper
    assert (ours["impact"][ours["effect"] > upper] == 1).all()
    assert (ours["impact"][ours["effect"] < lower] == 0).all()
    if model == "v1":  # values large enough for the official fit, which is then ours
        np.testing.assert_allclose(np.sort([1 - lower, 1 - upper]), means, atol=2e-3)
        assert ours["impact"].to_numpy()[impact].all()
        assert ours["impact"].mean() > impact.mean()
