"""Tokens of time, rows of trajectories, the cells drawn for them and their loss, by hand and by slow loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scgeneformer import engine, nn
from scgeneformer.hub._token_dictionary import read_token_dictionary
from scgeneformer.model.trajectories._draw import Pool, TimedCells
from scgeneformer.model.trajectories._grammar import between, joined, longest_trajectory
from scgeneformer.model.trajectories._objective import Trajectories, TrajectoryModule
from scgeneformer.model.trajectories._tokens import TimeTokens, grown, grown_config
from scgeneformer.nn._llama import frequencies

CELLS = np.array([[2, 4, 3, 0, 0], [2, 5, 6, 3, 0], [2, 7, 5, 4, 3], [2, 6, 3, 0, 0]], np.uint16)
LENGTHS = (CELLS > 0).sum(1)
TOKENS = TimeTokens(8, -3, 3)  # numbers from token 8, 0 is 11, <boq> 15, <eoq> 16


def trajectories(p_time: float, *, max_length: int = 64, seed: int = 0, n_cells: tuple[int, int] = (3, 4)):
    cells = TimedCells(np.array([0, 1, 3, 1]), np.zeros(4, np.int64))
    pool = Pool.of(cells, np.arange(4))
    return Trajectories(pool, CELLS, LENGTHS, TOKENS, n_cells, max_length, p_time, seed)


def test_tokens_of_the_published_dictionary():
    tokens = TimeTokens(20275, -1500, 1499)
    assert [tokens.of(v) for v in (-1500, 0, 517, 1499)] == [20275, 21775, 22292, 23274]
    assert (tokens.boq, tokens.eoq, len(tokens)) == (23275, 23276, 23277)
    with pytest.raises(ValueError, match="1500 steps has no token.*-1500 to 1499"):
        tokens.of(1500)


def test_the_dictionary_is_read_back(vocabulary, tmp_path):
    path = tmp_path / "token_dictionary.json"
    path.write_text(json.dumps(TimeTokens(len(vocabulary), -2, 2).dictionary(vocabulary)))
    assert read_token_dictionary(path) == (vocabulary.ids.tolist(), len(vocabulary) + 7)


def test_steps_between_cells():
    assert between([0, 5, 10, 20]) == [5, 5, 10]
    assert between([10, 5, 0]) == [-5, -5]


def test_what_is_too_long_is_cut_from_the_first_cell():
    first, rest = np.array([2, 10, 11, 12, 13, 14, 3]), np.array([8, 2, 5, 6, 3])
    assert joined([first, rest], 12).tolist() == [*first, *rest]
    assert joined([first, rest], 10).tolist() == [2, 10, 11, 12, 3, *rest]
    assert joined([first, rest], 9).tolist() == [2, 10, 11, 3, *rest]
    with pytest.raises(ValueError, match=r"12 tokens.*cut to max_length=8.*sg\.pp\.tokenize"):
        joined([first, rest], 8)


def test_rows_masks_and_targets_of_both_tasks():
    steps = [0, 1, 3, 1]
    for p_time in (0.0, 1.0):
        drawn = trajectories(p_time)
        for epoch in range(8):
            batch = drawn(np.arange(4), CELLS, epoch)
            for row in range(4):
                before = drawn.before(row, rng_behind_task(0, epoch, row))
                expected = list(CELLS[before[0], : LENGTHS[before[0]]])
                for one, other in zip(before[:-1], before[1:], strict=True):
                    expected += [11 + steps[other] - steps[one], *CELLS[other, : LENGTHS[other]]]
                number, cell = steps[row] - steps[before[-1]], list(CELLS[row, : LENGTHS[row]])
                if p_time:
                    expected += [15, *cell, 16]
                    supervised = []
                else:
                    expected += [15, 11 + number, 16, *cell]
                    supervised = range(len(expected) - len(cell) - 1, len(expected) - 1)  # <eoq> to the last gene
                assert batch["tokens"][row, : batch["lengths"][row]].tolist() == expected
                assert not batch["tokens"][row, batch["lengths"][row] :].any()
                assert np.flatnonzero(batch["where"][row]).tolist() == list(supervised)
                assert expected[batch["ends"][row]] == 16
                np.testing.assert_equal(batch["elapsed"][row], number if p_time else np.nan)
                assert len(expected) <= longest_trajectory(5, 4)


def test_a_pair_of_cells_by_hand():
    cells = TimedCells(np.array([0, 1, 3, 1]), np.zeros(4, np.int64))
    for p_time, row, where, end in (
        (0.0, [2, 4, 3, 15, 12, 16, 2, 5, 6, 3], [0, 0, 0, 0, 0, 1, 1, 1, 1, 0], 5),
        (1.0, [2, 4, 3, 15, 2, 5, 6, 3, 16], [0] * 9, 8),
    ):
        drawn = Trajectories(Pool.of(cells, np.arange(1)), CELLS, LENGTHS, TOKENS, (2, 2), 64, p_time, 0)
        batch = drawn(np.array([1]), CELLS, 0)
        assert batch["tokens"].tolist() == [row]
        assert batch["where"].astype(int).tolist() == [where]
        assert batch["ends"].tolist() == [end]


def rng_behind_task(seed: int, epoch: int, row: int) -> np.random.Generator:
    rng = np.random.default_rng([seed, epoch, row])
    rng.random()
    return rng


def test_contexts_are_of_one_group_at_different_times_and_without_the_cell_itself():
    rng = np.random.default_rng(0)
    cells = TimedCells(rng.integers(5, size=60), rng.integers(3, size=60))
    pool = Pool.of(cells, np.arange(0, 60, 2))
    sizes = set()
    for row in pool.with_times(np.arange(60), 2):
        for _ in range(5):
            drawn = pool.draw(rng, int(cells.groups[row]), (2, 3), without=int(row))
            sizes.add(len(drawn))
            assert row not in drawn
            assert not (drawn % 2).any()
            assert (cells.groups[drawn] == cells.groups[row]).all()
            assert len(set(cells.steps[drawn])) == len(drawn)
    assert sizes == {2, 3}


def test_cells_alone_at_their_time_do_not_count_for_themselves():
    pool = Pool.of(TimedCells(np.array([0, 0, 1]), np.zeros(3, np.int64)), np.arange(3))
    assert pool.with_times(np.arange(3), 2).tolist() == [0, 1]


def test_epochs_and_seeds_draw_anew():
    def flat(epoch: int, seed: int) -> bytes:
        return trajectories(0.5, seed=seed)(np.arange(4), CELLS, epoch)["tokens"].tobytes()

    assert flat(1, 0) == flat(1, 0)
    assert len({flat(1, 0), flat(2, 0), flat(1, 1)}) == 3


def test_expected_number():
    """Values of the specification: four numbers, -1 to 2, behind two other tokens."""
    scores = torch.tensor([[2, -1, 0.5, 1, 1.5, -0.5]])
    expected, no_number = engine.expected_number(scores, 2, torch.tensor([-1.0, 0, 1, 2]))
    np.testing.assert_allclose(expected, [0.427914729], rtol=1e-6)
    np.testing.assert_allclose(no_number, [0.450666057], rtol=1e-6)


def test_loss_is_that_of_a_slow_loop():
    torch.manual_seed(0)
    config = nn.LlamaConfig(17, 1, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=16, max_length=64)
    module = TrajectoryModule(nn.NextGeneModel(config), TOKENS)
    module.network.head.weight.data *= 30
    module.penalty = 2.5
    batch = trajectories(0.5, seed=3)(np.arange(4), CELLS, 0)
    is_time = ~np.isnan(batch["elapsed"])
    assert 0 < is_time.sum() < 4
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    output = module(tensors)[-1]
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    losses = []
    for row in range(4):
        tokens = tensors["tokens"][row, : tensors["lengths"][row]]
        with torch.no_grad():
            scores = module.network(tokens[None])[0].double().numpy()
        proba = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        end = tokens.tolist().index(16)
        if is_time[row]:
            numbers = proba[end, 8:15]
            told = (numbers * np.arange(-3, 4)).sum() / numbers.sum()
            losses.append((told - batch["elapsed"][row]) ** 2 * 6 / 9 + 2.5 * (1 - numbers.sum()))
        else:
            errors = [-np.log(proba[i, tokens[i + 1]]) for i in range(end, len(tokens) - 1)]
            losses.append(np.mean(errors))
    np.testing.assert_allclose(output.loss.item(), np.mean(losses), rtol=1e-5)
    assert output.n_obs_minibatch == 4


@pytest.mark.parametrize(
    ("shape", "place", "value", "total"),
    [
        ({"n_layers": 11, "width": 1232, "n_heads": 8, "n_kv_heads": 8, "head_width": 154}, 60, 1.91010346e-4, 8.845837404),
        (
            {
                "n_layers": 20, "width": 2304, "n_heads": 16, "n_kv_heads": 8, "head_width": 144, "rope_theta": 5e5,
                "rope_scaling": nn.RopeScaling(factor=1.0, original_length=4096),
            },
            40, 1.7054758e-4, 5.986277491,
        ),
    ],
    ids=["217M", "1B"],
)  # fmt: skip
def test_longer_rows_turn_slower(shape, place, value, total):
    first = nn.LlamaConfig(20275, feed_forward=8, max_length=4096, **shape)
    assert frequencies(grown_config(first, 20300, 4096)).equal(frequencies(first))
    longer = grown_config(first, 20300, 16384)
    assert (longer.max_length, longer.vocab_size, longer.rope_scaling.factor) == (16384, 20300, 4.0)
    np.testing.assert_allclose(frequencies(longer)[place], value, rtol=1e-6)
    np.testing.assert_allclose(frequencies(longer).sum(), total, rtol=1e-6)


def test_a_grown_decoder_knows_what_it_knew(first_stage):
    network = first_stage.next_gene_model()
    config = network.encoder.config
    torch.manual_seed(0)
    new = grown(network, grown_config(config, 53, 64))
    tokens = torch.tensor([[2, 9, 20, 4, 3]])
    with torch.no_grad():
        torch.testing.assert_close(new(tokens)[..., :44], network(tokens))
    assert (new.encoder.token_vectors[44:].std() - 0.02).abs() < 0.005
    assert network.encoder.config == config
