from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scanpy import logging as logg
from scipy import sparse, stats

import scgeneformer as sg
from scgeneformer import _keys


def simulate(*, goal: bool = True, n_cells: int = 40, n_genes: int = 30, seed: int = 0) -> AnnData:
    """Shifts of random (cell, gene) pairs, some exactly 0; gene 0 strong, gene 1 in two cells, gene 2 in none."""
    rng = np.random.default_rng(seed)
    tested = rng.random((n_cells, n_genes)) < rng.uniform(0.3, 0.9, n_genes)
    tested[:, 0], tested[2:, 1], tested[:2, 1], tested[:, 2] = True, False, True, False
    rows, columns = np.nonzero(tested)

    def layer(strength: float) -> sparse.csr_matrix:
        values = rng.normal(0, 1e-3, len(rows)) + strength * (columns == 0)
        values[rng.random(len(rows)) < 0.1] = 0
        values = values if goal else 1 - np.abs(values)
        return sparse.coo_matrix((values, (rows, columns)), tested.shape).tocsr()

    adata = AnnData(
        sparse.csr_matrix(tested.astype(np.float32)),
        obs=pd.DataFrame(
            {"donor": rng.choice(["a", "b", "c", "d"], n_cells)}, index=[f"cell{i}" for i in range(n_cells)]
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )
    adata.layers["shift"] = layer(3e-3)
    params = {"kind": "delete", "weights_sha256": "0", "emb_layer": -1, "pooling": "mean"}
    if goal:
        adata.layers["shift_T"], adata.layers["shift_B"] = layer(-2e-3), layer(0.0)
        params |= {"target": "Mono", "source": "T", "others": np.array(["B"], dtype=object)}
    adata.uns["shift"] = {"params": params}
    return adata


def stored(adata: AnnData, layer: str, gene: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells and values of one gene, by a loop over stored entries."""
    coo = adata.layers[layer].tocoo()
    at = coo.col == gene
    return coo.row[at], coo.data[at]


def effects_of(adata: AnnData, layer: str, *, goal: bool, centered: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, genes and effects of stored entries, less the mean of their cell if `centered`, by a loop over cells."""
    coo = adata.layers[layer].tocoo()
    effects = coo.data.copy() if goal else 1 - coo.data
    for cell in np.unique(coo.row) if centered else ():
        effects[coo.row == cell] -= effects[coo.row == cell].mean()
    return coo.row, coo.col, effects


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("goal", [True, False])
def test_columns_are_scipys_per_gene(goal: bool, centered: bool) -> None:
    adata = simulate(goal=goal)
    untested = goal and centered  # rank sums of centred shifts towards states are refused
    sg.tl.rank_shifts(adata, min_cells=3, centered=centered, test="aggregate" if untested else "rank_sum")
    assert adata.uns["shift"]["rank"]["centered"] is centered
    table = adata.varm["shift"]
    beside = "plain_effect" if centered else "centered_effect"
    assert {"plain_effect", "centered_effect"} & set(table) == {beside}
    for layer, suffix in [("shift", ""), ("shift_T", "_T"), ("shift_B", "_B")] if goal else [("shift", "")]:
        _, column, everything = effects_of(adata, layer, goal=goal, centered=centered)
        others_of_cells = effects_of(adata, layer, goal=goal, centered=not centered)[2]
        for gene in range(adata.n_vars):
            effects = everything[column == gene]
            values = stored(adata, layer, gene)[1]
            row = table.iloc[gene]
            assert row["n_cells"] == len(values)
            if len(values) == 0:
                assert row.drop("n_cells").isna().all()
                continue
            np.testing.assert_allclose(row["effect" + suffix], effects.mean(), rtol=1e-9)
            np.testing.assert_allclose(row[beside + suffix], others_of_cells[column == gene].mean(), rtol=1e-9)
            interval = stats.t.interval(0.95, len(effects) - 1, effects.mean(), stats.sem(effects))
            ours = row[[name + suffix for name in ("sd", "effect_low", "effect_high")]].to_numpy(dtype=float)
            np.testing.assert_allclose(ours, [effects.std(ddof=1), *interval], rtol=1e-9)
            if untested:
                continue
            if len(values) < 3:
                assert np.isnan(row["pvals" + suffix])
                continue
            others = everything[column != gene]
            expected = stats.mannwhitneyu(effects, others, method="asymptotic", use_continuity=False)
            np.testing.assert_allclose(row["pvals" + suffix], expected.pvalue, rtol=1e-8)
            assert np.sign(row["scores" + suffix]) == np.sign(stats.ranksums(effects, others).statistic)
        if not untested:
            tested = table["pvals" + suffix].dropna()
            expected = stats.false_discovery_control(tested)
            np.testing.assert_allclose(table["pvals_adj" + suffix].dropna(), expected, rtol=1e-12)
    assert table["effect" if untested else "scores"].idxmax() == "gene0"
    assert table.index.equals(adata.var_names)


def test_zeros_count_and_nan_does_not() -> None:
    adata = simulate()
    before = adata.copy()
    layer = adata.layers["shift"].copy()
    layer.data[layer.indices == 5] = 0.0
    layer.data[np.flatnonzero(layer.indices == 6)[0]] = np.nan
    adata.layers["shift"] = layer
    sg.tl.rank_shifts(adata)
    sg.tl.rank_shifts(before)
    ours, others = adata.varm["shift"], before.varm["shift"]
    assert ours.loc["gene5", "effect"] == 0
    assert ours.loc["gene5", "n_cells"] == others.loc["gene5", "n_cells"]
    assert ours.loc["gene6", "n_cells"] == others.loc["gene6", "n_cells"] - 1
    assert np.isfinite(ours.loc["gene6", "effect"])


@pytest.mark.parametrize("to", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize("options", [{}, {"test": "donors", "donor": "donor"}, {"compat": "official"}])
def test_format_and_order_of_cells_do_not_matter(to: type, options: dict) -> None:
    adata = simulate()
    other = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    for name in list(other.layers):
        other.layers[name] = to(other.layers[name])
    sg.tl.rank_shifts(adata, **options)
    sg.tl.rank_shifts(other, **options)
    pd.testing.assert_frame_equal(adata.varm["shift"], other.varm["shift"], rtol=1e-9)


@pytest.mark.parametrize("centered", [True, False])
def test_donors_are_the_replicates(centered: bool) -> None:
    adata = simulate(goal=not centered)
    adata.obs["donor"] = adata.obs["donor"].where(np.arange(adata.n_obs) > 3)
    sg.tl.rank_shifts(adata, donor="donor", centered=centered)
    table = adata.varm["shift"]
    row, column, effects = effects_of(adata, "shift", goal=not centered, centered=centered)
    donor = adata.obs["donor"].to_numpy()[row]
    of_donors = np.full((adata.n_vars, 4), np.nan)
    for (gene, d), _ in np.ndenumerate(of_donors):
        own, rest = ((donor == "abcd"[d]) & same for same in (column == gene, column != gene))
        if own.any():
            of_donors[gene, d] = effects[own].mean() - (0 if centered else effects[rest].mean())
    n = (~np.isnan(of_donors)).sum(axis=1)
    np.testing.assert_array_equal(table["n_donors"], n)
    some = n > 0
    np.testing.assert_allclose(table["effect"][some], np.nanmean(of_donors[some], axis=1), rtol=1e-9)
    # the variance is moderated, by one formula for all genes; the interval and the test have it in common
    enough = n >= 3
    variances = np.nanvar(of_donors[enough], axis=1, ddof=1)
    t, p, low, high = (table[name][enough].to_numpy() for name in ("scores", "pvals", "effect_low", "effect_high"))
    moderated = (table["effect"][enough] / t) ** 2 * n[enough]
    slope = np.polyfit(variances[n[enough] == 4], moderated[n[enough] == 4], 1)
    np.testing.assert_allclose(np.polyval(slope, variances[n[enough] == 4]), moderated[n[enough] == 4], rtol=1e-6)
    df = 3 / slope[0]
    full = n[enough] == 4
    np.testing.assert_allclose(p[full], 2 * stats.t.sf(np.abs(t[full]), df), rtol=1e-5)
    half = stats.t.ppf(0.975, df) * np.sqrt(moderated[full] / 4)
    np.testing.assert_allclose((high - low)[full] / 2, half, rtol=1e-5)
    assert table["pvals"].isna()[~enough].all()
    assert table.loc["gene0", "n_cells"] == adata.n_obs  # those without a donor too


def test_two_donors_have_no_interval(monkeypatch) -> None:
    adata = simulate()
    adata.obs["donor"] = np.where(np.arange(adata.n_obs) < 20, "a", "b")
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    sg.tl.rank_shifts(adata, test="donors", donor="donor")
    table = adata.varm["shift"]
    assert table[["pvals", "pvals_adj", "effect_low", "effect_high"]].isna().all(axis=None)
    assert table.loc["gene0", "effect"] > 1e-3
    assert warnings == ["2 donors are too few for intervals and p-values, which need 3."]


def test_columns_that_look_like_donors_are_named(monkeypatch) -> None:
    adata = simulate()
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    sg.tl.rank_shifts(adata)
    assert any("Rank with donor='donor'" in warning for warning in warnings)
    warnings.clear()
    assert adata.uns["shift"]["rank"]["replicates"] == "cells"
    sg.tl.rank_shifts(adata, test="donors", donor="donor")
    del adata.obs["donor"]
    sg.tl.rank_shifts(adata)
    assert not any("independent" in warning for warning in warnings)


def test_what_every_gene_does_to_a_cell_does_not_count() -> None:
    """Some cells are easy to move, and only these express some genes: the plain mean ranks these genes first, the centred mean does not."""
    rng = np.random.default_rng(0)
    adata = simulate()
    easy = np.arange(adata.n_obs) < 15
    shifts = adata.layers["shift"].tocoo()
    kept = (shifts.col >= 10) | easy[shifts.row] | (shifts.col == 0)  # genes 1 to 9 are in easy cells only
    row, col = shifts.row[kept], shifts.col[kept]
    values = 5e-3 * easy[row] + 1e-3 * (col == 0) + rng.normal(0, 1e-4, kept.sum())
    adata.layers["shift"] = sparse.coo_matrix((values, (row, col)), shifts.shape).tocsr()
    sg.tl.rank_shifts(adata, test="aggregate", centered=True)
    assert sg.get.shifts(adata).loc[0, "names"] == "gene0"
    assert adata.varm["shift"]["plain_effect"].drop("gene0").idxmax() in {f"gene{i}" for i in range(3, 10)}
    assert adata.varm["shift"]["plain_effect"].idxmax() != "gene0"
    only_easy = adata.varm["shift"].loc[[f"gene{i}" for i in range(3, 10)], "effect"]
    assert only_easy.abs().max() < 2e-4


def with_reference(adata: AnnData, genes: list[int]) -> AnnData:
    """The same, `genes` having been drawn at random beside the others."""
    for name in [x for x in adata.layers if x is not None]:
        coo = adata.layers[name].tocoo()
        drawn = np.isin(coo.col, genes)
        for layer, part in ((name, ~drawn), (name.replace("shift", "shift__reference"), drawn)):
            at = coo.row[part], coo.col[part]
            adata.layers[layer] = sparse.coo_matrix((coo.data[part], at), coo.shape).tocsr()
    return adata


def test_listed_genes_are_compared_with_the_reference() -> None:
    adata = with_reference(simulate(), list(range(10, 30)))
    sg.tl.rank_shifts(adata)
    table = adata.varm["shift"]
    for layer, reference, suffix in (("shift", "shift__reference", ""), ("shift_T", "shift__reference_T", "_T")):
        listed, random = adata.layers[layer].tocoo(), adata.layers[reference].tocoo()
        mean = np.array([random.data[random.row == cell].mean() for cell in range(adata.n_obs)])
        for gene in (0, 3, 7):
            at = listed.col == gene
            effects, row = listed.data[at], table.iloc[gene]
            np.testing.assert_allclose(row[f"effect{suffix}"], effects.mean(), rtol=1e-9)
            centred = (effects - mean[listed.row[at]]).mean()
            np.testing.assert_allclose(row[f"centered_effect{suffix}"], centred, rtol=1e-9)
            expected = stats.mannwhitneyu(effects, random.data, method="asymptotic", use_continuity=False).pvalue
            np.testing.assert_allclose(row[f"pvals{suffix}"], expected, rtol=1e-8)
    assert (table["n_cells"].iloc[10:] == 0).all()


def test_p_values_of_listed_genes_do_not_depend_on_the_list() -> None:
    adata = with_reference(simulate(), list(range(10, 30)))
    fewer = adata.copy()
    layer = fewer.layers["shift"].tocoo()
    at = np.isin(layer.col, [0, 5])
    fewer.layers["shift"] = sparse.coo_matrix((layer.data[at], (layer.row[at], layer.col[at])), layer.shape).tocsr()
    sg.tl.rank_shifts(adata)
    sg.tl.rank_shifts(fewer)
    columns = ["effect", "scores", "pvals"]
    ours, theirs = (x.varm["shift"].loc[["gene0", "gene5"], columns] for x in (fewer, adata))
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_single_gene_without_reference_has_nothing_to_compare_with() -> None:
    adata = simulate()
    layer = adata.layers["shift"].tocoo()
    for name in [x for x in adata.layers if x is not None]:
        layer = adata.layers[name].tocoo()
        at = layer.col == 0
        values = layer.data[at], (layer.row[at], layer.col[at])
        adata.layers[name] = sparse.coo_matrix(values, layer.shape).tocsr()
    with pytest.raises(ValueError, match=r"n_reference.*centered=False"):
        sg.tl.rank_shifts(adata, test="aggregate", centered=True)
    assert "shift" not in adata.varm
    sg.tl.rank_shifts(adata)
    assert np.isfinite(adata.varm["shift"].loc["gene0", "effect"])
    assert np.isnan(adata.varm["shift"].loc["gene0", "centered_effect"])


def test_null_is_matched_by_name_and_may_be_another_key() -> None:
    adata, null = simulate(), simulate(seed=1)
    del null.layers["shift_B"]
    shuffled = null[:, np.random.default_rng(1).permutation(null.n_vars)[:20]].copy()
    sg.tl.rank_shifts(adata, test="vs_null", null=shuffled, centered=False)
    table = adata.varm["shift"]
    assert "pvals_B" not in table
    for gene in range(adata.n_vars):
        a, b = stored(adata, "shift", gene)[1], stored(null, "shift", gene)[1]
        if f"gene{gene}" not in shuffled.var_names or len(a) < 5:
            assert np.isnan(table["pvals"].iloc[gene])
            continue
        expected = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False).pvalue
        np.testing.assert_allclose(table["pvals"].iloc[gene], expected, rtol=1e-8)
        np.testing.assert_allclose(table["null_effect"].iloc[gene], b.mean())

    same = adata.copy()
    for name in ("shift", "shift_T"):
        same.layers[name.replace("shift", "other")] = null.layers[name]
    same.uns["other"] = {"params": null.uns["shift"]["params"]}
    sg.tl.rank_shifts(same, test="vs_null", null="other", centered=False)
    kept = table["null_n_cells"] > 0
    np.testing.assert_allclose(same.varm["shift"]["pvals"][kept], table["pvals"][kept])


def test_official_rank_sum_needs_goal_states() -> None:
    with pytest.raises(ValueError, match="with goal states only"):
        sg.tl.rank_shifts(simulate(goal=False), compat="official")


@pytest.mark.parametrize("goal", [True, False])
def test_aggregate_has_intervals_and_no_test(goal: bool) -> None:
    adata = simulate(goal=goal)
    tested = sg.tl.rank_shifts(adata, copy=True).varm["shift"]
    sg.tl.rank_shifts(adata, test="aggregate")
    table = adata.varm["shift"]
    assert not any(name.startswith(("scores", "pvals", "pvals_adj", "impact")) for name in table)
    pd.testing.assert_frame_equal(table, tested[list(table)])
    frame = sg.get.shifts(adata)
    assert frame["effect"].is_monotonic_decreasing
    assert len(frame) == (table["n_cells"] > 0).sum()


def test_states_named_low_and_high_are_not_taken_for_ends_of_intervals() -> None:
    adata, expected = simulate(), simulate()
    for old, new in (("T", "low"), ("B", "high")):
        adata.layers[f"shift_{new}"] = adata.layers.pop(f"shift_{old}")
    adata.uns["shift"]["params"] |= {"source": "low", "others": ["high"]}
    sg.tl.rank_shifts(adata)
    sg.tl.rank_shifts(expected)
    for old, new in (("Mono", "Mono"), ("T", "low"), ("B", "high")):
        ours, theirs = (sg.get.shifts(x, state=s) for x, s in ((adata, new), (expected, old)))
        pd.testing.assert_frame_equal(ours.drop(columns="state"), theirs.drop(columns="state"))


def test_fraction_of_exact_shifts() -> None:
    adata = simulate()
    plain = sg.tl.rank_shifts(adata, copy=True).varm["shift"]
    method = adata.layers["shift"].copy()
    method.data = (np.random.default_rng(0).random(method.nnz) < 0.3).astype(np.int8)
    adata.layers[_keys.method_layer("shift")] = method
    sg.tl.rank_shifts(adata)
    table = adata.varm["shift"]
    pd.testing.assert_frame_equal(table.drop(columns="fraction_exact"), plain)  # all values are used
    for gene in range(adata.n_vars):
        of_gene = method.data[method.indices == gene]
        expected = of_gene.mean() if len(of_gene) else np.nan
        np.testing.assert_allclose(table["fraction_exact"].iloc[gene], expected)
    assert sg.get.shifts(adata, state="B")["fraction_exact"].between(0, 1).all()


def test_mixture_marks_the_gene_with_impact() -> None:
    adata = simulate(goal=False)
    sg.tl.rank_shifts(adata, test="mixture", centered=False)
    table = adata.varm["shift"]
    assert table.index[table["impact"] == 1].tolist() == ["gene0"]
    assert table["impact"].isna().tolist() == (table["n_cells"] < 5).tolist()
    lower, upper = adata.uns["shift"]["rank"]["components"]["mean"]
    effects = 1 - stored(adata, "shift", 0)[1]
    assert np.mean(effects > upper) <= table.loc["gene0", "impact_fraction"] <= np.mean(effects >= lower)


def test_a_mixture_of_genes_in_too_few_cells_is_refused() -> None:
    adata = simulate(goal=False)
    with pytest.raises(ValueError, match=r"min_cells=100000 cells each, but only 0 genes .* lower `min_cells`"):
        sg.tl.rank_shifts(adata, test="mixture", min_cells=100_000)


def test_copy_and_mudata() -> None:
    adata = simulate()
    ranked = sg.tl.rank_shifts(adata, copy=True)
    assert "shift" not in adata.varm
    mdata = mudata.MuData({"rna": adata.copy(), "prot": AnnData(np.ones((adata.n_obs, 2)), obs=adata.obs[[]])})
    assert sg.tl.rank_shifts(mdata) is None
    pd.testing.assert_frame_equal(mdata["rna"].varm["shift"], ranked.varm["shift"])


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("test", ["rank_sum", "mixture"])
def test_round_trip(tmp_path, suffix: str, test: str) -> None:
    adata = simulate(goal=test == "rank_sum")
    sg.tl.rank_shifts(adata, test=test)
    path = tmp_path / f"x.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(back.varm["shift"], adata.varm["shift"])
    pd.testing.assert_frame_equal(sg.get.shifts(back), sg.get.shifts(adata))
    assert back.uns["shift"]["rank"].keys() == adata.uns["shift"]["rank"].keys()


def without_layer(adata: AnnData) -> None:
    del adata.layers["shift"]


def with_dense_layer(adata: AnnData) -> None:
    adata.layers["shift"] = adata.layers["shift"].toarray()


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda adata: adata.uns.clear(), {}, KeyError, r"sg\.tl\.perturb"),
        (without_layer, {}, KeyError, r"\.layers\['shift'\].*sg\.tl\.perturb"),
        (with_dense_layer, {}, ValueError, "CSR or CSC"),
        (None, {"test": "t"}, ValueError, "must be"),
        (None, {"compat": "geneformer"}, ValueError, "must be"),
        (None, {"test": "donors", "donor": "donor", "compat": "official"}, ValueError, "no official form"),
        (None, {"test": "vs_null", "null": "shift", "compat": "official"}, ValueError, "without goal states only"),
        (None, {"test": "interaction"}, ValueError, "go together"),
        (None, {"singles": "shift"}, ValueError, "go together"),
        (None, {"test": "interaction", "singles": "shift"}, ValueError, "has none"),
        (None, {"test": "random_genes"}, KeyError, "token_id"),
        (None, {"test": "random_genes", "n_matched": 0}, ValueError, "at least 1"),
        (None, {"test": "mixture"}, ValueError, "has goal states"),
        (None, {"test": "donors"}, ValueError, "needs `donor`"),
        (None, {"test": "rank_sum", "donor": "donor"}, ValueError, "does not use `donor`"),
        (None, {"test": "donors", "donor": "patient"}, KeyError, "patient"),
        (None, {"compat": "official", "centered": True}, ValueError, "as they are"),
        (None, {"centered": True}, ValueError, r"too small under random states.*test='states'"),
        (None, {"donor": "donor", "centered": True}, ValueError, r"too small under random states.*test='states'"),
        (None, {"test": "states"}, KeyError, "directions=True"),
        (None, {"test": "vs_null"}, ValueError, "go together"),
        (None, {"test": "vs_null", "null": "missing"}, KeyError, "missing"),
        (None, {"test": "vs_null", "null": simulate(goal=False)}, ValueError, "Perturb both in the same way"),
        (None, {"min_cells": 0}, ValueError, "at least 1"),
    ],
)
def test_errors_name_the_cure_and_change_nothing(change, options, error, match) -> None:
    adata = simulate()
    if change is not None:
        change(adata)
    with pytest.raises(error, match=match):
        sg.tl.rank_shifts(adata, **options)
    assert "shift" not in adata.varm
    assert "rank" not in adata.uns.get("shift", {})
