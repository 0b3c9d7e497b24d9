"""Tokenized objects joined by `ad.concat` have the right tokens, or give an error that names the cure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

import scgeneformer as sg

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def halves(adata, folder):
    """Short cells and long ones, tokenized apart."""
    few = adata[:20].copy()
    few.X[:, 6:] = 0
    few.X.eliminate_zeros()
    many = adata[20:].copy()
    whole = ad.concat([few, many])
    for cells in (few, many):
        sg.pp.tokenize(cells, folder)
    return few, many, whole


def latent(cells: ad.AnnData, folder: Path) -> np.ndarray:
    sg.model.CellClassifier.setup_anndata(cells, "state")
    return sg.model.CellClassifier(cells, folder).get_latent_representation()


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("options", [{}, {"uns_merge": "same"}, {"uns_merge": "first", "merge": "same"}])
@pytest.mark.parametrize("join", ["inner", "outer"])
def test_concatenated_tokens_are_those_of_all_cells(halves, folder, join, options):
    few, many, whole = halves
    joined = ad.concat([few, many], join=join, **options)
    sg.pp.tokenize(whole, folder)
    assert joined.obsm["geneformer_tokens"].dtype == np.uint16
    np.testing.assert_array_equal(joined.obsm["geneformer_tokens"], whole.obsm["geneformer_tokens"])
    for cells in (joined, whole):
        sg.tl.embed(cells, folder, genes=True)
        sg.tl.perturb(cells, folder, groupby="state", source="sick", target="well")
        sg.tl.rank_shifts(cells)
    np.testing.assert_array_equal(joined.obsm["X_geneformer"], whole.obsm["X_geneformer"])
    np.testing.assert_array_equal(joined.varm["geneformer"], whole.varm["geneformer"])
    assert (joined.layers["shift"] != whole.layers["shift"]).nnz == 0
    np.testing.assert_array_equal(latent(joined, folder), latent(whole, folder))


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_tokens_of_other_widths_are_refused(halves, folder):
    few, many, _ = halves
    sg.pp.tokenize(few, folder, max_length=20)
    for join, error, message in (("inner", ValueError, "was cut"), ("outer", TypeError, "not a matrix of integers")):
        joined = ad.concat([few, many], join=join)
        for call in (
            lambda cells: sg.tl.embed(cells, folder),
            lambda cells: sg.tl.perturb(cells, folder),
            lambda cells: latent(cells, folder),
        ):
            with pytest.raises(error, match=message):
                call(joined)
        assert not joined.layers


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_cells_of_two_vocabularies_or_none_are_refused(halves, folder, adata):
    few, many, _ = halves
    other = sg.Vocabulary.from_adata(adata, name="other", max_length=64)
    sg.pp.tokenize(many, other)
    joined = ad.concat([few, many], uns_merge="first")
    with pytest.raises(ValueError, match="different vocabularies, 'small' and 'other'"):
        sg.tl.embed(joined, folder)
    with pytest.raises(ValueError, match="different vocabularies"):
        sg.model.CellClassifier.setup_anndata(joined, "state")
    bare = many.copy()
    del bare.obs["token_vocabulary"]
    with pytest.raises(ValueError, match="20 of 40 cells have tokens .* but no vocabulary"):
        sg.tl.embed(ad.concat([few, bare], join="outer"), folder)


@pytest.mark.parametrize("change", ["float", "text", "far"])
def test_damaged_token_ids_are_refused_before_anything_is_written(tokenized, folder, change):
    ids = tokenized.var["token_id"]
    tokenized.var["token_id"] = {"float": ids.astype(float), "text": ids.astype(str), "far": ids + 100}[change]
    before = tokenized.copy()
    with pytest.raises(ValueError, match=r"\.var\['token_id'\] must hold integers"):
        sg.tl.embed(tokenized, folder, genes=True)
    with pytest.raises(ValueError, match=r"\.var\['token_id'\] must hold integers"):
        sg.tl.perturb(tokenized, folder)
    assert (list(tokenized.obsm), list(tokenized.uns)) == (list(before.obsm), list(before.uns))
