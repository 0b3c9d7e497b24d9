"""Tokens equal those that official Geneformer recorded, outside ties, for all of its inputs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHANGES: dict[str, Callable] = {
    "csr_f32": lambda X: X,
    "dense_f32": lambda X: X.toarray(),
    "csc_f32": lambda X: X.tocsc(),
    "csr_i64": lambda X: X.astype(np.int64),
    # the same input in other files, or with total counts of another type, by which official values are rounded
    "csr_f32_loom": lambda X: X,
    "csr_f32_zarr": lambda X: X,
    "csr_f32_nf32": lambda X: X,
    "csr_f32_filter": lambda X: X,
}
COLLAPSED = {"alias_collapse": "V1 V2", "alias_collapse_loom": "V1 V2", "lowercase": "V1 V2", "symbols_collapse": "V2"}
CASES = [(case, version) for case in CHANGES for version in ("V1", "V2")]
CASES += [(case, version) for case, versions in COLLAPSED.items() for version in versions.split()]


def tokenized(shared: Path, vocabulary: sg.Vocabulary, case: str, **options: object) -> tuple[ad.AnnData, pd.DataFrame]:
    recorded = pd.read_parquet(shared / "conformance" / "tokens" / f"{case}_{vocabulary.name}.parquet")
    file = "csr_f32" if case.startswith(("csr", "csc", "dense")) else case.removesuffix("_loom")
    adata = ad.read_h5ad(shared / "conformance" / "inputs" / f"{file}.h5ad")
    adata.X = CHANGES.get(case, lambda X: X)(adata.X)
    sg.pp.tokenize(adata, vocabulary, gene_ids="ensembl_id", **options)
    return adata[recorded["cell"].to_numpy()], recorded


@pytest.mark.parametrize(("case", "version"), CASES)
def test_tokens(shared: Path, official: Callable, case: str, version: str, record_property: Callable) -> None:
    known = official(version)
    adata, recorded = tokenized(shared, known, case)
    ours, lengths = adata.obsm["geneformer_tokens"], adata.obs["n_tokens"].to_numpy()
    np.testing.assert_array_equal(lengths, recorded["length"])
    X = adata.layers["X"] if "X" in adata.layers else adata.X
    X = X.toarray() if hasattr(X, "toarray") else X
    n_tied = n_swapped = 0
    for cell, (row, length, theirs) in enumerate(zip(ours, lengths, recorded["input_ids"], strict=True)):
        row = row[:length].astype(int)
        assert len(np.unique(row)) == length
        values = np.zeros(len(known))
        np.add.at(values, adata.var["token_id"].to_numpy(), X[cell].astype(float))
        values = values / known.medians
        genes = slice(1, -1) if known.has_cls else slice(None)
        np.testing.assert_array_equal(row[[0, -1]] < known.n_special, theirs[[0, -1]] < known.n_special)
        ranked, other = values[row[genes]], values[theirs[genes].astype(int)]
        # float32 total counts make official values of float32, whose rounding is larger than the distance of some values
        tolerance = 1e-6 if case == "csr_f32_nf32" else 1e-12
        np.testing.assert_allclose(ranked, other, rtol=tolerance, err_msg=f"cell {cell}: differs by more than ties")
        tied = np.isclose(ranked[1:], ranked[:-1], rtol=tolerance, atol=0)
        n_tied += int((np.r_[False, tied] | np.r_[tied, False]).sum())
        n_swapped += int((row != theirs).sum())
    record_property("tied", n_tied)
    record_property("tied and in another order", n_swapped)
    sys.stdout.write(
        f"{case} {version}: {len(ours)} cells, {lengths.sum():,} tokens, {n_tied:,} of them tied with another, "
        f"{n_swapped} in another order than recorded\n"
    )
    assert n_swapped <= n_tied


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_counts(shared: Path, official: Callable, version: str) -> None:
    adata, recorded = tokenized(
        shared, official(version), "csr_f32_keepcounts", keep_counts=True, total_counts="n_counts"
    )
    counts, lengths = adata.obsm["geneformer_tokens_counts"], adata.obs["n_tokens"]
    for row, length, theirs in zip(counts, lengths, recorded["counts"], strict=True):
        np.testing.assert_allclose(row[:length], theirs, rtol=1e-6)
        assert not row[length:].any()


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_genes_given_twice_are_summed(shared: Path, official: Callable, version: str) -> None:
    """Official Geneformer tokenizes a gene twice where its id is in two columns; here each is one token, of the sum."""
    adata, recorded = tokenized(shared, official(version), "exact_dups")
    assert any(len(set(theirs)) < len(theirs) for theirs in recorded["input_ids"])
    summed = adata.copy()
    keep = ~pd.Series(adata.var["ensembl_id"].to_numpy()).duplicated().to_numpy()
    first = pd.Series(np.flatnonzero(keep), adata.var["ensembl_id"].to_numpy()[keep])
    target = first[adata.var["ensembl_id"]].to_numpy()
    X = np.zeros(adata.shape)
    np.add.at(X.T, target, adata.X.toarray().T)
    summed.X = X
    sg.pp.tokenize(summed, official(version), gene_ids="ensembl_id")
    np.testing.assert_array_equal(adata.obsm["geneformer_tokens"], summed.obsm["geneformer_tokens"])
    assert adata.uns["geneformer_tokens"]["coverage"]["n_duplicates"] > 0
    assert all(
        len(set(row[:n])) == n for row, n in zip(adata.obsm["geneformer_tokens"], adata.obs["n_tokens"], strict=True)
    )


def test_names_are_found(shared: Path, official: Callable) -> None:
    """Without being told, the same column is taken, and symbols where there are no ids."""
    adata, _ = tokenized(shared, official("V2"), "csr_f32")
    told = adata.obsm["geneformer_tokens"]
    for version in ("V1", "V2"):
        adata = ad.read_h5ad(shared / "conformance" / "inputs" / "csr_f32.h5ad")
        sg.pp.tokenize(adata, official(version))
        assert adata.uns["geneformer_tokens"]["coverage"]["fraction_counts"] > 0.9
        if adata.uns["geneformer_tokens"]["params"]["gene_ids"] == "ensembl_id" and version == "V2":
            np.testing.assert_array_equal(adata.obsm["geneformer_tokens"], told)
        adata.var = adata.var[[]]
        sg.pp.tokenize(adata, official(version))
        assert adata.uns["geneformer_tokens"]["params"]["gene_ids"] == "var_names"
        assert adata.uns["geneformer_tokens"]["coverage"]["fraction_counts"] > 0.9
