"""Tests of the states after a screen: movements along some axes, estimated beside the shifts, stand for whole ones."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scanpy import logging as logg
from scipy import stats as scipy_stats

import scgeneformer as sg
from scgeneformer import stats
from scgeneformer.engine.perturb import _run
from scgeneformer.engine.perturb._curves import Curves
from scgeneformer.tl._perturbation._screen import N_AXES

from .test_rank_shifts_states import STATES, centred_directions, contrasts_of, mean_shifts

SCREEN = {**STATES, "allow_poor": True, "untrained": False}  # random weights
SLOTS = ("shift__direction", "shift__movement")


@pytest.fixture
def cells(tokenized) -> ad.AnnData:
    tokenized.obs["state"] = np.where(np.arange(tokenized.n_obs) < 20, "sick", "well")
    return tokenized


def movements(adata: ad.AnnData) -> list[np.ndarray]:
    return [adata.varm[SLOTS[0]], adata.obsm[SLOTS[1]]]


def test_axes_are_the_states_and_the_main_axes_of_their_cells(cells):
    sg.tl.screen(cells, **SCREEN)
    axes, is_target = cells.uns["shift"]["axes"], (cells.obs["state"] == "well").to_numpy()
    centroids = [cells.uns["shift"]["centroids"][state] for state in ("well", "sick")]
    np.testing.assert_allclose(axes[:2], [mean / np.linalg.norm(mean) for mean in centroids])
    expected = stats.principal_axes(cells.obsm["shift__embedding"].astype(float), is_target, N_AXES)
    np.testing.assert_allclose(np.abs((axes[2:] * expected).sum(axis=1)), 1, atol=1e-4)
    for found, n in zip(movements(cells), cells.shape[::-1], strict=True):
        assert (found.shape, found.dtype) == ((n, 2 + N_AXES), np.float32)
    for column, layer in enumerate(("shift", "shift_sick")):
        np.testing.assert_allclose(cells.varm["shift__direction"][:, column], mean_shifts(cells, layer), atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"positions": "kept"}, {"kind": "overexpress", "genes": "vocabulary"}, {"genes": ["SYM3", "SYM9"]}]
)
def test_movements_along_axes_are_shifts_towards_them(cells, options, monkeypatch):
    """As many given states in the place of the axes. Ranks are added to their curves of moves, but not to those of axes: here to none."""
    monkeypatch.setattr(Curves, "refine", lambda *_: None)
    sg.tl.screen(cells, **SCREEN, **options)
    found, axes = movements(cells), cells.uns["shift"]["axes"]
    names = [f"axis{number}" for number in range(len(axes))]
    given = dict(zip(names, axes, strict=True))
    whole = {"cells": (cells.obs["state"] == "sick").tolist(), "target": names[0], "others": names[1:]}
    sg.tl.screen(cells, centroids=given, **whole, allow_poor=True, **options)
    assert "shift__direction" not in cells.varm
    layer = "shift__reference" if isinstance(options.get("genes"), list) else "shift"
    for column, name in enumerate(names):
        suffix = f"_{name}" if column else ""
        of_cells = cells.layers[layer + suffix]
        np.testing.assert_allclose(found[0][:, column], mean_shifts(cells, f"shift{suffix}"), atol=1e-6)
        n = np.diff(of_cells.indptr)
        means = np.divide(of_cells.sum(axis=1).A1, n, out=np.full(len(n), np.nan), where=n > 0)
        np.testing.assert_allclose(found[1][:, column], means, atol=1e-6)


def test_refined_genes_have_exact_movements(cells):
    sg.tl.screen(cells, **SCREEN)
    estimated = cells.varm["shift__direction"].copy()
    sg.tl.screen(cells, refine=3, **SCREEN)
    refined, axes = cells.varm["shift__direction"], cells.uns["shift"]["axes"]
    exact = sg.tl.perturb(cells, copy=True, untrained=False, key_added="exact", **STATES).varm["exact__direction"]
    is_exact = cells.layers["shift__method"].max(axis=0).toarray().ravel() == 1
    assert is_exact.sum() == 6
    np.testing.assert_allclose(refined[is_exact], exact[is_exact] @ axes.T, atol=1e-5)
    np.testing.assert_allclose(refined[~is_exact], estimated[~is_exact], atol=1e-6)
    sg.tl.rank_shifts(cells)
    assert cells.uns["shift"]["rank"]["test"] == "states"


@pytest.mark.parametrize("options", [{}, {"centered": False}, {"donor": "donor"}], ids=str)
@pytest.mark.parametrize("within", [None, "half"])
def test_the_contrast_is_tested_by_movements_in_the_space_of_the_axes(cells, options, within, tmp_path):
    cells.obs["half"] = np.where(np.arange(cells.n_obs) % 2, "odd", "even")
    cells.obs["donor"] = [f"{i % 5}" for i in range(cells.n_obs)]
    sg.tl.screen(cells, within=within, **SCREEN)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells = ad.read_h5ad(tmp_path / "cells.h5ad")
    sg.tl.rank_shifts(cells, **options)
    assert cells.uns["shift"]["rank"]["test"] == "states"
    for group in [None] if within is None else ["odd", "even"]:
        of_group = cells if group is None else cells[cells.obs["half"] == group].copy()
        axes = cells.uns["shift"]["axes"] if group is None else cells.uns["shift"]["axes"][group]
        to_whole = np.linalg.pinv(axes)  # (H, A)
        suffix = "" if group is None else f"_{group}"
        of_group.varm["shift__direction"] = of_group.varm[f"shift__direction{suffix}"].astype(float) @ to_whole.T
        of_group.obsm["shift__movement"] = of_group.obsm["shift__movement"].astype(float) @ to_whole.T
        directions = of_group.varm["shift__direction"] if "centered" in options else centred_directions(of_group)
        expected = stats.contrast(
            directions,
            of_group.obsm["shift__embedding"].astype(float),
            (of_group.obs["state"] == "well").to_numpy(),
            donors=of_group.obs["donor"].cat.codes.to_numpy().astype(int) if "donor" in options else None,
        )
        table = cells.varm[f"shift{suffix}"]
        tested = (table["n_cells"] >= 5).to_numpy()
        assert tested.sum() > 10
        np.testing.assert_allclose(table["contrast"][tested], expected.mean[tested], rtol=1e-3, atol=1e-5)
        if not options:
            values = contrasts_of(of_group, centered=True)[:, tested]
            of_cells = scipy_stats.sem(values, axis=0, nan_policy="omit")
            error = np.sqrt(expected.sd[tested] ** 2 / expected.n[tested] + of_cells**2)
            np.testing.assert_allclose(table["scores"][tested], table["contrast"][tested] / error, rtol=1e-2)


def test_all_axes_of_the_embedding_tell_all(cells, monkeypatch):
    """With as many axes as the embedding is wide, the scores are those of whole movements; estimates differ from exact values, axes do not."""
    from scgeneformer.tl._perturbation import _screen

    width = 16
    monkeypatch.setattr(_screen, "N_AXES", width)
    sg.tl.screen(cells, refine=100, **SCREEN)  # all genes
    assert cells.uns["shift"]["axes"].shape == (2 + width, width)
    sg.tl.rank_shifts(cells, centered=False)
    exact = sg.tl.perturb(cells, copy=True, untrained=False, key_added="exact", **STATES)
    sg.tl.rank_shifts(exact, key="exact", centered=False)
    for column in ("contrast", "contrast_low", "contrast_high", "scores", "pvals"):
        np.testing.assert_allclose(cells.varm["shift"][column], exact.varm["exact"][column], rtol=1e-3, atol=1e-6)


def test_runs_in_parts_are_runs_at_once(cells, tmp_path, monkeypatch, interrupted):
    whole = sg.tl.screen(cells, copy=True, **SCREEN)
    monkeypatch.setitem(_run.PART_SIZE, "screen", 40)
    options = SCREEN | {"checkpoint": tmp_path}
    interrupted(1, sg.tl.screen, cells, **options)
    sg.tl.screen(cells, **options)
    for found, expected in zip(movements(cells), movements(whole), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="directions was"):
        sg.tl.screen(cells, directions=False, **options)


def test_movements_of_removed_cells_are_not_used(cells, monkeypatch):
    sg.tl.screen(cells, **SCREEN)
    left = cells[3:].copy()
    with pytest.raises(ValueError, match="some of these were removed"):
        sg.tl.rank_shifts(left, test="states")
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    sg.tl.rank_shifts(left)
    assert sum("perturbed cells were removed" in warning for warning in warnings) == 1


def test_without_movements_genes_are_compared(cells, monkeypatch):
    warnings = []
    monkeypatch.setattr(logg, "warning", warnings.append)
    sg.tl.screen(cells, directions=False, **SCREEN)
    assert not {*SLOTS, "shift__embedding"} & {*cells.varm, *cells.obsm}
    assert "axes" not in cells.uns["shift"]
    sg.tl.rank_shifts(cells)
    assert cells.uns["shift"]["rank"]["test"] == "rank_sum"
    assert sum("which directions=True stores" in warning for warning in warnings) == 1
    with pytest.raises(KeyError, match=r"`sg.tl.screen` with `source`, `target` and directions=True"):
        sg.tl.rank_shifts(cells, test="states")


@pytest.mark.parametrize("options", [{"source": None}, {"centroids": {"well": np.ones(16), "sick": np.ones(16)}}])
def test_movements_that_are_of_no_use(cells, options):
    options = SCREEN | options
    sg.tl.screen(cells, **options)
    assert "shift__direction" not in cells.varm
    with pytest.raises(ValueError, match="directions=True is for tests of two states"):
        sg.tl.screen(cells, directions=True, **options)
