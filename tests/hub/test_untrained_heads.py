"""Folders without the expected trained classifier give a warning when loaded, and are refused if a head is needed."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from scgeneformer import hub, model, nn

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer.tokens import Vocabulary

HEADS = {"BertForSequenceClassification": "CellClassifier", "BertForTokenClassification": "GeneClassifier"}


@pytest.fixture(params=HEADS)
def headless(request: pytest.FixtureRequest, folder: Path, tiny_vocabulary: Vocabulary) -> tuple[Path, str]:
    """A folder with the config of a classifier but only the weights of an encoder, and the class that reads such a head."""
    tiny_vocabulary.save(folder / "vocabulary.json")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [request.param]}))
    return folder, HEADS[request.param]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_classifier_without_a_head_is_an_encoder_and_no_more(headless: tuple[Path, str], suffix: str) -> None:
    folder, kind = headless
    if suffix == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    cure = rf"{folder} has no trained head: .*classifier\.weight.*sg\.model\.{kind}\(adata, "
    with pytest.warns(UserWarning, match=cure):
        assert hub.load(folder).encoder.config.width == 8
    with pytest.warns(UserWarning, match=cure), pytest.raises(ValueError, match=cure):
        getattr(model, kind).from_pretrained(folder)


@pytest.mark.parametrize("kind", HEADS.values())
def test_a_pretrained_model_is_no_classifier(tiny_folder: Path, kind: str) -> None:
    with pytest.raises(
        TypeError, match=rf"{tiny_folder} holds a model with a masked-gene head .*train one.*sg\.model\.{kind}\(adata"
    ):
        getattr(model, kind).from_pretrained(tiny_folder)


def test_nothing_is_said_of_trained_heads_and_pretrained_models(
    folder: Path, tiny_folder: Path, tiny_vocabulary: Vocabulary
) -> None:
    config = nn.load_encoder(tiny_folder).config
    for network in (
        nn.CellClassifier(config, 3, head="bert"),
        nn.CellClassifier(config, 3, "mean", 4, "linear"),
        nn.GeneClassifier(config, 2),
        nn.GeneClassifier(config, 2, head="linear"),
        nn.Encoder(config),
    ):
        nn.save_checkpoint(folder, network)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hub.load(folder, vocabulary=tiny_vocabulary)


def test_half_a_head_is_refused(folder: Path, tiny_folder: Path, tiny_vocabulary: Vocabulary) -> None:
    nn.save_checkpoint(folder, nn.CellClassifier(nn.load_encoder(tiny_folder).config, 3, head="bert"))
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    with pytest.raises(KeyError, match=r"bert\.pooler\.dense\.weight"):
        model.CellClassifier.from_pretrained(folder, vocabulary=tiny_vocabulary)
