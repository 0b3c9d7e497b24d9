"""What a folder must contain to be loaded as a model: the right kind, and finite floating-point numbers, each once."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from scgeneformer import nn

CONFIG = nn.EncoderConfig(vocab_size=9, n_layers=1, width=8, n_heads=2, feed_forward=4, max_length=5)
KINDS = {
    "encoder": (lambda: nn.Encoder(CONFIG), nn.load_encoder, "hub.load"),
    "masked": (lambda: nn.MaskedGeneModel(CONFIG), nn.load_masked_gene_model, "Geneformer.from_pretrained"),
    "cell": (lambda: nn.CellClassifier(CONFIG, 2), nn.load_cell_classifier, "CellClassifier.from_pretrained"),
    "gene": (lambda: nn.GeneClassifier(CONFIG, 2), nn.load_gene_classifier, "GeneClassifier.from_pretrained"),
}
MEAN = lambda: nn.CellClassifier(CONFIG, 2, "mean", 2)


@pytest.fixture
def masked(tmp_path):
    nn.save_checkpoint(tmp_path, nn.MaskedGeneModel(CONFIG))
    return tmp_path


def change(folder, edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", [*KINDS, "mean"])
def test_a_folder_is_loaded_as_what_it_is_and_as_nothing_else(kind, named, tmp_path):
    make = MEAN if kind == "mean" else KINDS[kind][0]
    cure = KINDS["cell" if kind == "mean" else kind][2]
    nn.save_checkpoint(tmp_path, make())
    if not named:  # as in folders of old
        config = nn.read_config(tmp_path)
        del config["architectures"]
        (tmp_path / "config.json").write_text(json.dumps(config))
    for other, (_, load, _) in KINDS.items():
        if other in {"encoder", "cell" if kind == "mean" else kind}:
            load(tmp_path)
        else:
            with pytest.raises(TypeError, match=rf"{tmp_path.name} holds .*, not .*sg\..*{cure}"):
                load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_precision_is_read(masked, dtype):
    change(masked, lambda weights: weights.update({name: value.to(dtype) for name, value in weights.items()}))
    assert nn.load_masked_gene_model(masked).encoder.embedding.gene.weight.dtype == torch.float32


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(masked, value):
    name = "bert.encoder.layer.0.output.dense.weight"

    def spoil(weights):
        weights[name][3, 1] = value

    change(masked, spoil)
    with pytest.raises(ValueError, match=rf"{name}.*model\.safetensors have 1 values of 32"):
        nn.load_encoder(masked)


def test_large_weights_are_finite(masked):
    change(masked, lambda weights: weights["cls.predictions.bias"].fill_(3e38))
    assert nn.load_masked_gene_model(masked).head.bias[0] == 3e38


def test_weights_too_large_for_float32_are_not(masked):
    change(
        masked, lambda weights: weights.update({"cls.predictions.bias": torch.full((9,), 1e300, dtype=torch.float64)})
    )
    with pytest.raises(ValueError, match=r"cls\.predictions\.bias"):
        nn.load_masked_gene_model(masked)


def test_integer_weights_are_named(masked):
    name = "bert.embeddings.word_embeddings.weight"
    change(masked, lambda weights: weights.update({name: weights[name].to(torch.int8)}))
    with pytest.raises(ValueError, match=rf"{name}.* are int8, not floating-point"):
        nn.load_encoder(masked)


def test_integers_beside_the_weights_do_not_matter(masked):
    change(masked, lambda weights: weights.update({"bert.embeddings.position_ids": torch.arange(5)}))
    nn.load_encoder(masked)


def test_weights_by_two_names_are_refused(masked):
    name = "embeddings.LayerNorm.bias"
    change(masked, lambda weights: weights.update({name: torch.ones(8)}))
    for load in (nn.load_encoder, nn.load_masked_gene_model):
        with pytest.raises(ValueError, match=rf"'{name}' and 'bert\.{name}'"):
            load(masked)


def test_files_of_something_else_are_named(masked):
    for name, content in (("model.safetensors", b"no tensors"), ("config.json", b"\x80\x04no text")):
        (masked / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{masked.name}/{name} is not"):
            nn.load_encoder(masked)


def test_a_bin_without_names_is_refused(masked):
    (masked / "model.safetensors").unlink()
    torch.save({"state": {"bert.x": torch.ones(1)}}, masked / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not hold tensors by name"):
        nn.load_encoder(masked)


def test_adapters_that_are_not_finite_are_named(tmp_path):
    pytest.importorskip("peft")
    model = nn.Encoder(CONFIG)
    nn.add_lora(model, rank=2)
    nn.save_adapter(tmp_path, model)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = torch.nan
    save_file(weights, tmp_path / "adapter_model.safetensors")
    fresh = nn.Encoder(CONFIG)
    with pytest.raises(ValueError, match=r"lora_.*adapter_model\.safetensors have 1 values"):
        nn.load_adapter(tmp_path, fresh)
    assert not hasattr(fresh, "peft_config")
