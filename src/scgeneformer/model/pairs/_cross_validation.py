"""Cross-validation of classifiers of pairs of genes: each kind of split and of negatives, beside baselines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import evaluation

from ._methods import Task
from ._negatives import NEGATIVES, negatives_of_fold
from ._pairs import LABEL
from ._splits import SPLITS, pair_folds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._methods import Method
    from ._negatives import Negatives
    from ._pairs import Pairs
    from ._splits import PairFold, PairSplit

_SPREAD = ("auroc", "average_precision", "accuracy")  # scores with a standard deviation
_COLUMNS = (
    *(f"{name}{end}" for name in _SPREAD[:2] for end in ("", "_sd")),
    "base_rate",
    "ap_ratio",
    "accuracy",
    "accuracy_sd",
    "majority",
    "n_train",
    "n_test",
)


@dataclass(frozen=True, eq=False, repr=False)
class PairCrossValidation:
    """Scores of a classifier of gene pairs and of baselines, by split and negatives. Printing it shows `table`.

    Attributes
    ----------
    scores
        Scores by ``split``, ``negatives``, ``method``, ``repeat`` and ``fold``. ``auroc`` and ``average_precision`` are for the positives, for the second of
        two labels, or means over more labels. ``base_rate`` is the average precision of a random score, ``majority`` the accuracy of always
        predicting the most frequent class, ``n_train`` and ``n_test`` the number of pairs, negatives included.
    left_out
        Baselines that could not be computed, and the reasons.
    params
        Model, vocabulary and arguments.

    Examples
    --------
    >>> genes = list(adata.var_names)
    >>> pairs = pd.DataFrame({"source": genes[:20] * 2, "target": genes[20:] + genes[21:] + genes[20:21]})
    >>> cv = sg.model.PairClassifier(None, pairs, family=None).cross_validate(2, n_repeats=2, splits="random")
    >>> cv.table.index.names
    FrozenList(['split', 'negatives', 'method'])
    >>> cv.table.loc[("random", "degree")].index.tolist()
    ['degree', 'random vectors', 'cosine', 'model']
    >>> cv.left_out
    {'detection': 'no cells were given', 'co-expression': 'no cells were given', 'family': 'genes have no families'}
    """

    scores: pd.DataFrame
    left_out: dict[str, str]
    params: dict[str, Any] = field(repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """One row for each ``split``, ``negatives`` and ``method``, baselines first.

        Columns are as in :attr:`scores`, averaged over the folds of each repeat, and then over repeats. ``<score>_sd`` is the standard deviation
        over repeats, NaN if there is one; ``ap_ratio`` is ``average_precision / base_rate``.
        """
        keys = ["split", "negatives", "method"]
        by_repeat = self.scores.groupby([*keys, "repeat"], sort=False)
        repeats = by_repeat.mean()
        grouped = repeats.groupby(keys, sort=False)
        table, spread = grouped.mean(), grouped.std(ddof=1)
        table = table.assign(**{f"{name}_sd": spread[name] for name in _SPREAD})
        return table.assign(ap_ratio=table["average_precision"] / table["base_rate"])[list(_COLUMNS)]

    def __repr__(self) -> str:
        table = self.table.astype({"n_train": int, "n_test": int})
        lines = [table.to_string(float_format="{:.3f}".format)]
        lines += [f"Without {name}: {reason}." for name, reason in self.left_out.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """How a cross-validation is laid out, as its caller asked.

    Attributes
    ----------
    n_folds, n_repeats, splits, negatives, max_pairs, rng
        See :meth:`PairClassifier.cross_validate`.
    """

    n_folds: int
    n_repeats: int
    splits: tuple[PairSplit, ...]
    negatives: tuple[Negatives, ...]
    max_pairs: int | None
    rng: int

    def __post_init__(self) -> None:
        for name, chosen, known in (("splits", self.splits, SPLITS), ("negatives", self.negatives, NEGATIVES)):
            if not chosen:
                msg = f"{name}= is empty. Name some of {', '.join(map(repr, known))}."
                raise ValueError(msg)

    def folds(self, pairs: Pairs, families: np.ndarray, *, directed: bool) -> dict[PairSplit, list[list[PairFold]]]:
        """Folds of each repeat, by split.

        Raises
        ------
        ValueError
            If the pairs do not suffice for one of them.
        """
        return {
            split: [
                pair_folds(
                    pairs.tokens,
                    pairs.codes,
                    families,
                    self.n_folds,
                    split,
                    directed=directed,
                    classes=pairs.classes,
                    rng=seed,
                )
                for seed in range(self.rng, self.rng + self.n_repeats)
            ]
            for split in self.splits
        }


def cross_validate(
    pairs: Pairs,
    folds: Mapping[PairSplit, Sequence[Sequence[PairFold]]],
    methods: Mapping[str, Method],
    plan: Plan,
    *,
    n_genes: int,
    directed: bool,
) -> pd.DataFrame:
    """Scores of every method in every fold: :attr:`PairCrossValidation.scores`."""
    rows: dict[tuple[str, str, str, int, int], dict[str, float]] = {}
    for split, repeats in folds.items():
        for repeat, of_repeat in enumerate(repeats):
            for number, fold in enumerate(of_repeat):
                for kind, task, truth in _tasks(
                    pairs, fold, plan, split, seed=plan.rng + repeat, n_genes=n_genes, directed=directed
                ):
                    for name, method in methods.items():
                        scores = _score(truth, method(task), pairs.classes)
                        rows[split, kind, name, repeat, number] = scores | {"n_train": len(task.train)}
    orders: tuple[tuple[str, ...], ...] = (plan.splits, (*plan.negatives, LABEL), tuple(methods))
    keys = sorted(rows, key=lambda key: [order.index(part) for order, part in zip(orders, key, strict=False)])
    index = pd.MultiIndex.from_tuples(keys, names=["split", "negatives", "method", "repeat", "fold"])
    return pd.DataFrame([rows[key] for key in keys], index=index)


def _tasks(
    pairs: Pairs, fold: PairFold, plan: Plan, split: PairSplit, *, seed: int, n_genes: int, directed: bool
) -> Iterator[tuple[str, Task, np.ndarray]]:
    """What methods get of a fold, for each kind of negatives, and the classes of the tested pairs."""
    known = pairs[fold.train]
    rng = np.random.default_rng([seed, len(fold.test)])
    if plan.max_pairs is not None and plan.max_pairs < len(fold.train):
        fold = replace(fold, train=np.sort(rng.choice(fold.train, plan.max_pairs, replace=False)))
    train, test = pairs[fold.train], pairs[fold.test]
    common: dict[str, Any] = {"known": known.tokens, "known_codes": known.codes, "n_classes": len(pairs.classes)}
    if pairs.labelled:
        yield LABEL, Task(train.tokens, train.codes, test.tokens, rng=seed, **common), test.codes
        return
    for kind in plan.negatives:
        options: dict[str, Any] = {"sided": split == "one_unseen", "n_genes": n_genes, "directed": directed}
        others = negatives_of_fold(kind, pairs.tokens, fold, rng=rng, **options)
        (learned, codes), (tested, truth) = (
            with_negatives(part.tokens, more) for part, more in zip((train, test), others, strict=True)
        )
        yield kind, Task(learned, codes, tested, rng=seed, **common), truth


def with_negatives(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both together, int64 (n, 2), and their classes.

    Raises
    ------
    ValueError
        If there are no negatives.
    """
    if len(negatives) == 0:
        msg = (
            f"No negatives can be drawn for {len(positives)} pairs: among their genes, no free pair keeps the numbers "
            "of partners. Give more pairs in pairs=, or use fewer folds (n_folds=) or negatives='uniform'."
        )
        raise ValueError(msg)
    codes = np.repeat([1, 0], [len(positives), len(negatives)])
    return np.concatenate([positives, negatives]), codes


def _score(truth: np.ndarray, proba: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    scores = evaluation.classification(truth, proba, classes).scores
    shares = np.bincount(truth, minlength=len(classes)) / len(truth)
    return {
        "auroc": scores["auc"],
        "average_precision": scores["average_precision"],
        "base_rate": shares[1] if len(classes) == 2 else shares.mean(),
        "accuracy": scores["accuracy"],
        "majority": shares.max(),
        "n_test": len(truth),
    }
