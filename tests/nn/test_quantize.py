"""Quantized layers against the weights that they represent, in use, in training and in files."""

from __future__ import annotations

import copy
import logging
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scgeneformer import engine, hub, nn
from scgeneformer.nn import _quantize
from scgeneformer.nn._quantize import dequantize, is_quantized, quantize
from scgeneformer.nn.adapters import add_lora, merge_lora

CONFIG = nn.EncoderConfig(
    vocab_size=90, n_layers=2, width=64, n_heads=4, feed_forward=128, max_length=16, dropout=0, attention_dropout=0
)
KINDS = ["int8", "nf4"]
# Largest error of a weight, in units of the largest of its row or block: half a step of int8 and the rounding to float16 that
# comes before; half the widest gap between the 16 values of NF4 (-1 and -0.696), and the rounding of the scale itself to 8 bits.
WORST = {"int8": (0.5 + 127 / 2**11) / 127, "nf4": 0.152 + 0.02}
# Products round to int8 times int8, or bfloat16.
CLOSE = {"int8": 0.02, "nf4": 0.02}


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([16, 9, 4, 12])
    return torch.randint(4, 90, (4, 16), generator=generator) * (torch.arange(16) < lengths[:, None])


def classifier(seed=0):
    """A classifier with weights far from uniform."""
    torch.manual_seed(seed)
    model = nn.CellClassifier(CONFIG, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def outputs(model, tokens):
    with torch.no_grad():
        return model(tokens, tokens != 0)


def apart(a, b):
    """Root mean square of the difference, in units of the first."""
    return ((a - b).square().mean() / a.square().mean()).sqrt().item()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_rounded_and_nothing_else_changes(kind):
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    quantize(model, kind)
    assert is_quantized(model)
    layers = [m for m in model.encoder.modules() if is_quantized(m) and not list(m.children())]
    assert len(layers) == 6 * CONFIG.n_layers
    for _ in range(2):
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {n for n in before if "encoder" not in n}
        dequantize(model)
    assert not is_quantized(model)
    assert list(model.state_dict()) == list(before)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        if "blocks" in name and value.ndim == 2:
            width = value.shape[1] if kind == "int8" else 64
            error, weights = (x.abs().reshape(-1, width) for x in (value - before[name], before[name]))
            assert 0 < (error / weights.amax(1, keepdim=True)).max() < WORST[kind], name
        elif kind == "nf4" and "blocks" in name and "norm" not in name:  # biases
            assert torch.equal(value, before[name].bfloat16().float())
        else:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_layers_compute_with_the_rounded_weights(kind, tokens):
    model = classifier()
    original = outputs(model, tokens)
    quantize(model, kind)
    plain = copy.deepcopy(model)
    dequantize(plain)
    found = outputs(model, tokens)
    assert apart(outputs(plain, tokens), found) < CLOSE[kind]
    assert 0 < apart(original, found) < (0.03 if kind == "int8" else 0.3)
    assert torch.equal(outputs(model, tokens), found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_dict_loads_into_a_model_built_the_same_way(kind, tokens):
    model, again = classifier(), classifier(seed=1)
    for m in (model, again):
        quantize(m, kind)
        add_lora(m, rank=4)
    assert not torch.equal(outputs(again, tokens), outputs(model, tokens))
    again = classifier(seed=1)
    quantize(again, kind)
    add_lora(again, rank=4)
    again.load_state_dict(model.state_dict())
    assert torch.equal(outputs(again, tokens), outputs(model, tokens))
    plain = copy.deepcopy(again)
    merge_lora(plain)
    for name, value in plain.state_dict().items():
        assert value.dtype == torch.float32, name


def step(model, tokens):
    """Gradients of adapters and heads."""
    model.train()
    model.zero_grad()
    F.cross_entropy(model(tokens, tokens != 0), torch.tensor([0, 1, 2, 1])).backward()
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_on_quantized_weights(kind, tokens):
    """They learn as on plain layers with the rounded weights, also after use of the model."""
    model = classifier()
    quantize(model, kind)
    torch.manual_seed(1)
    add_lora(model, rank=4, dropout=0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    plain = copy.deepcopy(model)
    dequantize(plain)
    expected = step(plain, tokens)
    assert len(expected) == 4 * CONFIG.n_layers + 4
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)

    for _ in range(2):
        found = step(model, tokens)
        for name, value in found.items():
            assert apart(expected[name], value) < 0.05, name
        outputs(model, tokens)
        options = {"pooling": "mean", "n_special": 4, "device": "cpu"}
        engine.embed(model.encoder, tokens.numpy().astype(np.uint16), **options)

    merged = copy.deepcopy(model)
    merge_lora(merged)
    assert apart(outputs(plain, tokens), outputs(merged, tokens)) < 1e-5
    assert list(merged.state_dict()) == list(classifier().state_dict())


@pytest.mark.parametrize("used", [False, True])
def test_scales_of_int8_follow_the_weights(used, tokens):
    """As `Module.to` leaves a layer on a GPU: weights there, scales here. The other device that every machine has is meta."""
    model = classifier()
    quantize(model, "int8")
    if used:
        outputs(model, tokens)
    layer = model.encoder.blocks[0].feed_forward.up
    old = layer.weight
    layer.weight = type(old)(old.data.to("meta"), requires_grad=False, CB=old.CB, SCB=old.SCB)
    layer.bias = torch.nn.Parameter(layer.bias.to("meta"))
    layer.state.threshold = 0.0  # which columns have outliers cannot be known there
    assert layer(torch.empty(2, 3, CONFIG.width, device="meta")).shape == (2, 3, CONFIG.feed_forward)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_the_bundled_model_keep_their_direction(kind, precision):
    """What the docstring promises."""
    pretrained = hub.load("default")
    encoder = copy.deepcopy(pretrained.encoder)
    rng = np.random.default_rng(0)
    cells = np.stack([rng.permutation(np.arange(4, encoder.config.vocab_size))[:256] for _ in range(8)])
    options = {"pooling": "mean", "n_special": 4, "emb_layer": 0, "device": "cpu"}
    expected = engine.embed(encoder, cells.astype(np.uint16), precision="float32", **options).cells
    quantize(encoder, kind)
    found = engine.embed(encoder, cells.astype(np.uint16), precision=precision, **options).cells
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > {"int8": 0.9995, "nf4": 0.99}[kind]


def test_bad_requests_are_refused_before_anything_changes(monkeypatch):
    model = classifier()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match="quantize='int4' is not one of"):
        quantize(model, "int4")
    with pytest.raises(RuntimeError, match="cannot run int8 layers on device 'meta'"):
        quantize(model, "int8", device="meta")

    def cannot(*_):
        msg = "no kernel"
        raise NotImplementedError(msg)

    monkeypatch.setattr(_quantize, "_nf4", cannot)
    with pytest.raises(RuntimeError, match="cannot run nf4 layers on device 'cpu' of this machine: no kernel"):
        quantize(model, "nf4")
    assert list(model.state_dict()) == names
    assert next(model.parameters()).device.type == "cpu"

    uneven = nn.Encoder(nn.EncoderConfig(vocab_size=9, n_layers=1, width=64, n_heads=4, feed_forward=96, max_length=4))
    with pytest.raises(ValueError, match=r"multiples of 64; this encoder has layers of width \[96\]"):
        quantize(uneven, "nf4")
    assert not is_quantized(uneven)

    quantize(model, "int8")
    with pytest.raises(ValueError, match="quantized already"):
        quantize(model, "int8")
    adapted = classifier()
    add_lora(adapted, rank=2)
    with pytest.raises(ValueError, match="Quantize before"):
        quantize(adapted, "int8")


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    model = classifier()
    with pytest.raises(ImportError, match=r"pip install 'scgeneformer\[quantize\]'"):
        quantize(model, "nf4")
    assert not is_quantized(model)


def test_bitsandbytes_does_not_repeat_itself(tokens, caplog):
    model = classifier()
    quantize(model, "int8")
    with caplog.at_level(logging.WARNING):
        outputs(model, tokens)
    assert not caplog.records
