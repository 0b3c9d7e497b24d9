from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer.model._batches import TokenBatches, TokenDataset, TokenLoader, trimmed
from scgeneformer.model._masking import Masking

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200).map(np.array)


@given(LENGTHS, st.integers(50, 3000), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_cell_once_per_epoch_within_the_budget(lengths, budget, epoch, shuffle):
    sampler = TokenBatches(lengths, token_budget=budget, shuffle=shuffle)
    plan = sampler.plan(epoch)
    assert len(plan) == len(sampler)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * trimmed(lengths[batch].max()) <= budget for batch in plan)


@given(LENGTHS, st.integers(1, 20), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_processes_share_an_epoch(lengths, batch_size, world):
    def plan(rank, n):
        return TokenBatches(lengths, token_budget=1, batch_size=batch_size, rank=rank, world=n).plan(2)

    shares = [plan(rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    dealt = [tuple(batch) for share in shares for batch in share]
    alone = [tuple(batch) for batch in plan(0, 1)]
    assert set(dealt) == set(alone)
    assert len(dealt) - len(alone) < world
    assert max(map(len, alone)) <= batch_size


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
        data = TokenDataset(tokens, np.arange(len(tokens)), lengths, Masking.over(vocabulary))
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
