"""Recipes of one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._probe import standardise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._items import TrainingItems

OWN = "auto"  # what keep_best is until it is given; other options are None
WARMUP = 0.1
PLAIN, OFFICIAL = SINGLE = ("plain", "official")
_OFFICIAL: dict[str, Any] = {"max_epochs": 1, "learning_rate": 5e-5, "keep_best": None, "batch_size": 12}
_OFFICIAL_WARMUP = 500  # steps, but no more than the usual share of a run
_STANDARDISED_BY = 2000  # items


def train_single(items: TrainingItems, recipe: str, max_epochs: int | None, options: Mapping[str, Any]) -> None:
    """Train once, with the options of `recipe` where they are not given."""
    own, options = _OFFICIAL if recipe == OFFICIAL else items.plain, dict(options)
    max_epochs = own["max_epochs"] if max_epochs is None else max_epochs
    if options["learning_rate"] is None:
        options["learning_rate"] = own["learning_rate"]
    if options["keep_best"] == OWN:
        options["keep_best"] = own["keep_best"]
    if options["batch_size"] is None and options["token_budget"] is None:
        options["batch_size"] = own["batch_size"]
    if options["warmup"] is None:
        n_steps = max_epochs * len(items.batches(options).train_dataloader())
        long = recipe == OFFICIAL and n_steps * WARMUP > _OFFICIAL_WARMUP
        options["warmup"] = _OFFICIAL_WARMUP if long else WARMUP
    network = items.model.module.network
    if network.head == "linear" and not items.model.is_trained_:
        some = np.random.default_rng(options["rng"]).permutation(items.with_states("train"))[:_STANDARDISED_BY]
        standardise(network, items.states(np.sort(some)))
    items.train(max_epochs, options)
