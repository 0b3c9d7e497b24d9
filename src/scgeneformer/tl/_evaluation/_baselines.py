"""Features of cells for the baselines of an evaluation: an embedding without training, or its most variable genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import evaluation
from scgeneformer.tl._expression import log_profile, threads_of_torch_kept
from scgeneformer.tl._model_inputs import model_inputs

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

    from scgeneformer.model import CellClassifier

N_GENES = 2000


def embedding_features(cells: AnnData, classifier: CellClassifier, rows: np.ndarray, *, tokens_key: str) -> np.ndarray:
    """Cells as :func:`~scgeneformer.tl.embed` sees them with the encoder that the classifier started from, (n_rows, width).

    Parameters
    ----------
    cells
        With tokens.
    classifier
        Where training started.
    rows
        Cells.
    tokens_key
        Slot of the tokens in `obsm`.
    """
    from scgeneformer import engine, hub

    start = hub.Pretrained("start", classifier.vocabulary, model=classifier.start_encoder())
    inputs = model_inputs(cells, start, pooling=None, emb_layer=None, tokens_key=tokens_key)
    return engine.embed(start.encoder, np.asarray(inputs.tokens[rows]), **inputs.options).cells


@threads_of_torch_kept()
def gene_features(
    cells: AnnData, rows: np.ndarray, is_train: np.ndarray, *, layer: str | None, tokens_key: str
) -> sparse.csr_matrix:
    """log1p of counts per 10,000 of the genes that vary most among training cells, (n_rows, n_genes).

    Parameters
    ----------
    cells
        With the counts that were tokenized.
    rows
        Cells.
    is_train
        Which of them to choose genes by, (n_rows,).
    layer
        Where the counts are; None where the tokens came from.
    tokens_key
        Slot of the tokens, whose params tell where that is, and whether the values are logarithms already.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If there are no values.
    """
    cure = "Set `layer=` to the one with counts, or leave this baseline out: `baselines=['probe']`."
    profile = log_profile(cells, rows, layer=layer, tokens_key=tokens_key, cure=cure)
    return profile.X[:, _most_variable(profile[is_train].copy())]


def answer(
    features: Any,
    is_train: np.ndarray,
    labels: np.ndarray,
    *,
    n_classes: int | None,
    groups: np.ndarray | None,
    scaled: bool,
    rng: int,
) -> np.ndarray:
    """What a linear model of the training rows predicts for the others: probabilities of classes, or numbers.

    Parameters
    ----------
    features
        Of all rows, (n_rows, n_features).
    is_train
        Rows to learn from, (n_rows,).
    labels
        Of the rows to learn from: codes, or numbers if there are no classes.
    n_classes
        Number of classes; None for numbers.
    groups
        Of the rows to learn from.
    scaled
        As in :func:`scgeneformer.evaluation.logistic`.
    rng
        Seed.
    """
    train, others = features[is_train], features[~is_train]
    if n_classes is None:
        return evaluation.ridge(train, labels, others, scaled=scaled)
    return evaluation.logistic(train, labels, others, n_classes=n_classes, groups=groups, scaled=scaled, rng=rng)


def _most_variable(train: AnnData) -> np.ndarray:
    """Number of each gene to keep: by scanpy's flavour ``"seurat"``, or those that vary at all where there are few."""
    import scanpy as sc

    mean = np.asarray(train.X.mean(axis=0)).ravel()
    varying = np.flatnonzero(np.asarray(train.X.multiply(train.X).mean(axis=0)).ravel() > mean**2 * (1 + 1e-6))
    if len(varying) <= N_GENES:
        return varying
    chosen = train[:, varying].copy()
    sc.pp.highly_variable_genes(chosen, n_top_genes=N_GENES, flavor="seurat")
    return varying[chosen.var["highly_variable"].to_numpy()]
