"""Adapters against their own algebra, and merged ones against `transformers`."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification, BertModel

from scgeneformer import engine, nn
from scgeneformer.nn.adapters import add_lora, load_adapter, merge_lora, save_adapter

CONFIG = nn.EncoderConfig(
    vocab_size=40, n_layers=3, width=16, n_heads=2, feed_forward=20, max_length=12, dropout=0, attention_dropout=0
)
TOKENS = torch.tensor([[2, 5, 9, 3, 0, 0], [2, 7, 3, 0, 0, 0], [2, 30, 8, 5, 12, 3]])
MASK = TOKENS != 0
TARGETS = [("query", "value"), ("down",), ("out", "up"), ("query", "key", "value", "out", "up", "down")]

MODELS = {
    "cell": (lambda: nn.CellClassifier(CONFIG, 3), BertForSequenceClassification, "SEQ_CLS", ["classifier", "pooler"]),
    "gene": (lambda: nn.GeneClassifier(CONFIG, 4), BertForTokenClassification, "TOKEN_CLS", ["classifier"]),
    "masked": (lambda: nn.MaskedGeneModel(CONFIG), BertForMaskedLM, None, None),
    "encoder": (lambda: nn.Encoder(CONFIG), BertModel, None, None),
}


def shaken(model, *, seed=3, only=""):
    """Move weights far from where they start: all of them, or those with `only` in their names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if only in name:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


def with_adapters(kind, **options):
    model = shaken(MODELS[kind][0]())
    base = copy.deepcopy(model)
    torch.manual_seed(4)
    add_lora(model, rank=4, **options)
    shaken(model, only="lora_")
    return model, base


def outputs(model):
    with torch.no_grad():
        return model(TOKENS, MASK)


def theirs_with_base(kind, base, folder):
    nn.save_checkpoint(folder, base)
    options = {"add_pooling_layer": False} if kind == "encoder" else {}
    return MODELS[kind][1].from_pretrained(folder, **options).eval()


def agree(kind, ours, theirs):
    """In double precision, so that only the arithmetic counts."""
    found = outputs(copy.deepcopy(ours).double())
    with torch.no_grad():
        answer = theirs.double()(TOKENS, attention_mask=MASK.long())
    expected = answer.last_hidden_state if kind == "encoder" else answer.logits
    if found.ndim == 3:
        found, expected = found[MASK], expected[MASK]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", MODELS)
def test_new_adapters_change_nothing_and_are_all_that_learns_beside_heads(kind):
    model = shaken(MODELS[kind][0]())
    before, names = outputs(model), set(model.state_dict())
    add_lora(model, rank=4)
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    adapters = {name for name in trained if ".lora_" in name}
    heads = {name for name in names if name.startswith(("classifier.", "pooler."))}
    assert trained == adapters | heads
    assert len(adapters) == 2 * 2 * CONFIG.n_layers
    assert all(name.endswith(("lora_A.default.weight", "lora_B.default.weight")) for name in adapters)


def test_a_layer_computes_what_the_paper_says():
    model, base = with_adapters("encoder", alpha=6, targets=("up",))
    layer, plain = model.blocks[1].feed_forward.up, base.blocks[1].feed_forward.up
    x = torch.randn(5, CONFIG.width)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), x @ plain.weight.T + plain.bias + 6 / 4 * (x @ a.T) @ b.T)


def test_official_settings_are_the_defaults():
    model = shaken(MODELS["cell"][0]())
    add_lora(model)
    config = model.encoder.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (64, 128, 0.1)
    assert model.encoder.blocks[0].attention.query.lora_A["default"].weight.shape == (64, CONFIG.width)
    assert {name.split(".")[3] for name in model.encoder.state_dict() if "lora_" in name} == {"query", "value"}


def test_dropout_of_adapters_follows_the_mode_of_the_model():
    model, _ = with_adapters("encoder", dropout=0.5)
    assert torch.equal(outputs(model), outputs(model))
    model.train()
    assert not torch.equal(outputs(model), outputs(model))


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", MODELS)
def test_merged_weights_compute_the_same_under_plain_names(kind, targets, tmp_path):
    model, base = with_adapters(kind, targets=targets)
    model.double()  # or rounding hides how equal they are
    expected = outputs(model)
    merge_lora(model)
    torch.testing.assert_close(outputs(model), expected, rtol=0, atol=1e-12)
    assert list(model.state_dict()) == list(base.state_dict())
    assert all(p.requires_grad for p in model.parameters())
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]
    agree(kind, model, theirs_with_base(kind, model.float(), tmp_path))
    add_lora(model, rank=2)  # and may begin anew


def test_a_saved_state_dict_is_rebuilt_by_the_same_calls():
    model, _ = with_adapters("cell", targets=("key", "down"))
    state = copy.deepcopy(model.state_dict())
    again = MODELS["cell"][0]().eval()
    add_lora(again, rank=4, targets=("key", "down"))
    again.load_state_dict(state)
    assert torch.equal(outputs(again), outputs(model))
    other = MODELS["cell"][0]()
    add_lora(other, rank=5, targets=("key", "down"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(state)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embedding_and_perturbation_read_adapters(pooling):
    model, base = with_adapters("cell", targets=TARGETS[-1])
    merged = copy.deepcopy(model)
    merge_lora(merged)
    tokens = TOKENS.numpy().astype(np.uint16)
    options = {"pooling": pooling, "n_special": 4, "device": "cpu", "precision": "float32"}

    def effects(model):
        states = np.random.default_rng(0).normal(size=(2, CONFIG.width))
        perturbation = engine.perturb.Perturbation("delete", genes=np.arange(4, 40))
        yield engine.embed(model.encoder, tokens, **options).cells
        for method in ("exact", "screen"):
            yield engine.perturb.run(
                model.encoder, tokens, perturbation, states=states, method=method, **options
            ).values

    for found, expected, without in zip(effects(model), effects(merged), effects(base), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        assert np.nanmax(np.abs(found - without)) > 1e-3


def test_bad_requests_are_refused(tmp_path):
    model = MODELS["cell"][0]()
    state = copy.deepcopy(model.state_dict())
    for options, named in [
        ({"targets": ("query", "values")}, "values"),
        ({"targets": ()}, "targets"),
        ({"targets": "query"}, "list"),
        ({"rank": 0}, "rank=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ]:
        with pytest.raises(ValueError, match=named):
            add_lora(model, **options)
    for call in (lambda: merge_lora(model), lambda: save_adapter(tmp_path, model)):
        with pytest.raises(ValueError, match="no LoRA adapters. Add them with `add_lora`"):
            call()
    assert list(model.state_dict()) == list(state)
    assert all(p.requires_grad for p in model.parameters())
    add_lora(model, rank=2)
    save_adapter(tmp_path, model)
    for call in (lambda: add_lora(model), lambda: load_adapter(tmp_path, model)):
        with pytest.raises(ValueError, match="adapters already. Merge them"):
            call()


def test_without_peft_the_extra_is_named(monkeypatch):
    model = MODELS["gene"][0]()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'scgeneformer\[lora\]'"):
        add_lora(model)
    assert all(p.requires_grad for p in model.parameters())
