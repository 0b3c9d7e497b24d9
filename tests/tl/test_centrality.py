"""Centralities against networkx on a small network."""

from __future__ import annotations

import sys

import networkx as nx
import numpy as np
import pytest
from anndata import AnnData
from scanpy import logging as logg
from scipy import sparse

import scgeneformer as sg

MEASURES = ("pagerank", "in_degree", "out_degree", "betweenness", "closeness")


@pytest.fixture
def toy():
    """A network of 12 of 15 genes, some edges negative, written as `tl.network` writes it; and another for each of two groups."""
    adata = AnnData(np.ones((3, 15), np.float32))

    def network(seed):
        rng = np.random.default_rng(seed)
        weights = np.where(rng.random((15, 15)) < 0.5, rng.normal(size=(15, 15)), 0)
        weights[12:], weights[:, 12:] = 0, 0
        np.fill_diagonal(weights, 0)
        return sparse.csr_matrix(weights.astype(np.float32))

    adata.varp["network"] = network(0)
    adata.uns["network"] = {"params": {"verb": "tl.network"}}
    adata.varp["grouped_a"], adata.varp["grouped_b|c"] = network(1), network(2)
    adata.uns["grouped"] = {"params": {"verb": "tl.network", "groups": np.array(["a", "b/c"], object)}}
    return adata


def expected(matrix, n_edges):
    """All measures by networkx."""
    matrix = matrix.toarray().astype(np.float64)
    least = np.sort(matrix[matrix != 0])[-n_edges]
    graph = nx.DiGraph()
    graph.add_nodes_from(range(12))
    for i, j in zip(*np.nonzero((matrix >= least) & (matrix > 0)), strict=True):
        graph.add_edge(i, j, weight=matrix[i, j], length=1 / matrix[i, j])
    found = {
        "pagerank": nx.pagerank(graph, weight="weight", tol=1e-12, max_iter=1000),
        "in_degree": dict(graph.in_degree()),
        "out_degree": dict(graph.out_degree()),
        "betweenness": nx.betweenness_centrality(graph, weight="length"),
        "closeness": nx.closeness_centrality(graph.reverse(), distance="length", wf_improved=False),
    }
    return {name: np.array([values[i] for i in range(12)]) for name, values in found.items()}


@pytest.mark.parametrize("n_edges", [20, 60])
def test_measures_are_those_of_networkx(toy, n_edges):
    sg.tl.centrality(toy, n_edges=n_edges)
    for name, values in expected(toy.varp["network"], n_edges).items():
        column = toy.var[f"centrality_{name}"].to_numpy()
        np.testing.assert_allclose(column[:12], values, rtol=1e-6, atol=1e-9, err_msg=name)
        assert np.isnan(column[12:]).all()


def test_all_groups_at_once(toy):
    sg.tl.centrality(toy, key="grouped", n_edges=20)
    for group, slot in (("a", "grouped_a"), ("b|c", "grouped_b|c")):
        values = expected(toy.varp[slot], 20)
        np.testing.assert_allclose(toy.var[f"centrality_{group}_pagerank"][:12], values["pagerank"], rtol=1e-6)
    assert list(toy.uns["centrality"]["params"]["n_edges_taken"]) == [20, 20]
    copied = sg.tl.centrality(toy, copy=True)  # replaces them
    assert list(copied.var) == [f"centrality_{name}" for name in MEASURES]
    assert "centrality_a_pagerank" in toy.var


def test_edges_of_few_cells_are_left_out(toy):
    numbers = toy.varp["network"].copy()
    numbers.data[:] = np.random.default_rng(3).integers(5, 40, numbers.nnz)
    toy.varp["network__n"] = numbers
    supported = toy.varp["network"].copy()
    supported.data[numbers.data < 20] = 0
    supported.eliminate_zeros()
    sg.tl.centrality(toy, n_edges=15, min_cells=20)
    for name, values in expected(supported, 15).items():
        np.testing.assert_allclose(toy.var[f"centrality_{name}"][:12], values, rtol=1e-6, atol=1e-9, err_msg=name)
    assert toy.uns["centrality"]["params"]["min_cells"] == 20
    edges = sg.get.edges(toy, min_cells=20, n_top=15)
    degrees = edges["source"].value_counts().reindex(toy.var_names[:12], fill_value=0)
    np.testing.assert_array_equal(toy.var["centrality_out_degree"][:12], degrees)
    before = toy.var.copy()
    with pytest.raises(ValueError, match=r"above 0 and enough cells \(0 of .* lower min_cells"):
        sg.tl.centrality(toy, min_cells=99)
    with pytest.raises(ValueError, match=r"min_cells=20 has no meaning for \.varp\['grouped_a'\]"):
        sg.tl.centrality(toy, key="grouped", min_cells=20)
    assert toy.var.equals(before)


def test_betweenness_of_a_network_with_few_sources(toy, monkeypatch):
    """Without edges between sources nothing is between two genes; with them only sources are."""
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    weights = np.zeros((15, 15), np.float32)
    weights[:2, 2:12] = np.random.default_rng(0).uniform(1, 2, (2, 10))
    toy.varp["network"] = sparse.csr_matrix(weights)
    sg.tl.centrality(toy)
    assert (toy.var["centrality_betweenness"][:12] == 0).all()
    (warning,) = warnings
    assert "betweenness is 0 for all" in warning
    weights[0, 1], weights[0, 2:7] = 100, 0
    toy.varp["network"] = sparse.csr_matrix(weights)
    sg.tl.centrality(toy)
    assert toy.var["centrality_betweenness"][:12].to_numpy().nonzero()[0].tolist() == [1]
    assert len(warnings) == 1


def test_bad_networks_are_refused(toy, monkeypatch):
    with pytest.raises(KeyError, match=r"Run `sg\.tl\.network\(adata\)` first"):
        sg.tl.centrality(toy, key="gone")
    toy.varp["network"].data[:] = -1
    with pytest.raises(ValueError, match=r"No edge in \.varp\['network'\] has a weight above 0"):
        sg.tl.centrality(toy)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "igraph", None)
        with pytest.raises(ImportError, match=r"pip install 'scgeneformer\[network\]'"):
            sg.tl.centrality(toy, key="grouped")
    toy.var["centrality_a_closeness"] = 1.0
    with pytest.raises(ValueError, match=r"\.var\['centrality_a_closeness'\] is not a result of scgeneformer"):
        sg.tl.centrality(toy, key="grouped")
    assert list(toy.var) == ["centrality_a_closeness"]
    assert "centrality" not in toy.uns
