"""CellFM against a layer in NumPy, and properties that it must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgeneformer.nn import CellClassifier, CellFM, CellFMConfig, load_cellfm

from .test_mindspore import checkpoint

SHAPE = {"vocab_size": 32, "n_layers": 3, "width": 12, "n_heads": 3, "n_bins": 7}


@pytest.fixture(params=[False, True], ids=["800M", "80M"])
def model(request) -> CellFM:
    torch.manual_seed(0)
    model = CellFM(CellFMConfig(**SHAPE, totals=request.param)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        model.embedding.gene.weight[0] = 0
    return model.double()


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, mask and values of a cell of nine genes and one of six, each behind <cls>."""
    rng = np.random.default_rng(0)
    tokens = np.stack([np.r_[2, rng.permutation(np.arange(3, 30))[:9]] for _ in range(2)])
    values = rng.gamma(2.0, size=tokens.shape)
    tokens[1, 7:], values[1, 7:] = 0, 0
    tokens = torch.from_numpy(tokens)
    return tokens, tokens > 0, torch.from_numpy(values)


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
    tokens, mask, values = cells
    visible = torch.ones_like(mask)
    if hidden:
        visible[:, [2, 4]] = False
    found = model(tokens, mask, values=values, visible=visible if hidden else None)
    w, alpha = weights_of(model), 6**0.25
    for cell, n_genes in ((0, 9), (1, 6)):
        genes = slice(1, 1 + n_genes)
        t, v, seen = (part[cell, genes].numpy() for part in (tokens, values, visible))
        of_value = np.where(seen[:, None], bins(w, "embedding.value", v), w["embedding.hidden_value"][0])
        parts = [w["embedding.gene.weight"][2]]
        if model.config.totals:  # two tokens for the number of counts, which stands at <cls>
            parts.insert(
                0, w["embedding.total_kind"][0] + bins(w, "embedding.total", np.repeat(values[cell, 0].numpy(), 2))
            )
        x = np.vstack([*parts, w["embedding.gene.weight"][t] + of_value])
        before = len(x) - n_genes
        for i in range(3):
            keys = np.r_[np.ones(before), seen] if i < 1.5 else np.ones(len(x))
            x = layer(x, w, i, n_genes, 3, alpha, keys)
        np.testing.assert_allclose(found[cell, : 1 + n_genes].detach().numpy(), x[before - 1 :], rtol=1e-9, atol=1e-9)


def test_order_padding_and_batch_do_not_matter(model, cells):
    tokens, mask, values = cells
    whole = model(tokens, mask, values=values)
    order = torch.tensor([0, 5, 1, 9, 3, 2, 8, 4, 7, 6])
    turned = model(tokens[:1, order], values=values[:1, order])
    torch.testing.assert_close(turned, whole[:1, order])
    alone = model(tokens[1:, :7], values=values[1:, :7])
    torch.testing.assert_close(alone, whole[1:, :7])
    longer = [torch.nn.functional.pad(part, (0, 5)) for part in cells]
    torch.testing.assert_close(model(longer[0], longer[1], values=longer[2])[:, :10], whole)


def test_the_scale_of_keys_does_not_matter(model, cells):
    """Outputs of heads are normalised to the same length, so factors of queries and keys cancel."""
    tokens, mask, values = cells
    before = model(tokens, mask, values=values)
    with torch.no_grad():
        for block in model.blocks:
            block.retention.key.weight.mul_(3.0)
    torch.testing.assert_close(model(tokens, mask, values=values), before)


def test_the_depth_of_a_cell_is_read_where_the_model_has_tokens_for_it(model, cells):
    tokens, mask, values = cells
    deeper = values.clone()
    deeper[:, 0] += 1
    same = torch.equal(model(tokens, mask, values=deeper), model(tokens, mask, values=values))
    assert same == (not model.config.totals)


def test_layers_stop_where_asked_and_gradients_are_those_of_differences(model, cells):
    tokens, mask, values = cells
    assert model(tokens, mask, values=values, n_layers=0, positions=slice(0, 1)).shape == (2, 1, 12)
    values = values.clone().requires_grad_()

    def of_cell(v):
        return model(tokens, mask, values=v)[:, 0].square().sum()

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
        ({"vocab_size": 24_078 + 3, "n_layers": 40}, 797.4e6),
        ({"vocab_size": 27_855 + 3, "n_layers": 2, "totals": True}, 86.2e6),
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
        ({"values": torch.ones(2, 3)}, "each gene needs a value"),
    ],
)
def test_calls_that_cannot_be(model, cells, call, message):
    tokens, mask, values = cells
    with pytest.raises(ValueError, match=message):
        model(tokens, mask, **{"values": values} | call)


def theirs(model):
    """Weights by the names of the original, from a table written here by hand."""
    names = {
        "embedding.hidden_value": "value_enc.mask_emb",
        "embedding.total_kind": "ST_emb",
    }
    genes = model.embedding.gene.weight.detach().float().numpy()
    table = np.random.default_rng(0).normal(size=(-(-(len(genes) - 2) // 8) * 8, genes.shape[1])).astype("f4")
    table[1 : len(genes) - 2] = genes[
        3:
    ]  # row 0 is padding, the last rows fill up to a multiple of 8, and both have numbers
    out = {"gene_emb": table, "cls_token": genes[2][None, None]}
    for name, value in model.state_dict().items():
        if name == "embedding.gene.weight":
            continue
        if name in names:
            new = names[name]
        elif name.startswith("embedding.value."):
            new = name.replace("embedding.value.", "value_enc.value_enc.", 1)
        elif name.startswith("embedding.total."):
            new = name.replace("embedding.total.", "ST_enc.", 1)
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
    loaded = load_cellfm(tmp_path / "a.ckpt", 29, head_width=4)
    assert loaded.config == model.config
    tokens, mask, values = cells
    found, expected = (m(tokens, mask, values=values.float()) for m in (loaded, model.float()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_folder_of_ours_is_read_back(model, cells, tmp_path):
    from scgeneformer.nn import load_backbone, load_cell_classifier, save_checkpoint

    tokens, mask, values = cells
    save_checkpoint(tmp_path / "cellfm", model.float())
    loaded = load_backbone(tmp_path / "cellfm")
    assert (type(loaded), loaded.config) == (CellFM, model.config)
    values = values.float()
    assert torch.equal(loaded(tokens, mask, values=values), model(tokens, mask, values=values))
    classifier = CellClassifier(model.config, n_outputs=2).eval()
    save_checkpoint(tmp_path / "classifier", classifier)
    again = load_cell_classifier(tmp_path / "classifier")
    assert torch.equal(again(tokens, mask, values=values), classifier(tokens, mask, values=values))


@pytest.mark.parametrize(
    ("change", "n_genes", "error", "message"),
    [
        ({}, 40, ValueError, "a table of 32 rows, but 40 genes need 48"),
        ({"cls_token": None}, 31, KeyError, "no weights 'cls_token'"),
        ({"cls_token": np.zeros((1, 1, 5), "f4")}, 31, KeyError, "'cls_token' of 12 numbers"),
        ({"encoder.1.attn.q_proj.weight": np.zeros((12, 11), "f4")}, 31, ValueError, "have shape"),
        ({"encoder.1.attn.q_proj.weight": np.full((12, 12), np.nan, "f4")}, 31, ValueError, "finite"),
        ({"gene_emb": None}, 31, ValueError, "it is not a CellFM"),
    ],
)
def test_checkpoints_that_are_refused(model, tmp_path, change, n_genes, error, message):
    stored = {name: value for name, value in (theirs(model) | change).items() if value is not None}
    (tmp_path / "a.ckpt").write_bytes(checkpoint(stored))
    with pytest.raises(error, match=message):
        load_cellfm(tmp_path / "a.ckpt", n_genes, head_width=4)
