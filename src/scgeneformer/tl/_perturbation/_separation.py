"""Whether the states between which cells are shifted are separated, and whether they are of one type of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import evaluation
from scgeneformer.evaluation._obs_names import donor_column, type_column
from scgeneformer.tl._expression import log_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._options import PerturbOptions
    from ._plan import PerturbRun

    Separation = dict[str, float | str]

LOW = 0.7  # below, states are hardly separated
MOST = 2000  # cells of each state
RARE = 0.05  # share of a type below which it does not count as one


def separations(runs: Sequence[PerturbRun], obs: pd.DataFrame) -> Separation | dict[str, Separation]:
    """How well source and target are separated, by group if there are groups; empty where that cannot be measured.

    Warns in the log where they are hardly separated in the embedding.

    Returns
    -------
    ``"embedding"`` and ``"expression"``: area under the ROC curve of held-out cells by `evaluation.separation`; ``"held_out"``: ``"donors"`` where a
    column of `obs` looks like them and they can be held out, else ``"cells"``.
    """
    donor = donor_column(obs)
    donors = None if donor is None else obs[donor].astype(str).to_numpy()
    of_group = {run.group: separation for run in runs if (separation := _separation(run, donors))}
    for group, values in of_group.items():
        if float(values["embedding"]) < LOW:
            states = f"{runs[0].options.source!r} and {runs[0].options.target!r}"
            where = "" if group is None else f" in {group!r}"
            expression = f"; by expression {values['expression']:.2f}" if "expression" in values else ""
            logg.warning(
                f"{states} are hardly separated in the embedding{where}: AUROC {values['embedding']:.2f} on held-out "
                f"{values['held_out']}, 0.5 being chance{expression}. Shifts from one towards the other then mean "
                "little."
            )
    return of_group.get(None) or {keys.slot_name(group): values for group, values in of_group.items()}


def _separation(run: PerturbRun, donors: np.ndarray | None) -> Separation | None:
    source, target = run.options.source, run.options.target
    if source is None or target is None or not {source, target} <= set(run.embedded):
        return None
    rng = np.random.default_rng(0)
    rows, values, labels = [], [], []
    for state in (target, source):
        read = np.flatnonzero(~np.isnan(run.embedded[state]).any(axis=1))
        drawn = np.sort(rng.permutation(read)[:MOST])
        rows.append(run.members[state][drawn])
        values.append(run.embedded[state][drawn])
        labels.append(np.full(len(drawn), state == target))
    if min(map(len, rows)) < 2:
        return None
    cells, is_target = np.concatenate(rows), np.concatenate(labels)
    groups = None if donors is None else donors[cells]
    embedding, held_out = _held_out(np.concatenate(values), is_target, groups)
    separation: Separation = {"embedding": embedding, "held_out": held_out}
    try:
        profile = log_profile(run.inputs.cells, cells, layer=None, tokens_key=run.inputs.tokens_key, cure="")
    except (KeyError, ValueError):  # the counts are gone
        return separation
    return separation | {"expression": _held_out(profile.X, is_target, groups)[0]}


def _held_out(values: np.ndarray, is_target: np.ndarray, groups: np.ndarray | None) -> tuple[float, str]:
    """Separation with donors held out, or cells where no split by donors has both states on both sides."""
    if groups is not None:
        try:
            return evaluation.separation(values, is_target, groups=groups), "donors"
        except ValueError:
            pass
    return evaluation.separation(values, is_target), "cells"


def warn_of_types(obs: pd.DataFrame, source: np.ndarray, target: np.ndarray, options: PerturbOptions) -> None:
    """Warn in the log that cells of several types are perturbed together, and how states differ in their types."""
    column = type_column(obs)
    if column is None or column == options.groupby:
        return
    types = obs[column].astype(str)
    shares = pd.DataFrame(
        {i: types.iloc[rows].value_counts(normalize=True) for i, rows in enumerate((source, target))}
    ).fillna(0)
    n_types = int((shares[0] >= RARE).sum())
    if n_types < 2:
        return
    distance = float((shares[0] - shares[1]).abs().sum() / 2)
    differ = f" The states also differ in their types, by {distance:.0%} of the cells." if distance >= RARE else ""
    logg.warning(
        f"The cells of {options.source!r} are of {n_types} types in .obs[{column!r}]: genes that mark types then rank "
        f"high, whatever the states. Perturb within={column!r}.{differ}"
    )
