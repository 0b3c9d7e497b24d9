"""A screen reports how well its estimates agree with exact values, and is refused if they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scanpy import logging as logg
from scipy.stats import spearmanr

import scgeneformer as sg
from scgeneformer.engine.perturb import _run as engine_run

from .test_perturb_inputs import dense
from .test_perturb_oracle import GOAL

STATES = {"groupby": "state", "source": "sick", "target": "well"}


@pytest.fixture
def warned(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(logg, "warning", messages.append)
    return messages


def estimates_that(monkeypatch, change):
    estimate = engine_run.screen
    monkeypatch.setattr(engine_run, "screen", lambda *args, **options: change(estimate(*args, **options)))


def smooth(adata, folder):
    """A model whose positions hardly differ, so that estimates are good."""
    import torch

    pretrained = sg.hub.load(folder)
    with torch.no_grad():
        pretrained.encoder.embedding.position.weight.mul_(0.01)
    return pretrained


def test_agreement_is_that_with_an_exact_run(tokenized, folder):
    model = smooth(tokenized, folder)
    exact = dense(sg.tl.perturb(tokenized, model, **STATES, copy=True))
    sg.tl.screen(tokenized, model, **STATES)
    table = tokenized.uns["shift"]["screen"]
    assert table.index.tolist() == ["well", "sick"]
    assert table["n_pairs"].eq(8 * table["n_cells"]).all()
    estimated = dense(tokenized)
    rows = np.flatnonzero(~np.isnan(exact).all(1))
    truth = []
    for row in rows:
        there = ~np.isnan(exact[row])
        truth.append(spearmanr(exact[row, there], estimated[row, there]).statistic)
    row = table.loc["well"]
    assert row["spearman_low"] <= np.mean(truth) <= row["spearman_high"]
    assert row["spearman"] == pytest.approx(np.mean(truth), abs=0.15)
    assert row["slope"] == pytest.approx(1, abs=0.2)
    again = sg.tl.screen(tokenized, model, **STATES, copy=True).uns["shift"]["screen"]
    np.testing.assert_array_equal(again, table)


def test_poor_estimates_are_refused_and_nothing_is_written(tokenized, folder, monkeypatch):
    rng = np.random.default_rng(0)
    estimates_that(monkeypatch, lambda x: np.where(np.isnan(x), x, rng.normal(size=x.shape)))
    before = set(tokenized.layers), set(tokenized.uns)
    with pytest.raises(ValueError, match=r"agree poorly with exact values: Spearman .*allow_poor=True"):
        sg.tl.screen(tokenized, folder, **STATES)
    assert (set(tokenized.layers), set(tokenized.uns)) == before
    sg.tl.screen(tokenized, folder, allow_poor=True, **STATES)
    assert abs(tokenized.uns["shift"]["screen"].loc["well", "spearman"]) < 0.6


def test_what_is_not_good_is_said_wherever_it_is_used(tokenized, folder, monkeypatch, warned):
    rng = np.random.default_rng(0)
    model = smooth(tokenized, folder)
    spread = np.nanstd(dense(sg.tl.perturb(tokenized, model, **STATES, copy=True)))
    estimates_that(monkeypatch, lambda x: x + 0.4 * spread * rng.normal(size=x.shape))
    sg.tl.screen(tokenized, model, allow_poor=True, **STATES)
    assert any("Estimates do not agree well with exact values: Spearman 0." in text for text in warned)
    sg.tl.rank_shifts(tokenized)
    assert any("The shifts are estimates whose rank correlation with exact values is 0." in text for text in warned)
    caption = sg.pl.shift(tokenized, show=False).figure.texts + sg.pl.shift(tokenized, show=False).texts
    assert any("estimates: Spearman with exact values 0." in text.get_text() for text in caption)


def test_listed_genes_count_with_the_random_ones_beside_them(tokenized, folder):
    model = smooth(tokenized, folder)
    sg.tl.screen(tokenized, model, ["SYM3", "SYM9"], **STATES)
    assert tokenized.uns["shift"]["screen"]["n_cells"].iloc[0] > 3
    sg.tl.screen(tokenized, model, ["SYM3", "SYM9"], n_reference=0, **STATES)
    assert "screen" not in tokenized.uns["shift"]
    sg.tl.perturb(tokenized, model, ["SYM3", "SYM9"], key_added="exact", **STATES)
    assert "screen" not in tokenized.uns["exact"]


def test_groups_are_sampled_together(tokenized, folder, tmp_path):
    tokenized.obs["half"] = np.tile(["a", "b"], tokenized.n_obs // 2)
    sg.tl.screen(tokenized, smooth(tokenized, folder), within="half", **GOAL)
    table = tokenized.uns["shift"]["screen"]
    assert table.index.tolist() == ["well", "sick", "odd"]
    assert table["n_cells"].iloc[0] >= 4
    tokenized.write_h5ad(tmp_path / "cells.h5ad")
