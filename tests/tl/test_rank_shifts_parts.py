"""Rankings of shifts that were decomposed, and of deletions that keep positions."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import scgeneformer as sg
from scgeneformer import _keys

from .test_perturb_inputs import dense
from .test_perturb_oracle import GOAL
from .test_perturb_parts import DECOMPOSED, STATES


@pytest.fixture
def tokenized(tokenized):
    tokenized.obs["donor"] = pd.Categorical([f"d{i % 4}" for i in range(40)])
    return tokenized


def test_what_keeps_positions_is_not_compared_with_what_does_not(tokenized, folder):
    sg.tl.perturb(tokenized, folder, **GOAL)
    sg.tl.perturb(tokenized, folder, **GOAL, positions="kept", key_added="kept")
    with pytest.raises(ValueError, match="positions='kept', those of 'shift' with None. Perturb both in the same way"):
        sg.tl.rank_shifts(tokenized, test="vs_null", null="kept")


def mean_of(adata, layer, donors):
    """Mean of a gene over cells, or over donors what it has beyond other genes of the donor; (n_vars,)."""
    values = dense(adata, layer)
    if not donors:
        return np.nanmean(values, axis=0)
    differences = []
    for donor in adata.obs["donor"].cat.categories:
        of_donor = values[(adata.obs["donor"] == donor).to_numpy()]
        rest = [np.nanmean(np.delete(of_donor, gene, axis=1)) for gene in range(adata.n_vars)]
        differences.append(np.nanmean(of_donor, axis=0) - rest)
    return np.nanmean(differences, axis=0)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize(
    "options", [{}, {"centered": False}, {"test": "aggregate"}, {"test": "donors", "donor": "donor"}], ids=str
)
def test_a_ranking_has_the_parts_of_each_effect(tokenized, folder, tmp_path, options):
    sg.tl.perturb(tokenized, folder, pooling="mean", **DECOMPOSED)
    sg.tl.rank_shifts(tokenized, min_cells=2, **options)
    table = tokenized.varm["shift"]
    whole = "effect" if options else "plain_effect"
    for suffix in STATES:
        parts = table[[f"{part}{suffix}" for part in _keys.PARTS]]
        np.testing.assert_allclose(parts.sum(axis=1, skipna=False), table[f"{whole}{suffix}"], rtol=0, atol=1e-12)
        for part in _keys.PARTS:
            expected = mean_of(tokenized, f"shift__{part}{suffix}", "donor" in options)
            np.testing.assert_allclose(table[f"{part}{suffix}"], expected, rtol=0, atol=1e-12)
    tested = table["n_cells"] >= 2
    agreement = tokenized.uns["shift"]["rank"]["agreement"]
    for part in _keys.PARTS:
        np.testing.assert_allclose(agreement[part], spearmanr(table["effect"][tested], table[part][tested]).statistic)
    of_source = sg.get.shifts(tokenized, state="sick", sort_by="network")
    assert of_source["network"].is_monotonic_decreasing
    assert list(of_source) == list(sg.get.shifts(tokenized))[: len(list(of_source))]
    np.testing.assert_allclose(np.sort(of_source["own"]), np.sort(table["own_sick"].dropna()))
    tokenized.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    sg.tl.rank_shifts(back, min_cells=2, **options)
    pd.testing.assert_frame_equal(back.varm["shift"], table)
    assert back.uns["shift"]["rank"]["agreement"].keys() == agreement.keys()


def test_rankings_without_parts(tokenized, folder):
    sg.tl.perturb(tokenized, folder, pooling="cls", **DECOMPOSED)
    sg.tl.rank_shifts(tokenized)
    assert (tokenized.varm["shift"]["own"].dropna() == 0).all()
    assert "own" not in tokenized.uns["shift"]["rank"]["agreement"]  # nothing to agree with
    assert {"network", "renumbering"} <= set(tokenized.uns["shift"]["rank"]["agreement"])
    sg.tl.rank_shifts(tokenized, compat="official")
    assert not {*_keys.PARTS} & {*tokenized.varm["shift"]}
    sg.tl.perturb(tokenized, folder, **GOAL)
    sg.tl.rank_shifts(tokenized)
    assert not {*_keys.PARTS} & {*tokenized.varm["shift"]}


@pytest.mark.parametrize("name", _keys.PARTS)
def test_a_state_that_is_called_as_a_part(tokenized, folder, name):
    tokenized.obs["state"] = tokenized.obs["state"].cat.rename_categories({"sick": name})
    sg.tl.perturb(tokenized, folder, **(DECOMPOSED | {"source": name}))
    assert {f"shift_{name}", f"shift__{name}", f"shift__{name}_{name}"} <= set(tokenized.layers)
    sg.tl.rank_shifts(tokenized)
    of_source = sg.get.shifts(tokenized, state=name)
    total = of_source[[*_keys.PARTS]].sum(axis=1)
    np.testing.assert_allclose(total, of_source["plain_effect"], rtol=0, atol=1e-12)
