"""Cells that a model draws for a later time, compared with those of that time in an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._baselines import MODEL, with_interval

if TYPE_CHECKING:
    from ._draw import TimedCells

COPY, ANOTHER, MEAN = "copy", "another cell", "mean"


@dataclass(frozen=True, eq=False)
class NextCells:
    """Test cells to start from, and cells of their groups at the time that is asked for.

    Attributes
    ----------
    starts
        Rows of the test cells, (n,).
    others
        For each, the training cells of its group at that time.
    targets
        For each, the test cells of its group at that time.
    rng
        Seed of what is drawn of `others`.
    """

    starts: np.ndarray
    others: list[np.ndarray]
    targets: list[np.ndarray]
    rng: int

    @classmethod
    def between(
        cls, cells: TimedCells, train: np.ndarray, test: np.ndarray, n_steps: int, most: int, rng: int
    ) -> NextCells:
        """Test cells, `most` at most and in the order of `test`, that have others `n_steps` later.

        Raises
        ------
        ValueError
            If there are none.
        """

        def later(row: int, rows: np.ndarray) -> np.ndarray:
            return rows[(cells.groups[rows] == cells.groups[row]) & (cells.steps[rows] == cells.steps[row] + n_steps)]

        answerable = (row for row in test.tolist() if len(later(row, test)) and len(later(row, train)))
        starts = np.array(list(islice(answerable, most)), dtype=np.int64)
        if not len(starts):
            msg = f"No test cell has test and training cells {n_steps} steps later in its group. Use another elapsed=, or train with a larger test_size=."
            raise ValueError(msg)
        return cls(starts, [later(row, train) for row in starts], [later(row, test) for row in starts], rng)

    @property
    def rows(self) -> np.ndarray:
        """All cells whose embedding is compared, in ascending order."""
        return np.unique(np.concatenate([self.starts, *self.others, *self.targets]))

    def scored(self, generated: np.ndarray, embedding: np.ndarray, samples: np.ndarray) -> pd.DataFrame:
        """Mean distances to the mean of the targets, with intervals.

        Parameters
        ----------
        generated
            Embedding of the cells that were drawn, (n, H), NaN for those without genes, which are left out.
        embedding
            That of all cells, (n_obs, H); only `rows` are read.
        samples
            Sample of each cell, (n_obs,).
        """
        rng = np.random.default_rng(self.rng)
        answers = {
            MODEL: generated,
            COPY: embedding[self.starts],
            ANOTHER: np.stack([embedding[rng.choice(rows)] for rows in self.others]),
            MEAN: np.stack([np.nanmean(embedding[rows], axis=0) for rows in self.others]),
        }
        target = np.stack([np.nanmean(embedding[rows], axis=0) for rows in self.targets])
        distances = pd.DataFrame({name: np.linalg.norm(values - target, axis=1) for name, values in answers.items()})
        complete = distances.notna().all(axis=1).to_numpy()
        table = with_interval(distances[complete], "distance", samples[self.starts[complete]])
        return table.assign(n_queries=int(complete.sum()))
