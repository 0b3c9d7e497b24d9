"""Networks against known edges: pairs, scores and baselines by hand."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from sklearn.metrics import roc_auc_score

import scgeneformer as sg

QUICK = {"n_bootstrap": 0, "n_permutations": 20}


@pytest.fixture
def scored(tokenized, folder):
    sg.tl.network(tokenized, folder, score="contextual", min_cells=15)
    return tokenized


@pytest.fixture
def truth():
    """Edges of three sources by symbol; some are repeated, of a gene with itself, or to genes that are nowhere."""
    rng = np.random.default_rng(0)
    edges = [(s, t) for s in ("SYM1", "SYM4", "SYM20") for t in rng.choice(28, 12, replace=False)]
    frame = pd.DataFrame([(s, f"SYM{t}") for s, t in edges if s != f"SYM{t}"], columns=["source", "target"])
    more = [("SYM1", "SYM1"), ("SYM1", "NOPE"), ("NOPE", "SYM2"), tuple(frame.iloc[0]), ("SYM9", "SYM29")]
    return pd.concat([frame, pd.DataFrame(more, columns=frame.columns)], ignore_index=True).assign(sign=1)


def by_hand(adata, truth, *, directed):
    """Pairs of gene numbers, whether they are edges, and their weights."""
    edges = {(int(s[3:]), int(t[3:])) for s, t in truth[["source", "target"]].to_numpy() if "NOPE" not in (s, t)}
    edges = {(s, t) for s, t in edges if s != t}
    stored = adata.varp["network"].tocoo()
    weight = dict(zip(zip(stored.row.tolist(), stored.col.tolist(), strict=True), stored.data, strict=True))
    if directed:
        sources = {s for s, _ in edges}
        pairs = [pair for pair in weight if pair[0] in sources]
        return pairs, [pair in edges for pair in pairs], [weight[pair] for pair in pairs]
    genes = {gene for pair in edges for gene in pair}
    pairs = [(i, j) for i, j in weight if i < j and {i, j} <= genes]
    is_edge = [(i, j) in edges or (j, i) in edges for i, j in pairs]
    return pairs, is_edge, [(weight[i, j] + weight[j, i]) / 2 for i, j in pairs]


@pytest.mark.parametrize("directed", [True, False])
def test_rows_are_those_of_a_loop_over_pairs(scored, folder, truth, directed):
    sg.tl.evaluate_network(scored, truth, directed=directed, **QUICK)
    table = sg.get.evaluation(scored, key="network_evaluation")
    pairs, is_edge, weights = by_hand(scored, truth, directed=directed)
    assert table.loc["network", "auroc"] == pytest.approx(roc_auc_score(is_edge, weights))
    assert list(table.index[1:]) == [
        "|co-expression|",
        "tree ensemble",
        "token cosine",
        "degree, other half",
        "detection",
        "random",
    ]
    assert (table["n_pairs"] == len(pairs)).all()
    profile = scored.copy()
    sc.pp.normalize_total(profile, target_sum=1e4)
    sc.pp.log1p(profile)
    expression = profile.X.toarray()
    correlation, rate = np.abs(np.corrcoef(expression.T)), (expression > 0).mean(axis=0)
    assert table.loc["|co-expression|", "auroc"] == pytest.approx(
        roc_auc_score(is_edge, [correlation[pair].round(6) for pair in pairs]), abs=2e-3
    )
    assert table.loc["detection", "auroc"] == pytest.approx(
        roc_auc_score(is_edge, [rate[i] * rate[j] for i, j in pairs])
    )
    sg.tl.network(scored, folder, score="token", key_added="tokens")
    cosine = scored.varp["tokens"].toarray()
    assert table.loc["token cosine", "auroc"] == pytest.approx(
        roc_auc_score(is_edge, [cosine[pair] for pair in pairs]), abs=1e-6
    )
    params = scored.uns["network_evaluation"]["params"]
    assert (params["n_pairs"], params["n_edges"]) == (len(pairs), sum(is_edge))
    ends = [{pair[i] for pair in pairs} for i in (0, 1)]
    ends = ends if directed else [ends[0] | ends[1]] * 2
    assert [params["n_sources"], params["n_targets"]] == [len(genes) for genes in ends]
    assert params["base_rate"] == pytest.approx(np.mean(is_edge))
    assert params["n_truth"] == len(truth) - 2  # a repetition and an edge of a gene with itself
    assert params["n_truth_in_var"] == params["n_truth"] - 2


def test_trees_find_what_expression_tells(scored, truth):
    """A target that is the sum of two sources has them first."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (400, 12)).astype(np.float32)
    counts[:, 11] = counts[:, 0] + counts[:, 1]
    from scgeneformer.evaluation import CandidatePairs
    from scgeneformer.tl._networks._baselines import trees

    pairs = CandidatePairs.of_matrix(np.zeros((11, 1), bool), np.arange(11), [11])
    importance = trees(counts, pairs, np.array([11]), rng)
    assert set(pairs.source[np.argsort(-importance)[:2]]) == {0, 1}
    assert np.isnan(trees(counts, pairs, np.array([3]), rng)).all()


def test_trees_for_some_targets_stand_beside_the_network_for_these(scored, truth):
    sg.tl.evaluate_network(scored, truth, baselines=["trees"], max_targets=9, **QUICK)
    table = sg.get.evaluation(scored, key="network_evaluation")
    assert list(table.index) == ["network", "tree ensemble", "network, targets of trees"]
    n_pairs = table["n_pairs"]
    assert n_pairs["tree ensemble"] == n_pairs["network, targets of trees"] < n_pairs["network"]


def test_several_networks_have_the_same_pairs(scored, folder, truth):
    sg.tl.network(scored, folder, key_added="attention", tfs=["SYM1", "SYM4"], min_cells=20)
    sg.tl.evaluate_network(scored, truth, key=["network", "attention"], baselines=False, **QUICK)
    table = sg.get.evaluation(scored, key="network_evaluation")
    measured = sg.get.edges(scored, key="attention")
    assert (table["n_pairs"] == len(measured)).all()
    assert scored.uns["network_evaluation"]["params"]["n_sources"] == 2
    sg.tl.evaluate_network(scored, truth, tfs=["SYM1", "SYM4", "SYM7"], baselines=False, **QUICK)
    assert scored.uns["network_evaluation"]["params"]["n_sources"] == 3


def test_groups_files_and_mudata(tokenized, folder, truth, tmp_path):
    mdata = md.MuData({"rna": tokenized, "prot": ad.AnnData(np.ones((40, 1), np.float32), obs=tokenized.obs[[]])})
    mdata["rna"].obs["gate"] = pd.Categorical(["a", "b"] * 20)
    sg.tl.network(mdata, folder, groupby="gate", min_cells=8)
    copied = sg.tl.evaluate_network(mdata, truth, group="a", copy=True, **QUICK)
    assert "network_evaluation" not in mdata["rna"].uns
    table = sg.get.evaluation(copied, key="network_evaluation")
    alone = tokenized[::2].copy()
    sg.tl.network(
        alone, folder, genes=sg.get.edges(mdata, group="a")["target"].unique(), min_cells=8, key_added="alone"
    )
    sg.tl.evaluate_network(alone, truth, key="alone", **QUICK)
    again = sg.get.evaluation(alone, key="network_evaluation").rename(index={"alone": "network"})
    some = ["network", "|co-expression|", "detection", "token cosine"]
    pd.testing.assert_frame_equal(table.loc[some], again.loc[some], rtol=1e-2)
    copied["rna"].write_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(sg.get.evaluation(ad.read_h5ad(tmp_path / "a.h5ad"), key="network_evaluation"), table)


def test_effects_are_compared_on_the_perturbed_cells(tokenized, folder, truth):
    sg.tl.perturb(
        tokenized, folder, genes=["SYM1", "SYM4", "SYM20"], effects=True, cells=tokenized.obs["state"] == "sick"
    )
    sg.tl.network(tokenized, score="effects", min_cells=1)
    sg.tl.evaluate_network(tokenized, truth, baselines=["coexpression", "token"], **QUICK)
    alone = tokenized[tokenized.obs["network_cells"]].copy()
    sg.tl.evaluate_network(alone, truth, baselines=["coexpression", "token"], **QUICK)
    tables = [sg.get.evaluation(x, key="network_evaluation").loc["|co-expression|"] for x in (tokenized, alone)]
    pd.testing.assert_series_equal(*tables)


@pytest.mark.parametrize(
    ("change", "options", "error", "text"),
    [
        (lambda t: t.rename(columns={"source": "Gene1"}), {}, KeyError, r"`truth` has no columns \['source'\]"),
        (lambda t: t.assign(target="NOPE"), {}, ValueError, "No edge of `truth` is between two genes of .var"),
        (lambda t: t[:0], {}, ValueError, "No edge of `truth`"),
        (lambda t: t[-1:], {}, ValueError, "none is in `truth`"),
        (lambda t: t, {"tfs": ["NOPE"]}, ValueError, "No gene of `tfs` is in .var"),
        (lambda t: t, {"key": "gone"}, KeyError, r"\.uns\['gone'\]\['params'\]. Run `sg\.tl\.network\(adata\)`"),
        (lambda t: t, {"key": []}, ValueError, "`key` names no network"),
        (lambda t: t, {"group": "a"}, ValueError, "group='a'"),
        (lambda t: t, {"gene_symbols": "gone"}, KeyError, "No column 'gone' in .var"),
        (lambda t: t, {"model": "default"}, ValueError, "vocabulary"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_computed(scored, truth, monkeypatch, change, options, error, text):
    from scgeneformer import evaluation

    monkeypatch.setattr(evaluation, "score_pairs", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(error, match=text):
        sg.tl.evaluate_network(scored, change(truth), **options)
    assert "network_evaluation" not in scored.uns


def test_an_empty_network_is_refused(scored, truth):
    scored.varp["network"].data[:] = 0
    scored.varp["network"].eliminate_zeros()
    with pytest.raises(ValueError, match=r"\.varp\['network'\] has no edges"):
        sg.tl.evaluate_network(scored, truth)


def test_other_weights_and_lost_counts_are_refused(scored, truth, folder):
    scored.uns["network"]["params"]["weights_sha256"] = "0"
    with pytest.raises(ValueError, match="has other weights .* or leave 'token' out of `baselines`"):
        sg.tl.evaluate_network(scored, truth)
    del scored.X
    with pytest.raises(ValueError, match="no counts in .X"):
        sg.tl.evaluate_network(scored, truth, baselines=["coexpression"])
    sg.tl.evaluate_network(scored, truth, baselines=["degree"], **QUICK)
