"""Scores of gene sets, against loops over cells and sets and what random sets must give."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import scgeneformer as sg
from scgeneformer.tl._perturbation._beside import random_sets

SETS = {"a": ["SYM1", "SYM2", "SYM5"], "b/c": ["SYM7", "SYM9", "SYM11", "SYM2", "absent"]}


@pytest.fixture
def embedded(tokenized, folder):
    sg.tl.embed(tokenized, folder, genes=True, pooling="mean", emb_layer=0)
    return tokenized


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_scores_are_those_of_a_loop(embedded):
    sg.tl.score_sets(embedded, SETS, min_genes=3, n_random=20, rng=3)
    token_id = embedded.var["token_id"].to_numpy().astype(int)
    columns = [np.array([1, 2, 5]), np.array([2, 7, 9, 11])]
    vectors = embedded.varm["geneformer"].astype(float)
    usable = np.sort(token_id[(token_id >= 0) & np.isfinite(vectors).all(1)])
    tokens = embedded.obsm["geneformer_tokens"]
    drawn = random_sets(tokens, [token_id[c] for c in columns], usable, 20, np.random.default_rng(3))
    column_of = {token: column for column, token in enumerate(token_id) if token >= 0}
    genes = vectors - np.mean([vectors[column_of[token]] for token in usable], axis=0)
    cells = embedded.obsm["X_geneformer"].astype(float)
    cells = unit(cells - cells.mean(0))
    logged = embedded.X.toarray()
    logged = np.log1p(1e4 * logged / logged.sum(1, keepdims=True))
    for i, name in enumerate(["a", "b|c"]):
        random = [[column_of[token] for token in genes_] for genes_ in drawn[20 * i : 20 * (i + 1)]]
        for slot, value in (
            ("set_scores", lambda c: cells @ unit(genes[c].mean(0))),
            ("set_scores_expression", lambda c: logged[:, c].mean(1)),
        ):
            null = np.array([value(c) for c in random])
            expected = (value(columns[i]) - null.mean(0)) / null.std(0, ddof=1)
            np.testing.assert_allclose(embedded.obsm[slot][name], expected, rtol=1e-5, atol=1e-5)
    table = embedded.uns["set_scores"]["sets"]
    assert table["n_genes"].tolist() == [3, 5]
    assert table["n_used"].tolist() == [3, 4]


def test_tables_files_mudata_and_copies(embedded, tmp_path):
    by_name = sg.tl.score_sets(embedded, {"a": SETS["a"]}, min_genes=3, copy=True)
    assert "set_scores" not in embedded.obsm
    table = pd.DataFrame({"source": "a", "target": SETS["a"], "weight": 1.0})
    (tmp_path / "sets.gmt").write_text("a\t\t" + "\t".join(SETS["a"]) + "\n")
    for sets in (table, tmp_path / "sets.gmt"):
        mdata = md.MuData({"rna": embedded.copy()})
        sg.tl.score_sets(mdata, sets, min_genes=3)
        pd.testing.assert_frame_equal(mdata["rna"].obsm["set_scores"], by_name.obsm["set_scores"])
    by_name.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(again.obsm["set_scores"], by_name.obsm["set_scores"])
    pd.testing.assert_frame_equal(again.uns["set_scores"]["sets"], by_name.uns["set_scores"]["sets"])


def test_a_cell_lies_near_its_own_genes(embedded):
    """The genes that only the first cells express: a set that describes them."""
    counts = embedded.X.toarray()
    counts[:20, :6] = 0
    counts[20:, :6] += 6
    cells = ad.AnnData(counts, obs=embedded.obs[[]], var=embedded.var[["symbol"]])
    vocabulary = sg.Vocabulary.from_adata(cells[:, :28].copy(), name="other", max_length=64)
    torch.manual_seed(0)
    pretrained = sg.hub.Pretrained(
        "untrained",
        vocabulary,
        model=sg.nn.Encoder(
            sg.nn.EncoderConfig(
                vocab_size=len(vocabulary), n_layers=1, width=64, n_heads=2, feed_forward=16, max_length=64
            )
        ).eval(),
    )
    sg.pp.tokenize(cells, pretrained)
    sg.tl.embed(cells, pretrained, genes=True, pooling="mean")
    sg.tl.score_sets(cells, {"own": [f"SYM{i}" for i in range(6)]})
    for slot in ("set_scores", "set_scores_expression"):
        scores = cells.obsm[slot]["own"].to_numpy()
        assert roc_auc_score(np.arange(40) >= 20, scores) > 0.9


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        ({"a": ["SYM1"]}, ValueError, "No set has min_genes=3 genes.*the largest has 1"),
        ({"a": "SYM1"}, ValueError, "lists of genes by name"),
        ({}, ValueError, "lists of genes by name"),
        (pd.DataFrame({"set": ["a"]}), KeyError, "no column 'source'"),
    ],
)
def test_sets_that_cannot_be_scored(embedded, sets, error, message):
    with pytest.raises(error, match=message):
        sg.tl.score_sets(embedded, sets, min_genes=3)
    assert "set_scores" not in embedded.uns


def test_what_is_missing_is_named(tokenized, folder):
    with pytest.raises(KeyError, match=r"obsm\['X_geneformer'\].*genes=True"):
        sg.tl.score_sets(tokenized, SETS)
    sg.tl.embed(tokenized, folder, pooling="mean")
    with pytest.raises(KeyError, match=r"varm\['geneformer'\].*genes=True"):
        sg.tl.score_sets(tokenized, SETS)
    sg.tl.embed(tokenized, folder, genes=True, pooling="cls")
    with pytest.raises(ValueError, match="not the mean of genes"):
        sg.tl.score_sets(tokenized, SETS)
    tokenized.obsm["set_scores"] = np.zeros((40, 2))
    with pytest.raises(ValueError, match="set_scores"):
        sg.tl.score_sets(tokenized, SETS)
