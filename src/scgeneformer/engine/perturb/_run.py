"""A perturbation carried out on many cells, part by part."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from tqdm.auto import tqdm

from scgeneformer.engine._batching import row_lengths
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
        (P, S), float64 if exact and float32 if estimated; as `measure` returns them. If decomposed (P, 4 S): the shifts and, behind
        them, their parts, as `decompose_shifts` returns them.
    effects
        On genes, if asked for.
    directions
        Movements, summed over cells, if asked for.
    missing
        Parts that are left to other processes.
    """

    cells: np.ndarray
    what: np.ndarray
    values: np.ndarray
    effects: GeneEffects | None
    directions: Directions | None
    missing: int


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
    store: Store | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: bool = False,
    **options: Any,
) -> Outcome:
    """Perturb cells.

    Cells are taken longest first and cut into parts. A part is always computed alone, so that what it gives does not depend on which
    parts were done before, or by whom.

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
        Also sum up where cells move; with `states`, ``"exact"`` only.
    store
        Where finished parts are kept, and taken from.
    shard
        (i, n): compute part i, i + n, i + 2 n, ... only. Parts of others are read if the store has them.
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
    total = GeneEffects(_n_what(perturbation), encoder.config.vocab_size) if effects else None
    moved = Directions() if directions else None
    work = _work(tokens, perturbation)
    parts = list(_parts(work, row_lengths(tokens), PART_SIZE[method]))
    found, missing, n_cells = [], 0, 0
    held = nullcontext() if store is None else store.locked(shard)
    total_work = int(work.sum())
    with held, tqdm(total=total_work, desc=perturbation.kind, unit=" perturbations", disable=not progress) as bar:
        for i, cells in enumerate(parts):
            done, end = _finished(store, i, cells), bar.n + int(work[cells].sum())
            if done is None and i % shard[1] != shard[0]:
                missing += 1
            elif done is None:
                done = _part(
                    encoder,
                    tokens[cells],
                    perturbation,
                    states,
                    method,
                    options,
                    bar,
                    linear=linear,
                    effects=effects,
                    decompose=decompose,
                    directions=directions,
                )
                done["cells"] = cells[done["cells"]].astype(np.int32)
                if store is not None:
                    store.write(i, done | {_OF: cells})
            n_cells += len(cells)
            bar.set_postfix_str(f"{n_cells:,} of {len(tokens):,} cells", refresh=False)
            bar.update(end - bar.n)
            if done is not None:
                found.append((done["cells"], done["what"], done["values"]))
                if total is not None:
                    total.merge(done)
                if moved is not None:
                    moved.merge(done)
    if not found:
        nothing = np.empty(0, np.int32)
        n_values = (1 if states is None else len(states)) * (1 + N_PARTS if decompose else 1)
        return Outcome(nothing, nothing, np.empty((0, n_values)), total, moved, missing)
    cells, what, values = (np.concatenate(field) for field in zip(*found, strict=True))
    return Outcome(cells, what, values, total, moved, missing)


def _finished(store: Store | None, i: int, cells: np.ndarray) -> dict[str, np.ndarray] | None:
    """A part that was kept, if it is of just these cells: parts were cut otherwise if their size was another."""
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


def _part(
    encoder: Backbone,
    tokens: np.ndarray,
    perturbation: Perturbation,
    states: np.ndarray | None,
    method: Method,
    options: dict[str, Any],
    bar: tqdm,
    *,
    linear: bool,
    effects: bool,
    decompose: bool,
    directions: bool,
) -> dict[str, np.ndarray]:
    """Arrays of one part, cells counted within it."""
    tokens = tokens[:, : max(1, int(row_lengths(tokens).max()))]
    if method == "screen":
        return _estimates(encoder, tokens, perturbation, states, options)
    n_special, max_length = options["n_special"], encoder.config.max_length
    edits = enumerate_edits(tokens, perturbation, n_special=n_special, max_length=max_length)
    measured = GeneEffects(_n_what(perturbation), encoder.config.vocab_size) if effects else None
    moved = Directions() if directions else None
    values = measure(
        encoder,
        edits,
        perturbation,
        states=states,
        linear=linear,
        effects=measured,
        directions=moved,
        bar=bar,
        **options,
    )
    if decompose and states is not None:
        values = np.hstack([values, decompose_shifts(encoder, edits, perturbation, values, states=states, **options)])
    arrays = {"cells": edits.cells, "what": edits.what.astype(np.int32), "values": values}
    for sums in (measured, moved):
        arrays |= sums.stored() if sums is not None else {}
    return arrays


def _estimates(
    encoder: Backbone,
    tokens: np.ndarray,
    perturbation: Perturbation,
    states: np.ndarray | None,
    options: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Arrays of one part that is screened, in the order of exact runs."""
    if perturbation.genes is None or states is None:
        msg = "method='screen' estimates how single genes shift cells between states. For anything else, use 'exact'."
        raise ValueError(msg)
    encoder.check_offers("estimates of perturbations", "method='screen'")
    gated = cast("Encoder", encoder)
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
    values = estimates[cells, rank].astype(np.float32)
    if perturbation.absent:
        estimates = screen_absent(gated, tokens, perturbation.genes, states, **options)
        absent = rank < 0
        values[absent] = estimates[cells[absent], np.searchsorted(perturbation.genes, what[absent])]
    return {"cells": cells.astype(np.int32), "what": what.astype(np.int32), "values": values}


def _n_what(perturbation: Perturbation) -> int:
    """Bound of the numbers of what is perturbed: tokens of genes, or numbers of sets."""
    return len(perturbation.sets) if perturbation.genes is None else int(perturbation.genes.max(initial=0)) + 1
