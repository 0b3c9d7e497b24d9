"""CellFM from the checkpoint that its authors distribute."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from scgeneformer.nn._weights import checked
from scgeneformer.nn.retention import CellFM, CellFMConfig
from scgeneformer.nn.retention._cellfm import N_SPECIAL

from ._layouts import renamed
from ._mindspore import read_mindspore

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# ours -> theirs, see `renamed`
_NAMES = {
    "embedding.value.": "value_enc.value_enc.",
    "embedding.hidden_value": "value_enc.mask_emb",
    "embedding.total.": "ST_enc.",
    "embedding.total_kind": "ST_emb",
    "blocks.{}.retention.query.": "encoder.{}.attn.q_proj.",
    "blocks.{}.retention.key.": "encoder.{}.attn.k_proj.",
    "blocks.{}.retention.value.": "encoder.{}.attn.v_proj.",
    "blocks.{}.retention.gate.": "encoder.{}.attn.u_proj.",
    "blocks.{}.retention.out.": "encoder.{}.attn.o_proj.",
    "blocks.{}.retention_norm.weight": "encoder.{}.post_norm1.gamma",
    "blocks.{}.retention_norm.bias": "encoder.{}.post_norm1.beta",
    "blocks.{}.feed_forward.up.": "encoder.{}.ffn.u_proj.",
    "blocks.{}.feed_forward.gate.": "encoder.{}.ffn.v_proj.",
    "blocks.{}.feed_forward.out.": "encoder.{}.ffn.o_proj.",
    "blocks.{}.feed_forward_norm.weight": "encoder.{}.post_norm2.gamma",
    "blocks.{}.feed_forward_norm.bias": "encoder.{}.post_norm2.beta",
}
_LAYER = re.compile(r"encoder\.(\d+)\.")
HEAD_WIDTH = 32  # of both published models


def load_cellfm(path: str | Path, n_genes: int, *, head_width: int = HEAD_WIDTH) -> CellFM:
    """Load the encoder of a CellFM checkpoint, in evaluation mode and float32.

    The weights are their authors' (CC BY-NC-ND 4.0: not for commercial use, and not to be passed on, converted or not); this package has none of them.

    Parameters
    ----------
    path
        The ``.ckpt`` file of MindSpore.
    n_genes
        Number of genes of the list that belongs to it, which fixes the rows of the table.
    head_width
        Dimension of a head, which the file does not tell.

    Raises
    ------
    KeyError
        If weights are missing.
    ValueError
        If the file is damaged, weights have other shapes than the model's, are not finite, or the list of genes has another length.

    Examples
    --------
    >>> sg.nn.load_cellfm("CellFM_80M_weight.ckpt", n_genes=27_855)  # doctest: +SKIP
    """
    weights = read_mindspore(path)
    model = CellFM(_config(path, weights, n_genes, head_width))
    state = {"embedding.gene.weight": _gene_vectors(path, weights, n_genes)}
    for ours, value in model.state_dict().items():
        if ours in state:
            continue
        theirs = renamed(ours, _NAMES)
        if theirs not in weights:
            msg = f"{path} has no weights {theirs!r}, which CellFM needs."
            raise KeyError(msg)
        if weights[theirs].shape != value.shape:
            msg = f"Weights {theirs!r} in {path} have shape {tuple(weights[theirs].shape)}, not {tuple(value.shape)}."
            raise ValueError(msg)
        state[ours] = checked(weights[theirs], value.dtype, theirs, path)
    model.load_state_dict(state)
    return model.eval()


def _gene_vectors(path: str | Path, weights: dict[str, Tensor], n_genes: int) -> Tensor:
    """Vectors of our tokens: zero for padding and mask, that of the cell, and those of genes; the rows that fill theirs up are left out."""
    cls, table = weights.get("cls_token"), weights["gene_emb"]
    if cls is None or cls.numel() != table.shape[1]:
        msg = f"{path} has no weights 'cls_token' of {table.shape[1]} numbers, which CellFM needs."
        raise KeyError(msg)
    vectors = torch.zeros(N_SPECIAL + n_genes, table.shape[1])
    vectors[N_SPECIAL - 1] = checked(cls, torch.float32, "cls_token", path).flatten()
    vectors[N_SPECIAL:] = checked(table, torch.float32, "gene_emb", path)[1 : n_genes + 1]
    return vectors


def _config(path: str | Path, weights: dict[str, Tensor], n_genes: int, head_width: int) -> CellFMConfig:
    table, bins = weights.get("gene_emb"), weights.get("value_enc.value_enc.w1.weight")
    if table is None or bins is None or table.ndim != 2:
        msg = f"{path} has no table of genes 'gene_emb' and no encoder of values: it is not a CellFM checkpoint, but has {list(weights)[:5]}."
        raise ValueError(msg)
    rows, width = table.shape
    expected = n_genes + 1 + (-n_genes - 1) % 8
    if rows != expected:
        msg = f"{path} has a table of {rows:,} rows, but {n_genes:,} genes need {expected:,}. Use the list of genes that belongs to it."
        raise ValueError(msg)
    layers = [int(found[1]) for found in map(_LAYER.match, weights) if found is not None]
    return CellFMConfig(
        vocab_size=N_SPECIAL + n_genes,
        n_layers=max(layers, default=-1) + 1,
        width=width,
        n_heads=width // head_width,
        n_bins=len(bins),
        totals="ST_emb" in weights,
    )
