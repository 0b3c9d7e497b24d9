"""Errors of official Geneformer: our values against rows edited by hand, and an explanation of its values if it has any."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scgeneformer import engine
from scgeneformer.engine.perturb import Perturbation

from .conftest import N_SPECIAL

MAX_LENGTH = {"V1": 2048, "V2": 4096}
B2M, TMSB4X, ACTB, CD3E, GATA4, LYZ = (
    f"ENSG00000{n}" for n in ("166710", "205542", "075624", "198851", "136574", "090382")
)
LISTS = {"GATA4": [GATA4], "three": [B2M, TMSB4X, ACTB], "mixed": [CD3E, GATA4, LYZ]}


@pytest.fixture(scope="module")
def tokens_of(official):
    """Tokens of genes of a generation."""

    def look_up(generation: str, genes: list[str]) -> np.ndarray:
        ids = list(official(generation).ids)
        return np.array([ids.index(gene) for gene in genes])

    return look_up


def states_of(encoder, row: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Second to last layer of a tiny model."""
    with torch.inference_mode():
        mask = None if mask is None else torch.from_numpy(mask)[None]
        return encoder(torch.from_numpy(row.astype(np.int64))[None], mask, n_layers=1)[0].double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def of_genes_by_hand(encoder, original: np.ndarray, edited: np.ndarray, left_out: np.ndarray) -> dict[int, float]:
    """Cosine of each gene in both rows, except those left out."""
    before, after = states_of(encoder, original), states_of(encoder, edited)
    place = {token: i for i, token in enumerate(edited.tolist())}
    return {
        token: float(cosine(before[i], after[place[token]]))
        for i, token in enumerate(original.tolist())
        if token in place and token not in left_out
    }


def perturb(encoder, tokens: np.ndarray, perturbation: Perturbation, generation: str, **options):
    """Edits and their values."""
    found = engine.perturb.enumerate_edits(
        tokens, perturbation, n_special=N_SPECIAL[generation], max_length=MAX_LENGTH[generation]
    )
    options = {"pooling": "mean" if generation == "V1" else "cls", "precision": "float32"} | options
    return found, engine.perturb.measure(encoder, found, perturbation, n_special=N_SPECIAL[generation], **options)


def failed(recordings, name: str) -> str:
    """The error of a run that failed in the official tool."""
    failures = json.loads((recordings.folder / "manifest.json").read_text())["official_failures"]
    return next(failure["error"] for failure in failures if failure["name"] == name)


def test_original_lost_a_gene_too_many(recordings, load, tokens_of):
    """A cell one token short of the limit, with recorded effects on genes: on request, we measure from the same original."""
    cells, tokens = recordings.cells("edgemix_V2")
    gata4 = tokens_of("V2", [GATA4])
    recorded = recordings.perturbation("edge_v2-tiny_GATA4_overexpress_cls_and_gene_mix.genes").set_index("affected")
    at = cells.index.get_loc("e:e1")
    row = tokens[at][tokens[at] > 0]
    assert len(row) == 4095
    only_here = np.setdiff1d(row[row >= 4], np.delete(tokens, at, axis=0))
    apart = {}
    for official in (True, False):
        perturbation = Perturbation("overexpress", sets=(gata4,), official=official)
        found = engine.perturb.enumerate_edits(row[None], perturbation, n_special=4, max_length=4096)
        original = found.originals[found.of[0]]
        edited = np.r_[row[:1], gata4, row[1:]]
        by_gene = of_genes_by_hand(load("v2-tiny"), original[original > 0], edited, np.r_[gata4, 2, 3])
        apart[official] = max(abs(by_gene[gene] - recorded.loc[gene, "mean"]) for gene in only_here)
    assert apart[True] < 5e-7
    assert apart[False] > 2e-6  # what one lost gene changes


@pytest.mark.parametrize("length", ["len4095", "mix"])
def test_changes_with_the_official_original(recordings, load, tokens_of, length):
    """The same cells read out at <cls>, which hardly moves in the tiny model: both rules agree with the recordings within rounding."""
    run = recordings.runs[f"edge_v2-tiny_GATA4_overexpress_cls_{length}"]
    cells, tokens = recordings.cells(run["data"])
    recorded = recordings.perturbation(f"edge_v2-tiny_GATA4_overexpress_cls_{length}").set_index("cell")["value"]
    perturbation = Perturbation("overexpress", sets=(tokens_of("V2", [GATA4]),), official=True)
    _, values = perturb(load("v2-tiny"), tokens, perturbation, "V2")
    np.testing.assert_allclose(values[:, 0], recorded.loc[cells.index], rtol=0, atol=5e-7)


def test_last_gene_was_compared_with_padding(recordings, load, tokens_of):
    """A cell one token short of the limit in a batch with a longer one: its recorded value comes from a wrong comparison, ours does not."""
    cells, tokens = recordings.cells("edgemix_V1")
    gata4 = tokens_of("V1", [GATA4])
    recorded = recordings.perturbation("edge_v1-tiny_GATA4_overexpress_mix").set_index("cell")["value"]
    row = tokens[cells.index.get_loc("e:e1")]
    row, encoder = row[row > 0], load("v1-tiny")
    assert len(row) == 2047
    edited = np.r_[gata4, row]
    # the original without its last gene, and padding in its place
    padded = np.r_[row[:-1], 0]
    with_padding = cosine(states_of(encoder, padded, padded > 0), states_of(encoder, edited)[1:])
    np.testing.assert_allclose(with_padding.mean(), recorded["e:e1"], rtol=0, atol=1e-6)
    # the original as it is: nothing has to go
    right = list(of_genes_by_hand(encoder, row, edited, gata4).values())
    assert len(right) == 2047
    _, values = perturb(encoder, row[None], Perturbation("overexpress", sets=(gata4,)), "V1")
    np.testing.assert_allclose(values, np.mean(right), rtol=0, atol=1e-6)
    assert abs(np.mean(right) - recorded["e:e1"]) > 5e-5


@pytest.mark.parametrize(
    ("model", "genes", "subset", "name"),
    [
        ("v1-tiny", "three", "sub100", "v1-tiny_list-three_overexpress_cell_sub100"),
        ("v1-tiny", "mixed", "sub100", "v1-tiny_list-mixed_overexpress_cell_and_gene_sub100"),
        ("v1-tiny", "GATA4", "edge2047", "edge_v1-tiny_GATA4_overexpress_len2047"),
        ("v2-tiny", "GATA4", "edge4095", "edge_v2-tiny_GATA4_overexpress_cls_and_gene_len4095"),
    ],
)
def test_overexpression_that_crashed(recordings, load, tokens_of, model, genes, subset, name):
    """Genes inserted into a cell, some of a list or at the length limit: the tensors of the official tool did not match."""
    assert "must match" in failed(recordings, name)
    generation = model[:2].upper()
    n_special, targets = N_SPECIAL[generation], tokens_of(generation, LISTS[genes])
    _, tokens = recordings.cells(f"{subset}_{generation}")
    held, lengths = np.isin(tokens, targets).sum(1), (tokens > 0).sum(1)
    partly = np.flatnonzero((held < len(targets)) & (lengths + len(targets) - held <= MAX_LENGTH[generation]))
    partly = partly[np.argsort(-lengths[partly], kind="stable")][:2]  # no room has to be made
    effects = engine.perturb.GeneEffects(1, 30_000)
    _, values = perturb(
        load(model),
        tokens[partly],
        Perturbation("overexpress", sets=(targets,)),
        generation,
        pooling="mean",
        effects=effects,
    )
    expected = []
    for row in tokens[partly]:
        row = row[row > 0]
        first, rest = row[: int(generation == "V2")], row[int(generation == "V2") :]
        edited = np.r_[first, targets, rest[~np.isin(rest, targets)]]
        by_gene = of_genes_by_hand(load(model), row, edited, np.r_[targets, :n_special])
        expected.append(list(by_gene.values()))
    assert values.shape == (len(expected), 1)
    np.testing.assert_allclose(values[:, 0], [np.mean(of_cell) for of_cell in expected], rtol=0, atol=1e-6)
    stored = effects.stored()
    assert stored["effect_n"].sum() == sum(map(len, expected))
    np.testing.assert_allclose(stored["effect_sum"].sum(), sum(map(sum, expected)), rtol=1e-5)


@pytest.mark.parametrize("model", ["v1-tiny", "v2-tiny"])
def test_deletion_of_a_set_with_a_missing_gene(recordings, load, tokens_of, model):
    """No cell expresses GATA4: the official tool requires all genes of a list and has no cells left. Ours deletes those that are present."""
    generation = model[:2].upper()
    readout = {"V1": "cell", "V2": "cls"}[generation]
    targets = tokens_of(generation, LISTS["mixed"])
    cells, tokens = recordings.cells(f"sub100_{generation}")
    for genes in ("mixed", "GATA4"):
        assert "RuntimeError" in failed(recordings, f"{model}_list-{genes}_delete_{readout}_sub100")
    for perturbation in (
        Perturbation("delete", sets=(targets,), every=True),
        Perturbation("delete", sets=(targets[1:2],)),
    ):
        found, values = perturb(load(model), tokens, perturbation, generation)
        assert len(found) == len(values) == 0
    perturbation = Perturbation("delete", sets=(targets,))
    found = engine.perturb.enumerate_edits(
        tokens, perturbation, n_special=N_SPECIAL[generation], max_length=MAX_LENGTH[generation]
    )
    np.testing.assert_array_equal(found.cells, np.flatnonzero(np.isin(tokens, targets).any(1)))
    two = found.cells[:2]
    _, values = perturb(load(model), tokens[two], perturbation, generation, pooling="mean")
    for row, value in zip(tokens[two], values[:, 0], strict=True):
        row = row[row > 0]
        by_gene = of_genes_by_hand(load(model), row, row[~np.isin(row, targets)], np.r_[: N_SPECIAL[generation]])
        np.testing.assert_allclose(value, np.mean(list(by_gene.values())), rtol=0, atol=1e-6)


@pytest.mark.parametrize("generation", ["V1", "V2"])
def test_top_gene_is_not_overexpressed(recordings, load, generation):
    """Ours leaves it out too, and nothing is lost: moving it changes nothing."""
    readout = {"V1": "cell", "V2": "cls"}[generation]
    recorded = recordings.perturbation(f"{generation.lower()}-tiny_all_overexpress_{readout}_short6")
    cells, tokens = recordings.cells(f"short6_{generation}")
    top = tokens[:, int(generation == "V2")]
    for cell, gene in zip(cells.index, top, strict=True):
        assert str(gene) not in set(recorded["perturbed"][recorded["cell"] == cell])
    perturbation = Perturbation("overexpress", sets=(top[:1].astype(np.int64),))
    _, values = perturb(load(f"{generation.lower()}-tiny"), tokens[:1], perturbation, generation, pooling="mean")
    np.testing.assert_allclose(values, 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("generation", ["V1", "V2"])
def test_overexpression_of_pairs_with_an_anchor(recordings, load, tokens_of, generation):
    """The official tool can only delete pairs."""
    encoder = load(f"{generation.lower()}-tiny")
    n_special, first = N_SPECIAL[generation], int(generation == "V2")
    (anchor,) = tokens_of(generation, [B2M])
    _, tokens = recordings.cells(f"short6_{generation}")
    row = next(row[row > 0] for row in tokens if anchor in row)
    genes = np.sort(row[first + np.array([0, 3, 200])])
    perturbation = Perturbation("overexpress", genes=genes, anchor=int(anchor))
    found, values = perturb(encoder, row[None], perturbation, generation, pooling="mean")
    assert set(found.what) == set(genes) - {anchor}
    for gene, value in zip(found.what, values[:, 0], strict=True):
        rest = row[first:]
        edited = np.r_[row[:first], anchor, gene, rest[~np.isin(rest, [anchor, gene])]]
        by_gene = of_genes_by_hand(encoder, row, edited, np.r_[anchor, gene, :n_special])
        np.testing.assert_allclose(value, np.mean(list(by_gene.values())), rtol=0, atol=1e-6)
