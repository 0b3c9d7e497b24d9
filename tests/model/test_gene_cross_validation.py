from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scanpy import logging as logg
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from scgeneformer import evaluation, nn
from scgeneformer._run_folder import locked
from scgeneformer.model import GeneClassifier
from scgeneformer.model._baselines import expression_features, profile_features

KEY = "geneformer_tokens"
N_EACH = 12
TRAIN = {"max_epochs": 6, "learning_rate": 3e-2, "warmup": 0.0, "batch_size": 12}


@pytest.fixture
def quick(quick) -> dict:
    return quick | {"recipe": "plain"}


@pytest.fixture
def model(ranked, vocabulary, start):
    genes = vocabulary.ids[4:]
    return GeneClassifier(ranked, {"late": genes[[*range(12, 24), 25]], "early": genes[[*range(12), 24]]}, start)


@pytest.mark.parametrize("train", [{}, TRAIN | {"recipe": "plain"}], ids=["probe", "plain"])
def test_folds_of_a_frozen_encoder_share_its_passes(model, ranked, start, quick, train, monkeypatch):
    frozen = GeneClassifier(ranked, model.classes, start, freeze="all")
    options = {name: value for name, value in quick.items() if name != "recipe"} | train
    read = []
    forward = nn.Encoder.forward
    monkeypatch.setattr(
        nn.Encoder,
        "forward",
        lambda self, tokens, *args, **kw: read.append(len(tokens)) or forward(self, tokens, *args, **kw),
    )
    cv = frozen.cross_validate(3, baselines=(), n_bootstrap=0, **options)
    if not train:
        assert sum(read) == 2 * ranked.n_obs  # states once, and probabilities of occurrences once
    for number in range(3):
        fold = cv.table["fold"].to_numpy()
        test, rest = np.flatnonzero(fold == number), np.flatnonzero((fold >= 0) & (fold != number))
        twin = frozen.untrained()
        twin.train(split=evaluation.Split(rest, rest[:0], test), rng=0, **options)
        scores = twin.score_tokens(ranked.obsm[KEY], frozen._classes.tokens[test], occurrences=True)
        proba = scores.proba[frozen._classes.tokens[test]]
        np.testing.assert_allclose(cv.predictions.to_numpy()[test], proba, atol=1e-6)
        truth = frozen._classes.code_of_token(len(frozen.vocabulary), test)
        truth = truth[ranked.obsm[KEY][scores.rows, scores.positions]]
        expected = evaluation.classification(truth, scores.occurrences, cv.classes).scores
        pd.testing.assert_series_equal(cv.per_occurrence.loc[0, number], expected, check_names=False, atol=1e-6)


def test_every_gene_that_occurs_is_judged_once_by_a_model_that_was_not_told(model, quick, monkeypatch):
    told = []
    train = GeneClassifier.train

    def watch(self, *args, split, **kwargs):
        told.append(split)
        return train(self, *args, split=split, **kwargs)

    monkeypatch.setattr(GeneClassifier, "train", watch)
    before = torch.cat([p.detach().flatten() for p in model.module.parameters()])
    state = torch.get_rng_state()
    cv = model.cross_validate(3, **TRAIN, **quick)
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in model.module.parameters()]))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.is_trained_
    genes = cv.table
    assert genes["fold"].value_counts().to_dict() == {0: 8, 1: 8, 2: 8, -1: 2}
    assert pd.crosstab(genes["fold"], genes["class"]).loc[0:].eq(4).all(axis=None)
    for number, split in enumerate(told):
        assert set(split.test) == set(np.flatnonzero(genes["fold"] == number))
        assert set(split.train) == set(np.flatnonzero((genes["fold"] >= 0) & (genes["fold"] != number)))
    absent = genes.index[genes["fold"] < 0]  # the official tool gives such genes to folds, too
    assert cv.not_tested == absent.tolist() == [model.vocabulary.ids[28], model.vocabulary.ids[29]]
    assert cv.predictions.loc[absent].isna().all(axis=None)
    assert genes.loc[absent, "predicted"].isna().all()
    assert (genes["n_cells"].loc[absent] == 0).all()

    there = genes["fold"] >= 0
    assert roc_auc_score(genes["class"][there] == "early", cv.predictions["early"][there]) > 0.9
    for number in range(3):
        fold = genes["fold"] == number
        early, proba = genes["class"][fold] == "early", cv.predictions["early"][fold]
        scores = cv.scores.loc[("classifier", 0, number)]
        assert scores["auc"] == pytest.approx(roc_auc_score(early, proba))
        assert scores["average_precision"] == pytest.approx(average_precision_score(early, proba))
        assert scores["macro_f1"] == pytest.approx(f1_score(early, proba > 0.5, average="macro"))
    # the mean over folds is that of folds, not of thresholds as in the official tool
    folds = cv.scores.loc["classifier", "auc"]
    assert cv.summary.loc["classifier", "auc"] == pytest.approx(np.mean(folds))
    assert cv.summary.loc["classifier", "auc_sd"] == pytest.approx(np.std(folds, ddof=1))
    assert set(cv.baselines) == {"linear probe", "expression level"}
    assert cv.summary.loc["expression level", "auc"] > 0.9  # ranks tell these classes apart


def test_answers_can_be_made_again(model, quick):
    quick |= {"max_epochs": 1, "learning_rate": 1e-2, "baselines": ["probe"]}
    first = model.cross_validate(3, **quick)
    again = model.cross_validate(3, **quick)
    pd.testing.assert_frame_equal(first.predictions, again.predictions)
    pd.testing.assert_frame_equal(first.scores, again.scores)
    other = model.cross_validate(3, rng=1, **quick)
    assert not first.table["fold"].equals(other.table["fold"])


def test_folds_are_their_own_models_by_hand(model, quick):
    """A fold is what `train` makes of its genes; occurrences are scored by themselves."""
    quick |= {"max_epochs": 1, "learning_rate": 1e-2}
    cv = model.cross_validate(3, baselines=[], **quick)
    number = 1
    numbers = cv.table["fold"].to_numpy()
    split = evaluation.Split(
        np.flatnonzero((numbers >= 0) & (numbers != number)), [], np.flatnonzero(numbers == number)
    )
    twin = model.untrained()
    twin.train(split=split, **quick)
    test = cv.table.index[numbers == number]
    np.testing.assert_allclose(twin.predict_genes(genes=test)["early"], cv.predictions.loc[test, "early"], atol=1e-6)
    every = twin.predict_genes(genes=test, occurrences=True)
    early = cv.table["class"].loc[every.index] == "early"
    assert cv.per_occurrence.loc[(0, number), "auc"] == pytest.approx(roc_auc_score(early, every["early"]))
    assert cv.per_occurrence.loc[(0, number), "accuracy"] == pytest.approx(np.mean(early == (every["early"] > 0.5)))


def test_an_untrained_twin_leaves_the_newest_registration(model, ranked, start):
    ranked.obsm["other"] = ranked.obsm[KEY].copy()
    ranked.uns["other"] = ranked.uns[KEY]
    GeneClassifier.setup_anndata(ranked, tokens_key="other")
    assert model.untrained().registry["setup_args"] == {"tokens_key": KEY}
    assert GeneClassifier(ranked, model.classes, start).registry["setup_args"] == {"tokens_key": "other"}


def test_repeats_are_cross_validations_of_their_own(model, quick):
    quick |= {"max_epochs": 1, "learning_rate": 1e-2, "baselines": ["expression"], "n_bootstrap": 0}
    both = model.cross_validate(3, n_repeats=2, rng=5, **quick)
    alone = [model.cross_validate(3, rng=seed, **quick) for seed in (5, 6)]
    for repeat, one in enumerate(alone):
        pd.testing.assert_frame_equal(
            both.scores.xs(repeat, level="repeat"), one.scores.droplevel("repeat"), check_names=False
        )
        pd.testing.assert_frame_equal(both.per_occurrence.loc[repeat], one.per_occurrence.loc[0])
        assert both.table[f"fold_{repeat}"].tolist() == one.table["fold"].tolist()
    np.testing.assert_allclose(both.predictions, (alone[0].predictions + alone[1].predictions) / 2)
    assert both.not_tested == alone[0].not_tested
    assert both.summary.loc["classifier", "auc_sd"] == pytest.approx(both.scores.loc["classifier", "auc"].std(ddof=1))
    tested = both.table["fold_0"] >= 0
    truth = both.table["class"][tested] == "early"
    areas = [roc_auc_score(truth, one.predictions["early"][tested]) for one in alone]
    assert both.pooled.loc["classifier", "auc"] == pytest.approx(np.mean(areas))
    assert both.pooled.loc["classifier", ["n", "n_rarest"]].tolist() == [24, 12]
    assert "auc_low" not in both.pooled


def test_few_genes_have_an_interval(ranked, vocabulary, start, quick, monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(logg, "warning", messages.append)
    genes = vocabulary.ids[4:]
    model = GeneClassifier(ranked, {"late": genes[12:24], "early": genes[:6]}, start)
    cv = model.cross_validate(3, max_epochs=1, **quick)
    assert any("The smallest class has 6 members" in text for text in messages)
    row, tested = cv.pooled.loc["expression level"], cv.table["fold"] >= 0
    truth = (cv.table["class"][tested] == "early").to_numpy()
    proba = cv.baselines["expression level"]["early"][tested].to_numpy()
    rng, areas = np.random.default_rng(0), []
    for _ in range(200):
        drawn = rng.integers(0, 18, 18)
        areas.append(roc_auc_score(truth[drawn], proba[drawn]) if 0 < truth[drawn].sum() < 18 else np.nan)
    np.testing.assert_allclose(row[["auc_low", "auc_high"]].astype(float), np.nanquantile(areas, [0.025, 0.975]))
    assert row["auc"] == pytest.approx(roc_auc_score(truth, proba))


def test_labels_without_a_meaning_are_not_recovered(ranked, vocabulary, start, quick):
    """Cells in which all classified genes are alike."""
    rng = np.random.default_rng(3)
    for row in ranked.obsm[KEY]:
        genes = row[row >= 4]
        row[1 : 1 + len(genes)] = rng.permutation(genes)
    genes = rng.permutation(vocabulary.ids[4:28])
    model = GeneClassifier(ranked, {"a": genes[:12], "b": genes[12:]}, start)
    cv = model.cross_validate(3, **TRAIN | {"max_epochs": 2}, **quick)
    assert 0.2 < roc_auc_score(cv.table["class"] == "b", cv.predictions["b"]) < 0.8
    assert cv.summary["auc"].between(0.2, 0.8).all()


def test_a_loaded_model_starts_where_the_saved_one_did(model, ranked, start, quick, tmp_path):
    quick |= {"max_epochs": 1, "baselines": ["probe"]}
    start.export(tmp_path / "start")
    made = GeneClassifier(ranked, model.classes, tmp_path / "start")
    made.train(1, **{name: quick[name] for name in ("accelerator", "precision", "recipe", "enable_progress_bar")})
    made.save(tmp_path / "saved")
    expected = model.cross_validate(2, **quick)
    again = GeneClassifier.load(tmp_path / "saved", ranked).cross_validate(2, **quick)
    pd.testing.assert_frame_equal(again.predictions, expected.predictions)
    pd.testing.assert_frame_equal(again.scores, expected.scores)
    assert again.params["model"] == str(tmp_path / "start")


def test_an_encoder_that_was_told_is_no_start(model, ranked, tmp_path):
    """Its folds would have seen the classes of the genes that they test."""
    model.export(tmp_path)
    with pytest.raises(ValueError, match="its encoder was trained"):
        GeneClassifier.from_pretrained(tmp_path, ranked).cross_validate(2)


def test_genes_to_choose_by(model, quick):
    cv = model.cross_validate(3, validation_size=0.25, keep_best="validation_auc", max_epochs=2, baselines=[], **quick)
    assert cv.predictions.notna().all(axis=1).sum() == 24


def test_each_fold_has_its_checkpoints(model, quick, tmp_path):
    model.cross_validate(2, max_epochs=1, baselines=[], checkpoints=tmp_path, **quick)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "fold0", "fold1"]
    with locked(tmp_path, "checkpoints"), pytest.raises(BlockingIOError, match="is in use by process"):
        model.cross_validate(2, max_epochs=1, baselines=[], checkpoints=tmp_path, **quick)


def test_expression_is_described_by_ranks(vocabulary):
    tokens = np.array([[2, 8, 6, 7, 3], [2, 6, 3, 0, 0], [2, 3, 0, 0, 0]], dtype=np.uint16)
    found = expression_features(tokens, np.array([6, 7, 8]), vocabulary)
    medians = vocabulary.medians[[6, 7, 8]]
    np.testing.assert_allclose(found, np.c_[np.log([2, 1, 1]), [1 / 6, 2 / 3, 0], np.log(medians)])


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_profiles_are_principal_components(kind, toy):
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (30, 9)).astype(float)
    counts[:, 8] = counts[:, 7]
    cells = ad.AnnData(kind(counts), var={"token_id": [9, 8, 7, 6, 5, 4, 10, -1, 4]})
    cells.obsm[KEY] = np.zeros((30, 8), np.uint16)
    vocabulary = toy[0]()
    cells.uns[KEY] = {"params": {"counts": "raw"}}
    found = profile_features(cells, np.array([4, 7, 10]), KEY, vocabulary, 0)
    logs = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    profiles = np.stack([logs[:, 5] + logs[:, 8], *(logs[:, i] for i in (4, 3, 2, 1, 0, 6))])  # tokens 4 to 10
    expected = PCA(6, svd_solver="full").fit_transform(profiles)[[0, 3, 6]]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    cells.layers["logs"] = logs
    cells.uns[KEY] = {"params": {"counts": "log1p", "layer": "logs"}}
    np.testing.assert_allclose(
        np.abs(profile_features(cells, np.array([4, 7, 10]), KEY, vocabulary, 0)), np.abs(expected), atol=1e-8
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_folds": 13}, r"fewer members than the 13 folds: 'late' \(12\), 'early' \(12\)"),
        ({"n_folds": 1}, "at least 2"),
        ({"n_repeats": 0}, "n_repeats=0"),
        ({"n_bootstrap": -1}, "n_bootstrap=-1"),
        ({"baselines": ["forest"]}, "forest"),
        ({"train_size": 0.5}, "train_size.*no meaning"),
        ({"ckpt_path": "last.ckpt"}, "ckpt_path.*no meaning"),
        ({"baselines": ["profiles"]}, "Leave it out of baselines="),
    ],
)
def test_bad_arguments_are_named(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.cross_validate(**arguments)


def test_a_column_of_var_is_a_baseline(ranked, vocabulary, start, quick):
    """A logistic regression on it, on the same folds; where it has no value, on its median and on that."""
    ids = vocabulary.ids[4:]
    degree = np.arange(len(ids), dtype=float)
    degree[[1, 13, 14]] = np.nan
    var = pd.DataFrame({"token_id": np.arange(4, len(vocabulary)), "degree": degree, "name": "x"}, index=ids)
    cells = ad.AnnData(obs=ranked.obs, var=var, obsm=dict(ranked.obsm), uns=dict(ranked.uns))
    GeneClassifier.setup_anndata(cells)
    model = GeneClassifier(cells, {"late": ids[12:24], "early": ids[:12]}, start)
    cv = model.cross_validate(3, baselines=["degree", "expression"], n_bootstrap=0, max_epochs=1, **quick)
    assert cv.pooled.index.tolist() == ["degree", "expression level", "classifier"]
    genes = cv.table
    value = pd.Series(degree, index=ids)[genes.index]
    features = np.column_stack([value.fillna(value.median()), value.isna()])
    codes = (genes["class"] == "early").to_numpy().astype(int)
    for fold in range(3):
        train, test = (np.flatnonzero(at) for at in (genes["fold"] != fold, genes["fold"] == fold))
        expected = evaluation.logistic(
            features[train], codes[train], features[test], n_classes=2, groups=None, scaled=True, rng=0
        )
        np.testing.assert_allclose(cv.baselines["degree"].to_numpy()[test], expected)
    with pytest.raises(ValueError, match="'name'.*not among"):
        model.cross_validate(3, baselines=["name"], **quick)
