"""One pass over the values before ranking: whether they are counts, and how many genes each cell has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._matrix import as_rows, check_columns, check_matrix, is_lazy, slabs, to_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._matrix import Rows

    Counts = Literal["raw", "linear", "log1p"]

# log1p of the deepest cell's largest count is below 14, log2 of it below 20
_LOG_PEAK = 20.0
# no cell has a billion counts of one gene, and no one scales to more
_LINEAR_PEAK = 1e9
_SAMPLE_ROWS = 64
_LOOKED_AT = 8  # rows of each slab
# Cells with that many genes have a gene of more than one count, and one gene alone in most counts; with 500 genes, one of ten counts.
_ENOUGH_GENES, _MANY_GENES, _FEW_COUNTS = 50, 500, 10
_MOSTLY = 0.9


@dataclass(frozen=True)
class Inspection:
    """Checks and sums of a matrix of counts.

    Attributes
    ----------
    n_genes
        Shape (n_obs,), int64: distinct tokens with a positive value, before truncation.
    totals
        Shape (n_obs,), float64: sum of all values, including genes outside the vocabulary.
    mapped
        Shape (n_obs,), float64: sum of the values of genes in the vocabulary.
    flags
        Bits of `_kernels` for negative values, values that are not finite, fractions, and genes of a cell that share a token.
    peak
        The largest value.
    exp_sums
        Sums of exp(x) - 1 of some cells, which are equal after log-normalisation; empty if the values cannot be logarithms.
    looks
        Shape (n, 4), some cells with 50 genes or more: number of positive values; share of distinct ones among them; the smallest; and 1 if
        all of their squares are integers, else 0.
    has_fractions
        Whether some of the values as they are stored, before a logarithm is undone, are no integers.
    """

    n_genes: np.ndarray
    totals: np.ndarray
    mapped: np.ndarray
    flags: int
    peak: float
    exp_sums: np.ndarray
    looks: np.ndarray
    has_fractions: bool

    @property
    def doubts(self) -> str | None:
        """Why the values may not be counts, although they are integers; None if nothing speaks against it."""
        from ._kernels import FRACTION

        if self.flags & FRACTION or len(self.looks) == 0:
            return None
        n_values, _, smallest, _ = self.looks.T
        if self.peak < _FEW_COUNTS and np.median(n_values) >= _MANY_GENES:
            return (
                f"no value is above {self.peak:.0f}, although cells have {np.median(n_values):,.0f} genes (median), as after rounding of "
                "logarithms or square roots"
            )
        if (smallest > 1).mean() > _MOSTLY:
            return f"no cell has a gene with a single count (the smallest value of a cell is {np.median(smallest):.3g}), as after ranking or scaling"
        return None

    @property
    def has_duplicates(self) -> bool:
        """Whether a cell has several values for one token."""
        from ._kernels import DUPLICATE

        return bool(self.flags & DUPLICATE)

    @property
    def fraction_mapped(self) -> float:
        """Share of all counts in genes of the vocabulary; nan if there are no counts."""
        total = self.totals.sum()
        return float(self.mapped.sum() / total) if total > 0 else float("nan")


def inspect(
    X: Any, token_id: np.ndarray, *, counts: Counts = "raw", log_base: float | None = None, slot: str = "X"
) -> Inspection:
    """Check the values of a matrix, and count the genes of each cell.

    Parameters
    ----------
    X
        Cells x genes: array, sparse matrix, dask array or data set of an open file; the last two are computed or read once, in blocks.
    token_id
        Shape (n_vars,): token of each gene, -1 if it has none.
    counts, log_base
        As in `encode`.
    slot
        Name of the matrix in errors.

    Raises
    ------
    TypeError
        If `X` is not a matrix of numbers.
    ValueError
        If values are negative or not finite, look log-normalised with ``counts="raw"``, or cannot be logarithms with ``counts="log1p"``.
    """
    if counts not in ("raw", "linear", "log1p"):
        msg = f"counts={counts!r} is not one of 'raw', 'linear', 'log1p'."
        raise ValueError(msg)
    check_matrix(X, slot)
    if X.shape[1] != len(token_id):
        msg = f"{slot} has {X.shape[1]:,} columns, but there are {len(token_id):,} genes."
        raise ValueError(msg)
    X = as_rows(X, slot)
    if is_lazy(X):
        from dask.base import compute
        from dask.delayed import delayed

        blocks = X.to_delayed().ravel()
        parts = compute(*(delayed(_inspect_block)(block, token_id, counts, log_base, slot) for block in blocks))
    else:
        parts = _in_threads(X, token_id, counts, log_base, slot)
    inspection = _join(parts)
    _check(inspection, counts, slot)
    return inspection


def linearise(rows: Rows, counts: Counts, log_base: float | None) -> Rows:
    """Undo the logarithm if ``counts="log1p"``."""
    if counts != "log1p":
        return rows
    exponent = rows.data.astype(np.float64) * (1.0 if log_base is None else np.log(log_base))
    with np.errstate(over="ignore"):  # infinity is reported by the check
        return rows._replace(data=np.expm1(exponent))


def _in_threads(X: Any, token_id: np.ndarray, counts: Counts, log_base: float | None, slot: str) -> list[Inspection]:
    from ._threads import in_order

    return list(in_order(lambda slab: _inspect_rows(slab[1], token_id, counts, log_base, slot), slabs(X, slot)))


def _inspect_block(block: Any, token_id: np.ndarray, counts: Counts, log_base: float | None, slot: str) -> Inspection:
    return _inspect_rows(to_rows(block, slot), token_id, counts, log_base, slot)


def _inspect_rows(rows: Rows, token_id: np.ndarray, counts: Counts, log_base: float | None, slot: str) -> Inspection:
    from ._kernels import FRACTION, OUTSIDE, inspect_rows

    sample = rows.data[: rows.indptr[min(_SAMPLE_ROWS, rows.shape[0])]]
    with np.errstate(invalid="ignore"):  # infinite values are reported below
        has_fractions = bool((np.abs(sample - np.rint(sample)) > 1e-3).any())
    rows = linearise(rows, counts, log_base)
    n = rows.shape[0]
    n_genes, totals, mapped = np.empty(n, np.int64), np.empty(n), np.empty(n)
    seen = np.full(token_id.max(initial=-1) + 1, -1, dtype=np.int64)
    flags, peak = inspect_rows(rows.indptr, rows.indices, rows.data, token_id, seen, n_genes, totals, mapped)
    if flags & OUTSIDE:
        check_columns(rows, slot)  # raises
    sums = np.empty(0)
    if flags & FRACTION and peak < _LOG_PEAK:
        sums = np.asarray(rows.scipy()[:_SAMPLE_ROWS].astype(np.float64).expm1().sum(axis=1)).ravel()
    return Inspection(
        n_genes, totals, mapped, int(flags), float(peak), sums[sums > 0], _looks(rows, flags), has_fractions
    )


def _looks(rows: Rows, flags: int) -> np.ndarray:
    """What some cells look like, see `Inspection`."""
    from ._kernels import FRACTION

    looks = []
    for start, end in zip(rows.indptr[:_LOOKED_AT], rows.indptr[1 : _LOOKED_AT + 1], strict=False):
        values = rows.data[start:end]
        values = np.sort(values[values > 0])
        if len(values) >= _ENOUGH_GENES:
            n_distinct = 1 + np.count_nonzero(values[1:] != values[:-1])
            are_squares = True  # of integers
            if flags & FRACTION:
                squares = values.astype(np.float64) ** 2
                are_squares = bool((np.abs(squares - np.rint(squares)) <= 1e-4 * np.maximum(squares, 1)).all())
            looks.append((len(values), n_distinct / len(values), values[0], are_squares))
    return np.array(looks, dtype=np.float64).reshape(-1, 4)


def _join(parts: Iterable[Inspection]) -> Inspection:
    # an inspection of no cells, for matrices without any
    none = np.empty(0)
    parts = [Inspection(np.empty(0, np.int64), none, none, 0, 0.0, none, np.empty((0, 4)), has_fractions=False), *parts]
    return Inspection(
        np.concatenate([p.n_genes for p in parts]),
        np.concatenate([p.totals for p in parts]),
        np.concatenate([p.mapped for p in parts]),
        int(np.bitwise_or.reduce([p.flags for p in parts])),
        max(p.peak for p in parts),
        np.concatenate([p.exp_sums for p in parts]),
        np.concatenate([p.looks for p in parts]),
        any(p.has_fractions for p in parts),
    )


def _check(inspection: Inspection, counts: Counts, slot: str) -> None:
    from ._kernels import FRACTION, NEGATIVE, NOT_FINITE

    if counts == "log1p" and (inspection.flags & NOT_FINITE or inspection.peak > _LINEAR_PEAK):
        msg = f"counts='log1p', but {slot} has values that cannot be logarithms of counts. Leave `counts` out if it holds raw counts."
        raise ValueError(msg)
    if inspection.flags & NOT_FINITE:
        msg = f"{slot} has values that are NaN or infinite. Remove them, or set `layer=` to a layer with raw counts."
        raise ValueError(msg)
    if inspection.flags & NEGATIVE:
        msg = (
            f"{slot} has negative values, as after scaling, or as residuals have. Set `layer=` to a layer with raw "
            "counts."
        )
        raise ValueError(msg)
    if counts == "log1p" and not inspection.has_fractions and inspection.totals.any():
        msg = (
            f"counts='log1p', but {slot} has integers, and logarithms of counts are not integers. Leave `counts` out "
            "if it holds raw counts."
        )
        raise ValueError(msg)
    sums = inspection.exp_sums
    equal = len(sums) > 1 and sums.std() < 1e-2 * sums.mean()
    if counts == "log1p" and equal:
        msg = (
            f"{slot} is log-normalised twice: after the logarithm is undone, exp(x) - 1 adds up to the same total in "
            "every cell. Set `layer=` to a layer with raw counts."
        )
        raise ValueError(msg)
    what = _no_counts(inspection) if counts == "raw" else None
    if what is not None:
        msg = (
            f"{slot} {what}. Set `layer=` to a layer with raw counts; or pass counts='linear' if the values are "
            "proportional to counts in each cell."
        )
        raise ValueError(msg)
    if counts == "raw" and inspection.flags & FRACTION and inspection.peak < _LOG_PEAK:
        total = ", and exp(x) - 1 adds up to the same total in every cell" if equal else ""
        msg = (
            f"{slot} looks log-normalised: it has fractions and no value above {inspection.peak:.3g}{total}. Set "
            "`layer=` to a layer with raw counts; or pass counts='log1p' to undo the logarithm, or counts='linear' if "
            "the values are proportional to counts in each cell."
        )
        raise ValueError(msg)


def _no_counts(inspection: Inspection) -> str | None:
    """What the values certainly are, if not counts; logarithms aside."""
    from ._kernels import FRACTION

    if len(inspection.looks) < 2:
        return None
    _, distinct, _, squares = inspection.looks.T
    if inspection.flags & FRACTION:
        return "has square roots of counts: their squares are integers" if squares.all() else None
    if inspection.peak == 1:
        return "is binary: no gene of any cell has more than one count"
    if np.median(distinct) > _MOSTLY:
        return "has ranks: hardly any two genes of a cell have the same value"
    return None
