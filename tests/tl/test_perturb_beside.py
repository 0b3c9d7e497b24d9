"""Random genes in addition to listed ones, and random sets in addition to named ones: their choice, and values as in any other run."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import scgeneformer as sg
from scgeneformer.tl._perturbation._beside import random_genes, random_sets

from .test_perturb_checkpoint import perturb_by
from .test_perturb_inputs import GOAL, dense

LISTED = ["SYM1", "SYM2"]


@pytest.fixture
def tokens():
    """200 cells of 100 genes (tokens 4 to 103); later tokens are rarer, and ranks follow the order of tokens with noise."""
    rng = np.random.default_rng(0)
    rows = np.zeros((200, 110), np.uint16)
    for row in rows:
        genes = np.flatnonzero(rng.random(100) < np.linspace(0.9, 0.05, 100))
        ranked = genes[np.argsort(genes + rng.normal(0, 5, len(genes)))] + 4
        row[: len(ranked) + 2] = [2, *ranked, 3]
    return rows


@pytest.mark.parametrize("n", [1, 5, 20])
def test_nearly_every_cell_has_enough_reference_genes(tokens, n) -> None:
    genes = random_genes(tokens, np.arange(10, 104), n, np.random.default_rng(0), inserted=False)
    per_cell = np.isin(tokens, genes).sum(axis=1)
    assert np.mean(per_cell >= n) >= 0.95
    assert np.median(per_cell) < n + 8  # and not many more
    assert (np.diff(genes) > 0).all()
    assert genes.min() >= 10


def test_reference_genes_are_drawn_by_the_number_of_cells(tokens) -> None:
    rng = np.random.default_rng(0)
    draws = [random_genes(tokens, np.arange(4, 104), 1, rng, inserted=True)[0] for _ in range(4000)]
    n_cells = np.array([(tokens == gene).sum() for gene in range(4, 104)])
    expected = 4000 * n_cells / n_cells.sum()
    observed = np.bincount(draws, minlength=104)[4:]
    chi_square = np.sum((observed - expected) ** 2 / expected)
    assert chi_square < 99 + 5 * np.sqrt(2 * 99)


def test_fewer_genes_than_asked_for_are_all(tokens) -> None:
    assert random_genes(tokens, np.arange(4, 8), 10, np.random.default_rng(0), inserted=False).tolist() == [4, 5, 6, 7]
    assert random_genes(tokens, np.array([], int), 10, np.random.default_rng(0), inserted=False).size == 0


def test_random_sets_are_alike_in_size_detection_and_rank(tokens) -> None:
    sets = [np.array([10, 11, 40]), np.array([90, 80]), np.array([50])]
    drawn = random_sets(tokens, sets, np.arange(4, 104), 200, np.random.default_rng(0))
    assert len(drawn) == 600
    n_cells = np.bincount(tokens.ravel(), minlength=104)
    for number, genes in enumerate(sets):
        of_set = np.array(drawn[200 * number : 200 * (number + 1)])
        assert of_set.shape == (200, len(genes))
        assert not np.isin(of_set, genes).any()
        assert all(len(set(row)) == len(genes) for row in of_set.tolist())
    # a common gene is replaced by common ones, a rare one by rare ones
    assert n_cells[np.array(drawn[:200])].mean() > 2 * n_cells[np.array(drawn[200:400])].mean()


def test_too_few_genes_for_random_sets(tokens) -> None:
    with pytest.raises(ValueError, match="n_random=0"):
        random_sets(tokens, [np.arange(4, 60)], np.arange(4, 104), 2, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["delete", "overexpress", "inhibit"])
def test_reference_genes_have_the_values_of_listed_ones(tokenized, folder, kind) -> None:
    options = GOAL | {"kind": kind, "max_cells": 6}
    sg.tl.perturb(tokenized, folder, LISTED, **options, n_reference=4)
    reference = tokenized.layers["shift__reference"]
    genes = np.unique(reference.tocoo().col)
    assert 4 <= len(genes) < 28
    assert not set(tokenized.var["symbol"].iloc[genes]) & set(LISTED)
    per_cell = np.diff(reference.indptr)[np.diff(tokenized.layers["shift"].indptr) > 0]
    assert np.median(per_cell) >= 4
    again = sg.tl.perturb(
        tokenized, folder, tokenized.var_names[genes], **options, n_reference=0, key_added="again", copy=True
    )
    assert "again__reference" not in again.layers
    for state in ("", "_sick", "_odd"):
        ours, theirs = dense(tokenized, f"shift__reference{state}"), dense(again, f"again{state}")
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))


def test_all_genes_and_official_runs_have_no_reference(tokenized, folder) -> None:
    sg.tl.perturb(tokenized, folder, LISTED, max_cells=3)
    assert "shift__reference" in tokenized.layers
    sg.tl.perturb(tokenized, folder, max_cells=3)
    assert "shift__reference" not in tokenized.layers  # that of the earlier run is gone
    sg.tl.perturb(tokenized, folder, LISTED, max_cells=3, compat="official")
    assert "shift__reference" not in tokenized.layers


@pytest.mark.parametrize("name", ["screen", "sets", "anchor"])
def test_other_verbs(tokenized, folder, name) -> None:
    options = {
        "screen": {"genes": LISTED, "refine": 1},
        "sets": {"sets": {"a": LISTED, "b": ["SYM5"]}, "n_random": 3},
        "anchor": {"anchor": "SYM3", "genes": LISTED},
    }[name]
    key = perturb_by(tokenized, folder, **GOAL, **options, max_cells=8)
    if name == "sets":
        random = tokenized.obsm["shift_sets__random"]
        assert random.shape == (40, 6)
        measured = tokenized.obsm["shift_sets"].notna().any(axis=1).to_numpy()
        assert np.isnan(random[~measured]).all()
        assert np.isfinite(random[measured]).any(axis=1).all()
    else:
        at = tokenized.layers[f"{key}__reference"].tocoo()
        assert at.nnz
        assert not set(tokenized.var["symbol"].iloc[at.col]) & {*LISTED, options.get("anchor")}
    sg.tl.rank_shifts(tokenized, key=key, min_cells=1)
    assert sg.get.shifts(tokenized, key=key)["pvals"].notna().any()


def test_random_sets_of_one_seed_are_the_same_and_resume(tokenized, folder, tmp_path) -> None:
    options = GOAL | {"max_cells": 6, "n_random": 2, "checkpoint": tmp_path / "run"}
    first = sg.tl.perturb_sets(tokenized, folder, {"a": LISTED}, **options, copy=True)
    again = sg.tl.perturb_sets(tokenized, folder, {"a": LISTED}, **options, copy=True)
    np.testing.assert_array_equal(first.obsm["shift_sets__random"], again.obsm["shift_sets__random"])
    other = sg.tl.perturb_sets(tokenized, folder, {"a": LISTED}, **GOAL, max_cells=6, n_random=2, rng=1, copy=True)
    assert not np.array_equal(first.obsm["shift_sets__random"], other.obsm["shift_sets__random"], equal_nan=True)


def test_references_survive_files_and_groups(tokenized, folder, tmp_path) -> None:
    tokenized.obs["type"] = np.array(["a", "b"])[np.arange(40) % 2]
    sg.tl.perturb(tokenized, folder, LISTED, **GOAL, within="type")
    sg.tl.perturb_sets(tokenized, folder, {"a": LISTED}, **GOAL, within="type", n_random=3)
    tokenized.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    for key in ("shift", "shift_sets"):
        for adata in (tokenized, back):
            sg.tl.rank_shifts(adata, key=key, min_cells=2)
        assert sg.get.shifts(back, key=key).equals(sg.get.shifts(tokenized, key=key))


@pytest.mark.parametrize("options", [{"n_reference": -1}, {"n_random": -2}, {"n_random": 1}])
def test_numbers_that_make_no_sense(tokenized, folder, options) -> None:
    what = {"sets": {"a": LISTED}} if "n_random" in options else {"genes": LISTED}
    with pytest.raises(ValueError, match=next(iter(options))):
        perturb_by(tokenized, folder, **what, **options)
