from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from scgeneformer import engine
from scgeneformer.model import GeneClassifier

KEY = "geneformer_tokens"
N_EACH = 12
TRAIN = {"max_epochs": 6, "learning_rate": 3e-2, "warmup": 0.0, "batch_size": 12}


@pytest.fixture
def classes(vocabulary):
    genes = vocabulary.ids[4:]
    return {"late": genes[N_EACH : 2 * N_EACH].tolist(), "early": genes[:N_EACH].tolist()}


@pytest.fixture
def quick(quick) -> dict:
    """One run; other recipes are tested in their room."""
    return quick | {"recipe": "plain"}


@pytest.fixture(params=["linear", "bert"])
def model(request, ranked, classes, start):
    torch.manual_seed(1)
    return GeneClassifier(ranked, classes, start, head=request.param)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def test_learns_what_tells_classes_apart(model, quick):
    model.train(**TRAIN, validation_size=0.2, test_size=0.2, train_size=0.6, **quick)
    assert set(model.history) == {
        *("train_loss_step", "learning_rate", "train_loss", "train_accuracy"),
        *("validation_loss", "validation_accuracy", "validation_macro_f1", "validation_auc"),
    }
    assert model.history["train_loss"].iloc[0].item() > 0.2
    assert model.history["validation_auc"].iloc[-1].item() > 0.9
    genes = model.genes.iloc[model.split.test]
    told = model.predict_genes(genes=genes.index.tolist())
    assert roc_auc_score(genes["class"] == "early", told["early"]) > 0.9
    assert model.is_trained_
    assert not model.module.training
    assert model.trained_genes == model.genes.index[model.split.train].tolist()
    assert "early (12 genes)" in str(model._model_summary_string)


def test_validation_scores_are_of_genes(model, quick):
    """From the model's own predictions: the last validation came after the last step."""
    sizes = {"train_size": 0.5, "validation_size": 0.5, "test_size": 0.0}
    model.train(**TRAIN | {"max_epochs": 1}, **sizes, **quick)
    genes = model.genes.iloc[model.split.validation]
    told = model.predict_genes(genes=genes.index)
    early = genes["class"] == "early"
    assert model.history["validation_auc"].iloc[-1].item() == pytest.approx(
        roc_auc_score(early, told["early"]), abs=1e-6
    )
    f1 = f1_score(genes["class"].astype(str), told["predicted"].astype(str), average="macro")
    assert model.history["validation_macro_f1"].iloc[-1].item() == pytest.approx(f1, abs=1e-6)
    every = model.predict_genes(genes=genes.index, occurrences=True)
    right = np.where(genes["class"].loc[every.index] == "early", every["early"], every["late"])
    assert model.temperature_ == 1.0  # too few genes for another
    assert model.history["validation_loss"].iloc[-1].item() == pytest.approx(np.mean(-np.log(right)), rel=1e-5)


def test_test_genes_have_no_part_in_training(ranked, classes, start, quick):
    """Their labels do not change the model."""
    ids = [*classes["early"], *classes["late"]]
    test = [*ids[:3], *ids[-3:]]
    swapped = {
        "late": [gene for gene in classes["late"] if gene not in test] + test[:3],
        "early": [gene for gene in classes["early"] if gene not in test] + test[3:],
    }
    split = {"train": [gene for gene in ids if gene not in test][2:], "validation": ids[3:5], "test": test}
    ends = []
    for lists in (classes, swapped):
        torch.manual_seed(2)
        model = GeneClassifier(ranked, lists, start)
        model.train(**TRAIN | {"max_epochs": 2}, split=split, class_weights="balanced", **quick)
        ends.append(weights(model))
    assert torch.equal(*ends)
    told = model.predict_genes(genes=test[:3])
    assert not (told["late"] > 0.5).all()


def test_no_labels_of_validation_or_test_genes_in_training_batches(model, quick, monkeypatch):
    seen = {True: set(), False: set()}
    loss = type(model.module).loss

    def watch(self, tensors, *args):
        seen[self.training] |= set(tensors["tokens"][tensors["labels"] >= 0].tolist())
        return loss(self, tensors, *args)

    monkeypatch.setattr(type(model.module), "loss", watch)
    model.train(1, **quick)
    tokens = model._classes.tokens
    assert seen[True] == set(tokens[model.split.train])
    assert seen[False] == set(tokens[model.split.validation])


def test_genes_that_do_not_occur_are_in_no_set(ranked, classes, start, vocabulary, quick):
    classes["early"].append(vocabulary.ids[28])
    model = GeneClassifier(ranked, classes, start)
    model.train(1, **quick)
    used = np.concatenate([model.split.train, model.split.validation, model.split.test])
    assert len(used) == 24
    assert vocabulary.ids[28] not in model.genes.index[used]
    told = model.predict_genes(genes=[vocabulary.ids[28]])
    assert told["n_cells"].tolist() == [0]
    assert told["predicted"].isna().all()
    assert np.isnan(told["early"]).all()


def test_predictions_are_means_over_cells(model, ranked, vocabulary):
    some = np.array([30, 4, 5])
    model.is_trained_ = True
    table = model.predict_genes(indices=some)
    every = model.predict_genes(indices=some, occurrences=True)
    tokens = ranked.obsm[KEY][some]
    assert table.index.tolist() == [i for i in vocabulary.ids[4:] if i in set(vocabulary.ids[np.unique(tokens)])]
    proba = every[["late", "early"]].astype(float)
    if model.module.network.head == "bert":
        means = proba.groupby(level=0).mean()
    else:  # of scores, which probabilities show up to what is the same for all classes
        means = np.exp(np.log(proba).groupby(level=0).mean())
        means = means.div(means.sum(axis=1), axis=0)
    np.testing.assert_allclose(means.loc[table.index], table[["late", "early"]], atol=1e-6)
    np.testing.assert_array_equal(every.groupby(level=0).size().loc[table.index], table["n_cells"])
    np.testing.assert_allclose(table["late"] + table["early"], 1, atol=1e-6)
    first = every[every["cell"] == "cell30"]
    assert first.index.tolist() == vocabulary.ids[tokens[0][tokens[0] >= 4]].tolist()
    assert first["rank"].tolist() == list(range(len(first)))
    asked = model.predict_genes(genes=table.index[[3, 1]], indices=some)
    pd.testing.assert_frame_equal(asked, table.iloc[[3, 1]])
    with pytest.warns(UserWarning, match="1 of 2 genes of those asked for"):
        assert len(model.predict_genes(genes=[table.index[0], "NOPE"])) == 1
    with pytest.raises(ValueError, match="None of the genes"), pytest.warns(UserWarning, match="1 of 1"):
        model.predict_genes(genes="NOPE")


def test_what_was_told_once_stays_told(model, quick, tmp_path):
    genes = model.genes.index
    model.train(1, split={"train": genes[[0, 1, 20]]}, **quick)
    model.train(1, split={"train": genes[[1, 2, 21]]}, **quick)
    assert model.trained_genes == genes[[0, 1, 2, 20, 21]].tolist()
    model.save(tmp_path / "saved")
    assert GeneClassifier.load(tmp_path / "saved").trained_genes == model.trained_genes
    model.export(tmp_path / "folder")
    assert GeneClassifier.from_pretrained(tmp_path / "folder").trained_genes == genes.tolist()


def test_saved_model_knows_its_genes(model, ranked, quick, tmp_path):
    model.train(1, **quick)
    expected = model.predict_genes()
    model.save(tmp_path / "saved")
    alone = GeneClassifier.load(tmp_path / "saved")
    assert alone.classes == model.classes
    np.testing.assert_array_equal(alone.split.test, model.split.test)
    with pytest.raises(ValueError, match="no data"):
        alone.predict_genes()
    with pytest.raises(ValueError, match="no data"):
        alone.train(1)
    pd.testing.assert_frame_equal(alone.predict_genes(ranked.copy()), expected)
    again = GeneClassifier.load(tmp_path / "saved", ranked)
    again.train(1, **quick)
    assert len(again.history["validation_loss"]) == 2
    with pytest.raises(ValueError, match="The encoder that this classifier started from is not known"):
        again.start_encoder()


def test_an_untrained_model_is_saved_too(model, tmp_path):
    model.save(tmp_path / "saved")
    alone = GeneClassifier.load(tmp_path / "saved")
    assert alone.split_ is None
    assert alone.trained_genes == []


def test_frozen_encoder_and_layers(ranked, classes, start, quick):
    for freeze in ("all", 1):
        model = GeneClassifier(ranked, classes, start, freeze=freeze)
        model.train(1, learning_rate=1e-2, **quick)
        for name, value in start.encoder.state_dict().items():
            assert torch.equal(model.encoder.state_dict()[name], value), name
    assert all(
        torch.equal(*pair) for pair in zip(model.start_encoder().parameters(), start.encoder.parameters(), strict=True)
    )


def test_adapters(ranked, classes, start, quick, tmp_path):
    pytest.importorskip("peft")
    model = GeneClassifier(ranked, classes, start, lora=2)
    model.train(2, learning_rate=1e-2, **quick)
    expected = model.predict_genes()
    model.export(tmp_path / "merged")
    plain = GeneClassifier.from_pretrained(tmp_path / "merged", ranked)
    pd.testing.assert_frame_equal(plain.predict_genes(), expected, atol=1e-5)
    model.save_adapter(tmp_path / "adapter")
    other = GeneClassifier(ranked, classes, start)
    other.load_adapter(tmp_path / "adapter")
    pd.testing.assert_frame_equal(other.predict_genes(), expected, atol=1e-6)
    other.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(GeneClassifier.load(tmp_path / "saved", ranked).predict_genes(), expected)
    model.merge_lora()
    pd.testing.assert_frame_equal(model.predict_genes(), expected, atol=1e-5)


def test_a_column_of_var_and_mudata(ranked, classes, start, vocabulary, quick):
    kinds = {gene: name for name, genes in classes.items() for gene in genes}
    var = pd.DataFrame({"kind": [kinds.get(gene) for gene in vocabulary.ids[4:]], "token_id": np.arange(4, 44)})
    cells = ad.AnnData(
        np.zeros((48, 40), np.float32), obs=ranked.obs, obsm=dict(ranked.obsm), var=var.set_index(vocabulary.ids[4:])
    )
    cells.uns[KEY] = ranked.uns[KEY]
    mdata = mudata.MuData({"rna": cells, "adt": cells[:, :1].copy()})
    GeneClassifier.setup_mudata(mdata)
    torch.manual_seed(1)
    of_mudata = GeneClassifier(mdata, "kind", start)
    GeneClassifier.setup_anndata(ranked)
    torch.manual_seed(1)
    expected = GeneClassifier(ranked, dict(sorted(classes.items())), start)
    assert of_mudata.classes == expected.classes
    for model in (of_mudata, expected):
        torch.manual_seed(3)
        model.train(1, **quick)
    pd.testing.assert_frame_equal(of_mudata.predict_genes(), expected.predict_genes())
    assert of_mudata.untrained().classes == expected.classes


def test_hands_its_encoder_on(model, ranked, quick):
    model.train(1, **quick)
    found = model.to_pretrained()
    cells = engine.embed(found.encoder, ranked.obsm[KEY], pooling="cls", n_special=4, device="cpu").cells
    np.testing.assert_array_equal(model.get_latent_representation(device="cpu"), cells)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": {"early": 1.0}}, "class_weights"),
        ({"train_size": 0.5}, "sum to 1"),
        ({"schedule": "up"}, "schedule='up'"),
    ],
)
def test_bad_arguments_of_train(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.train(1, recipe="plain", **arguments)


def test_genes_of_other_cells(ranked, start, vocabulary):
    ranked.obsm[KEY][:, 5:] = 0
    ranked.obsm[KEY][:, 1:5] = [30, 31, 32, 3]
    model = GeneClassifier(ranked, {"a": vocabulary.ids[4:8], "b": vocabulary.ids[8:12]}, start)
    with pytest.raises(ValueError, match="No gene of the classes"):
        model.train(1)


def test_an_unwritable_folder_is_told_before_the_first_step(model, quick, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="checkpoints="):
        model.train(1, checkpoints=tmp_path / "file", **quick)
    assert not model.is_trained_


def test_max_cells(model, quick):
    rows = []
    inference = type(model.module).inference
    model.module.inference = lambda **k: rows.append(len(k["tokens"])) or inference(model.module, **k)
    model.train(1, max_cells=7, validation_size=0.0, test_size=0.0, train_size=1.0, **quick)
    assert sum(rows) == 7
    assert "validation_loss" not in model.history
