"""Which cells make a trajectory: drawn within groups, at different times, by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, eq=False)
class TimedCells:
    """What is known of cells beside their tokens.

    Attributes
    ----------
    steps
        Time of each cell as a number of steps, int64 (n,).
    groups
        Group of each cell, int64 (n,).
    """

    steps: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True, eq=False)
class Pool:
    """Cells that trajectories begin with.

    Attributes
    ----------
    cells
        Times and groups of all cells.
    of_group
        For each group its cells by time, in ascending order.
    """

    cells: TimedCells
    of_group: Mapping[int, Mapping[int, np.ndarray]]

    @classmethod
    def of(cls, cells: TimedCells, rows: np.ndarray) -> Pool:
        """The pool of some rows."""
        of_group: dict[int, dict[int, np.ndarray]] = {}
        rows = np.sort(rows)
        for group in np.unique(cells.groups[rows]).tolist():
            members = rows[cells.groups[rows] == group]
            steps = cells.steps[members]
            of_group[group] = {step: members[steps == step] for step in np.unique(steps).tolist()}
        return cls(cells, of_group)

    def joined_with(self, other: Pool) -> Pool:
        """A pool with the groups of another that this one lacks."""
        return Pool(self.cells, {**other.of_group, **self.of_group})

    def times(self, group: int, without: int = -1, but: int | None = None) -> list[int]:
        """Times at which a group has a cell other than the row `without`, except the time `but`."""
        return [
            step
            for step, members in self.of_group.get(group, {}).items()
            if step != but and (len(members) > 1 or members[0] != without)
        ]

    def with_times(self, rows: np.ndarray, n_times: int) -> np.ndarray:
        """Those of `rows` whose group has cells other than themselves at this number of times, in ascending order."""
        kept = [np.zeros(0, np.int64)]
        for group, of_time in self.of_group.items():
            members = rows[self.cells.groups[rows] == group]
            alone = [cells[0] for cells in of_time.values() if len(cells) == 1]
            kept.append(members[len(of_time) - np.isin(members, alone) >= n_times])
        return np.sort(np.concatenate(kept))

    def draw(
        self,
        rng: np.random.Generator,
        group: int,
        n_cells: tuple[int, int],
        *,
        without: int = -1,
        but: int | None = None,
    ) -> np.ndarray:
        """Rows of cells of a group at different times, in random order: between the two numbers of them, as far as there are times.

        Parameters
        ----------
        rng
            Generator.
        group
            The group.
        n_cells
            Minimum and maximum number of cells.
        without
            Row that is not drawn.
        but
            Time that is not drawn.
        """
        times = self.times(group, without, but)
        n = int(rng.integers(n_cells[0], max(min(n_cells[1], len(times)), n_cells[0]) + 1))
        chosen = [times[i] for i in rng.permutation(len(times))[:n]]
        drawn = []
        for step in chosen:
            members = self.of_group[group][step]
            drawn.append(rng.choice(members[members != without]))
        return np.array(drawn, dtype=np.int64)
