from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._arguments import checked
from scgeneformer._settings import settings
from scgeneformer.tl._annotation._classifier import load_classifier

from ._baselines import answer, embedding_features, gene_features
from ._write import BASELINES, Evaluated, answer_slots, write_evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.evaluation import Split
    from scgeneformer.model import CellClassifier


@checked
def evaluate(
    adata: AnnData | MuData,
    model: CellClassifier | str | Path,
    *,
    task: str | None = None,
    baselines: bool | Sequence[Literal["probe", "hvg"]] = True,
    layer: str | None = None,
    n_bootstrap: int = 200,
    key_added: str = keys.EVALUATION,
    rng: int = 0,
    mod: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Score a trained classifier on held-out cells, and simple models trained on the same cells.

    The test cells are evaluated. If there are none, the validation cells are used; their scores are optimistic, since the weights and the
    temperature of the probabilities were chosen by them. The baselines show whether fine-tuning, and the foundation model
    itself, improved the result:

    ``"linear probe"``
        Logistic regression on embeddings by the encoder that training started from, as :func:`~scgeneformer.tl.embed` makes them.
    ``"regression on HVGs"``
        Logistic regression on log1p of counts per 10,000 of the 2,000 genes that vary most among the training cells.
    ``"most frequent class"``
        The class frequencies of the training cells, for every cell.

    For continuous labels these are ridge regressions and the mean. Embeddings are standardised; genes are not, since standardising would make the noise of
    genes that hardly vary as large as the differences between cell types. Penalties are chosen by cross-validation within the training
    cells, over donors if the split is by donor.

    Parameters
    ----------
    adata
        The data that the classifier was trained on.
    model
        A trained :class:`scgeneformer.model.CellClassifier`, or a folder written by its ``save``.
    task
        Column of labels, if the classifier has learned several.
    baselines
        Train the first two baselines, or those that are named, or none.
    layer
        Layer with the counts for ``"hvg"``; by default the one that was tokenized. It must hold the same kind of values as the tokens were made
        from: counts, or logarithms with ``counts="log1p"`` of :func:`~scgeneformer.pp.tokenize`.
    n_bootstrap
        Number of bootstrap samples for the intervals of the scores; 0 for none.
    key_added
        Name of the results.
    rng
        Seed for the cross-validations of the baselines, and for the intervals.
    mod
        Modality of a MuData.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    ``None``, or a copy of `adata` if `copy`. Writes:

    ``.uns[key_added]["metrics"]``
        DataFrame of scores, one row per model, see :func:`~scgeneformer.get.evaluation`: for classes as in
        :class:`scgeneformer.evaluation.Report`, with ``mae`` and ``kappa`` if they are ordinal; for continuous labels as in
        :func:`scgeneformer.evaluation.regression`. ``tied_with_best`` marks models whose accuracy (for continuous labels, mean absolute
        error) is within one standard error of that of the best model; the standard error is that of the paired differences over cells. Cells are treated
        as independent. Since cells of one donor are not, too few models are marked.
    ``.uns[key_added]["intervals"]``
        DataFrame with the ends ``<score>_low`` and ``<score>_high`` of the 95 % interval of each score, by a bootstrap over the donors of the
        evaluated cells if the data were set up with samples and there are three, else over cells (``params["resampled"]``).
    ``.uns[key_added]["per_class"]``
        DataFrame with ``precision``, ``recall``, ``f1``, ``support``, ``auc`` of each class, and ``f1_probe`` and
        ``f1_hvg`` of the baselines.
    ``.uns[key_added]["confusion"]``
        DataFrame of numbers of cells, with true classes as rows and predicted classes as columns (``/`` replaced by ``|`` in columns).
    ``.uns[key_added]["params"]``
        Task, evaluated set, number of cells, model and its provenance.
    ``.obs[key_added]``
        ``"train"``, ``"validation"`` or ``"test"``, categorical; missing for cells in no set.
    ``.obsm[f"{key_added}_proba"]``, ``.obsm[f"{key_added}_probe_proba"]``, ``.obsm[f"{key_added}_hvg_proba"]``
        DataFrames of probabilities of classes (``/`` replaced by ``|``), float64 of shape (n_obs, n_classes), NaN for cells that
        were not evaluated. For continuous labels, ``.obs`` columns ``{key_added}_predicted``, ``{key_added}_probe_predicted``,
        ``{key_added}_hvg_predicted``.

    Raises
    ------
    KeyError
        If there is no such layer.
    TypeError
        If `model` is not a classifier of cells.
    ValueError
        If the model is not trained, or on other cells, if every labelled cell was trained on, there are no counts, a baseline is unknown, or a
        slot holds something other than an earlier evaluation.

    Examples
    --------
    `model` is a :class:`~scgeneformer.model.CellClassifier` that was trained on these cells.

    >>> sg.pp.tokenize(adata)
    >>> sg.tl.evaluate(adata, model)
    >>> list(adata.uns["evaluation"]["metrics"].index)
    ['trained head', 'linear probe', 'regression on HVGs', 'most frequent class']
    """
    wanted = _names(baselines)
    classifier = load_classifier(model, "CellClassifier", adata)
    if copy:
        adata = adata.copy()
    cells = keys.as_adata(adata, mod)
    target = classifier.task(task)
    written = [f"obs/{key_added}", *answer_slots(key_added, ("", *wanted), target.kind).values(), f"uns/{key_added}"]
    keys.slot_names(() if target.kind == "continuous" else target.classes, f"Labels of {target.name!r},")
    slots.check_free(cells, "tl.evaluate", key_added, written)
    split = _split_of(classifier, cells, mod)
    tokens_key = classifier.registry["setup_args"]["tokens_key"]
    labels = _labels_of(classifier, target)

    train = split.train[~np.isnan(labels[split.train])]
    which, rows = _evaluated(split, labels)
    start = logg.info(f"evaluating {target.name!r} on {len(rows)} {which} cells")
    predictions = _predictions(classifier, target, rows)
    predicted = np.isfinite(predictions.reshape(len(predictions), -1)[:, 0])
    if not predicted.all():
        logg.warning(f"{np.sum(~predicted)} {which} cells have no tokens in .obsm[{tokens_key!r}], and are left out.")
    rows, answers = rows[predicted], {"": predictions[predicted]}
    if which == "validation":
        logg.warning(
            "There are no test cells: the scores are those of the validation cells, by which the weights were chosen."
        )

    samples = classifier.samples()
    if target.kind != "continuous":
        present = set(labels[rows].astype(np.int64))
        absent = [repr(name) for code, name in enumerate(target.classes) if code not in present]
        if absent:
            cure = "" if samples is None else " Each class needs cells of several samples, named by `sample_key`."
            logg.warning(f"No {which} cell is labelled {', '.join(absent)}: the scores do not cover every class.{cure}")
    if wanted:
        groups = None if samples is None else samples[train]
        n_classes = None if target.kind == "continuous" else len(target.classes)
        both, is_train = np.concatenate([train, rows]), np.arange(len(train) + len(rows)) < len(train)
        for name in wanted:
            features = (
                embedding_features(cells, classifier, both, tokens_key=tokens_key)
                if name == "probe"
                else gene_features(cells, both, is_train, layer=layer, tokens_key=tokens_key)
            )
            usable = np.isfinite(features).all(axis=1) if name == "probe" else np.ones(len(both), dtype=bool)
            answers[name] = answer(
                features[usable],
                is_train[usable],
                labels[train][usable[is_train]],
                n_classes=n_classes,
                groups=None if groups is None else groups[usable[is_train]],
                scaled=name == "probe",
                rng=rng,
            )

    evaluated = Evaluated(
        label=target.name,
        kind=target.kind,
        classes=target.classes,
        split=split,
        rows=rows,
        truth=labels[rows] if target.kind == "continuous" else labels[rows].astype(np.int64),
        training=labels[train],
        answers=answers,
        name="trained head" if _encoder_as_it_was(classifier) else "fine-tuned",
        donors=None if samples is None else samples[rows],
    )
    pretrained = classifier.to_pretrained()
    metrics = write_evaluation(
        cells,
        key_added,
        evaluated,
        set=which,
        n_cells=len(rows),
        model=pretrained.name,
        weights_sha256=pretrained.sha256,
        vocabulary_hash=pretrained.vocabulary.hash,
        temperature=classifier.temperature_.get(target.name),
        tokens_key=tokens_key,
        precision=settings.precision,
        n_bootstrap=n_bootstrap,
        rng=rng,
    )
    logg.info(metrics.to_string(float_format="{:.3f}".format))
    logg.info("    finished", time=start, deep=f"added\n    {key_added!r}, scores (adata.uns), sets (adata.obs)")
    return adata if copy else None


def _encoder_as_it_was(classifier: CellClassifier) -> bool:
    """Whether the classifier has the encoder that training started from."""
    return classifier.module.frozen or (classifier.selected is not None and classifier.selected.kept == "probe")


def _names(baselines: bool | Sequence[str]) -> tuple[str, ...]:  # noqa: FBT001 - what the keyword of `evaluate` was given
    """Names of the baselines to train."""
    if isinstance(baselines, bool):
        return tuple(BASELINES) if baselines else ()
    names = (baselines,) if isinstance(baselines, str) else tuple(baselines)
    return tuple(dict.fromkeys(names))


def _split_of(classifier: CellClassifier, cells: AnnData, mod: str) -> Split:
    """The split of the training, if it is of these cells."""
    if classifier.adata is None:
        msg = "This classifier has no data, and so no split of cells. Load it with the data: `CellClassifier.load(folder, adata)`."
        raise ValueError(msg)
    if classifier.split_ is None:
        msg = "This classifier has not been trained, and so has no split of cells. Call `model.train()` first."
        raise ValueError(msg)
    registered = keys.as_adata(classifier.adata, mod)
    if registered.n_obs != cells.n_obs or not registered.obs_names.equals(cells.obs_names):
        msg = (
            f"The {cells.n_obs} cells of adata are not the {registered.n_obs} that this classifier was trained and "
            "split on. Pass those, or label others with `sg.tl.annotate(adata, model)`."
        )
        raise ValueError(msg)
    return classifier.split


def _labels_of(classifier: CellClassifier, target: Any) -> np.ndarray:
    """Codes of classes or numbers, float64 (n_obs,), NaN where missing."""
    names = [task.name for task in classifier.tasks]
    labels = classifier.labels()[:, names.index(target.name)].astype(np.float64)
    return labels * target.sd + target.mean if target.kind == "continuous" else labels


def _evaluated(split: Split, labels: np.ndarray) -> tuple[str, np.ndarray]:
    """The set to evaluate and its labelled cells."""
    for which in ("test", "validation"):
        rows = getattr(split, which)
        rows = rows[~np.isnan(labels[rows])]
        if len(rows):
            return which, rows
    msg = "Every labelled cell was trained on. Train with `test_size` above 0, or a `split` with test cells."
    raise ValueError(msg)


def _predictions(classifier: CellClassifier, target: Any, rows: np.ndarray) -> np.ndarray:
    """Probabilities of classes (n_rows, n_classes), or numbers (n_rows,), by the classifier."""
    return np.asarray(classifier.predict(indices=rows, soft=target.kind != "continuous", task=target.name))
