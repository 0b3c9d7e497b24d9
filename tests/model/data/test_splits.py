from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer import evaluation
from scgeneformer.model.data._gene_labels import GeneClasses
from scgeneformer.model.data._splits import choose_genes
from scgeneformer.model.objectives._genes import loss_weights

N = 20
GENES = GeneClasses(("a", "b"), np.arange(4, 4 + N), np.arange(N) % 2)
COUNTS = st.lists(st.integers(1, 50), min_size=N, max_size=N).map(lambda n: np.r_[[9] * 4, n, [5]])
SPLIT = evaluation.Split(np.arange(12), np.arange(12, 17), np.arange(17, N))


@given(COUNTS, st.sampled_from([None, "balanced", {"a": 3.0, "b": 0.5}]))
def test_weights_are_one_on_average_over_occurrences(counts, class_weights):
    weights = loss_weights(GENES, SPLIT, counts, class_weights)
    if weights is None:
        assert class_weights is None
        return
    for genes in (SPLIT.train, SPLIT.validation):
        tokens = GENES.tokens[genes]
        np.testing.assert_allclose((weights * counts)[tokens].sum() / counts[tokens].sum(), 1, rtol=1e-5)
    mass = (weights * counts)[GENES.tokens]  # of each gene
    train, codes = mass[SPLIT.train], GENES.codes[SPLIT.train]
    if class_weights == "balanced":
        np.testing.assert_allclose(train[codes == 0].sum(), train[codes == 1].sum(), rtol=1e-5)
    if class_weights == {"a": 3.0, "b": 0.5}:
        each = weights[GENES.tokens[SPLIT.train]]
        np.testing.assert_allclose(each[codes == 0][0] / each[codes == 1][0], 6, rtol=1e-5)
    assert (weights[GENES.tokens[SPLIT.test]] == 0).all()


def test_a_new_split_has_only_genes_that_occur(toy):
    seen = np.arange(N) < 15
    found = choose_genes(GENES, seen, None, toy[0](), rng=0, train_size=0.6, validation_size=0.2, test_size=0.2)
    every = np.concatenate([found.train, found.validation, found.test])
    np.testing.assert_array_equal(np.sort(every), np.arange(15))
    for genes in (found.train, found.validation, found.test):
        assert set(GENES.codes[genes]) == {0, 1}


def test_given_genes(toy):
    vocabulary = toy[0]()
    ids = vocabulary.ids[GENES.tokens]
    named = {"test": ids[[5, 3]], "train": list(ids[6:])}
    found = choose_genes(GENES, np.arange(N) != 3, named, vocabulary, rng=0)
    np.testing.assert_array_equal(found.train, np.arange(6, N))
    np.testing.assert_array_equal(found.test, [5])  # 3 occurs in no cell
    assert len(found.validation) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": [0, 1, 2], "test": [2]}, "more than once"),
        ({"training": [0, 1]}, r"sets \['training'\]"),
        ({"train": [0, 1, 30]}, "without a class"),
        ({"train": [0, 2, 4]}, "fewer than two classes"),
        (evaluation.Split([0, 1, 99], [], []), "outside 0 to 19"),
    ],
)
def test_bad_splits_are_named(toy, given, message):
    vocabulary = toy[0]()
    if isinstance(given, dict):
        given = {name: vocabulary.ids[4:][genes] for name, genes in given.items()}
    with pytest.raises(ValueError, match=message):
        choose_genes(GENES, np.ones(N, bool), given, vocabulary, rng=0)


@pytest.mark.parametrize(
    ("class_weights", "message"),
    [("equal", "class_weights='equal'"), ({"a": 1.0}, "to each of"), ({"a": 1.0, "b": 0.0}, "above 0")],
)
def test_bad_weights_are_named(class_weights, message):
    with pytest.raises(ValueError, match=message):
        loss_weights(GENES, SPLIT, np.ones(25, int), class_weights)
