"""What `tl.perturb`, `tl.perturb_sets` and `tl.screen` have in common: resolve, run group by group, write."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _slots as slots
from scgeneformer._settings import settings
from scgeneformer.tl._model_inputs import model_inputs

from ._refine import merge_exact, strongest_genes
from ._select import choose_cells, resolve_targets
from ._separation import separations, warn_of_types
from ._states import check_centroids, compute_centroids, draw_members, embed_states, groups_of, state_members
from ._untrained import measure_untrained
from ._write import (
    Measured,
    direction_slots,
    direction_values,
    random_slots,
    random_values,
    shift_slots,
    shift_values,
    untrained_slots,
    untrained_values,
)

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
            later = {"decompose": decompose, "directions": directions}
            store = engine.perturb.Store(path, self._fingerprint(perturbation, method, effects=effects, later=later))
        return engine.perturb.run(
            self.inputs.pretrained.encoder,
            self.tokens,
            perturbation,
            states=self.centroids,
            method=method,
            effects=effects,
            decompose=decompose,
            directions=directions,
            store=store,
            shard=self.options.shard or (0, 1),
            progress=settings.progress,
            **self.inputs.options,
        )

    def _fingerprint(
        self, perturbation: Perturbation, method: str, *, effects: bool, later: dict[str, bool]
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
        if perturbation.positions == "kept":
            fingerprint["positions"] = "kept"
        if perturbation.ranks is not None:
            fingerprint["ranks"] = perturbation.ranks
        if method == "screen" and perturbation.positions != "kept":
            fingerprint["tolerance"] = engine.perturb.TOLERANCE
        if self.group is not None:
            fingerprint["group"] = self.group
        return fingerprint | {name: value for name, value in later.items() if value}


def run_perturbation(
    verb: str,
    adata: AnnData | MuData,
    model: Any,
    options: PerturbOptions,
    *,
    genes: Any = None,
    sets: Any = None,
    anchor: str | None = None,
    refine: int | None = None,
    mod: str,
    copy: bool,
) -> AnnData | MuData | None:
    """Perturb cells and write their shifts.

    Parameters
    ----------
    verb
        Public function, such as ``"tl.perturb"``.
    adata, model, options
        As the caller gave them.
    genes
        Genes to perturb one by one, or each with `anchor`; None for every gene that a cell expresses.
    sets
        Genes to perturb together; single genes if None.
    anchor
        Gene that is perturbed together with each of `genes`.
    refine
        None for exact runs; for estimates how many genes of either sign are then run exactly.
    mod, copy
        As the caller gave them.
    """
    from scanpy import logging as logg

    data = adata.copy() if copy else adata
    table = keys.as_adata(data, mod)
    options.check()
    target, states = options.target, options.other_states
    members = state_members(data, options.groupby, options.source, target, states, centroids=options.centroids, mod=mod)
    key, end_states = options.key_added, [] if target is None else list(members)
    written = shift_slots(key, end_states, options, sets=sets is not None, marked=bool(refine))
    written += random_slots(key, end_states, sets=sets is not None)
    if options.beside_untrained:
        written += untrained_slots(key)
    if options.directions:
        written += direction_slots(key, list(groups_of(data, options.within, mod)))
    slots.check_free(table, verb, key, written)
    wanted = settings.precision
    inputs = model_inputs(
        table,
        model,
        tokens_key=options.tokens_key,
        pooling=options.pooling,
        emb_layer=options.emb_layer,
        precision="float32" if wanted == "auto" else wanted,  # changes of a cosine are below what bfloat16 resolves
    )
    targets = resolve_targets(inputs, options, genes=genes, sets=sets, anchor=anchor)
    runs = _plan_runs(data, inputs, options, members, mod)
    targets.check_expressed(inputs, [run.tokens for run in runs])
    obs = keys.obs_frame(data, mod)
    if options.within is None and options.source is not None and target is not None:
        warn_of_types(obs, members[options.source], members[target], options)

    n_cells = sum(len(run.chosen) for run in runs)
    start = logg.info(f"perturbing genes ({options.kind}) in {n_cells} cells with {inputs.pretrained.name}")
    parts, random_parts, besides, n_missing = [], [], [], 0
    for run in runs:
        measured, missing = _measure(run, targets.perturbation, refine)
        parts += [] if measured is None else [measured]
        n_missing += missing
        besides.append(targets.beside(run.tokens, options))
        if (beside := besides[-1]) is not None:
            measured, missing = _measure_beside(run, beside, screened=refine is not None)
            random_parts += [] if measured is None else [measured]
            n_missing += missing
    if n_missing:
        logg.info(f"    {n_missing} parts are left to other shards; nothing is written to adata", time=start)
        return data if copy else None

    measured = Measured.join(parts)
    values = shift_values(measured, key, end_states, targets, table, decompose=options.decompose)
    if random_parts:
        values |= random_values(Measured.join(random_parts), key, end_states, targets, table, options.n_random)
    genes_alone = targets.perturbation.genes
    if options.beside_untrained and genes_alone is not None:
        of_untrained = measure_untrained(runs, targets.perturbation, besides)
        if of_untrained is not None:
            values |= untrained_values(of_untrained, key, genes_alone, targets, table, measured.values.dtype)
    if options.directions:
        moved = {run.group: part.directions for run, part in zip(runs, parts, strict=True)}
        values |= direction_values(moved, key, targets, table) | _embeddings(runs, key, table.n_obs)
    slots.write(
        table,
        verb,
        key,
        values,
        **options.as_params(),
        anchor=targets.anchor_name(table, anchor),
        refine=refine,
        **inputs.provenance,
        n_cells=n_cells,
        n_pairs=len(measured.what),
    )
    if target is not None:
        vectors = {run.group: _named(run) for run in runs}
        if options.within is not None:
            vectors = {keys.slot_name(group): of_states for group, of_states in vectors.items()}
        table.uns[key]["centroids"] = vectors if options.within is not None else vectors[None]
        if of_states := separations(runs, obs):
            table.uns[key]["separation"] = of_states
    logg.info("    finished", time=start, deep="\n    ".join(["added", *values]))
    return data if copy else None


def _plan_runs(
    data: AnnData | MuData, inputs: ModelInputs, options: PerturbOptions, members: dict[str, np.ndarray], mod: str
) -> list[PerturbRun]:
    """One run for each group that has all states and cells to perturb; one for all cells without groups.

    Raises
    ------
    ValueError
        If centroids cannot be had, or no group has all states.
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
        if options.directions:
            _check_left(drawn, chosen, options)
        runs.append(PerturbRun(inputs, options, group, number, chosen, drawn, given))
    if lacking:
        listed = "; ".join(f"{group!r} lacks {', '.join(lacks)}" for group, lacks in lacking.items())
        msg = f"Groups of .obs[{options.within!r}] without the cells that are needed: {listed}."
        if not runs:
            raise ValueError(msg)
        warnings.warn(f"{msg} They are left out.", stacklevel=4)
    return runs


def _check_left(members: dict[str, np.ndarray], chosen: np.ndarray, options: PerturbOptions) -> None:
    """Refuse to perturb all cells of the source where those that are not perturbed are to have their labels permuted."""
    left = [len(np.setdiff1d(members[str(state)], chosen)) for state in (options.source, options.target)]
    if min(left) < 2:
        msg = (
            f"directions=True needs two cells of each state that are not perturbed, whose labels are then permuted, and leaves {left[0]} of "
            f"{options.source!r}. Perturb fewer: max_cells={max(len(chosen) // 2, 1)}."
        )
        raise ValueError(msg)


def _lacks(members: dict[str, np.ndarray], given: Centroids, chosen: np.ndarray, options: PerturbOptions) -> list[str]:
    """What a group lacks: states, centroids, or cells to perturb."""
    if options.target is not None and isinstance(given, Mapping) and not given:
        return ["given centroids"]
    computed = options.target is not None and not isinstance(given, Mapping)
    lacks = [f"two cells of {state!r}" for state, rows in members.items() if computed and len(rows) < 2]
    return lacks or ([] if len(chosen) else ["cells to perturb"])


def _measure(run: PerturbRun, perturbation: Perturbation, refine: int | None) -> tuple[Measured | None, int]:
    """Values of one run, and how many parts are missing, with which there are none."""
    folder = "sets" if perturbation.genes is None else "genes" if refine is None else "genes-screen"
    further = {name: getattr(run.options, name) for name in ("effects", "decompose", "directions")}
    outcome, exact = run.run(perturbation, "exact" if refine is None else "screen", folder, **further), None
    if outcome.missing:
        return None, outcome.missing
    if refine:
        strongest = replace(perturbation, genes=strongest_genes(outcome, refine))
        refined = run.run(strongest, "exact", "genes-exact")
        if refined.missing:
            return None, refined.missing
        outcome, exact = merge_exact(outcome, refined)
    cells = run.chosen[outcome.cells]
    return Measured(cells, outcome.what, outcome.values, exact, outcome.effects, outcome.directions), 0


def _measure_beside(run: PerturbRun, perturbation: Perturbation, *, screened: bool) -> tuple[Measured | None, int]:
    """The same for random genes or sets, as estimates if `screened`."""
    folder = "sets-random" if perturbation.genes is None else "genes-random"
    outcome = run.run(perturbation, "screen" if screened else "exact", folder)
    if outcome.missing:
        return None, outcome.missing
    return Measured(run.chosen[outcome.cells], outcome.what, outcome.values), 0


def _embeddings(runs: list[PerturbRun], key: str, n_obs: int) -> dict[str, np.ndarray]:
    """Embeddings of the cells of the states, float32 (n_obs, H), NaN for all others, by slot."""
    width = runs[0].inputs.pretrained.encoder.config.width
    values = np.full((n_obs, width), np.nan, dtype=np.float32)
    for run in runs:
        for state, embedded in run.embedded.items():
            values[run.members[state]] = embedded
    return {f"obsm/{keys.state_embedding_key(key)}": values}


def _named(run: PerturbRun) -> dict[str, np.ndarray]:
    vectors = () if run.centroids is None else run.centroids
    return {keys.slot_name(state): vector for state, vector in zip(run.members, vectors, strict=True)}


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(
        repr((array.shape, str(array.dtype))).encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()
