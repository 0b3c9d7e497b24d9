"""Ranking against three lines of NumPy, for every kind of matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgeneformer.tokens import Vocabulary, encode

N_GENES = 80
MATRICES = {
    "ndarray": np.asarray,
    "fortran": np.asfortranarray,
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc_matrix": sparse.csc_matrix,
    "csc_array": sparse.csc_array,
    "coo_array": sparse.coo_array,
    "dask": lambda X: da.from_array(X, chunks=(7, 13)),
    "dask_csr_matrix": lambda X: da.from_array(X, chunks=(7, X.shape[1])).map_blocks(sparse.csr_matrix),
    "dask_csr_array": lambda X: da.from_array(X, chunks=(5, X.shape[1])).map_blocks(sparse.csr_array),
    "dask_csc": lambda X: da.from_array(X, chunks=(9, X.shape[1])).map_blocks(sparse.csc_matrix),
}


def rounded(values: np.ndarray) -> np.ndarray:
    """Rounded to 41 mantissa bits, halves up, which decides ties."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.floor(mantissa * 2.0**42 + 0.5), exponent)


def expected(
    X: np.ndarray, token_id: np.ndarray, vocabulary: Vocabulary, max_length: int | None = None
) -> list[np.ndarray]:
    """The definition, cell by cell."""
    summed = np.zeros((len(X), len(vocabulary)))
    np.add.at(summed.T, token_id[token_id >= 0], np.asarray(X, dtype=np.float64).T[token_id >= 0])
    cells = []
    for values in summed:
        tokens = np.flatnonzero(values)
        tokens = tokens[np.lexsort((tokens, -rounded(values[tokens] * (1 / vocabulary.medians[tokens]))))]
        enclosing = ([2], [3]) if vocabulary.has_cls else ([], [])
        limit = (max_length or vocabulary.max_length) - 2 * vocabulary.has_cls
        cells.append(np.r_[enclosing[0], tokens[:limit], enclosing[1]].astype(int))
    return cells


def check(encoded: Any, cells: list[np.ndarray]) -> None:
    tokens = np.asarray(encoded.tokens)
    assert tokens.dtype == np.uint16
    assert encoded.lengths.dtype == np.int32
    assert encoded.lengths.tolist() == [len(cell) for cell in cells]
    for row, cell in zip(tokens, cells, strict=True):
        np.testing.assert_array_equal(row[: len(cell)], cell)
        assert not row[len(cell) :].any()


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.lognormal(-1, 1.5, N_GENES), (40, N_GENES))
    X[3] = 0
    return X


@pytest.fixture(scope="module")
def token_id(small: Vocabulary) -> np.ndarray:
    """Token ids in random order, without duplicates; some genes are unknown."""
    n = len(small) - small.n_special
    return (
        np.random.default_rng(1)
        .permutation(np.r_[np.arange(n) + small.n_special, [-1] * (N_GENES - n)])
        .astype(np.int32)
    )


@pytest.fixture(scope="module")
def doubled(token_id: np.ndarray) -> np.ndarray:
    """Five pairs of genes, and a trio, share a token."""
    doubled = token_id.copy()
    known = np.flatnonzero(token_id >= 0)
    doubled[known[:5]] = doubled[known[5:10]]
    doubled[known[20]] = doubled[known[5]]
    return doubled


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("genes", ["token_id", "doubled"])
def test_every_kind_of_matrix(
    X: np.ndarray, genes: str, small: Vocabulary, kind: str, request: pytest.FixtureRequest
) -> None:
    token_id = request.getfixturevalue(genes)
    encoded = encode(MATRICES[kind](X.astype(np.float32)), token_id, small)
    assert isinstance(encoded.tokens, da.Array) == kind.startswith("dask")
    assert encoded.counts is None
    assert encoded.tokens.shape == (len(X), 48)
    check(encoded, expected(X, token_id, small))


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "i4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i4", "longdouble"])
def test_every_type_of_number(X: np.ndarray, token_id: np.ndarray, small: Vocabulary, dtype: str) -> None:
    X = np.minimum(X, 100).astype(dtype)
    check(encode(X, token_id, small), expected(X, token_id, small))
    if dtype not in ("f2", ">f4", ">i4"):  # which SciPy's matrices cannot hold
        check(encode(sparse.csr_array(X), token_id, small), expected(X, token_id, small))


def test_long_indices(X: np.ndarray, token_id: np.ndarray, small: Vocabulary) -> None:
    matrix = sparse.csr_array(X)
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    check(encode(matrix, token_id, small), expected(X, token_id, small))


def test_explicit_zeros_unsorted_and_repeated_entries(X: np.ndarray, token_id: np.ndarray, small: Vocabulary) -> None:
    """A CSR matrix may hold zeros, one place twice, and columns in any order."""
    coo = sparse.coo_array(X)
    order = np.random.default_rng(2).permutation(coo.nnz)
    order = order[np.argsort(coo.row[order], kind="stable")]
    row, column, data = (np.repeat(part[order], 2) for part in (coo.row, coo.col, coo.data.astype(float)))
    data[::2] -= 1  # each value as a sum of two, one of which is often 0
    data[1::2] = 1
    matrix = sparse.csr_array((data, column, np.r_[0, np.cumsum(np.bincount(row, minlength=len(X)))]), shape=X.shape)
    assert (matrix.data == 0).any()
    before = matrix.data.copy(), matrix.indices.copy()
    check(encode(matrix, token_id, small), expected(X, token_id, small))
    np.testing.assert_array_equal(matrix.data, before[0])
    np.testing.assert_array_equal(matrix.indices, before[1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1.0, 1e-3, 1e-30, 1e-90, 1e25, 1e90]),
    top=st.sampled_from([1, 2, 5, 1000]),
    longest=st.integers(5, 48),
)
def test_is_the_definition(
    small: Vocabulary, token_id: np.ndarray, seed: int, scale: float, top: int, longest: int
) -> None:
    """Few distinct values give many ties. Scales beyond the range of a sorting key use the slow path, with the same order."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, top + 1, (6, N_GENES)) * np.where(rng.random((6, 1)) < 0.5, 1.0, scale)
    cells = expected(X, token_id, small, longest)
    check(encode(sparse.csr_array(X), token_id, small, counts="linear", max_length=longest), cells)
    order = rng.permutation(N_GENES)
    check(encode(X[:, order], token_id[order], small, counts="linear", max_length=longest), cells)
    step = int(rng.integers(1, 7))
    lazy = da.from_array(X[:, order], chunks=(step, N_GENES))
    check(encode(lazy, token_id[order], small, counts="linear", max_length=longest), cells)


@pytest.mark.parametrize("values", ["ties", "few", "spread", "narrow"])
def test_long_cells(values: str) -> None:
    """Cells of thousands of genes, up to the case in which all values are ties and in the wrong order."""
    n = 6000
    rng = np.random.default_rng(5)
    medians = np.ones(n) if values == "ties" else rng.lognormal(0, 1e-9 if values == "narrow" else 1, n)
    vocabulary = Vocabulary(
        "x", np.array(["<pad>", "<mask>", *map(str, range(n))]), np.r_[np.nan, np.nan, medians], n + 2
    )
    X = rng.integers(0, {"few": 3, "spread": 10_000}.get(values, 2), (20, n))
    token_id = np.arange(n, dtype=np.int32)[::-1] + 2
    check(encode(sparse.csr_array(X), token_id, vocabulary, counts="linear"), expected(X, token_id, vocabulary))


@pytest.mark.parametrize("kind", ["csr_matrix", "dask_csr_matrix"])
def test_independent_of_the_blocks(token_id: np.ndarray, small: Vocabulary, kind: str) -> None:
    """More cells than are ranked in one block."""
    X = np.random.default_rng(6).poisson(0.5, (2500, N_GENES))
    check(encode(MATRICES[kind](X), token_id, small), expected(X, token_id, small))


@pytest.mark.parametrize("kind", ["csr_matrix", "ndarray", "dask_csr_matrix"])
@pytest.mark.parametrize("genes", ["token_id", "doubled"])
def test_counts_in_the_order_of_tokens(
    X: np.ndarray, genes: str, small: Vocabulary, kind: str, request: pytest.FixtureRequest
) -> None:
    token_id = request.getfixturevalue(genes)
    summed = np.zeros((len(X), len(small)))
    np.add.at(summed.T, token_id[token_id >= 0], X.T[token_id >= 0])
    for totals in (None, X.sum(axis=1) * 2 + 1):
        encoded = encode(MATRICES[kind](X), token_id, small, keep_counts=True, total_counts=totals)
        assert encoded.counts.dtype == np.float32
        tokens, counts = np.asarray(encoded.tokens), np.asarray(encoded.counts)
        check(encoded, expected(X, token_id, small))
        n = np.maximum(X.sum(axis=1) if totals is None else totals, 1)[:, None]
        np.testing.assert_allclose(counts, np.take_along_axis(summed / n * 1e4, tokens.astype(int), 1), rtol=1e-6)
        assert (counts > 0).sum() == (tokens >= small.n_special).sum()


@pytest.mark.parametrize("base", [None, 2.0, 10.0])
@pytest.mark.parametrize("kind", ["csr_matrix", "ndarray", "dask_csr_array"])
def test_logarithms_are_undone(token_id: np.ndarray, small: Vocabulary, base: float | None, kind: str) -> None:
    """Values without near ties, so that the rounding of logarithms changes nothing."""
    rng = np.random.default_rng(7)
    X = rng.permuted(np.tile(1.3 ** np.arange(N_GENES), (20, 1)), axis=1) * (rng.random((20, N_GENES)) < 0.5)
    logarithms = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4) / np.log(base or np.e)
    distinct = replace(small, medians=np.r_[[np.nan] * small.n_special, 1.01 ** np.arange(60)])
    encoded = encode(MATRICES[kind](logarithms), token_id, distinct, counts="log1p", log_base=base)
    check(encoded, expected(X, token_id, distinct))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_a_token_do_not_depend_on_order_or_matrix(small: Vocabulary, dtype: type) -> None:
    """Fractions whose plain sums differ in the last bit with their order; in the second half of the genes they make ties of sums."""
    rng = np.random.default_rng(5)
    token_id = np.tile(np.arange(4, 24, dtype=np.int32), 8)  # eight columns for each token
    even = replace(small, medians=np.r_[[np.nan] * small.n_special, np.ones(60)])
    parts = rng.permuted(np.tile(rng.random(8) * 10.0 ** rng.integers(-8, 8, 8), (30, 20, 1)), axis=2).astype(dtype)
    X = parts.transpose(0, 2, 1).reshape(30, 160)  # all sums of a row are of the same eight values: all are ties
    expected_tokens = encode(X, token_id, even, counts="linear").tokens
    first = int(even.has_cls)
    np.testing.assert_array_equal(expected_tokens[:, first : first + 20], np.tile(np.arange(4, 24), (30, 1)))
    order = rng.permutation(160)
    for kind, make in MATRICES.items():
        permuted = encode(make(X[:, order]), token_id[order], even, counts="linear").tokens
        np.testing.assert_array_equal(np.asarray(permuted), expected_tokens, err_msg=kind)


@pytest.mark.parametrize("counts", ["linear", "log1p"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalised_counts_give_the_same_tokens_from_every_matrix(small: Vocabulary, counts: str, dtype: type) -> None:
    """Small integers over medians that are small integers: most values are ties, which the rounding of normalised counts may break, but
    in every matrix and order of genes alike."""
    rng = np.random.default_rng(8)
    even = replace(small, medians=np.r_[[np.nan] * small.n_special, rng.integers(1, 5, 60)])
    X = rng.poisson(1.0, (40, N_GENES)) * rng.integers(1, 4, N_GENES)
    normalised = X / np.maximum(X.sum(axis=1, keepdims=True), 1) * 1e4
    values = (normalised if counts == "linear" else np.log1p(normalised)).astype(dtype)
    first = small.n_special
    token_id = np.r_[np.arange(first, first + 60), [-1] * (N_GENES - 60)].astype(np.int32)
    expected_tokens = encode(values, token_id, even, counts=counts).tokens
    order = rng.permutation(N_GENES)
    for kind, make in MATRICES.items():
        for genes in (slice(None), order):
            tokens = encode(make(values[:, genes]), token_id[genes], even, counts=counts).tokens
            np.testing.assert_array_equal(np.asarray(tokens), expected_tokens, err_msg=kind)


def test_width_does_not_depend_on_the_cells(small: Vocabulary) -> None:
    """Otherwise `ad.concat` would cut the tokens of the data set with longer cells."""
    large = replace(
        small,
        ids=np.r_[small.ids, [f"G{i}" for i in range(300)]],
        medians=np.r_[small.medians, np.ones(300)],
        max_length=200,
    )
    token_id = np.arange(len(large), dtype=np.int32)
    token_id[: large.n_special] = -1
    enclosing = 2 * large.has_cls
    for n in (0, 64 - enclosing, 150, 200 - enclosing, 300):
        X = np.zeros((2, len(large)))
        X[0, large.n_special : large.n_special + n] = 1
        encoded = encode(X, token_id, large)
        assert encoded.tokens.shape == (2, 200)
        check(encoded, expected(X, token_id, large))
    assert encode(X[:0], token_id, large).tokens.shape == (0, 200)
    assert encode(X, token_id, large, max_length=100).tokens.shape == (2, 100)


def test_lazy_tokens_compute_nothing_but_their_block(token_id: np.ndarray, small: Vocabulary, X: np.ndarray) -> None:
    computed = []

    def load(block: np.ndarray, block_info: dict | None = None) -> np.ndarray:
        computed.append(block_info[0]["chunk-location"][0] if block_info else None)
        return block

    lazy = da.from_array(X, chunks=(10, N_GENES)).map_blocks(load, dtype=X.dtype, meta=np.empty((0, 0), X.dtype))
    encoded = encode(lazy, token_id, small)
    assert encoded.tokens.chunks == ((10, 10, 10, 10), (48,))
    computed.clear()
    block = np.asarray(encoded.tokens[10:20])
    assert computed == [1]
    np.testing.assert_array_equal(block, encode(X[10:20], token_id, small).tokens)


@pytest.mark.parametrize("max_length", [0, 4, 49])
def test_impossible_length(X: np.ndarray, token_id: np.ndarray, small: Vocabulary, max_length: int) -> None:
    if max_length == 4 and not small.has_cls:
        max_length = 2
    with pytest.raises(ValueError, match="max_length"):
        encode(X, token_id, small, max_length=max_length)


@pytest.mark.parametrize("totals", [-1.0, np.nan, np.inf, 0.0])
def test_impossible_totals(X: np.ndarray, token_id: np.ndarray, small: Vocabulary, totals: float) -> None:
    with pytest.raises(ValueError, match="total_counts"):
        encode(X, token_id, small, keep_counts=True, total_counts=np.full(len(X), totals))
    with pytest.raises(ValueError, match="one non-negative"):
        encode(X, token_id, small, keep_counts=True, total_counts=np.ones(3))
