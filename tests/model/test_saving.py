"""Saved models are loaded unchanged, and a folder never mixes two models."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scvi.model.base import BaseModelClass

import scgeneformer as sg
from scgeneformer import hub
from scgeneformer.model import CellClassifier, GeneClassifier, Geneformer
from scgeneformer.model import _saving as saving

CLASSES = {"early": [f"ENSG{i:011d}" for i in range(12)], "late": [f"ENSG{i:011d}" for i in range(12, 24)]}


@pytest.fixture(params=["Geneformer", "CellClassifier", "GeneClassifier", "adapters", "nf4"])
def made(request, model, ranked, start):
    """A trained model of each kind, among them one with adapters and one with quantized layers."""
    import torch

    torch.manual_seed(0)
    ranked.obs["type"] = pd.Categorical(["a", "b", "c"] * 16)
    ranked.obs["age"] = np.arange(48) / 10
    if request.param == "Geneformer":
        trained = model
    elif request.param == "GeneClassifier":
        trained = GeneClassifier(ranked, CLASSES, start)
    elif request.param == "CellClassifier":
        CellClassifier.setup_anndata(ranked, ("type", "age"))
        trained = CellClassifier(ranked, start, pooling="attention", task_weights={"type": 1, "age": 2})
    elif request.param == "nf4":
        pytest.importorskip("bitsandbytes")
        pytest.importorskip("peft")
        CellClassifier.setup_anndata(ranked, "type")
        wide = Geneformer(vocabulary=start.vocabulary, n_layers=1, width=64, n_heads=2, feed_forward=64)
        return CellClassifier(ranked, wide, quantize="nf4", lora=2)
    else:
        pytest.importorskip("peft")
        CellClassifier.setup_anndata(ranked, "type")
        trained = CellClassifier(ranked, start, lora={"rank": 2, "targets": ("query", "up")})
    recipe = {"recipe": "plain"} if request.param == "adapters" else {}
    trained.train(1, accelerator="cpu", precision="32-true", token_budget=512, enable_progress_bar=False, **recipe)
    return trained


def assert_same(found, expected) -> None:
    """Equal in value and type, all the way down."""
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected or (found != found and expected != expected)
        assert type(found) is type(expected)


def attributes(model) -> dict:
    return {name: value for name, value in model._get_user_attributes() if name.endswith("_") and name[0] != "_"}


def test_everything_comes_back(made, tmp_path):
    made.save(tmp_path / "saved")
    back = type(made).load(tmp_path / "saved")
    assert_same(attributes(back), attributes(made))
    weights = made.module.state_dict()
    assert back.module.state_dict().keys() == weights.keys()
    for name, value in back.module.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert not back.module.training
    assert {n for n, p in back.module.named_parameters() if p.requires_grad} == {
        n for n, p in made.module.named_parameters() if p.requires_grad
    }
    assert not [path.name for path in (tmp_path / "saved").iterdir() if path.suffix == ".pt"]
    assert type(made).load_registry(tmp_path / "saved") == made.registry
    back.save(tmp_path / "again")
    for name in ("scgeneformer.json", "model.safetensors", "config.json", "vocabulary.json.gz"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()


def test_a_saved_folder_is_an_export(made, cells, tmp_path):
    made.save(tmp_path / "saved")
    made.export(tmp_path / "exported")
    for name in ("model.safetensors", "config.json", "vocabulary.json.gz"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "exported" / name).read_bytes()
    assert hub.load(tmp_path / "saved").vocabulary == made.vocabulary
    sg.tl.embed(cells, tmp_path / "saved", emb_layer=0, pooling="mean")
    expected = made.get_latent_representation(cells, emb_layer=0, pooling="mean")
    tolerance = 2e-2 if made.init_params_["non_kwargs"].get("quantize") else 1e-5  # merging rounds
    np.testing.assert_allclose(cells.obsm["X_geneformer"], expected, atol=tolerance)


@pytest.mark.parametrize("kind", [Geneformer, CellClassifier, GeneClassifier])
def test_a_model_of_another_class_is_refused_by_name(made, kind, tmp_path):
    made.save(tmp_path / "saved")
    if kind is not type(made):
        with pytest.raises(ValueError, match=rf"holds a {type(made).__name__}, not a {kind.__name__}.*\.load\("):
            kind.load(tmp_path / "saved")


VALUES = {
    "array": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "floats": np.array([0.1, np.nan, -np.inf, 5e-324]),
    "halves": np.array([0.1, 2], dtype=np.float16),
    "big-endian": np.array([1, 2], dtype=">i4").astype("=i4"),
    "empty": np.empty((0, 3), dtype=bool),
    "scalar": np.int64(3),
    "strings": np.array([["a", "bc"], ["é", ""]]),
    "objects": np.array(["a", None, 2.5, ("x",)], dtype=object),
    "plain": [None, True, 1, 0.1, "x", float("nan"), {"a": [1, (2, 3)]}],
    "keys": {1: "one", (2, 3): "two", "__kind__": "not ours"},
    "frame": pd.DataFrame(
        {"loss": [0.1, np.nan], "n": np.array([1, 2], dtype=np.int32)}, index=pd.Index([3, 7], name="step")
    ),
    "named": pd.DataFrame([[1.0, 2.0]], columns=pd.Index(["u", "v"], name="c"), index=["row"]),
    "no columns": {"a": pd.DataFrame(index=pd.Index([1, 2]))},
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_exactly(name, model, tmp_path):
    model.extra_ = VALUES[name]
    model.save(tmp_path / "saved")
    found = Geneformer.load(tmp_path / "saved").extra_
    if name == "no columns":
        found["a"].columns = VALUES[name]["a"].columns
    assert_same(found, VALUES[name])


def test_what_cannot_be_saved_is_named_before_anything_is_written(model, tmp_path):
    for value, match in ((object(), "extra_.*is a object"), (np.array([1j]), "array of complex128")):
        model.extra_ = {"deep": [value]}
        with pytest.raises(TypeError, match=match):
            model.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ValueError, match="has no data"):
        Geneformer(vocabulary=model.vocabulary, n_layers=1, width=8, n_heads=1).save(
            tmp_path / "saved", save_anndata=True
        )


def test_existing_folders_and_prefixes(model, start, tmp_path):
    folder = tmp_path / "saved"
    model.save(folder)
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save(folder)
    (folder / "notes.txt").write_text("mine")
    before = {path.name for path in folder.iterdir()}
    start.save(folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == before
    assert Geneformer.load(folder).encoder.config == start.encoder.config
    model.save(folder, prefix="other_", overwrite=True, save_anndata=True)
    assert Geneformer.load(folder).encoder.config == start.encoder.config
    other = Geneformer.load(folder, prefix="other_")
    assert other.encoder.config == model.encoder.config
    assert other.adata.n_obs == model.adata.n_obs
    assert Geneformer.load(folder, False, prefix="other_").adata is None
    with pytest.raises(FileNotFoundError, match=r"no third_scgeneformer\.json"):
        Geneformer.load(folder, prefix="third_")


def test_a_save_that_fails_leaves_the_old_model(model, start, tmp_path, monkeypatch):
    model.save(tmp_path / "saved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}

    def full(*args, **kwargs):
        msg = "disk full"
        raise OSError(msg)

    monkeypatch.setattr(saving, "write_tensors", full)
    with pytest.raises(OSError, match="disk full"):
        start.save(tmp_path / "saved", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == before


def test_an_export_over_a_saved_model_is_an_export(model, start, cells, tmp_path):
    model.save(tmp_path / "folder")
    start.export(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match=r"no scgeneformer\.json.*from_pretrained"):
        Geneformer.load(tmp_path / "folder")
    assert Geneformer.from_pretrained(tmp_path / "folder").encoder.config == start.encoder.config


def test_what_older_versions_saved(made, tmp_path):
    folder, cls = tmp_path / "old", type(made)
    BaseModelClass.save(made, str(folder))
    with pytest.raises(
        ValueError, match=rf"model\.pt is a pickle.*{cls.__name__}\.load\(.*allow_pickle=True.*save the model again"
    ):
        cls.load(folder)
    with pytest.raises(FileNotFoundError, match=r"model\.pt is a pickle.*allow_pickle=True"):
        hub.load(folder)
    with pytest.warns(UserWarning, match="Save the model again"):
        old = cls.load(folder, allow_pickle=True)
    old.save(folder, overwrite=True)
    (folder / "model.pt").write_bytes(b"never opened")
    new = cls.load(folder, allow_pickle=True)
    assert_same(attributes(new), attributes(made))
    for name, value in made.module.state_dict().items():
        assert torch.equal(new.module.state_dict()[name], value), name


def test_files_that_are_damaged_or_newer_are_named(model, tmp_path):
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "scgeneformer.json"
    honest = path.read_text()
    for content, match in (
        ("[]", "not written by"),
        (pickle.dumps({}).decode("latin-1"), "not written by"),
        (honest.replace("scgeneformer model 1", "scgeneformer model 2"), "Install a newer"),
    ):
        path.write_text(content, encoding="latin-1")
        with pytest.raises(ValueError, match=rf"scgeneformer\.json .*{match}"):
            Geneformer.load(tmp_path / "saved")
    assert json.loads(honest)["class"] == "Geneformer"
    with pytest.raises(ValueError, match=r"Geneformer\.load"):
        Geneformer.convert_legacy_save(str(tmp_path), str(tmp_path / "new"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_saved_models_can_be_read_by_whom_other_files_can_be_read(vocabulary, tmp_path, mask):
    """Safetensors writes files that only their owner may read; a model in a folder of a group could not be loaded by the others."""
    model = Geneformer(vocabulary=vocabulary, n_layers=1, width=8, n_heads=2, feed_forward=8)
    before = os.umask(mask)
    try:
        model.save(tmp_path / "saved")
        model.export(tmp_path / "exported")
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(before)
    expected = (tmp_path / "plain").stat().st_mode
    found = {path: path.stat().st_mode for folder in ("saved", "exported") for path in (tmp_path / folder).iterdir()}
    assert len(found) > 4
    assert set(found.values()) == {expected}, found
