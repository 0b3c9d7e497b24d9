"""What `tl.perturb`, `tl.perturb_sets` and `tl.screen` have in common: resolve, run group by group, write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import _slots as slots
from scgeneformer._settings import settings
from scgeneformer.tl._model_inputs import model_inputs
from scgeneformer.tokens import token_of

from ._agreement import agreement_of, sample_cells
from ._outputs import with_outputs
from ._plan import plan_runs
from ._refine import merge_exact, strongest_genes
from ._select import resolve_targets
from ._separation import separations, warn_of_types
from ._states import groups_of, named_states, state_members
from ._untrained import measure_untrained
from ._write import (
    Measured,
    direction_slots,
    direction_values,
    movement_values,
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

    from scgeneformer.engine.perturb import Directions, Outcome, Perturbation, Sample

    from ._options import PerturbOptions
    from ._plan import PerturbRun
    from ._select import Targets


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
    data = adata.copy() if copy else adata
    table = keys.as_adata(data, mod)
    options.check()
    model, options = with_outputs(model, options)
    options = named_states(data, options, mod)
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
    if refine is not None:
        inputs.pretrained.encoder.check_offers("estimates of perturbations", verb)
    for ability, asked in options.needs.items():
        inputs.pretrained.encoder.check_offers(ability, f"{verb}({asked})")
    targets = resolve_targets(inputs, options, genes=genes, sets=sets, anchor=anchor)
    runs = plan_runs(data, inputs, options, members, mod)
    targets.check_expressed(inputs, [token_of(run.tokens) for run in runs])
    obs = keys.obs_frame(data, mod)
    if options.within is None and options.source is not None and target is not None:
        warn_of_types(obs, members[options.source], members[target], options)

    n_cells = sum(len(run.chosen) for run in runs)
    start = logg.info(f"perturbing genes ({options.kind}) in {n_cells} cells with {inputs.pretrained.name}")
    groups = _measure_groups(runs, targets, options, refine)
    agreement = None if refine is None else agreement_of(groups.samples, end_states, allow_poor=options.allow_poor)
    values = _values(groups, runs, targets, options, table, end_states)
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
        n_pairs=sum(len(part.what) for part in groups.listed),
    )
    if agreement is not None:
        table.uns[key]["screen"] = agreement
    if target is not None:
        table.uns[key]["centroids"] = _by_group({run.group: _named(run) for run in runs})
        if options.directions and options.n_axes:
            of_groups = zip(runs, groups.listed, strict=True)
            table.uns[key]["axes"] = _by_group({run.group: part.axes for run, part in of_groups})
        if of_states := separations(runs, obs):
            table.uns[key]["separation"] = of_states
    logg.info("    finished", time=start, deep="\n    ".join(["added", *values]))
    return data if copy else None


@dataclass(frozen=True, eq=False)
class _Groups:
    """What was measured, with an element for each group of cells that has it.

    Attributes
    ----------
    listed, random
        Shifts of the genes or sets that were asked for, and of random ones.
    beside
        The random ones, None where a group has none.
    samples
        Cells in which estimates are compared with exact values.
    """

    listed: list[Measured]
    random: list[Measured]
    beside: list[Perturbation | None]
    samples: list[Sample]


def _measure_groups(runs: list[PerturbRun], targets: Targets, options: PerturbOptions, refine: int | None) -> _Groups:
    """Perturb the cells of one group after the other."""
    listed, random, besides, samples = [], [], [], []
    for run in runs:
        measured, outcome = _measure(run, targets.perturbation, refine)
        listed.append(measured)
        outcomes = [(targets.perturbation, outcome)]
        beside = targets.beside(token_of(run.tokens), options)
        besides.append(beside)
        if beside is not None:
            measured, outcome = _measure_beside(run, beside, screened=refine is not None)
            random.append(measured)
            outcomes.append((beside, outcome))
        if refine is not None and (sample := sample_cells(run, outcomes, len(runs))) is not None:
            samples.append(sample)
    return _Groups(listed, random, besides, samples)


def _values(
    groups: _Groups,
    runs: list[PerturbRun],
    targets: Targets,
    options: PerturbOptions,
    table: AnnData,
    end_states: list[str],
) -> dict[str, Any]:
    """All that was measured, by slot."""
    key, measured = options.key_added, Measured.join(groups.listed)
    values = shift_values(measured, key, end_states, targets, table, decompose=options.decompose)
    if groups.random:
        values |= random_values(Measured.join(groups.random), key, end_states, targets, table, options.n_random)
    genes_alone = targets.perturbation.genes
    if options.beside_untrained and genes_alone is not None:
        of_untrained = measure_untrained(runs, targets.perturbation, groups.beside)
        if of_untrained is not None:
            values |= untrained_values(of_untrained, key, genes_alone, targets, table, measured.values.dtype)
    if options.directions:
        moved = {run.group: part.directions for run, part in zip(runs, groups.listed, strict=True)}
        values |= direction_values(moved, key, targets, table) | _embeddings(runs, key, table.n_obs)
        values |= movement_values(groups.random or groups.listed, key, table.n_obs)
    return values


def _measure(run: PerturbRun, perturbation: Perturbation, refine: int | None) -> tuple[Measured, Outcome]:
    """Values of one run, and the outcome before the strongest genes were measured exactly."""
    folder = "sets" if perturbation.genes is None else "genes" if refine is None else "genes-screen"
    further = {name: getattr(run.options, name) for name in ("effects", "decompose", "directions")}
    outcome, exact = run.run(perturbation, "exact" if refine is None else "screen", folder, **further), None
    merged = outcome
    if refine:
        strongest = replace(perturbation, genes=strongest_genes(outcome, refine))
        refined = run.run(strongest, "exact", "genes-exact", directions=run.options.directions)
        merged, exact = merge_exact(outcome, refined)
    cells = run.chosen[merged.cells]
    return Measured(cells, merged.what, merged.values, exact, merged.effects, _in_table(run, merged)), outcome


def _in_table(run: PerturbRun, outcome: Outcome) -> Directions | None:
    """The movements with cells by their rows in the table, not among those of the run."""
    moved = outcome.directions
    return moved and replace(moved, of_cells={int(run.chosen[cell]): sums for cell, sums in moved.of_cells.items()})


def _measure_beside(run: PerturbRun, perturbation: Perturbation, *, screened: bool) -> tuple[Measured, Outcome]:
    """The same for random genes or sets, as estimates if `screened`."""
    folder = "sets-random" if perturbation.genes is None else "genes-random"
    outcome = run.run(perturbation, "screen" if screened else "exact", folder, directions=run.options.directions)
    moved = _in_table(run, outcome)
    return Measured(run.chosen[outcome.cells], outcome.what, outcome.values, directions=moved), outcome


def _embeddings(runs: list[PerturbRun], key: str, n_obs: int) -> dict[str, np.ndarray]:
    """Embeddings of the cells of the states, float32 (n_obs, H), NaN for all others, by slot."""
    width = runs[0].inputs.pretrained.encoder.config.width
    values = np.full((n_obs, width), np.nan, dtype=np.float32)
    for run in runs:
        for state, embedded in run.embedded.items():
            values[run.members[state]] = embedded
    return {f"obsm/{keys.state_embedding_key(key)}": values}


def _by_group(of_runs: dict[str | None, Any]) -> Any:
    """For `uns`: by the name of the group, or what the only run has without groups."""
    return of_runs[None] if None in of_runs else {keys.slot_name(group): of_run for group, of_run in of_runs.items()}


def _named(run: PerturbRun) -> dict[str, np.ndarray]:
    vectors = () if run.centroids is None else run.centroids
    return {keys.slot_name(state): vector for state, vector in zip(run.members, vectors, strict=True)}
