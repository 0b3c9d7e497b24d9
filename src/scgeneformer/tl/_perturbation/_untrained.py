"""The same perturbation by an untrained encoder: what part of a ranking needs no training?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scgeneformer.tokens import token_of

from ._write import Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer.engine.perturb import Perturbation
    from scgeneformer.hub import Pretrained

    from ._plan import PerturbRun

N_CELLS = 20  # perturbed cells of each group; more would cost over a tenth of a screen of 200 cells
N_STATE_CELLS = 50  # cells of the target, for its centroid
SEED = 0  # of the weights


def untrained_model(pretrained: Pretrained) -> Pretrained:
    """A model of the same shape and vocabulary, with new weights, which are always the same. Leaves torch's random state alone."""
    import torch

    from scgeneformer import hub

    make: Any = type(pretrained.encoder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # unlike `torch.manual_seed`, of the CPU only
        encoder = make(pretrained.encoder.config)
    return hub.Pretrained("untrained", pretrained.vocabulary, model=encoder.eval())


def measure_untrained(
    runs: Sequence[PerturbRun], perturbation: Perturbation, besides: Sequence[Perturbation | None]
) -> Measured | None:
    """Shifts of the genes, and of the random ones beside them in each run, towards the target by an untrained encoder, in some cells of each run; None if no run has cells of the target.

    All genes of a cell are estimated at once (`engine.perturb.screen`), which costs a small part of an exact run; models without estimates
    are run exactly.
    """
    model, parts = untrained_model(runs[0].inputs.pretrained), []
    method: Literal["exact", "screen"] = (
        "screen" if "estimates of perturbations" in model.encoder.abilities else "exact"
    )
    for run, beside in zip(runs, besides, strict=True):
        if (small := _small_run(run, model)) is not None:
            genes = [asked.genes for asked in (perturbation, beside) if asked is not None and asked.genes is not None]
            outcome = small.run(replace(perturbation, genes=np.unique(np.concatenate(genes))), method, "")
            parts.append(Measured(small.chosen[outcome.cells], outcome.what, outcome.values))
    return Measured.join(parts) if parts else None


def _small_run(run: PerturbRun, model: Pretrained) -> PerturbRun | None:
    """The run with another model, fewer cells and the target's centroid only, made of its cells; None if there are not two with genes.

    Cells are drawn by a child of the run's generator, whose own draws stay what they are.
    """
    rng = np.random.default_rng(run.options.rng).spawn(1)[0]
    chosen, (target, members) = run.chosen, next(iter(run.members.items()))
    cells, of_target = (
        rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
        for rows, most in ((chosen, N_CELLS), (members, N_STATE_CELLS))
    )
    tokens = np.asarray(run.inputs.tokens[of_target])
    if (token_of(tokens) >= run.inputs.vocabulary.n_special).any(axis=1).sum() < 2:
        return None
    return replace(
        run,
        inputs=replace(run.inputs, pretrained=model),
        options=replace(run.options, checkpoint=None),
        chosen=cells,
        members={target: of_target},
        given="mean" if isinstance(run.given, Mapping) else run.given,
    )
