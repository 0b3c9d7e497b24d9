"""What all parts of a perturbation have in common, and which options go together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._settings import settings

from ._states import place_states

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgeneformer.engine.perturb import Outcome, Perturbation

    from ._task import Task

METHODS = ("exact", "screen", "screen+exact")


@dataclass(frozen=True)
class Design:
    """What all parts of one call have in common.

    Attributes
    ----------
    task
        Model and tokens.
    tokens
        uint16 (n, L), of the cells to be perturbed.
    chosen
        int (n,), which cells these are.
    column_of
        int (V,), the column of `var` of each token, -1 if none.
    members
        Cells of each end state, whose position they are; empty without goal states.
    target
        Name of the target's.
    state_positions
        How positions come from cells, or given ones.
    """

    task: Task
    tokens: np.ndarray
    chosen: np.ndarray
    column_of: np.ndarray
    kind: str
    rank_shift: int
    members: dict[str, np.ndarray]
    target: str | None
    state_positions: str | Mapping[str, np.ndarray]
    effects: bool
    official: bool
    checkpoint: str | Path | None
    shard: tuple[int, int] | None

    @property
    def states(self) -> list[str]:
        """Names of the end states, the target first."""
        return list(self.members)

    @cached_property
    def positions(self) -> np.ndarray | None:
        """Where the end states are, float64 (S, H); computed when first needed, which is after `checkpoint` was looked at."""
        return place_states(self.task, self.members, self.state_positions) if self.members else None

    def run(self, perturbation: Perturbation, method: str, folder: str) -> Outcome:
        """Let the engine do it, with finished parts in a folder of their own."""
        from scgeneformer import engine

        store = None
        if self.checkpoint is not None:
            store = engine.perturb.Store(Path(self.checkpoint) / folder, self._fingerprint(perturbation, method))
        return engine.perturb.run(
            self.task.pretrained.encoder,
            self.tokens,
            perturbation,
            states=self.positions,
            method=method,
            effects=self.effects,
            store=store,
            shard=self.shard or (0, 1),
            progress=settings.progress,
            **self.task.options,
        )

    def _fingerprint(self, perturbation: Perturbation, method: str) -> dict[str, Any]:
        """All that the values depend on, by names that a user knows.

        Not the positions of states but what they come from, since another device or token budget rounds them otherwise.
        """
        options, given = self.task.options, self.state_positions
        origin = {
            state: _digest(np.asarray(self.task.tokens[rows]))
            if isinstance(given, str)
            else _digest(np.asarray(given[state], dtype=np.float64))
            for state, rows in self.members.items()
        }
        return {
            "model": self.task.pretrained.name,
            "weights_sha256": self.task.pretrained.sha256,
            "vocabulary_hash": self.task.vocabulary.hash,
            "tokens of the cells": _digest(self.tokens),
            "kind": perturbation.kind,
            "rank_shift": perturbation.quartiles,
            "genes": None if perturbation.genes is None else _digest(perturbation.genes),
            "sets": None if perturbation.sets is None else [genes.tolist() for genes in perturbation.sets],
            "anchor": perturbation.anchor,
            "absent": perturbation.absent,
            "compat": "official" if self.official else None,
            "states": self.states,
            "state_positions": given if isinstance(given, str) else "given",
            "positions of states": origin,
            "method": method,
            "effects": self.effects,
            "pooling": options["pooling"],
            "emb_layer": options["emb_layer"],
            "precision": options["precision"],
        }


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(
        repr((array.shape, str(array.dtype))).encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


def check_design(
    kind: str,
    rank_shift: int,
    method: str,
    genes: Any,
    sets: Any,
    anchor: str | None,
    target: str | None,
    n_top: int,
    compat: str | None,
    checkpoint: Any,
    shard: tuple[int, int] | None,
    *,
    missing: str,
    max_cells: int | None,
    max_state_cells: int | None,
    effects: bool,
) -> None:
    """Refuse options that do not exist or contradict each other."""
    from scgeneformer import engine

    by_genes = sets is None or genes is not None
    wrong = [
        (kind not in engine.perturb.KINDS, f"kind={kind!r} is not one of {engine.perturb.KINDS}."),
        (rank_shift not in (1, 2, 3), f"rank_shift={rank_shift!r} is not 1, 2 or 3."),
        (method not in METHODS, f"method={method!r} is not one of {METHODS}."),
        (compat not in (None, "official"), f"compat={compat!r} is neither None nor 'official'."),
        (missing not in ("error", "ignore"), f"missing={missing!r} is neither 'error' nor 'ignore'."),
        (n_top < 1, f"n_top={n_top} must be at least 1."),
        (max_cells is not None and max_cells < 1, f"max_cells={max_cells} must be at least 1."),
        (
            max_state_cells is not None and max_state_cells < 2,
            f"max_state_cells={max_state_cells} must be at least 2: a single cell is no position of a state.",
        ),
        (
            isinstance(genes, str) and genes == "vocabulary" and kind != "overexpress",
            f"genes='vocabulary' is for kind='overexpress'; a gene that is not expressed has nothing to {kind}.",
        ),
        (
            method != "exact" and target is None,
            f"method={method!r} needs a `target`: without one the first order is zero. Use method='exact'.",
        ),
        (method != "exact" and sets is not None, f"method={method!r} is for single genes. Perturb `sets` exactly."),
        (
            method != "exact" and anchor is not None,
            f"method={method!r} is for single genes. Use method='exact' with `anchor`.",
        ),
        (
            method != "exact" and compat is not None,
            f"method={method!r} has no official counterpart. Use method='exact'.",
        ),
        (method != "exact" and effects, f"method={method!r} gives no effects on genes. Use method='exact'."),
        (
            anchor is not None and not by_genes,
            "`anchor` goes with single genes, not with `sets`. Put it into the sets.",
        ),
        (shard is not None and checkpoint is None, "`shard` needs `checkpoint`, the folder that the shards share."),
    ]
    for is_wrong, msg in wrong:
        if is_wrong:
            raise ValueError(msg)
    if shard is not None and not (len(shard) == 2 and 0 <= shard[0] < shard[1]):
        msg = f"shard={shard!r} must be (i, n) with 0 <= i < n."
        raise ValueError(msg)
