"""CellFM from the checkpoint that its authors distribute."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scgeneformer.nn._weights import checked
from scgeneformer.nn.checkpoints._layouts import renamed
from scgeneformer.nn.checkpoints._mindspore import read_mindspore

from ._cellfm import CellFM
from ._config import CellFMConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# ours -> theirs, see `renamed`
_NAMES = {
    "gene.weight": "gene_emb",
    "cls": "cls_token",
    "value.": "value_enc.value_enc.",
    "hidden_value": "value_enc.mask_emb",
    "total.": "ST_enc.",
    "total_kind": "ST_emb",
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
    state = {}
    for ours, value in model.state_dict().items():
        theirs = renamed(ours, _NAMES)
        if theirs not in weights:
            msg = f"{path} has no weights {theirs!r}, which CellFM needs."
            raise KeyError(msg)
        if weights[theirs].shape != value.shape:
            msg = f"Weights {theirs!r} in {path} have shape {tuple(weights[theirs].shape)}, not {tuple(value.shape)}."
            raise ValueError(msg)
        state[ours] = checked(weights[theirs], value.dtype, theirs, path)
    state["gene.weight"][0] = 0  # padding, which they multiply out
    model.load_state_dict(state)
    return model.eval()


def _config(path: str | Path, weights: dict[str, Tensor], n_genes: int, head_width: int) -> CellFMConfig:
    table, bins = weights.get("gene_emb"), weights.get("value_enc.value_enc.w1.weight")
    if table is None or bins is None or table.ndim != 2:
        msg = f"{path} has no table of genes 'gene_emb' and no encoder of values: it is no CellFM, but has {list(weights)[:5]}."
        raise ValueError(msg)
    rows, width = table.shape
    expected = n_genes + 1 + (-n_genes - 1) % 8
    if rows != expected:
        msg = f"{path} has a table of {rows:,} rows, and {n_genes:,} genes need {expected:,}. Take the list of genes that belongs to it."
        raise ValueError(msg)
    layers = [int(found[1]) for found in map(_LAYER.match, weights) if found is not None]
    return CellFMConfig(
        vocab_size=rows,
        n_layers=max(layers, default=-1) + 1,
        width=width,
        n_heads=width // head_width,
        n_bins=len(bins),
        totals="ST_emb" in weights,
    )
