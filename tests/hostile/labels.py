"""Labels, splits and options of trainings that make no sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import scgeneformer as sg
from scgeneformer import evaluation

from . import world
from .verdict import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
TRAIN: dict[str, tuple[object, ...]] = {
    "max_epochs": (0, -1, 1.5, "1"),
    "recipe": ("best", "", 3),
    "split": ("none", 3, [1, 2]),
    "train_size": (-0.1, 1.5, "x"),
    "validation_size": (-0.1, 1.5, "x"),
    "test_size": (-0.1, 1.5, "x"),
    "balance": ("none", ["none"], 3),
    "class_weights": ("even", {"none": 1.0}, {"sick": -1.0, "well": 1.0}, 3),
    "learning_rate": (-1.0, np.nan, "fast"),
    "warmup": (-1, "long"),
    "batch_size": (0, -1, 1.5, "1"),
    "token_budget": (0, -1, "1"),
    "accumulate": (0, -1, 1.5, "1"),
    "weight_decay": (-1.0, "x"),
    "schedule": ("none", 3),
    "max_steps": (0, -5, 1.5, "1"),
    "keep_best": ("none", 3),
    "rng": ("x", -1, 1.5),
    "learning_rates": (1e-4,),
}
SETUP: tuple[tuple[str, object], ...] = (
    ("a missing column", "none"),
    ("no name", ""),
    ("a number", 3),
    ("no columns", []),
    ("a kind that does not exist", {"state": "nominal"}),
    ("numbers of text", {"state": "continuous"}),
)
COLUMNS: dict[str, object] = {
    "all missing": np.nan,
    "one class": "sick",
    "infinite numbers": np.inf,
    "lists": [[i] for i in range(world.N_CELLS)],
    "a class per cell": [f"c{i}" for i in range(world.N_CELLS)],
    "names that collide": ["a/b", "a|b"] * (world.N_CELLS // 2),
}


def _model(head: str = "linear") -> sg.model.CellClassifier:
    adata = world.tokenized()
    sg.model.CellClassifier.setup_anndata(adata, "state")
    return sg.model.CellClassifier(adata, world.model(), head=head)


def cases(rng: np.random.Generator) -> Iterator[Case]:
    """About 100 of them."""
    for name, labels in SETUP:
        adata = world.tokenized()
        yield Case(f"setup, {name}", lambda a=adata, x=labels: sg.model.CellClassifier.setup_anndata(a, x), adata)
    for name, values in COLUMNS.items():
        adata = world.tokenized()
        adata.obs["label"] = pd.Series(
            values, index=adata.obs_names, dtype=object if isinstance(values, list) else None
        )

        def train(a: object = adata) -> None:
            sg.model.CellClassifier.setup_anndata(a, "label")
            model = sg.model.CellClassifier(a, world.model())
            model.train(recipe="plain", max_epochs=1, **QUIET)
            sg.tl.annotate(world.tokenized(), model)

        yield Case(f"labels, {name}", train)
    for head, recipe in (("linear", "auto"), ("linear", "plain"), ("bert", "plain")):
        model = _model(head)
        for name, values in TRAIN.items():
            for value in values:
                options = {"recipe": recipe, "max_epochs": 1} | QUIET | {name: value}
                yield Case(f"train by {recipe}, {name}={value!r}", lambda m=model, o=options: m.train(**o))
        for sets in (([0, 1], [1, 2], [3]), ([0, 99], [], []), ([], [], [1]), ([-1, 1], [], [])):
            yield Case(
                f"train by {recipe}, split {sets}",
                lambda m=model, x=sets, r=recipe: m.train(max_epochs=1, recipe=r, split=evaluation.Split(*x), **QUIET),
            )
    model = _model()
    for name, call in {
        "predict before training": lambda: model.predict(),
        "annotate before training": lambda: sg.tl.annotate(world.tokenized(), model),
        "evaluate before training": lambda: sg.tl.evaluate(world.tokenized(), model),
        "predict of other indices": lambda: model.predict(indices=[999]),
        "save to a file": lambda: model.save(str(world.folder() / "config.json")),
        "load of nothing": lambda: sg.model.CellClassifier.load("nowhere"),
        "load of another kind": lambda: sg.model.GeneClassifier.load(str(world.folder())),
    }.items():
        yield Case(name, call)
    for name, value in {
        "freeze": 9,
        "lora": "x",
        "quantize": "int8",
        "pooling": "max",
        "head": "mlp",
        "dropout": 2.0,
    }.items():
        adata = world.tokenized()
        sg.model.CellClassifier.setup_anndata(adata, "state")
        yield Case(
            f"CellClassifier, {name}={value!r}",
            lambda a=adata, n=name, v=value: sg.model.CellClassifier(a, world.model(), **{n: v}),
        )
    del rng
