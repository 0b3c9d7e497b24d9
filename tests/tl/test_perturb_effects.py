"""Effects on genes in `varp` and `varm` against means over plain loops."""

from __future__ import annotations

import numpy as np
import pytest

import scgeneformer as sg

from .test_perturb_oracle import GOAL, Hand


def loops(hand, rows, edits, kind):
    """Cosines of each (what, affected token), one by cell; `edits` gives (what, targets) for a row."""
    found = {}
    for i in rows:
        row = hand.rows[i]
        for what, targets in edits(row):
            for token, value in hand.by_gene(row, hand.edit(row, targets, kind), targets).items():
                found.setdefault((what, token), []).append(value)
    return found


@pytest.mark.parametrize("goal", [True, False], ids=["goal", "alone"])
@pytest.mark.parametrize(("kind", "pooling"), [("delete", "cls"), ("overexpress", "mean"), ("inhibit", "mean")])
def test_of_genes(tokenized, folder, kind, pooling, goal):
    hand = Hand(tokenized, folder, pooling)
    columns = [3, 8, 21]
    token_id = tokenized.var["token_id"].to_numpy()
    asked = [int(t) for t in token_id[columns]]
    rows = np.flatnonzero(hand.states == "sick")[:6]
    sg.tl.perturb(
        tokenized,
        folder,
        tokenized.var_names[columns],
        kind=kind,
        cells=hand.names[rows],
        effects=True,
        pooling=pooling,
        **(GOAL if goal else {}),
    )
    own = lambda row: [t for t in row if hand.is_gene(t)]
    in_all = kind == "overexpress"
    edits = lambda row: [(t, [t]) for t in asked if (in_all or t in row) and not (in_all and own(row)[0] == t)]
    expected = loops(hand, rows, edits, kind)
    column_of = {int(t): c for c, t in enumerate(token_id) if t >= 0}
    by_column = {(column_of[a], column_of[b]): values for (a, b), values in expected.items()}
    for slot, summary in (("shift", np.mean), ("shift_n", len), ("shift_sd", np.std)):
        found = tokenized.varp[slot]
        assert found.format == "csr"
        coo = found.tocoo()
        assert set(zip(coo.row.tolist(), coo.col.tolist(), strict=True)) == set(by_column)
        assert found.nnz == len(by_column)
        for at, values in by_column.items():
            assert found[at] == pytest.approx(summary(values), abs=3e-6 if slot == "shift" else 1e-4)
    assert tokenized.varp["shift_n"].dtype == np.int64
    assert tokenized.layers["shift"].nnz == sum(len(edits(hand.rows[i])) for i in rows)
    table = sg.get.effects(tokenized, tokenized.var_names[8])
    assert len(table) == sum(row == 8 for row, _ in by_column)


def test_of_sets(tokenized, folder):
    hand = Hand(tokenized, folder, "cls")
    token_id = tokenized.var["token_id"].to_numpy()
    sets = {"a/b": [2, 5], "c": [7, 11, 13]}
    names = {name: tokenized.var_names[found] for name, found in sets.items()}
    sg.tl.perturb_sets(tokenized, folder, names, effects=True, cells=hand.names[:7])
    tokens = {name: [int(t) for t in token_id[found]] for name, found in sets.items()}
    expected = loops(hand, range(7), lambda row: [(n, t) for n, t in tokens.items() if set(t) & set(row)], "delete")
    mean, n, sd = (tokenized.varm[key] for key in ("shift_sets", "shift_sets_n", "shift_sets_sd"))
    assert list(mean) == list(n) == list(sd) == ["a|b", "c"]
    assert all((table.index == tokenized.var_names).all() for table in (mean, n, sd))
    for column, gene in enumerate(tokenized.var_names):
        for name in sets:
            values = expected.get((name, int(token_id[column])), [])
            at = gene, name.replace("/", "|")
            assert n.loc[at] == len(values)
            if values:
                assert mean.loc[at] == pytest.approx(np.mean(values), abs=3e-6)
                assert sd.loc[at] == pytest.approx(np.std(values), abs=1e-4)
            else:
                assert np.isnan([mean.loc[at], sd.loc[at]]).all()
    assert not len(tokenized.varp)
    assert len(sg.get.effects(tokenized, "a/b", key="shift_sets")) == n["a|b"].gt(0).sum()


def test_genes_without_a_column_are_left_out(tokenized, folder):
    few = tokenized[:, [2, 9, 14, 20]].copy()
    sg.tl.perturb(few, folder, effects=True, cells=tokenized.obs_names[:5])
    sg.tl.perturb(tokenized, folder, effects=True, cells=tokenized.obs_names[:5])
    for slot in ("shift", "shift_n", "shift_sd"):
        expected = tokenized.varp[slot][[2, 9, 14, 20]][:, [2, 9, 14, 20]]
        np.testing.assert_allclose(few.varp[slot].toarray(), expected.toarray(), rtol=0, atol=1e-5)


def test_they_go_when_they_are_no_longer_asked_for(tokenized, folder):
    names = tokenized.var_names
    options = {"cells": tokenized.obs_names[:3]}
    sg.tl.perturb(tokenized, folder, [names[1]], effects=True, **options)
    sg.tl.perturb_sets(tokenized, folder, {"a": names[:2]}, effects=True, **options)
    assert set(tokenized.varp) == {"shift", "shift_n", "shift_sd"}
    assert {"shift_sets", "shift_sets_n", "shift_sets_sd"} <= set(tokenized.varm)
    sg.tl.perturb(tokenized, folder, [names[1]], **options)
    sg.tl.perturb_sets(tokenized, folder, {"a": names[:2]}, **options)
    assert set(tokenized.varp) == set()
    assert not any(name.startswith("shift") for name in tokenized.varm)
