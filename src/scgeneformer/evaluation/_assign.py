"""Random assignment of items, or of groups of items, to sets."""

from __future__ import annotations

import numpy as np

N_CANDIDATES = 512  # random assignments of which the best is taken


def stratified(codes: np.ndarray, sizes: np.ndarray, order: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Deal the members of every class out to sets at random, each set getting its share of each class.

    Parameters
    ----------
    codes
        Class of each item, (n,).
    sizes
        Share of each set, (n_sets,), summing to 1.
    order
        The sets, those first that get a member of a class which has fewer members than there are sets.

    Returns
    -------
    int64 array of shape (n,): the set of each item.
    """
    quotas = _quotas(np.bincount(codes), sizes, order)
    shuffled = rng.permutation(len(codes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    sets = np.empty(len(codes), dtype=np.int64)
    sets[by_class] = np.repeat(np.tile(np.arange(len(sizes)), len(quotas)), quotas.ravel())
    return sets


def _quotas(n_members: np.ndarray, sizes: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Members of each class for each set, (n_classes, n_sets): at least one where they suffice, sums near the sizes."""
    ideal = n_members[:, None] * sizes
    quotas = np.floor(ideal + 1e-9).astype(np.int64)
    used = [s for s in order if sizes[s] > 0]
    owed = np.zeros(len(sizes))  # to each set, from rounding the classes before
    for n, wish, quota in zip(n_members, ideal, quotas, strict=True):
        if n >= len(used):
            quota[used] = np.maximum(quota[used], 1)
        else:
            quota[:] = 0
            quota[used[:n]] = 1
        while quota.sum() > n:
            quota[quota.argmax()] -= 1
        while quota.sum() < n:
            quota[np.where(quota < wish - 1e-9, owed + wish - quota, -np.inf).argmax()] += 1
        owed += wish - quota
    return quotas


def grouped(counts: np.ndarray, sizes: np.ndarray, *, cover_first: bool, rng: np.random.Generator) -> np.ndarray:
    """Assign whole groups to sets, many times at random.

    Groups come in random order, and each goes to the set that most lacks what it has: where the sum over sets and classes of
    squared differences from the shares asked for, relative to the size of the class, falls most; a choice that gets noise, more from
    candidate to candidate, since what is best for one group after another need not be best in the end. All classes together count as
    one more, so that sets get their sizes even where every group is of one class.

    Parameters
    ----------
    counts
        Members of each class in each group, (n_groups, n_classes).
    sizes
        Share of each set, (n_sets,); at least as many groups as sets with a share.
    cover_first
        The last group that has a class which set 0 lacks goes there.

    Returns
    -------
    int64 array of shape (n_candidates, n_groups). A set may be left without groups only by `cover_first`.
    """
    n_groups = len(counts)
    counts = _with_total(counts)
    used, totals = sizes > 0, counts.sum(axis=0)
    weight = 1 / np.maximum(totals, 1) ** 2.0
    order = rng.permuted(np.tile(np.arange(n_groups), (N_CANDIDATES, 1)), axis=1)
    rows, noise = np.arange(N_CANDIDATES), np.linspace(0, 4, N_CANDIDATES)[:, None]
    lack = np.tile(sizes[:, None] * totals, (N_CANDIDATES, 1, 1))  # (K, S, C)
    to_come = np.tile((counts > 0).sum(axis=0), (N_CANDIDATES, 1))  # groups that have a class (K, C)
    covered = np.zeros(to_come.shape, dtype=bool)
    n_in = np.zeros((N_CANDIDATES, len(sizes)), dtype=np.int64)
    sets = np.empty((N_CANDIDATES, n_groups), dtype=np.int64)
    for i in range(n_groups):
        group = order[:, i]
        own = counts[group]  # (K, C)
        gain = np.einsum("ksc,kc->ks", lack, own * weight)
        gain += noise * np.ptp(gain, axis=1, keepdims=True) * rng.random(gain.shape)
        empty = used & (n_in == 0)
        short = empty.sum(axis=1) >= n_groups - i  # every group left is needed to fill a set
        gain[~used | (short[:, None] & ~empty)] = -np.inf
        chosen = gain.argmax(axis=1)
        to_come -= own > 0
        if cover_first:
            chosen[((own > 0) & (to_come == 0) & ~covered).any(axis=1)] = 0
            covered |= (own > 0) & (chosen == 0)[:, None]
        sets[rows, group] = chosen
        lack[rows, chosen] -= own
        n_in[rows, chosen] += 1
    return sets


def tabulate(sets: np.ndarray, counts: np.ndarray, n_sets: int) -> np.ndarray:
    """Members of each class in each set of every candidate, (n_candidates, n_sets, n_classes)."""
    return np.stack([(sets == s).astype(np.float64) @ counts for s in range(n_sets)], axis=1)


def deviation(table: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How far each candidate is from the shares asked for, (n_candidates,): what :func:`grouped` makes small."""
    table = _with_total(table)
    totals = np.maximum(table.sum(axis=1, keepdims=True), 1)
    return ((table / totals - sizes[:, None]) ** 2).sum(axis=(1, 2))


def _with_total(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([counts, counts.sum(axis=-1, keepdims=True)], axis=-1)
