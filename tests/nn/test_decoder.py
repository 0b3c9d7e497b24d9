"""The encoder-decoder against torch's own transformer, and the tokens to which a decoder must not attend."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scgeneformer import nn

CONFIG = nn.EncoderConfig(
    vocab_size=40,
    n_layers=2,
    n_decoder_layers=3,
    width=16,
    n_heads=4,
    feed_forward=24,
    max_length=12,
    dropout=0.1,
    attention_dropout=0.1,
    layer_norm_eps=1e-5,
    positions="sinusoidal",
)
LENGTHS = torch.tensor([12, 7, 1, 10])
MASK = torch.arange(12) < LENGTHS[:, None]
GENERATOR = torch.Generator().manual_seed(0)
ORIGINAL = torch.randint(2, 40, (4, 12), generator=GENERATOR) * MASK
HIDDEN = torch.where(torch.rand(4, 12, generator=GENERATOR) < 0.3, 1, ORIGINAL) * MASK


def shaken(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn_like(p))
    return model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return shaken(nn.EncoderDecoder(CONFIG)).eval()


def plain_attention(target, ours):
    for kind in ("weight", "bias"):
        parts = [getattr(getattr(ours, name), kind) for name in ("query", "key", "value")]
        getattr(target, f"in_proj_{kind}").copy_(torch.cat(parts))
        getattr(target.out_proj, kind).copy_(getattr(ours.out, kind))


def plain_layer(target, ours):
    plain_attention(target.self_attn, ours.attention)
    pairs = [(target.linear1, ours.feed_forward.up), (target.linear2, ours.feed_forward.down)]
    norms = [ours.attention_norm, ours.feed_forward_norm]
    if hasattr(ours, "cross_attention"):
        plain_attention(target.multihead_attn, ours.cross_attention)
        norms.insert(1, ours.cross_attention_norm)
    pairs += [(getattr(target, f"norm{i + 1}"), norm) for i, norm in enumerate(norms)]
    for theirs, mine in pairs:
        theirs.weight.copy_(mine.weight)
        theirs.bias.copy_(mine.bias)


def plain_transformer(model):
    """torch's transformer with the weights of ours; it adds a norm on top of each half, which ours ends with already."""
    config = model.config
    plain = torch.nn.Transformer(
        config.width,
        config.n_heads,
        config.n_layers,
        config.n_decoder_layers,
        config.feed_forward,
        dropout=0.0,
        batch_first=True,
        norm_first=False,
    )
    plain.encoder.norm = plain.decoder.norm = None
    with torch.no_grad():
        for theirs, ours in zip(plain.encoder.layers, model.encoder.blocks, strict=True):
            plain_layer(theirs, ours)
        for theirs, ours in zip(plain.decoder.layers, model.decoder, strict=True):
            plain_layer(theirs, ours)
    return plain


def gradients_by_plain_name(model):
    """Our gradients of attention and feed-forward, under the names of torch's transformer."""
    found = {}
    for half, blocks in (("encoder", model.encoder.blocks), ("decoder", model.decoder)):
        for i, block in enumerate(blocks):
            at = f"{half}.layers.{i}"
            attentions = {"self_attn": block.attention}
            norms = [block.attention_norm, block.feed_forward_norm]
            if half == "decoder":
                attentions["multihead_attn"] = block.cross_attention
                norms.insert(1, block.cross_attention_norm)
            parts = {"linear1": block.feed_forward.up, "linear2": block.feed_forward.down}
            parts |= {f"norm{k + 1}": norm for k, norm in enumerate(norms)}
            parts |= {f"{name}.out_proj": attention.out for name, attention in attentions.items()}
            for name, layer in parts.items():
                found |= {f"{at}.{name}.{kind}": getattr(layer, kind).grad for kind in ("weight", "bias")}
            for name, a in attentions.items():
                for kind in ("weight", "bias"):
                    grads = [getattr(layer, kind).grad for layer in (a.query, a.key, a.value)]
                    found[f"{at}.{name}.in_proj_{kind}"] = torch.cat(grads)
    return found


def test_loss_and_gradients_equal_torchs_transformer(model):
    loss = model.errors(model(HIDDEN, MASK, ORIGINAL)[MASK], ORIGINAL[MASK])[0] / MASK.sum()
    loss.backward()

    plain = plain_transformer(model)
    gene, segment = (
        layer.weight.detach().clone().requires_grad_()
        for layer in (model.encoder.embedding.gene, model.encoder.embedding.segment)
    )
    norm = torch.nn.LayerNorm(16, eps=1e-5)
    norm.load_state_dict(model.encoder.embedding.norm.state_dict())
    bias = model.bias.detach().clone().requires_grad_()

    def embed(tokens):
        return norm(F.embedding(tokens, gene, padding_idx=0) + model.encoder.embedding.position.weight + segment[0])

    shifted = torch.cat([torch.zeros(4, 1, dtype=torch.int64), ORIGINAL[:, :-1]], 1)
    out = plain(
        embed(HIDDEN),
        embed(shifted),
        tgt_mask=torch.triu(torch.ones(12, 12, dtype=torch.bool), 1),
        src_key_padding_mask=~MASK,
        memory_key_padding_mask=~MASK,
    )
    targets = torch.where(MASK, ORIGINAL, -100)
    expected = F.cross_entropy((out @ gene.T + bias).flatten(0, 1), targets.flatten())
    expected.backward()

    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    found = gradients_by_plain_name(model)
    theirs = dict(plain.named_parameters())
    assert set(found) == set(theirs)
    found |= {"gene": model.encoder.embedding.gene.weight.grad, "segment": model.encoder.embedding.segment.weight.grad}
    found |= {"norm": model.encoder.embedding.norm.weight.grad, "bias": model.bias.grad}
    theirs |= {"gene": gene, "segment": segment, "norm": norm.weight, "bias": bias}
    for name, parameter in theirs.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-5, msg=name)
    assert sum(grad.abs().max() > 1e-3 for grad in found.values()) > 0.9 * len(found)  # the comparison is not of zeros


@pytest.mark.parametrize("place", [0, 3, 11])
def test_a_state_knows_the_tokens_before_it_only(model, place):
    other = ORIGINAL.clone()
    other[:, place] = 39
    before, after = model(HIDDEN, MASK, ORIGINAL), model(HIDDEN, MASK, other)
    torch.testing.assert_close(before[:, : place + 1], after[:, : place + 1], rtol=0, atol=2e-6)
    if place < 11:
        assert (before[0, place + 1 :] - after[0, place + 1 :]).abs().amax(-1).min() > 1e-3


def test_padding_and_neighbours_do_not_matter(model):
    behind = torch.where(MASK, ORIGINAL, 17)
    together, shifted = model(HIDDEN, MASK, ORIGINAL), model(torch.where(MASK, HIDDEN, 5), MASK, behind)
    torch.testing.assert_close(together[MASK], shifted[MASK], rtol=0, atol=2e-6)
    for i, n in enumerate(LENGTHS):
        alone = model(HIDDEN[i : i + 1, :n], None, ORIGINAL[i : i + 1, :n])
        torch.testing.assert_close(together[i, :n], alone[0], rtol=0, atol=2e-6)


def test_hidden_genes_reach_the_decoder_through_the_encoder(model):
    assert (model(HIDDEN, MASK, ORIGINAL) - model(ORIGINAL, MASK, ORIGINAL))[0].abs().max() > 1e-3


@pytest.mark.parametrize("training", [False, True])
def test_activations_computed_again_change_nothing(model, training):
    model.train(training)
    results = []
    for again in (False, True):
        model.encoder.checkpoint_activations = again
        model.zero_grad()
        torch.manual_seed(5)
        loss = model.errors(model(HIDDEN, MASK, ORIGINAL)[MASK], ORIGINAL[MASK])[0]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_encoder_does_not_know_of_a_decoder(model):
    assert model.encoder.config.n_decoder_layers == 0
    with torch.no_grad():
        alone = nn.Encoder(CONFIG).eval()
        alone.load_state_dict(model.encoder.state_dict())
        assert torch.equal(alone(HIDDEN, MASK), model.encoder(HIDDEN, MASK))
