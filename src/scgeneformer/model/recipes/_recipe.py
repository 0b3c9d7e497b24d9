"""The recipes by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._portfolio import check_portfolio, train_portfolio
from ._single import OWN, PLAIN, SINGLE, train_single

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgeneformer.model._classifier import Classifier
    from scgeneformer.model.pairs._pair_encoder import PairEncoder

    from ._items import TrainingItems
    from ._selection import Selection

AUTO = "auto"
_OF_RUNS = ("max_epochs", "max_steps", "learning_rate", "warmup", "checkpoints", "ckpt_path")


def default_recipe(model: Classifier | PairEncoder) -> str:
    """``"auto"`` for a linear head, and ``"plain"`` for another."""
    return AUTO if model.module.network.head == "linear" else PLAIN


def resolve_recipe(
    model: Classifier | PairEncoder, recipe: str | None, max_epochs: int | None, options: Mapping[str, Any]
) -> str:
    """The name of the recipe.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If there is no such recipe, it is not for this head, or an option has no meaning with it.
    """
    recipe = default_recipe(model) if recipe is None else recipe
    if recipe in SINGLE:
        return recipe
    if model.module.network.head != "linear":
        msg = f"recipe={recipe!r} needs a linear head, but this model has BERT's head. Make it with head='linear', or train with recipe='plain'."
        raise ValueError(msg)
    if recipe == AUTO:
        check_portfolio(options)
        return recipe
    given = [name for name in _OF_RUNS if {**options, "max_epochs": max_epochs}[name] is not None]
    given += [name for name, idle in (("keep_best", OWN), ("early_stopping", False)) if options[name] != idle]
    if given:
        msg = f"recipe='probe' fits the head without a run, to which {given} would apply. Leave them out, or choose recipe='auto'."
        raise ValueError(msg)
    return recipe


def train_by(recipe: str, items: TrainingItems, max_epochs: int | None, options: Mapping[str, Any]) -> Selection | None:
    """Train the model of `items`; return what was selected, if there was a choice."""
    if recipe in SINGLE:
        train_single(items, recipe, max_epochs, options)
        return None
    return train_portfolio(items, recipe, max_epochs, options)
