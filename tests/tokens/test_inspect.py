from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from scipy import sparse

from scgeneformer.tokens import inspect

TOKEN_ID = np.array([2, 3, -1, 3, 4], np.int32)
COUNTS = np.array([[1, 0, 5, 0, 2], [0, 3, 1, 4, 0], [0, 0, 0, 0, 0], [0, 0, 7, 0, 0]], dtype=float)
KINDS = {
    "ndarray": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_array,
    "dask": lambda X: da.from_array(X, chunks=(1, 2)),
    "dask_csr": lambda X: da.from_array(X, chunks=(3, 5)).map_blocks(sparse.csr_matrix),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest):
    return KINDS[request.param]


def log_normalised(n: int = 50, *, target: float = 1e4, base: float = np.e) -> np.ndarray:
    X = np.random.default_rng(0).poisson(1.0, (n, 5)).astype(float)
    return np.log1p(X / np.maximum(X.sum(axis=1, keepdims=True), 1) * target) / np.log(base)


def test_what_is_found(kind) -> None:
    found = inspect(kind(COUNTS), TOKEN_ID)
    np.testing.assert_array_equal(found.n_genes, [2, 1, 0, 0])  # two values of the second cell are of one token
    np.testing.assert_array_equal(found.totals, COUNTS.sum(axis=1))
    np.testing.assert_array_equal(found.mapped, COUNTS[:, TOKEN_ID >= 0].sum(axis=1))
    assert found.fraction_mapped == pytest.approx(10 / 23)
    assert found.has_duplicates
    assert found.peak == 7
    assert not inspect(kind(COUNTS[[0, 2, 3]]), TOKEN_ID).has_duplicates
    assert np.isnan(inspect(kind(COUNTS[[2]]), TOKEN_ID).fraction_mapped)


@pytest.mark.parametrize("counts", ["raw", "linear", "log1p"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, "NaN|cannot be logarithms"), (np.inf, "infinite|cannot be logarithms"), (-1.0, "negative")],
)
def test_impossible_values(kind, counts: str, value: float, error: str) -> None:
    for gene in (0, 2):  # in the vocabulary, and outside
        X = COUNTS.copy()
        X[1, gene] = value
        with pytest.raises(ValueError, match=rf"layers\['x'\].*({error})"):
            inspect(kind(X), TOKEN_ID, counts=counts, slot=".layers['x']")


@pytest.mark.parametrize(("target", "base"), [(1e4, np.e), (1e6, np.e), (1e6, 2.0), (1e4, 10.0)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_logarithms_are_refused(kind, target: float, base: float, dtype: str) -> None:
    X = log_normalised(target=target, base=base).astype(dtype)
    with pytest.raises(ValueError, match=r"X looks log-normalised.*`layer=`.*counts='log1p'.*counts='linear'") as error:
        inspect(kind(X), TOKEN_ID)
    assert ("the same total in every cell" in str(error.value)) == (base == np.e)
    inspect(kind(X), TOKEN_ID, counts="log1p", log_base=base)
    inspect(kind(X), TOKEN_ID, counts="linear")


@pytest.mark.parametrize(
    "X",
    [
        COUNTS.astype("f4"),
        COUNTS + np.where(COUNTS > 0, 1e-6, 0),  # counts recovered from something else
        COUNTS * 7.3,  # ambient RNA removed, or scaled
        np.log1p(COUNTS).round(),
    ],
    ids=["integers", "nearly", "fractions", "small integers"],
)
def test_counts_are_accepted(kind, X: np.ndarray) -> None:
    inspect(kind(X), TOKEN_ID)


def test_counts_are_no_logarithms(kind) -> None:
    for X in (COUNTS * 20, COUNTS * 1000):
        with pytest.raises(ValueError, match="counts='log1p', but X has values that cannot be logarithms"):
            inspect(kind(X), TOKEN_ID, counts="log1p")


def test_what_is_no_matrix() -> None:
    for X in (np.array([["a"]]), np.ones(3), np.ones((2, 5), complex), np.ones((2, 5), object)):
        with pytest.raises(TypeError, match="X must be a cells x genes matrix"):
            inspect(X, TOKEN_ID)
    with pytest.raises(ValueError, match="'raw', 'linear', 'log1p'"):
        inspect(COUNTS, TOKEN_ID, counts="log")


def deep_counts(n: int = 40, n_genes: int = 900) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.poisson(rng.lognormal(0.3, 1.2, n_genes), (n, n_genes)).astype(np.float32)


def ranks(X: np.ndarray) -> np.ndarray:
    return np.where(X > 0, X.argsort(axis=1).argsort(axis=1) + 1, 0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (np.sqrt, "square roots"),
        (lambda X: np.sqrt(X).astype(np.float16).astype(np.float32), "looks log-normalised|square roots"),
        (lambda X: (X > 0).astype(np.float32), "is binary"),
        (ranks, "has ranks"),
        (lambda X: np.log1p(np.log1p(X)), "looks log-normalised"),
        (lambda X: np.log1p(X).round(2), "looks log-normalised"),
    ],
    ids=["square roots", "half precision", "binary", "ranks", "log twice", "log rounded"],
)
def test_what_is_no_counts_is_refused(kind, change, error: str) -> None:
    X = deep_counts()
    token_id = np.arange(X.shape[1], dtype=np.int32)
    inspect(kind(X), token_id)
    with pytest.raises(ValueError, match=error):
        inspect(kind(change(X)), token_id, slot=".X")
    inspect(kind(change(X)), token_id, counts="linear")


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (lambda X: X * 3, "single count"),
        (lambda X: np.rint(np.log1p(X * 1e4 / X.sum(axis=1, keepdims=True))), "rounding of logarithms"),
        (lambda X: X, None),
        (lambda X: X[:, :40], None),
        (lambda X: X * 1.5, None),
    ],
    ids=["times 3", "log rounded", "counts", "few genes", "fractions"],
)
def test_what_may_be_no_counts_is_doubted(change, doubt: str | None) -> None:
    X = change(deep_counts())
    doubts = inspect(X, np.arange(X.shape[1], dtype=np.int32)).doubts
    assert doubts is None if doubt is None else doubt in doubts


def test_raw_counts_and_double_logarithms_are_no_logarithms() -> None:
    X = deep_counts()
    token_id = np.arange(X.shape[1], dtype=np.int32)
    once = np.log1p(X * 1e4 / X.sum(axis=1, keepdims=True))
    inspect(once, token_id, counts="log1p")
    with pytest.raises(ValueError, match="counts='log1p', but X has (integers|values that cannot be logarithms)"):
        inspect(X, token_id, counts="log1p")
    with pytest.raises(ValueError, match="X has integers"):
        inspect(np.minimum(X, 3), token_id, counts="log1p")
    with pytest.raises(ValueError, match="log-normalised twice"):
        inspect(np.log1p(once), token_id, counts="log1p")
