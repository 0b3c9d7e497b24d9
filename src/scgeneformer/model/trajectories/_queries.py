"""Questions to a trained decoder: contexts are drawn, prompts made and answers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import engine

from ._grammar import cell_question, has_genes, joined, padded, time_question

if TYPE_CHECKING:
    from scgeneformer.nn import NextGeneModel

    from ._objective import Trajectories

_STREAM = 2**32 - 2  # of the draws of contexts, beside the epochs of training
_AT_ONCE = 500  # cells whose prompts are in memory


@dataclass(frozen=True, eq=False)
class Queries:
    """Cells that questions are asked about.

    Attributes
    ----------
    matrix
        Tokens, right-padded with 0, (n, L).
    groups
        Group of each, int64 (n,).
    rows
        Its row among the cells of the model, -1 if it is not among them, int64 (n,).
    keys
        What its draws depend on, beside the seed, int64 (n,).
    """

    matrix: np.ndarray
    groups: np.ndarray
    rows: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.matrix)

    def cell(self, i: int) -> np.ndarray:
        """Tokens of a cell without padding."""
        row = self.matrix[i]
        return row[row > 0].astype(np.int64)

    def generator(self, i: int, seed: int) -> np.random.Generator:
        """The generator of the draws for a cell."""
        return np.random.default_rng([seed, _STREAM, int(self.keys[i])])

    def answerable(self, trajectories: Trajectories, n_times: int, but: np.ndarray | None = None) -> np.ndarray:
        """Which cells have genes, and cells of `n_times` times to compare them with, bool (n,)."""
        answerable = has_genes(engine.row_lengths(self.matrix))
        for i in np.flatnonzero(answerable).tolist():
            other = None if but is None else int(but[i])
            times = trajectories.pool.times(int(self.groups[i]), int(self.rows[i]), other)
            answerable[i] = len(times) >= n_times
        return answerable


def tell_elapsed(
    network: NextGeneModel, trajectories: Trajectories, queries: Queries, n_contexts: int, seed: int, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Steps from the last cell of each context to each query as the model predicts them, and the time of that cell, float64 (n, n_contexts).

    NaN for queries without genes or contexts.
    """
    lo, hi = (n - 1 for n in trajectories.n_cells)
    told, last = (np.full((len(queries), n_contexts), np.nan) for _ in range(2))
    answerable, tokens = np.flatnonzero(queries.answerable(trajectories, lo)), trajectories.tokens
    steps = trajectories.pool.cells.steps
    for start in range(0, len(answerable), _AT_ONCE):
        chosen, prompts = answerable[start : start + _AT_ONCE], []
        for i in chosen.tolist():
            rng = queries.generator(i, seed)
            for k in range(n_contexts):
                before = trajectories.pool.draw(rng, int(queries.groups[i]), (lo, hi), without=int(queries.rows[i]))
                last[i, k] = steps[before[-1]]
                parts = trajectories.context(before) + time_question(queries.cell(i), tokens)
                prompts.append(joined(parts, trajectories.max_length))
        numbers = engine.read_numbers(
            network, padded(prompts, np.uint16)[0], first=tokens.first, values=tokens.values, **options
        )
        told[chosen] = numbers.reshape(len(chosen), n_contexts)
    return told, last


def draw_next(
    network: NextGeneModel,
    trajectories: Trajectories,
    queries: Queries,
    steps: np.ndarray,
    n_steps: int,
    *,
    eos_id: int,
    bos_id: int,
    max_length: int,
    top_k: int | None,
    seed: int,
    **options: Any,
) -> np.ndarray:
    """A cell drawn some steps after each query, whose times are `steps`: uint16 (n, max_length), empty rows for queries without genes or contexts."""
    lo, hi = (max(n - 2, 0) for n in trajectories.n_cells)
    answerable, tokens = queries.answerable(trajectories, lo, but=steps), trajectories.tokens
    prompts, contexts = np.zeros((len(queries), 1), np.uint16), [np.zeros(0, np.int64)] * len(queries)
    for i in np.flatnonzero(answerable).tolist():
        drawn = trajectories.pool.draw(
            queries.generator(i, seed),
            int(queries.groups[i]),
            (lo, hi),
            without=int(queries.rows[i]),
            but=int(steps[i]),
        )
        times = [*trajectories.pool.cells.steps[drawn], steps[i]]
        cells = [*map(trajectories.cell, drawn), queries.cell(i)]
        parts = trajectories.between(cells, times) + cell_question(n_steps, tokens)
        contexts[i] = joined(parts, trajectories.max_length - max_length)
        prompts[i] = bos_id
    return engine.complete(
        network,
        prompts,
        n_special=options.pop("n_special"),
        n_tokens=tokens.first,
        eos_id=eos_id,
        max_length=max_length,
        top_k=top_k,
        rng=np.random.default_rng(seed),
        context=padded(contexts, np.uint16)[0],
        **options,
    )
