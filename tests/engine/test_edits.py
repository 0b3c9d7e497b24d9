"""Edited rows against NumPy's insert and delete, gene by gene, and properties that all edits have."""

from __future__ import annotations

from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer.engine.perturb._edits import KINDS, edit, edited_values, new_rank

N_SPECIAL, CLS, EOS = 4, 2, 3


def rank_by_rule(rank: int, n_genes: int, kind: str, quartiles: int) -> int:
    """The middle of the quartile that is this many higher or lower, or the end of the ranking if there is none."""
    if kind == "overexpress":
        return 0
    own = next(q for q in range(4) if rank < (q + 1) * n_genes / 4)
    goal = own - quartiles if kind == "activate" else own + quartiles
    if goal < 0:
        return 0
    return n_genes - 1 if goal > 3 else floor((goal + 0.5) * n_genes / 4)


def edited_by_hand(row: np.ndarray, targets: np.ndarray, kind: str, quartiles: int = 1) -> np.ndarray:
    """One row without padding, edited."""
    genes, targets = row[row >= N_SPECIAL], [t for t in targets if t]
    first, last = row[row == CLS], row[row == EOS]
    kept = genes[~np.isin(genes, targets)]
    if kind == "overexpress":
        kept = np.insert(kept, 0, targets)
    elif kind != "delete":
        moved = [t for t in targets if t in genes]
        ranks = [rank_by_rule(list(genes).index(t), len(genes), kind, quartiles) for t in moved]
        kept = np.insert(kept, np.minimum(ranks, len(kept)).astype(int), moved)  # what goes to one place stays in order
    return np.r_[first, kept, last].astype(np.int64)


def as_tensor(rows: list) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(np.asarray(row, np.int64)) for row in rows], True)


@st.composite
def cells_and_targets(draw, *, cls=st.booleans(), eos=st.booleans(), most_targets=4, present=False):
    """Padded rows of distinct genes, with or without special tokens, and targets that they contain or not."""
    start, end = [CLS] * draw(cls), [EOS] * draw(eos)
    genes = st.integers(N_SPECIAL, 40)
    rows, targets = [], []
    for _ in range(draw(st.integers(1, 4))):
        rows.append(draw(st.lists(genes, min_size=1, max_size=25, unique=True)))
        of = st.sampled_from(rows[-1]) if present else st.one_of(st.sampled_from(rows[-1]), genes)
        some = draw(st.lists(of, min_size=1, max_size=most_targets, unique=True))
        targets.append(draw(st.permutations(some + [0] * (most_targets - len(some)))))
    return as_tensor([start + row + end for row in rows]), torch.tensor(targets)


KIND = st.sampled_from(KINDS)
SHIFT = st.integers(1, 4)


@given(cells_and_targets(), KIND, SHIFT)
def test_is_editing_by_hand(cells, kind, quartiles):
    tokens, targets = cells
    found = edit(tokens, targets, kind, n_special=N_SPECIAL, quartiles=quartiles)
    expected = [
        edited_by_hand(row[row > 0], some, kind, quartiles)
        for row, some in zip(tokens.numpy(), targets.numpy(), strict=True)
    ]
    assert found.lengths.tolist() == [len(row) for row in expected]
    np.testing.assert_array_equal(found.tokens, as_tensor(expected))


@given(cells_and_targets(), KIND, SHIFT)
def test_source_tells_where_tokens_came_from(cells, kind, quartiles):
    tokens, targets = cells
    found = edit(tokens, targets, kind, n_special=N_SPECIAL, quartiles=quartiles)
    length = tokens.shape[1]
    for before, after, source, some in zip(tokens, found.tokens, found.source, targets, strict=True):
        came = source < length
        assert torch.equal(after[came], before[source[came]])
        # only perturbed genes and padding come from elsewhere, and what is not perturbed comes once and in order
        assert set(after[~came].tolist()) <= {0, *some.tolist()}
        kept = torch.nonzero((before > 0) & ~torch.isin(before, some[some > 0]))[:, 0]
        assert torch.equal(source[came], kept)


@given(cells_and_targets(), KIND, SHIFT)
def test_tokens_and_special_tokens_stay(cells, kind, quartiles):
    tokens, targets = cells
    found = edit(tokens, targets, kind, n_special=N_SPECIAL, quartiles=quartiles)
    for before, after, some, n in zip(
        tokens.tolist(), found.tokens.tolist(), targets.tolist(), found.lengths.tolist(), strict=True
    ):
        old, new, some = set(before) - {0}, after[:n], set(some) - {0}
        assert not any(after[n:])
        assert len(set(new)) == n
        expected = {"delete": old - some, "overexpress": old | some}.get(kind, old)
        assert set(new) == expected
        assert (before[0] == CLS) == (new[:1] == [CLS])
        assert (EOS in before) == (new[-1:] == [EOS])


@given(cells_and_targets(), KIND, SHIFT, st.integers(1, 5))
def test_neither_padding_nor_neighbours_matter(cells, kind, quartiles, padding):
    tokens, targets = cells
    together = edit(
        torch.nn.functional.pad(tokens, (0, padding)), targets, kind, n_special=N_SPECIAL, quartiles=quartiles
    )
    for i in range(len(tokens)):
        alone = edit(tokens[i : i + 1], targets[i : i + 1], kind, n_special=N_SPECIAL, quartiles=quartiles)
        n = int(together.lengths[i])
        assert torch.equal(together.tokens[i, :n], alone.tokens[0])


@given(cells_and_targets(cls=st.just(True)))  # so that something is left
def test_deletion_and_overexpression_done_twice_are_done_once(cells):
    tokens, targets = cells

    def done(tokens, kind):
        return edit(tokens, targets, kind, n_special=N_SPECIAL).tokens

    for kind in ("delete", "overexpress"):
        once = done(tokens, kind)
        assert torch.equal(done(once, kind), once)
    # and deleting what was overexpressed is deleting it
    assert torch.equal(done(done(tokens, "overexpress"), "delete"), done(tokens, "delete"))


@given(cells_and_targets(most_targets=1, present=True), st.integers(1, 3))
def test_inhibition_and_activation_move_one_gene(cells, quartiles):
    """Down and up, never the reverse. Four quartiles up lead to the top, and so do three except from the lowest quartile."""
    tokens, targets = cells
    genes = tokens >= N_SPECIAL
    first = int(tokens[0, 0] == CLS)

    def ranks(tokens):
        return (tokens == targets).int().argmax(1) - first

    def edited(kind, quartiles):
        return edit(tokens, targets, kind, n_special=N_SPECIAL, quartiles=quartiles).tokens

    before, n_genes = ranks(tokens), genes.sum(1)
    assert (ranks(edited("inhibit", quartiles)) >= before).all()
    up = ranks(edited("activate", quartiles))
    assert ((up < before) | (before == 0)).all()
    assert torch.equal(edited("activate", 4), edited("overexpress", 1))
    assert torch.equal(ranks(edited("inhibit", 4)), n_genes - 1)
    highest = 4 * before < 3 * n_genes
    assert (ranks(edited("activate", 3))[highest] == 0).all()


@given(cells_and_targets(most_targets=1, present=True), st.integers(1, 30), st.sampled_from(["inhibit", "activate"]))
def test_moves_by_ranks_are_exact_and_end_with_the_ranking(cells, by, kind):
    tokens, targets = cells
    first, n_genes = int(tokens[0, 0] == CLS), (tokens >= N_SPECIAL).sum(1)
    moved = edit(tokens, targets, kind, n_special=N_SPECIAL, ranks=by).tokens
    for row, after, target, n in zip(tokens, moved, targets, n_genes.tolist(), strict=True):
        (gene,) = [t for t in target.tolist() if t]
        others = [t for t in row.tolist() if t >= N_SPECIAL and t != gene]
        place = row.tolist().index(gene) - first + (by if kind == "inhibit" else -by)
        others.insert(min(max(place, 0), n - 1), gene)
        assert [t for t in after.tolist() if t >= N_SPECIAL] == others


def test_sets_at_the_bottom_stay_before_eos():
    tokens = torch.tensor([[CLS, 5, 6, 7, 8, EOS]])
    found = edit(tokens, torch.tensor([[6, 5, 8]]), "inhibit", n_special=N_SPECIAL, quartiles=3)
    assert found.tokens.tolist() == [[CLS, 7, 6, 5, 8, EOS]]


@pytest.mark.parametrize("kind", ["overexpress", "inhibit", "activate"])
@pytest.mark.parametrize("n_genes", [1, 2, 3, 7, 8, 100, 2047])
def test_new_rank_is_the_rule(kind, n_genes):
    ranks = np.unique(np.linspace(0, n_genes - 1, 50).astype(int))
    for quartiles in (1, 2, 3):
        found = new_rank(torch.from_numpy(ranks), torch.tensor(n_genes), kind, quartiles)
        assert found.tolist() == [rank_by_rule(rank, n_genes, kind, quartiles) for rank in ranks]


def test_new_rank_of_eight_genes():
    """By hand: quartiles are ranks 0-1, 2-3, 4-5, 6-7 with the middles 1, 3, 5, 7."""
    ranks, n_genes = torch.arange(8), torch.tensor(8)
    assert new_rank(ranks, n_genes, "inhibit", 1).tolist() == [3, 3, 5, 5, 7, 7, 7, 7]
    assert new_rank(ranks, n_genes, "inhibit", 3).tolist() == [7] * 8
    assert new_rank(ranks, n_genes, "activate", 1).tolist() == [0, 0, 1, 1, 3, 3, 5, 5]
    assert new_rank(ranks, n_genes, "activate", 2).tolist() == [0, 0, 0, 0, 1, 1, 3, 3]


@given(
    cells_and_targets(cls=st.just(True), eos=st.just(False)),
    st.sampled_from(["delete", "overexpress", "scale"]),
    st.floats(0.01, 20),
    st.integers(0, 2**32 - 1),
)
def test_values_go_with_their_genes(case, kind, factor, seed):
    tokens, targets = case
    drawn = np.random.default_rng(seed).gamma(2.0, size=tokens.shape)
    values = torch.from_numpy(np.where(tokens > 0, drawn, 0))
    edited = edit(tokens, targets, kind, n_special=N_SPECIAL)
    after = edited_values(values, edited, targets, kind, factor)
    for row, value, asked, new_row, new_value in zip(tokens, values, targets, edited.tokens, after, strict=True):
        before = dict(zip(row.tolist(), value.tolist(), strict=True))
        highest = max(value for token, value in before.items() if token >= N_SPECIAL)
        for token, found in zip(new_row.tolist(), new_value.tolist(), strict=True):
            expected = before.get(token, highest)
            if token in asked.tolist() and token and kind != "delete":
                expected = highest if kind == "overexpress" else np.log1p(np.expm1(before[token]) * factor)
            assert found == pytest.approx(expected if token else 0, rel=1e-6)
        kept = {token for token in before if token and (kind != "delete" or token not in asked.tolist())}
        inserted = {token for token in asked.tolist() if token} if kind == "overexpress" else set()
        assert set(new_row.tolist()) - {0} == kept | inserted
