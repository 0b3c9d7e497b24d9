"""Which genes of which cells are perturbed, against plain loops, and which genes are dropped at the length limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer import engine
from scgeneformer.engine.perturb import Perturbation
from scgeneformer.engine.perturb._edits import KINDS, edit

from .conftest import as_matrix

N_SPECIAL, CLS, EOS = 4, 2, 3
GENES = range(N_SPECIAL, 20)


def enumerate_of(tokens, perturbation, max_length=1000):
    return engine.perturb.enumerate_edits(tokens, perturbation, n_special=N_SPECIAL, max_length=max_length)


def by_hand(tokens: np.ndarray, perturbation: Perturbation) -> list[tuple[int, int, list[int]]]:
    """Cell, what, and targets of every perturbation."""
    found = []
    for cell, row in enumerate(tokens.tolist()):
        genes = [t for t in row if t >= N_SPECIAL]
        if not genes:
            continue
        if perturbation.genes is None:
            for i, some in enumerate(perturbation.sets):
                n_held = sum(t in genes for t in some)
                enough = n_held == len(some) if perturbation.every else n_held > 0
                if perturbation.kind == "overexpress" or (
                    enough and not (perturbation.kind == "delete" and n_held == len(genes))
                ):
                    found.append((cell, i, list(some)))
            continue
        asked = [t for t in genes if t in perturbation.genes]
        if perturbation.absent:
            asked += [t for t in perturbation.genes.tolist() if t not in genes]
        for gene in asked:
            targets = [gene] if perturbation.anchor is None else [perturbation.anchor, gene]
            if (
                gene == perturbation.anchor
                or (perturbation.anchor is not None and perturbation.anchor not in genes and not perturbation.absent)
                or (perturbation.kind == "delete" and set(genes) <= set(targets))
                or (perturbation.kind == "overexpress" and targets == genes[:1])
            ):
                continue
            found.append((cell, gene, targets))
    return found


@st.composite
def cells(draw, most_genes=8):
    """Cells of a generation with special tokens or one without; some are empty or have a single gene."""
    special = draw(st.booleans())
    rows = draw(
        st.lists(st.lists(st.sampled_from(GENES), max_size=most_genes, unique=True), min_size=1, max_size=6).filter(any)
    )
    return as_matrix([np.array([CLS, *row, EOS] if special else row, dtype=int) for row in rows])


SOME = st.lists(st.sampled_from(GENES), min_size=1, max_size=6, unique=True)


@st.composite
def perturbations(draw, kind=None):
    kind = kind or draw(st.sampled_from(KINDS))
    if draw(st.booleans()):
        sets = tuple(np.array(some) for some in draw(st.lists(SOME, min_size=1, max_size=3)))
        return Perturbation(kind, sets=sets, every=draw(st.booleans()))
    anchor = draw(st.none() | st.sampled_from(GENES))
    absent = kind == "overexpress" and draw(st.booleans())
    return Perturbation(kind, genes=np.sort(draw(SOME)), anchor=anchor, absent=absent)


@given(cells(), perturbations())
def test_are_those_of_plain_loops(tokens, perturbation):
    found = enumerate_of(tokens, perturbation)
    targets = [[t for t in row if t] for row in found.targets.tolist()]
    assert list(zip(found.cells.tolist(), found.what.tolist(), targets, strict=True)) == by_hand(tokens, perturbation)
    # nothing is near the length limit: cells are edited, and compared with, as they are
    np.testing.assert_array_equal(found.tokens[found.rows], tokens[found.cells])
    np.testing.assert_array_equal(found.originals[found.of], tokens[found.cells])


def pairs(found):
    return list(zip(found.cells.tolist(), found.what.tolist(), strict=True))


V2 = np.array([[2, 7, 9, 3], [2, 7, 3, 0], [2, 3, 0, 0], [2, 9, 8, 3], [0, 0, 0, 0]], dtype=np.uint16)
V1 = np.array([[7, 9], [7, 0], [0, 0], [9, 8], [0, 0]], dtype=np.uint16)


@pytest.mark.parametrize("tokens", [V1, V2], ids=["V1", "V2"])
def test_written_down(tokens):
    """Five cells: 7 9, 7, none, 9 8 and none."""
    every = np.array([7, 8, 9])
    assert pairs(enumerate_of(tokens, Perturbation("delete", genes=every))) == [(0, 7), (0, 9), (3, 9), (3, 8)]
    assert pairs(enumerate_of(tokens, Perturbation("delete", genes=every[2:]))) == [(0, 9), (3, 9)]
    assert pairs(enumerate_of(tokens, Perturbation("overexpress", genes=every))) == [(0, 9), (3, 8)]  # not the top gene
    absent = enumerate_of(tokens, Perturbation("overexpress", genes=every, absent=True))
    assert pairs(absent) == [(0, 9), (0, 8), (1, 8), (1, 9), (3, 8), (3, 7)]
    assert pairs(enumerate_of(tokens, Perturbation("inhibit", genes=every))) == [(0, 7), (0, 9), (1, 7), (3, 9), (3, 8)]
    sets = (np.array([7, 9]), np.array([8, 9]))
    assert pairs(enumerate_of(tokens, Perturbation("delete", sets=sets))) == [
        (0, 1),
        (3, 0),
    ]  # never all genes of a cell
    assert pairs(enumerate_of(tokens, Perturbation("activate", sets=sets))) == [(0, 0), (0, 1), (1, 0), (3, 0), (3, 1)]
    assert pairs(enumerate_of(tokens, Perturbation("activate", sets=sets, every=True))) == [(0, 0), (3, 1)]
    assert pairs(enumerate_of(tokens, Perturbation("overexpress", sets=sets))) == [
        (c, s) for c in (0, 1, 3) for s in (0, 1)
    ]
    assert pairs(enumerate_of(tokens, Perturbation("delete", genes=every, anchor=9))) == []  # nothing would be left
    anchored = enumerate_of(tokens, Perturbation("overexpress", genes=every, anchor=9))
    assert pairs(anchored) == [(0, 7), (3, 8)]
    assert anchored.targets.tolist() == [[9, 7], [9, 8]]


def test_nothing_to_perturb():
    nothing = np.zeros((3, 4), np.uint16)
    for kind in KINDS:
        for perturbation in (Perturbation(kind, genes=np.array([7])), Perturbation(kind, sets=(np.array([7, 8]),))):
            found = enumerate_of(nothing, perturbation)
            assert len(found) == 0
            assert found.targets.shape == (0, 2 if perturbation.sets else 1)


def lowest_taken(row: np.ndarray, n: int, targets: np.ndarray) -> list[int]:
    """A row without its `n` lowest genes, targets excepted."""
    row = row[row > 0].tolist()
    out = [t for t in row if t >= N_SPECIAL and t not in targets][::-1][:n]
    return [t for t in row if t not in out]


def without(row, targets) -> list[int]:
    return [t for t in row.tolist() if t and t not in targets]


LIMIT = 14  # a cell of twelve genes and two special tokens is full, others have a little room


@given(cells(most_genes=12), perturbations(kind="overexpress"))
def test_room_is_made_for_what_comes_in(tokens, perturbation):
    found = enumerate_of(tokens, perturbation, max_length=LIMIT)
    if not len(found):
        return
    base = torch.from_numpy(found.tokens[found.rows].astype(np.int64))
    edited = edit(base, torch.from_numpy(found.targets), "overexpress", n_special=N_SPECIAL)
    assert int(edited.lengths.max()) <= LIMIT
    np.testing.assert_array_equal(found.originals[found.of], found.tokens[found.rows])
    for p in range(len(found)):
        cell, original, targets = tokens[found.cells[p]], found.tokens[found.rows[p]], set(found.targets[p].tolist())
        # edited and original differ in perturbed genes only
        assert without(edited.tokens[p], targets) == without(original, targets)
        # and no more was taken out than was needed
        n_in = len(targets - {0} - set(cell.tolist()))
        too_many = max(int((cell > 0).sum()) + n_in - LIMIT, 0)
        assert original[original > 0].tolist() == lowest_taken(cell, too_many, targets)


def test_targets_that_are_lowest_stay_in_the_original():
    """4 is inserted; 9 is the lowest gene and moves up, so 8 is dropped."""
    tokens = np.array([[CLS, 5, 6, 7, 8, 9, EOS]], dtype=np.uint16)
    found = enumerate_of(tokens, Perturbation("overexpress", sets=(np.array([4, 9]), np.array([4, 5]))), max_length=7)
    assert found.tokens[found.rows].tolist() == [[CLS, 5, 6, 7, 9, EOS, 0], [CLS, 5, 6, 7, 8, EOS, 0]]


def test_rows_are_shared():
    """A full cell loses the same gene for every inserted gene, unless that gene itself is perturbed."""
    tokens = np.array([[CLS, 5, 6, 7, 8, EOS]], dtype=np.uint16)
    perturbation = Perturbation("overexpress", genes=np.arange(5, 30), anchor=6, absent=True)
    found = enumerate_of(tokens, perturbation, max_length=6)
    assert len(found) == 24
    assert found.tokens.tolist() == [[CLS, 5, 6, 7, 8, EOS], [CLS, 5, 6, 7, EOS, 0]]
    found = enumerate_of(tokens, replace(perturbation, anchor=30), max_length=6)
    assert found.tokens.tolist() == [[CLS, 5, 6, 7, EOS, 0], [CLS, 5, 6, 8, EOS, 0], [CLS, 5, 6, EOS, 0, 0]]


@given(cells(most_genes=12), perturbations(kind="overexpress"))
def test_official_originals_lose_what_comes_in_twice(tokens, perturbation):
    right = enumerate_of(tokens, perturbation, max_length=LIMIT)
    found = enumerate_of(tokens, replace(perturbation, official=True), max_length=LIMIT)
    np.testing.assert_array_equal(found.tokens[found.rows], right.tokens[right.rows])  # the edited cell is the same
    for p in range(len(found)):
        cell, targets = tokens[found.cells[p]], set(found.targets[p].tolist())
        length, n_in = int((cell > 0).sum()), len(targets - {0} - set(cell.tolist()))
        n_over = min(length + n_in, LIMIT) + n_in - LIMIT
        original = found.originals[found.of[p]]
        assert original[original > 0].tolist() == lowest_taken(cell, max(n_over, 0), set())
        ours = right.originals[right.of[p]]
        held = targets & set(cell.tolist())
        if length == LIMIT or length <= LIMIT - 2 * n_in:  # both rules agree, but for targets at the end
            assert held or original.tolist() == ours.tolist()
        elif n_in:
            assert (original > 0).sum() < (ours > 0).sum()
