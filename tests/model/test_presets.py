"""Presets against the published weights, training arguments, and schedules of transformers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import get_constant_schedule, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from scgeneformer import hub, nn
from scgeneformer.model import Geneformer, presets, recipe
from scgeneformer.model._presets import preset_named

TINY = {"n_layers": 1, "width": 16, "n_heads": 2, "feed_forward": 16, "max_length": 64}
VOCABULARY_SIZES = {"V1": 25_426, "V2": 20_275}
FILE_SIZES = {"V1-10M": 41_183_536, "12L-95M": 152_012_980, "V2-104M": 417_571_156, "V2-316M": 1_265_455_076}


@pytest.mark.parametrize("name", FILE_SIZES)
def test_as_many_weights_as_in_the_published_file(name):
    preset = preset_named(name)
    with torch.device("meta"):
        config = nn.EncoderConfig(vocab_size=VOCABULARY_SIZES[preset.generation], **preset.shape)
        sizes = [p.numel() for p in nn.MaskedGeneModel(config).parameters()]
    beside = 150 * len(sizes) + 8 * config.max_length  # names and shapes, and in old files the numbers of the positions
    assert 0 < FILE_SIZES[name] - 4 * sum(sizes) < beside


def test_the_table_is_what_models_are_made_of(vocabulary):
    table = presets()
    assert table.index.tolist() == [*FILE_SIZES, "encoder-decoder"]
    model = Geneformer.from_preset("encoder-decoder", vocabulary=vocabulary)
    config = model.module.network.config
    row = table.loc["encoder-decoder"]
    same = ["n_layers", "n_decoder_layers", "width", "n_heads", "feed_forward", "positions", "dropout"]
    assert [getattr(config, name) for name in same] == [6, 6, 512, 8, 2048, "sinusoidal", 0.1] == row[same].tolist()
    assert config.attention_dropout == 0.1
    assert config.max_length == vocabulary.max_length
    assert pd.isna(row["max_length"])
    assert table.loc["V2-316M", ["learning_rate", "schedule", "batch_size", "devices"]].isna().all()


def test_vocabulary_of_a_preset_comes_from_the_hub(vocabulary, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "vocabulary", lambda name: asked.append(name) or vocabulary)
    assert Geneformer.from_preset("12L-95M", **TINY).vocabulary == vocabulary
    assert asked == ["V2"]
    with pytest.raises(ValueError, match=r"Pass .* `vocabulary`"):
        Geneformer.from_preset("encoder-decoder")


@pytest.mark.parametrize(
    ("name", "official", "warmup", "rate", "decay", "n_steps"),
    [
        ("V1-10M", get_linear_schedule_with_warmup, 10_000, 1e-3, 1e-3, 3),  # 12 x 12 cells are more than there are
        ("12L-95M", get_cosine_schedule_with_warmup, 5000, 5e-4, 1e-3, 12),  # 108 cells in batches of 4 x 8
        ("V2-104M", get_cosine_schedule_with_warmup, 0, 2e-4, 1e-3, 18),  # 0.7 % of 18 steps are none
        ("encoder-decoder", get_constant_schedule, None, 1e-4, 1e-2, None),
    ],
)
def test_recipes_train_as_published(cells, vocabulary, quick, name, official, warmup, rate, decay, n_steps):
    Geneformer.setup_anndata(cells)
    torch.manual_seed(0)
    model = Geneformer.from_preset(name, cells, vocabulary=vocabulary, **TINY)
    model.train(**quick | recipe(name))
    optimizer = model.trainer.optimizers[0]
    assert type(optimizer) is {True: torch.optim.Adam, False: torch.optim.AdamW}[name == "encoder-decoder"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [decay, 0]
    rates = model.history["learning_rate"].groupby("step").last()["learning_rate"]
    assert n_steps is None or model.trainer.global_step == n_steps
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = official(reference) if warmup is None else official(reference, warmup, n_steps)
    expected = [rate * schedule.lr_lambdas[0](step) for step in rates.index]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert model.trainer.max_epochs == 3
    rule = "protected" if name == "encoder-decoder" else "geneformer"
    assert model.trainer.lightning_module.objective.masking.rule == rule


@pytest.mark.parametrize("devices", [1, 2, 6, 12])
def test_steps_hold_as_many_cells_on_any_number_of_devices(devices):
    found = recipe("V1-10M", devices=devices)
    assert found["batch_size"] * found["devices"] * found["accumulate"] == 144
    assert found["devices"] == devices


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"'V3' is not one of the presets: 'V1-10M'"):
        recipe("V3")
    with pytest.raises(ValueError, match="'V3'"):
        Geneformer.from_preset("V3")
    with pytest.raises(ValueError, match="How 'V2-316M' was trained is not known"):
        recipe("V2-316M")
    with pytest.raises(ValueError, match="devices=5 does not divide the 12"):
        recipe("V1-10M", devices=5)
    with pytest.raises(ValueError, match="devices=0"):
        recipe("V2-104M", devices=0)


def test_recipes_can_be_changed_without_harm():
    recipe("V1-10M")["learning_rate"] = 1.0
    assert recipe("V1-10M")["learning_rate"] == 1e-3
