from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer import Vocabulary
from scgeneformer.model.data._masking import FIXED_EPOCH, Masking, _hash

N_SPECIAL, N_GENES = 4, 500
IDS = ["<pad>", "<mask>", "<cls>", "<eos>"] + [f"ENSG{i:011d}" for i in range(N_GENES)]
VOCABULARY = Vocabulary("toy", np.array(IDS), np.r_[[np.nan] * 4, np.ones(N_GENES)], 2048)


def corpus(n: int = 1000, width: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(N_SPECIAL, N_SPECIAL + N_GENES, (n, width)).astype(np.uint16)
    tokens[:, 0], tokens[:, -11], tokens[:, -10:] = 2, 3, 0
    return tokens


def test_hash_is_splitmix64():
    # the first outputs of the published generator for seed 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    keys = np.array([1234567], dtype=np.uint64)
    assert [int(_hash(keys, stream)[0]) for stream in range(3)] == expected


@pytest.mark.parametrize("rule", ["protected", "geneformer"])
def test_shares(rule):
    tokens = corpus()
    inputs, where = Masking.over(VOCABULARY, rule=rule)(tokens, np.arange(len(tokens)), 3)
    eligible = tokens > (3 if rule == "protected" else 1)
    n = eligible.sum()
    assert where.sum() / n == pytest.approx(0.15, abs=4 * np.sqrt(0.15 * 0.85 / n))
    assert not where[~eligible].any()
    assert (inputs[~where] == tokens[~where]).all()
    n_hidden = where.sum()
    tolerance = 4 * np.sqrt(0.8 * 0.2 / n_hidden)
    assert (inputs[where] == 1).mean() == pytest.approx(0.8, abs=tolerance)
    same = (inputs == tokens)[where].mean()
    assert same == pytest.approx(0.1 + 0.1 / N_GENES, abs=tolerance)


def test_official_rule_hides_special_tokens_and_inserts_any():
    tokens = corpus(20_000, 20)
    inputs, where = Masking.over(VOCABULARY, rule="geneformer")(tokens, np.arange(len(tokens)), 0)
    for position in (0, 9):  # <cls> and <eos>
        assert where[:, position].mean() == pytest.approx(0.15, abs=0.011)
    replaced = inputs[where & (inputs != tokens) & (inputs != 1)]
    assert {0, 2, 3} <= set(replaced.tolist())
    assert np.isin(np.arange(4, 504), replaced).mean() > 0.9


def test_protected_rule_spares_special_tokens():
    tokens = corpus(20_000, 20)
    inputs, where = Masking.over(VOCABULARY)(tokens, np.arange(len(tokens)), 0)
    assert not where[:, [0, 9]].any()
    replaced = inputs[where & (inputs != tokens) & (inputs != 1)]
    assert replaced.min() >= N_SPECIAL
    assert replaced.max() == N_SPECIAL + N_GENES - 1


@given(st.integers(0, 2**31), st.sampled_from([0, 7, FIXED_EPOCH]), st.integers(1, 30), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_a_mask_belongs_to_its_cell(seed, epoch, n, width):
    tokens, masking = corpus(40, 60, seed=1), Masking.over(VOCABULARY, seed=seed)
    cells = np.random.default_rng(seed).permutation(40)[:n]
    inputs, where = masking(tokens, np.arange(40), epoch)
    some_inputs, some_where = masking(tokens[cells, :width], cells, epoch)
    assert (some_inputs == inputs[cells, :width]).all()
    assert (some_where == where[cells, :width]).all()


def test_masks_change_with_epoch_and_seed():
    tokens, cells = corpus(50), np.arange(50)
    masks = [Masking.over(VOCABULARY, seed=seed)(tokens, cells, epoch)[1] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        overlap = (masks[a] & masks[b]).sum() / masks[a].sum()
        assert overlap == pytest.approx(0.15, abs=0.04)  # as if independent


@pytest.mark.parametrize(("name", "value"), [("rule", "bert"), ("probability", 0.0), ("probability", 1.0)])
def test_refuses(name, value):
    with pytest.raises(ValueError, match=str(value)):
        Masking.over(VOCABULARY, **{name: value})
