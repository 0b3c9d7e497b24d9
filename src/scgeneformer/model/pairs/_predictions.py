"""The table of what a classifier predicts for pairs of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _log as logg
from scgeneformer.model.data._gene_labels import few, most_probable

from ._pairs import POSITIVE, SOURCE, TARGET

if TYPE_CHECKING:
    from ._pairs import Pairs


def with_vectors(table: pd.DataFrame, tokens: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Which pairs have two genes with vectors, bool (n,); a warning names genes that have none.

    Parameters
    ----------
    table
        With ``source`` and ``target``.
    tokens
        Of its genes, int64 (n, 2), -1 for those that are not in the vocabulary.
    vectors
        Of the genes of the vocabulary, (V, H), NaN where there are none.

    Raises
    ------
    ValueError
        If no pair has.
    """
    has_vector = (tokens >= 0) & np.isfinite(vectors[tokens]).all(axis=2)
    usable = has_vector.all(axis=1)
    if not usable.all():
        names = pd.unique(table[[SOURCE, TARGET]].to_numpy().astype(str)[~has_vector])
        text = f"{len(names)} genes of pairs= have no vector in this model: {few(names)}."
        if not usable.any():
            msg = f"{text} No pair is left. Name human genes by Ensembl id or symbol."
            raise ValueError(msg)
        logg.warning(f"{text} Their {(~usable).sum()} pairs get no prediction.")
    return usable


def prediction_table(
    table: pd.DataFrame, usable: np.ndarray, proba: np.ndarray, n_trained: np.ndarray, learned: Pairs
) -> pd.DataFrame:
    """Pairs with ``n_trained`` and ``score``, or the probability of each class and ``predicted``.

    Parameters
    ----------
    table
        With ``source`` and ``target``.
    usable
        Pairs whose genes have vectors, bool (n,).
    proba
        Of the classes, (n, C), NaN for pairs without a prediction; a warning counts those that are `usable`.
    n_trained
        How many genes of each pair are in a training pair, (n,).
    learned
        The pairs of the model.
    """
    apart = usable & np.isnan(proba).any(axis=1)
    if apart.any():
        logg.warning(f"The genes of {apart.sum()} of {len(table)} pairs= share no cell. These pairs get no prediction.")
    predictions = table[[SOURCE, TARGET]].assign(n_trained=n_trained)
    if not learned.labelled:
        return predictions.assign(score=proba[:, learned.classes.index(POSITIVE)])
    probabilities = dict(zip(learned.classes, proba.T, strict=True))
    return predictions.assign(**probabilities, predicted=most_probable(proba, learned.classes))
