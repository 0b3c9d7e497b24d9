"""Adapters in files against peft on the `transformers` models, in both directions."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from scgeneformer import nn
from scgeneformer.nn.adapters import add_lora, load_adapter, save_adapter

from .test_adapters import (
    CONFIG,
    MASK,
    MODELS,
    TARGETS,
    TOKENS,
    agree,
    outputs,
    shaken,
    theirs_with_base,
    with_adapters,
)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", MODELS)
def test_peft_loads_what_we_save(kind, targets, tmp_path):
    model, base = with_adapters(kind, targets=targets)
    save_adapter(tmp_path / "adapter", model, base_model="base")
    theirs = PeftModel.from_pretrained(theirs_with_base(kind, base, tmp_path / "base"), tmp_path / "adapter").eval()
    agree(kind, model, theirs)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == MODELS[kind][2]
    assert config["modules_to_save"] == MODELS[kind][3]
    assert config["base_model_name_or_path"] == "base"
    if targets == ("query", "value"):
        assert config["target_modules"] == ["query", "value"]

    again = copy.deepcopy(base)
    load_adapter(tmp_path / "adapter", again)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize(
    ("settings", "targets"),
    [
        ({"target_modules": ["query", "value"]}, {"query", "value"}),
        ({"target_modules": ["output.dense"], "use_rslora": True}, {"out", "down"}),
        (
            {"target_modules": ["key"], "layers_to_transform": [0, 2], "layers_pattern": "layer"},
            {"blocks.0.attention.key", "blocks.2.attention.key"},
        ),
    ],
)
@pytest.mark.parametrize("kind", MODELS)
def test_we_load_what_peft_trained(kind, settings, targets, tmp_path):
    base = shaken(MODELS[kind][0]())
    _, _, task, heads = MODELS[kind]
    config = LoraConfig(r=4, lora_alpha=12, task_type=task, modules_to_save=heads, **settings)
    torch.manual_seed(4)
    theirs = get_peft_model(theirs_with_base(kind, base, tmp_path / "base"), config)
    shaken(theirs, only="lora_B", seed=5)
    optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        theirs(TOKENS, attention_mask=MASK.long())[0].square().mean().backward()
        optimizer.step()
    theirs.save_pretrained(tmp_path / "adapter")
    again = copy.deepcopy(base)
    load_adapter(tmp_path / "adapter", base)
    agree(kind, base, theirs.eval())

    used = getattr(base, "encoder", base).peft_config["default"]
    assert used.target_modules == targets
    add_lora(again, rank=used.r, alpha=used.lora_alpha, dropout=used.lora_dropout, targets=sorted(used.target_modules))
    again.load_state_dict(base.state_dict())
    agree(kind, again, theirs)


def test_adapters_learn_as_in_peft(tmp_path):
    """Same loss, same gradients of adapters and heads."""
    model, base = with_adapters("cell", dropout=0)
    save_adapter(tmp_path / "adapter", model)
    theirs = PeftModel.from_pretrained(
        theirs_with_base("cell", base, tmp_path / "base"), tmp_path / "adapter", is_trainable=True
    )
    labels = torch.tensor([0, 2, 1])
    F.cross_entropy(model(TOKENS, MASK), labels).backward()
    theirs(TOKENS, attention_mask=MASK.long(), labels=labels).loss.backward()
    inside = theirs.base_model.model
    for ours, other in [
        (model.classifier, inside.classifier.modules_to_save["default"]),
        (model.pooler, inside.bert.pooler.modules_to_save["default"].dense),
        (
            model.encoder.blocks[0].attention.query.lora_A["default"],
            inside.bert.encoder.layer[0].attention.self.query.lora_A["default"],
        ),
        (
            model.encoder.blocks[2].attention.value.lora_B["default"],
            inside.bert.encoder.layer[2].attention.self.value.lora_B["default"],
        ),
    ]:
        torch.testing.assert_close(ours.weight.grad, other.weight.grad, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_an_encoder_takes_the_adapters_of_a_classifier_and_the_other_way_round(tmp_path):
    cell, base = with_adapters("cell")
    save_adapter(tmp_path / "cell", cell)
    encoder = copy.deepcopy(base.encoder)
    load_adapter(tmp_path / "cell", encoder)
    assert torch.equal(outputs(encoder), outputs(cell.encoder))
    save_adapter(tmp_path / "encoder", encoder)
    head = copy.deepcopy(base.classifier.weight)
    load_adapter(tmp_path / "encoder", base)
    assert torch.equal(outputs(base.encoder), outputs(cell.encoder))
    assert torch.equal(base.classifier.weight, head)


class Pooled(torch.nn.Module):
    """A head that BERT does not know."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Encoder(CONFIG)
        self.attention = torch.nn.Linear(CONFIG.width, 1)
        self.age = torch.nn.Linear(CONFIG.width, 1)

    def forward(self, tokens, mask):
        x = self.encoder(tokens, mask)
        return self.age((self.attention(x).softmax(1) * x).sum(1))


def test_heads_of_our_own_come_back(tmp_path):
    model = shaken(Pooled())
    again = copy.deepcopy(model)
    add_lora(model, rank=2)
    assert model.attention.weight.requires_grad
    shaken(model, seed=9, only="lora_")
    shaken(model, seed=9, only="age")
    save_adapter(tmp_path, model)
    load_adapter(tmp_path, again)
    assert torch.equal(outputs(again), outputs(model))


def change(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_adapters_that_do_not_fit_leave_the_model_as_it_was(tmp_path):
    model, base = with_adapters("cell")
    save_adapter(tmp_path, model)
    before = outputs(base)
    shapes = {"vocab_size": 40, "n_layers": 3, "width": 16, "n_heads": 2, "feed_forward": 20, "max_length": 12}
    for other, named in [
        (nn.CellClassifier(CONFIG, 5), r"'classifier.bias' has shape \(3,\), not \(5,\)"),
        (nn.CellClassifier(nn.EncoderConfig(**shapes | {"width": 8}), 3), r"shape \(4, 16\), not \(4, 8\)"),
        (nn.CellClassifier(nn.EncoderConfig(**shapes | {"n_layers": 2}), 3), "layer.2.* no place"),
        (nn.MaskedGeneModel(CONFIG), "no place"),
    ]:
        names = list(other.state_dict())
        with pytest.raises(ValueError, match=named):
            load_adapter(tmp_path, other)
        assert list(other.state_dict()) == names
        assert all(p.requires_grad for p in other.parameters())

    change(tmp_path, r=8)
    with pytest.raises(ValueError, match=r"shape \(4, 16\), not \(8, 16\)"):
        load_adapter(tmp_path, base)
    change(tmp_path, r=4, alpha_pattern={"query": 3})
    with pytest.raises(ValueError, match="not plain LoRA.*alpha_pattern"):
        load_adapter(tmp_path, base)
    change(tmp_path, alpha_pattern={}, init_lora_weights="pissa")
    with pytest.raises(ValueError, match="pissa"):
        load_adapter(tmp_path, base)
    change(tmp_path, init_lora_weights="gaussian", setting_of_a_later_peft=None)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({k: v for k, v in weights.items() if "lora_" not in k}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="has no adapters"):
        load_adapter(tmp_path, base)
    assert torch.equal(outputs(base), before)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    load_adapter(tmp_path, base)
    assert torch.equal(outputs(base), outputs(model))


def test_other_adapters_of_peft_are_refused_by_name(tmp_path):
    base = shaken(MODELS["gene"][0]())
    for i, (config, named) in enumerate(
        [
            (LoraConfig(target_modules=["query"], use_dora=True), "use_dora"),
            (LoraConfig(target_modules=["query"], bias="lora_only"), "bias"),
            (IA3Config(target_modules=["key"], feedforward_modules=[]), "IA3"),
        ]
    ):
        get_peft_model(theirs_with_base("gene", base, tmp_path / "base"), config).save_pretrained(tmp_path / str(i))
        with pytest.raises(ValueError, match=named):
            load_adapter(tmp_path / str(i), base)


def test_missing_files_are_named_and_nothing_is_unpickled(tmp_path):
    base = MODELS["gene"][0]()
    with pytest.raises(FileNotFoundError, match=r"No adapter_config\.json"):
        load_adapter(tmp_path, base)
    theirs = get_peft_model(theirs_with_base("gene", base, tmp_path / "base"), LoraConfig(target_modules=["query"]))
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(weights, tmp_path / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"No adapter_model\.safetensors"):
        load_adapter(tmp_path, base)


def test_adapters_that_are_damaged_are_refused(tmp_path):
    model, base = with_adapters("cell")
    save_adapter(tmp_path, model)
    before, file = outputs(base), tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if "lora_B" in name)
    for other in (lost, lost.replace("lora_B", "lora_A")):
        save_file({name: value for name, value in weights.items() if name != other}, file)
        with pytest.raises(ValueError, match=r"has '.*lora_[AB].*', but not '.*lora_[AB].*'"):
            load_adapter(tmp_path, base)
    save_file(weights | {lost: torch.full_like(weights[lost], torch.nan)}, file)
    with pytest.raises(ValueError, match="NaN or infinite"):
        load_adapter(tmp_path, base)
    save_file(weights, file)
    for wrong in ({"lora_alpha": float("nan")}, {"lora_alpha": "16"}, {"r": 0}, {"r": 4.0}, {"lora_dropout": 2.0}):
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        change(tmp_path, **wrong)
        with pytest.raises(ValueError, match=rf"adapter_config\.json is not .*{next(iter(wrong))}="):
            load_adapter(tmp_path, base)
        change(tmp_path, **config)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is not the config"):
        load_adapter(tmp_path, base)
    assert torch.equal(outputs(base), before)
