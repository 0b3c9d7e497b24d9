"""The classifier of pairs: what it learns, what it refuses, and the baselines reported with its scores."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scanpy import logging as logg
from scipy import sparse

import scgeneformer as sg
from scgeneformer.model.pairs._features import Expression, cosines, pair_features
from scgeneformer.model.pairs._methods import Task, degree_features
from scgeneformer.model.pairs._pairs import gene_families


@pytest.fixture
def messages(monkeypatch):
    """What is logged as a warning."""
    messages = []
    monkeypatch.setattr(logg, "warning", messages.append)
    return messages


@pytest.fixture(scope="module")
def vocabulary():
    return sg.hub.vocabulary("default")


@pytest.fixture(scope="module")
def genes(vocabulary):
    """Symbols of genes, each of a family of its own."""
    symbols = [name for name in vocabulary.symbols[10:900].tolist() if name.isalpha()]
    return [name for name in symbols if vocabulary.tokens_of([name])[0] >= 0][:60]


@pytest.fixture(scope="module")
def pairs(genes):
    """180 different pairs of 60 genes."""
    rng = np.random.default_rng(0)
    a, b = np.triu_indices(60, 1)
    rows = rng.choice(len(a), 180, replace=False)
    return pd.DataFrame({"source": np.array(genes)[a[rows]], "target": np.array(genes)[b[rows]]})


def table(*rows, **columns):
    return pd.DataFrame(list(rows), columns=["source", "target"]).assign(**columns)


def cells(genes, n=30):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.5, (n, len(genes))).astype(np.float32))
    adata = ad.AnnData(counts, var=pd.DataFrame(index=genes))
    sg.pp.tokenize(adata)
    return adata


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (pd.DataFrame({"a": ["STAT1"], "b": ["IRF9"]}), r"no column 'source', but \['a', 'b'\]. Rename columns"),
        (table(), r"pairs= has no rows. Give a row for each pair"),
        (table(("STAT1", "NOGENE"), ("STAT1", "IRF9")), r"1 genes of pairs= .*: NOGENE. .* missing=\"drop\""),
        (table(("STAT1", "STAT1")), r"1 rows of pairs= have the same gene .* STAT1-STAT1. Leave them out"),
        (table(("STAT1", "ENSG00000115415")), "have the same gene"),
        (table(("STAT1", "IRF9"), ("IRF9", "STAT1"), label=["up", "down"]), "two labels in either order"),
        (table(("STAT1", "IRF9"), label=["up"]), "has one class only, 'up'. Leave the column out"),
        (table(("STAT1", "IRF9"), ("STAT2", "IRF9"), label=["up", None]), r"1 rows of pairs\['label'\] are missing"),
        (table(("STAT1", "IRF9"), ("STAT2", "IRF9"), label=["up", "target"]), r"cannot be called \['target'\]"),
    ],
)
def test_bad_tables_are_refused_with_the_slot_and_the_cure(rows, error):
    with pytest.raises(ValueError, match=error):
        sg.model.PairClassifier(None, rows)


def test_labels_of_both_directions_differ_only_if_directed():
    rows = table(("STAT1", "IRF9"), ("IRF9", "STAT1"), label=["up", "down"])
    assert len(sg.model.PairClassifier(None, rows, directed=True).pairs) == 2
    twice = table(("STAT1", "IRF9"), ("IRF9", "STAT1"))
    assert len(sg.model.PairClassifier(None, twice).pairs) == 1


def test_unknown_genes_are_left_out_on_request(pairs, messages):
    with_unknown = pd.concat([pairs, table((pairs["source"][0], "NOGENE"))], ignore_index=True)
    model = sg.model.PairClassifier(None, with_unknown, missing="drop")
    assert "NOGENE. 1 of 181 pairs are left out" in messages[0]
    assert len(model.pairs) == len(pairs)


def test_a_class_that_loses_all_its_pairs_is_named(genes, pairs):
    labelled = pairs.head(3).assign(label=["up", "up", "down"])
    labelled.loc[2, "target"] = "NOGENE"
    with pytest.raises(ValueError, match=r"No pair is left of these classes of pairs\['label'\]: down"):
        sg.model.PairClassifier(None, labelled, missing="drop")
    labelled = table(genes[:2], genes[2:4], [genes[0], genes[50]], label=["up", "up", "down"])
    with pytest.raises(ValueError, match=r"classes of pairs\['label'\]: down"):
        sg.model.PairClassifier(cells(genes[:40]), labelled, features="contextual", missing="drop")


def test_too_few_pairs_are_refused_before_vectors_are_made(pairs, monkeypatch):
    monkeypatch.setattr("scgeneformer.model.pairs._pair_classifier.gene_vectors", None)
    few = sg.model.PairClassifier(None, pairs.head(4))
    with pytest.raises(ValueError, match=r"fewer pairs than the 5 folds: 'positive' \(4\)"):
        few.cross_validate()
    with pytest.raises(ValueError, match="splits= is empty"):
        few.cross_validate(splits=[])
    with pytest.raises(ValueError, match=r"not trained. Run `model.train\(\)`"):
        few.predict(pairs)


def test_contextual_features_need_cells_and_genes_that_are_expressed(pairs, genes):
    with pytest.raises(ValueError, match='needs tokenized cells. Pass adata, or features="token"'):
        sg.model.PairClassifier(None, pairs, features="contextual")
    adata = cells(genes[:40])
    before = sorted(adata.obsm), sorted(adata.uns), sorted(adata.var)
    with pytest.raises(ValueError, match=r"20 genes .* no cell, .*missing=\"drop\""):
        sg.model.PairClassifier(adata, pairs, features="contextual")
    model = sg.model.PairClassifier(adata, pairs, features="contextual", missing="drop")
    model.train()
    states = sg.tl.embed(adata, "default", genes=True, copy=True).varm["geneformer"]
    tokens = adata.var["token_id"].to_numpy()
    np.testing.assert_allclose(model._vectors[tokens], np.asarray(states), rtol=1e-4, atol=1e-5)
    assert (sorted(adata.obsm), sorted(adata.uns), sorted(adata.var)) == before


def test_features_of_symmetric_pairs_do_not_know_the_order():
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    one, other = np.array([[0, 1]]), np.array([[1, 0]])
    np.testing.assert_array_equal(
        pair_features(vectors, one, directed=False), pair_features(vectors, other, directed=False)
    )
    assert (pair_features(vectors, one, directed=True) != pair_features(vectors, other, directed=True)).any()
    expected = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    assert cosines(vectors, one)[0] == pytest.approx(expected, rel=1e-5)


def test_expression_is_what_numpy_says(genes, vocabulary):
    adata = cells(genes[:12])
    expression = Expression.of(adata, "geneformer_tokens", vocabulary)
    counts = adata.X.toarray()
    tokens = adata.var["token_id"].to_numpy()
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    np.testing.assert_allclose(expression.detection()[tokens, 0], (counts > 0).mean(0))
    correlations = expression.correlations(tokens[[[0, 1], [2, 5], [3, 11]]])
    np.testing.assert_allclose(correlations, np.corrcoef(values.T)[[0, 2, 3], [1, 5, 11]], rtol=1e-5)
    absent = next(token for token in range(10, 99) if token not in tokens)
    assert expression.correlations(np.array([[tokens[0], absent]]))[0] == 0
    assert expression.detection()[absent, 0] == 0


def test_degrees_count_the_other_training_pairs():
    known = np.array([[0, 1], [0, 2], [3, 0]])
    task = Task(np.array([[0, 1], [1, 2]]), np.array([1, 0]), np.array([[0, 4]]), known, np.ones(3, int), 2, 0)
    train, test = degree_features(task, 5, directed=False)
    np.testing.assert_allclose(train[:, 0], [np.log(3) + np.log(1), 2 * np.log(2)])  # without the pair itself
    np.testing.assert_allclose(test[:, 0], [np.log(4)])
    _, test = degree_features(task, 5, directed=True)
    np.testing.assert_allclose(test, [[np.log(3), 0]])  # twice a source; 4 is no target


def test_families_are_the_leading_letters_of_symbols_or_given(vocabulary):
    tokens = dict(zip(vocabulary.symbols.tolist(), range(len(vocabulary)), strict=True))
    by_prefix = gene_families("prefix", vocabulary, np.arange(4))
    assert by_prefix[tokens["STAT1"]] == by_prefix[tokens["STAT2"]] != by_prefix[tokens["IRF9"]]
    assert by_prefix[tokens["HLA-A"]] == by_prefix[tokens["HLA-B"]]
    assert len(set(gene_families(None, vocabulary, np.arange(4)))) == len(vocabulary)
    some = np.array([tokens["STAT1"], tokens["IRF9"]])
    given = gene_families({"STAT1": "x", "IRF9": "x", "NOGENE": "y"}, vocabulary, some)
    assert given[tokens["STAT1"]] == given[tokens["IRF9"]] != given[tokens["STAT2"]]
    with pytest.raises(ValueError, match="family= names none of the genes of pairs="):
        gene_families({"STAT2": "x"}, vocabulary, some)


@pytest.fixture(scope="module")
def planted(genes, vocabulary):
    """Genes of four communities, pairs within a community, and vectors that reveal the community."""
    rng = np.random.default_rng(1)
    tokens = vocabulary.tokens_of(genes)
    vectors = rng.normal(size=(len(vocabulary), 8)).astype(np.float32)
    vectors[tokens] += 4 * np.eye(8)[np.arange(60) % 4]
    a, b = np.triu_indices(60, 1)
    rows = rng.permutation(np.flatnonzero(a % 4 == b % 4))[:240]
    return pd.DataFrame({"source": np.array(genes)[a[rows]], "target": np.array(genes)[b[rows]]}), vectors


@pytest.mark.parametrize("classifier", ["logistic", "boosting"])
def test_what_vectors_know_is_found_in_unseen_genes_and_degree_finds_nothing(planted, classifier):
    pairs, vectors = planted
    model = sg.model.PairClassifier(None, pairs, classifier=classifier, family=None)
    model.__dict__["_vectors"] = vectors
    cv = model.cross_validate(2, n_repeats=2, splits="both_unseen")
    honest = cv.table.loc[("both_unseen", "degree")]
    assert honest.loc["model", "auroc"] > 0.75
    assert abs(honest.loc["degree", "auroc"] - 0.5) < 0.1
    assert abs(honest.loc["random vectors", "auroc"] - 0.5) < 0.15
    assert cv.table.equals(model.cross_validate(2, n_repeats=2, splits="both_unseen").table)
    assert model._predict is None
    model.train()
    strangers = sg.hub.vocabulary("default").symbols[-2:].tolist()
    new = pd.DataFrame({"source": [pairs["source"][0], strangers[0]], "target": [pairs["target"][0], strangers[1]]})
    assert model.predict(new)["n_trained"].tolist() == [2, 0]
    assert model.predict(pairs)["score"].mean() > 0.8


def test_accuracy_is_never_printed_without_the_base_rate(pairs):
    hub_pairs = pairs.assign(label=np.where(np.arange(180) % 3 == 0, "up", "down"))
    model = sg.model.PairClassifier(None, hub_pairs, directed=True, family=None)
    cv = model.cross_validate(2, n_repeats=2, splits=["both_unseen", "random"])
    for call in (model.train, model.cross_validate):
        with pytest.raises(ValueError, match="negatives='degree' has no meaning for pairs with labels"):
            call(negatives="degree")
    header = repr(cv).splitlines()[0]
    assert {"accuracy", "base_rate", "majority", "ap_ratio"} <= set(header.split())
    assert "Without detection: no cells were given." in repr(cv)
    assert cv.table.index.get_level_values("negatives").unique().tolist() == ["label"]
    rows = cv.table.loc[("random", "label")]
    np.testing.assert_allclose(rows["base_rate"], 1 / 3, atol=0.02)
    np.testing.assert_allclose(rows["majority"], 2 / 3, atol=0.02)
    assert rows.index.tolist()[-1] == "model"
    assert cv.scores.index.names == ["split", "negatives", "method", "repeat", "fold"]


def test_predictions_say_what_is_missing(pairs, messages):
    model = sg.model.PairClassifier(None, pairs)
    model.train()
    new = pd.concat([pairs.head(2), table((pairs["source"][0], "NOGENE"))]).set_index(pd.Index([5, 6, 7]))
    predictions = model.predict(new)
    assert "NOGENE. Their 1 pairs get no prediction" in messages[0]
    assert predictions.index.tolist() == [5, 6, 7]
    assert predictions["score"].isna().tolist() == [False, False, True]
    assert predictions["n_trained"].tolist() == [2, 2, 1]
    with pytest.raises(ValueError, match="No pair is left"):
        model.predict(table(("NOGENE", "NORGENE")))


@pytest.mark.parametrize("classifier", ["logistic", "boosting"])
def test_saved_models_predict_the_same(pairs, tmp_path, classifier):
    labelled = pairs.assign(label=np.where(np.arange(180) % 2, "up", "down"))
    model = sg.model.PairClassifier(None, labelled, directed=True, classifier=classifier)
    model.train(rng=3)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save(tmp_path / "model")
    model.save(tmp_path / "model", overwrite=True)
    loaded = sg.model.PairClassifier.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.predict(pairs), model.predict(pairs))
    pd.testing.assert_frame_equal(loaded.pairs, model.pairs)
    twice = pairs.head(2).set_index(pd.Index([7, 7]))  # rows are rows, whatever they are called
    assert loaded.predict(twice)["up"].tolist() == pytest.approx(model.predict(pairs)["up"].head(2).tolist())
    plan = {"n_folds": 2, "n_repeats": 1, "splits": "random"}
    pd.testing.assert_frame_equal(loaded.cross_validate(**plan).scores, model.cross_validate(**plan).scores)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="is not a saved PairClassifier"):
        model.save(tmp_path / "other", overwrite=True)
    with pytest.raises(FileNotFoundError, match="No PairClassifier in"):
        sg.model.PairClassifier.load(tmp_path / "other")
    (tmp_path / "model" / "pair_classifier.json").write_text("[]")
    with pytest.raises(ValueError, match="or is damaged"):
        sg.model.PairClassifier.load(tmp_path / "model")
