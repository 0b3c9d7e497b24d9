"""Sizes and training options of the published models, as data.

Sources: the models' ``config.json``, and the training arguments that are stored beside V1-10M and spelled in the folder names of the
others (https://huggingface.co/ctheodoris/Geneformer).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from scgeneformer._arguments import checked


@dataclass(frozen=True)
class Preset:
    """A published model.

    Attributes
    ----------
    shape
        Arguments of ``Geneformer``.
    generation
        Generation of the vocabulary that it was trained with; None if unknown.
    training
        Arguments of ``train``; empty if unknown.
    devices
        Number of GPUs, each with its own batches of `batch_size` cells; None if unknown.
    """

    shape: dict[str, Any]
    generation: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    devices: int | None = None


def _shape(
    n_layers: int,
    width: int,
    n_heads: int,
    feed_forward: int,
    dropout: float,
    max_length: int | None,
    *,
    n_decoder_layers: int = 0,
    positions: str = "learned",
) -> dict[str, Any]:
    return {
        "n_layers": n_layers,
        "n_decoder_layers": n_decoder_layers,
        "width": width,
        "n_heads": n_heads,
        "feed_forward": feed_forward,
        "max_length": max_length,
        "positions": positions,
        "dropout": dropout,
        "attention_dropout": dropout,
    }


_ADAMW = {"max_epochs": 3, "optimizer": "adamw", "weight_decay": 0.001, "masking": "geneformer"}
_PRESETS = {
    "V1-10M": Preset(
        _shape(6, 256, 4, 512, 0.02, 2048),
        "V1",
        _ADAMW | {"learning_rate": 1e-3, "schedule": "linear", "warmup": 10_000, "batch_size": 12},
        devices=12,
    ),
    "12L-95M": Preset(
        _shape(12, 512, 8, 1024, 0.02, 4096),
        "V2",
        _ADAMW | {"learning_rate": 5e-4, "schedule": "cosine", "warmup": 5_000, "batch_size": 4},
        devices=8,
    ),
    "V2-104M": Preset(
        _shape(12, 768, 12, 3072, 0.1, 4096),
        "V2",
        _ADAMW | {"learning_rate": 2e-4, "schedule": "cosine", "warmup": 0.007, "batch_size": 18},
    ),
    "V2-316M": Preset(_shape(18, 1152, 18, 4608, 0.1, 4096), "V2"),
    "encoder-decoder": Preset(
        _shape(6, 512, 8, 2048, 0.1, None, n_decoder_layers=6, positions="sinusoidal"),
        # a learning rate without a schedule is constant
        training={
            "optimizer": "adam",
            "weight_decay": 0.01,
            "learning_rate": 1e-4,
            "schedule": "constant",
            "warmup": 0,
        },
    ),
}


def preset_named(name: str) -> Preset:
    """The preset with this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in _PRESETS:
        msg = f"{name!r} is not one of the presets: {', '.join(map(repr, _PRESETS))}."
        raise ValueError(msg)
    return _PRESETS[name]


def presets() -> pd.DataFrame:
    """List the sizes and training options of the published models.

    Returns
    -------
    DataFrame with one row per preset, indexed by name: `generation` of the vocabulary, the arguments of :class:`Geneformer` and of its
    ``train``, and `devices`, the number of GPUs, each with batches of `batch_size` cells. Unpublished values are missing. If `max_length` is
    missing, it is that of the vocabulary.

    See Also
    --------
    Geneformer.from_preset, recipe

    Examples
    --------
    >>> sizes = sg.model.presets()
    >>> int(sizes.loc["V2-104M", "n_layers"]), int(sizes.loc["V2-104M", "width"])
    (12, 768)
    """
    rows = {
        name: {"generation": preset.generation} | preset.shape | preset.training | {"devices": preset.devices}
        for name, preset in _PRESETS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name").convert_dtypes()


@checked
def recipe(name: str, *, devices: int = 1) -> dict[str, Any]:
    """Arguments of ``train`` used for a published model.

    Each step has the same number of cells as in the published training, for any number of devices: gradients are accumulated over batches. The
    warm-up is a number of such steps. The 10,000 steps of V1-10M exceed the whole training on a small corpus; in that case set a fraction of
    all steps, such as ``warmup=0.05``.

    Parameters
    ----------
    name
        Name in :func:`presets`.
    devices
        Number of devices to train on.

    Returns
    -------
    Keyword arguments of :meth:`Geneformer.train`. To change some, write ``recipe(name) | {"max_epochs": 1}``.

    Raises
    ------
    ValueError
        If there is no such preset, its training was not published, or the published number of devices is not a multiple of `devices`.

    Examples
    --------
    >>> options = sg.model.recipe("V1-10M", devices=4)
    >>> options["batch_size"], options["devices"], options["accumulate"]  # 144 cells per step
    (12, 4, 3)
    """
    preset = preset_named(name)
    if not preset.training:
        others = [other for other, one in _PRESETS.items() if one.training]
        msg = (
            f"How {name!r} was trained is not known. Use the recipe of another preset ({', '.join(map(repr, others))})."
        )
        raise ValueError(msg)
    published = preset.devices or devices
    if devices < 1 or published % devices:
        msg = f"devices={devices} does not divide the {published} devices of {name!r}: steps would have another size."
        raise ValueError(msg)
    return preset.training | {"devices": devices, "accumulate": published // devices}
