"""Losses and gradients are those of transformers on the same weights, batch by batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification

from scgeneformer import nn
from scgeneformer.model.data._cell_labels import CellTask
from scgeneformer.model.data._masking import Masking
from scgeneformer.model.objectives._cells import CellClassifierModule
from scgeneformer.model.objectives._masked import GeneformerModule
from scgeneformer.nn.checkpoints._layouts import names_of

TOKENS = "geneformer_tokens"
SHAPE = {"n_layers": 3, "width": 32, "n_heads": 4, "feed_forward": 48, "max_length": 64}


@pytest.fixture
def config(vocabulary):
    return nn.EncoderConfig(vocab_size=len(vocabulary), dropout=0.0, attention_dropout=0.0, **SHAPE)


@pytest.fixture
def batch(cells):
    tokens = cells.obsm[TOKENS][:12].astype(np.int64)
    lengths = (tokens != 0).sum(1)
    assert lengths.min() < lengths.max()  # rows are padded
    return tokens, lengths


def restless(network: torch.nn.Module) -> None:
    """Weights and biases that all affect the result, from one seed."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def assert_same_gradients(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    names, gradients = names_of(ours), dict(theirs.named_parameters())
    compared = 0
    for name, parameter in ours.named_parameters():
        expected = gradients[names[name]].grad
        if expected is None:
            expected = torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-5, msg=name)
        compared += int(expected.abs().max() > 1e-3)
    assert compared > 20  # gradients that are not nothing


def test_masked_genes(config, batch, vocabulary, tmp_path):
    tokens, lengths = batch
    torch.manual_seed(0)
    module = GeneformerModule(config)
    restless(module.network)
    nn.save_checkpoint(tmp_path, module.network)
    theirs = BertForMaskedLM.from_pretrained(tmp_path).train()
    inputs, where = Masking.over(vocabulary)(tokens, np.arange(len(tokens)), 0)
    answers = torch.from_numpy(np.where(where, tokens, -100))
    tensors = {"tokens": inputs, "lengths": lengths, "where": where, "targets": tokens[where]}
    module.train()
    output = module({name: torch.from_numpy(value) for name, value in tensors.items()})[-1]
    expected = theirs(
        input_ids=torch.from_numpy(inputs), attention_mask=torch.from_numpy(tokens != 0).long(), labels=answers
    )
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-5)
    output.loss.backward()
    expected.loss.backward()
    # padding's own row is never trained here; BERT's gets the gradient of the tied output matrix, as ours does
    assert_same_gradients(module.network, theirs)


def test_classes_of_cells(config, batch, tmp_path):
    tokens, lengths = batch
    torch.manual_seed(0)
    network = nn.CellClassifier(config, 3)
    restless(network)
    nn.save_checkpoint(tmp_path, network)
    theirs = BertForSequenceClassification.from_pretrained(tmp_path).train()
    task = CellTask("type", "categorical", ("a", "b", "c"))
    module = CellClassifierModule(network, [task], task_weights={"type": 1.0}).train()
    labels = np.arange(len(tokens)) % 3
    tensors = {"tokens": tokens, "lengths": lengths, "labels": labels.astype(np.float32)[:, None]}
    output = module({name: torch.from_numpy(value) for name, value in tensors.items()})[-1]
    expected = theirs(
        input_ids=torch.from_numpy(tokens),
        attention_mask=torch.from_numpy(tokens != 0).long(),
        labels=torch.from_numpy(labels),
    )
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-5)
    output.loss.backward()
    expected.loss.backward()
    assert_same_gradients(network, theirs)


def test_continuous_labels_are_half_of_bert_s_regression(config, batch, tmp_path):
    tokens, lengths = batch
    torch.manual_seed(0)
    network = nn.CellClassifier(config, 1)
    restless(network)
    nn.save_checkpoint(tmp_path, network)
    theirs = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=1).train()
    module = CellClassifierModule(network, [CellTask("age", "continuous")], task_weights={"age": 1.0}).train()
    values = np.linspace(-1, 2, len(tokens)).astype(np.float32)
    tensors = {"tokens": tokens, "lengths": lengths, "labels": values[:, None]}
    output = module({name: torch.from_numpy(value) for name, value in tensors.items()})[-1]
    mask = torch.from_numpy(tokens != 0).long()
    expected = theirs(input_ids=torch.from_numpy(tokens), attention_mask=mask, labels=torch.from_numpy(values))
    torch.testing.assert_close(output.loss, expected.loss / 2, rtol=1e-5, atol=1e-5)
