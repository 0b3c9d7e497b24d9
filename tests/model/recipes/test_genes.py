"""Gene classes by the same recipes as cell classes: the probe on mean states, what is kept, and the baseline of expression level."""

from __future__ import annotations

from contextlib import suppress

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import BertForTokenClassification

from scgeneformer import evaluation
from scgeneformer.evaluation._linear import STRENGTHS
from scgeneformer.model import GeneClassifier
from scgeneformer.model._baselines import expression_features
from scgeneformer.model.data._cell_labels import CellTask

from .conftest import balanced_loss, save_as_before_heads
from .test_recipes import Fail, PowerFailure

TOKENS = "geneformer_tokens"
N_GENES, N_CELLS = 120, 60
SPLIT = evaluation.Split(np.arange(0, N_GENES, 2), np.arange(1, N_GENES, 4), np.arange(3, N_GENES, 4))


@pytest.fixture
def vocabulary(toy):
    return toy[0]("genes", N_GENES)


@pytest.fixture
def lists(vocabulary):
    """Genes of the first class come early in cells, but one in six of each class is in the wrong list."""
    early = np.arange(N_GENES) % 20 < 10
    early ^= np.arange(N_GENES) % 11 == 5
    genes = vocabulary.ids[4:]
    return {"early": genes[early].tolist(), "late": genes[~early].tolist()}


@pytest.fixture
def cells(vocabulary):
    rng = np.random.default_rng(0)
    first, last = (np.flatnonzero(np.arange(N_GENES) % 20 // 10 == part) + 4 for part in (0, 1))
    tokens = np.zeros((N_CELLS, 64), dtype=np.uint16)
    for row in tokens:
        genes = np.concatenate([rng.permutation(part)[: rng.integers(15, 31)] for part in (first, last)])
        row[: len(genes) + 2] = [2, *genes, 3]
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)]), obsm={TOKENS: tokens})
    adata.uns[TOKENS] = {"params": {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}}
    return adata


@pytest.fixture
def make(cells, lists, start):
    def make(classes=lists, **kwargs) -> GeneClassifier:
        GeneClassifier.setup_anndata(cells)
        torch.manual_seed(1)
        return GeneClassifier(cells, classes, start, **kwargs)

    return make


@pytest.fixture
def short(quick) -> dict:
    return quick | {"split": SPLIT, "max_epochs": 2, "token_budget": None}


def mean_states(model, tokens: np.ndarray) -> np.ndarray:
    """One cell at a time, (n_genes, H)."""
    sums, counts = np.zeros((len(model.vocabulary), model.encoder.config.width)), np.zeros(len(model.vocabulary))
    for row in tokens.astype(np.int64):
        genes = row[row != 0]
        with torch.no_grad():
            sums[genes] += model.encoder(torch.from_numpy(genes)[None])[0].double().numpy()
        counts[genes] += 1
    return (sums / counts[:, None])[model._classes.tokens]


CLASSES = CellTask("class", "categorical", ("early", "late"))


@pytest.mark.parametrize("max_cells", [None, 40])
@pytest.mark.parametrize("weights", [None, {"early": 5.0, "late": 1.0}])
def test_the_probe_is_scikit_learns_on_mean_states(make, cells, max_cells, weights):
    model = make()
    model.train(recipe="probe", split=SPLIT, max_cells=max_cells, class_weights=weights)
    used = np.arange(N_CELLS)
    if max_cells is not None:
        used = np.sort(np.random.default_rng(0).choice(N_CELLS, max_cells, replace=False))
    states, codes, train = mean_states(model, cells.obsm[TOKENS][used]), model._classes.codes, SPLIT.train
    options = {}
    if weights:
        of_genes = np.array([5.0, 1.0])[codes[train]]
        options = {"logisticregression__sample_weight": of_genes / of_genes.mean()}
    fits = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in STRENGTHS]
    expected = [fit.fit(states[train], codes[train], **options).predict_proba(states) for fit in fits]
    assert model.temperature_ >= 1
    model.temperature_ = 1.0
    found = model.predict_genes(genes=model.genes.index, indices=used)[["early", "late"]].to_numpy()
    assert min(np.abs(each - found).max() for each in expected) < 1e-5
    assert model.is_trained_
    assert not model.history
    assert model.selected.reason.startswith("it was asked for")
    assert model.trained_genes == model.genes.index[train].tolist()


@pytest.mark.parametrize(("rng", "kwargs"), [(0, {}), (1, {}), (0, {"lora": 2})])
def test_the_criterion_is_never_above_the_probes(make, short, rng, kwargs):
    if "lora" in kwargs:
        pytest.importorskip("peft")
    model = make(**kwargs)
    model.train(rng=rng, **short)
    selected, table = model.selected, model.selected.table
    assert list(table.index) == ["expression level", "probe", "B"]
    assert selected.n_validation == len(SPLIT.validation)
    assert table.loc[selected.kept, "criterion"] <= table.loc["probe", "criterion"]
    genes = model.genes.iloc[SPLIT.validation]
    told = model.predict_genes(genes=genes.index)
    codes = model._classes.codes[SPLIT.validation]
    scores = model.temperature_ * np.log(told[["early", "late"]].to_numpy())
    found = balanced_loss(CLASSES, scores, codes)
    assert table.loc[selected.kept, "criterion"] == pytest.approx(found, rel=1e-4)
    assert table.loc[selected.kept, "auc"] == pytest.approx(roc_auc_score(codes, told["late"]))
    runs = table.loc[["B"]]
    beat = runs.index[runs["difference"] < -runs["standard_error"]]
    assert selected.kept == (runs.loc[beat, "criterion"].idxmin() if len(beat) else "probe")
    assert set(selected.histories) == {"B"}
    assert set(model.history) == set(selected.histories.get(selected.kept, {}))


def test_a_run_that_learns_nothing_is_the_probe(make, short):
    model, probe = make(), make()
    model.train(learning_rate=0.0, **short)
    assert list(model.selected.table.index) == ["expression level", "probe", "A"]
    assert abs(model.selected.table.loc["A", "difference"]) < 1e-6
    probe.train(recipe="probe", split=SPLIT)
    expected = probe.predict_genes()
    pd.testing.assert_frame_equal(model.predict_genes(), expected, atol=1e-6)


def test_the_expression_level_is_a_regression_by_hand(make, cells, short):
    model = make()
    model.train(recipe="probe", split=SPLIT)
    features = expression_features(cells.obsm[TOKENS], model._classes.tokens, model.vocabulary)
    codes, train, held_out = model._classes.codes, SPLIT.train, SPLIT.validation
    proba = evaluation.logistic(features[train], codes[train], features[held_out])
    scores = evaluation.classification(codes[held_out], proba, ["early", "late"]).scores
    row = model.selected.table.loc["expression level"]
    np.testing.assert_allclose(row[["accuracy", "macro_f1", "auc"]], scores[["accuracy", "macro_f1", "auc"]])
    assert row["criterion"] == pytest.approx(balanced_loss(CLASSES, np.log(proba), codes[held_out]), rel=1e-4)
    difference = row["criterion"] - model.selected.table.loc["probe", "criterion"]
    assert row["difference"] == pytest.approx(difference)


@pytest.mark.parametrize("freeze", ["all", 0])
def test_it_is_said_if_the_expression_level_alone_does_better(make, cells, vocabulary, short, freeze, monkeypatch):
    """Genes expressed in few cells against genes expressed in many, which an untrained encoder cannot separate."""
    rng = np.random.default_rng(0)
    rare = rng.random(N_GENES) < 0.5
    for row in cells.obsm[TOKENS]:
        genes = 4 + rng.permutation(np.flatnonzero(~rare | (rng.random(N_GENES) < 0.1)))[:62]
        row[:] = np.pad([2, *genes, 3], (0, 62 - len(genes)))
    genes = vocabulary.ids[4:]
    model = make({"rare": genes[rare].tolist(), "common": genes[~rare].tolist()}, freeze=freeze)
    lines: list[str] = []
    monkeypatch.setattr(scanpy.logging, "info", lambda text, **_: lines.append(text))
    model.train(**short | {"max_steps": 2})
    selected = model.selected
    told = f"; the expression level alone does better ({selected.table.loc['expression level', 'criterion']:.3g})"
    assert selected.reason.endswith(told)
    assert lines[0].endswith(selected.reason)


@pytest.mark.parametrize(
    ("kwargs", "validation", "reason"),
    [
        ({"freeze": "all"}, SPLIT.validation, "only the head is trained, and the probe is its best fit"),
        ({}, SPLIT.validation[:19], "too few validation genes to tell (19; it takes 20, and 5 of each of two classes)"),
        ({}, SPLIT.validation[:0], "too few validation genes to tell (0; it takes 20, and 5 of each of two classes)"),
    ],
)
def test_the_probe_is_kept_without_a_run_where_none_could_tell(make, short, kwargs, validation, reason):
    model = make(**kwargs)
    model.train(**short | {"split": evaluation.Split(SPLIT.train, validation, SPLIT.test)})
    assert model.selected.reason.startswith(reason)
    assert not model.history
    assert (model.temperature_ == 1.0) == (len(validation) < 20)
    assert list(model.selected.table.index) == (["expression level", "probe"] if len(validation) else [])


def test_default_sizes_leave_genes_to_choose_by(make, quick):
    model = make()
    model.train(recipe="probe")
    assert [len(getattr(model.split, name)) for name in ("train", "validation", "test")] == [84, 24, 12]
    assert "too few" not in model.selected.reason
    head = make(head="bert")
    with pytest.raises(ValueError, match=r"recipe='auto' needs a linear head.*head='linear'"):
        head.train(recipe="auto")
    head.train(max_steps=1, **quick)
    assert head.selected is None
    assert head.temperature_ == 1.0
    rates = head.history["learning_rate"]["learning_rate"]
    assert rates.max() <= 2e-4


def test_the_official_options(make, quick):
    model = make(head="bert")
    model.train(recipe="official", split=SPLIT, **quick | {"token_budget": None})
    rates = model.history["learning_rate"]["learning_rate"]
    assert rates.max() == pytest.approx(5e-5)
    assert len(rates) == N_CELLS / 12


def test_files_bring_back_all_that_training_goes_on_from(make, cells, short, tmp_path):
    """Weights bit by bit, also those of a further run, though transformers reads another head from the same folder."""
    model = make(dropout=0.1)
    model.train(**short)
    model.temperature_ = 1.7
    expected, selected = model.predict_genes(), model.selected
    model.save(tmp_path / "saved")
    model.export(tmp_path / "exported")
    for again in (GeneClassifier.load(tmp_path / "saved"), GeneClassifier.from_pretrained(tmp_path / "exported")):
        pd.testing.assert_frame_equal(again.predict_genes(cells), expected, check_exact=True)
        assert again.temperature_ == 1.7
        assert (again.selected.kept, again.selected.reason) == (selected.kept, selected.reason)
        pd.testing.assert_frame_equal(again.selected.table, selected.table)
    theirs = BertForTokenClassification.from_pretrained(tmp_path / "saved").eval()
    tokens = torch.from_numpy(cells.obsm[TOKENS].astype(np.int64))
    with torch.no_grad():
        logits = theirs(tokens, attention_mask=(tokens != 0).long()).logits.double().numpy()
    of_each = np.exp(logits / 1.7) / np.exp(logits / 1.7).sum(-1, keepdims=True)
    every = model.predict_genes(occurrences=True)
    np.testing.assert_allclose(every[["early", "late"]], of_each[(tokens >= 4).numpy()], atol=1e-5)
    ends = []
    for trained in (model, GeneClassifier.load(tmp_path / "saved", cells)):
        torch.manual_seed(3)
        trained.train(1, recipe="plain", learning_rate=1e-2, **{k: v for k, v in short.items() if k != "max_epochs"})
        ends.append(trained.module.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_adapters_come_with_the_head_and_without_its_temperature(make, short, tmp_path):
    pytest.importorskip("peft")
    model = make(lora=2)
    model.train(**short)
    model.temperature_ = 1.7
    model.save_adapter(tmp_path / "adapter")
    other = make()
    other.train(recipe="probe", split=SPLIT)
    other.load_adapter(tmp_path / "adapter")
    assert (other.temperature_, other.selected) == (1.0, None)
    other.temperature_ = 1.7
    pd.testing.assert_frame_equal(other.predict_genes(), model.predict_genes(), atol=1e-6)
    other.save(tmp_path / "saved")
    again = GeneClassifier.load(tmp_path / "saved", other.adata)
    pd.testing.assert_frame_equal(again.predict_genes(), other.predict_genes(), check_exact=True)


@pytest.mark.parametrize("stops", [[2], [7]])
def test_interrupted_in_either_run_it_ends_as_one_that_never_stopped(make, short, tmp_path, stops):
    whole = make(dropout=0.1)
    whole.train(checkpoints=tmp_path / "whole", **short)
    options = short | {"checkpoints": tmp_path / "parts", "checkpoint_every": 1}
    for stop in [*stops, None]:
        model = make(dropout=0.1)
        resumed = {"ckpt_path": tmp_path / "parts"} if (tmp_path / "parts").is_dir() else {}
        with suppress(PowerFailure):
            model.train(callbacks=[Fail(stop)], **options | resumed)
    pd.testing.assert_frame_equal(model.selected.table, whole.selected.table, check_exact=True)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, model.module.state_dict()[name]), name


def test_a_run_that_fails_leaves_the_probe(make, short):
    model, probe = make(), make()
    probe.train(recipe="probe", split=SPLIT)
    probe.temperature_ = 1.0
    with pytest.raises(PowerFailure):
        model.train(callbacks=[Fail(3)], **short)
    pd.testing.assert_frame_equal(model.predict_genes(), probe.predict_genes(), atol=1e-6)


def test_folds_leave_genes_to_choose_by_where_there_is_a_choice(make, short, monkeypatch):
    sizes, train = [], GeneClassifier.train

    def watch(self, *args, split, **kwargs):
        sizes.append(len(split.validation))
        return train(self, *args, split=split, **kwargs)

    monkeypatch.setattr(GeneClassifier, "train", watch)
    short = {name: value for name, value in short.items() if name != "split"} | {"baselines": []}
    cv = make().cross_validate(2, **short | {"max_steps": 2})
    assert cv.predictions.notna().all(axis=None)
    make().cross_validate(2, recipe="probe", baselines=[])
    make(freeze="all").cross_validate(2, baselines=[])
    make(freeze="all").cross_validate(2, validation_size=0.5, baselines=[])
    assert sizes == [12, 12, 0, 0, 0, 0, 30, 30]


def test_genes_that_the_next_cells_lack_are_left_out(make, short):
    """A split is used again, though a smaller sample of cells may not have all of its genes."""
    model = make()
    model.train(**short)
    model.train(max_cells=3, rng=2, **{k: v for k, v in short.items() if k != "split"})
    assert np.isfinite(model.predict_genes()[["early", "late"]]).all(axis=None)
    np.testing.assert_array_equal(model.split.train, SPLIT.train)


def test_models_saved_when_all_heads_were_berts(make, cells, short, tmp_path):
    model = make(head="bert")
    model.train(**short)
    save_as_before_heads(model, tmp_path / "saved", ("selected_", "histories_", "temperature_"))
    again = GeneClassifier.load(tmp_path / "saved", cells)
    assert again.module.network.head == "bert"
    assert again.selected is None
    pd.testing.assert_frame_equal(again.predict_genes(), model.predict_genes(), check_exact=True)
