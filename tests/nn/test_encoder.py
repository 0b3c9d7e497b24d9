"""The encoder against Hugging Face's BERT, and against itself computed the slow way."""

from __future__ import annotations

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
    with pytest.raises(ValueError, match="uint16"):
        nn.EncoderConfig(vocab_size=70_000, n_layers=1, width=8, n_heads=4, feed_forward=4, max_length=4)
    with pytest.raises(ValueError, match="model_type='gpt2'"):
        nn.EncoderConfig.from_hf({"model_type": "gpt2"})
