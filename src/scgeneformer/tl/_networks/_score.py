"""Scores of a network as matrices of sources and targets, by model or from recorded effects, and as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer._settings import settings
from scgeneformer.tl._perturbation._write import columns_by_token
from scgeneformer.tokens import token_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from scgeneformer.nn._backbone import Ability
    from scgeneformer.tl._model_inputs import ModelInputs

# Options that a score has; others are refused.
OPTIONS = {
    "attention": ("groupby", "layers", "heads", "rank_corrected"),
    "contextual": ("groupby", "emb_layer", "rank_corrected"),
    "gradient": ("groupby", "emb_layer", "rank_corrected"),
    "token": (),
    "effects": (),
}

NEEDS: dict[str, Ability] = {"attention": "attention weights", "gradient": "derivatives by genes"}

ROWS_AT_ONCE = 1024  # of tokens, as whether each gene is there
PROVENANCE = (
    "model",
    "weights_sha256",
    "vocabulary",
    "vocabulary_hash",
    "tokens_key",
    "emb_layer",
    "precision",
    "kind",
)


@dataclass(frozen=True)
class Scored:
    """Scores (S, G) of sources and targets, NaN where there is no edge, and the numbers of cells behind them, if there are any."""

    values: np.ndarray
    n_cells: np.ndarray | None = None


def check_options(score: str, **given: object) -> None:
    """Refuse options that mean nothing for this score.

    Raises
    ------
    ValueError
        If one is given.
    """
    for name, value in given.items():
        if value is not None and name not in OPTIONS[score]:
            scores = [other for other, names in OPTIONS.items() if name in names]
            msg = f"{name}={value!r} has no meaning for score={score!r}. Leave it out, or use score={' or '.join(map(repr, scores))}."
            raise ValueError(msg)


def resolve_blocks(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    """Numbers of blocks from 0 on, of layers counted as `emb_layer` is: 0 is the last.

    Raises
    ------
    ValueError
        If the model has no such layer.
    """
    chosen = range(1 - n_layers, 1) if layers is None else layers
    return _within(chosen, range(1 - n_layers, 1), "layers", "0 is the last")


def resolve_heads(heads: Sequence[int] | None, n_heads: int) -> list[int]:
    """Numbers of heads, from 0 on.

    Raises
    ------
    ValueError
        If the model has no such head.
    """
    chosen = range(n_heads) if heads is None else heads
    return _within(chosen, range(n_heads), "heads", "0 is the first")


def _within(chosen: Sequence[int], possible: range, name: str, which: str) -> list[int]:
    if len(chosen) == 0 or any(number not in possible for number in chosen):
        msg = f"{name}={list(chosen)} must be numbers from {possible[0]} to {possible[-1]} ({which})."
        raise ValueError(msg)
    return sorted({number - possible[0] for number in chosen})


@dataclass(frozen=True)
class Scorer:
    """Where scores come from.

    Attributes
    ----------
    inputs
        Model and tokens; None if scores were recorded.
    used
        Indices of the cells of each group, of all under None.
    n_cells
        Number of these cells that express each gene, -1 for genes that can have no edges, (n_vars,).
    params
        What `uns` keeps.
    of
        Scores by indices of cells, and columns of `var` of sources and targets.
    """

    inputs: ModelInputs | None
    used: dict[str | None, np.ndarray]
    n_cells: np.ndarray
    params: dict[str, Any]
    of: Callable[[np.ndarray, np.ndarray, np.ndarray], Scored]


def by_model(
    score: str,
    inputs: ModelInputs,
    groups: dict[str | None, np.ndarray],
    *,
    max_cells: int,
    min_cells: int,
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    rank_corrected: bool | None,
    rng: int | np.random.Generator | None,
) -> Scorer:
    """Scores that a model gives when it reads cells, or its token embeddings; arguments as of `tl.network`.

    Raises
    ------
    ValueError
        If the model does not offer what the score needs, layers or heads do not exist, or no group has `min_cells` cells.
    """
    from scgeneformer import engine

    encoder = inputs.pretrained.encoder
    if score in NEEDS:
        encoder.check_offers(NEEDS[score], f"tl.network(score={score!r})")
    options: dict[str, Any] = {}
    if score == "attention":
        options["blocks"] = resolve_blocks(layers, encoder.config.n_layers)
        options["heads"] = resolve_heads(heads, encoder.config.n_heads)
    elif score != "token":
        options["emb_layer"] = inputs.options["emb_layer"]
    if score != "token":
        options["rank_corrected"] = score == "attention" if rank_corrected is None else rank_corrected
    used = _draw(groups, max_cells, min_cells, np.random.default_rng(rng))

    def of(rows: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> Scored:
        genes = {
            "sources": inputs.token_id[sources].astype(np.int64),
            "targets": inputs.token_id[targets].astype(np.int64),
        }
        if score == "token":
            return Scored(engine.network.token(encoder, **genes))
        places = {name: inputs.options[name] for name in ("n_special", "device", "precision", "token_budget")}
        function = getattr(engine.network, score)
        tokens = np.asarray(inputs.tokens[rows])
        means = function(encoder, tokens, **genes, **options, **places, progress=settings.progress)
        return Scored(means.means, means.n_cells)

    counted = _n_cells(inputs, np.concatenate(list(used.values())))
    return Scorer(inputs, used, counted, {"max_cells": max_cells, **inputs.provenance, **options}, of)


def recorded(cells: AnnData, key: str) -> Scorer:
    """1 minus the cosines that `tl.perturb` recorded under `key`.

    Raises
    ------
    KeyError
        If there are none.
    """
    mean_key, n_key, _ = keys.effects_keys(key)
    cure = "sg.tl.perturb(adata, effects=True)"
    for place, name in (("varp", mean_key), ("varp", n_key), ("layers", key)):
        if name not in getattr(cells, place):
            msg = f"No effects on genes: .{place}[{name!r}] is missing. Run `{cure}` first."
            raise KeyError(msg)
    run = keys.params(cells, key, cure=cure)
    mean, n = (sparse.csr_matrix(cells.varp[name]) for name in (mean_key, n_key))

    def of(_: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> Scored:
        cosine, n_pairs = (matrix[sources][:, targets].toarray() for matrix in (mean, n))
        values = np.where(n_pairs > 0, 1 - cosine, np.nan).astype(np.float32)
        values[sources[:, None] == targets] = np.nan
        return Scored(values, n_pairs)

    used = np.flatnonzero(np.diff(sparse.csr_matrix(cells.layers[key]).indptr))
    most = np.maximum(*(n.max(axis=axis).toarray().ravel() for axis in (0, 1)))
    params = {name: run[name] for name in PROVENANCE if name in run}
    return Scorer(None, {None: used}, np.where(most > 0, most, -1), {"effects_key": key, **params}, of)


def _draw(
    groups: dict[str | None, np.ndarray], max_cells: int, min_cells: int, rng: np.random.Generator
) -> dict[str | None, np.ndarray]:
    """Cells of each group that has enough of them."""
    drawn = {}
    for group, rows in groups.items():
        if len(rows) < min_cells:
            logg.warning(f"Left out {group!r}: {len(rows)} cells, fewer than min_cells={min_cells}.")
            continue
        drawn[group] = np.sort(rng.choice(rows, max_cells, replace=False)) if len(rows) > max_cells else rows
    if not drawn:
        msg = f"No group has min_cells={min_cells} cells. Lower it, or use more cells."
        raise ValueError(msg)
    return drawn


def _n_cells(inputs: ModelInputs, rows: np.ndarray) -> np.ndarray:
    """Number of the cells that express each gene, -1 for genes without a token and all but the first column of a gene, (n_vars,)."""
    from scgeneformer import engine

    counts = engine.count_tokens(np.asarray(inputs.tokens[rows]), len(inputs.vocabulary))
    column_of = columns_by_token(inputs.token_id, len(inputs.vocabulary))
    n_cells = np.full(inputs.cells.n_vars, -1)
    tokens = np.flatnonzero(column_of >= 0)
    n_cells[column_of[tokens]] = counts[tokens]
    return n_cells


def check_pairs(
    inputs: ModelInputs,
    used: dict[str | None, np.ndarray],
    sources: np.ndarray,
    targets: np.ndarray,
    min_cells: int,
    allowed: np.ndarray | None,
) -> None:
    """Refuse genes no two of which, or of the pairs that are `allowed`, are in `min_cells` cells of a group together, before the model runs.

    Raises
    ------
    ValueError
        If there is such a group.
    """
    n_pairs = {}
    for group, rows in used.items():
        n_cells = np.zeros((len(sources), len(targets)), dtype=np.float32)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            tokens = token_of(np.asarray(inputs.tokens[rows[start : start + ROWS_AT_ONCE]]))
            has = np.zeros((len(tokens), len(inputs.vocabulary)), dtype=bool)
            has[np.arange(len(tokens))[:, None], tokens] = True
            of_source, of_target = (has[:, inputs.token_id[genes]].astype(np.float32) for genes in (sources, targets))
            n_cells += of_source.T @ of_target
        n_cells[sources[:, None] == targets] = 0
        if allowed is not None:
            n_cells[~allowed] = 0
        n_pairs[group] = int((n_cells >= min_cells).sum())
    check_not_empty(n_pairs, min_cells)


def check_not_empty(n_edges: dict[str | None, int], min_cells: int) -> None:
    """Refuse a network without edges.

    Raises
    ------
    ValueError
        If that of any group has none.
    """
    empty = [group for group, n in n_edges.items() if n == 0]
    if empty:
        what = "The network is" if empty == [None] else f"The networks of {empty} are"
        msg = f"{what} empty: no two genes occur together in min_cells={min_cells} cells. Lower it, or use more cells or other genes."
        raise ValueError(msg)


def edges_of(scored: Scored, min_cells: int, allowed: np.ndarray | None) -> np.ndarray:
    """Which pairs are edges, of those that are `allowed`, bool (S, G)."""
    edges = ~np.isnan(scored.values)
    if allowed is not None:
        edges &= allowed
    return edges if scored.n_cells is None else edges & (scored.n_cells >= min_cells)


def as_varp(values: np.ndarray, at: np.ndarray, sources: np.ndarray, targets: np.ndarray, n_vars: int) -> Any:
    """CSR (n_vars, n_vars) of the `values` (S, G) where `at` is True; zeros there are stored too."""
    r, c = np.nonzero(at)
    indices = np.int32 if n_vars < 2**31 else np.int64
    rows, columns = sources[r].astype(indices), targets[c].astype(indices)
    matrix = sparse.coo_matrix((values[r, c], (rows, columns)), shape=(n_vars, n_vars)).tocsr()
    matrix.sort_indices()
    return matrix
