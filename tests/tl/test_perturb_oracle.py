"""`tl.perturb` against rows edited by hand, with a forward pass of each through the encoder itself."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import scgeneformer as sg

GOAL = {"groupby": "state", "source": "sick", "target": "well", "others": ["odd"]}
KINDS = [("delete", 1), ("overexpress", 1), ("inhibit", 2), ("activate", 1), ("activate", 3)]


def cosine(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


class Hand:
    """Cells, a model, and edits of single rows as lists; genes are given as tokens."""

    def __init__(self, adata, folder, pooling, n_special=4, emb_layer=-1):
        pretrained = sg.hub.load(folder)
        self.encoder = copy.deepcopy(pretrained.encoder).eval()
        self.n_special, self.pooling = n_special, pooling
        self.n_layers = self.encoder.config.n_layers + emb_layer
        tokens = np.asarray(adata.obsm["geneformer_tokens"])
        self.rows = [[int(t) for t in row if t] for row in tokens]
        self.names = adata.obs_names
        self.states = adata.obs["state"].to_numpy()

    def is_gene(self, token):
        return token >= self.n_special

    def hidden(self, row):
        with torch.inference_mode():
            return self.encoder(torch.tensor([row]), n_layers=self.n_layers)[0].double().numpy()

    def cell(self, row):
        h = self.hidden(row)
        return h[0] if self.pooling == "cls" else h[[self.is_gene(t) for t in row]].mean(0)

    def position(self, state, summary=np.mean):
        rows = [row for row, found in zip(self.rows, self.states, strict=True) if found == state]
        return summary([self.cell(row) for row in rows], axis=0)

    def room(self, row, targets, taken=None):
        """Without the lowest genes that are dropped for the targets."""
        n_in = len(set(targets) - set(row))
        taken = max(len(row) + n_in - self.encoder.config.max_length, 0) if taken is None else taken
        lowest = [t for t in row if self.is_gene(t) and t not in targets][::-1][:taken]
        return [t for t in row if t not in lowest]

    def edit(self, row, targets, kind, quartiles=1):
        front, back = [t for t in row[:1] if not self.is_gene(t)], [t for t in row[1:] if not self.is_gene(t)]
        genes = [t for t in row if self.is_gene(t)]
        rest = [t for t in genes if t not in targets]
        if kind == "overexpress":
            rest = [*targets, *rest]
        elif kind != "delete":
            (target,) = targets
            n, rank = len(genes), genes.index(target)
            quartile = 4 * rank // n + (quartiles if kind == "inhibit" else -quartiles)
            goal = 0 if quartile < 0 else n - 1 if quartile > 3 else int((quartile + 0.5) * n / 4)
            rest.insert(goal, target)
        return [*front, *rest, *back]

    def value(self, row, targets, kind, quartiles=1, goal=None):
        original = self.room(row, targets) if kind == "overexpress" else row
        edited = self.edit(original, targets, kind, quartiles)
        if goal is not None:
            return cosine(self.cell(edited), goal) - cosine(self.cell(original), goal)
        before, after = self.hidden(original), self.hidden(edited)
        if self.pooling == "cls":
            return cosine(before[0], after[0])
        return np.mean(list(self.by_gene(original, edited, targets, before, after).values()))

    def by_gene(self, original, edited, targets, before=None, after=None):
        before = self.hidden(original) if before is None else before
        after = self.hidden(edited) if after is None else after
        background = [t for t in original if self.is_gene(t) and t not in targets]
        return {t: cosine(before[original.index(t)], after[edited.index(t)]) for t in background}


def check_layer(adata, layer, expected, atol=2e-6):
    """All values of a layer, and nothing else in it; `expected` by (row, column)."""
    coo = adata.layers[layer].tocoo()
    found = dict(zip(zip(coo.row.tolist(), coo.col.tolist(), strict=True), coo.data.tolist(), strict=True))
    assert len(found) == coo.nnz
    assert set(found) == set(expected)
    np.testing.assert_allclose([found[at] for at in expected], list(expected.values()), rtol=0, atol=atol)


def pairs(adata, rows, hand, genes, kind, *, everywhere):
    """(row, column) and token of each perturbation of single genes."""
    token_id = adata.var["token_id"].to_numpy()
    for i in rows:
        own = [t for t in hand.rows[i] if hand.is_gene(t)]
        for column in genes:
            token = int(token_id[column])
            if token < 0 or (token not in own and not everywhere):
                continue
            if (kind == "overexpress" and own[0] == token) or (kind == "delete" and len(own) == 1):
                continue
            yield (i, column), token


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("goal", [True, False], ids=["goal", "alone"])
@pytest.mark.parametrize(("kind", "quartiles"), KINDS)
def test_every_gene(tokenized, folder, kind, quartiles, goal, pooling):
    hand = Hand(tokenized, folder, pooling)
    rows = np.flatnonzero(hand.states == "sick")[:2]
    options = GOAL if goal else {}
    sg.tl.perturb(tokenized, folder, kind=kind, quartiles=quartiles, cells=hand.names[rows], pooling=pooling, **options)
    which = dict(pairs(tokenized, rows, hand, range(30), kind, everywhere=False))
    states = {"shift": "well", "shift_sick": "sick", "shift_odd": "odd"} if goal else {"shift": None}
    for layer, state in states.items():
        position = None if state is None else hand.position(state)
        expected = {at: hand.value(hand.rows[at[0]], [token], kind, quartiles, position) for at, token in which.items()}
        check_layer(tokenized, layer, expected)
        if state is not None:
            np.testing.assert_allclose(tokenized.uns["shift"]["centroids"][state], position, rtol=0, atol=2e-6)


@pytest.fixture
def full(adata, folder, tmp_path):
    """The same model with 16 positions, which all cells fill, and its cells."""
    import dataclasses

    encoder = sg.nn.load_encoder(folder)
    small = sg.nn.Encoder(dataclasses.replace(encoder.config, max_length=16))
    weights = {k: v[:16] if "position" in k else v for k, v in encoder.state_dict().items()}
    small.load_state_dict(weights)
    vocabulary = dataclasses.replace(sg.hub.load(folder).vocabulary, max_length=16)
    sg.nn.save_checkpoint(tmp_path / "short", small)
    vocabulary.save(tmp_path / "short" / "vocabulary.json")
    adata.X = adata.X.multiply((np.arange(40) % 4 > 0)[:, None] | (np.arange(30) < 12)).tocsr()  # some have room
    sg.pp.tokenize(adata, tmp_path / "short")
    lengths = np.count_nonzero(adata.obsm["geneformer_tokens"], axis=1)
    assert lengths.max() == 16
    assert lengths.min() < 13
    return adata, tmp_path / "short"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("genes", ["vocabulary", "listed"])
def test_genes_that_come_in(full, genes, pooling):
    adata, folder = full
    hand = Hand(adata, folder, pooling)
    position = hand.position("well")
    columns = range(30) if genes == "vocabulary" else [20, 3, 11]
    asked = genes if genes == "vocabulary" else adata.var_names[columns]
    sg.tl.perturb(
        adata,
        folder,
        asked,
        kind="overexpress",
        cells=hand.names[:5],
        pooling=pooling,
        groupby="state",
        target="well",
        n_reference=0,
    )
    which = dict(pairs(adata, range(5), hand, columns, "overexpress", everywhere=True))
    assert len(which) > len(columns) * 4
    check_layer(
        adata, "shift", {at: hand.value(hand.rows[at[0]], [t], "overexpress", 1, position) for at, t in which.items()}
    )
    assert set(adata.layers) - {None} == {"shift"}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_an_anchor(full, kind, pooling):
    adata, folder = full
    hand = Hand(adata, folder, pooling)
    anchor, columns = 5, [1, 5, 9, 20]
    token_id = adata.var["token_id"].to_numpy()
    everywhere = kind == "overexpress"
    sg.tl.perturb_sets(
        adata,
        folder,
        adata.var_names[columns],
        anchor=adata.var_names[anchor],
        kind=kind,
        pooling=pooling,
        max_cells=12,
        key_added="shift",
    )
    drawn = np.unique(adata.layers["shift"].tocoo().row)
    expected = {}
    for i in drawn:
        own = hand.rows[i]
        for column in (1, 9, 20):
            targets = [int(token_id[anchor]), int(token_id[column])]
            if everywhere or set(targets) <= set(own):
                expected[i, column] = hand.value(own, targets, kind)
    check_layer(adata, "shift", expected)
    assert adata.uns["shift"]["params"]["anchor"] == adata.var_names[anchor]


def test_an_anchor_that_no_cell_expresses_comes_in(adata, folder):
    adata.X[:, 5] = 0
    sg.pp.tokenize(adata, folder)
    names = adata.var_names
    sg.tl.perturb_sets(adata, folder, [names[1]], anchor=names[5], kind="overexpress", cells=list(adata.obs_names[:4]))
    assert adata.layers["shift_sets"].nnz == 4
    with pytest.raises(ValueError, match=f"no perturbed cell.*{names[5]}"):
        sg.tl.perturb_sets(adata, folder, [names[1]], anchor=names[5])


@pytest.mark.parametrize(
    ("kind", "goal", "compat"),
    [
        ("delete", True, None),
        ("delete", False, None),
        ("delete", True, "official"),
        ("delete", False, "official"),
        ("overexpress", True, None),
        ("overexpress", False, None),
        ("overexpress", True, "official"),
    ],
)
def test_sets(full, kind, goal, compat):
    adata, folder = full
    hand = Hand(adata, folder, "mean")
    columns = {"two": [3, 20], "one": [7], "many/": [1, 2, 8, 9, 25]}
    if kind == "delete":
        columns["all"] = list(range(28))  # leaves no gene
    sets = {name: adata.var_names[found] for name, found in columns.items()}
    options = GOAL if goal else {"cells": (np.arange(40) < 12).tolist()}
    sg.tl.perturb_sets(adata, folder, sets, kind=kind, pooling="mean", compat=compat, n_random=0, **options)
    table = adata.obsm["shift_sets"]
    assert list(table) == [name.replace("/", "|") for name in sets]
    assert set(adata.layers) - {None} == set()
    position = hand.position("well") if goal else None
    expected = np.full(table.shape, np.nan)
    for i in np.flatnonzero(hand.states == "sick") if goal else range(12):
        row = hand.rows[i]
        genes = [t for t in row if hand.is_gene(t)]
        for j, found in enumerate(columns.values()):
            targets = [int(t) for t in adata.var["token_id"].iloc[found]]
            inside = [t for t in targets if t in genes]
            too_few = len(targets) if compat else 1
            if kind == "delete" and too_few <= len(inside) < len(genes):
                expected[i, j] = hand.value(row, inside, kind, goal=position)
            elif kind == "overexpress" and compat is None:
                expected[i, j] = hand.value(row, targets, kind, goal=position)
            elif kind == "overexpress":  # in the original what comes in is counted twice
                n_in = len(targets) - len(inside)
                edited = hand.edit(hand.room(row, targets), targets, kind)
                original = hand.room(row, [], taken=max(min(len(row) + n_in, 16) + n_in - 16, 0))
                expected[i, j] = cosine(hand.cell(edited), position) - cosine(hand.cell(original), position)
    np.testing.assert_allclose(table.to_numpy(), expected, rtol=0, atol=2e-6)
    assert adata.uns["shift_sets"]["params"]["n_pairs"] == np.isfinite(expected).sum()


def test_sets_without_names_and_genes_beside_them(tokenized, folder):
    names = tokenized.var_names
    sg.tl.perturb(tokenized, folder, [names[1]], max_cells=6)
    sg.tl.perturb_sets(tokenized, folder, [(names[1], "SYM4"), (names[2], names[3])], max_cells=6)
    table = tokenized.obsm["shift_sets"]
    assert list(table) == [f"{names[1]}+SYM4", f"{names[2]}+{names[3]}"]
    assert set(tokenized.layers["shift"].tocoo().col) == {1}
    genes, sets = (tokenized.uns[key]["params"] for key in ("shift", "shift_sets"))
    assert genes["n_pairs"] == tokenized.layers["shift"].nnz
    assert sets["n_pairs"] == np.isfinite(table.to_numpy()).sum()
    assert genes["n_cells"] == sets["n_cells"] == 6


def test_where_columns_are_the_same_gene_the_first_holds_the_value(adata, folder):
    adata.var_names = [*adata.var_names[:6], f"{adata.var_names[2]}.7", *adata.var_names[7:]]
    sg.pp.tokenize(adata, folder)
    hand = Hand(adata, folder, "cls")
    sg.tl.perturb(adata, folder, cells=hand.names[:4])
    which = dict(pairs(adata, range(4), hand, [c for c in range(30) if c != 6], "delete", everywhere=False))
    check_layer(adata, "shift", {at: hand.value(hand.rows[at[0]], [token], "delete") for at, token in which.items()})
