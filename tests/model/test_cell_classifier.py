from __future__ import annotations

import copy

import lightning.pytorch as pl
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import scgeneformer as sg
from scgeneformer import _log as logg
from scgeneformer import evaluation, nn
from scgeneformer.model import CellClassifier, Geneformer

TOKENS = "geneformer_tokens"


@pytest.fixture
def cells(cells):
    """Four types, given by the first gene; every third cell has no label; ages and doses depend on the type."""
    kind = (cells.obsm[TOKENS][:, 1] - 4) // 10
    cells.obs["type"] = pd.Categorical([f"type {k}" for k in kind])
    cells.obs.loc[cells.obs_names[::3], "type"] = np.nan
    cells.obs["age"] = 10.0 * kind + np.random.default_rng(0).normal(size=len(kind))
    cells.obs.loc[cells.obs_names[1::7], "age"] = np.nan
    cells.obs["dose"] = pd.Categorical(kind, categories=[0, 1, 2, 3], ordered=True)
    cells.obs["donor"] = [f"donor {i % 6}" for i in range(len(kind))]
    cells.obs["true"] = [f"type {k}" for k in kind]
    return cells


@pytest.fixture
def start(vocabulary):
    torch.manual_seed(0)
    shape = {"n_layers": 2, "width": 32, "n_heads": 2, "feed_forward": 32, "dropout": 0.0}
    return Geneformer(vocabulary=vocabulary, **shape)


@pytest.fixture
def quick(quick):
    """One run, of which each epoch is validated."""
    return quick | {"learning_rate": 5e-3, "token_budget": 300, "recipe": "plain"}


def make(cells, start, labels="type", *, sample=None, **kwargs) -> CellClassifier:
    CellClassifier.setup_anndata(cells, labels, sample_key=sample)
    torch.manual_seed(1)
    return CellClassifier(cells, start, **kwargs)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.network.state_dict().items()}


def test_learns_and_labels_the_unlabelled(cells, start, quick):
    model = make(cells, start)
    model.train(12, **quick)
    unlabelled = np.flatnonzero(cells.obs["type"].isna())
    assert (model.predict(indices=unlabelled) == cells.obs["true"].to_numpy()[unlabelled]).mean() > 0.9
    proba = model.predict(soft=True)
    assert list(proba) == [f"type {k}" for k in range(4)]
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(proba.columns.to_numpy()[proba.to_numpy().argmax(1)], model.predict())
    split = model.split
    assert len(split.train) + len(split.validation) + len(split.test) == 80
    assert not np.isin(unlabelled, np.concatenate([split.train, split.validation, split.test])).any()
    for name in ("loss", "accuracy", "macro_f1", "auc"):
        assert len(model.history[f"validation_{name}"]) == 12
    assert model.get_latent_representation().shape == (120, 32)


def test_scores_are_those_of_transformers(cells, start, quick, tmp_path):
    model = make(cells, start, pooling="cls", head="bert")
    model.train(2, **quick)
    model.export(tmp_path)
    theirs = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    tokens = torch.from_numpy(cells.obsm[TOKENS].astype(np.int64))
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
    np.testing.assert_allclose(model.scores(), expected, atol=1e-5)
    assert theirs.config.id2label == {k: f"type {k}" for k in range(4)}
    theirs.save_pretrained(tmp_path / "back")
    model.vocabulary.save(tmp_path / "back" / "vocabulary.json.gz")
    back = CellClassifier.from_pretrained(tmp_path / "back")
    np.testing.assert_allclose(back.scores(cells), expected, atol=1e-5)
    assert back.tasks == model.tasks
    (tmp_path / "back" / "config.json").write_text(BertConfig.from_pretrained(tmp_path / "back").to_json_string())
    nn.add_to_config(tmp_path / "back", {"tasks": {}})  # as one that was trained elsewhere
    other = CellClassifier.from_pretrained(tmp_path / "back", labels_key="kind")
    assert [(task.name, task.classes) for task in other.tasks] == [("kind", model.tasks[0].classes)]
    np.testing.assert_array_equal(other.predict(cells), model.predict())


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_padding_has_no_part(cells, start, pooling):
    model = make(cells, start, pooling=pooling)
    network, tokens = model.module.network, torch.from_numpy(cells.obsm[TOKENS][:9].astype(np.int64))
    with torch.no_grad():
        together = network(tokens, tokens != 0)
        alone = torch.cat([network(row[None, : (row != 0).sum()]) for row in tokens])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(model.scores(indices=np.arange(9)), together, atol=1e-6)
    pooled = model.get_latent_representation(indices=np.arange(9))
    if pooling == "mean":
        np.testing.assert_allclose(
            pooled, model.get_latent_representation(indices=np.arange(9), pooling="mean", emb_layer=0), atol=1e-6
        )
    with torch.no_grad():
        np.testing.assert_allclose(network.scores(torch.from_numpy(pooled)), together, atol=1e-6)


def test_several_columns_at_once(cells, start, quick):
    labels = {"type": None, "age": "continuous", "dose": None}
    model = make(cells, start, labels, pooling="attention")
    assert [task.kind for task in model.tasks] == ["categorical", "continuous", "ordinal"]
    model.train(20, **quick)
    assert np.corrcoef(model.predict(task="age"), 10.0 * cells.obs["dose"].astype(int))[0, 1] > 0.9
    assert (model.predict(task="dose") == cells.obs["dose"].astype(str)).mean() > 0.9
    assert (model.predict(task="type") == cells.obs["true"]).mean() > 0.9
    np.testing.assert_allclose(model.predict(task="dose", soft=True).sum(axis=1), 1)
    assert {"validation_age_r2", "validation_dose_macro_f1", "validation_type_loss"} <= set(model.history)
    with pytest.raises(ValueError, match=r"name one of \['type', 'age', 'dose'\]"):
        model.predict()
    with pytest.raises(ValueError, match="no probabilities"):
        model.predict(task="age", soft=True)


def test_missing_labels_do_not_train(cells, start, quick):
    """Another value in the place of a missing label changes nothing, and neither do cells without any label."""
    first = make(cells, start, ["type", "age"])
    first.train(2, **quick)
    labelled = ~(cells.obs["type"].isna() & cells.obs["age"].isna())
    seen = np.concatenate([first.split.train, first.split.validation, first.split.test])
    np.testing.assert_array_equal(np.sort(seen), np.flatnonzero(labelled))
    second = make(cells, start, ["type", "age"])
    second.labels = lambda: np.where(np.isnan(first.labels()), np.nan, first.labels())
    second.train(2, **quick)
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name


@pytest.mark.parametrize("freeze", [0, 1, 2, "all"])
def test_frozen_layers_keep_their_weights(cells, start, quick, freeze):
    model = make(cells, start, freeze=freeze, head="bert")
    before = weights(model)
    model.train(1, **quick, weight_decay=0.1)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    layers = {int(name.split(".")[2]) for name in moved if name.startswith("encoder.blocks")}
    frozen = 2 if freeze == "all" else freeze
    assert layers == set(range(frozen, 2))
    assert any(name.startswith("encoder.embedding") for name in moved) == (freeze == 0)
    assert {name.split(".")[0] for name in moved} >= {"pooler", "classifier"}


def test_a_frozen_encoder_is_not_disturbed_by_dropout(cells, start):
    model = make(cells, start, freeze="all", dropout=0.5)
    model.module.train()
    tokens = torch.from_numpy(cells.obsm[TOKENS][:3].astype(np.int64))
    assert torch.equal(model.module.network.pooled(tokens), model.module.network.pooled(tokens))


def test_what_a_model_starts_from_is_not_trained(cells, start, quick):
    before = weights(start)
    model = make(cells, start)
    model.train(1, **quick)
    assert all(torch.equal(value, before[name]) for name, value in weights(start).items())
    for name, value in model.start_encoder().state_dict().items():
        assert torch.equal(value, before[f"encoder.{name}"]), name


def test_donors_are_not_shared(cells, start, quick):
    model = make(cells, start, sample="donor")
    sizes = {"train_size": 0.5, "validation_size": 0.25, "test_size": 0.25}
    model.train(1, **sizes, **quick)
    donors = cells.obs["donor"].to_numpy()
    sets = [set(donors[getattr(model.split, name)]) for name in ("train", "validation", "test")]
    assert all(sets)
    assert not (sets[0] & sets[1])
    assert not (sets[0] & sets[2])
    assert not (sets[1] & sets[2])
    kept = model.split
    model.train(1, **sizes, **quick, rng=5)
    np.testing.assert_array_equal(model.split.test, kept.test)  # further training does not see what tests
    shared = evaluation.Split(np.arange(40), np.arange(40, 50), np.arange(50, 60))
    with pytest.raises(ValueError, match="donor"):
        model.train(1, split=shared, **quick)


def test_split_of_ones_own(cells, start, quick):
    cells.obs["set"] = np.where(np.arange(120) < 60, "train", np.where(np.arange(120) < 90, "test", "validation"))
    model = make(cells, start)
    model.train(1, split="set", **quick)
    labelled = cells.obs["type"].notna().to_numpy()
    np.testing.assert_array_equal(model.split.test, np.flatnonzero((cells.obs["set"] == "test").to_numpy() & labelled))
    cells.obs["set"] = "holdout"
    with pytest.raises(ValueError, match="has values \\['holdout'\\]"):
        model.train(1, split="set", **quick)
    with pytest.raises(KeyError, match="No column 'fold'"):
        model.train(1, split="fold", **quick)
    with pytest.raises(KeyError, match="No columns \\['sex'\\]"):
        make(cells, start).train(1, balance=["sex"], **quick)


def test_every_labelled_cell_is_tested_once(cells, start, quick):
    model = make(cells, start, sample="donor")
    before = weights(model)
    cv = model.cross_validate(3, max_epochs=15, **quick)
    labelled, fold = cells.obs["type"].notna().to_numpy(), cv.table["fold"].to_numpy()
    np.testing.assert_array_equal(fold >= 0, labelled)
    for predictions in (cv.predictions, *cv.baselines.values()):
        np.testing.assert_array_equal(predictions.notna().all(axis=1), labelled)
    donors = pd.Series(fold[labelled]).groupby(cells.obs["donor"].to_numpy()[labelled])
    assert (donors.nunique() == 1).all()
    for number in range(3):
        rows = fold == number
        right = cv.table["predicted"][rows].astype(str) == cells.obs["type"][rows].astype(str)
        assert cv.scores.loc[("classifier", 0, number), "accuracy"] == pytest.approx(right.mean())
    assert cv.summary.loc["classifier", "accuracy"] > 0.6
    assert set(cv.summary.index) == {"classifier", "linear probe"}
    _, donors = pd.factorize(cells.obs["donor"][labelled])
    assert len(donors) >= 3  # are drawn, not cells
    code, rng, shares = pd.factorize(cells.obs["donor"][labelled])[0], np.random.default_rng(0), []
    right = (cv.table["predicted"].astype(str) == cells.obs["type"].astype(str)).to_numpy()[labelled]
    for _ in range(200):
        drawn = rng.integers(0, len(donors), len(donors))
        shares.append(np.concatenate([right[code == donor] for donor in drawn]).mean())
    ends = cv.pooled.loc["classifier", ["accuracy_low", "accuracy_high"]].astype(float)
    np.testing.assert_allclose(ends, np.quantile(shares, [0.025, 0.975]))
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    with pytest.raises(ValueError, match="4 groups cannot be split into 7"):
        model.cross_validate(7)


@pytest.mark.parametrize("in_mudata", [False, True])
@pytest.mark.parametrize(("older", "newer"), [("type", "dose"), ("dose", {"dose": "categorical"})])
def test_cross_validation_has_the_labels_of_its_model(cells, start, quick, monkeypatch, in_mudata, older, newer):
    """A new setup of the data applies to later models only."""
    data = md.MuData({"rna": cells}) if in_mudata else cells
    setup = CellClassifier.setup_mudata if in_mudata else CellClassifier.setup_anndata
    setup(data, older)
    first = CellClassifier(data, start)
    setup(data, newer)
    second = CellClassifier(data, start)
    trained, train = [], CellClassifier.train

    def watch(self, *args, **kwargs):
        trained.append(self.tasks)
        train(self, *args, **kwargs)

    monkeypatch.setattr(CellClassifier, "train", watch)
    for model in (first, second):
        predictions = model.cross_validate(2, max_epochs=1, **quick).predictions
        assert list(predictions) == list(model.tasks[0].classes)
    assert trained == [first.tasks] * 2 + [second.tasks] * 2
    assert first.tasks != second.tasks
    assert CellClassifier(data, start).tasks == second.tasks


def test_temperature_is_that_of_the_validation_cells(cells, start, quick):
    model = make(cells, start)
    model.train(3, **quick)
    there = model.split.validation
    expected = evaluation.temperature(model.scores(indices=there), model.labels()[there, 0].astype(int))
    assert model.temperature_ == {"type": pytest.approx(expected, rel=1e-6)}
    raw, calibrated = (model.predict(soft=True, calibrated=c).to_numpy() for c in (False, True))
    np.testing.assert_array_equal(raw.argmax(1), calibrated.argmax(1))
    np.testing.assert_allclose(np.log(calibrated / calibrated[:, :1]) * expected, np.log(raw / raw[:, :1]), atol=1e-5)


def test_saved_and_loaded(cells, start, quick, tmp_path):
    model = make(cells, start, ["type", "age"], sample="donor", freeze=1)
    model.train(1, train_size=0.5, validation_size=0.25, test_size=0.25, **quick)
    model.save(tmp_path / "model")
    model.export(tmp_path / "folder")
    new = cells[:30].copy()
    del new.obs
    for loaded in (
        CellClassifier.load(tmp_path / "model"),
        CellClassifier.from_pretrained(tmp_path / "folder"),
        CellClassifier.from_pretrained(tmp_path / "folder", new),
    ):
        assert loaded.tasks == model.tasks
        assert loaded.temperature_ == model.temperature_
        np.testing.assert_allclose(loaded.scores(new, task="age"), model.scores(indices=np.arange(30), task="age"))
        assert not loaded.module.training
    back = CellClassifier.load(tmp_path / "model", cells)
    np.testing.assert_array_equal(back.split.test, model.split.test)
    back.train(1, **quick)
    with pytest.raises(ValueError, match="is not known: it was loaded with its head"):
        back.cross_validate(2, task="type")


def test_donors_that_were_not_named_are(cells, monkeypatch):
    """Otherwise a model is chosen, and looks good, on cells of the donors that it was trained on."""
    messages: list[str] = []
    monkeypatch.setattr(logg, "warning", messages.append)
    CellClassifier.setup_anndata(cells, "type", sample_key="donor")
    CellClassifier.setup_anndata(cells, "donor")  # what is learned cannot be kept together
    assert not messages
    CellClassifier.setup_anndata(cells, "type")
    mdata = md.MuData({"rna": cells})
    CellClassifier.setup_mudata(mdata, "type")
    assert ["sample_key='donor'" in message for message in messages] == [True, True]


def test_modality_of_a_mudata(cells, start, quick):
    mdata = md.MuData({"rna": cells, "adt": cells[:, :0].copy()})
    CellClassifier.setup_mudata(mdata, "type", sample_key="donor")
    torch.manual_seed(1)
    model = CellClassifier(mdata, start)
    model.train(1, train_size=0.5, validation_size=0.25, test_size=0.25, **quick)
    np.testing.assert_array_equal(model.predict(), model.predict(mdata))


def test_as_a_model_for_the_tools(cells, start, quick):
    model = make(cells, start)
    model.train(1, **quick)
    sg.tl.embed(cells, model, emb_layer=0, pooling="mean")
    expected = model.get_latent_representation(pooling="mean", emb_layer=0)
    np.testing.assert_allclose(cells.obsm["X_geneformer"], expected, atol=1e-6)


@pytest.mark.parametrize(("head", "atol"), [("bert", 1e-5), ("linear", 1e-4)])
def test_adapters_are_trained_saved_and_merged(cells, start, quick, tmp_path, head, atol):
    """Standardised states are small differences, which show the rounding of merged weights."""
    model = make(cells, start, lora=2, head=head)
    model.train(2, **quick)
    model.save_adapter(tmp_path / "adapter")
    model.save(tmp_path / "model")
    expected = model.scores()
    twin = make(cells, start, head=head)
    twin.load_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(twin.scores(), expected, atol=atol)
    twin.save(tmp_path / "twin")
    np.testing.assert_allclose(CellClassifier.load(tmp_path / "twin").scores(cells), expected, atol=atol)
    loaded = CellClassifier.load(tmp_path / "model", cells)
    np.testing.assert_allclose(loaded.scores(), expected, atol=1e-6)
    encoder = loaded.encoder.state_dict()
    loaded.export(tmp_path / "plain")
    assert loaded.encoder.state_dict().keys() == encoder.keys()  # exporting merges a copy
    plain = CellClassifier.from_pretrained(tmp_path / "plain")
    np.testing.assert_allclose(plain.scores(cells), expected, atol=atol)
    loaded.merge_lora()
    loaded.save(tmp_path / "merged")
    np.testing.assert_allclose(CellClassifier.load(tmp_path / "merged").scores(cells), expected, atol=atol)


def test_adapters_of_some_blocks_only_are_kept(cells, start, quick, tmp_path):
    model = make(cells, start, lora={"rank": 2, "targets": ["blocks.1.attention.query"]})
    model.train(1, **quick)
    model.save_adapter(tmp_path / "adapter")
    twin = make(cells, start)
    twin.load_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(twin.scores(), model.scores(), atol=1e-5)
    twin.save(tmp_path / "twin")
    np.testing.assert_allclose(CellClassifier.load(tmp_path / "twin").scores(cells), model.scores(), atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"freeze": 3}, "number of layers from 0 to 2"),
        ({"freeze": -1}, "freeze=-1 must be an integer of at least 0 or 'all'"),
        ({"freeze": 1, "lora": 4}, "no effect together with lora"),
        ({"quantize": "nf4"}, "together with adapters to train"),
        ({"quantize": "int8", "lora": 2}, "must be 'nf4'"),
        ({"task_weights": {"type": -1}}, "a non-negative number to each"),
        ({"pooling": "max"}, "pooling='max' must be"),
        ({"task_weights": {"age": 1}}, "to each of \\['type'\\]"),
    ],
)
def test_arguments_that_make_no_sense(cells, start, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(cells, start, **kwargs)


def test_data_that_cannot_be_learned_from(cells, start, toy, tmp_path):
    cells.obs["one"], cells.obs["none"] = "a", np.nan
    with pytest.raises(ValueError, match="one class only"):
        make(cells, start, "one")
    with pytest.raises(ValueError, match="No cell has a label"):
        make(cells, start, "none")
    with pytest.raises(KeyError, match="No column 'kind' in .obs"):
        make(cells, start, "kind")
    with pytest.raises(KeyError, match="No column 'patient' in .obs"):
        make(cells, start, sample="patient")
    make_vocabulary, _ = toy
    other = Geneformer(vocabulary=make_vocabulary("other", 30), n_layers=1, width=8, n_heads=1, feed_forward=8)
    with pytest.raises(ValueError, match="not the one given"):
        make(cells, other)
    make(cells, start).save(tmp_path / "model")
    with pytest.raises(ValueError, match="has no data"):
        CellClassifier.load(tmp_path / "model", adata=False).train(1)


def test_best_weights_are_kept(cells, start, quick):
    """With a learning rate that destroys what was learned, the model keeps the epoch with the best validation."""
    model = make(cells, start, head="bert")
    seen = []

    class Record(pl.Callback):
        def on_validation_end(self, trainer, plan):
            seen.append(copy.deepcopy(plan.module.network.state_dict()))

    model.train(6, schedule="constant", callbacks=[Record()], **quick | {"learning_rate": 0.1})
    losses = model.history["validation_loss"]["validation_loss"].to_numpy()
    best = int(losses.argmin())
    assert best < 5
    for name, value in weights(model).items():
        assert torch.equal(value, seen[best][name]), name


def test_a_folder_that_cannot_be_written_to_stops_before_the_first_step(cells, start, quick, tmp_path):
    (tmp_path / "file").write_text("")
    model = make(cells, start)
    with pytest.raises(OSError, match="checkpoints=.*cannot be written to"):
        model.train(1, checkpoints=tmp_path / "file" / "folder", **quick)
    assert not model.history


def test_gradients_that_are_no_numbers_never_reach_the_weights(cells, start, quick, tmp_path):
    model = make(cells, start, head="bert")
    model.is_trained_ = True  # or its head would be drawn from `rng`
    before = weights(model)
    model.module.network.classifier.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="norm of the gradient became nan at step 0 "):
        model.train(1, checkpoints=tmp_path, **quick)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_checkpoints_of_other_models_are_refused(cells, start, tmp_path):
    nn.save_checkpoint(tmp_path, start.module.network)
    start.vocabulary.save(tmp_path / "vocabulary.json.gz")
    with pytest.raises(
        TypeError, match=r"a masked-gene head.*, not a classifier of cells.*Geneformer\.from_pretrained"
    ):
        CellClassifier.from_pretrained(tmp_path)


def test_labels_of_other_modalities_of_a_mudata(cells, start, quick):
    """Cells are matched by name, wherever the columns are, and no name among the modalities is ignored."""
    proteins = cells[::-1, :0].copy()
    proteins.obs["gate"] = proteins.obs["type"]
    mdata = md.MuData({"rna": cells, "prot": proteins})
    mdata.obs["patient"] = cells.obs["donor"].reindex(mdata.obs_names)
    modalities = {"labels_key": "prot", "sample_key": None}
    CellClassifier.setup_mudata(mdata, "gate", sample_key="patient", modalities=modalities)
    model = CellClassifier(mdata, start)
    np.testing.assert_array_equal(model.labels()[:, 0], model.tasks[0].encode(cells.obs["type"]))
    np.testing.assert_array_equal(model.samples(), cells.obs["donor"])
    model.train(max_steps=1, train_size=0.5, validation_size=0.25, test_size=0.25, **quick)
    for modalities in ({"labels": "prot"}, {"protein_key": "prot"}):
        with pytest.raises(ValueError, match="which are not registered"):
            CellClassifier.setup_mudata(mdata, "gate", modalities=modalities)
