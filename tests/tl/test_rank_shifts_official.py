"""The recorded statistics tables of official Geneformer, from the recorded shifts they were made of.

``compat="official"`` reproduces them to 1e-9; without it, the tests show the differences, and that ours is right.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.stats import mannwhitneyu, ranksums, t

import scgeneformer as sg
from scgeneformer import stats

if TYPE_CHECKING:
    from pathlib import Path

RTOL = 1e-9
MODES = {"v1": "cell", "v2": "cls"}
B2M = {"v1": "11842", "v2": "11717"}
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
    adata.var["token_id"] = [int(token) if "|" not in token else -1 for token in adata.var_names]
    adata.uns["shift"] = {"params": {"kind": "delete"} | (STATES if goal else {})}
    return adata


def as_set(adata: AnnData, name: str = "three") -> AnnData:
    """The same with the only column of each layer as a set."""
    assert adata.n_vars == 1
    for layer in [name for name in adata.layers if name is not None]:
        values = pd.DataFrame({name: adata.layers.pop(layer).toarray().ravel()}, index=adata.obs_names)
        adata.obsm[layer.replace("shift", "shift_sets")] = values
    return adata


def with_effects(shared: Path, name: str, perturbed: str | None = None) -> AnnData:
    """Recorded effects on genes as `tl.perturb` stores them: a row of `varp` for a gene, a column of `varm` for a set."""
    frame = pd.read_parquet(shared / f"conformance/perturb/{name}.genes.parquet")
    frame = frame[frame["perturbed"] == perturbed] if perturbed else frame
    of = frame["perturbed"].iloc[0]
    genes = pd.Index(frame["affected"].astype(str).unique())
    genes = genes if "|" in of else genes.union([of])
    adata = AnnData(sparse.csr_matrix((1, len(genes))), var=pd.DataFrame(index=genes))
    by_gene = frame.assign(total=frame["n"] * frame["mean"]).groupby("affected")[["n", "total"]].sum()
    at, n = genes.get_indexer(by_gene.index.astype(str)), by_gene["n"].to_numpy()
    for key, values in {"": by_gene["total"].to_numpy() / n, "_n": n, "_sd": np.zeros(len(n))}.items():
        if "|" in of:
            column = np.full(len(genes), 0 if key == "_n" else np.nan)
            column[at] = values
            adata.varm["shift_sets" + key] = pd.DataFrame({"three": column}, index=genes)
        else:
            row = np.full(len(n), genes.get_loc(of))
            adata.varp["shift" + key] = sparse.coo_matrix((values, (row, at)), (len(genes),) * 2).tocsr()
    return adata


def read_table(shared: Path, name: str) -> pd.DataFrame:
    table = pd.read_csv(shared / f"conformance/stats/{name}.csv.gz", index_col=0)
    return table.set_index(table["Gene"].astype(str).rename("token"))


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_goal_state_table(shared: Path, model: str, kind: str) -> None:
    adata = read_shifts(shared, f"{model}-tiny_all_{kind}_{MODES[model]}_states", goal=True)
    sg.tl.rank_shifts(adata, compat="official")
    official = read_table(shared, f"{model}-tiny_goal_state_{kind}_all")
    assert set(official.index) == set(adata.var_names)
    ours = adata.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(ours["n_cells"], official["N_Detections"])
    for column, their_column in {
        "effect": "Shift_to_goal_end",
        "effect_B": "Shift_to_alt_end_B",
        "pvals": "Goal_end_vs_random_pval",
        "pvals_B": "Alt_end_vs_random_pval_B",
        "pvals_adj": "Goal_end_FDR",
        "pvals_adj_B": "Alt_end_FDR_B",
    }.items():
        np.testing.assert_allclose(ours[column], official[their_column], rtol=RTOL, atol=1e-18, err_msg=column)
    # the order of the table, up to exchanges within equal values
    np.testing.assert_allclose(sg.get.shifts(adata)["effect"], official["Shift_to_goal_end"], rtol=RTOL, atol=1e-18)


@pytest.mark.parametrize("model", MODES)
def test_the_official_pool_holds_the_tested_gene(shared: Path, model: str) -> None:
    """Therefore its p-values are larger for genes of many cells; ours compare the gene with the others."""
    adata = read_shifts(shared, f"{model}-tiny_all_delete_{MODES[model]}_states", goal=True)
    official = sg.tl.rank_shifts(adata, compat="official", copy=True).varm["shift"]
    sg.tl.rank_shifts(adata, min_cells=1, centered=False)
    ours = adata.varm["shift"]
    layer = adata.layers["shift"].tocsc()
    gene = int(np.argmax(np.diff(layer.indptr)))
    own = layer.data[layer.indptr[gene] : layer.indptr[gene + 1]]
    others = np.delete(layer.data, np.s_[layer.indptr[gene] : layer.indptr[gene + 1]])
    np.testing.assert_allclose(official["pvals"].iloc[gene], ranksums(own, layer.data).pvalue, rtol=RTOL)
    np.testing.assert_allclose(
        ours["pvals"].iloc[gene],
        mannwhitneyu(own, others, method="asymptotic", use_continuity=False).pvalue,
        rtol=RTOL,
    )
    assert (np.abs(ours["scores"]) >= np.abs(official["scores"]) * (1 - RTOL)).all()


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_listed_genes_table(shared: Path, model: str, kind: str) -> None:
    """One set of three genes, recorded as one row of means without tests."""
    adata = as_set(read_shifts(shared, f"{model}-tiny_list-three_{kind}_{MODES[model]}_states", goal=True))
    sg.tl.rank_shifts(adata, compat="official")
    official = pd.read_csv(shared / f"conformance/stats/{model}-tiny_goal_state_{kind}_three.csv.gz", index_col=0)
    ours = adata.uns["shift"]["sets"]
    np.testing.assert_allclose(
        ours[["effect", "effect_B"]], official[["Shift_to_goal_end", "Shift_to_alt_end_B"]], rtol=RTOL
    )
    assert "shift" not in adata.varm


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_aggregated_cells(shared: Path, model: str, kind: str) -> None:
    """The official table is a long list of similarities; its mean, and the row of the whole cell in the table of gene effects."""
    adata = read_shifts(shared, f"{model}-tiny_list-B2M_{kind}_{MODES[model]}_sub100", goal=False)
    sg.tl.rank_shifts(adata, test="aggregate", compat="official")
    row = adata.varm["shift"].iloc[0]
    folder = shared / "conformance/stats"
    long = pd.read_csv(folder / f"{model}-tiny_aggregate_B2M_{kind}.csv.gz", index_col=0)["Cosine_sim"]
    np.testing.assert_allclose(np.sort(adata.layers["shift"].data), np.sort(long), rtol=RTOL)
    np.testing.assert_allclose([1 - row["effect"], row["sd"]], [long.mean(), long.std()], rtol=RTOL)
    np.testing.assert_allclose(1 - row[["effect_high", "effect_low"]], t.interval(0.95, len(long) - 1, long.mean(), long.sem()), rtol=RTOL)  # fmt: skip
    cell = pd.read_csv(folder / f"{model}-tiny_geneshifts_B2M_{kind}.csv.gz", index_col=0).iloc[0]
    assert cell["Affected"] == "cell_emb"
    n = row["n_cells"]
    np.testing.assert_allclose(
        [1 - row["effect"], row["sd"] * np.sqrt((n - 1) / n), n],
        cell[["Cosine_sim_mean", "Cosine_sim_stdev", "N_Detections"]].astype(float),
        rtol=RTOL,
    )


@pytest.mark.parametrize("model", MODES)
def test_several_genes_aggregate(shared: Path, model: str) -> None:
    """Official Geneformer fails for a set of more than one gene."""
    failures = json.loads((shared / "conformance/manifest.json").read_text())["official_failures"]
    (failure,) = (f for f in failures if f["name"] == f"{model}-tiny_aggregate_three_delete")
    assert "Length of values (3) does not match" in failure["error"]
    adata = as_set(read_shifts(shared, f"{model}-tiny_list-three_delete_{MODES[model]}_sub100", goal=False))
    values = adata.obsm["shift_sets"]["three"]
    sg.tl.rank_shifts(adata, test="aggregate")
    (row,) = sg.get.shifts(adata).to_dict("records")
    assert (row["set"], row["n_cells"]) == ("three", len(values))
    interval = t.interval(0.95, len(values) - 1, 1 - values.mean(), values.sem())
    np.testing.assert_allclose(
        [row["effect"], row["sd"], row["effect_low"], row["effect_high"]],
        [1 - values.mean(), values.std(), *interval],
        rtol=RTOL,
    )


@pytest.mark.parametrize(
    "name",
    [
        *(f"{model}-tiny_geneshifts_B2M_{kind}" for model in MODES for kind in ("delete", "overexpress")),
        *("v1-tiny_geneshifts_three_delete", "v2-tiny_geneshifts_three_delete", "v2-tiny_geneshifts_three_overexpress"),
    ],
)
def test_effects_on_genes_table(shared: Path, name: str) -> None:
    """Standard deviations are recorded in the table only, so that means, numbers and the order are compared."""
    model, _, what, kind = name.replace("-tiny", "").split("_")
    adata = with_effects(shared, f"{model}-tiny_list-{what}_{kind}_{MODES[model]}_and_gene_sub100")
    official = pd.read_csv(shared / f"conformance/stats/{name}.csv.gz", index_col=0).iloc[1:]
    ours = sg.get.effects(adata, "three" if what == "three" else str(official["Perturbed"].iloc[0]))
    np.testing.assert_allclose(ours["cosine"], official["Cosine_sim_mean"], rtol=RTOL)
    ours, official = ours.set_index("names"), official.set_index("Affected").loc[ours["names"]]
    np.testing.assert_allclose(ours["cosine"], official["Cosine_sim_mean"], rtol=RTOL)
    np.testing.assert_array_equal(ours["n_cells"], official["N_Detections"])


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_effects_of_an_anchor_table(shared: Path, model: str, kind: str) -> None:
    """A mixture over the genes that B2M affects. Impact needs their values in cells, which only the recording has."""
    name = f"{model}-tiny_all_{kind}_{MODES[model]}gene_short2"
    official = read_table(shared, f"{model}-tiny_anchorB2M_effect_{kind}")
    b2m = B2M[model]
    ours = sg.get.effects(with_effects(shared, name, b2m), b2m).set_index("names")
    assert set(ours.index) == set(official.index)
    np.testing.assert_allclose(ours["cosine"], official["Test_avg_shift"], rtol=RTOL)
    ours = ours.loc[official.index]
    np.testing.assert_allclose(ours["cosine"], official["Test_avg_shift"], rtol=RTOL)
    np.testing.assert_array_equal(ours["n_cells"], official["N_Detections"])
    by_token = ours.iloc[np.argsort(ours.index.astype(int))]
    mixture = stats.two_components(by_token["cosine"], compat="official")
    np.testing.assert_array_equal(mixture.official_impact(ours["cosine"].to_numpy()), official["Impact_component"] == 1)
    cells = pd.read_parquet(shared / f"conformance/perturb/{name}.genes.parquet").query(f"perturbed == '{b2m}'")
    genes = official.index.get_indexer(cells["affected"].astype(str))
    _, percent = stats.group_means(100.0 * mixture.official_impact(cells["mean"].to_numpy()), genes, len(official))
    np.testing.assert_allclose(percent, official["Impact_component_percent"], rtol=RTOL)


@pytest.mark.parametrize("model", MODES)
def test_interaction_with_an_anchor(shared: Path, model: str) -> None:
    """Official ``Combo_minus_sum_shift``, from the recorded shifts: the official statistics fail on them."""
    failures = json.loads((shared / "conformance/manifest.json").read_text())["official_failures"]
    (failure,) = (f for f in failures if f["name"] == f"{model}-tiny_anchor_combo_mixture")
    assert "not subscriptable" in failure["error"]
    single = read_shifts(shared, f"{model}-tiny_all_delete_{MODES[model]}gene_short2", goal=False)
    pairs = read_shifts(shared, f"{model}-tiny_anchorB2M_delete_{MODES[model]}_short2", goal=False)
    assert set(pairs.var_names) == set(single.var_names) - {B2M[model]}
    adata = single[pairs.obs_names].copy()
    adata.layers["single"] = adata.layers["shift"]
    entries = pairs.layers["shift"].tocoo()
    at = entries.row, adata.var_names.get_indexer(pairs.var_names)[entries.col]
    adata.layers["shift"] = sparse.coo_matrix((entries.data, at), adata.shape).tocsr()
    adata.uns["single"] = {"params": dict(adata.uns["shift"]["params"])}
    adata.uns["shift"]["params"]["anchor"] = B2M[model]
    sg.tl.rank_shifts(adata, test="interaction", singles="single", min_cells=2)
    table = adata.varm["shift"]
    alone, anchor = adata.layers["single"].toarray(), adata.var_names.get_loc(B2M[model])
    for gene in range(0, adata.n_vars, 37):
        of_gene = at[1] == gene
        a, x, combo = alone[at[0][of_gene], anchor], alone[at[0][of_gene], gene], entries.data[of_gene]
        combo_minus_sum = combo - (1 - ((1 - a) + (1 - x)))
        row = table.iloc[gene]
        assert row["n_cells"] == len(combo)
        np.testing.assert_allclose(row["effect"], -combo_minus_sum.mean(), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(row[["pair_effect", "gene_effect", "anchor_effect"]].astype(float), [1 - combo.mean(), 1 - x.mean(), 1 - a.mean()])  # fmt: skip


@pytest.mark.parametrize("model", MODES)
def test_null_table(shared: Path, model: str) -> None:
    """Official p-values do not correct for ties, and a gene absent from the null counts as a test with p = 1."""
    adata = read_shifts(shared, f"{model}-tiny_all_delete_{MODES[model]}_short6", goal=False)
    null = read_shifts(shared, f"{model}-tiny_all_delete_{MODES[model]}_nk4", goal=False)
    sg.tl.rank_shifts(adata, test="vs_null", null=null, compat="official")
    official = read_table(shared, f"{model}-tiny_vs_null_delete")
    same = adata.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(same["n_cells"], official["N_Detections_test"])
    np.testing.assert_array_equal(same["null_n_cells"], official["N_Detections_null"])
    np.testing.assert_allclose(1 - same["effect"], official["Test_avg_shift"], rtol=RTOL)
    np.testing.assert_allclose(1 - same["null_effect"], official["Null_avg_shift"], rtol=RTOL)
    difference = same["null_effect"] - same["effect"]
    np.testing.assert_allclose(difference, official["Test_vs_null_avg_shift"], rtol=RTOL, atol=1e-15)
    np.testing.assert_allclose(same["pvals"], official["Test_vs_null_pval"], rtol=RTOL)
    np.testing.assert_allclose(same["pvals_adj"], official["Test_vs_null_FDR"], rtol=RTOL)
    # ours: the same evidence where no values are tied, more where some are, none where there is no null
    sg.tl.rank_shifts(adata, test="vs_null", null=null, min_cells=1, centered=False)
    ours = adata.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(ours["pvals"].isna(), official["N_Detections_null"] == 0)
    tested = ours["pvals"].notna()
    assert (ours["pvals"][tested] <= official["Test_vs_null_pval"][tested] * (1 + RTOL)).all()


@pytest.mark.parametrize("model", MODES)
def test_null_with_goal_states(shared: Path, model: str) -> None:
    """The official statistics fail there; overexpression in the place of a null, as an oracle."""
    adata = read_shifts(shared, f"{model}-tiny_all_delete_{MODES[model]}_states", goal=True)
    null = read_shifts(shared, f"{model}-tiny_all_overexpress_{MODES[model]}_states", goal=True)
    with pytest.raises(ValueError, match="without goal states only"):
        sg.tl.rank_shifts(adata, test="vs_null", null=null, compat="official")
    sg.tl.rank_shifts(adata, test="vs_null", null=null, min_cells=2, centered=False)
    for layer, suffix in (("shift", ""), ("shift_T", "_T"), ("shift_B", "_B")):
        a, b = adata.layers[layer].tocsc(), null.layers[layer].tocsc()
        for gene in range(0, adata.n_vars, 61):
            x = a.data[a.indptr[gene] : a.indptr[gene + 1]]
            i = null.var_names.get_indexer(adata.var_names[[gene]])[0]
            y = b.data[b.indptr[i] : b.indptr[i + 1]] if i >= 0 else np.empty(0)
            row = adata.varm["shift"].iloc[gene]
            if len(x) < 2 or len(y) == 0:
                assert np.isnan(row["pvals" + suffix])
                continue
            expected = mannwhitneyu(x, y, method="asymptotic", use_continuity=False).pvalue
            np.testing.assert_allclose(row["pvals" + suffix], expected, rtol=1e-8)
            np.testing.assert_allclose(row["null_effect" + suffix], y.mean(), rtol=1e-9)


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("model", MODES)
def test_mixture_table(shared: Path, model: str, kind: str) -> None:
    """The recorded impact follows scikit-learn's arbitrary order of components; ours is the component of larger effects."""
    adata = read_shifts(shared, f"{model}-tiny_all_{kind}_{MODES[model]}_short6", goal=False)
    adata = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()  # the order of genes does not matter
    official = read_table(shared, f"{model}-tiny_mixture_{kind}")
    same = sg.tl.rank_shifts(adata, test="mixture", compat="official", copy=True)
    table = same.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(table["n_cells"], official["N_Detections"])
    np.testing.assert_allclose(1 - table["effect"], official["Test_avg_shift"], rtol=RTOL)
    np.testing.assert_array_equal(table["impact"], official["Impact_component"])
    np.testing.assert_allclose(100 * table["impact_fraction"], official["Impact_component_percent"], rtol=RTOL)

    sg.tl.rank_shifts(adata, test="mixture", min_cells=1, centered=False)
    ours = adata.varm["shift"].loc[official.index]
    np.testing.assert_array_equal(ours["impact"] == 1, ours["effect"] >= ours.loc[ours["impact"] == 1, "effect"].min())
    lower, upper = adata.uns["shift"]["rank"]["components"]["mean"]
    assert lower < upper
    assert (ours["impact"][ours["effect"] > upper] == 1).all()
    assert (ours["impact"][ours["effect"] < lower] == 0).all()
    first, second = same.uns["shift"]["rank"]["components"]["mean"]
    if (
        model == "v1"
    ):  # values large enough for the official fit, which is then ours, with smaller effects counted as impact
        np.testing.assert_allclose([first, second], [lower, upper], atol=2e-3)
        assert ours["impact"][official["Impact_component"] == 1].all()
        assert ours["impact"].mean() > official["Impact_component"].mean()
