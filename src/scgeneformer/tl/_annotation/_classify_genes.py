from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer._settings import engine_options
from scgeneformer.tl._embed import by_gene
from scgeneformer.tokens import read_tokens, token_ids

from ._classifier import load_classifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.model import CrossValidation, GeneClassifier


@checked
def classify_genes(
    adata: AnnData | MuData,
    model: GeneClassifier | CrossValidation | str | Path,
    *,
    genes: Sequence[str] | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str = keys.GENE_CLASSES,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Write the classes of genes predicted by a trained classifier or a cross-validation.

    Parameters
    ----------
    adata
        Tokenized by :func:`scgeneformer.pp.tokenize`. A classifier reads genes in the context of these cells.
    model
        A trained :class:`scgeneformer.model.GeneClassifier`; a folder, written by its ``save`` or ``export``, by the official tool, or by
        ``BertForTokenClassification`` of transformers; or the result of its ``cross_validate``, with a prediction for every
        classified gene from a model that was not trained on it.
    genes
        Ensembl ids, symbols or aliases. None for all: for a classifier, all genes that occur except its training genes.
    tokens_key
        Slot of the tokens in ``.obsm``.
    key_added
        Name of the results.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.varm[key_added]``
        DataFrame of the probabilities of all classes, from means over the cells in which a gene occurs, float64 of shape (n_vars, n_classes);
        NaN for genes without a prediction. Columns are the classes, with ``/`` replaced by ``|``, since names in files cannot contain slashes.
    ``.var[key_added]``
        Most probable class, categorical.
    ``.uns[key_added]``
        ``"params"``: model, vocabulary hash, version; for a cross-validation also ``"scores"``, mean and standard deviation over
        folds for the model and its baselines, and ``"pooled"``, scores over all tested genes with their intervals.

    Raises
    ------
    KeyError
        If there are no tokens.
    TypeError
        If `model` is none of the above.
    ValueError
        If the model is not trained, the tokens were made for another vocabulary or are longer than the model can read, or a slot holds
        something other than earlier results.

    Examples
    --------
    >>> sg.pp.tokenize(adata)
    >>> sg.model.GeneClassifier.setup_anndata(adata)
    >>> classes = {"higher": adata.var_names[:8], "equal": adata.var_names[20:28]}
    >>> model = sg.model.GeneClassifier(adata, classes, "default", freeze="all")
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> sg.tl.classify_genes(adata, model)
    >>> list(adata.varm["gene_classes"])
    ['higher', 'equal']
    """
    from scgeneformer.model import CrossValidation

    if copy:
        adata = adata.copy()
    data = keys.as_adata(adata, mod)
    written = [f"varm/{key_added}", f"var/{key_added}"]
    slots.check_free(data, "tl.classify_genes", key_added, [*written, f"uns/{key_added}"])
    start = logg.info("classifying genes")
    if isinstance(model, CrossValidation):
        vocabulary = model.vocabulary
        columns = keys.slot_names(model.classes, "Classes")
        proba, params, tables = _of_folds(data, model, genes, tokens_key)
    else:
        options = engine_options()
        classifier = load_classifier(model, "GeneClassifier")
        vocabulary = classifier.vocabulary
        columns = keys.slot_names(classifier.classes, "Classes")
        proba, params = _of_classifier(data, classifier, genes, tokens_key, options)
        tables = {}
    of_gene = by_gene(proba.to_numpy(), token_ids(data, tokens_key, vocabulary))
    classified = ~np.isnan(of_gene[:, 0])
    codes = np.where(classified, np.nan_to_num(of_gene).argmax(1), -1)

    table = pd.DataFrame(of_gene, index=data.var_names, columns=columns)
    values = dict(zip(written, (table, pd.Categorical.from_codes(codes, list(proba))), strict=True))
    slots.write(data, "tl.classify_genes", key_added, values, classes=tuple(proba), tokens_key=tokens_key, **params)
    data.uns[key_added] |= tables
    added = f"    {key_added!r}, probabilities of classes for {classified.sum()} genes (adata.varm)"
    logg.info("    finished", time=start, deep=f"added\n{added}")
    return adata if copy else None


def _of_folds(
    data: AnnData, folds: CrossValidation, genes: Sequence[str] | None, tokens_key: str
) -> tuple[pd.DataFrame, dict[str, Any], dict[str, pd.DataFrame]]:
    """Out-of-fold probabilities by token, what made them, and their scores."""
    vocabulary = folds.vocabulary
    read_tokens(data, tokens_key, vocabulary, model=str(folds.params["model"]))  # whose genes these are
    tokens = vocabulary.token_of(folds.table.index)
    selected = np.ones(len(tokens), dtype=bool) if genes is None else np.isin(tokens, vocabulary.tokens_of(genes))
    proba = np.full((len(vocabulary), len(folds.classes)), np.nan)
    proba[tokens[selected]] = folds.predictions.to_numpy()[selected]
    return (
        pd.DataFrame(proba, columns=list(folds.classes)),
        dict(folds.params),
        {"scores": folds.summary, "pooled": folds.pooled},
    )


def _of_classifier(
    data: AnnData, model: GeneClassifier, genes: Sequence[str] | None, tokens_key: str, options: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Probabilities by token, and what made them.

    Raises
    ------
    ValueError
        If the model is not trained, cells are too long for it, or it knows none of `genes`.
    """
    model.check_trained()
    vocabulary, name = model.vocabulary, "GeneClassifier"
    tokens = np.asarray(read_tokens(data, tokens_key, vocabulary, model=name))
    if genes is None:
        wanted = np.setdiff1d(
            np.arange(vocabulary.n_special, len(vocabulary)), vocabulary.token_of(model.trained_genes)
        )
    else:
        wanted = vocabulary.tokens_of(genes)
        wanted = wanted[wanted >= 0]
        if len(wanted) == 0:
            msg = f"None of genes= is in the vocabulary {vocabulary.name!r}. Name them by Ensembl id or symbol."
            raise ValueError(msg)
    scores = model.score_tokens(tokens, wanted, **options)
    params = {
        "model": name,
        "weights_sha256": model.to_pretrained().sha256,
        "vocabulary": vocabulary.name,
        "vocabulary_hash": vocabulary.hash,
        "precision": options["precision"],
    }
    return pd.DataFrame(scores.proba, columns=list(model.classes)), params
