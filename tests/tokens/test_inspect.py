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
