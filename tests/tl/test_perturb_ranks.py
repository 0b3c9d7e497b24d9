"""Genes that move by ranks: the shifts are those of rows edited by hand, and a folder records how far they moved."""

from __future__ import annotations

import json

import numpy as np
import pytest

import scgeneformer as sg

from .test_perturb_oracle import Hand, cosine

GOAL = {"groupby": "state", "source": "sick", "target": "well", "pooling": "mean"}


@pytest.mark.parametrize("kind", ["inhibit", "activate"])
def test_shifts_are_those_of_rows_edited_by_hand(tokenized, folder, kind):
    hand = Hand(tokenized, folder, "mean")
    goal = hand.position("well")
    sg.tl.perturb(tokenized, folder, kind=kind, ranks=3, max_cells=4, **GOAL)
    layer, token_id = tokenized.layers["shift"].tocoo(), tokenized.var["token_id"].to_numpy()
    assert layer.nnz > 20
    for cell, gene, shift in list(zip(layer.row, layer.col, layer.data, strict=True))[::5]:
        row, token = hand.rows[cell], int(token_id[gene])
        genes = [t for t in row if t >= 4]
        others = [t for t in genes if t != token]
        place = genes.index(token) + (3 if kind == "inhibit" else -3)
        others.insert(min(max(place, 0), len(others)), token)
        edited = [row[0], *others, row[-1]]
        assert shift == pytest.approx(cosine(hand.cell(edited), goal) - cosine(hand.cell(row), goal), abs=1e-6)
    assert tokenized.uns["shift"]["params"]["ranks"] == 3
    assert "quartiles" not in tokenized.uns["shift"]["params"]


def test_the_screen_and_sets_move_by_ranks(tokenized, folder):
    """A screen that refines all genes equals the exact run."""
    sg.tl.screen(tokenized, folder, kind="activate", ranks=2, refine=100, key_added="refined", allow_poor=True, **GOAL)
    sg.tl.perturb(tokenized, folder, kind="activate", ranks=2, **GOAL)
    refined, exact = tokenized.layers["refined"], tokenized.layers["shift"]
    np.testing.assert_array_equal(refined.indices, exact.indices)
    again = tokenized.layers["refined__method"].data == 1
    assert again.mean() > 0.9
    np.testing.assert_allclose(refined.data[again], exact.data[again], atol=1e-6)
    far = sg.tl.perturb_sets(
        tokenized, folder, [("SYM1", "SYM2")], kind="activate", ranks=60, n_random=0, copy=True, **GOAL
    )
    top = sg.tl.perturb_sets(
        tokenized, folder, [("SYM1", "SYM2")], kind="activate", quartiles=3, n_random=0, copy=True, **GOAL
    )
    np.testing.assert_array_equal(far.obsm["shift_sets"].isna(), top.obsm["shift_sets"].isna())


def test_a_folder_tells_ranks_only_where_they_are_given(tokenized, folder, tmp_path):
    options = GOAL | {"kind": "inhibit", "max_cells": 3}
    for ranks in (None, 4):
        sg.tl.perturb(tokenized, folder, ranks=ranks, checkpoint=tmp_path / str(ranks), **options)
        manifest = json.loads((tmp_path / str(ranks) / "genes" / "run.json").read_text())
        assert manifest.get("ranks") == ranks
        assert ("ranks" in manifest) == (ranks is not None)
    with pytest.raises(ValueError, match="ranks was 4 and is 5"):
        sg.tl.perturb(tokenized, folder, ranks=5, checkpoint=tmp_path / "4", **options)
