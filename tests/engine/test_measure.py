"""Edits against rows edited by hand and a forward pass of each."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from scgeneformer import engine
from scgeneformer.engine.perturb import GeneEffects, Perturbation
from scgeneformer.engine.perturb._edits import KINDS

from .conftest import as_matrix
from .test_edits import edited_by_hand

N_SPECIAL, MAX_LENGTH, VOCABULARY = 4, 40, 60  # of the small encoder
OPTIONS = {"n_special": N_SPECIAL, "device": "cpu", "precision": "float32"}
STATES = np.random.default_rng(2).normal(size=(3, 16))
GENES = np.arange(N_SPECIAL, VOCABULARY)
PERTURBATIONS = {kind: Perturbation(kind, quartiles=2, genes=GENES) for kind in KINDS} | {
    "absent": Perturbation("overexpress", genes=GENES[::7], absent=True),  # two cells are full
    "kept": Perturbation("delete", positions="kept", genes=GENES),
    "pairs": Perturbation("delete", genes=GENES[::3], anchor=11),
    "pairs kept": Perturbation("delete", positions="kept", genes=GENES[::3], anchor=11),
    "pairs in": Perturbation("overexpress", genes=GENES[::7], anchor=11, absent=True),
    "sets out": Perturbation("delete", sets=(np.array([5, 40, 17]), np.array([30]), np.arange(8, 20))),
    "sets kept": Perturbation("delete", positions="kept", sets=(np.array([5, 40, 17]), np.arange(8, 20))),
    "sets in": Perturbation("overexpress", sets=(np.array([50, 5, 40]), np.array([30, 31]))),
    "sets down": Perturbation("inhibit", quartiles=3, sets=(np.array([5, 40, 17]), np.arange(8, 20))),
}


def state(encoder, tokens, n_layers=2, keys=None):
    """States after the second of three blocks, emb_layer = -1; `keys` are the tokens that may be attended to."""
    mask = None if keys is None else torch.from_numpy(keys)[None]
    with torch.inference_mode():
        return (
            encoder(torch.from_numpy(np.asarray(tokens, np.int64))[None], mask, n_layers=n_layers)[0].double().numpy()
        )


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def room_by_hand(row, targets):
    """The cell without the lowest background genes that are dropped for the inserted genes."""
    n_in = len(set(targets) - {0} - set(row.tolist()))
    too_many = len(row) + n_in - MAX_LENGTH
    lowest = [t for t in row if t >= N_SPECIAL and t not in targets][::-1][: max(too_many, 0)]
    return row[~np.isin(row, lowest)]


def by_hand(encoder, row, targets, perturbation, pooling, states, n_layers=2):
    """The result for one cell, and the cosine of each background gene."""
    row = row[row > 0]
    if perturbation.kind == "overexpress":
        row = room_by_hand(row, targets)
    before = state(encoder, row, n_layers)
    if perturbation.positions == "kept":  # the row as it is, but nothing attends to what is deleted
        left = ~np.isin(row, targets)
        edited, after = row[left], state(encoder, row, n_layers, keys=left)[left]
    else:
        edited = edited_by_hand(row, targets, perturbation.kind, perturbation.quartiles)
        after = state(encoder, edited, n_layers)
    background = [t for t in row.tolist() if t >= N_SPECIAL and t not in targets]
    of_gene = {t: float(cosine(before[row.tolist().index(t)], after[edited.tolist().index(t)])) for t in background}
    summary = {"cls": lambda h, _: h[0], "mean": lambda h, tokens: h[tokens >= N_SPECIAL].mean(0)}[pooling]
    if states is not None:
        value = cosine(summary(after, edited), states) - cosine(summary(before, row), states)
    elif pooling == "cls":
        value = [cosine(before[0], after[0])]
    else:
        value = [np.mean(list(of_gene.values())) if of_gene else np.nan]
    return value, of_gene


def enumerate_of(tokens, perturbation):
    return engine.perturb.enumerate_edits(tokens, perturbation, n_special=N_SPECIAL, max_length=MAX_LENGTH)


def some_of(perturbations, n=60):
    """A random part, in order."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(perturbations))[:n])
    return replace(
        perturbations,
        **{name: getattr(perturbations, name)[drawn] for name in ("cells", "what", "targets", "rows", "of")},
    )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("goal", [True, False], ids=["states", "alone"])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_equals_editing_by_hand(small, random_cells, name, goal, pooling):
    perturbation, states = PERTURBATIONS[name], STATES if goal else None
    perturbations = some_of(enumerate_of(random_cells, perturbation))
    effects = GeneEffects(VOCABULARY, VOCABULARY)
    options = {"pooling": pooling, "states": states, **OPTIONS}
    found = engine.perturb.measure(small, perturbations, perturbation, effects=effects, **options)
    expected, of_pairs = [], {}
    for cell, what, targets in zip(
        perturbations.cells, perturbations.what.tolist(), perturbations.targets.tolist(), strict=True
    ):
        value, of_gene = by_hand(small, random_cells[cell], targets, perturbation, pooling, states)
        expected.append(value)
        for gene, effect in of_gene.items():
            of_pairs.setdefault((what, gene), []).append(effect)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    # asking for effects on genes changes no value: only then all positions of the last layer are computed for <cls>
    alone = engine.perturb.measure(small, perturbations, perturbation, **options)
    np.testing.assert_allclose(alone, found, rtol=0, atol=1e-6)

    stored = effects.stored()
    pairs = sorted(of_pairs)
    assert list(zip(stored["effect_what"].tolist(), stored["effect_on"].tolist(), strict=True)) == pairs
    np.testing.assert_array_equal(stored["effect_n"], [len(of_pairs[pair]) for pair in pairs])
    np.testing.assert_allclose(stored["effect_sum"], [sum(of_pairs[pair]) for pair in pairs], rtol=0, atol=1e-5)
    squares = [sum(np.square(of_pairs[pair])) for pair in pairs]
    np.testing.assert_allclose(stored["effect_squares"], squares, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [0, -1, -3])
def test_layers(small, random_cells, layer):
    perturbation = PERTURBATIONS["overexpress"]
    perturbations = some_of(enumerate_of(random_cells, perturbation), 10)
    for pooling in ("mean", "cls"):
        found = engine.perturb.measure(
            small, perturbations, perturbation, pooling=pooling, states=STATES, emb_layer=layer, **OPTIONS
        )
        expected = [
            by_hand(small, random_cells[cell], targets, perturbation, pooling, STATES, 3 + layer)[0]
            for cell, targets in zip(perturbations.cells, perturbations.targets.tolist(), strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("goal", [True, False], ids=["states", "alone"])
@pytest.mark.parametrize("name", [*KINDS, "kept"])
def test_cells_without_special_tokens(small, name, goal):
    rng = np.random.default_rng(1)
    tokens = as_matrix([rng.permutation(GENES)[:n] for n in (40, 7, 0, 22, 1)])
    perturbation = replace(PERTURBATIONS[name], genes=GENES[::5], absent=name == "overexpress")
    perturbations, states = some_of(enumerate_of(tokens, perturbation), 30), STATES if goal else None
    found = engine.perturb.measure(small, perturbations, perturbation, pooling="mean", states=states, **OPTIONS)
    expected = [
        by_hand(small, tokens[cell], targets, perturbation, "mean", states)[0]
        for cell, targets in zip(perturbations.cells, perturbations.targets.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("special", [True, False], ids=["V2", "V1"])
def test_without_eos_the_last_gene_renumbers_nothing(small, random_cells, special):
    tokens = random_cells if special else as_matrix([row[row >= N_SPECIAL] for row in random_cells])
    lengths = (tokens > 0).sum(1)
    genes = lengths > (3 if special else 1)
    values = []
    for positions in ("renumbered", "kept"):
        perturbation = Perturbation("delete", positions=positions, genes=GENES)
        edits = enumerate_of(tokens[genes], perturbation)
        values.append(engine.perturb.measure(small, edits, perturbation, pooling="mean", states=STATES, **OPTIONS))
    lowest = tokens[genes, lengths[genes] - (2 if special else 1)]
    last = edits.what == lowest[edits.cells]
    assert last.sum() == genes.sum()
    differ = np.abs(values[0] - values[1]).max(1) > 1e-5
    assert differ[~last].all()
    assert differ[last].all() if special else not differ[last].any()


def test_no_gene_left_to_compare(small):
    """A cell whose genes all move up together has no background, but its states are still measured."""
    tokens = np.array([[2, 7, 9, 3]], dtype=np.uint16)
    perturbation = Perturbation("overexpress", sets=(np.array([9, 7]),))
    perturbations = enumerate_of(tokens, perturbation)
    effects = GeneEffects(1, VOCABULARY)
    assert np.isnan(
        engine.perturb.measure(small, perturbations, perturbation, pooling="mean", effects=effects, **OPTIONS)
    ).all()
    assert len(effects.stored()["effect_n"]) == 0
    assert np.isfinite(
        engine.perturb.measure(small, perturbations, perturbation, pooling="mean", states=STATES, **OPTIONS)
    ).all()


def test_nothing_to_do(small):
    perturbation = Perturbation("delete", genes=GENES)
    perturbations = enumerate_of(np.zeros((2, 3), np.uint16), perturbation)
    assert engine.perturb.measure(
        small, perturbations, perturbation, pooling="cls", states=STATES, **OPTIONS
    ).shape == (0, 3)
    assert engine.perturb.measure(small, perturbations, perturbation, pooling="mean", **OPTIONS).shape == (0, 1)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("goal", [True, False], ids=["states", "alone"])
@pytest.mark.parametrize("name", ["delete", "kept", "absent", "sets in", "sets down"])
def test_batches_do_not_matter(small, random_cells, name, goal, pooling):
    perturbation = PERTURBATIONS[name]
    perturbations = enumerate_of(random_cells, perturbation)
    found = []
    for token_budget in (1, 150, 10_000):
        effects = GeneEffects(VOCABULARY, VOCABULARY)
        options = {"pooling": pooling, "states": STATES if goal else None, "token_budget": token_budget, **OPTIONS}
        values = engine.perturb.measure(small, perturbations, perturbation, effects=effects, **options)
        found.append({"values": values, **effects.stored()})
    for other in found[1:]:
        for slot, values in found[0].items():
            np.testing.assert_allclose(other[slot], values, rtol=0, atol=3e-6, err_msg=slot)


def test_bar_counts_perturbations(small, random_cells):
    perturbation = PERTURBATIONS["pairs"]
    perturbations = enumerate_of(random_cells, perturbation)
    with tqdm(total=len(perturbations), file=StringIO()) as bar:
        engine.perturb.measure(small, perturbations, perturbation, pooling="cls", bar=bar, **OPTIONS)
        assert bar.n == len(perturbations)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_official_originals(small, random_cells, pooling):
    """On request, a full cell is compared with the original of the official tool, which lacks one gene too many."""
    tokens = random_cells[:1, :-1].copy()  # 39 of at most 40 tokens
    tokens[0, -1] = 3
    gene = int(np.setdiff1d(GENES, tokens)[0])
    perturbation = Perturbation("overexpress", genes=np.array([gene]), absent=True, official=True)
    found = engine.perturb.measure(
        small, enumerate_of(tokens, perturbation), perturbation, pooling=pooling, states=STATES, **OPTIONS
    )
    row = tokens[0]
    edited, original = np.r_[2, gene, row[1:]], np.delete(row, -2)
    summary = {"cls": lambda h: h[0], "mean": lambda h: h[1:-1].mean(0)}[pooling]
    expected = cosine(summary(state(small, edited)), STATES) - cosine(summary(state(small, original)), STATES)
    np.testing.assert_allclose(found, [expected], rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_survives_lack_of_memory(small, random_cells, pooling):
    perturbation = PERTURBATIONS["delete"]
    perturbations = enumerate_of(random_cells, perturbation)

    def run(**options):
        effects = GeneEffects(VOCABULARY, VOCABULARY)
        values = engine.perturb.measure(
            small, perturbations, perturbation, pooling=pooling, effects=effects, **options, **OPTIONS
        )
        return {"values": values, **effects.stored()}

    expected = run()
    real, refused = small.forward, []

    def stingy(tokens, *args, **kwargs):
        if tokens.numel() > 90:
            refused.append(tokens.numel())
            raise MemoryError
        return real(tokens, *args, **kwargs)

    small.forward = stingy
    try:
        found = run(token_budget=1000)
    finally:
        small.forward = real
    assert refused
    for slot, values in expected.items():
        np.testing.assert_allclose(found[slot], values, rtol=0, atol=3e-6, err_msg=slot)
