"""Cells and genes as vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from scgeneformer._cluster import in_order

from ._batching import cut_rows, for_each_batch, row_lengths, to_device
from ._device import default_token_budget, on_device, resolve_device, resolve_precision
from ._finite import check_finite, has_states
from ._parts import map_cells

if TYPE_CHECKING:
    from torch import Tensor

    from scgeneformer.nn import Backbone
    from scgeneformer.nn._backbone import Shape

Pooling = Literal["mean", "cls", "eos"]
PART_SIZE = 2**18  # tokens in a part


@dataclass(frozen=True)
class Embeddings:
    """What `embed` returns.

    Attributes
    ----------
    cells
        float32 (n, H), in the order of the rows of tokens. NaN where nothing was there to be pooled.
    genes
        float32 (V, H), mean over the cells in which a token occurs, NaN for tokens that never occur; (0, H) if not asked for.
    n_cells
        int64 (V,), in how many cells each token occurs; (0,) if not asked for.
    """

    cells: np.ndarray
    genes: np.ndarray
    n_cells: np.ndarray


def layers_to_run(encoder: Backbone, emb_layer: int) -> int:
    """Number of blocks below and including layer `emb_layer`, counted as the official tool does: 0 is the last, -1 the one before.

    Raises
    ------
    ValueError
        If the encoder has no such layer.
    """
    n_layers = encoder.config.n_layers + emb_layer
    if not 0 <= n_layers <= encoder.config.n_layers:
        msg = f"emb_layer={emb_layer} is outside {-encoder.config.n_layers} (the embedding) to 0 (the last layer)."
        raise ValueError(msg)
    return n_layers


def resolve_pooling(pooling: Pooling | None, config: Shape, *, has_cls: bool) -> Pooling:
    """What was asked for, else what the model's config says, else ``"cls"`` where there is such a token and ``"mean"`` where not.

    Raises
    ------
    ValueError
        If it is unknown, or asks for a token that the vocabulary does not have.
    """
    chosen = pooling or config.pooling or ("cls" if has_cls else "mean")
    check_pooling(chosen, config)
    if chosen != "mean" and not has_cls:
        msg = f"pooling={chosen!r} needs a <{chosen}> token, which the vocabulary of this model does not have. Use 'mean'."
        raise ValueError(msg)
    return cast("Pooling", chosen)


def resolve_layer(emb_layer: int | None, config: Shape) -> int:
    """What was asked for, else what the model's config says, else -1, the second to last."""
    asked = (emb_layer, config.emb_layer, -1)
    return next(layer for layer in asked if layer is not None)


def check_pooling(pooling: str, config: Shape) -> None:
    """Refuse by name a pooling that is unknown, or not of this model."""
    if pooling not in config.poolings:
        msg = f"pooling={pooling!r} is not one of {config.poolings}, the poolings of this model."
        raise ValueError(msg)


def check_options(encoder: Backbone, *, pooling: str, emb_layer: int, device: str, precision: str, **_: object) -> None:
    """Refuse what `embed` would refuse, before work that is put off."""
    check_pooling(pooling, encoder.config)
    layers_to_run(encoder, emb_layer)
    resolve_precision(precision, resolve_device(device))


def pool(hidden: Tensor, tokens: Tensor, pooling: str, n_special: int) -> Tensor:
    """Summary of each cell in float32 or better, (B, H): its first state (``"cls"``), its last (``"eos"``), or the mean over its genes (``"mean"``)."""
    at_least = torch.promote_types(hidden.dtype, torch.float32)
    if pooling == "cls":
        return hidden[:, 0].to(at_least)
    if pooling == "eos":
        last = (tokens > 0).sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last].to(at_least)
    genes = (tokens >= n_special).unsqueeze(-1)  # (B, L, 1); padding is special too
    return (hidden.to(at_least) * genes).sum(1) / genes.sum(1)  # (B, H)


def embed(
    encoder: Backbone,
    tokens: np.ndarray,
    *,
    pooling: str,
    n_special: int,
    emb_layer: int = -1,
    genes: bool = False,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> Embeddings:
    """Embed cells, and on request genes in the context of these cells, in one pass, part by part.

    Parameters
    ----------
    encoder
        Left as it is, on whatever device.
    tokens
        uint16 (n, L), right-padded with 0; with values, :data:`~scgeneformer.tokens.VALUED`.
    pooling
        ``"mean"`` over genes, special tokens left out; ``"cls"``, the state of the first token; or ``"eos"``, that of the last. The model's
        config says which of them it has.
    n_special
        Token ids below this one are special.
    emb_layer
        0 is the last layer, -1 the second to last, and so on.
    genes
        Also average the states of each token over cells.
    device, precision, token_budget
        See `scgeneformer.settings`; a budget of None is chosen by device.
    progress
        Show a progress bar.

    Returns
    -------
    The embeddings; they do not depend on batches, padding or the order of rows beyond rounding.

    Raises
    ------
    FloatingPointError
        If the model gives NaN or infinite states for cells that have genes.
    """
    check_pooling(pooling, encoder.config)
    layers_to_run(encoder, emb_layer)
    lengths = row_lengths(tokens)
    n_tokens, width = encoder.config.vocab_size if genes else 0, encoder.config.width
    cells = np.full((len(tokens), width), np.nan, dtype=np.float32)
    parts = list(cut_rows(lengths, PART_SIZE))
    sums, counts = np.zeros((n_tokens, width)), np.zeros(n_tokens, dtype=np.int64)
    options = {"pooling": pooling, "n_special": n_special, "emb_layer": emb_layer, "genes": genes}
    placing = {"device": device, "precision": precision}
    options |= {"token_budget": token_budget, **placing}
    n_done = 0
    with tqdm(total=sum(map(len, parts)), desc="embed", unit=" cells", disable=not progress) as bar:
        todo = ((number, (tokens[rows, : lengths[rows[0]]],)) for number, rows in enumerate(parts))
        embedded = map_cells(_embed_part, todo, encoder, options, here={"bar": bar}, **placing)
        for rows, (pooled, *of_genes) in zip(parts, in_order(embedded), strict=True):
            cells[rows] = pooled
            if genes:
                there, part_sums, part_counts = of_genes
                sums[there] += part_sums
                counts[there] += part_counts
            n_done += len(rows)
            bar.update(n_done - bar.n)
    means = np.divide(sums, counts[:, None], out=np.full_like(sums, np.nan), where=counts[:, None] > 0)
    check_finite(means, counts > 0)
    return Embeddings(cells, means.astype(np.float32), counts)


def _embed_part(
    encoder: Backbone, options: dict[str, Any], tokens: np.ndarray, *, bar: tqdm | None = None
) -> tuple[np.ndarray, ...]:
    """Cells of one part; if asked for also which tokens occur in them, sums of their states, and numbers of cells."""
    cells, sums, counts = embed_rows(encoder, tokens, bar=bar, **options)
    if not options["genes"]:
        return (cells,)
    there = np.flatnonzero(counts)
    return cells, there, sums[there], counts[there]


def embed_rows(
    encoder: Backbone,
    tokens: np.ndarray,
    *,
    pooling: str,
    n_special: int,
    emb_layer: int = -1,
    genes: bool = False,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
    bar: tqdm | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embed cells in this process: vectors of cells, and if `genes` sums of the states of tokens and their numbers of cells; as `embed`."""
    place = resolve_device(device)
    n_layers = layers_to_run(encoder, emb_layer)
    lengths = row_lengths(tokens)
    width, n_tokens = encoder.config.width, encoder.config.vocab_size
    cells = np.full((len(tokens), width), np.nan, dtype=np.float32)
    sums = torch.zeros(n_tokens if genes else 0, width, device=place)
    counts = torch.zeros(len(sums), dtype=torch.int64, device=place)
    first_only = slice(0, 1) if pooling == "cls" and not genes else None

    with on_device(encoder, place, resolve_precision(precision, place)) as network:

        def step(rows: np.ndarray) -> None:
            batch = to_device(tokens[rows], lengths[rows], place)
            hidden = batch.states(network, n_layers=n_layers, positions=first_only)  # (B, L or 1, H)
            pooled = pool(hidden, batch.tokens, pooling, n_special).cpu().numpy()
            check_finite(pooled, has_states(tokens[rows], pooling, n_special))
            if genes:
                there = batch.tokens >= n_special
                of_genes = batch.tokens[there]
                sums.index_add_(0, of_genes, hidden[there].float())
                counts.index_add_(0, of_genes, torch.ones_like(of_genes))
            cells[rows] = pooled

        for_each_batch(lengths, token_budget or default_token_budget(place), step, bar=bar)
        return cells, sums.cpu().numpy(), counts.cpu().numpy()
