"""A perturbation in parts gives the same as in one piece, whichever parts were done before and by which process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scgeneformer import engine
from scgeneformer.engine.perturb import GeneEffects, Perturbation, Store, _run
from scgeneformer.engine.perturb._decompose import decompose_shifts

SIZE = 8  # of parts
GENES = np.arange(4, 60)
STATES = np.random.default_rng(2).normal(size=(2, 16))
OPTIONS = {"pooling": "cls", "n_special": 4, "device": "cpu", "precision": "float32"}
PERTURBATIONS = {
    "delete": (Perturbation("delete", genes=GENES), {}),
    "kept": (Perturbation("delete", positions="kept", genes=GENES), {}),
    "decomposed": (Perturbation("delete", genes=GENES), {"decompose": True}),
    "in": (Perturbation("overexpress", genes=GENES[::7], absent=True), {}),
    "pairs": (Perturbation("inhibit", 2, genes=GENES, anchor=11), {}),
    "sets": (Perturbation("delete", sets=(np.array([5, 9]), np.arange(20, 40))), {"effects": True}),
    "effects": (Perturbation("delete", genes=GENES[::3]), {"effects": True}),
    "alone": (Perturbation("activate", 3, genes=GENES), {"states": None, "pooling": "mean"}),
    "screen": (Perturbation("delete", genes=GENES), {"method": "screen"}),
    "screen kept": (Perturbation("delete", positions="kept", genes=GENES), {"method": "screen"}),
    "screen in": (Perturbation("overexpress", genes=GENES[::7], absent=True), {"method": "screen"}),
}


@pytest.fixture
def small_parts(monkeypatch):
    for method in ("exact", "screen"):
        monkeypatch.setitem(_run.PART_SIZE, method, SIZE)


def call(encoder, tokens, name, **more):
    perturbation, options = PERTURBATIONS[name]
    return engine.perturb.run(encoder, tokens, perturbation, **{"states": STATES, **OPTIONS, **options, **more})


def bits(outcome):
    """The complete result, for comparison without tolerance."""
    effects = {} if outcome.effects is None else outcome.effects.stored()
    arrays = {"cells": outcome.cells, "what": outcome.what, "values": outcome.values, **effects}
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in arrays.items()}


def by_pair(outcome):
    order = np.lexsort((outcome.what, outcome.cells))
    return outcome.cells[order], outcome.what[order], outcome.values[order]


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if "screen" not in name])
def test_parts_are_the_whole(small, random_cells, name, small_parts):
    perturbation, options = PERTURBATIONS[name]
    found = call(small, random_cells, name)
    todo = engine.perturb.enumerate_edits(random_cells, perturbation, n_special=4, max_length=40)
    given = {"states": STATES, **OPTIONS, **options}
    effects = GeneEffects(60, 60) if given.pop("effects", False) else None
    decompose = given.pop("decompose", False)
    values = engine.perturb.measure(small, todo, perturbation, effects=effects, **given)
    if decompose:
        values = np.hstack([values, decompose_shifts(small, todo, perturbation, values, **given)])
    expected = replace(found, cells=todo.cells.astype(np.int32), what=todo.what.astype(np.int32), values=values)
    for ours, theirs in zip(by_pair(found)[:2], by_pair(expected)[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(by_pair(found)[2], by_pair(expected)[2], rtol=0, atol=1e-6)
    assert (found.cells.dtype, found.what.dtype, found.values.dtype) == (np.int32, np.int32, np.float64)
    if effects is not None:
        ours, theirs = found.effects.stored(), effects.stored()
        for key in ("effect_what", "effect_on", "effect_n"):
            np.testing.assert_array_equal(ours[key], theirs[key])
        for key in ("effect_sum", "effect_squares"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6)


def test_parts_are_cut_by_work_longest_first():
    rng = np.random.default_rng(0)
    work, lengths = rng.integers(0, 30, 50), rng.integers(1, 60, 50)
    work[7] = 100
    parts = list(_run._parts(work, lengths, 64))
    order = np.concatenate(parts)
    assert sorted(order) == np.flatnonzero(work).tolist()
    assert (np.diff(lengths[order]) <= 0).all()
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        assert len(part) == 1 or work[part].sum() <= 64
        if after is not None:
            assert work[part].sum() + work[after[0]] > 64  # no part is cut too early
    assert any(part.tolist() == [7] for part in parts)
    assert list(_run._parts(np.zeros(3, int), np.ones(3, int), 8)) == []


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_stopped_and_resumed_anywhere(small, random_cells, name, small_parts, tmp_path, monkeypatch):
    whole = bits(call(small, random_cells, name))
    compute, calls = _run._part, []

    def stops(*args, **kwargs):
        calls.append(len(calls))
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return compute(*args, **kwargs)

    monkeypatch.setattr(_run, "_part", stops)
    found = None
    while found is None:
        try:
            found = call(small, random_cells, name, store=Store(tmp_path, {}))
        except KeyboardInterrupt:
            continue
    n_parts = len(list(tmp_path.glob("part-*")))
    assert n_parts >= 3
    assert len(calls) == n_parts + (n_parts - 1) // 2  # nothing that was finished is done again
    assert bits(found) == whole
    monkeypatch.setattr(_run, "_part", None)
    assert bits(call(small, random_cells, name, store=Store(tmp_path, {}))) == whole


def test_a_damaged_part_is_done_again(small, random_cells, small_parts, tmp_path, monkeypatch):
    whole = bits(call(small, random_cells, "effects", store=Store(tmp_path, {})))
    path = Store(tmp_path, {}).path(1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    Store(tmp_path, {}).path(0).unlink()
    compute, done = _run._part, []
    monkeypatch.setattr(_run, "_part", lambda *args, **kwargs: done.append(1) or compute(*args, **kwargs))
    assert bits(call(small, random_cells, "effects", store=Store(tmp_path, {}))) == whole
    assert len(done) == 2
    assert path.read_bytes() == content


def test_a_full_disk_keeps_what_was_written(small, random_cells, small_parts, tmp_path, monkeypatch):
    store, write, n = Store(tmp_path, {}), Store.write, []

    def full(self, part, arrays):
        n.append(part)
        if len(n) == 3:
            raise OSError(28, "No space left on device")
        write(self, part, arrays)

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(OSError, match="No space left"):
        call(small, random_cells, "delete", store=store)
    assert len(list(tmp_path.glob("part-*"))) == 2
    monkeypatch.setattr(Store, "write", write)
    assert bits(call(small, random_cells, "delete", store=store)) == bits(call(small, random_cells, "delete"))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_parts_that_were_cut_otherwise_are_done_again(small, random_cells, name, tmp_path, monkeypatch):
    method = PERTURBATIONS[name][1].get("method", "exact")
    for size in (8, 30, 10_000, 8):
        monkeypatch.setitem(_run.PART_SIZE, method, size)
        found = call(small, random_cells, name, store=Store(tmp_path, {}))
        assert bits(found) == bits(call(small, random_cells, name))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_nothing_to_do(small, name, tmp_path):
    only_special = np.array([[2, 3, 0]], np.uint16)
    for i, tokens in enumerate((np.zeros((3, 8), np.uint16), np.zeros((0, 8), np.uint16), only_special)):
        found = call(small, tokens, name, store=Store(tmp_path / str(i), {}))
        assert len(found.cells) == len(found.what) == len(found.values) == 0
        assert found.values.shape[1] == {"alone": 1, "decomposed": 8}.get(name, 2)


def test_what_is_estimated_is_what_would_be_exact(small, random_cells):
    """The screen omits the same perturbations as exact runs."""
    rows = np.vstack([random_cells, np.zeros_like(random_cells[:1])])
    rows[-1, :3] = 2, 30, 3
    for kind in ("delete", "overexpress", "inhibit", "activate"):
        for absent in {False, kind == "overexpress"}:
            perturbation = Perturbation(kind, 2, genes=GENES[::2], absent=absent)
            options = {"states": STATES, **OPTIONS}
            exact = by_pair(engine.perturb.run(small, rows, perturbation, **options))
            found = by_pair(engine.perturb.run(small, rows, perturbation, method="screen", **options))
            np.testing.assert_array_equal(found[0], exact[0])
            np.testing.assert_array_equal(found[1], exact[1])
            assert found[2].dtype == np.float32
            assert np.isfinite(found[2]).all()


def test_the_bar_ends_where_it_should(small, random_cells, small_parts, tmp_path, capsys):
    for name in PERTURBATIONS:
        for _ in range(2):
            call(small, random_cells, name, store=Store(tmp_path / name, {}), progress=True)
            last = capsys.readouterr().err.strip().split("\r")[-1]
            assert "100%" in last, (name, last)
            assert "12 of 12 cells" in last or name in ("pairs", "sets"), (name, last)


@pytest.mark.parametrize("change", [{"states": None}, {"perturbation": PERTURBATIONS["sets"][0]}])
def test_only_shifts_by_single_genes_are_estimated(small, random_cells, change):
    given = {"perturbation": PERTURBATIONS["delete"][0], "states": STATES, **OPTIONS, **change}
    with pytest.raises(ValueError, match="single genes"):
        engine.perturb.run(small, random_cells, method="screen", **given)
