from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer import stats
from scgeneformer._arguments import checked
from scgeneformer._settings import engine_options
from scgeneformer.atlas._unknown import check_unknown, novelty_slots, novelty_values, with_unknown
from scgeneformer.tl._model_inputs import blocks_of
from scgeneformer.tokens import read_tokens

from ._classifier import load_classifier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.model import CellClassifier
    from scgeneformer.model.data._cell_labels import CellTask

NO_REFERENCE = "this classifier keeps no states of training cells. It was exported, imported or saved by an older version, or had no validation cells."


@checked
def annotate(
    adata: AnnData | MuData,
    model: CellClassifier | str | Path,
    *,
    task: str | None = None,
    min_score: float | None = None,
    unknown: float | None = None,
    tokens_key: str = keys.TOKENS,
    key_added: str | None = None,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells with a trained classifier.

    Probabilities of categories are calibrated on the validation cells of the training, if there were any.

    Probabilities are distributed over the classes that the model has learned; they do not show whether a cell belongs to any of them. Therefore the
    state of the cell is also compared with the states of training cells that the classifier stores (at most 200 of each class). The
    distance to these cells is compared with that of the validation cells, which, like new cells, were not trained on.

    Parameters
    ----------
    adata
        Tokenized by :func:`scgeneformer.pp.tokenize`; labels are not needed.
    model
        A trained :class:`scgeneformer.model.CellClassifier`; a folder, written by its ``save`` or ``export``, by the official
        tool, or by ``BertForSequenceClassification`` of transformers; or the name of a published classifier,
        ``"V1-10M_CellClassifier_cardiomyopathies"``.
    task
        Column of labels, if the classifier has learned several.
    min_score
        Cells with a smaller probability of their class get no label. Not for continuous labels.
    unknown
        Cells with a novelty below this value get the label ``"unknown"``: at most this share of the cells from the distribution of the validation cells,
        for all classes together. Cells of other studies and technologies follow another distribution, and more of them are unknown. If the model was trained with
        samples (donors), validation cells come from other samples than the training cells, as new cells do. Not for continuous labels.
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
        Most probable class, categorical with the classes of the model, ordered if they are; for continuous labels the predicted
        number, float64. Missing for cells without tokens. With `unknown`, there is a category ``"unknown"``, and the categories are not ordered.
    ``.obs[key_added + "_score"]``
        Probability of that class, float64. Not for continuous labels.
    ``.obs[key_added + "_distance"]``
        Mean distance to the nearest 15 training cells, relative to the typical distance for the predicted class, float64: the median of the validation
        cells is 1. Not for continuous labels, nor if the classifier stores no training cells, because it was exported, imported, saved by an
        older version, or trained without validation cells.
    ``.obs[key_added + "_novelty"]``
        Conformal p value of that distance: ``(1 + m) / (n + 1)``, where m of n validation cells are at least as far, float64. Small if the cell
        is unlike all training cells. Present if there is a distance.
    ``.obs[key_added + "_nearest"]``
        Most probable class of every cell, including unknown cells. Only with `unknown`.
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
        If `model` is not a classifier of cells.
    ValueError
        If the model is not trained, does not know `task`, the tokens were made for another vocabulary or are longer than the model can
        read, `min_score` or `unknown` is given for continuous labels, `unknown` for a classifier without training cells or with too few
        validation cells, or a slot holds something other than earlier results.

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
    classifier = load_classifier(model, "CellClassifier")
    target = classifier.task(task)
    classifier.check_trained()
    if min_score is not None and target.kind == "continuous":
        msg = f"min_score={min_score} is a probability, but the continuous {target.name!r} has none. Leave it out."
        raise ValueError(msg)
    reference = classifier.reference_.get(target.name)
    if unknown is not None:
        check_unknown(unknown, target.classes)
        _check_reference(target, reference, unknown)
    if copy:
        adata = adata.copy()
    data = keys.as_adata(adata, mod)
    pretrained = classifier.to_pretrained()
    tokens = read_tokens(data, tokens_key, pretrained.vocabulary, model=pretrained.name)
    key = f"{target.name}_predicted" if key_added is None else key_added
    keys.slot_names(() if target.kind == "continuous" else target.classes, f"Labels of {target.name!r},")
    written = _slots_of(key, target.kind) + (novelty_slots(key, nearest=unknown is not None) if reference else [])
    slots.check_free(data, "tl.annotate", key, [*written, f"uns/{key}"])
    options = engine_options()

    start = logg.info(f"labelling {data.n_obs} cells by {target.name!r}")
    if reference is None and target.kind != "continuous":
        logg.info(f"    without {keys.distance_key(key)!r} and {keys.novelty_key(key)!r}: {NO_REFERENCE}")
    answers = [classifier.answer(block, task=target.name, **options) for block in blocks_of(tokens)]
    answer = np.concatenate([each.answer for each in answers])
    n_empty = int(np.isnan(answer.reshape(len(answer), -1)[:, 0]).sum())
    if n_empty:
        logg.warning(f"{n_empty} cells have no tokens in .obsm[{tokens_key!r}], and get no label.")

    values = [answer]
    if target.kind != "continuous":
        values = _of_classes(data, answer, target.classes, ordinal=target.kind == "ordinal", min_score=min_score)
    if reference:
        distance = np.concatenate([each.distance for each in answers])
        novelty = np.concatenate([each.novelty for each in answers])
        nearest = _of_classes(data, answer, target.classes, ordinal=target.kind == "ordinal", min_score=None)[0]
        values[0] = with_unknown(values[0], novelty, unknown)
        values += novelty_values(distance, novelty, None if unknown is None else nearest)
    slots.write(
        data,
        "tl.annotate",
        key,
        dict(zip(written, values, strict=True)),
        task=target.name,
        kind=target.kind,
        min_score=min_score,
        unknown=unknown,
        n_reference=len(reference["states"]) if reference else None,
        n_validation=len(reference["held_out"]) if reference else None,
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


def _check_reference(target: CellTask, reference: Mapping[str, np.ndarray] | None, unknown: float) -> None:
    """Raise if no cell could be called unknown."""
    if target.kind == "continuous":
        msg = f"unknown={unknown} is for classes, but {target.name!r} is continuous. Leave it out."
        raise ValueError(msg)
    if reference is None:
        msg = (
            f"unknown={unknown} needs training cells to compare with, but {NO_REFERENCE} Call `model.calibrate()` where it has its data and "
            "validation cells, and `model.save()`; or embed labelled cells with it and call `sg.tl.transfer(adata, labelled, ..., unknown=...)`."
        )
        raise ValueError(msg)
    n, least = len(reference["held_out"]), stats.smallest_sample(unknown)
    if n < least:
        msg = (
            f"unknown={unknown:g} needs at least {least} validation cells, since p is never below 1 / (n + 1), but "
            f"this classifier had {n}. Train with a larger `validation_size`, or choose a larger `unknown`."
        )
        raise ValueError(msg)


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
    table = pd.DataFrame(proba, index=data.obs_names, columns=keys.slot_names(classes, "Labels"))
    return [labels, score, table, *([proba @ np.arange(len(classes))] if ordinal else [])]
