"""What simpler models can tell classes of genes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer import engine
from scgeneformer.tokens import token_ids, token_params

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer import nn
    from scgeneformer.tokens import Vocabulary

_N_COMPONENTS, _SEED = 50, 0


def embedding_features(
    encoder: nn.Encoder, tokens: np.ndarray, genes: np.ndarray, vocabulary: Vocabulary, **options: Any
) -> np.ndarray:
    """States of genes averaged over cells, as :func:`scgeneformer.tl.embed` with ``genes=True`` gives them, (n_genes, H)."""
    layer = engine.resolve_layer(None, encoder.config)
    found = engine.embed(
        encoder, tokens, pooling="mean", n_special=vocabulary.n_special, emb_layer=layer, genes=True, **options
    )
    return found.genes[genes]


def expression_features(tokens: np.ndarray, genes: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """How much genes are expressed: (n_genes, 3).

    Logarithm of the number of cells whose tokens have the gene; its mean rank there, relative to the number of genes of the cell;
    logarithm of its median in the corpus of the vocabulary, which ranks are relative to.
    """
    n_tokens, n_special = len(vocabulary), vocabulary.n_special
    ranks, n_cells = np.zeros(n_tokens), engine.count_tokens(tokens, n_tokens)
    for row in tokens:
        of_cell = row[row >= n_special]
        ranks[of_cell] += np.arange(len(of_cell)) / max(len(of_cell), 1)
    n_cells = n_cells[genes]
    return np.column_stack([np.log(n_cells), ranks[genes] / n_cells, np.log(vocabulary.medians[genes])])


def profile_features(
    cells: AnnData, genes: np.ndarray, tokens_key: str, vocabulary: Vocabulary, rng: int
) -> np.ndarray:
    """Principal components of the log-normalised expression of genes across cells, (n_genes, 50 or fewer).

    Raises
    ------
    ValueError
        If the data hold no expression, or not in memory.
    """
    from sklearn.decomposition import PCA

    made_with = token_params(cells, tokens_key)
    layer = made_with.get("layer")
    counts = cells.X if layer is None else cells.layers[layer]
    if counts is None or not (isinstance(counts, np.ndarray) or sparse.issparse(counts)):
        slot = ".X" if layer is None else f".layers[{layer!r}]"
        msg = f"The baseline 'profiles' needs the expression that cells were tokenized from in memory, in {slot}. Leave it out of baselines=."
        raise ValueError(msg)
    values = sparse.csr_matrix(counts, dtype=np.float64)
    if made_with.get("counts") != "log1p":
        total = np.asarray(values.sum(1)).ravel()
        values = (sparse.diags(1e4 / np.maximum(total, 1)) @ values).log1p()
    token_id = token_ids(cells, tokens_key, vocabulary)
    there = np.flatnonzero(token_id >= 0)
    kinds, kind = np.unique(token_id[there], return_inverse=True)
    gather = sparse.csr_matrix((np.ones(len(there)), (kind, there)), shape=(len(kinds), len(token_id)))
    profiles = (gather @ values.T).tocsr()  # (genes, cells); columns of one gene are summed
    n_components = min(_N_COMPONENTS, min(profiles.shape) - 1)
    components = PCA(n_components, svd_solver="arpack", random_state=rng).fit_transform(profiles)
    return components[np.searchsorted(kinds, genes)]
