"""The decoder against recorded numbers, against Hugging Face's LLaMA, and against a slow computation."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scgeneformer import nn
from scgeneformer.nn._llama import frequencies
from scgeneformer.nn.checkpoints._layouts import names_of

MHA = nn.LlamaConfig(
    vocab_size=50, n_layers=3, width=28, n_heads=2, n_kv_heads=2, head_width=14, feed_forward=56, max_length=64
)
GQA = replace(MHA, n_heads=4, n_kv_heads=2, head_width=12, norm_eps=1e-5, rope_theta=500_000.0)
CONFIGS = {
    "217M": MHA,  # its odd number of pairs of channels too
    "1B": replace(GQA, rope_scaling=nn.RopeScaling(factor=1.0, original_length=4096)),
    "scaled": replace(GQA, rope_theta=10_000.0, rope_scaling=nn.RopeScaling(factor=4.0, original_length=16)),
}
PUBLISHED = {
    "217M": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "hidden_act": "silu",
        "hidden_size": 1232,
        "initializer_range": 0.02,
        "intermediate_size": 2464,
        "max_position_embeddings": 4096,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 8,
        "num_hidden_layers": 11,
        "num_key_value_heads": 8,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.44.2",
        "use_cache": True,
        "vocab_size": 20275,
    }
}
PUBLISHED["1B"] = {name: value for name, value in PUBLISHED["217M"].items() if name != "pad_token_id"} | {
    "head_dim": 144,
    "hidden_size": 2304,
    "intermediate_size": 4608,
    "num_attention_heads": 16,
    "num_hidden_layers": 20,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 1.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "llama3",
    },
    "rope_theta": 500000,
    "transformers_version": "4.53.3",
}
SHA256 = {  # of the published config.json
    "217M": "a4effbdf27969b7cc4d6cce34fc24b3f2134886946a19e7999c3ebd08babf9bd",
    "1B": "23358e6663b32e796dec2818a1d9cff97eb9e150d259850ba26b1bf2144eba9e",
}
WEIGHTS = {"217M": (216_946_576, 867_797_760), "1B": (1_049_036_544, 4_196_167_128)}  # parameters, bytes of the file


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Move every weight, so that swapped names are noticed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    tokens = torch.randint(2, 50, (5, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(40) < torch.tensor([40, 17, 3, 1, 22])[:, None]
    return tokens * mask, mask


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read_and_written(name):
    published = PUBLISHED[name]
    text = json.dumps(published, indent=2, sort_keys=True) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256[name]
    config = nn.LlamaConfig.from_hf(published)
    written = config.to_hf()
    assert nn.LlamaConfig.from_hf(written) == config
    assert {key: written[key] for key in published if key in written} == {
        key: published[key] for key in published if key in written
    }
    assert config.pad_id == 0
    assert config.head_width == {"217M": 154, "1B": 144}[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_give_the_published_file_to_the_byte(name):
    with torch.device("meta"):
        model = nn.NextGeneModel(nn.LlamaConfig.from_hf(PUBLISHED[name]))
    theirs = names_of(model)
    shapes = {theirs[ours]: list(value.shape) for ours, value in model.state_dict().items()}
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for tensor in sorted(shapes):
        stop = start + 4 * math.prod(shapes[tensor])
        header[tensor] = {"dtype": "F32", "shape": shapes[tensor], "data_offsets": [start, stop]}
        start = stop
    length = len(json.dumps(header, separators=(",", ":")))
    assert (sum(p.numel() for p in model.parameters()), 8 + -(-length // 8) * 8 + start) == WEIGHTS[name]


@pytest.mark.parametrize(
    ("name", "factor", "expected", "total"),
    [
        ("217M", None, {10: 0.302356619, 40: 0.00835752957, 60: 7.64041385e-4, 76: 1.12706263e-4}, 8.869247288),
        ("217M", 4.0, {60: 1.91010346e-4}, 8.845837404),
        ("217M", 8.0, {}, 8.841935757),
        ("1B", None, {10: 0.161613036, 40: 6.82190321e-4, 60: 1.78179744e-5}, 6.001984023),
        ("1B", 4.0, {40: 1.7054758e-4}, 5.986277491),
        ("1B", 8.0, {}, 5.983659736),
    ],
)
def test_rotary_frequencies_of_the_published_sizes(name, factor, expected, total):
    config = nn.LlamaConfig.from_hf(PUBLISHED[name])
    scaling = None if factor is None else nn.RopeScaling(factor=factor, original_length=4096)
    found = frequencies(replace(config, rope_scaling=scaling)).double()
    for i, value in expected.items():
        assert float(found[i]) == pytest.approx(value, rel=2e-6)
    assert float(found.sum()) == pytest.approx(total, rel=2e-6)


def sine_weights(names, shapes):
    """Weights by the formula of the recorded numbers."""
    weights = {}
    for place, name in enumerate(sorted(names)):
        i = np.arange(1, math.prod(shapes[name]) + 1)
        wave = np.sin(0.37 * i + 0.1 * place).reshape(shapes[name])
        values = 0.1 * wave + 1 if wave.ndim == 1 else 0.08 * wave
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


@pytest.mark.parametrize("case", ["mha_217m_like", "gqa_1b_like", "gqa_llama3_factor4_old16"])
def test_recorded_numbers(shared, case):
    record = json.loads((shared / "reference" / "maxtoki_oracle.json").read_text())
    recorded, tokens = record["cases"][case], torch.tensor([record["input_ids"]])
    config = nn.LlamaConfig.from_hf(recorded["config"] | {"model_type": "llama"})
    model = nn.NextGeneModel(config).eval()
    theirs, state = names_of(model), model.state_dict()
    assert sorted(theirs.values()) == sorted(recorded["names"])
    weights = sine_weights(theirs.values(), {theirs[ours]: value.shape for ours, value in state.items()})
    model.load_state_dict({ours: weights[theirs[ours]] for ours in state})
    with torch.inference_mode():
        last, first, logits = model.encoder(tokens)[0], model.encoder(tokens, n_layers=1)[0], model(tokens)[0]
    for found, name in (
        (frequencies(config), "inv_freq"),
        (last[:, :4], "hidden_last_first4"),
        (first[:, :4], "hidden_layer1_first4"),
        (logits[:, :6], "logits_first6"),
        (logits[:-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0], "next_token_loglik"),
        (last[1:-1].mean(0)[:4], "mean_pool_genes_first4"),
    ):
        np.testing.assert_allclose(found.numpy(), np.array(recorded[name]), rtol=0, atol=3e-6, err_msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_states_and_scores_equal_hugging_face(name, batch, tmp_path):
    from transformers import LlamaForCausalLM

    tokens, mask = batch
    ours = shaken(nn.NextGeneModel(CONFIGS[name]))
    nn.save_checkpoint(tmp_path, ours)
    theirs, info = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.inference_mode():
        expected = theirs.eval()(tokens, attention_mask=mask.long(), output_hidden_states=True)
        torch.testing.assert_close(ours(tokens, mask)[mask], expected.logits[mask], rtol=0, atol=1e-5)
        for n_layers, states in enumerate(expected.hidden_states):
            found = ours.encoder(tokens, mask, n_layers=n_layers)
            torch.testing.assert_close(found[mask], states[mask], rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")  # as transformers 5 writes it
    again = nn.load_next_gene_model(tmp_path / "theirs")
    assert again.encoder.config == CONFIGS[name]
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


def test_the_width_of_a_published_model(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "vocab_size": 200}
    theirs = LlamaForCausalLM(LlamaConfig(**(PUBLISHED["217M"] | sizes))).eval()
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(4, 200, (1, 300), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs(tokens).logits
        torch.testing.assert_close(nn.load_next_gene_model(tmp_path)(tokens), expected, rtol=0, atol=1e-5)


def test_padding_and_neighbours_do_not_matter(batch):
    tokens, mask = batch
    model = shaken(nn.Llama(CONFIGS["scaled"]))
    together = model(tokens, mask)
    torch.testing.assert_close(model(tokens), together)  # nothing looks at padding
    for i, row in enumerate(mask):
        torch.testing.assert_close(together[i, row], model(tokens[i : i + 1, row])[0], rtol=0, atol=5e-6)
    torch.testing.assert_close(model(tokens, mask, positions=slice(0, 1)), together[:, :1])
    with pytest.raises(ValueError, match="padding on the right"):
        model(tokens, mask.flip(1))


def test_states_depend_on_the_tokens_before_only(batch):
    tokens, _ = batch
    model = shaken(nn.Llama(GQA))
    changed = tokens[:1].clone()
    changed[0, 20:] = changed[0, 20:].flip(0)
    before, after = model(tokens[:1]), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])


def test_only_differences_of_ranks_matter(batch):
    tokens, _ = batch
    model = shaken(nn.Llama(MHA))
    ranks = torch.arange(40)[None]
    torch.testing.assert_close(model(tokens[:1], ranks=ranks + 20), model(tokens[:1]), rtol=0, atol=5e-6)
    gap = torch.where(ranks < 20, ranks, ranks + 1)
    assert torch.equal(model(tokens[:1], ranks=gap)[:, :20], model(tokens[:1])[:, :20])
    assert not torch.allclose(model(tokens[:1], ranks=gap)[:, 20:], model(tokens[:1])[:, 20:], atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_reading_one_token_after_the_other_equals_reading_all(name, batch):
    tokens, _ = batch
    model = shaken(nn.NextGeneModel(CONFIGS[name]))
    cache = nn.Cache(3)
    with torch.inference_mode():
        parts = [model(tokens[:2, :7], cache=cache)]
        parts += [model(tokens[:2, i : i + 1], cache=cache) for i in range(7, 40)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens[:2]), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="one token at a time"):
        model(tokens[:2, :2], cache=cache)


def test_bad_shapes_are_refused():
    for change, message in (
        ({"n_kv_heads": 3}, "multiple of n_kv_heads"),
        ({"head_width": 7}, "head_width=7 must be even"),
        ({"vocab_size": 70_000}, "vocab_size=70,000 is more than 65,536"),
        ({"n_layers": 1001}, "more than 1,000"),
        ({"feed_forward": 10**12}, "weights, more than"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"norm_eps": float("nan")}, "norm_eps"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(GQA, **change)
    with pytest.raises(ValueError, match="factor >= 1"):
        nn.RopeScaling(factor=0.5, original_length=16)
    with pytest.raises(TypeError, match="n_layers"):
        replace(GQA, n_layers="3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "Expected a LLaMA"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"rope_scaling": "llama3"}, "must be a dict"),
        ({"num_attention_heads": "8"}, "n_heads"),
    ],
)
def test_configs_of_other_networks_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        nn.LlamaConfig.from_hf(PUBLISHED["217M"] | change)


def test_the_two_ways_to_write_rotary_positions():
    expected = nn.LlamaConfig.from_hf(PUBLISHED["1B"])
    rope = PUBLISHED["1B"]["rope_scaling"] | {"rope_theta": 500_000.0}
    newer = {name: value for name, value in PUBLISHED["1B"].items() if not name.startswith("rope")}
    assert nn.LlamaConfig.from_hf(newer | {"rope_parameters": rope}) == expected
    older = {name: value for name, value in rope.items() if name not in ("rope_type", "rope_theta")} | {
        "type": "llama3"
    }
    assert nn.LlamaConfig.from_hf(PUBLISHED["1B"] | {"rope_scaling": older}) == expected


def test_folders_of_another_backbone_are_refused(tmp_path):
    nn.save_checkpoint(tmp_path / "llama", nn.NextGeneModel(GQA))
    bert = nn.EncoderConfig(vocab_size=40, n_layers=2, width=16, n_heads=2, feed_forward=20, max_length=12)
    nn.save_checkpoint(tmp_path / "bert", nn.MaskedGeneModel(bert))
    with pytest.raises(TypeError, match="scores of the next gene.*not a model with a masked-gene head"):
        nn.load_masked_gene_model(tmp_path / "llama")
    with pytest.raises(TypeError, match="masked-gene head.*not a decoder with scores of the next gene"):
        nn.load_next_gene_model(tmp_path / "bert")
    assert isinstance(nn.load_backbone(tmp_path / "llama"), nn.Llama)
    assert isinstance(nn.load_backbone(tmp_path / "bert"), nn.Encoder)
    nn.save_checkpoint(tmp_path / "bare", nn.load_backbone(tmp_path / "llama"))
    assert torch.equal(
        nn.load_backbone(tmp_path / "bare").token_vectors, nn.load_backbone(tmp_path / "llama").token_vectors
    )
    with pytest.raises(TypeError, match="without scores of genes"):
        nn.load_next_gene_model(tmp_path / "bare")
    nn.add_to_config(tmp_path / "llama", {"num_key_value_heads": 4})
    with pytest.raises(ValueError, match=r"k_proj.*shape"):
        nn.load_next_gene_model(tmp_path / "llama")


@pytest.mark.parametrize("head", ["linear", "bert"])
@pytest.mark.parametrize("pooling", ["mean", "eos", "attention", None], ids=str)
def test_classifiers_go_to_files_and_are_decoders_to_others(tmp_path, batch, pooling, head):
    from transformers import LlamaModel

    tokens, mask = batch
    config = replace(CONFIGS["scaled"], dropout=0.1)
    made = nn.GeneClassifier(config, 3, head) if pooling is None else nn.CellClassifier(config, 3, pooling, 4, head)
    ours = shaken(made)
    nn.save_checkpoint(tmp_path, ours)
    again = (nn.load_gene_classifier if pooling is None else nn.load_cell_classifier)(tmp_path)
    assert again.encoder.config == config
    with torch.inference_mode():
        assert torch.equal(again(tokens, mask), ours(tokens, mask))
        if pooling == "eos":
            ends = mask.sum(1) - 1
            assert torch.equal(ours.pooled(tokens, mask), ours.encoder(tokens, mask)[torch.arange(5), ends])
        theirs, info = LlamaModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        expected = theirs.eval()(tokens, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(ours.encoder(tokens, mask)[mask], expected[mask], rtol=0, atol=1e-5)
    with pytest.raises(TypeError, match="not a decoder with scores of the next gene"):
        nn.load_next_gene_model(tmp_path)


def test_the_first_token_is_no_readout_and_adapters_are_for_encoders():
    with pytest.raises(ValueError, match=r"pooling='cls' is not one of \('mean', 'eos', 'attention'\)"):
        nn.CellClassifier(GQA, 3)
    model = nn.CellClassifier(GQA, 3, "mean", 4)
    with pytest.raises(ValueError, match="LoRA needs low-rank adapters, but this model is a LLaMA decoder"):
        nn.add_lora(model)
    assert all(p.requires_grad for p in model.parameters())


def test_activations_computed_again_change_nothing(batch):
    tokens, mask = batch
    model = shaken(nn.Llama(GQA)).train()
    results = []
    for again in (False, True):
        model.checkpoint_activations = again
        model.zero_grad()
        states = model(tokens, mask)
        states.pow(3).sum().backward()
        results.append([states.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
