"""A perturbation carried out on many cells, part by part, here or on workers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from tqdm.auto import tqdm

from scgeneformer.engine._batching import row_lengths
from scgeneformer.engine._parts import map_cells
from scgeneformer.tokens import token_of

from ._decompose import N_PARTS, decompose_shifts
from ._directions import Directions
from ._effects import GeneEffects
from ._enumerate import enumerate_edits, select
from ._measure import measure
from ._screen import screen, screen_absent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgeneformer.nn import Backbone, Encoder

    from ._enumerate import Perturbation
    from ._store import Store

Method = Literal["exact", "screen"]
PART_SIZE: dict[Method, int] = {"exact": 2048, "screen": 16_384}  # perturbations in a part
_OF = "part_of_cells"  # in each part that is kept


@dataclass(frozen=True)
class Outcome:
    """What P perturbations did.

    Attributes
    ----------
    cells
        int32 (P,), rows of the tokens.
    what
        int32 (P,), token of the perturbed gene or number of the perturbed set.
    values
        (P, S), float64 if exact and float32 if estimated; as `measure` returns them. If decomposed (P, 4 S): the shifts
        and, after them, their parts, as `decompose_shifts` returns them.
    effects
        On genes, if asked for.
    directions
        Movements, summed over cells, if asked for.
    """

    cells: np.ndarray
    what: np.ndarray
    values: np.ndarray
    effects: GeneEffects | None
    directions: Directions | None


@dataclass(frozen=True)
class _Job:
    """What is done to the cells of each part; as for `run`."""

    perturbation: Perturbation
    method: Method
    states: np.ndarray | None
    linear: bool
    effects: bool
    decompose: bool
    directions: bool
    axes: np.ndarray | None
    options: dict[str, Any]

    def empty_directions(self) -> Directions | None:
        """For movements, if asked for: whole, or along the states and the axes."""
        if not self.directions:
            return None
        if self.axes is None or self.states is None:
            return Directions()
        along = np.vstack([self.states, self.axes])
        return Directions(along / np.linalg.norm(along, axis=1, keepdims=True))


def run(
    encoder: Backbone,
    tokens: np.ndarray,
    perturbation: Perturbation,
    *,
    n_special: int,
    states: np.ndarray | None = None,
    linear: bool = False,
    method: Method = "exact",
    effects: bool = False,
    decompose: bool = False,
    directions: bool = False,
    axes: np.ndarray | None = None,
    store: Store | None = None,
    progress: bool = False,
    **options: Any,
) -> Outcome:
    """Perturb cells.

    Cells are taken longest first and cut into parts. A part is always computed alone, so that what it gives does not depend on which
    parts were done before, or by whom: this process, or workers of a Dask cluster. Only this process writes to the store.

    Parameters
    ----------
    encoder
        The model.
    tokens
        uint16 (n, L), right-padded with 0.
    perturbation
        What to do.
    n_special
        Token ids below this one are special.
    states
        As for `measure`; needed by ``"screen"``.
    linear
        As for `measure`; ``"exact"`` only.
    method
        ``"exact"``, or ``"screen"``: estimates, of single genes only.
    effects
        Also measure effects on genes; ``"exact"`` only.
    decompose
        Also tell the parts of each shift; of deletions with `states` that renumber positions, ``"exact"`` only.
    directions
        Also sum up where cells move; with `states`.
    axes
        float (A, H): along which, and along the states, movements are kept in place of whole ones. ``"screen"`` estimates no others. Without
        `directions` they are not used.
    store
        Where finished parts are kept, and taken from.
    progress
        Show a progress bar.
    options
        pooling, emb_layer, device, precision, token_budget: as for `measure`.

    Raises
    ------
    BlockingIOError
        If another process computes these parts, with this store.
    """
    options["n_special"] = n_special
    job = _Job(
        perturbation, method, states, linear, effects, decompose, directions, axes if directions else None, options
    )
    work = _work(tokens, perturbation)
    parts = list(_parts(work, row_lengths(tokens), PART_SIZE[method]))
    held = nullcontext() if store is None else store.locked()
    with held, tqdm(total=int(work.sum()), desc=perturbation.kind, unit=" perturbations", disable=not progress) as bar:
        total = _Total(job, parts, work, encoder.config.vocab_size, bar)

        def unfinished() -> Iterator[tuple[int, tuple[np.ndarray]]]:
            for number, cells in enumerate(parts):
                done = _finished(store, number, cells)
                if done is None:
                    yield number, (tokens[cells],)
                else:
                    total.add(number, done)

        placing = {name: options.get(name, "auto") for name in ("device", "precision")}
        for number, done in map_cells(_part, unfinished(), encoder, job, here={"bar": bar}, **placing):
            done["cells"] = parts[number][done["cells"]].astype(np.int32)
            if job.directions:
                done["moved_cells_what"] = parts[number][done["moved_cells_what"]]
            if store is not None:
                store.write(number, done | {_OF: parts[number]})
            total.add(number, done)
    return total.outcome()


class _Total:
    """Parts put together in the order of their numbers, in whatever order they come, so that their sums are rounded alike."""

    def __init__(self, job: _Job, parts: list[np.ndarray], work: np.ndarray, n_tokens: int, bar: tqdm) -> None:
        self.job, self.parts, self.work, self.bar = job, parts, work, bar
        self.effects = GeneEffects(_n_what(job.perturbation), n_tokens) if job.effects else None
        self.directions = job.empty_directions()
        self.waiting: dict[int, dict[str, np.ndarray]] = {}
        self.values: list[tuple[np.ndarray, ...]] = []
        self.n_cells = self.n_done = 0

    def add(self, number: int, done: dict[str, np.ndarray]) -> None:
        """Add the arrays of a part, cells counted among all."""
        self.waiting[number] = done
        while (following := self.waiting.pop(len(self.values), None)) is not None:
            self.values.append(tuple(following[name] for name in ("cells", "what", "values")))
            for sums in (self.effects, self.directions):
                if sums is not None:
                    sums.merge(following)
        cells = self.parts[number]
        self.n_cells += len(cells)
        self.n_done += int(self.work[cells].sum())
        self.bar.set_postfix_str(f"{self.n_cells:,} of {len(self.work):,} cells", refresh=False)
        self.bar.update(self.n_done - self.bar.n)

    def outcome(self) -> Outcome:
        """All of them."""
        if not self.values:
            nothing, states = np.empty(0, np.int32), self.job.states
            n_values = (1 if states is None else len(states)) * (1 + N_PARTS if self.job.decompose else 1)
            return Outcome(nothing, nothing, np.empty((0, n_values)), self.effects, self.directions)
        cells, what, values = (np.concatenate(field) for field in zip(*self.values, strict=True))
        return Outcome(cells, what, values, self.effects, self.directions)


def _finished(store: Store | None, i: int, cells: np.ndarray) -> dict[str, np.ndarray] | None:
    """A stored part, if it has exactly these cells: parts of another size were cut differently."""
    done = None if store is None else store.read(i)
    return done if done is not None and np.array_equal(done[_OF], cells) else None


def _work(tokens: np.ndarray, perturbation: Perturbation) -> np.ndarray:
    """Upper bound of the number of perturbations of each cell, int64 (n,). Parts on disk are cut by it: it must not change."""
    if perturbation.genes is None:
        return np.full(len(tokens), len(perturbation.sets))
    if perturbation.absent:
        return np.full(len(tokens), len(perturbation.genes))
    return np.isin(token_of(tokens), perturbation.genes).sum(1)


def _parts(work: np.ndarray, lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cells in parts of at most `size` perturbations or of one cell, longest first; cells without work are left out."""
    order = np.argsort(-lengths, kind="stable")
    order = order[work[order] > 0]
    so_far = np.cumsum(work[order])
    start = 0
    while start < len(order):
        before = so_far[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(so_far, before + size, side="right")))
        yield order[start:stop]
        start = stop


def _part(encoder: Backbone, job: _Job, tokens: np.ndarray, *, bar: tqdm | None = None) -> dict[str, np.ndarray]:
    """Arrays of one part, cells counted within it."""
    tokens = tokens[:, : max(1, int(row_lengths(tokens).max()))]
    perturbation, states, options = job.perturbation, job.states, job.options
    if job.method == "screen":
        return _estimates(encoder, job, tokens)
    n_special, max_length = options["n_special"], encoder.config.max_length
    edits = enumerate_edits(tokens, perturbation, n_special=n_special, max_length=max_length)
    measured = GeneEffects(_n_what(perturbation), encoder.config.vocab_size) if job.effects else None
    moved = job.empty_directions()
    values = measure(
        encoder,
        edits,
        perturbation,
        states=states,
        linear=job.linear,
        effects=measured,
        directions=moved,
        bar=bar,
        **options,
    )
    if job.decompose and states is not None:
        values = np.hstack([values, decompose_shifts(encoder, edits, perturbation, values, states=states, **options)])
    arrays = {"cells": edits.cells, "what": edits.what.astype(np.int32), "values": values}
    for sums in (measured, moved):
        arrays |= sums.stored() if sums is not None else {}
    return arrays


def _estimates(encoder: Backbone, job: _Job, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of one part that is screened, in the order of exact runs."""
    perturbation, states, moved = job.perturbation, job.states, job.empty_directions()
    if perturbation.genes is None or states is None:
        msg = "method='screen' estimates how single genes shift cells between states. For anything else, use 'exact'."
        raise ValueError(msg)
    if job.directions and job.axes is None:
        msg = "method='screen' estimates movements along `axes`. Pass some, or use 'exact'."
        raise ValueError(msg)
    encoder.check_offers("estimates of perturbations", "method='screen'")
    gated = cast("Encoder", encoder)
    options = job.options | {"axes": job.axes}
    cells, what = select(tokens, perturbation, options["n_special"])
    estimates = screen(
        gated,
        tokens,
        perturbation.kind,
        states,
        quartiles=perturbation.quartiles,
        ranks=perturbation.ranks,
        positions=perturbation.positions,
        **options,
    )
    rank_of = np.full((len(tokens), max(int(what.max(initial=0)), int(tokens.max(initial=0))) + 1), -1)
    np.put_along_axis(rank_of, tokens.astype(np.int64), np.arange(tokens.shape[1])[None], axis=1)
    rank = rank_of[cells, what]  # -1 where the cell does not express the gene
    values = estimates[cells, rank]
    if perturbation.absent:
        estimates = screen_absent(gated, tokens, perturbation.genes, states, **options)
        absent = rank < 0
        values[absent] = estimates[cells[absent], np.searchsorted(perturbation.genes, what[absent])]
    shifts = values[:, : len(states)].astype(np.float32)
    arrays = {"cells": cells.astype(np.int32), "what": what.astype(np.int32), "values": shifts}
    if moved is not None:
        moved.add(what, cells, values)
        arrays |= moved.stored()
    return arrays


def _n_what(perturbation: Perturbation) -> int:
    """Bound of the numbers of what is perturbed: tokens of genes, or numbers of sets."""
    return len(perturbation.sets) if perturbation.genes is None else int(perturbation.genes.max(initial=0)) + 1
