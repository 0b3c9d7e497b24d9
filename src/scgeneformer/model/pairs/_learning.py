"""How classifiers of pairs learn: from vectors of genes, or by fine-tuning the encoder that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from ._methods import MODEL, PROBE_ROW, fit, or_shares
from ._pair_encoder import PairEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from scgeneformer.hub import Pretrained

    from ._methods import Classifier, Method, Predictor, Task

TUNED = "fine-tuned"


@dataclass(frozen=True, eq=False)
class Learner:
    """What a classifier of pairs learns with.

    Attributes
    ----------
    kind
        Of the classifier.
    classes
        Names of the classes.
    directed
        Whether the order of genes counts.
    vectors, families
        Of the genes of the vocabulary, (V, H) and (V,).
    start
        The encoder to fine-tune.
    cells
        Tokens of the cells to fine-tune it in, (n_cells, L).
    """

    kind: Classifier | Literal["fine-tuned"]
    classes: tuple[str, ...]
    directed: bool
    vectors: np.ndarray
    families: np.ndarray
    start: Pretrained | None
    cells: np.ndarray | None

    def learn(self, pairs: np.ndarray, codes: np.ndarray, rng: int, **train_kwargs: Any) -> Predictor:
        """Learn pairs, int64 (n, 2), and their classes, (n,); `train_kwargs` are for a fine-tuned encoder."""
        if self.kind != TUNED:
            kind = cast("Classifier", self.kind)
            return fit(kind, self.vectors, pairs, codes, len(self.classes), directed=self.directed, rng=rng)
        freeze = train_kwargs.pop("freeze", 0)
        model = PairEncoder.of(self.start, self.classes, self.cells, directed=self.directed, freeze=freeze)
        model.train(pairs, codes, self.families, rng=rng, **train_kwargs)
        return model

    def methods(self, train_kwargs: Mapping[str, Any], kept: list[str]) -> dict[str, Method]:
        """The model as a method of a cross-validation, after the probe if it is fine-tuned; what each fold keeps is added to `kept`."""

        def model(task: Task) -> np.ndarray:
            predict = self.learn(task.train, task.codes, task.rng, **train_kwargs)
            if isinstance(predict, PairEncoder):
                kept.append(predict.selected.kept)
            return or_shares(predict(task.test), task)

        def probe(task: Task) -> np.ndarray:
            options = {name: train_kwargs[name] for name in ("max_cells",) if name in train_kwargs}
            return or_shares(self.learn(task.train, task.codes, task.rng, recipe="probe", **options)(task.test), task)

        return {PROBE_ROW: probe, MODEL: model} if self.kind == TUNED else {MODEL: model}


def check_kinds(features: str, classifier: str, *, has_cells: bool) -> None:
    """Refuse features and classifiers that need what is missing.

    Raises
    ------
    ValueError
        If so.
    """
    if features == "contextual" and not has_cells:
        msg = 'features="contextual" needs tokenized cells. Pass adata, or features="token".'
        raise ValueError(msg)
    if classifier == TUNED and features != "contextual":
        msg = f'classifier="{TUNED}" reads the states of genes in cells. Pass adata and features="contextual".'
        raise ValueError(msg)


def check_options(kind: str, start: Pretrained | None, train_kwargs: Mapping[str, Any]) -> None:
    """Refuse options of training that have no meaning for a classifier, or to train an encoder that is not known.

    Raises
    ------
    TypeError, ValueError
        If so.
    """
    if train_kwargs and kind != TUNED:
        msg = (
            f'{", ".join(train_kwargs)} are options of classifier="{TUNED}", but this one is {kind!r}. Leave them out.'
        )
        raise TypeError(msg)
    if kind == TUNED and start is None:
        msg = "This model was loaded, and the encoder that it started from is not in its folder. Make a new PairClassifier to train one."
        raise ValueError(msg)
