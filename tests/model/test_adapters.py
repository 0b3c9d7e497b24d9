from __future__ import annotations

import pytest
import torch

from scgeneformer import nn
from scgeneformer.model._classifier import plain_copy

SHAPE = nn.EncoderConfig(vocab_size=30, n_layers=1, width=64, n_heads=2, feed_forward=64, max_length=16, dropout=0.0)


@pytest.mark.parametrize("head", [nn.CellClassifier, nn.GeneClassifier])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_plain_copy_can_be_written_and_says_the_same(head, lora, quantized, tmp_path):
    torch.manual_seed(0)
    network = head(SHAPE, 3).eval()
    if quantized:
        nn.quantize(network, "int8")
    if lora:
        nn.add_lora(network, rank=2)
        network.eval()
    before = set(network.state_dict())
    plain = plain_copy(network)
    nn.save_checkpoint(tmp_path, plain)
    tokens = torch.arange(4, 14)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens), network(tokens), rtol=0, atol=0.01 if quantized else 1e-6)
    assert set(network.state_dict()) == before
    assert (plain is network) == (not lora and not quantized)
