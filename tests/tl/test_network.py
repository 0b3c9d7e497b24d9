"""Networks of genes: slots, groups, cells and names against the engine and against calls on parts of the data."""

from __future__ import annotations

import re

import anndata as ad
import dask.array as da
import mudata as md
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import linregress

import scgeneformer as sg
from scgeneformer import engine

TFS = ["SYM1", "SYM2", "SYM5"]
SCORES = ["attention", "contextual", "token", "gradient"]


def dense(adata, slot="network"):
    """NaN where there is no edge, [source, target]."""
    matrix = adata.varp[slot].tocoo()
    full = np.full(matrix.shape, np.nan)
    full[matrix.row, matrix.col] = matrix.data
    return full


@pytest.mark.parametrize("score", SCORES)
def test_edges_are_those_of_the_engine(tokenized, folder, score):
    sg.tl.network(tokenized, folder, score=score, tfs=TFS, min_cells=20)
    pretrained = sg.hub.load(folder)
    token_id = tokenized.var["token_id"].to_numpy().astype(np.int64)
    targets = token_id[:28]  # the last two have no token
    genes = {"sources": token_id[[1, 2, 5]], "targets": targets}
    if score == "token":
        expected, n = engine.network.token(pretrained.encoder, **genes), None
    else:
        options = {"attention": {"blocks": range(3)}}.get(score, {"emb_layer": -1})
        found = getattr(engine.network, score)(
            pretrained.encoder,
            tokenized.obsm["geneformer_tokens"],
            **genes,
            **options,
            n_special=4,
            device="cpu",
            precision="float32",
            token_budget=None,
            progress=False,
        )
        n = found.n_cells
        expected = np.where(n >= 20, found.means, np.nan)
        assert 0 < np.isnan(expected).sum() < expected.size
    edges = dense(tokenized)
    np.testing.assert_allclose(edges[[1, 2, 5], :28], expected, rtol=1e-5, atol=1e-6)
    other = np.ones((30, 30), bool)
    other[np.ix_([1, 2, 5], range(28))] = False
    assert np.isnan(edges[other]).all()
    assert tokenized.varp["network"].dtype == np.float32
    if n is not None:
        numbers = dense(tokenized, "network__n")
        np.testing.assert_array_equal(np.isnan(numbers), np.isnan(edges))
        np.testing.assert_array_equal(numbers[[1, 2, 5], :28][~np.isnan(expected)], n[~np.isnan(expected)])
        assert tokenized.obs["network_cells"].all()
    params = tokenized.uns["network"]["params"]
    assert (params["score"], params["n_sources"], params["n_targets"]) == (score, 3, 28)
    assert params["weights_sha256"] == pretrained.sha256


def test_chosen_layers_and_heads(tokenized, folder):
    parts = []
    for layer in (-2, 0):
        sg.tl.network(tokenized, folder, tfs=TFS, layers=[layer], heads=[1], rank_corrected=False)
        parts.append(dense(tokenized))
    sg.tl.network(tokenized, folder, tfs=TFS, layers=[0, -2], heads=[1], rank_corrected=False)
    np.testing.assert_allclose(dense(tokenized), np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)


def test_groups_are_those_of_separate_calls(tokenized, folder):
    tokenized.obs["state"] = tokenized.obs["state"].cat.rename_categories({"sick": "sick/ill"})
    sg.tl.network(tokenized, folder, groupby="state", min_cells=5)
    for group in ("sick/ill", "well"):
        alone = tokenized[tokenized.obs["state"] == group].copy()
        del alone.varp["network_well"]
        sg.tl.network(alone, folder, min_cells=5, genes=sg.get.edges(tokenized, group=group)["target"].unique())
        together = sg.get.edges(tokenized, group=group).set_index(["source", "target"])
        apart = sg.get.edges(alone).set_index(["source", "target"]).loc[together.index]
        np.testing.assert_allclose(together["weight"], apart["weight"], rtol=1e-4, atol=1e-5)
    assert sorted(tokenized.varp) == sorted(
        f"network_{group}{end}" for group in ("odd", "sick|ill", "well") for end in ("", "__n")
    )
    with pytest.raises(ValueError, match=r"group=None.*'sick/ill'.*Set `group=` to one of them"):
        sg.get.edges(tokenized)
    sg.tl.network(tokenized, folder)  # replaces them
    assert sorted(tokenized.varp) == ["network", "network__n"]


def test_drawn_cells_are_those_used(tokenized, folder):
    sg.tl.network(tokenized, folder, max_cells=15, min_cells=2, rng=3)
    used = tokenized.obs["network_cells"].to_numpy()
    assert used.sum() == 15
    some = tokenized[used].copy()
    sg.tl.network(some, folder, min_cells=2, genes=list(tokenized.var_names[:28]))
    np.testing.assert_allclose(dense(tokenized), dense(some), rtol=1e-4, atol=1e-5)


def test_tokens_of_dask_are_read_for_the_drawn_cells(tokenized, folder):
    lazy = tokenized.copy()
    lazy.obsm["geneformer_tokens"] = da.from_array(lazy.obsm["geneformer_tokens"], chunks=(7, -1))
    for cells in (tokenized, lazy):
        sg.tl.network(cells, folder, max_cells=25)
    np.testing.assert_allclose(dense(lazy), dense(tokenized), rtol=1e-5, atol=1e-6)


def test_order_of_genes_does_not_matter(tokenized, folder):
    turned = tokenized[:, ::-1].copy()
    sg.tl.network(tokenized, folder)
    sg.tl.network(turned, folder)
    np.testing.assert_allclose(dense(turned)[::-1, ::-1], dense(tokenized), rtol=1e-5, atol=1e-6)


def test_effects_of_deletions(tokenized, folder):
    sg.tl.perturb(tokenized, folder, genes=TFS, effects=True, cells=tokenized.obs["state"] == "sick")
    sg.tl.network(tokenized, score="effects", min_cells=3)
    edges = sg.get.edges(tokenized).set_index(["source", "target"])
    names = tokenized.var_names
    assert set(edges.index.get_level_values(0)) == set(names[[1, 2, 5]])
    recorded = sg.get.effects(tokenized, "SYM2").set_index("names").drop(names[2], errors="ignore")
    recorded = recorded[recorded["n_cells"] >= 3]
    of_gene = edges.loc[names[2]].loc[recorded.index]
    assert len(of_gene) == (edges.index.get_level_values(0) == names[2]).sum()
    np.testing.assert_allclose(of_gene["weight"], 1 - recorded["cosine"], atol=1e-6)
    np.testing.assert_array_equal(of_gene["n_cells"], recorded["n_cells"])
    assert set(tokenized.obs["state"][tokenized.obs["network_cells"]]) == {"sick"}
    sg.tl.network(tokenized, score="effects", min_cells=3, genes=["SYM1", "SYM2", "SYM9"], key_added="few")
    assert set(sg.get.edges(tokenized, key="few")["target"]) == set(names[[1, 2, 9]])


def test_edges_of_few_cells_are_left_out_on_request(tokenized, folder):
    sg.tl.network(tokenized, folder, tfs=TFS, min_cells=5)
    edges = sg.get.edges(tokenized)
    least = int(edges["n_cells"].median())
    supported = sg.get.edges(tokenized, min_cells=least)
    assert 0 < len(supported) < len(edges)
    pd.testing.assert_frame_equal(supported, edges[edges["n_cells"] >= least].reset_index(drop=True))
    few = sg.get.edges(tokenized, genes=["SYM1"], min_cells=least)
    assert set(map(tuple, few[["source", "target"]].to_numpy())) < set(
        map(tuple, supported[["source", "target"]].to_numpy())
    )
    sg.tl.network(tokenized, folder, tfs=TFS, score="token", key_added="same")
    with pytest.raises(ValueError, match="min_cells=5 has no meaning"):
        sg.get.edges(tokenized, key="same", min_cells=5)


def test_a_table_of_edges(tokenized, folder):
    sg.tl.network(tokenized, folder, score="contextual")
    edges = sg.get.edges(tokenized, gene_symbols="symbol")
    assert list(edges) == ["source", "target", "weight", "percentile", "n_cells"]
    assert edges["weight"].is_monotonic_decreasing
    assert edges["percentile"].iloc[0] > 99
    np.testing.assert_allclose(edges["percentile"], edges["weight"].rank(pct=True) * 100)
    graph = nx.from_pandas_edgelist(edges, edge_attr=True, create_using=nx.DiGraph)
    row, column = (list(tokenized.var["symbol"]).index(name) for name in ("SYM3", "SYM4"))
    assert graph["SYM3"]["SYM4"]["weight"] == tokenized.varp["network"][row, column]
    few = sg.get.edges(tokenized, genes=["SYM3"], n_top=4, gene_symbols="symbol")
    expected = edges[(edges["source"] == "SYM3") | (edges["target"] == "SYM3")][:4]
    pd.testing.assert_frame_equal(few, expected.reset_index(drop=True))


def test_files_subsets_and_joins(tokenized, folder, tmp_path):
    sg.tl.network(tokenized, folder)
    edges = sg.get.edges(tokenized)
    tokenized.write_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(sg.get.edges(ad.read_h5ad(tmp_path / "a.h5ad")), edges)
    tokenized.write_zarr(tmp_path / "a.zarr")
    pd.testing.assert_frame_equal(sg.get.edges(ad.read_zarr(tmp_path / "a.zarr")), edges)
    some = tokenized[:10, :12].copy()
    kept = edges["source"].isin(some.var_names) & edges["target"].isin(some.var_names)
    columns = ["source", "target", "weight", "n_cells"]
    pd.testing.assert_frame_equal(sg.get.edges(some)[columns], edges[kept].reset_index(drop=True)[columns])
    joined = ad.concat([tokenized[:10], tokenized[10:]])
    with pytest.raises(KeyError, match=r"Run `sg\.tl\.network\(adata\)` first"):
        sg.get.edges(joined)
    sg.tl.network(joined, folder)  # over the column of cells that was kept
    pd.testing.assert_frame_equal(sg.get.edges(joined), edges, rtol=1e-4)


def test_mudata_and_copies(tokenized, folder):
    other = ad.AnnData(np.ones((40, 2), np.float32), obs=pd.DataFrame({"gate": ["a", "b"] * 20}, tokenized.obs_names))
    mdata = md.MuData({"rna": tokenized.copy(), "prot": other[::-1].copy()})
    copied = sg.tl.network(mdata, folder, groupby="prot:gate", copy=True)
    assert not mdata["rna"].varp
    alone = tokenized[::2].copy()
    genes = sg.get.edges(copied, group="a")["target"].unique()
    sg.tl.network(alone, folder, genes=genes)
    np.testing.assert_allclose(dense(copied["rna"], "network_a"), dense(alone), rtol=1e-4, atol=1e-5)


def content(adata):
    return [
        (place, name) for place in ("obs", "var", "uns", "varm", "varp", "layers") for name in getattr(adata, place)
    ]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"genes": ["SYM1", "NOPE"]}, ValueError, "1 genes in `genes` are not in .*: NOPE. .*missing='ignore'"),
        ({"tfs": ["NOPE"]}, ValueError, "No gene in `tfs` is in both vocabulary 'small' and .var"),
        ({"tfs": ["SYM29"]}, ValueError, "No gene in `tfs`"),
        ({"genes": ["SYM1"]}, ValueError, "fewer than two genes"),
        ({"genes": ["SYM1", "SYM2"], "tfs": ["SYM3"]}, ValueError, "no gene of `tfs` among the genes"),
        ({"groupby": "gone"}, KeyError, r"No column 'gone' in \.obs"),
        ({"groupby": "state", "score": "token"}, ValueError, "groupby='state' has no meaning for score='token'"),
        ({"heads": [2]}, ValueError, r"heads=\[2\] must be numbers from 0 to 1"),
        ({"layers": [1]}, ValueError, r"layers=\[1\] must be numbers from -2 to 0"),
        ({"layers": []}, ValueError, "layers"),
        ({"heads": [0], "score": "contextual"}, ValueError, "heads=.*use score='attention'"),
        ({"emb_layer": 0}, ValueError, "emb_layer=0 has no meaning for score='attention'"),
        ({"emb_layer": -9, "score": "gradient"}, ValueError, "emb_layer=-9"),
        ({"min_cells": 39}, ValueError, "min_cells=39 cells"),
        ({"min_cells": 41}, ValueError, "min_cells=41 cells"),
        ({"score": "effects"}, KeyError, r"\.varp\['shift'\] is missing. Run `sg\.tl\.perturb\(adata, effects=True\)`"),
        ({"tokens_key": "gone"}, KeyError, "gone"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(tokenized, folder, options, error, text):
    before = content(tokenized)
    model = None if options.get("score") == "effects" else folder
    with pytest.raises(error, match=text):
        sg.tl.network(tokenized, model, **options)
    assert content(tokenized) == before


def test_an_empty_network_is_refused_before_the_model_runs(tokenized, folder, monkeypatch):
    """Two genes that many cells express, but none both."""
    counts = tokenized.X.toarray()
    counts[::2, 1] = counts[1::2, 2] = 0
    counts[1::2, 1] = counts[::2, 2] = 3
    tokenized.X = sparse.csr_matrix(counts)
    tokenized.obs["half"] = pd.Categorical(["a"] * 20 + ["b"] * 20)
    sg.pp.tokenize(tokenized, folder)
    monkeypatch.setattr(engine.network, "attention", lambda *_, **__: pytest.fail("the model ran"))
    for options, text in (({}, "The network is empty"), ({"groupby": "half"}, r"networks of \['a', 'b'\] are empty")):
        with pytest.raises(ValueError, match=f"{text}: .*min_cells=10"):
            sg.tl.network(tokenized, folder, genes=["SYM1", "SYM2"], **options)
    assert not tokenized.varp


def test_slots_of_others_are_kept(tokenized, folder):
    mine = sparse.csr_matrix((30, 30), dtype=np.float32)
    tokenized.varp["network"] = mine
    with pytest.raises(ValueError, match=re.escape(".varp['network'] is not a result of scgeneformer")):
        sg.tl.network(tokenized, folder)
    assert tokenized.varp["network"] is mine or (tokenized.varp["network"] != mine).nnz == 0


def test_genes_left_out_are_named(tokenized, folder):
    with pytest.warns(UserWarning, match="Left 1 genes out of `genes`.*NOPE"):
        sg.tl.network(tokenized, folder, genes=["SYM1", "SYM2", "NOPE"], missing="ignore")
    assert tokenized.varp["network"].nnz == 2


def test_tables_of_networks_that_are_not_there(tokenized, folder):
    with pytest.raises(KeyError, match=r"Run `sg\.tl\.network\(adata\)` first"):
        sg.get.edges(tokenized)
    sg.tl.network(tokenized, folder)
    with pytest.raises(ValueError, match="group='x'"):
        sg.get.edges(tokenized, group="x")
    with pytest.raises(ValueError, match="None of genes="):
        sg.get.edges(tokenized, genes=["NOPE"])
    with pytest.raises(ValueError, match="no edges between the genes"):
        sg.get.edges(tokenized[:, :1].copy())


@pytest.mark.parametrize("score", ["attention", "token"])
def test_known_edges_keep_their_weights_and_no_others_are_stored(tokenized, folder, score):
    names = tokenized.var_names
    known = pd.DataFrame(
        {
            "source": ["SYM1", "SYM2", names[5], "SYM1", "SYM3", "absent"],
            "target": ["SYM4", names[6], "SYM1", "SYM4", "SYM3", "SYM1"],
            "mor": 1,
        }
    )
    everything = sg.tl.network(tokenized, folder, score=score, copy=True)
    sg.tl.network(tokenized, folder, score=score, edges=known)
    whole, part = dense(everything), dense(tokenized)
    at = np.zeros_like(whole, dtype=bool)
    at[[1, 2, 5], [4, 6, 1]] = True
    # attention is corrected for ranks by all genes of the cells, whichever pairs are asked for
    np.testing.assert_allclose(part[at], whole[at], rtol=1e-5, atol=1e-6)
    assert np.isnan(part[~at]).all()
    params = tokenized.uns["network"]["params"]
    assert (params["n_known_edges"], params["n_known_edges_in_data"], params["n_edges"]) == (4, 3, [3])


def test_known_edges_of_named_genes(tokenized, folder):
    known = pd.DataFrame({"source": ["SYM1", "SYM2", "SYM1"], "target": ["SYM4", "SYM4", "SYM6"]})
    sg.tl.network(tokenized, folder, score="token", edges=known, tfs=["SYM1", "SYM5"], genes=["SYM1", "SYM4", "SYM5"])
    rows, columns = tokenized.varp["network"].nonzero()
    assert (rows.tolist(), columns.tolist()) == ([1], [4])


@pytest.mark.parametrize(
    ("edges", "error", "message"),
    [
        ({"source": ["x"], "target": ["y"]}, ValueError, "No edge of `edges` is between two genes.*'x', 'y'"),
        ({"source": ["SYM1"], "target": ["SYM1"]}, ValueError, "No edge of `edges`.*no edges"),
        ({"from": ["SYM1"], "target": ["SYM2"]}, KeyError, "`edges` has no columns.*'source'"),
    ],
)
def test_known_edges_that_cannot_be(tokenized, folder, edges, error, message):
    before = tokenized.copy()
    with pytest.raises(error, match=message):
        sg.tl.network(tokenized, folder, edges=pd.DataFrame(edges))
    assert set(tokenized.varp) == set(before.varp)
    assert set(tokenized.uns) == set(before.uns)


def test_decoupler_reads_the_edges(tokenized, folder):
    """Activities by its univariate linear model: t of the slope of a cell's expression on the weights of a source's edges."""
    decoupler = pytest.importorskip("decoupler")
    sg.tl.network(tokenized, folder, score="contextual", tfs=TFS, min_cells=10)
    edges = sg.get.edges(tokenized)
    cells = ad.AnnData(np.log1p(tokenized.X.toarray()), obs=tokenized.obs[[]], var=tokenized.var[[]])
    decoupler.mt.ulm(cells, net=edges.replace(dict(zip(tokenized.var["symbol"], tokenized.var_names, strict=True))))
    weights = dense(tokenized)[1]
    x = np.where(np.isnan(weights), 0, weights)
    slope = [linregress(x, row) for row in cells.X]
    expected = [found.slope / found.stderr for found in slope]
    np.testing.assert_allclose(cells.obsm["score_ulm"][tokenized.var_names[1]], expected, rtol=1e-4)
