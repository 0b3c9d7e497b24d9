"""The groups of cells of a perturbation: which cells are perturbed in each, and towards what."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer import stats
from scgeneformer._settings import settings

from ._select import choose_cells
from ._states import check_centroids, compute_centroids, draw_members, embed_states, groups_of

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.engine.perturb import Outcome, Perturbation
    from scgeneformer.tl._model_inputs import ModelInputs

    from ._options import PerturbOptions
    from ._states import Centroids


@dataclass(frozen=True)
class PerturbRun:
    """The perturbation of the cells of one group, or of all cells.

    Attributes
    ----------
    inputs
        Model and tokens.
    options
        As the caller gave them.
    group
        Name of the group, None without groups.
    number
        Its number, by which its folder is named.
    chosen
        int (n,), indices of the cells to perturb.
    members
        Cells of each end state that its centroid is made of, the target first; empty without a target.
    given
        How centroids are made, or given ones.
    """

    inputs: ModelInputs
    options: PerturbOptions
    group: str | None
    number: int
    chosen: np.ndarray
    members: dict[str, np.ndarray]
    given: Centroids

    @cached_property
    def tokens(self) -> np.ndarray:
        """uint16 (n, L), of the cells to perturb."""
        return np.asarray(self.inputs.tokens[self.chosen])

    @cached_property
    def embedded(self) -> dict[str, np.ndarray]:
        """Embeddings of the cells of each end state; empty where centroids are given."""
        return {} if isinstance(self.given, Mapping) else embed_states(self.inputs, self.members)

    @cached_property
    def centroids(self) -> np.ndarray | None:
        """Of the end states, float64 (S, H); computed when first needed, which is after `checkpoint` was looked at."""
        if not self.members:
            return None
        if isinstance(self.given, Mapping):
            return np.stack([np.asarray(self.given[state], dtype=np.float64) for state in self.members])
        return compute_centroids(self.embedded, self.given)

    @cached_property
    def axes(self) -> np.ndarray | None:
        """Along which movements are kept besides the states, float64 (A, H); None for whole ones."""
        if not (self.options.directions and self.options.n_axes):
            return None
        target, source = ([*self.embedded.values()][i] for i in (0, 1))
        cells = np.concatenate([target, source])
        is_target, there = np.arange(len(cells)) < len(target), ~np.isnan(cells).any(axis=1)
        return stats.principal_axes(cells[there], is_target[there], self.options.n_axes)

    def run(
        self,
        perturbation: Perturbation,
        method: Literal["exact", "screen"],
        folder: str,
        *,
        effects: bool = False,
        decompose: bool = False,
        directions: bool = False,
    ) -> Outcome:
        """Run the engine, with finished parts in a folder of their own."""
        from scgeneformer import engine

        store = None
        if self.options.checkpoint is not None:
            path = Path(self.options.checkpoint) / folder
            path = path if self.group is None else path / f"group-{self.number:03d}"
            later: dict[str, Any] = {
                "decompose": decompose,
                "directions": directions,
                "directions of cells": directions,
                "axes of directions": directions and self.options.n_axes,
            }
            store = engine.perturb.Store(path, self._fingerprint(perturbation, method, effects=effects, later=later))
        return engine.perturb.run(
            self.inputs.pretrained.encoder,
            self.tokens,
            perturbation,
            states=self.centroids,
            linear=self.options.outputs is not None,
            method=method,
            effects=effects,
            decompose=decompose,
            directions=directions,
            axes=self.axes if directions else None,  # an untrained encoder is run without, and embeds the target only
            store=store,
            progress=settings.progress,
            **self.inputs.options,
        )

    def _fingerprint(
        self, perturbation: Perturbation, method: str, *, effects: bool, later: dict[str, Any]
    ) -> dict[str, Any]:
        """All that the values depend on. The names are those of folders written so far, and stay; later options are named where used.

        Not the centroids but what they come from, since another device or token budget rounds them otherwise.
        """
        from scgeneformer import engine

        given = self.given
        origin = {
            state: _digest(np.asarray(given[state], dtype=np.float64))
            if isinstance(given, Mapping)
            else _digest(np.asarray(self.inputs.tokens[rows]))
            for state, rows in self.members.items()
        }
        fingerprint = {
            "model": self.inputs.pretrained.name,
            "weights_sha256": self.inputs.pretrained.sha256,
            "vocabulary_hash": self.inputs.vocabulary.hash,
            "tokens of the cells": _digest(self.tokens),
            "kind": perturbation.kind,
            "rank_shift": perturbation.quartiles,
            "genes": None if perturbation.genes is None else _digest(perturbation.genes),
            "sets": [genes.tolist() for genes in perturbation.sets] or None,
            "anchor": perturbation.anchor,
            "absent": perturbation.absent,
            "compat": self.options.compat,
            "states": list(self.members),
            "state_positions": "given" if isinstance(given, Mapping) else given,
            "positions of states": origin,
            "method": method,
            "effects": effects,
            **{name: self.inputs.options[name] for name in ("pooling", "emb_layer", "precision")},
        }
        if self.options.outputs is not None:
            fingerprint["outputs"] = True
        if perturbation.positions == "kept":
            fingerprint["positions"] = "kept"
        if perturbation.ranks is not None:
            fingerprint["ranks"] = perturbation.ranks
        if perturbation.kind == "scale":
            fingerprint["factor"] = perturbation.factor
        if method == "screen" and perturbation.positions != "kept":
            fingerprint["tolerance"] = engine.perturb.TOLERANCE
        if self.group is not None:
            fingerprint["group"] = self.group
        return fingerprint | {name: value for name, value in later.items() if value}


def plan_runs(
    data: AnnData | MuData, inputs: ModelInputs, options: PerturbOptions, members: dict[str, np.ndarray], mod: str
) -> list[PerturbRun]:
    """One run for each group that has all states and cells to perturb; one for all cells without groups.

    Raises
    ------
    ValueError
        If centroids cannot be computed, or no group has all states.
    """
    width, groups = inputs.pretrained.encoder.config.width, groups_of(data, options.within, mod)
    allowed = choose_cells(data, options.cells, None if options.source is None else members[options.source], mod)
    runs, lacking = [], {}
    for number, (group, rows) in enumerate(groups.items()):
        rng = np.random.default_rng(options.rng)
        given = options.centroids_of(group)
        of_group = {state: np.intersect1d(some, rows) for state, some in members.items()}
        chosen = np.intersect1d(allowed, rows)
        lacks = _lacks(of_group, given, chosen, options)
        if group is not None and lacks:
            lacking[group] = lacks
            continue
        if options.target is not None:
            check_centroids(of_group, given, width)
        if options.max_cells is not None and options.max_cells < len(chosen):
            chosen = np.sort(rng.choice(chosen, options.max_cells, replace=False))
        drawn = {} if options.target is None else draw_members(of_group, options.max_state_cells, rng)
        runs.append(PerturbRun(inputs, options, group, number, chosen, drawn, given))
    if lacking:
        listed = "; ".join(f"{group!r} lacks {', '.join(lacks)}" for group, lacks in lacking.items())
        msg = f"Groups of .obs[{options.within!r}] without the cells that are needed: {listed}."
        if not runs:
            raise ValueError(msg)
        warnings.warn(f"{msg} They are left out.", stacklevel=5)
    return runs


def _lacks(members: dict[str, np.ndarray], given: Centroids, chosen: np.ndarray, options: PerturbOptions) -> list[str]:
    """What a group lacks: states, centroids, or cells to perturb."""
    if options.target is not None and isinstance(given, Mapping) and not given:
        return ["given centroids"]
    computed = options.target is not None and not isinstance(given, Mapping)
    lacks = [f"two cells of {state!r}" for state, rows in members.items() if computed and len(rows) < 2]
    return lacks or ([] if len(chosen) else ["cells to perturb"])


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(
        repr((array.shape, str(array.dtype))).encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()
