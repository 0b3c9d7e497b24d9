"""What a classifier predicts for cells, in place of states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from scgeneformer import _keys as keys
from scgeneformer.tl._annotation._classifier import load_classifier

if TYPE_CHECKING:
    from scgeneformer.engine import Pooling

    from ._options import PerturbOptions


def with_outputs(model: Any, options: PerturbOptions) -> tuple[Any, PerturbOptions]:
    """The classifier `model`, and `options` in which what it predicts takes the place of the states; both as they are without outputs.

    Predictions of a linear head change along directions of the embedding that it reads, as shifts do towards centroids.

    Raises
    ------
    TypeError
        If `model` is not a classifier of cells.
    ValueError
        If it has no such labels, is not trained, or has no linear head.
    """
    if options.outputs is None:
        return model, options
    classifier = load_classifier(model, "CellClassifier")
    names = [options.outputs] if isinstance(options.outputs, str) else list(options.outputs)
    directions = classifier.readout(names)
    keys.slot_names(names, "Outputs")
    return classifier, replace(
        options,
        outputs=names,
        target=names[0],
        others=names[1:],
        centroids=directions,
        pooling=cast("Pooling", classifier.module.network.pooling),
        emb_layer=0,
    )
