"""CellFM against a layer in NumPy, and laws that it must fulfil."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgeneformer.nn import CellFM, CellFMConfig, load_cellfm

from .test_mindspore import checkpoint

SHAPE = {"vocab_size": 32, "n_layers": 3, "width": 12, "n_heads": 3, "n_bins": 7}


@pytest.fixture(params=[False, True], ids=["800M", "80M"])
def model(request) -> CellFM:
    torch.manual_seed(0)
    model = CellFM(CellFMConfig(**SHAPE, totals=request.param)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        model.gene.weight[0] = 0
    return model.double()


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.permutation(np.arange(1, 30))[:9] for _ in range(2)])
    values = rng.gamma(2.0, size=tokens.shape)
    tokens[1, 6:], values[1, 6:] = 0, 0
    return torch.from_numpy(tokens), torch.from_numpy(values)


def weights_of(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def bins(w, name, v):
    h = leaky(v[:, None] * w[f"{name}.w1.weight"][:, 0])
    h = h @ w[f"{name}.w3.weight"].T + w[f"{name}.a"] * h
    p = np.exp(h - h.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) @ w[f"{name}.table.weight"].T


def norm(x, w, name):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-7) * w[f"{name}.weight"] + w[
        f"{name}.bias"
    ]


def layer(x, w, i, n_genes, n_heads, alpha, keys):
    """The layer for one cell without padding: x (n, H), keys (n,)."""
    b, d = f"blocks.{i}", x.shape[1] // n_heads
    q, k, v, u = (x @ w[f"{b}.retention.{name}.weight"].T for name in ("query", "key", "value", "gate"))
    q, k, v = np.maximum(q, 0) / np.sqrt(d), np.maximum(k, 0) / np.sqrt(d) * keys[:, None], v / np.sqrt(n_genes)
    out = []
    for h in range(n_heads):
        s = slice(h * d, (h + 1) * d)
        o = q[:, s] @ k[:, s].T @ v[:, s]  # the square matrix, which the model never makes
        o = o / np.maximum(np.linalg.norm(o, axis=1, keepdims=True) / np.sqrt(d), 1e-12)
        out.append(o * u[:, s] / (1 + np.exp(-u[:, s])))
    y = norm(alpha * x + np.hstack(out) @ w[f"{b}.retention.out.weight"].T, w, f"{b}.retention_norm")
    up, gate = (y @ w[f"{b}.feed_forward.{name}.weight"].T for name in ("up", "gate"))
    return norm(alpha * y + (up * gate) @ w[f"{b}.feed_forward.out.weight"].T, w, f"{b}.feed_forward_norm")


@pytest.mark.parametrize("hidden", [False, True])
def test_states_are_those_of_numpy(model, cells, hidden):
    tokens, values = cells
    visible = torch.ones_like(tokens, dtype=torch.bool)
    if hidden:
        visible[:, [1, 3]] = False
    totals = torch.tensor([[900.0, 1100.0], [400.0, 500.0]], dtype=torch.float64) if model.config.totals else None
    found = model(tokens, values=values, totals=totals, visible=visible if hidden else None)
    w, alpha = weights_of(model), 6**0.25
    for cell, length in ((0, 9), (1, 6)):
        t, v, seen = (part[cell, :length].numpy() for part in (tokens, values, visible))
        of_value = np.where(seen[:, None], bins(w, "value", v), w["hidden_value"][0])
        parts = [w["cls"][0]]
        if totals is not None:
            parts.append(w["total_kind"][0] + bins(w, "total", np.log1p(totals[cell].numpy() / 1000)))
        x = np.vstack([*parts, w["gene.weight"][t] + of_value])
        before = len(x) - length
        for i in range(3):
            keys = np.r_[np.ones(before), seen] if i < 1.5 else np.ones(len(x))
            x = layer(x, w, i, length, 3, alpha, keys)
        np.testing.assert_allclose(found[cell, : before + length].detach().numpy(), x, rtol=1e-9, atol=1e-9)


def test_order_padding_and_batch_do_not_matter(model, cells):
    tokens, values = cells
    whole = model(tokens, values=values)
    before = model.config.n_prefix
    order = torch.tensor([4, 0, 8, 2, 1, 7, 3, 6, 5])
    turned = model(tokens[:1, order], values=values[:1, order])
    torch.testing.assert_close(turned[:, before:], whole[:1, before:][:, order])
    torch.testing.assert_close(turned[:, 0], whole[:1, 0])
    alone = model(tokens[1:, :6], values=values[1:, :6])
    torch.testing.assert_close(alone, whole[1:, : before + 6])
    longer = torch.nn.functional.pad(tokens, (0, 5)), torch.nn.functional.pad(values, (0, 5))
    torch.testing.assert_close(model(longer[0], longer[0] > 0, values=longer[1])[:, : before + 9], whole)


def test_the_scale_of_keys_does_not_matter(model, cells):
    """Outputs of heads are brought to one length, so that factors of queries and keys cancel."""
    tokens, values = cells
    before = model(tokens, values=values)
    with torch.no_grad():
        for block in model.blocks:
            block.retention.key.weight.mul_(3.0)
    torch.testing.assert_close(model(tokens, values=values), before)


def test_layers_stop_where_asked_and_gradients_are_those_of_differences(model, cells):
    tokens, values = cells
    assert model(tokens, values=values, n_layers=0, positions=slice(0, 1)).shape == (2, 1, 12)
    values = values.clone().requires_grad_()

    def of_cell(v):
        return model(tokens, values=v)[:, 0].square().sum()

    assert torch.autograd.gradcheck(of_cell, (values + 0.1,), atol=1e-5)
    model.checkpoint_activations = True
    of_cell(values).backward()
    again = values.grad.clone()
    model.checkpoint_activations = False
    values.grad = None
    of_cell(values).backward()
    torch.testing.assert_close(again, values.grad)


def test_constants_of_the_published_models():
    for n_layers, alpha, beta in ((40, 2.9907, 0.2364), (2, 1.4142, 0.5)):
        config = CellFMConfig(vocab_size=8, n_layers=n_layers, width=8, n_heads=2)
        assert config.residual_scale == pytest.approx(alpha, abs=1e-4)
        assert config.initial_gain == pytest.approx(beta, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "n_weights"),
    [
        ({"vocab_size": 24_080, "n_layers": 40}, 797.4e6),
        ({"vocab_size": 27_856, "n_layers": 2, "totals": True}, 86.2e6),
    ],
    ids=["800M", "80M"],
)
def test_numbers_of_parameters(shape, n_weights):
    with torch.device("meta"):
        model = CellFM(CellFMConfig(**shape, width=1536, n_heads=48))
    decoders = 2 * 1536**2 + 1536  # of values, which an encoder does without
    assert sum(p.numel() for p in model.parameters()) + decoders == pytest.approx(n_weights, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"n_layers": 9}, "outside 0 to 3"),
        ({"values": torch.ones(2, 3)}, "a value belongs to each gene"),
    ],
)
def test_calls_that_cannot_be(model, cells, call, message):
    tokens, values = cells
    with pytest.raises(ValueError, match=message):
        model(tokens, **{"values": values} | call)


def theirs(model):
    """Weights by the names of the original, from a table written here by hand."""
    names = {
        "gene.weight": "gene_emb", "cls": "cls_token", "hidden_value": "value_enc.mask_emb",
        "total_kind": "ST_emb",
    }  # fmt: skip
    out = {}
    for name, value in model.state_dict().items():
        if name in names:
            new = names[name]
        elif name.startswith("value."):
            new = name.replace("value.", "value_enc.value_enc.", 1)
        elif name.startswith("total."):
            new = name.replace("total.", "ST_enc.", 1)
        else:
            new = name.replace("blocks.", "encoder.", 1)
            for ours, other in (
                ("retention_norm.weight", "post_norm1.gamma"), ("retention_norm.bias", "post_norm1.beta"),
                ("feed_forward_norm.weight", "post_norm2.gamma"), ("feed_forward_norm.bias", "post_norm2.beta"),
                ("feed_forward.up", "ffn.u_proj"), ("feed_forward.gate", "ffn.v_proj"), ("feed_forward.out", "ffn.o_proj"),
                ("retention.query", "attn.q_proj"), ("retention.key", "attn.k_proj"), ("retention.value", "attn.v_proj"),
                ("retention.gate", "attn.u_proj"), ("retention.out", "attn.o_proj"),
            ):  # fmt: skip
                new = new.replace(ours, other)
        out[new] = value.float().numpy()
    return out


def test_a_checkpoint_of_the_original_is_read(model, cells, tmp_path):
    stored = theirs(model) | {"moment1.gene_emb": np.zeros(3, "f4"), "global_step": np.array([7], "i4")}
    (tmp_path / "a.ckpt").write_bytes(checkpoint(stored))
    loaded = load_cellfm(tmp_path / "a.ckpt", 31, head_width=4)
    assert loaded.config == model.config
    tokens, values = cells
    torch.testing.assert_close(
        loaded(tokens, values=values.float()), model.float()(tokens, values=values.float()), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "n_genes", "error", "message"),
    [
        ({}, 40, ValueError, "a table of 32 rows, and 40 genes need 48"),
        ({"cls_token": None}, 31, KeyError, "no weights 'cls_token'"),
        ({"encoder.1.attn.q_proj.weight": np.zeros((12, 11), "f4")}, 31, ValueError, "have shape"),
        ({"encoder.1.attn.q_proj.weight": np.full((12, 12), np.nan, "f4")}, 31, ValueError, "finite"),
        ({"gene_emb": None}, 31, ValueError, "it is no CellFM"),
    ],
)
def test_checkpoints_that_are_refused(model, tmp_path, change, n_genes, error, message):
    stored = {name: value for name, value in (theirs(model) | change).items() if value is not None}
    (tmp_path / "a.ckpt").write_bytes(checkpoint(stored))
    with pytest.raises(error, match=message):
        load_cellfm(tmp_path / "a.ckpt", n_genes, head_width=4)
