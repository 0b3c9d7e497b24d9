from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _slots as slots
from scgeneformer._settings import engine_options
from scgeneformer.tokens import read_tokens

from ._classifier import load_classifier

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.model import CellClassifier


def annotate(
    adata: AnnData | MuData,
    model: CellClassifier | str | Path,
    *,
    task: str | None = None,
    min_score: float | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str | None = None,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells with a trained classifier.

    Probabilities of categories are calibrated on the validation cells of the training, where there were any.

    Parameters
    ----------
    adata
        Tokenized by :func:`scgeneformer.pp.tokenize`; labels are not needed.
    model
        A trained :class:`scgeneformer.model.CellClassifier`; or a folder, written by its ``save`` or ``export``, by the official
        tool, or by ``BertForSequenceClassification`` of transformers.
    task
        Which column of labels, where the classifier has learned several.
    min_score
        Cells with a smaller probability of their class get no label. Not for continuous labels.
    tokens_key
        Slot of the tokens in ``.obsm``.
    key_added
        Column of ``.obs`` for the labels; by default the name of the task with ``_predicted``, so that known labels stay.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.obs[key_added]``
        Most probable class, categorical with the classes of the model, ordered if they are; or the number that is predicted of
        continuous labels, float64. Missing for cells without tokens.
    ``.obs[key_added + "_score"]``
        Probability of that class, float64. Not for continuous labels.
    ``.obs[key_added + "_value"]``
        Expected position among ordered classes, from 0 on, float64. Only for ordinal labels.
    ``.obsm[key_added + "_proba"]``
        DataFrame of the probabilities of all classes, float64 of shape (n_obs, n_classes). Columns are the classes, ``/``
        replaced by ``|``, since files have no names with slashes. Not for continuous labels.
    ``.uns[key_added]["params"]``
        Task, kind, sha256 of the weights, vocabulary hash, temperature, version.

    Raises
    ------
    KeyError
        If there are no tokens.
    TypeError
        If `model` is no classifier of cells.
    ValueError
        If the model is not trained, `task` is not one of its, the tokens were made for another vocabulary or are longer than the model can
        read, `min_score` is given for continuous labels, or a slot holds something else than earlier results.

    Examples
    --------
    `model` is a trained :class:`~scgeneformer.model.CellClassifier`.

    >>> sg.pp.tokenize(adata)
    >>> sg.tl.annotate(adata, model)
    >>> adata.obs["disease_predicted"].cat.categories.tolist()
    ['dcm', 'nf']
    >>> adata.obsm["disease_predicted_proba"].shape
    (32, 2)
    """
    from scanpy import logging as logg

    classifier = load_classifier(model, "CellClassifier")
    target = classifier.task(task)
    if not classifier.is_trained_:
        msg = "This classifier is not trained: its labels would be chance. Call `model.train()` first."
        raise ValueError(msg)
    if min_score is not None and target.kind == "continuous":
        msg = f"min_score={min_score} is a probability, and the continuous {target.name!r} has none. Leave it out."
        raise ValueError(msg)
    if copy:
        adata = adata.copy()
    data = keys.as_adata(adata, mod)
    pretrained = classifier.to_pretrained()
    tokens = read_tokens(data, tokens_key, pretrained.vocabulary, model=pretrained.name)
    key = f"{target.name}_predicted" if key_added is None else key_added
    slots.check_free(data, "tl.annotate", key, [*_slots_of(key, target.kind), f"uns/{key}"])
    options = engine_options()

    start = logg.info(f"labelling {data.n_obs} cells by {target.name!r}")
    ends = np.cumsum((len(tokens),) if isinstance(tokens, np.ndarray) else tokens.chunks[0])  # lazy ones by chunk
    parts = (np.asarray(tokens[first:last]) for first, last in zip([0, *ends[:-1]], ends, strict=True))
    answer = np.concatenate([classifier.answer(part, task=target.name, **options) for part in parts])
    n_empty = int(np.isnan(answer.reshape(len(answer), -1)[:, 0]).sum())
    if n_empty:
        logg.warning(f"{n_empty} cells have no tokens in .obsm[{tokens_key!r}], and get no label.")

    values = [answer]
    if target.kind != "continuous":
        values = _of_classes(data, answer, target.classes, ordinal=target.kind == "ordinal", min_score=min_score)
    slots.write(
        data,
        "tl.annotate",
        key,
        dict(zip(_slots_of(key, target.kind), values, strict=True)),
        task=target.name,
        kind=target.kind,
        min_score=min_score,
        temperature=classifier.temperature_.get(target.name),
        model=pretrained.name,
        weights_sha256=pretrained.sha256,
        vocabulary=pretrained.vocabulary.name,
        vocabulary_hash=pretrained.vocabulary.hash,
        tokens_key=tokens_key,
        precision=options["precision"],
    )
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, labels (adata.obs)")
    return adata if copy else None


def _slots_of(key: str, kind: str) -> list[str]:
    """Slots of labels of a kind: of the labels, their scores, the probabilities of all classes, and positions."""
    if kind == "continuous":
        return [f"obs/{key}"]
    position = [f"obs/{keys.value_key(key)}"] if kind == "ordinal" else []
    return [f"obs/{key}", f"obs/{keys.score_key(key)}", f"obsm/{keys.answer_key(key)}", *position]


def _of_classes(
    data: AnnData, proba: np.ndarray, classes: tuple[str, ...], *, ordinal: bool, min_score: float | None
) -> list[Any]:
    """What is to be written to these slots."""
    scored = ~np.isnan(proba[:, 0])
    codes, score = np.full(len(proba), -1), np.full(len(proba), np.nan)
    codes[scored], score[scored] = proba[scored].argmax(axis=1), proba[scored].max(axis=1)
    if min_score is not None:
        codes[score < min_score] = -1
    labels = pd.Categorical.from_codes(codes, list(classes), ordered=ordinal)
    table = pd.DataFrame(proba, index=data.obs_names, columns=[keys.slot_name(name) for name in classes])
    return [labels, score, table, *([proba @ np.arange(len(classes))] if ordinal else [])]
