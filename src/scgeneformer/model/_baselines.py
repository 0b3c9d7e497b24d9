"""Features of cells and genes for the linear baselines of a cross-validation."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scgeneformer import engine
from scgeneformer._settings import engine_options
from scgeneformer.model.training._random import generators_restored
from scgeneformer.model.training._train import device_of
from scgeneformer.tokens import token_ids, token_of, token_params

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from scgeneformer import nn
    from scgeneformer.tokens import Vocabulary

_N_COMPONENTS = 50


def cell_embedding(encoder: nn.Backbone, tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Cells as :func:`scgeneformer.tl.embed` embeds them, (n_cells, H); NaN for cells without tokens."""
    return _embed(encoder, tokens, vocabulary).cells


def gene_embedding(encoder: nn.Backbone, tokens: np.ndarray, genes: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """States of genes averaged over cells, as :func:`scgeneformer.tl.embed` with ``genes=True`` gives them, (n_genes, H)."""
    return _embed(encoder, tokens, vocabulary, pooling="mean", genes=True).genes[genes]


def _embed(
    encoder: nn.Backbone,
    tokens: np.ndarray,
    vocabulary: Vocabulary,
    *,
    pooling: engine.Pooling | None = None,
    genes: bool = False,
) -> engine.Embeddings:
    pooling = engine.resolve_pooling(pooling, encoder.config, has_cls=vocabulary.has_cls)
    layer = engine.resolve_layer(None, encoder.config)
    options = engine_options(pooling=pooling, n_special=vocabulary.n_special, emb_layer=layer, genes=genes)
    return engine.embed(encoder, tokens, **options)


def scvi_latent(counts: sparse.csr_matrix, batches: np.ndarray, *, rng: int) -> np.ndarray:
    """Latent space of an scVI of counts, (n_cells, n_genes), and batches, (n_cells,), trained with its defaults: float32 (n_cells, 10).

    Random states are left as they were. Its tenth of cells for validation is drawn here, since scvi-tools draws it from no seed by default.
    """
    import scvi
    from anndata import AnnData

    cells = AnnData(counts)
    cells.obs["batch"] = batches.astype(str)
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
    drawn = np.random.default_rng(rng).permutation(len(batches))
    n_validation = len(batches) // 10
    parts = [drawn[n_validation:], drawn[:n_validation]]
    with generators_restored(device_of("auto")):
        torch.manual_seed(rng)
        model = scvi.model.SCVI(cells)
        with _lightning_quiet():
            model.train(enable_progress_bar=False, logger=False, datasplitter_kwargs={"external_indexing": parts})
        return np.asarray(model.get_latent_representation(), dtype=np.float32)


@contextmanager
def _lightning_quiet() -> Iterator[None]:
    """Without messages about devices and tips: a caller who wants a table did not ask for a trainer."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        lightning.setLevel(level)


def expression_features(tokens: np.ndarray, genes: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Expression level of genes: (n_genes, 3).

    Logarithm of the number of cells whose tokens have the gene; its mean rank there, relative to the number of genes of the cell;
    logarithm of its median in the corpus of the vocabulary, which ranks are relative to.
    """
    n_tokens, n_special = len(vocabulary), vocabulary.n_special
    ranks, n_cells = np.zeros(n_tokens), engine.count_tokens(tokens, n_tokens)
    for row in token_of(tokens):
        of_cell = row[row >= n_special]
        ranks[of_cell] += np.arange(len(of_cell)) / max(len(of_cell), 1)
    n_cells = n_cells[genes]
    return np.column_stack([np.log(n_cells), ranks[genes] / n_cells, np.log(vocabulary.medians[genes])])


def numeric_columns(cells: AnnData) -> list[str]:
    """Names of the columns of `var` that hold numbers or True and False."""
    return [str(name) for name, values in cells.var.items() if pd.api.types.is_numeric_dtype(values.dtype)]


def column_features(
    cells: AnnData, name: str, genes: np.ndarray, tokens_key: str, vocabulary: Vocabulary
) -> np.ndarray:
    """A column of `var` as a feature of genes, and whether it has no value for them, if it lacks any: (n_genes, 1 or 2).

    Missing values are the median of the others. Of several columns of one gene the first counts.
    """
    token_id = token_ids(cells, tokens_key, vocabulary)
    tokens, first = np.unique(token_id, return_index=True)
    place = np.minimum(np.searchsorted(tokens, genes), len(tokens) - 1)
    column = cells.var[name].to_numpy(dtype=np.float64, na_value=np.nan)
    values = np.where(tokens[place] == genes, column[first[place]], np.nan)
    missing = ~np.isfinite(values)
    if missing.all():
        return np.zeros((len(genes), 1))
    filled = np.where(missing, np.median(values[~missing]), values)
    return np.column_stack([filled, missing] if missing.any() else [filled])


def expression_components(cells: AnnData, tokens_key: str, rng: int) -> np.ndarray:
    """Principal components of the log-normalised expression of cells, (n_cells, 50 or fewer).

    Raises
    ------
    ValueError
        If the data hold no expression, or not in memory.
    """
    return _components(_log_normalised(cells, tokens_key, "expression"), rng)


def profile_features(
    cells: AnnData, genes: np.ndarray, tokens_key: str, vocabulary: Vocabulary, rng: int
) -> np.ndarray:
    """Principal components of the log-normalised expression of genes across cells, (n_genes, 50 or fewer).

    Raises
    ------
    ValueError
        If the data hold no expression, or not in memory.
    """
    tokens, profiles = expression_profiles(cells, tokens_key, vocabulary, "profiles")
    return _components(profiles, rng)[np.searchsorted(tokens, genes)]


def expression_profiles(
    cells: AnnData, tokens_key: str, vocabulary: Vocabulary, baseline: str
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Log-normalised expression of genes across cells: their tokens, ascending, (n_genes,), and CSR (n_genes, n_cells).

    Raises
    ------
    ValueError
        If the data hold no expression, or not in memory; `baseline` is what needs it.
    """
    values = _log_normalised(cells, tokens_key, baseline)
    token_id = token_ids(cells, tokens_key, vocabulary)
    columns = np.flatnonzero(token_id >= 0)
    tokens, row = np.unique(token_id[columns], return_inverse=True)
    gather = sparse.csr_matrix((np.ones(len(columns)), (row, columns)), shape=(len(tokens), len(token_id)))
    return tokens, (gather @ values.T).tocsr()  # columns of one gene are summed


def _components(values: sparse.csr_matrix, rng: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    n_components = min(_N_COMPONENTS, min(values.shape) - 1)
    return PCA(n_components, svd_solver="arpack", random_state=rng).fit_transform(values)


def _log_normalised(cells: AnnData, tokens_key: str, baseline: str) -> sparse.csr_matrix:
    """Expression that the tokens were made from, per 10,000 counts and log1p, (n_cells, n_vars)."""
    made_with = token_params(cells, tokens_key)
    layer = made_with.get("layer")
    counts = cells.X if layer is None else cells.layers[layer]
    if counts is None or not (isinstance(counts, np.ndarray) or sparse.issparse(counts)):
        slot = ".X" if layer is None else f".layers[{layer!r}]"
        msg = f"The baseline {baseline!r} needs the expression that the cells were tokenized from, in memory, in {slot}. Leave it out of baselines=."
        raise ValueError(msg)
    values = sparse.csr_matrix(counts, dtype=np.float64)
    if made_with.get("counts") != "log1p":
        total = np.asarray(values.sum(1)).ravel()
        values = (sparse.diags(1e4 / np.maximum(total, 1)) @ values).log1p()
    return values
