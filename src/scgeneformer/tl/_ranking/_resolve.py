"""Arguments of a ranking, checked, and the data that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys
from scgeneformer import _log as logg
from scgeneformer.tl._perturbation._states import groups_of

from ._of_states import is_current
from ._rank_genes import OF_STATES, Ranking
from ._shifts import CURE, read_shifts, resolve_anchor, resolve_null

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

OFFICIAL = ("rank_sum", "vs_null", "mixture", "aggregate")
ENOUGH_TO_CENTRE = 10  # tested genes in a cell whose mean stands for any gene, as many as are drawn beside listed ones


def choose_test(
    test: str | None,
    data: AnnData,
    key: str,
    run: dict[str, Any],
    groups: dict[str | None, Any],
    compat: str | None,
    donor: str | None,
) -> str:
    """The test; by default that of the states where movements were stored and are those of the cells at hand, or else one over donors or cells.

    Raises
    ------
    ValueError
        If the test needs the movements, and they are those of other cells.
    """
    default = "rank_sum" if donor is None else "donors"
    between = compat is None and {"source", "target"} <= set(run) and _keys.has_genes(data, key)
    if not (between if test is None else test in OF_STATES):
        return test or default
    of_genes = [_keys.direction_key(key, group) for group in groups]
    stored = all(name in data.varm for name in of_genes) and (test is not None or _keys.movement_key(key) in data.obsm)
    current = stored and all(
        is_current(data if group is None else data[rows], key, run, group) for group, rows in groups.items()
    )
    if test is not None:
        if stored and not current:
            msg = (
                f"The movements in .varm[{of_genes[0]!r}] are not those of the shifts in .layers[{key!r}]: they are means "
                "over all perturbed cells, and some of these were removed. Rank before cells are removed, or leave out `test`."
            )
            raise ValueError(msg)
        return test
    if current:
        return "states"
    why = (
        f"perturbed cells were removed, so that .varm[{of_genes[0]!r}] does not hold for the cells at hand"
        if stored
        else f"that takes .varm[{of_genes[0]!r}], which directions=True stores"
    )
    logg.warning(f"The p-values compare genes with each other and do not test the states: {why}.")
    return default


def can_centre(data: AnnData, key: str) -> bool:
    """Whether cells have random genes, or enough tested ones, to tell what perturbing any gene does to them."""
    if _keys.reference_key(key) in data.layers:
        return True
    n_tested = np.bincount(read_shifts(data, key, goal=True).cells) if _keys.has_genes(data, key) else np.zeros(1)
    return bool(n_tested.any()) and float(np.median(n_tested[n_tested > 0])) >= ENOUGH_TO_CENTRE


def resolve(
    data: AnnData,
    key: str,
    test: str,
    compat: str | None,
    donors: pd.Categorical | None,
    null: AnnData | MuData | str | None,
    singles: str | None,
    n_matched: int,
    n_permutations: int,
    min_cells: int | None,
    mod: str,
    *,
    centered: bool,
    group: str | None,
    within: str | None,
    labels: np.ndarray | None,
    rng: int | np.random.Generator | None,
) -> Ranking:
    """Find everything that the ranking reads."""
    run = _keys.params(data, key, cure=CURE)
    states = _keys.end_states(run) or [""]  # one without a name
    goal = states != [""]
    if test == "mixture" and goal:
        msg = f"test='mixture' separates similarities, but .uns[{key!r}] has goal states. Use test='rank_sum'."
        raise ValueError(msg)
    if compat is not None and ((test == "rank_sum" and not goal) or (test == "vs_null" and goal)):
        msg = f"Official Geneformer has test={test!r} {'without' if goal else 'with'} goal states only. Leave out `compat`."
        raise ValueError(msg)
    if test in OF_STATES:
        labels = _labels_of_states(data, key, run, test, labels, group, centered=centered)
    if centered and goal and test in ("rank_sum", "donors"):
        msg = (
            f"test={test!r} has p values of centred effects that are too small under random states. Use test='states' after `sg.tl.perturb`, or leave "
            "out `centered`: the table has `centered_effect` in any case."
        )
        raise ValueError(msg)
    other, anchor = (data, ""), -1
    if null is not None:
        null_data, null_key = resolve_null(data, null, key, mod=mod)
        if group is not None and null_data is not data:
            null_data = null_data[groups_of(null, within, mod).get(group, [])]
        other = null_data, null_key
    if singles is not None:
        other, anchor = (data, singles), resolve_anchor(data, key, singles)
    return Ranking(
        data,
        key,
        run,
        states,
        test,
        official=compat is not None,
        centered=centered,
        min_cells=min_cells or (1 if compat is not None or test == "aggregate" else 5),
        n_matched=n_matched,
        donors=donors,
        other_data=other[0],
        other_key=other[1],
        anchor=anchor,
        group=group,
        labels=np.empty(0, dtype=object) if labels is None else labels,
        n_permutations=n_permutations,
        rng=np.random.default_rng(rng),
    )


def _labels_of_states(
    data: AnnData,
    key: str,
    run: dict[str, Any],
    test: str,
    labels: np.ndarray | None,
    group: str | None,
    *,
    centered: bool,
) -> np.ndarray:
    """The labels, if there is all that a test of the states needs.

    Raises
    ------
    KeyError
        If movements or embeddings were not kept, or the labels are gone.
    """
    slots = [("varm", _keys.direction_key(key, group)), ("obsm", _keys.state_embedding_key(key))]
    for place, name in [*slots, ("obsm", _keys.movement_key(key))] if centered else slots:
        if name not in getattr(data, place):
            msg = f"No .{place}[{name!r}], which test={test!r} needs. Run `sg.tl.perturb` or `sg.tl.screen` with `source`, `target` and directions=True."
            raise KeyError(msg)
    if labels is None:
        msg = f"The labels of the states, .obs[{run.get('groupby')!r}], are missing, and test={test!r} needs them. Put the column back."
        raise KeyError(msg)
    return labels


def check_arguments(
    test: Any,
    compat: Any,
    donor: Any,
    null: Any,
    singles: Any,
    *,
    centered: bool,
) -> None:
    """Raise for values that contradict each other."""
    if compat is not None and test not in OFFICIAL:
        msg = f"test={test!r} has no official form; compat='official' is for {OFFICIAL}."
        raise ValueError(msg)
    if centered and (compat is not None or test == "interaction"):
        of_what = "compat='official'" if compat is not None else f"test={test!r}"
        msg = f"{of_what} takes shifts as they are. Leave out `centered`."
        raise ValueError(msg)
    if (donor is not None) != (test == "donors") and test not in ("interaction", *OF_STATES):
        msg = (
            f"test={test!r} does not use `donor`. Leave `test` out, or use 'donors'."
            if donor is not None
            else "test='donors' needs `donor`, the column of .obs with donors."
        )
        raise ValueError(msg)
    if (null is not None) != (test == "vs_null"):
        msg = "test='vs_null' and `null`, the other perturbation, go together: pass both or neither."
        raise ValueError(msg)
    if (singles is not None) != (test == "interaction"):
        msg = "test='interaction' and `singles`, the perturbation of single genes, go together: pass both or neither."
        raise ValueError(msg)
