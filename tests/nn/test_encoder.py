"""The encoder against Hugging Face's BERT, and against a slow computation."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from scgeneformer import nn

SMALL = nn.EncoderConfig(vocab_size=50, n_layers=3, width=16, n_heads=4, feed_forward=24, max_length=20)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our encoder and Hugging Face's with the same, far from uniform, random weights."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    theirs = BertModel(BertConfig(**SMALL.to_hf()), add_pooling_layer=False).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.3 * torch.randn_like(p))
    theirs.save_pretrained(folder)
    return nn.load_encoder(folder), theirs


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 50, (5, 20), generator=generator)
    lengths = torch.tensor([20, 17, 3, 1, 12])
    mask = torch.arange(20) < lengths[:, None]
    return tokens * mask, mask


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_every_layer_equals_bert(pair, batch, n_layers):
    ours, theirs = pair
    tokens, mask = batch
    expected = theirs(tokens, attention_mask=mask.long(), output_hidden_states=True).hidden_states[n_layers]
    torch.testing.assert_close(ours(tokens, mask, n_layers=n_layers)[mask], expected[mask], rtol=0, atol=2e-6)


def test_attention_weights_equal_bert(pair, batch):
    ours, theirs = pair
    tokens, mask = batch
    theirs.set_attn_implementation("eager")
    expected = theirs(tokens, attention_mask=mask.long(), output_attentions=True).attentions
    _, found = ours(tokens, mask, attention=True)
    assert len(found) == len(expected) == 3
    for a, b in zip(found, expected, strict=True):
        rows = mask[:, None, :, None].expand_as(a)
        torch.testing.assert_close(a[rows], b[rows], rtol=0, atol=2e-6)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_reading_some_positions_equals_reading_all(pair, batch, n_layers):
    ours, _ = pair
    tokens, mask = batch
    some = ours(tokens, mask, n_layers=n_layers, positions=slice(0, 1))
    torch.testing.assert_close(some, ours(tokens, mask, n_layers=n_layers)[:, :1], rtol=0, atol=2e-6)


def test_padding_and_neighbours_do_not_matter(pair, batch):
    ours, _ = pair
    tokens, mask = batch
    together = ours(tokens, mask)
    for i, row in enumerate(mask):
        alone = ours(tokens[i : i + 1, row])
        torch.testing.assert_close(together[i, row], alone[0], rtol=0, atol=2e-6)


def test_bad_requests_are_refused(pair, batch):
    ours, _ = pair
    tokens, _ = batch
    with pytest.raises(ValueError, match="outside 0 to 3"):
        ours(tokens, n_layers=4)
    with pytest.raises(ValueError, match="20 positions"):
        ours(torch.cat([tokens, tokens], 1))


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple of n_heads"):
        nn.EncoderConfig(vocab_size=5, n_layers=1, width=10, n_heads=4, feed_forward=4, max_length=4)
    with pytest.raises(ValueError, match="activation"):
        nn.EncoderConfig(vocab_size=5, n_layers=1, width=8, n_heads=4, feed_forward=4, max_length=4, activation="tanh")
    with pytest.raises(ValueError, match="vocab_size=70,000 is more than 65,536"):
        nn.EncoderConfig(vocab_size=70_000, n_layers=1, width=8, n_heads=4, feed_forward=4, max_length=4)
    with pytest.raises(ValueError, match="model_type='gpt2'"):
        nn.EncoderConfig.from_hf({"model_type": "gpt2"})
    with pytest.raises(ValueError, match=r"positions='rotary'.*sinusoidal"):
        replace(SMALL, positions="rotary")
    with pytest.raises(ValueError, match="n_decoder_layers=-1"):
        replace(SMALL, n_decoder_layers=-1)


@pytest.mark.parametrize("width", [16, 6])
def test_sinusoidal_positions_are_those_of_the_formula(width):
    config = replace(SMALL, positions="sinusoidal", width=width, n_heads=2)
    encoder = nn.Encoder(config)
    expected = np.empty((20, width))
    for position in range(20):
        for i in range(0, width, 2):
            angle = position / 10_000 ** (i / width)
            expected[position, i : i + 2] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(encoder.embedding.position.weight, expected, atol=1e-7)


def test_sinusoidal_positions_are_not_trained_and_are_a_bert_to_others(tmp_path, batch):
    tokens, mask = batch
    torch.manual_seed(0)
    nn.save_checkpoint(tmp_path, nn.Encoder(replace(SMALL, positions="sinusoidal")))
    ours = nn.load_encoder(tmp_path)
    assert ours.config.positions == "sinusoidal"
    before = copy.deepcopy(ours.embedding.position.weight)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1, weight_decay=0.1)
    ours(tokens, mask)[mask].pow(3).sum().backward()
    optimizer.step()
    assert torch.equal(ours.embedding.position.weight, before)
    trained = [name for name, p in ours.named_parameters() if p.grad is not None]
    assert set(dict(ours.named_parameters())) - set(trained) == {"embedding.position.weight"}
    nn.save_checkpoint(tmp_path, ours)
    theirs = BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    expected = theirs(tokens, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours(tokens, mask)[mask], expected[mask], rtol=0, atol=2e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("positions", [None, slice(0, 1)])
def test_activations_computed_again_change_nothing(batch, dropout, positions):
    tokens, mask = batch
    torch.manual_seed(0)
    encoder = nn.Encoder(replace(SMALL, dropout=dropout, attention_dropout=dropout)).train()
    names, results, kept = list(encoder.state_dict()), [], []

    def pack(x):
        kept[-1] += x.numel()
        return x

    for again in (False, True):
        encoder.checkpoint_activations = again
        encoder.zero_grad()
        torch.manual_seed(4)
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            states = encoder(tokens, mask, positions=positions)
        states.pow(3).sum().backward()
        results.append([states.detach(), *(p.grad for p in encoder.parameters())])
        assert list(encoder.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert kept[1] < 0.25 * kept[0]


def test_compiled_blocks_equal_eager_ones(pair, batch, monkeypatch):
    ours, _ = pair
    tokens, mask = batch
    compiled = copy.deepcopy(ours)
    captured, compile_ = [], torch.compile

    def light(function, **options):  # what torch makes of the graph is torch's; its own compiler takes half a minute
        captured.append(options)
        return compile_(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", light)
    nn.compile_blocks(compiled)
    assert captured == [{"dynamic": True}] * 3
    assert list(compiled.state_dict()) == list(ours.state_dict())
    for length in (20, 11):
        rows, there = tokens[:, :length], mask[:, :length]
        for model in (ours, compiled):
            model.zero_grad()
            model(rows, there)[there].pow(3).sum().backward()
        for (name, a), b in zip(compiled.named_parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(tokens, mask)[mask], ours(tokens, mask)[mask], rtol=0, atol=2e-6)
    copy.deepcopy(compiled)(tokens, mask)


def test_compiling_without_a_compiler_is_refused(pair, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler.*CXX"):
        nn.compile_blocks(copy.deepcopy(pair[0]))
