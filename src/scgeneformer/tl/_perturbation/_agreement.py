"""How well the estimates of a screen agree with exact values: measured and reported in each run, and refused where it is poor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from scgeneformer.engine.perturb import Outcome, Perturbation, Sample

    from ._plan import PerturbRun

# Spearman within cells, below which there is a warning, or, by the upper end of its interval, an error
FAIR, POOR = 0.95, 0.8
MOST_CELLS, LEAST_CELLS, ONE_IN = 24, 6, 5  # cells of a sample; one in five in between


def sample_cells(run: PerturbRun, screened: Sequence[tuple[Perturbation, Outcome]], n_groups: int) -> Sample | None:
    """Estimates and exact values of some genes in some cells of a run; None if cells have too few genes to be ordered.

    Costs a tenth of the screen of 60 cells, and less of more.
    """
    from scgeneformer import engine

    if run.centroids is None:
        return None
    n_cells = int(np.clip(-(-len(run.chosen) // ONE_IN), LEAST_CELLS, MOST_CELLS))
    sample = engine.perturb.compare(
        run.inputs.pretrained.encoder,
        run.tokens,
        screened,
        states=run.centroids,
        n_cells=max(-(-n_cells // n_groups), 2),
        rng=np.random.default_rng([run.number, 0]),
        **run.inputs.options,
    )
    return sample if len(sample.cells) else None


def agreement_of(samples: Sequence[Sample], states: Sequence[str], *, allow_poor: bool) -> pd.DataFrame | None:
    """Agreement by state, reported in the log; None without samples.

    Raises
    ------
    ValueError
        If it is surely poor and `allow_poor` is False.
    """
    from scgeneformer import engine

    if not samples:
        logg.info("    estimates were not compared with exact values: cells have fewer than eight of the genes")
        return None
    table = engine.perturb.agreement(samples).set_axis([keys.slot_name(state) for state in states], axis=0)
    worst = table["spearman"].idxmin() if table["spearman"].notna().any() else None
    if worst is None:
        return table
    row = table.loc[worst]
    value = float(row["spearman"])
    told = (
        f"Spearman {value:.2f} ({row['spearman_low']:.2f} to {row['spearman_high']:.2f}) within {row['n_cells']:.0f} cells, "
        f"towards {worst!r}"
    )
    if row["spearman_high"] < POOR and not allow_poor:
        msg = (
            f"Estimates agree poorly with exact values: {told}. Run `sg.tl.perturb`, which is exact, on fewer cells or "
            "genes (`max_cells=`, `genes=`); or keep the estimates with allow_poor=True."
        )
        raise ValueError(msg)
    if value < FAIR:
        logg.warning(
            f"Estimates do not agree well with exact values: {told}. Measure genes of interest exactly with `refine=`."
        )
    else:
        logg.info(f"    estimates against exact values: {told}")
    return table
