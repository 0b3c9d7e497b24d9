"""Pairs of genes that are not known to belong together, drawn for comparison with known ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._pairs import pair_keys
from ._splits import PairFold

if TYPE_CHECKING:
    from numpy.random import Generator

Negatives = Literal["degree", "uniform"]
NEGATIVES: tuple[Negatives, ...] = ("degree", "uniform")
_ROUNDS = 100  # of repairs; what is refused after them has nowhere to go


def kinds_of(given: Any, *, labelled: bool) -> tuple[Negatives, ...]:
    """The kinds of negatives that are `given`, or all.

    Raises
    ------
    ValueError
        If some are given for pairs with labels.
    """
    if given is not None and labelled:
        msg = f"negatives={given!r} has no meaning for pairs with labels, among which none are drawn. Leave it out."
        raise ValueError(msg)
    chosen: Any = (given,) if isinstance(given, str) else given
    return NEGATIVES if chosen is None else tuple(chosen)


def uniform_negatives(
    n: int,
    pools: tuple[np.ndarray, np.ndarray],
    excluded: np.ndarray,
    *,
    n_genes: int,
    directed: bool,
    rng: Generator,
) -> np.ndarray:
    """Different pairs of a gene of the first pool and one of the second, each as probable as any other.

    Parameters
    ----------
    n
        Number of pairs wanted. There are fewer where the pools are too small.
    pools
        Genes of either side.
    excluded
        Keys of pairs that are not drawn, see `pair_keys`.
    n_genes, directed
        Of the keys.
    rng
        Generator.

    Returns
    -------
    int64 (n or fewer, 2).
    """
    drawn = np.empty((0, 2), dtype=np.int64)
    for _ in range(_ROUNDS):
        more = np.column_stack([rng.choice(pool, 2 * n) for pool in pools])
        drawn = np.concatenate([drawn, more])
        drawn = drawn[~_refused(drawn, excluded, n_genes, directed=directed)]
        if len(drawn) >= n:
            break
    return drawn[:n]


def degree_matched_negatives(
    positives: np.ndarray,
    excluded: np.ndarray,
    *,
    n_genes: int,
    directed: bool,
    sided: bool,
    rng: Generator,
) -> np.ndarray:
    """Pairs in which every gene occurs as often as in `positives`: these with their second genes exchanged.

    A gene that has most of the others as partners cannot have as many negatives; what remains of its pairs is left out.

    Parameters
    ----------
    positives
        int64 (n, 2).
    excluded
        Keys of pairs that are not made, see `pair_keys`.
    n_genes, directed
        Of the keys.
    sided
        Whether a gene must stay on its side of a pair.
    rng
        Generator.

    Returns
    -------
    int64 (n or fewer, 2).
    """
    pairs = positives.copy()
    rows = np.arange(len(pairs))
    if not sided:
        _flip_some(pairs, rows, rng)
    pairs[:, 1] = rng.permutation(pairs[:, 1])
    for _ in range(_ROUNDS):
        refused = _refused(pairs, excluded, n_genes, directed=directed)
        if not refused.any():
            break
        bad = rng.permutation(rows[refused])
        good = rng.permutation(rows[~refused])[: len(bad)]
        if len(good) == 0:
            pairs[:, 1] = rng.permutation(pairs[:, 1])
            continue
        bad = bad[: len(good)]
        if not sided:
            _flip_some(pairs, good, rng)
        exchanged = pairs.copy()
        exchanged[bad, 1], exchanged[good, 1] = pairs[good, 1], pairs[bad, 1]
        refused = _refused(exchanged, excluded, n_genes, directed=directed)
        better = ~refused[bad] & ~refused[good]
        pairs[bad[better], 1], pairs[good[better], 1] = exchanged[bad[better], 1], exchanged[good[better], 1]
    return pairs[~_refused(pairs, excluded, n_genes, directed=directed)]


def negatives_of_fold(
    kind: Negatives,
    pairs: np.ndarray,
    fold: PairFold,
    *,
    sided: bool,
    n_genes: int,
    directed: bool,
    rng: Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Negatives for the training and for the tested pairs of a fold, about as many as there are of these.

    Those for training have no unseen gene, and those for the test have unseen genes where the tested pairs have them. None is a pair of
    the table, and none is in both.

    Parameters
    ----------
    kind
        ``"uniform"``: any pair of genes that the table has on these sides is as probable as any other. ``"degree"``: every gene occurs as often
        as in the positives of the same side.
    pairs
        All pairs of the table, int64 (n, 2).
    fold
        The fold.
    sided
        Whether exactly one gene of each tested pair is unseen.
    n_genes, directed
        Of the keys of pairs.
    rng
        Generator.
    """
    sources, targets = (occurring(pairs[:, end] if directed else pairs, n_genes) for end in (0, 1))
    seen = ~fold.unseen
    train, test = pairs[fold.train], pairs[fold.test]
    pools = [(sources & seen, targets & seen), (sources & seen, targets & seen)]
    if sided:
        turned = ~fold.unseen[test[:, 0]]
        test = np.where(turned[:, None], test[:, ::-1], test)  # the unseen gene comes first
        pools[1] = (sources & fold.unseen, targets & occurring(train, n_genes))
    elif fold.unseen.any():
        pools[1] = (sources & fold.unseen, targets & fold.unseen)
    excluded, drawn = pair_keys(pairs, n_genes, directed=directed), []
    for positives, pool, is_sided in zip((train, test), pools, (directed, directed or sided), strict=True):
        if kind == "uniform":
            genes = (np.flatnonzero(pool[0]), np.flatnonzero(pool[1]))
            new = uniform_negatives(len(positives), genes, excluded, n_genes=n_genes, directed=directed, rng=rng)
        else:
            new = degree_matched_negatives(
                positives, excluded, n_genes=n_genes, directed=directed, sided=is_sided, rng=rng
            )
        drawn.append(new)
        excluded = np.concatenate([excluded, pair_keys(new, n_genes, directed=directed)])
    return drawn[0], drawn[1]


def negatives_of_all(kind: Negatives, pairs: np.ndarray, *, n_genes: int, directed: bool, rng: int) -> np.ndarray:
    """Negatives for all pairs of the table, int64 (n or fewer, 2); see `negatives_of_fold`."""
    everything = PairFold(np.arange(len(pairs)), np.arange(0), np.zeros(n_genes, dtype=bool))
    generator = np.random.default_rng(rng)
    return negatives_of_fold(kind, pairs, everything, sided=False, n_genes=n_genes, directed=directed, rng=generator)[0]


def occurring(pairs: np.ndarray, n_genes: int) -> np.ndarray:
    """Which genes `pairs` have, bool (n_genes,)."""
    occurs = np.zeros(n_genes, dtype=bool)
    occurs[pairs] = True
    return occurs


def _flip_some(pairs: np.ndarray, rows: np.ndarray, rng: Generator) -> None:
    """Swap the genes of about half of the `rows` of `pairs`, in place."""
    some = rows[rng.random(len(rows)) < 0.5]
    pairs[some] = pairs[some][:, ::-1]


def _refused(pairs: np.ndarray, excluded: np.ndarray, n_genes: int, *, directed: bool) -> np.ndarray:
    """Which pairs are of one gene, excluded, or the same as an earlier one, bool (n,)."""
    keys = pair_keys(pairs, n_genes, directed=directed)
    repeated = np.ones(len(keys), dtype=bool)
    repeated[np.unique(keys, return_index=True)[1]] = False
    return repeated | (pairs[:, 0] == pairs[:, 1]) | np.isin(keys, excluded)
