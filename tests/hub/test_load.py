"""Models by name, path or object, each with the vocabulary that fits."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from scgeneformer import hub, nn, settings
from scgeneformer.hub import _vocabularies

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer.tokens import Vocabulary


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    one_weights, other_weights = weights(one), weights(other)
    assert one_weights.keys() == other_weights.keys()
    for name, value in one_weights.items():
        np.testing.assert_array_equal(value, other_weights[name], err_msg=name)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_by_name(server: Any, online: Path, tiny_model: str, tiny_folder: Path, tiny_vocabulary: Vocabulary) -> None:
    found = hub.load(tiny_model)
    assert found.name == tiny_model
    assert found.vocabulary == tiny_vocabulary
    assert found.vocabulary.tokens_of(["gata4"]).tolist() == [4]
    assert found.sha256 == sha256(tiny_folder / "model.safetensors")
    assert_same_weights(found.encoder, nn.load_encoder(tiny_folder))
    assert len(server.requests) == 6
    server.requests.clear()
    with settings.override(offline=True):
        assert_same_weights(hub.load(tiny_model).encoder, found.encoder)
    assert server.requests == []


def test_by_repository_and_folder(online: Path, tiny_model: str) -> None:
    found = hub.load("ctheodoris/Geneformer/Geneformer-T-1")
    assert found.name == tiny_model
    assert hub.vocabulary("ctheodoris/Geneformer/Geneformer-T-1") == found.vocabulary
    assert hub.available().loc["MaxToki-1B", "source"] == "theodoris-lab/MaxToki/MaxToki-1B-HF"
    with pytest.raises(ValueError, match="No model 'theodoris-lab/MaxToki'.*'MaxToki-1B'"):
        hub.load("theodoris-lab/MaxToki")


def test_altered_weights_are_never_opened(server: Any, online: Path, tiny_model: str) -> None:
    place = hub.load(tiny_model).folder / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-1] + b"?")
    with settings.override(offline=True), pytest.raises(FileNotFoundError, match=r"model\.safetensors is altered"):
        hub.load(tiny_model)


def test_by_path(tiny_folder: Path, tiny_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    for path in (tiny_folder, str(tiny_folder), "tiny", "./tiny/"):
        found = hub.load(path)
        assert found.name == "tiny"
        assert found.vocabulary == tiny_vocabulary == hub.vocabulary(path)
        assert found.sha256 == sha256(tiny_folder / "model.safetensors")
        assert_same_weights(found.encoder, nn.load_encoder(tiny_folder))
    assert found.encoder is found.encoder
    assert not found.encoder.training


def test_old_bin(folder: Path, tiny_folder: Path, tiny_vocabulary: Vocabulary) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = hub.load(folder, vocabulary=tiny_vocabulary)
    assert found.sha256 == sha256(folder / "pytorch_model.bin")
    assert_same_weights(found.encoder, nn.load_encoder(tiny_folder))


def test_malicious_bin(folder: Path, tiny_vocabulary: Vocabulary, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "harm"),))

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin was refused"):
        _ = hub.load(folder, vocabulary=tiny_vocabulary).encoder
    assert not (tmp_path / "harm").exists()


def test_incomplete_folders(folder: Path, tiny_vocabulary: Vocabulary, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"No model\.safetensors"):
        hub.load(folder, vocabulary=tiny_vocabulary)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"No config\.json in .*Hugging Face layout"):
        hub.load(folder, vocabulary=tiny_vocabulary)


def test_unknown_names() -> None:
    for function in (hub.load, hub.vocabulary):
        with pytest.raises(ValueError, match=r"No model 'V2-105M'.*'default', 'V1-10M', 'V2-104M'.*available"):
            function("V2-105M")
        with pytest.raises(TypeError, match="int"):
            function(3)


def test_bundled(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_vocabularies, "DEFAULT_FOLDER", tiny_folder)
    with settings.override(offline=True):
        found = hub.load("default")
    assert found.name == "default"
    assert found.sha256 == sha256(tiny_folder / "model.safetensors")
    assert found.vocabulary == hub.vocabulary("default")
    monkeypatch.setattr(_vocabularies, "DEFAULT_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="Reinstall"):
        hub.load("default")


def test_objects(tiny_folder: Path) -> None:
    found = hub.load(tiny_folder)
    assert hub.load(found) is found

    class Trained:
        vocabulary = found.vocabulary

        def to_pretrained(self) -> hub.Pretrained:
            return found

    assert hub.load(Trained()) is found
    assert hub.vocabulary(Trained()) is hub.vocabulary(found) is hub.vocabulary(found.vocabulary) is found.vocabulary


def test_masked_gene_models_are_independent(tiny_folder: Path) -> None:
    stored = hub.load(tiny_folder)
    live = hub.Pretrained("live", stored.vocabulary, model=stored.masked_gene_model())
    for found in (stored, live):
        one, other = found.masked_gene_model(), found.masked_gene_model()
        assert_same_weights(one, other)
        before = found.encoder.embedding.gene.weight.detach().clone()
        with torch.no_grad():
            one.encoder.embedding.gene.weight += 1
        assert torch.equal(other.encoder.embedding.gene.weight, before)
        assert torch.equal(found.encoder.embedding.gene.weight, before)


def test_model_in_memory(tiny_folder: Path) -> None:
    stored = hub.load(tiny_folder)
    module = stored.masked_gene_model()
    live = hub.Pretrained("live", stored.vocabulary, model=module)
    assert live.encoder is module.encoder
    again = hub.Pretrained("again", stored.vocabulary, model=stored.masked_gene_model())
    assert live.sha256 == again.sha256
    assert len(live.sha256) == 64
    changed = stored.masked_gene_model()
    with torch.no_grad():
        changed.encoder.embedding.gene.weight[3, 0] += 1e-6
    assert hub.Pretrained("changed", stored.vocabulary, model=changed).sha256 != live.sha256
    half = hub.Pretrained("half", stored.vocabulary, model=stored.masked_gene_model().bfloat16())
    assert half.sha256 != live.sha256
    bare = hub.Pretrained("bare", stored.vocabulary, model=module.encoder)
    assert bare.encoder is module.encoder
    with pytest.raises(TypeError, match="'bare' is of class Encoder and has no masked-gene head"):
        bare.masked_gene_model()


def test_neither_folder_nor_model(tiny_folder: Path) -> None:
    found = hub.load(tiny_folder)
    for folder, model in ((None, None), (tiny_folder, found.encoder)):
        with pytest.raises(ValueError, match="either a folder or a model"):
            hub.Pretrained("x", found.vocabulary, folder, model)
