"""Checkpoints go to and come from `transformers`, for every head."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from scgeneformer import nn

CONFIG = nn.EncoderConfig(
    vocab_size=40, n_layers=2, width=16, n_heads=2, feed_forward=20, max_length=12, pooling="mean", emb_layer=0
)
TOKENS = torch.tensor([[2, 5, 9, 3, 0], [2, 7, 3, 0, 0]])
MASK = TOKENS != 0

HEADS = {
    "masked": (lambda: nn.MaskedGeneModel(CONFIG), nn.load_masked_gene_model, BertForMaskedLM, {}),
    "cell": (
        lambda: nn.CellClassifier(CONFIG, 3),
        nn.load_cell_classifier,
        BertForSequenceClassification,
        {"num_labels": 3},
    ),
    "gene": (
        lambda: nn.GeneClassifier(CONFIG, 4),
        nn.load_gene_classifier,
        BertForTokenClassification,
        {"num_labels": 4},
    ),
}


def shaken(model):
    """Move every weight, so that swapped names are noticed. The row of padding may have any value."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def agree(ours, theirs):
    expected = theirs(TOKENS, attention_mask=MASK.long()).logits
    found = ours(TOKENS, MASK)
    if found.ndim == 3:
        found, expected = found[MASK], expected[MASK]
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("head", HEADS)
def test_transformers_loads_what_we_save(head, tmp_path):
    make, load, cls, _ = HEADS[head]
    ours = shaken(make())
    nn.save_checkpoint(tmp_path, ours)
    theirs, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    agree(ours, theirs.eval())
    again = load(tmp_path)
    assert again.encoder.config == CONFIG
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("head", HEADS)
def test_we_load_what_transformers_saves(head, tmp_path):
    _, load, cls, extra = HEADS[head]
    theirs = shaken(cls(BertConfig(**CONFIG.to_hf(), **extra)))
    theirs.save_pretrained(tmp_path)
    agree(load(tmp_path), theirs)


def test_two_classes_which_hugging_face_does_not_write_down(tmp_path):
    theirs = shaken(BertForSequenceClassification(BertConfig(**CONFIG.to_hf(), num_labels=2)))
    theirs.save_pretrained(tmp_path)
    agree(nn.load_cell_classifier(tmp_path), theirs)


def test_the_bare_encoder_goes_both_ways(tmp_path):
    ours = shaken(nn.Encoder(CONFIG))
    nn.save_checkpoint(tmp_path, ours)
    theirs = BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    expected = theirs(TOKENS, attention_mask=MASK.long()).last_hidden_state
    torch.testing.assert_close(ours(TOKENS, MASK)[MASK], expected[MASK], rtol=0, atol=5e-6)
    torch.testing.assert_close(nn.load_encoder(tmp_path)(TOKENS, MASK), ours(TOKENS, MASK))


def test_a_decoder_lies_beside_an_encoder_that_others_load(tmp_path):
    config = replace(CONFIG, n_decoder_layers=3, positions="sinusoidal")
    ours = shaken(nn.EncoderDecoder(config))
    nn.save_checkpoint(tmp_path, ours)
    theirs, info = BertModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"]
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"decoder"}
    expected = theirs.eval()(TOKENS, attention_mask=MASK.long()).last_hidden_state
    torch.testing.assert_close(ours.encoder(TOKENS, MASK)[MASK], expected[MASK], rtol=0, atol=5e-6)
    again, encoder = nn.load_encoder_decoder(tmp_path), nn.load_encoder(tmp_path)
    assert again.config == config
    assert encoder.config == ours.encoder.config == replace(config, n_decoder_layers=0)
    assert torch.equal(again(TOKENS, MASK, TOKENS), ours(TOKENS, MASK, TOKENS))
    assert torch.equal(encoder(TOKENS, MASK), ours.encoder(TOKENS, MASK))
    assert not again.encoder.embedding.position.weight.requires_grad
    nn.save_checkpoint(tmp_path / "encoder", encoder)
    with pytest.raises(TypeError, match="not an encoder with a decoder"):
        nn.load_encoder_decoder(tmp_path / "encoder")


def test_the_config_of_a_bert_is_bert_s(tmp_path):
    nn.save_checkpoint(tmp_path, nn.Encoder(replace(CONFIG, pooling=None, emb_layer=None)))
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config) - {"architectures"} <= set(BertConfig().to_dict()) | {"position_embedding_type", "model_type"}


def test_an_old_bin_is_read_without_running_code(tmp_path):
    theirs = shaken(BertForMaskedLM(BertConfig(**CONFIG.to_hf())))
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    agree(nn.load_masked_gene_model(tmp_path), theirs)

    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"bert.x": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin was refused.*safetensors") as refusal:
        nn.load_encoder(tmp_path)
    assert refusal.value.__suppress_context__  # torch's advice to load it all the same
    assert not (tmp_path / "owned").exists()


def test_half_precision_on_disk_is_float32_in_memory(tmp_path):
    ours = shaken(nn.MaskedGeneModel(CONFIG))
    nn.save_checkpoint(tmp_path, ours, dtype=torch.float16)
    again = nn.load_masked_gene_model(tmp_path)
    for name, value in ours.state_dict().items():
        assert again.state_dict()[name].dtype == torch.float32
        assert torch.equal(again.state_dict()[name], value.half().float()), name


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No config\.json"):
        nn.load_encoder(tmp_path)
    nn.save_checkpoint(tmp_path, nn.Encoder(CONFIG))
    with pytest.raises(TypeError, match="an encoder without a head"):
        nn.load_masked_gene_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 41}))
    with pytest.raises(ValueError, match=r"word_embeddings.* shape \(40, 16\)"):
        nn.load_encoder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        nn.load_encoder(tmp_path)


def test_logits_at_chosen_positions_equal_all_logits():
    model = shaken(nn.MaskedGeneModel(CONFIG))
    where = torch.zeros_like(MASK)
    where[0, 1] = where[1, 2] = True
    torch.testing.assert_close(model(TOKENS, MASK, where=where), model(TOKENS, MASK)[where])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", "3"),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", True),
        ("hidden_size", 2**40),
        ("hidden_size", 16.0),
        ("intermediate_size", 10**12),
        ("max_position_embeddings", 10**12),
        ("max_position_embeddings", None),
        ("num_attention_heads", 0),
        ("type_vocab_size", 10**9),
        ("pad_token_id", -1),
        ("hidden_dropout_prob", 2.0),
        ("layer_norm_eps", float("nan")),
        ("pooling", "max"),
        ("positions", "none"),
        ("emb_layer", "last"),
        ("n_decoder_layers", 10**9),
        ("vocab_size", 10**9),
        ("vocab_size", ...),
    ],
    ids=str,
)
def test_sizes_that_no_model_has_are_refused_before_it_is_made(name, value, tmp_path):
    shape = {"n_layers": 1, "width": 8, "n_heads": 2, "feed_forward": 8, "max_length": 16}
    nn.save_checkpoint(tmp_path, nn.Encoder(nn.EncoderConfig(vocab_size=20, **shape)))
    config = json.loads((tmp_path / "config.json").read_text()) | {name: value}
    if value is ...:
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json does not describe a model that can be built"):
        nn.load_encoder(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 10**5, "{"], ids=["list", "number", "deep", "cut"])
def test_a_config_that_is_no_object_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not JSON, or is damaged"):
        nn.read_config(tmp_path)
