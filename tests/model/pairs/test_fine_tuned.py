"""Encoders fine-tuned on pairs start at the probe, see no held-out gene, and are kept only if they improve on it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scanpy import logging as logg

from scgeneformer import engine, evaluation, nn
from scgeneformer.model import PairClassifier
from scgeneformer.model.objectives._pairs import LabelsOfPairs
from scgeneformer.model.pairs._learning import Learner
from scgeneformer.model.pairs._negatives import negatives_of_fold
from scgeneformer.model.pairs._pair_encoder import held_out
from scgeneformer.model.pairs._splits import pair_folds
from scgeneformer.model.recipes._pairs import TrainingPairs

TOKENS = "geneformer_tokens"
N_GENES = 48
TUNED = {"features": "contextual", "classifier": "fine-tuned", "family": None}


@pytest.fixture
def vocabulary(toy):
    return toy[0]("pairs", N_GENES + 2)


@pytest.fixture
def cells(vocabulary):
    """Cells of 40 of the first 48 genes, even ones first; the two last genes are in one cell each."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((24, 64), dtype=np.uint16)
    for row in tokens:
        even, odd = (4 + 2 * rng.permutation(N_GENES // 2)[:20] + part for part in (0, 1))
        row[:42] = [2, *even, *odd, 3]
    for row, gene in ((0, N_GENES + 4), (1, N_GENES + 5)):
        tokens[row, 41:43] = [gene, 3]
    frames = {"obs": [f"cell{i}" for i in range(24)], "var": vocabulary.ids[4:]}
    cells = ad.AnnData(**{name: pd.DataFrame(index=index) for name, index in frames.items()}, obsm={TOKENS: tokens})
    cells.uns[TOKENS] = {"params": {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}}
    return cells


@pytest.fixture
def pairs(vocabulary):
    """All pairs of the 48 genes; they are alike if both are even or both odd."""
    a, b = np.random.default_rng(0).permutation(np.column_stack(np.triu_indices(N_GENES, 1))).T
    genes = vocabulary.ids[4:]
    return pd.DataFrame({"source": genes[a], "target": genes[b], "label": np.where((a + b) % 2, "apart", "alike")})


@pytest.fixture
def short(quick) -> dict:
    return quick | {"token_budget": None, "max_epochs": 2}


@pytest.fixture
def messages(monkeypatch):
    messages = []
    monkeypatch.setattr(logg, "warning", messages.append)
    return messages


def learner(start, vocabulary, cells, *, directed):
    families = np.arange(len(vocabulary))
    vectors = np.zeros((len(vocabulary), 1))
    return Learner("fine-tuned", ("no", "yes"), directed, vectors, families, start.to_pretrained(), cells.obsm[TOKENS])


@pytest.mark.parametrize("directed", [False, True])
def test_the_start_is_a_probe_of_the_mean_features(start, cells, pairs, short, directed):
    model = PairClassifier(cells, pairs, start, directed=directed, **TUNED)
    model.train(recipe="probe")
    network, tokens = nn.PairClassifier(start.encoder.config, 2, directed=directed), model._pairs.tokens
    network.encoder.load_state_dict(start.encoder.state_dict())
    features = engine.pair_features(network, cells.obsm[TOKENS], tokens).features
    scores = evaluation.fit_logistic(features.astype(np.float32), model._pairs.codes, n_classes=2)(features)
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict(pairs)[["alike", "apart"]], expected, atol=1e-5)
    model.train(learning_rate=0.0, **short)  # a run that goes nowhere ends where it began
    table = model.selected.table
    assert model.selected.kept == "probe"
    assert table.loc["A", "criterion"] == pytest.approx(table.loc["probe", "criterion"], abs=1e-5)
    assert table.loc["A", "steps"] > 0
    np.testing.assert_allclose(model.predict(pairs)[["alike", "apart"]], expected, atol=1e-5)  # fitted to all


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("split", ["both_unseen", "one_unseen"])
def test_no_unseen_gene_is_learned_from(start, vocabulary, cells, pairs, short, monkeypatch, directed, split):
    rng = np.random.default_rng(0)
    learned: set[int] = set()
    batch_of = LabelsOfPairs.__call__

    def spy(self, rows, tokens, epoch):
        batch = batch_of(self, rows, tokens, epoch)
        row, *ends = batch["where"].T
        learned.update(*(tokens[row, end].tolist() for end in ends))
        return batch

    monkeypatch.setattr(LabelsOfPairs, "__call__", spy)
    monkeypatch.setattr(TrainingPairs, "least", (5, 1))
    positives = (
        vocabulary.token_of(pairs.head(400)[["source", "target"]].to_numpy().ravel()).astype(np.int64).reshape(-1, 2)
    )
    codes, families = np.ones(len(positives), dtype=np.int64), np.arange(len(vocabulary))
    fold = pair_folds(positives, codes, families, 3, split, directed=directed)[1]
    options = {"n_genes": len(vocabulary), "directed": directed}
    negatives, _ = negatives_of_fold("degree", positives, fold, sided=split == "one_unseen", rng=rng, **options)
    train = np.concatenate([positives[fold.train], negatives])
    codes = np.repeat([1, 0], [len(fold.train), len(negatives)])
    model = learner(start, vocabulary, cells, directed=directed).learn(train, codes, 0, max_cells=6, **short)
    assert len(model.selected.histories) == 1
    selecting = held_out(train, codes, families, directed=directed, rng=0)
    assert learned
    assert not learned & set(np.flatnonzero(fold.unseen).tolist())
    assert not learned & set(train[selecting.validation].ravel().tolist())


@pytest.mark.parametrize("learnable", [True, False])
def test_a_run_is_kept_only_if_it_beats_the_probe(start, cells, pairs, short, tmp_path, learnable):
    if not learnable:
        pairs["label"] = np.random.default_rng(0).permutation(pairs["label"])
    before = {name: value.clone() for name, value in start.encoder.state_dict().items()}
    model, again = (PairClassifier(cells, pairs, start, **TUNED) for _ in range(2))
    for each in (model, again):
        each.train(rng=1, **short | {"learning_rate": 3e-3, "max_epochs": 30})
    predictions, table = model.predict(pairs), model.selected.table
    pd.testing.assert_frame_equal(again.predict(pairs), predictions)
    beaten = table.loc["A", "difference"] < -table.loc["A", "standard_error"]
    assert model.selected.kept == ("A" if learnable else "probe")
    assert beaten == learnable
    assert (table.loc["A", "auc"] > 0.95) == learnable  # of pairs of unseen genes, where the probe is at chance
    assert table.loc["probe", "auc"] < 0.6
    assert all(torch.equal(before[name], value) for name, value in start.encoder.state_dict().items())
    model.save(tmp_path / "model")
    loaded = PairClassifier.load(tmp_path / "model", cells)
    pd.testing.assert_frame_equal(loaded.predict(pairs), predictions)
    assert loaded.selected.reason == model.selected.reason
    with pytest.raises(ValueError, match="Make a new PairClassifier to train one"):
        loaded.train()
    with pytest.raises(ValueError, match=r"PairClassifier.load\(folder, adata\)"):
        PairClassifier.load(tmp_path / "model").predict(pairs)
    save_file({"classifier.bias": torch.zeros(2)}, tmp_path / "model" / "encoder" / "head.safetensors")
    with pytest.raises(ValueError, match=r"head.safetensors lacks standardise.mean, .* is damaged"):
        PairClassifier.load(tmp_path / "model")


def test_a_cross_validation_shows_the_probe_and_the_model(start, cells, pairs, short):
    model = PairClassifier(cells, pairs.drop(columns="label").head(400), start, **TUNED)
    cv = model.cross_validate(2, n_repeats=1, splits="both_unseen", negatives="degree", **short | {"max_epochs": 1})
    rows = cv.table.loc[("both_unseen", "degree")]
    assert rows.index.tolist()[-2:] == ["probe", "model"]
    assert rows["auroc"].notna().all()
    assert len(cv.params["kept"]) == 2
    assert model._predict is None


def test_pairs_that_share_no_cell_are_neither_learned_nor_predicted(start, vocabulary, cells, pairs, messages):
    last = pd.DataFrame({"source": [vocabulary.ids[-2]], "target": [vocabulary.ids[-1]], "label": ["apart"]})
    with pytest.raises(ValueError, match="No pair of pairs= has both genes in one cell.*classifier="):
        PairClassifier(cells, last.drop(columns="label"), start, **TUNED)
    assert not messages
    both = pd.concat([pairs.head(40), last], ignore_index=True)
    model = PairClassifier(cells, both, start, **TUNED)
    assert "The genes of 1 of 41 pairs share no cell" in messages[0]
    model.train()
    assert model.selected.reason.startswith("too few validation pairs to tell")
    predictions = model.predict(both)
    assert "1 of 41 pairs= share no cell" in messages[1]
    assert predictions["apart"].isna().tolist() == [False] * 40 + [True]
    assert predictions["predicted"].isna().tolist() == [False] * 40 + [True]
    few = pd.concat([pairs[pairs["label"] == "alike"].head(9), last], ignore_index=True)
    with pytest.raises(
        ValueError, match=r"Fewer than two pairs of the classes \['apart'\] have both genes in one cell"
    ):
        PairClassifier(cells, few, start, **TUNED).train()


def test_what_has_no_meaning_is_refused(start, cells, pairs):
    with pytest.raises(ValueError, match='classifier="fine-tuned" reads the states .* features="contextual"'):
        PairClassifier(cells, pairs, start, classifier="fine-tuned")
    frozen = PairClassifier(cells, pairs, start, family=None)
    for call in (frozen.train, frozen.cross_validate):
        with pytest.raises(TypeError, match='max_epochs are options of classifier="fine-tuned"'):
            call(max_epochs=2)
    assert frozen.selected is None
    model = PairClassifier(cells, pairs, start, **TUNED)
    with pytest.raises(TypeError, match="learning_rte"):
        model.train(learning_rte=1)
    with pytest.raises(ValueError, match="recipe='probe' fits the head without a run"):
        model.train(recipe="probe", max_epochs=3)
    with pytest.raises(ValueError, match="early_stopping"):
        model.train(early_stopping=True)
    with pytest.raises(ValueError, match="must be a number of layers"):
        model.train(freeze=9)
    assert model._predict is None
