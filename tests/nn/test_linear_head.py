"""The linear head of cell and gene classifiers: standardised states, one layer, and saving to files."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BertForTokenClassification, BertModel

from scgeneformer import nn

CONFIG = nn.EncoderConfig(
    vocab_size=40, n_layers=2, width=16, n_heads=2, feed_forward=20, max_length=12, dropout=0.0, pooling="mean"
)
TOKENS = torch.tensor([[2, 5, 9, 3, 0], [2, 7, 3, 0, 0]])
MASK = TOKENS != 0


def classifier(pooling: str = "mean", head: str = "linear") -> nn.CellClassifier:
    torch.manual_seed(0)
    model = nn.CellClassifier(CONFIG, 3, pooling, 4, head=head)
    if head == "linear":
        model.standardise.mean.copy_(torch.randn(16))
        model.standardise.sd.copy_(torch.rand(16) + 0.5)
    return model.eval()


def test_scores_are_linear_in_standardised_states():
    model = classifier()
    states = torch.randn(5, 16)
    z = (states - model.standardise.mean) / model.standardise.sd
    expected = z @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model.scores(states), expected)
    fresh = nn.CellClassifier(CONFIG, 3, "mean", 4, head="linear").eval()
    torch.testing.assert_close(fresh.scores(states), fresh.classifier(states))
    with pytest.raises(ValueError, match="head='mlp' is not one of"):
        nn.CellClassifier(CONFIG, 3, head="mlp")


def test_the_mean_keeps_its_precision_where_the_rest_is_cast():
    """States are far from zero, as real ones are; a mean in bfloat16 would shift them by more than their spread."""
    model = classifier()
    model.standardise.mean.fill_(100.3)
    cast = copy.deepcopy(model).to(torch.bfloat16)
    assert torch.equal(cast.standardise.mean, model.standardise.mean)
    assert cast.classifier.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_a_folder_brings_it_back_and_is_an_encoder_to_others(pooling, tmp_path):
    model = classifier(pooling)
    nn.save_checkpoint(tmp_path, model, labels=["a", "b", "c"])
    back = nn.load_cell_classifier(tmp_path)
    assert (back.head, back.pooling, back.n_special) == ("linear", pooling, 4)
    torch.testing.assert_close(back(TOKENS, MASK), model(TOKENS, MASK))
    theirs, info = BertModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"]
    expected = theirs.eval()(TOKENS, attention_mask=MASK.long()).last_hidden_state
    torch.testing.assert_close(model.encoder(TOKENS, MASK)[MASK], expected[MASK], rtol=0, atol=5e-6)


def adapted(base):
    """The model with adapters and a head whose weights are changed as if by training."""
    model = copy.deepcopy(base)
    nn.add_lora(model, rank=2)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    if model.head == "linear":
        model.standardise.sd.fill_(3.0)
    return model


def test_adapters_come_with_the_head_they_were_trained_with(tmp_path):
    pytest.importorskip("peft")
    bases = {head: classifier(head=head) for head in ("linear", "bert")}
    for head, base in bases.items():
        model = adapted(base)
        nn.save_adapter(tmp_path / head, model)
        again = copy.deepcopy(base)
        nn.load_adapter(tmp_path / head, again)
        torch.testing.assert_close(again(TOKENS, MASK), model(TOKENS, MASK))
    for head, other in (("linear", "bert"), ("bert", "linear")):
        with pytest.raises(ValueError, match="has no place"):
            nn.load_adapter(tmp_path / head, copy.deepcopy(bases[other]))


def test_a_head_that_peft_saved_without_a_pooler_is_no_linear_head(tmp_path):
    pytest.importorskip("peft")
    from safetensors.torch import load_file, save_file

    base = classifier()
    model = copy.deepcopy(base)
    nn.add_lora(model, rank=2)
    nn.save_adapter(tmp_path, model)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({k: v for k, v in weights.items() if "standardise" not in k}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="without standardised states.*head='bert'"):
        nn.load_adapter(tmp_path, base)


def of_genes(head: str = "linear") -> nn.GeneClassifier:
    torch.manual_seed(1)
    model = nn.GeneClassifier(CONFIG, 3, head)
    if head == "linear":
        model.standardise.mean.copy_(5 + torch.randn(16))
        model.standardise.sd.copy_(torch.rand(16) + 0.5)
    return model.eval()


def test_scores_of_genes_are_linear_in_standardised_states():
    model = of_genes()
    states = torch.randn(5, 7, 16)
    z = (states - model.standardise.mean) / model.standardise.sd
    torch.testing.assert_close(model.scores(states), z @ model.classifier.weight.T + model.classifier.bias)
    scores = torch.randn(4, 3)
    assert torch.equal(model.averaged(scores), scores)
    torch.testing.assert_close(model.proba(scores, 2.0), (scores / 2).softmax(-1))
    bert = of_genes("bert")
    assert torch.equal(bert.proba(bert.averaged(scores), 2.0), scores.softmax(-1))
    with pytest.raises(ValueError, match="head='mlp' is not one of"):
        nn.GeneClassifier(CONFIG, 3, "mlp")


def test_a_folder_of_genes_is_exact_and_reads_the_same_in_transformers(tmp_path):
    model = of_genes()
    nn.save_checkpoint(tmp_path, model, labels=["a", "b", "c"])
    back = nn.load_gene_classifier(tmp_path)
    assert back.head == "linear"
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in back.state_dict().items())
    theirs, info = BertForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        logits = theirs.eval()(TOKENS, attention_mask=MASK.long()).logits
        torch.testing.assert_close(model(TOKENS, MASK)[MASK], logits[MASK], rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")  # which leaves out what is ours
    again = nn.load_gene_classifier(tmp_path / "theirs")
    assert again.head == "linear"
    torch.testing.assert_close(again(TOKENS, MASK)[MASK], logits[MASK], rtol=0, atol=1e-5)
    nn.save_checkpoint(tmp_path / "bert", of_genes("bert"))
    assert nn.load_gene_classifier(tmp_path / "bert").head == "bert"


def test_adapters_of_genes_come_with_their_head(tmp_path):
    peft = pytest.importorskip("peft")
    bases = {head: of_genes(head) for head in ("linear", "bert")}
    for head, base in bases.items():
        model = adapted(base)
        nn.save_adapter(tmp_path / head, model)
        again = copy.deepcopy(base)
        nn.load_adapter(tmp_path / head, again)
        assert torch.equal(again(TOKENS, MASK), model(TOKENS, MASK))
        nn.save_checkpoint(tmp_path / "base", base)
        theirs = BertForTokenClassification.from_pretrained(tmp_path / "base")
        theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / head).eval()
        with torch.no_grad():
            logits = theirs(TOKENS, attention_mask=MASK.long()).logits
        torch.testing.assert_close(model(TOKENS, MASK)[MASK], logits[MASK], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="has no place"):
        nn.load_adapter(tmp_path / "linear", copy.deepcopy(bases["bert"]))
    with pytest.raises(ValueError, match="without standardised states.*head='bert'"):
        nn.load_adapter(tmp_path / "bert", copy.deepcopy(bases["linear"]))
