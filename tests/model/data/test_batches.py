from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scgeneformer.model.data._batches import TokenBatches, TokenDataset, TokenLoader, trimmed
from scgeneformer.model.data._masking import Masking

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200).map(np.array)


@given(LENGTHS, st.integers(50, 3000), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_cell_once_per_epoch_within_the_budget(lengths, budget, epoch, shuffle):
    sampler = TokenBatches(lengths, token_budget=budget, shuffle=shuffle)
    plan = sampler.plan(epoch)
    assert len(plan) == len(sampler)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * trimmed(lengths[batch].max()) <= budget for batch in plan)


@given(LENGTHS, st.integers(2, 20), st.integers(1, 4), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_processes_step_through_the_batches_of_one_process(lengths, size, world, by_tokens, shuffle):
    """`world` processes with a batch each are one process with a batch `world` times as large, batch by batch."""
    assume(len(lengths) >= world)

    def plan(rank, n, times):
        budget = {"token_budget": size * 304 * times} if by_tokens else {"token_budget": 1, "batch_size": size * times}
        return TokenBatches(lengths, **budget, shuffle=shuffle, rank=rank, world=n).plan(2)

    shares = [plan(rank, world, 1) for rank in range(world)]
    alone = plan(0, 1, world)
    assert [sorted(np.concatenate(parts)) for parts in zip(*shares, strict=True)] == [sorted(batch) for batch in alone]
    for parts in zip(*shares, strict=True):
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        if not by_tokens:
            assert max(sizes) <= size


@given(LENGTHS, st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_no_share_is_empty_with_one_cell_per_process(lengths, world):
    assume(len(lengths) >= world)
    shares = [TokenBatches(lengths, token_budget=1, rank=rank, world=world).plan(0) for rank in range(world)]
    assert sorted(np.concatenate([cells for share in shares for cells in share])) == list(range(len(lengths)))
    assert all(1 <= len(cells) <= 2 for share in shares for cells in share)


def test_fewer_cells_than_processes_are_refused():
    with pytest.raises(ValueError, match="2 cells for 3 processes"):
        TokenBatches(np.array([4, 4]), token_budget=8, world=3)


def test_order_depends_on_seed_and_epoch_only():
    lengths = np.random.default_rng(0).integers(5, 60, 300)

    def plan(seed, epoch):
        return [batch.tolist() for batch in TokenBatches(lengths, token_budget=500, seed=seed).plan(epoch)]

    assert plan(0, 3) == plan(0, 3)
    assert plan(0, 3) != plan(0, 4)
    assert plan(0, 3) != plan(1, 3)
    fixed = TokenBatches(lengths, token_budget=500, shuffle=False)
    assert [b.tolist() for b in fixed.plan(0)] == [b.tolist() for b in fixed.plan(5)]


def test_little_padding_and_full_batches_at_real_lengths():
    lengths = np.clip(np.random.default_rng(0).lognormal(6.4, 0.4, 5000), 50, 2048).astype(int)
    plan = TokenBatches(lengths, token_budget=8192).plan(0)
    padded = sum(len(batch) * trimmed(lengths[batch].max()) for batch in plan)
    assert lengths.sum() / padded > 0.9
    assert padded / (len(plan) * 8192) > 0.85
    assert plan[0].max() - plan[0].min() > 100  # batches are shuffled and so are the cells within a bucket


@pytest.fixture
def loader(cells, vocabulary):
    def make(n_workers=0):
        tokens = cells.obsm["geneformer_tokens"]
        lengths = (tokens != 0).sum(1)
        data = TokenDataset(tokens, np.arange(len(tokens)), lengths, Masking.over(vocabulary).targets)
        return TokenLoader(data, TokenBatches(lengths, token_budget=300), num_workers=n_workers)

    return make


def test_batches_are_trimmed_and_answers_complete_them(loader, cells):
    seen = []
    for batch in loader():
        width = batch["tokens"].shape[1]
        assert trimmed(int(batch["lengths"].max())) == width
        restored = batch["tokens"].clone()
        restored[batch["where"]] = batch["targets"]
        assert torch.equal((restored != 0).sum(1), batch["lengths"])
        seen += [tuple(row[row != 0].tolist()) for row in restored]
    original = [tuple(row[row != 0].tolist()) for row in cells.obsm["geneformer_tokens"]]
    assert sorted(seen) == sorted(original)


@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_loader_resumes_where_another_stopped(loader, place):
    first = loader()
    everything = list(loader())
    passes = iter(first)
    for _ in range(place):
        next(passes)
    second = loader()
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == len(everything) - place
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(rest, everything[place:], strict=True))
    assert second.state_dict() == {"place": 0}
    assert len(list(second)) == len(everything)  # the epoch after starts from its beginning


def test_workers_and_torchs_generator_change_nothing(loader):
    state = torch.get_rng_state()
    alone, helped = list(loader()), list(loader(n_workers=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(alone, helped, strict=True) for key in a)
