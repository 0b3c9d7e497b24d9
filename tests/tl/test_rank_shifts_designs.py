"""Rankings that need more than shifts of single genes: matched genes, pairs with an anchor, sets of genes."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

import scgeneformer as sg

N_CELLS, N_GENES = 60, 300


@pytest.fixture
def tokenized() -> AnnData:
    """Shifts that depend on the rank of a gene, and tokens; gene 7 has a larger effect than similar genes; cells from 50 on are not perturbed.

    Gene 0 is in no cell, gene 1 is not in the vocabulary.
    """
    rng = np.random.default_rng(0)
    level = rng.permutation(N_GENES)  # the lower the more cells, and the earlier
    found = rng.random((N_CELLS, N_GENES)) < 0.9 - 0.6 * level / N_GENES
    found[:, :2] = False
    token_of = 4 + rng.permutation(N_GENES)
    tokens = np.zeros((N_CELLS, 320), dtype=np.uint16)
    for cell in range(N_CELLS):
        genes = np.flatnonzero(found[cell])
        ranked = genes[np.argsort(level[genes] + rng.normal(0, 30, len(genes)))]
        tokens[cell, : len(genes) + 2] = [2, *token_of[ranked], 3]
    found[50:] = False
    rows, columns = np.nonzero(found)
    adata = AnnData(sparse.csr_matrix((N_CELLS, N_GENES)), var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))
    adata.obsm["geneformer_tokens"] = tokens
    adata.var["token_id"] = np.where(np.arange(N_GENES) == 1, -1, token_of)
    adata.uns["geneformer_tokens"] = {"params": {"vocabulary_hash": "a"}}
    values = 1e-3 * (1 - level[columns] / N_GENES) + rng.normal(0, 1e-4, len(rows)) + 5e-4 * (columns == 7)
    adata.layers["shift"] = sparse.coo_matrix((values, (rows, columns)), found.shape).tocsr()
    adata.layers["shift_T"] = -adata.layers["shift"]
    adata.uns["shift"] = {"params": {"target": "Mono", "source": "T", "vocabulary_hash": "a"}}
    return adata


def test_random_genes_are_matched_by_cells_and_position(tokenized) -> None:
    sg.tl.rank_shifts(tokenized, test="random_genes", n_matched=40, centered=False)
    table = tokenized.varm["shift"]
    position = np.full(N_GENES, np.nan)
    tokens = tokenized.obsm["geneformer_tokens"][:50]
    for gene, token in enumerate(tokenized.var["token_id"]):
        where = np.argwhere(tokens == token)
        position[gene] = where[:, 1].mean() if len(where) else np.nan
    tested = (table["n_cells"] >= 5).to_numpy()
    ranks = np.column_stack([stats.rankdata(table["n_cells"][tested]), stats.rankdata(position[tested])])
    effects = table["effect"][tested].to_numpy()
    for i, gene in enumerate(np.flatnonzero(tested)):
        distance = np.linalg.norm(ranks - ranks[i], axis=1)
        if np.sum(distance <= np.sort(distance)[40]) > 41:
            continue  # a tie for the last place
        others = np.delete(effects, i)[np.delete(distance, i) <= np.sort(distance)[40]]
        expected = stats.ttest_ind([effects[i]], others)
        np.testing.assert_allclose(table[["scores", "pvals"]].iloc[gene], expected, rtol=1e-9)
        percentile = stats.percentileofscore(others, effects[i], "mean")
        np.testing.assert_allclose(table["null_percentile"].iloc[gene], percentile)
    assert table["pvals"].idxmin() == "gene7"
    assert table["pvals_adj"].idxmin() == "gene7"
    assert table.loc["gene7", "pvals_adj"] < 0.05
    assert table["pvals"][~tested].isna().all()
    np.testing.assert_allclose(table["pvals_T"], table["pvals"])
    np.testing.assert_allclose(table["scores_T"], -table["scores"])
    # larger effects than gene 7's are explained by detection and rank
    assert (table["effect"] > table.loc["gene7", "effect"]).sum() > 10
    assert tokenized.uns["shift"]["rank"]["n_matched"] == 40


def test_random_genes_do_not_depend_on_order_or_on_where_tokens_lie(tokenized) -> None:
    import dask.array as da

    rng = np.random.default_rng(0)
    other = tokenized[rng.permutation(N_CELLS), rng.permutation(N_GENES)].copy()
    other.obsm["geneformer_tokens"] = da.from_array(other.obsm["geneformer_tokens"], chunks=(7, -1))
    for adata in (tokenized, other):
        sg.tl.rank_shifts(adata, test="random_genes", n_matched=25)
    ours = other.varm["shift"].loc[tokenized.var_names]
    pd.testing.assert_frame_equal(ours, tokenized.varm["shift"], rtol=1e-9)


def test_random_genes_errors(tokenized) -> None:
    with pytest.raises(ValueError, match="Perturb more genes, or match fewer"):
        sg.tl.rank_shifts(tokenized, test="random_genes", n_matched=298)
    tokenized.uns["geneformer_tokens"]["params"]["vocabulary_hash"] = "b"
    with pytest.raises(ValueError, match="another vocabulary"):
        sg.tl.rank_shifts(tokenized, test="random_genes", n_matched=20)
    del tokenized.obsm["geneformer_tokens"]
    with pytest.raises(KeyError, match=r"sg\.pp\.tokenize"):
        sg.tl.rank_shifts(tokenized, test="random_genes", n_matched=20)
    assert "shift" not in tokenized.varm


def with_pairs(*, goal: bool) -> AnnData:
    """Pairs with gene 3 in most cells that have both, genes alone in most; the pair of 3 and 5 does more than the two."""
    rng = np.random.default_rng(0)
    states = ["", "_T"] if goal else [""]
    n_cells, n_genes = 40, 12
    adata = AnnData(
        sparse.csr_matrix((n_cells, n_genes)),
        obs=pd.DataFrame({"donor": rng.choice(list("abcd"), n_cells)}, index=[f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )
    single, pair = rng.random((2, n_cells, n_genes)) < 0.8
    pair[:, 3], pair[2:, 4] = False, False
    for state in states:
        effect = rng.normal(1e-3, 1e-3, (n_cells, n_genes))
        both = effect + effect[:, [3]] + rng.normal(0, 2e-4, effect.shape)
        both[:, 5] += 1e-3
        for key, values, there in (("single", effect, single), ("shift", both, pair)):
            at = np.nonzero(there)
            x = values if goal else 1 - values
            adata.layers[key + state] = sparse.coo_matrix((x[at], at), there.shape).tocsr()
    run = {"kind": "delete", "weights_sha256": "0"} | ({"target": "Mono", "source": "T"} if goal else {})
    adata.uns["single"], adata.uns["shift"] = {"params": run}, {"params": run | {"anchor": "gene3"}}
    return adata


def pair_loop(adata: AnnData, gene: int, state: str, *, goal: bool) -> dict[int, float]:
    """Interaction in each cell where all was measured."""
    single, pair = adata.layers["single" + state].todok(), adata.layers["shift" + state].todok()
    effect = (lambda x: x) if goal else (lambda x: 1 - x)
    return {
        cell: effect(pair[cell, gene]) - effect(single[cell, gene]) - effect(single[cell, 3])
        for cell in range(adata.n_obs)
        if (cell, gene) in pair.keys() and {(cell, gene), (cell, 3)} <= set(single.keys())
    }


@pytest.mark.parametrize("donor", [None, "donor"])
@pytest.mark.parametrize("goal", [True, False])
def test_interactions_are_a_loop_over_cells(goal: bool, donor: str | None) -> None:
    adata = with_pairs(goal=goal)
    sg.tl.rank_shifts(adata, test="interaction", singles="single", donor=donor)
    table = adata.varm["shift"]
    for state in ["", "_T"] if goal else [""]:
        for gene in range(adata.n_vars):
            row, values = table.iloc[gene], pair_loop(adata, gene, state, goal=goal)
            assert row["n_cells"] == len(values)
            if len(values) < 5:
                assert np.isnan(row["pvals" + state])
                continue
            x = np.array(list(values.values()))
            np.testing.assert_allclose(row["sd" + state], x.std(ddof=1), rtol=1e-9)
            if donor is None:
                np.testing.assert_allclose(row["effect" + state], x.mean(), rtol=1e-9)
            if donor is not None:
                x = pd.Series(x).groupby(adata.obs["donor"].to_numpy()[list(values)]).mean().to_numpy()
                np.testing.assert_allclose(row["effect" + state], x.mean(), rtol=1e-9)
                assert row["n_donors"] == len(x)
                continue  # moderated over genes: see the test of donors
            expected = stats.ttest_1samp(x, 0)
            interval = expected.confidence_interval()
            ours = row[[name + state for name in ("scores", "pvals", "effect_low", "effect_high")]].to_numpy(
                dtype=float
            )
            np.testing.assert_allclose(ours, [*expected, interval.low, interval.high], rtol=1e-8)
        if donor is None:
            parts = table[[name + state for name in ("pair_effect", "gene_effect", "anchor_effect")]].dropna()
            np.testing.assert_allclose(
                parts.iloc[:, 0] - parts.iloc[:, 1] - parts.iloc[:, 2], table["effect" + state].dropna(), atol=1e-15
            )
    assert table["pvals"].idxmin() == "gene5"
    assert sg.get.shifts(adata).loc[0, "names"] == "gene5"


def test_singles_in_other_order_of_storage_change_nothing() -> None:
    adata, other = with_pairs(goal=True), with_pairs(goal=True)
    other.layers["single"] = other.layers["single"].tocsc()
    for x in (adata, other):
        sg.tl.rank_shifts(x, test="interaction", singles="single")
    pd.testing.assert_frame_equal(adata.varm["shift"], other.varm["shift"])


def with_singles_of(name: str, value: object):
    def change(adata: AnnData) -> None:
        adata.uns["single"]["params"] = adata.uns["single"]["params"] | {name: value}

    return change


def without_anchor_alone(adata: AnnData) -> None:
    single = adata.layers["single"].tocoo()
    kept = single.col != 3
    at = single.row[kept], single.col[kept]
    adata.layers["single"] = sparse.coo_matrix((single.data[kept], at), single.shape).tocsr()


@pytest.mark.parametrize(
    ("change", "singles", "error", "match"),
    [
        (None, "missing", KeyError, "missing"),
        (None, "shift", ValueError, "with an anchor too"),
        (with_singles_of("kind", "overexpress"), "single", ValueError, "kind='overexpress'"),
        (with_singles_of("weights_sha256", "1"), "single", ValueError, "Perturb both in the same way"),
        (with_singles_of("source", "B"), "single", ValueError, "source='B'"),
        (lambda adata: adata.layers.pop("single_T"), "single", KeyError, "single_T"),
        (lambda adata: adata.uns["shift"]["params"].update(anchor="B2M"), "single", ValueError, "'B2M'.*0 times"),
        (without_anchor_alone, "single", ValueError, "No cell has a pair"),
    ],
)
def test_interaction_errors(change, singles, error, match) -> None:
    adata = with_pairs(goal=True)
    if change is not None:
        change(adata)
    with pytest.raises(error, match=match):
        sg.tl.rank_shifts(adata, test="interaction", singles=singles)
    assert "shift" not in adata.varm


def with_sets(*, goal: bool = True) -> AnnData:
    """Three sets, one in two cells, one with a bar in its name, no shifts of genes."""
    rng = np.random.default_rng(0)
    adata = AnnData(
        np.zeros((30, 4), dtype=np.float32),
        obs=pd.DataFrame({"donor": rng.choice(list("abc"), 30)}, index=[f"cell{i}" for i in range(30)]),
    )
    for state, strength in {"": 2e-3, "_T": -1e-3, "_B": 0.0}.items() if goal else {"": 2e-3}.items():
        values = rng.normal(strength, 1e-3, (30, 3)) * [1, 1, 0.1]
        values = values if goal else 1 - np.abs(values)
        values[5:9, 0], values[2:, 1] = np.nan, np.nan
        adata.obsm["shift_sets" + state] = pd.DataFrame(values, adata.obs_names, ["a", "B2M|ACTB", "c"])
    states = {"target": "Mono", "source": "T", "others": np.array(["B"], dtype=object)} if goal else {}
    adata.uns["shift"] = {"params": {"kind": "delete"} | states}
    return adata


@pytest.mark.parametrize("goal", [True, False])
def test_sets_without_random_sets_have_effects_and_no_test(goal: bool) -> None:
    adata = with_sets(goal=goal)
    sg.tl.rank_shifts(adata)
    assert "shift" not in adata.varm
    table = adata.uns["shift"]["sets"]
    assert table.index.tolist() == ["a", "B2M|ACTB", "c"]
    assert not any("pvals" in name for name in table)
    for state in ["", "_T", "_B"] if goal else [""]:
        for name, values in adata.obsm["shift_sets" + state].items():
            values = values.dropna() if goal else 1 - values.dropna()
            row = table.loc[name]
            assert row["n_cells"] == len(values)
            np.testing.assert_allclose(row[["effect" + state, "sd" + state]], [values.mean(), values.std()], rtol=1e-9)
            if len(values) > 1:
                interval = stats.ttest_1samp(values, 0).confidence_interval()
                np.testing.assert_allclose(row[["effect_low" + state, "effect_high" + state]], interval, rtol=1e-9)


def with_random_sets(*, goal: bool = True, n_random: int = 6) -> AnnData:
    """The same, and random sets beside them that move cells as far, though set "a" goes further."""
    adata, rng = with_sets(goal=goal), np.random.default_rng(1)
    for state in ["", "_T", "_B"] if goal else [""]:
        named = adata.obsm["shift_sets" + state].to_numpy()
        random = (
            rng.normal(0, 2e-4, (30, 3, n_random))
            + rng.normal(0, 1e-3, (30, 1, 1))
            + rng.normal(0, 3e-4, (3, n_random))
        )
        random[np.isnan(named)] = np.nan
        random[3, :, 0] = np.nan  # one that a cell does not express
        random = random if goal else 1 - np.abs(random)
        adata.obsm["shift_sets__random" + state] = random.reshape(30, -1)
    return adata


@pytest.mark.parametrize("donor", [None, "donor"])
@pytest.mark.parametrize("goal", [True, False])
def test_sets_are_tested_against_their_random_sets(goal: bool, donor: str | None) -> None:
    adata = with_random_sets(goal=goal)
    sg.tl.rank_shifts(adata, test="rank_sum" if donor is None else "donors", donor=donor)
    table = adata.uns["shift"]["sets"]
    for state in ["", "_T", "_B"] if goal else [""]:
        random = adata.obsm["shift_sets__random" + state].reshape(30, 3, 6)
        for number, (name, values) in enumerate(adata.obsm["shift_sets" + state].items()):
            own, null = values.to_numpy(), random[:, number]
            own, null = (own, null) if goal else (1 - own, 1 - null)
            cells = np.flatnonzero(~np.isnan(own))
            beyond = np.array([own[cell] - np.nanmean(null[cell]) for cell in cells])
            row = table.loc[name]
            assert row["n_cells"] == len(cells)
            np.testing.assert_allclose(row["plain_effect" + state], own[cells].mean())
            expected = pd.Series(beyond).groupby(adata.obs["donor"].to_numpy()[cells]).mean() if donor else beyond
            np.testing.assert_allclose(row["effect" + state], expected.mean())
            if len(cells) < 5:
                assert np.isnan(row["pvals" + state])
                continue
            draws = [np.nanmean([null[cell, k] - np.nanmean(null[cell]) for cell in cells]) for k in range(6)]
            np.testing.assert_allclose(
                row[["scores" + state, "pvals" + state]], stats.ttest_ind([beyond.mean()], draws), rtol=1e-8
            )
            np.testing.assert_allclose(
                row["null_percentile" + state], stats.percentileofscore(draws, beyond.mean(), "mean")
            )
    assert sg.get.shifts(adata).loc[0, "set"] == "a"


def test_random_sets_are_no_discoveries() -> None:
    """Every set moves the cells, and sets differ: tested against 0, or cell by cell, nearly all would be significant."""
    rng = np.random.default_rng(0)
    n_cells, n_sets, n_random = 60, 400, 20
    of_set = rng.normal(0, 1, (n_sets, n_random + 1))
    values = 3 + rng.normal(0, 1, (n_cells, 1, 1)) + of_set + rng.normal(0, 0.5, (n_cells, n_sets, n_random + 1))
    adata = AnnData(np.zeros((n_cells, 1), dtype=np.float32))
    adata.obsm["shift_sets"] = pd.DataFrame(values[..., 0], adata.obs_names, [f"set{i}" for i in range(n_sets)])
    adata.obsm["shift_sets__random"] = values[..., 1:].reshape(n_cells, -1)
    adata.uns["shift"] = {"params": {"kind": "delete", "target": "Mono"}}
    sg.tl.rank_shifts(adata)
    table = adata.uns["shift"]["sets"]
    assert 0.03 < (table["pvals"] < 0.05).mean() < 0.08
    assert (table["pvals_adj"] < 0.05).sum() <= 1
    assert (stats.ttest_1samp(adata.obsm["shift_sets"], 0).pvalue < 0.05).mean() > 0.9


def test_random_sets_of_another_number_are_refused() -> None:
    adata = with_random_sets()
    adata.obsm["shift_sets__random"] = adata.obsm["shift_sets__random"][:, :-1]
    with pytest.raises(ValueError, match=r"shift_sets__random.*perturb_sets"):
        sg.tl.rank_shifts(adata)
    assert "rank" not in adata.uns["shift"]


def test_get_shifts_of_sets() -> None:
    adata = with_random_sets()
    sg.tl.rank_shifts(adata)
    frame = sg.get.shifts(adata)
    head = ["set", "state", "n_cells", "effect", "sd", "effect_low", "effect_high", "plain_effect", "null_percentile"]
    assert frame.columns.tolist() == [*head, "scores", "pvals", "pvals_adj"]
    assert frame["set"].tolist()[0] == "a"
    assert frame["set"].tolist()[-1] == "B2M|ACTB"  # not tested
    table = adata.uns["shift"]["sets"].loc[frame["set"]]
    other = sg.get.shifts(adata, state="B", sort_by="set").set_index("set").loc[frame["set"]]
    np.testing.assert_array_equal(other["pvals"], table["pvals_B"])
    np.testing.assert_array_equal(frame["pvals"], table["pvals"])
    pd.testing.assert_frame_equal(sg.get.shifts(adata, sets=True, n_top=1), frame[:1])
    with pytest.raises(KeyError, match=r"\.varm\['shift'\]"):
        sg.get.shifts(adata, sets=False)


def test_genes_and_sets_are_ranked_in_one_call() -> None:
    adata = with_sets()
    rng = np.random.default_rng(1)
    for layer in ("shift", "shift_T", "shift_B"):
        adata.layers[layer] = sparse.csr_matrix(rng.normal(size=(30, 4)))
    only = with_sets()
    for x in (adata, only):
        sg.tl.rank_shifts(x)
    pd.testing.assert_frame_equal(adata.uns["shift"]["sets"], only.uns["shift"]["sets"])
    assert "names" in sg.get.shifts(adata)
    assert "set" in sg.get.shifts(adata, sets=True)
    del adata.obsm["shift_sets"]
    sg.tl.rank_shifts(adata)  # what is no longer there is no longer ranked
    assert "sets" not in adata.uns["shift"]
    with pytest.raises(KeyError, match=r"\['sets'\]"):
        sg.get.shifts(adata, sets=True)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "h5mu"])
def test_sets_survive_files(tmp_path, suffix: str) -> None:
    adata = with_sets()
    sg.tl.rank_shifts(adata)
    path = tmp_path / f"x.{suffix}"
    if suffix == "h5mu":
        mudata.MuData({"rna": adata}).write(path)
        back = mudata.read_h5mu(path)
    else:
        getattr(adata, f"write_{suffix}")(path)
        back = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(sg.get.shifts(back), sg.get.shifts(adata))
    sg.tl.rank_shifts(back)  # and what was read back is understood
    pd.testing.assert_frame_equal(sg.get.shifts(back), sg.get.shifts(adata))


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (None, {"test": "mixture"}, ValueError, "has goal states"),
        (None, {"test": "random_genes"}, KeyError, r"\.layers\['shift'\]"),
        (lambda adata: adata.obsm.pop("shift_sets_B"), {}, KeyError, "shift_sets_B"),
        (
            lambda adata: adata.obsm.update({"shift_sets": np.zeros((30, 3))}),
            {},
            ValueError,
            "not a DataFrame",
        ),
        (
            lambda adata: adata.obsm.update({"shift_sets_B": adata.obsm["shift_sets_B"][["c"]]}),
            {},
            ValueError,
            "has other sets",
        ),
    ],
)
def test_errors_of_sets(change, options, error, match) -> None:
    adata = with_sets()
    if change is not None:
        change(adata)
    with pytest.raises(error, match=match):
        sg.tl.rank_shifts(adata, **options)
    assert "rank" not in adata.uns["shift"]


def test_number_of_tested_genes(tokenized) -> None:
    """Gene 0 is in no cell; gene 1 has no token, hence no position."""
    sg.tl.rank_shifts(tokenized, test="random_genes", n_matched=20)
    table, rank = tokenized.varm["shift"], tokenized.uns["shift"]["rank"]
    assert rank["n_tested"] == table["pvals"].notna().sum() < N_GENES - 1
    sg.tl.rank_shifts(tokenized, test="aggregate")
    assert tokenized.uns["shift"]["rank"]["n_tested"] == (tokenized.varm["shift"]["n_cells"] > 0).sum()
