"""Folds of pairs of genes: at random, or so that one or both genes of a tested pair are in no training pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scgeneformer import evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

PairSplit = Literal["both_unseen", "one_unseen", "random"]
SPLITS: tuple[PairSplit, ...] = ("both_unseen", "one_unseen", "random")


@dataclass(frozen=True, eq=False)
class PairFold:
    """One fold of pairs.

    Attributes
    ----------
    train, test
        Rows of the pairs to learn from, and of those that are tested.
    unseen
        Genes that no training pair may have, bool (n_genes,).
    """

    train: np.ndarray
    test: np.ndarray
    unseen: np.ndarray


def pair_folds(
    pairs: np.ndarray,
    codes: np.ndarray,
    families: np.ndarray,
    n_folds: int,
    split: PairSplit,
    *,
    directed: bool,
    classes: Sequence[str] | None = None,
    rng: int | Generator = 0,
) -> list[PairFold]:
    """Folds of a cross-validation of pairs; no pair is tested twice.

    With ``"random"`` every pair is tested once. Otherwise families of genes are dealt to as many groups as folds, and the genes of a
    group are unseen in its fold: no pair that has one of them trains. ``"both_unseen"`` tests the pairs within the group, ``"one_unseen"``
    pairs of a gene of the group with one that occurs in a training pair: with `directed` the source is the unseen one; else a pair is
    tested with the one or the other gene unseen, as drawn.

    Two genes of one family are always in the same group, and others in one of `n_folds` cases. Where both genes are unseen, pairs within a
    family are therefore tested with probability ``1 / n_folds``, so that they are not more frequent than in the table:
    family members are easily recognised as similar. Where one is unseen there are none.

    Parameters
    ----------
    pairs
        int64 (n, 2), numbers of genes.
    codes
        Class of each pair, int64 (n,).
    families
        Family of each gene, int64 (n_genes,), which stays in one group.
    n_folds
        Number of folds.
    split
        Kind of split.
    directed
        Whether the two genes of a pair have different roles.
    classes
        Names of classes for errors.
    rng
        Seed or generator.

    Raises
    ------
    ValueError
        If a class has fewer pairs than there are folds, or a fold cannot learn or test one of the classes.
    """
    rng = np.random.default_rng(rng)
    names = [str(code) for code in range(codes.max() + 1)] if classes is None else list(classes)
    _check_sizes(codes, n_folds, names)
    one_class = len(np.unique(codes)) < 2
    labels = np.zeros(len(codes)) if one_class else codes  # continuous ones are not stratified
    if split == "random":
        fold = evaluation.folds(labels, n_folds, classes=names, rng=rng)
        unseen = np.zeros(len(families), dtype=bool)
        rows = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f), unseen) for f in range(n_folds)]
    else:
        ends = pairs.ravel()
        group = np.full(len(families), -1)
        try:
            dealt = evaluation.folds(np.repeat(labels, 2), n_folds, groups=families[ends], classes=names, rng=rng)
        except ValueError as error:
            msg = f"Genes of pairs= cannot be dealt to {n_folds} folds by family: {error} Or give family=None, or splits='random'."
            raise ValueError(msg) from None
        group[ends] = dealt
        choice = np.zeros(len(pairs), dtype=np.int64) if directed else rng.integers(0, 2, len(pairs))
        alike = families[pairs[:, 0]] == families[pairs[:, 1]]
        thinned = alike & (rng.random(len(pairs)) >= 1 / n_folds)
        rows = [_of_group(pairs, group == f, choice, thinned, split) for f in range(n_folds)]
    folds = [PairFold(*parts) for parts in rows]
    for number, fold_ in enumerate(folds):
        _check_fold(fold_, number, codes, names, n_folds, split)
    return folds


def _of_group(
    pairs: np.ndarray, unseen: np.ndarray, choice: np.ndarray, thinned: np.ndarray, split: PairSplit
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training and tested pairs if the genes `unseen` are.

    `choice` is the end that is unseen where one is, and pairs that are `thinned` are not tested where both are.
    """
    is_unseen = unseen[pairs]  # (n, 2)
    train = ~is_unseen.any(axis=1)
    if split == "both_unseen":
        return np.flatnonzero(train), np.flatnonzero(is_unseen.all(axis=1) & ~thinned), unseen
    seen = np.zeros(len(unseen), dtype=bool)
    seen[pairs[train]] = True
    rows = np.arange(len(pairs))
    test = is_unseen[rows, choice] & seen[pairs[rows, 1 - choice]]
    return np.flatnonzero(train), np.flatnonzero(test), unseen


def _check_sizes(codes: np.ndarray, n_folds: int, names: Sequence[str]) -> None:
    n_pairs = np.bincount(codes, minlength=len(names))
    small = [f"{names[code]!r} ({n})" for code, n in enumerate(n_pairs) if 0 < n < n_folds]
    if small:
        msg = f"Classes of pairs= with fewer pairs than the {n_folds} folds: {', '.join(small)}. Use fewer folds (n_folds=), or leave them out."
        raise ValueError(msg)


def _check_fold(
    fold: PairFold, number: int, codes: np.ndarray, names: Sequence[str], n_folds: int, split: PairSplit
) -> None:
    for code in np.unique(codes):
        n_train, n_test = (int((codes[rows] == code).sum()) for rows in (fold.train, fold.test))
        if n_train < 2 or n_test == 0:
            msg = (
                f"Fold {number} of split {split!r} has {n_train} pairs of class {names[code]!r} to learn from and "
                f"{n_test} to test, of {len(codes)} pairs and {n_folds} folds. Give more pairs, use another n_folds=, "
                "or leave the split out of splits=."
            )
            raise ValueError(msg)
