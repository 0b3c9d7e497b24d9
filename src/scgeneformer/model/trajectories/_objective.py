"""The two tasks of trajectories, elapsed time and the next cell: their batches, losses and scores of a validation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.module.base import LossOutput
from torch.nn import functional as F

from scgeneformer import engine
from scgeneformer.model.data._digest import digest
from scgeneformer.model.objectives._objective import Objective, TokenModule, fingerprint_of_sets, gathered

from ._grammar import cell_question, context, joined, padded, time_question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scgeneformer.evaluation import Split
    from scgeneformer.nn import NextGeneModel

    from ._draw import Pool
    from ._tokens import TimeTokens


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A new trajectory that ends with each cell of a batch, which depends on the seed, the epoch and the cell alone.

    Attributes
    ----------
    pool
        Cells that trajectories begin with.
    matrix, lengths
        Tokens of all cells, right-padded, and their numbers.
    tokens
        Tokens of time.
    n_cells
        Minimum and maximum number of cells of a trajectory.
    max_length
        Maximum number of tokens of a trajectory.
    p_time
        Probability that it asks for the elapsed time, and not for the next cell.
    seed
        Of all draws.
    """

    pool: Pool
    matrix: np.ndarray
    lengths: np.ndarray
    tokens: TimeTokens
    n_cells: tuple[int, int]
    max_length: int
    p_time: float
    seed: int

    def cell(self, row: int) -> np.ndarray:
        """Tokens of a cell without padding."""
        return self.matrix[row, : self.lengths[row]].astype(np.int64)

    def before(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of the cells before the last one, which is `row`."""
        fewer = (self.n_cells[0] - 1, self.n_cells[1] - 1)
        return self.pool.draw(rng, int(self.pool.cells.groups[row]), fewer, without=row)

    def intervals(self, rows: np.ndarray) -> np.ndarray:
        """Steps from the cell before it to each of `rows`, in one trajectory of each, int64 (n,)."""
        rng, steps = np.random.default_rng(self.seed), self.pool.cells.steps
        return np.array([steps[row] - steps[self.before(row, rng)[-1]] for row in rows.tolist()], dtype=np.int64)

    def between(self, cells: Sequence[np.ndarray], steps: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Tokens of cells with the steps between them."""
        return context(cells, steps, self.tokens)

    def context(self, rows: np.ndarray) -> list[np.ndarray]:
        """Tokens of cells of the pool with the steps between them."""
        return self.between([self.cell(row) for row in rows], self.pool.cells.steps[rows])

    def __call__(self, rows: np.ndarray, tokens: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Trajectories that end with these cells.

        Returns
        -------
        ``tokens`` (B, L) and ``lengths`` (B,); ``ends`` (B,), positions of ``<eoq>``; ``elapsed`` (B,), the steps that are asked for, NaN where a cell
        is; ``where`` (B, L), positions before the tokens of that cell.
        """
        sequences, elapsed, answers = [], [], []
        for row in rows.tolist():
            rng = np.random.default_rng([self.seed, epoch, row])
            is_time = rng.random() < self.p_time
            before = self.before(row, rng)
            n_steps = int(self.pool.cells.steps[row] - self.pool.cells.steps[before[-1]])
            cell, parts = self.cell(row), self.context(before)
            parts += time_question(cell, self.tokens) if is_time else [*cell_question(n_steps, self.tokens), cell]
            sequences.append(joined(parts, self.max_length))
            elapsed.append(n_steps if is_time else np.nan)
            answers.append(0 if is_time else len(cell))
        matrix, lengths = padded(sequences)
        ends = lengths - 1 - np.array(answers)
        places = np.arange(matrix.shape[1])
        where = (places >= ends[:, None]) & (places < (lengths - 1)[:, None])
        return {
            "tokens": matrix,
            "lengths": lengths,
            "ends": ends,
            "elapsed": np.array(elapsed, dtype=np.float32),
            "where": where,
        }


class TrajectoryTasks(Objective):
    """Elapsed time and next cells.

    Validations have fixed trajectories. Their scores: ``mae``, the mean absolute error of the elapsed time in the units of the data, and
    ``time_loss`` and ``cell_loss``, the two parts of the loss.

    Parameters
    ----------
    train, validation
        Trajectories of each set.
    split
        Cells that trajectories of each set end with.
    time_step
        Length of a step.
    """

    def __init__(self, train: Trajectories, validation: Trajectories, split: Split, time_step: float) -> None:
        self.targets = {"train": train, "validation": validation}
        self.train, self.split, self.time_step = train, split, time_step
        self._batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Keep the predictions for each trajectory."""
        expected, elapsed, losses = (
            value.float().cpu().numpy() for value in (outputs["expected"], batch["elapsed"], outputs["losses"])
        )
        self._batches.append((expected, elapsed, losses))

    def compute(self) -> dict[str, float]:
        """Scores over all validation trajectories."""
        batches, self._batches = self._batches, []
        batches = [values for part in gathered(batches) for values in part]
        expected, elapsed, losses = (np.concatenate([values[i] for values in batches]) for i in range(3))
        is_time = ~np.isnan(elapsed)
        scores = {"cell_loss": losses[~is_time], "time_loss": losses[is_time]}
        scores["mae"] = self.time_step * np.abs(expected - elapsed)[is_time]
        return {name: float(values.mean()) for name, values in scores.items() if len(values)}

    def fingerprint(self) -> dict[str, Any]:
        """Sets, times and groups of cells, and what is drawn of them."""
        sets = {name: getattr(self.split, name) for name in ("train", "validation", "test")}
        drawn = {name: getattr(self.train, name) for name in ("n_cells", "max_length", "p_time")}
        cells = self.train.pool.cells
        return fingerprint_of_sets(sets) | drawn | {"rng": self.train.seed, "times": digest(cells.steps, cells.groups)}


class TrajectoryModule(TokenModule):
    """A :class:`~scgeneformer.nn.NextGeneModel` with the loss of trajectories.

    Batches are those of `Trajectories`.

    Parameters
    ----------
    network
        A decoder with tokens of time.
    tokens
        These tokens.
    """

    network: NextGeneModel

    def __init__(self, network: NextGeneModel, tokens: TimeTokens) -> None:
        super().__init__(network)
        self.tokens, self.penalty = tokens, 1.0
        self.scale = tokens.high / math.sqrt(6)  # the standard deviation of intervals if times are uniform
        self.values = torch.from_numpy(tokens.values)

    def fingerprint(self) -> dict[str, Any]:
        """That of any network, with the numbers and the weight of the penalty."""
        return super().fingerprint() | {"steps": [self.tokens.low, self.tokens.high], "penalty": self.penalty}

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return super()._get_inference_input(tensors) | {name: tensors[name] for name in ("ends", "where")}

    def inference(self, tokens: Tensor, mask: Tensor, ends: Tensor, where: Tensor) -> dict[str, Tensor]:
        """States where questions end (B, H), and before the M tokens of cells that are answers (M, H), with these tokens and their rows."""
        states = self.network.encoder(tokens, mask)
        following = torch.cat([tokens[:, 1:], tokens[:, :1]], 1)  # the last position of a row is never one of them
        return {
            "ends": states[torch.arange(len(ends), device=ends.device), ends],
            "answers": states[where],
            "targets": following[where],
            "row": torch.nonzero(where)[:, 0],
        }

    def generative(self, ends: Tensor, answers: Tensor, targets: Tensor, row: Tensor) -> dict[str, Tensor]:
        """Steps that are expected and the probability of no number (B,); cross-entropy of each token of answers (M,), and its row."""
        expected, no_number = engine.expected_number(self.network.head(ends), self.tokens.first, self.values)
        errors = F.cross_entropy(self.network.head(answers).float(), targets, reduction="none")
        return {"expected": expected, "no_number": no_number, "errors": errors, "row": row}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Mean over trajectories.

        Of elapsed time: the squared error of the expected number of steps, about 1 if it is constant, and the penalty
        on what is not a number. Of the next cell: the mean cross-entropy of its tokens, the first and the last
        included.
        """
        elapsed, errors = tensors["elapsed"], generative_outputs["errors"]
        missed = (generative_outputs["expected"] - elapsed.nan_to_num()) / self.scale
        of_time = missed.square() + self.penalty * generative_outputs["no_number"]
        row, zeros = generative_outputs["row"], torch.zeros_like(of_time)
        of_cells = zeros.index_add(0, row, errors) / zeros.index_add(0, row, torch.ones_like(errors)).clamp(min=1)
        losses = torch.where(elapsed.isnan(), of_cells, of_time)
        generative_outputs["losses"] = losses.detach()
        return LossOutput(loss=losses.mean(), n_obs_minibatch=len(losses))
