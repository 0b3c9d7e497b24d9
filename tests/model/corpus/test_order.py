from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scgeneformer.model.corpus._order import LEFT_OUT, BlockBatches, classes_of, length_classes
from scgeneformer.model.data._batches import trimmed

BOUNDS = st.lists(st.integers(0, 300), min_size=1, max_size=300).map(np.array)


def make(bounds, block_cells, held_out=(), **kwargs):
    widths = length_classes(int(bounds.max()))
    starts = np.r_[np.arange(0, len(bounds), block_cells), len(bounds)]
    blocks = np.setdiff1d(np.arange(len(starts) - 1), held_out)
    kwargs = {"token_budget": 900, "blocks_in_memory": 3} | kwargs
    return BlockBatches(starts, classes_of(bounds, widths), widths, blocks, **kwargs)


@given(st.integers(1, 5000))
def test_each_class_holds_lengths_of_little_difference(longest):
    widths = length_classes(longest)
    assert widths[0] == trimmed(longest)
    assert widths[-1] == 8
    assert (np.diff(widths) < 0).all()
    assert (widths[1:] >= np.minimum(0.85 * widths[:-1], widths[:-1] - 8)).all()
    lengths = np.arange(longest + 1)
    found = classes_of(lengths, widths)
    assert found[0] == LEFT_OUT
    assert (widths[found[1:]] == [min(width for width in widths if width >= n) for n in lengths[1:]]).all()


@given(BOUNDS, st.integers(1, 40), st.integers(1, 5), st.integers(0, 3), st.booleans(), st.none() | st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_every_cell_once_from_blocks_read_once_within_the_budget(bounds, block_cells, together, epoch, shuffle, size):
    plan = make(bounds, block_cells, batch_size=size, blocks_in_memory=together, shuffle=shuffle)
    read, seen = [], set()
    for step in plan.plan(epoch):
        assert len(step.blocks) <= together
        read += step.blocks.tolist()
        available = {cell for block in read for cell in range(*plan.starts[block : block + 2]) if bounds[cell]}
        seen |= {cell for batch in step.batches for cell in batch.tolist()}
        assert available == seen | set(step.waiting.tolist())
    assert sorted(read) == plan.blocks.tolist()
    batches = [batch for step in plan.plan(epoch) for batch in step.batches]
    assert sorted(np.concatenate([*batches, []])) == np.flatnonzero(bounds).tolist()
    assert len(batches) == len(plan)
    assert plan.n_cells == (bounds > 0).sum()
    for batch in batches:
        assert len(batch) <= size if size else len(batch) == 1 or len(batch) * trimmed(bounds[batch].max()) <= 900


def test_only_one_batch_of_one_size_is_not_full():
    bounds = np.random.default_rng(0).integers(1, 300, 1000)
    sizes = [len(batch) for step in make(bounds, 30, batch_size=7).plan(0) for batch in step.batches]
    assert sorted(sizes) == [1000 % 7] + [7] * (1000 // 7)


@given(BOUNDS, st.integers(1, 40), st.integers(0, 60))
@settings(max_examples=80, deadline=None)
def test_what_remains_after_some_batches(bounds, block_cells, skip):
    plan = make(bounds, block_cells)
    expected = [batch.tolist() for step in plan.plan(1) for batch in step.batches][skip:]
    steps = list(plan.remaining(1, skip))
    assert [batch.tolist() for step in steps for batch in step.batches] == expected
    readable = set()  # what is asked for lies in what was read
    for step in steps:
        readable |= {cell for block in step.blocks for cell in range(*plan.starts[block : block + 2])}
        assert readable >= {cell for batch in step.batches for cell in batch.tolist()} | set(step.waiting.tolist())


def test_resuming_late_reads_few_blocks():
    bounds = np.random.default_rng(0).integers(100, 300, 4000)
    plan = make(bounds, 20, token_budget=2400)
    assert len(plan.blocks) == 200
    assert sum(len(step.blocks) for step in plan.remaining(0, len(plan) * 9 // 10)) < 70


@given(BOUNDS, st.integers(2, 9), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_batches_are_those_of_one_process_with_a_larger_batch(bounds, size, world):
    assume(bounds.max() > 0)
    alone = make(bounds, 16, batch_size=size * world)
    shared = make(bounds, 16, batch_size=size, world=world)
    for one, other in zip(alone.plan(2), shared.plan(2), strict=True):
        assert list(map(list, one.batches)) == list(map(list, other.batches))
    assert len(alone) == len(shared)


def test_order_depends_on_seed_and_epoch_only():
    bounds = np.random.default_rng(0).integers(1, 300, 500)

    def order(seed, epoch, **kwargs):
        plan = make(bounds, 30, seed=seed, **kwargs).plan(epoch)
        return [batch.tolist() for step in plan for batch in step.batches]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert order(0, 1, shuffle=False) == order(1, 2, shuffle=False)


def test_cells_of_distant_blocks_meet():
    """A file in order of donors: batches contain cells from several of the blocks that are read together, and all lengths mix."""
    bounds = np.full(4000, 50)
    steps = list(make(bounds, 40, batch_size=20, blocks_in_memory=10).plan(0))
    assert np.mean([len(np.unique(batch // 40)) for step in steps for batch in step.batches]) > 7
    first = np.concatenate([step.blocks for step in steps])
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.3


@pytest.mark.parametrize("held_out", [[], [0, 3]])
def test_a_set_is_its_blocks(held_out):
    bounds = np.random.default_rng(0).integers(1, 300, 100)
    plan = make(bounds, 10, held_out)
    cells = sorted(cell for step in plan.plan(0) for batch in step.batches for cell in batch.tolist())
    assert cells == [cell for cell in range(100) if cell // 10 not in held_out]
