"""Deletions that keep positions, and the parts of ordinary deletions, against loops over cells and genes."""

from __future__ import annotations

import json

import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch

import scgeneformer as sg
from scgeneformer import _keys

from .test_perturb_checkpoint import arrays, assert_same_bytes
from .test_perturb_inputs import dense
from .test_perturb_oracle import GOAL, Hand, check_layer, cosine, pairs

STATES = {"": "well", "_sick": "sick", "_odd": "odd"}
DECOMPOSED = GOAL | {"decompose": True}


class InPlace(Hand):
    """Deletions from the row as it is: nothing attends to the deleted genes, and no mean has them."""

    def without(self, row, targets):
        """Tokens that are left, and their states."""
        left = np.array([t not in targets for t in row])
        with torch.inference_mode():
            mask = torch.from_numpy(left)[None]
            states = self.encoder(torch.tensor([row]), mask, n_layers=self.n_layers)[0].double().numpy()
        return [t for t in row if t not in targets], states[left]

    def pool(self, row, states):
        return states[0] if self.pooling == "cls" else states[[self.is_gene(t) for t in row]].mean(0)

    def value(self, row, targets, goal=None):
        before, (left, after) = self.hidden(row), self.without(row, targets)
        if goal is not None:
            return cosine(self.pool(left, after), goal) - cosine(self.pool(row, before), goal)
        if self.pooling == "cls":
            return cosine(before[0], after[0])
        genes = [i for i, t in enumerate(left) if self.is_gene(t)]
        return np.mean([cosine(before[row.index(left[i])], after[i]) for i in genes])

    def own(self, row, target, goal):
        """The vector of the gene leaves the mean, and nothing else changes."""
        if self.pooling == "cls":
            return 0.0
        genes = [i for i, t in enumerate(row) if self.is_gene(t)]
        states = self.hidden(row)
        without = states[[i for i in genes if row[i] != target]].mean(0)
        return cosine(without, goal) - cosine(states[genes].mean(0), goal)


@pytest.fixture
def tokenized(tokenized):
    tokenized.obs["type"] = pd.Categorical(np.array(["B/NK", "T"])[np.arange(40) % 2])
    return tokenized


@pytest.fixture
def bare(adata, tmp_path):
    """Cells and a model without special tokens, as V1."""
    vocabulary = sg.Vocabulary.from_adata(adata[:, :28].copy(), name="bare", max_length=64, special_tokens=False)
    torch.manual_seed(0)
    shape = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 24, "max_length": 64}
    encoder = sg.nn.Encoder(sg.nn.EncoderConfig(len(vocabulary), **shape))
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    sg.nn.save_checkpoint(tmp_path / "bare", encoder)
    vocabulary.save(tmp_path / "bare" / "vocabulary.json")
    sg.pp.tokenize(adata, tmp_path / "bare")
    return adata, tmp_path / "bare"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("goal", [True, False], ids=["goal", "alone"])
def test_positions_kept(tokenized, folder, goal, pooling):
    hand = InPlace(tokenized, folder, pooling)
    rows = np.flatnonzero(hand.states == "sick")[:2]
    options = GOAL if goal else {}
    sg.tl.perturb(tokenized, folder, positions="kept", cells=hand.names[rows], pooling=pooling, **options)
    which = dict(pairs(tokenized, rows, hand, range(30), "delete", everywhere=False))
    for suffix, state in STATES.items() if goal else [("", None)]:
        position = None if state is None else hand.position(state)
        expected = {at: hand.value(hand.rows[at[0]], [token], position) for at, token in which.items()}
        check_layer(tokenized, f"shift{suffix}", expected)
    assert tokenized.uns["shift"]["params"]["positions"] == "kept"


def test_positions_kept_without_special_tokens(bare):
    adata, folder = bare
    hand = InPlace(adata, folder, "mean", n_special=2)
    sg.tl.perturb(adata, folder, positions="kept", cells=hand.names[:2], groupby="state", target="well")
    which = dict(pairs(adata, range(2), hand, range(30), "delete", everywhere=False))
    position = hand.position("well")
    check_layer(adata, "shift", {at: hand.value(hand.rows[at[0]], [t], position) for at, t in which.items()})
    kept = dense(adata)
    sg.tl.perturb(adata, folder, cells=hand.names[:2], groupby="state", target="well")
    same = np.isclose(dense(adata), kept, rtol=0, atol=1e-6)
    last = {(i, row[-1]) for i, row in enumerate(hand.rows[:2])}
    assert {(i, int(adata.var["token_id"].iloc[column])) for i, column in np.argwhere(same)} == last


def test_sets_and_anchors_keep_positions(tokenized, folder):
    hand, token_id = InPlace(tokenized, folder, "mean"), tokenized.var["token_id"].to_numpy()
    options = {"positions": "kept", "pooling": "mean", "cells": hand.names[:4], "n_random": 2}
    sg.tl.perturb_sets(tokenized, folder, {"a": ["SYM1", "SYM2", "SYM9"]}, **options)
    for i, value in enumerate(tokenized.obsm["shift_sets"]["a"].iloc[:4]):
        targets = [t for t in token_id[[1, 2, 9]] if t in hand.rows[i]]
        np.testing.assert_allclose(value, hand.value(hand.rows[i], targets) if targets else np.nan, rtol=0, atol=2e-6)
    sg.tl.perturb_sets(tokenized, folder, anchor="SYM1", **options, key_added="pairs_sets")
    pair = token_id[[1, 5]]
    for i in range(4):
        value = dense(tokenized, "pairs_sets")[i, 5]
        expected = hand.value(hand.rows[i], pair.tolist()) if set(pair) <= set(hand.rows[i]) else np.nan
        np.testing.assert_allclose(value, expected, rtol=0, atol=2e-6)


def test_estimates_that_keep_positions(tokenized, folder):
    """Estimates are stored where exact values would be, refined ones are exact, and random genes keep positions too."""
    options = GOAL | {"positions": "kept", "genes": ["SYM1", "SYM3", "SYM5", "SYM9"], "copy": True}
    exact, found = (
        sg.tl.perturb(tokenized, folder, **options),
        sg.tl.screen(tokenized, folder, refine=1, allow_poor=True, **options),
    )
    marks = dense(found, "shift__method")
    for suffix in STATES:
        ours, theirs = dense(found, f"shift{suffix}"), dense(exact, f"shift{suffix}")
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        np.testing.assert_allclose(ours[marks == 1], theirs[marks == 1], rtol=0, atol=1e-6)
    reference = dense(exact, "shift__reference")
    columns = np.flatnonzero(~np.isnan(reference).all(axis=0))
    listed = sg.tl.perturb(tokenized, folder, **(options | {"genes": tokenized.var_names[columns], "n_reference": 0}))
    np.testing.assert_allclose(dense(listed), reference, rtol=0, atol=1e-6)


def test_a_folder_tells_positions_only_where_they_are_kept(tokenized, folder, tmp_path):
    options = {"genes": ["SYM1", "SYM2"], "max_cells": 4}
    for positions in ("renumbered", "kept"):
        once = sg.tl.perturb(tokenized, folder, positions=positions, **options, copy=True)
        run = options | {"positions": positions, "checkpoint": tmp_path / positions}
        for _ in range(2):
            again = sg.tl.perturb(tokenized, folder, **run, copy=True)
            np.testing.assert_array_equal(dense(again), dense(once))
        manifest = json.loads((tmp_path / positions / "genes" / "run.json").read_text())
        assert manifest.get("positions") == (None if positions == "renumbered" else "kept")
        assert ("positions" in manifest) == (positions == "kept")
        assert "decompose" not in manifest


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_parts_are_those_of_a_loop_and_add_up(tokenized, folder, pooling):
    hand = InPlace(tokenized, folder, pooling)
    rows = np.flatnonzero(hand.states == "sick")[:2]
    sg.tl.perturb(tokenized, folder, cells=hand.names[rows], pooling=pooling, **DECOMPOSED)
    which = dict(pairs(tokenized, rows, hand, range(30), "delete", everywhere=False))
    for suffix, state in STATES.items():
        goal = hand.position(state)
        own = {at: hand.own(hand.rows[at[0]], token, goal) for at, token in which.items()}
        kept = {at: hand.value(hand.rows[at[0]], [token], goal) for at, token in which.items()}
        whole = {at: Hand.value(hand, hand.rows[at[0]], [token], "delete", 1, goal) for at, token in which.items()}
        check_layer(tokenized, f"shift{suffix}", whole)
        check_layer(tokenized, f"shift__own{suffix}", own)
        check_layer(tokenized, f"shift__network{suffix}", {at: kept[at] - own[at] for at in which}, atol=4e-6)
        check_layer(tokenized, f"shift__renumbering{suffix}", {at: whole[at] - kept[at] for at in which}, atol=4e-6)
        total = sum(dense(tokenized, f"{_keys.part_key('shift', part)}{suffix}") for part in _keys.PARTS)
        np.testing.assert_allclose(total, dense(tokenized, f"shift{suffix}"), rtol=0, atol=1e-12)


def test_listed_genes_within_groups_are_decomposed_and_their_reference_is_not(tokenized, folder):
    genes = ["SYM1", "SYM5"]
    sg.tl.perturb(tokenized, folder, genes, **DECOMPOSED, within="type")
    parts = [f"shift__{part}{suffix}" for part in _keys.PARTS for suffix in STATES]
    reference = [f"shift__reference{suffix}" for suffix in STATES]
    assert set(tokenized.layers) - {None} == {
        *(f"shift{suffix}" for suffix in STATES),
        *parts,
        *reference,
        *("shift__untrained", "shift__reference__untrained"),
    }
    for group in ("T", "B/NK"):
        cells = tokenized[(tokenized.obs["type"] == group).to_numpy()].copy()
        expected = sg.tl.perturb(cells, folder, genes, **DECOMPOSED, copy=True)
        for name in parts:
            np.testing.assert_allclose(dense(cells, name), dense(expected, name), rtol=0, atol=1e-6)
    # an ordinary run takes their place
    sg.tl.perturb(tokenized, folder, genes, **GOAL, n_reference=0)
    assert set(tokenized.layers) - {None} == {*(f"shift{suffix}" for suffix in STATES), "shift__untrained"}


def test_of_columns_of_one_gene_the_first_has_the_parts(adata, folder):
    adata.var_names = [*adata.var_names[:6], f"{adata.var_names[2]}.7", *adata.var_names[7:]]
    sg.pp.tokenize(adata, folder)
    sg.tl.perturb(adata, folder, max_cells=4, **DECOMPOSED)
    for part in _keys.PARTS:
        layer = adata.layers[f"shift__{part}"]
        np.testing.assert_array_equal(layer.indices, adata.layers["shift"].indices)
        assert 2 in layer.indices
        assert 6 not in layer.indices


def test_resumed_runs_copies_and_modalities(tokenized, folder, tmp_path, monkeypatch, interrupted):
    from scgeneformer.engine.perturb import _run

    monkeypatch.setitem(_run.PART_SIZE, "exact", 30)
    options = {**DECOMPOSED, "genes": ["SYM1", "SYM5", "SYM7", "SYM8"]}
    once = sg.tl.perturb(tokenized, folder, **options, copy=True)
    assert not set(tokenized.layers) - {None}
    interrupted(1, sg.tl.perturb, tokenized, folder, **options, checkpoint=tmp_path)
    assert "shift" not in tokenized.layers
    sg.tl.perturb(tokenized, folder, **options, checkpoint=tmp_path)
    assert_same_bytes(arrays(tokenized), arrays(once))
    mdata = md.MuData({"rna": sg.tl.perturb(tokenized, folder, max_cells=2, copy=True)})
    sg.tl.perturb(mdata, folder, **options)
    np.testing.assert_array_equal(dense(mdata["rna"], "shift__network"), dense(once, "shift__network"))
