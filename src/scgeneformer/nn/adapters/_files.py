"""Adapters in files: peft's layout under Hugging Face's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgeneformer._arguments import check
from scgeneformer._files import write_tensors
from scgeneformer.nn._encoder import Encoder
from scgeneformer.nn._heads import CellClassifier, GeneClassifier
from scgeneformer.nn._weights import checked, read_weights
from scgeneformer.nn.checkpoints._layouts import BERT, folded_head, head_prefixes

from ._lora import (
    NAME,
    TARGETS,
    adapted_layers,
    config_of,
    encoder_of,
    has_trained_heads,
    import_peft,
    inject,
    layer_names,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ROOT = "base_model.model."  # before each name in the file
_TASKS = {CellClassifier: "SEQ_CLS", GeneClassifier: "TOKEN_CLS"}
# Settings of a stored adapter that are used, follow from its weights, or do not change what it computes.
_USED = ("r", "lora_alpha", "lora_dropout", "use_rslora")
_IMPLIED = (
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "task_type",
)
_IDLE = ("inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "eva_config")
_IDLE_STARTS = ("gaussian", "orthogonal", "eva")  # values of init_lora_weights; others change the base model's weights


def save_adapter(folder: str | Path, model: nn.Module, *, base_model: str | None = None) -> None:
    """Write the adapters and heads of `model` to `folder`, as ``adapter_config.json`` and ``adapter_model.safetensors``.

    ``peft.PeftModel.from_pretrained`` puts them on the `transformers` model with the same base weights: on
    ``BertForSequenceClassification`` those of a :class:`CellClassifier`, on ``BertForTokenClassification`` those of a
    :class:`GeneClassifier`, on ``BertForMaskedLM`` and ``BertModel`` those of a :class:`MaskedGeneModel` and an :class:`Encoder`.
    Heads that BERT does not have keep our names; only :func:`load_adapter` reads them.

    Parameters
    ----------
    folder
        Made if missing.
    model
        With adapters.
    base_model
        Name or path of the model that was adapted, to be written down for readers.

    Raises
    ------
    ValueError
        If the model has no adapters.

    Examples
    --------
    >>> model = sg.hub.load("default").masked_gene_model()
    >>> sg.nn.add_lora(model, rank=4)
    >>> sg.nn.save_adapter("adapter", model, base_model="default")
    """
    config, adapted = config_of(encoder_of(model)), adapted_layers(encoder_of(model))
    layers, heads, values = _layer_names(model), _head_names(model), model.state_dict()
    folded = folded_head(model)  # what BERT reads; the rest of such a head is ours
    pieces = {theirs: adapted[ours] for theirs, ours in layers.items() if ours in adapted}
    state = {f"{_ROOT}{name}.lora_A.weight": layer.lora_A[NAME].weight for name, layer in pieces.items()}
    state |= {f"{_ROOT}{name}.lora_B.weight": layer.lora_B[NAME].weight for name, layer in pieces.items()}
    head = {theirs: values[ours] for theirs, ours in heads.items()} | folded
    state |= {_ROOT + name: value for name, value in head.items()}
    written = config.to_dict() | {
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "modules_to_save": sorted({name.removeprefix("bert.").partition(".")[0] for name in folded or heads}) or None,
        "target_modules": _shortest_targets(list(pieces), list(layers)),
        "task_type": _TASKS.get(type(model)),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, state)
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n")


def load_adapter(folder: str | Path, model: nn.Module) -> None:
    """Put the adapters in `folder` into `model`, and the weights of its heads if they are there too, in place.

    Parameters
    ----------
    folder
        What :func:`save_adapter` or peft wrote for the base model that `model` has. Nothing is unpickled.
    model
        As for :func:`add_lora`, without adapters. A bare :class:`Encoder` takes the adapters and leaves heads out.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ImportError
        If peft is not installed.
    ValueError
        If the adapters are of another kind or for another model; `model` is then as it was.

    Examples
    --------
    >>> model = sg.hub.load("default").masked_gene_model()
    >>> sg.nn.add_lora(model, rank=4)
    >>> sg.nn.save_adapter("adapter", model)
    >>> fresh = sg.hub.load("default").masked_gene_model()
    >>> sg.nn.load_adapter("adapter", fresh)
    """
    folder = Path(folder)
    config = _read_config(folder)
    adapters, heads = _translate(read_weights(folder / WEIGHTS), model, config["r"], folder)
    rank, alpha = config["r"], config.get("lora_alpha", 8)  # what is missing has peft's default
    if config.get("use_rslora"):
        alpha *= rank**0.5  # the same scale, in the usual way: alpha / rank
    targets = _our_targets({name.partition(".lora_")[0] for name in adapters}, encoder_of(model))
    inject(model, targets, r=rank, lora_alpha=alpha, lora_dropout=config.get("lora_dropout", 0.0))
    state = {name.replace(".weight", f".{NAME}.weight"): value for name, value in adapters.items()}
    encoder_of(model).load_state_dict(state, strict=False)
    model.load_state_dict(heads, strict=False)


def _read_config(folder: Path) -> dict[str, Any]:
    """Settings of a stored adapter; one that we would not compute as it was trained is refused."""
    peft = import_peft()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            msg = f"No {name} in {folder}. Expected an adapter in peft's layout: {CONFIG} and {WEIGHTS}."
            raise FileNotFoundError(msg)
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        for name, annotation in (
            ("r", "int"),
            ("lora_alpha", "float"),
            ("lora_dropout", "float"),
            ("use_rslora", "bool"),
        ):
            if name in config:
                check(name, annotation, config[name])
    except (ValueError, TypeError, RecursionError) as error:
        msg = f"{folder / CONFIG} is not the config of an adapter, or is damaged ({error}). Fetch it again from its source."
        raise ValueError(msg) from None
    usual = peft.LoraConfig().to_dict() | {"peft_type": "LORA"}
    known = {*_USED, *_IMPLIED, *_IDLE}
    odd = {name: value for name, value in config.items() if name not in known and value and value != usual.get(name)}
    if odd.get("init_lora_weights") in _IDLE_STARTS:
        del odd["init_lora_weights"]
    if odd or "r" not in config:
        msg = (
            f"The adapter in {folder} is not plain LoRA: its {CONFIG} has {odd or 'no rank (r)'}. "
            "Merge it into its model with peft, save that, and load the model."
        )
        raise ValueError(msg)
    return config


def _translate(
    weights: Mapping[str, Tensor], model: nn.Module, rank: int, folder: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of adapters under our names within the encoder, and of heads under our names within `model`; shapes are checked."""
    layers = {theirs.removeprefix("bert."): ours for theirs, ours in _layer_names(model).items()}
    head_names, values, encoder = _head_names(model), model.state_dict(), encoder_of(model)
    folded = {_ROOT + name for name in folded_head(model)} & weights.keys()
    adapters, heads = {}, {}
    for name, value in weights.items():
        if name in folded:  # follows from the rest of the head
            continue
        theirs = name.removeprefix(_ROOT)
        layer, found, part = theirs.removeprefix("bert.").partition(".lora_")
        if layer in layers and part in ("A.weight", "B.weight"):
            linear: Any = encoder.get_submodule(layers[layer])
            expected = (rank, linear.in_features) if part == "A.weight" else (linear.out_features, rank)
            adapters[f"{layers[layer]}.lora_{part}"] = value
        elif theirs in head_names:
            expected = tuple(values[head_names[theirs]].shape)
            heads[head_names[theirs]] = value
        elif isinstance(model, Encoder) and not found:
            continue
        else:
            msg = f"The adapter in {folder} has weights {theirs!r}, for which this {type(model).__name__} has no place."
            raise ValueError(msg)
        if tuple(value.shape) != expected:
            msg = f"The adapter in {folder} is for another model: {theirs!r} has shape {tuple(value.shape)}, not {expected}."
            raise ValueError(msg)
        checked(value, value.dtype, name, folder / WEIGHTS)
    if not adapters:
        msg = f"{WEIGHTS} in {folder} has no adapters."
        raise ValueError(msg)
    other = {"A": "B", "B": "A"}
    for name in adapters:
        layer, _, part = name.rpartition(".lora_")
        pair = f"{layer}.lora_{other[part[0]]}{part[1:]}"
        if pair not in adapters:
            msg = f"{WEIGHTS} in {folder} has {name!r}, but not {pair!r}: an adapter is the product of both. Fetch it again from its source."
            raise ValueError(msg)
    if (heads or folded) and "standardise.mean" in {*values} - {*heads}:
        msg = f"The adapter in {folder} has the head of another classifier, without standardised states. Make the model with head='bert'."
        raise ValueError(msg)
    return adapters, heads


def _layer_names(model: nn.Module) -> dict[str, str]:
    """Hugging Face's name of each linear layer of the encoder -> our name of it within the encoder."""
    bare = "bert." if isinstance(model, Encoder) else ""
    return {
        theirs.rstrip(".").format(i).removeprefix(bare): ours.rstrip(".").format(i).removeprefix("encoder.")
        for i in range(encoder_of(model).config.n_layers)
        for ours, theirs in BERT.items()
        if ours.split(".")[-2] in TARGETS
    }


def _head_names(model: nn.Module) -> dict[str, str]:
    """Hugging Face's name of each weight of the heads that are trained with adapters -> ours, which heads unknown to BERT keep."""
    if not has_trained_heads(model):
        return {}
    prefixes, names = head_prefixes(model), {}
    for name in model.state_dict():
        if not name.startswith("encoder."):
            ours = max((p for p in prefixes if name.startswith(p)), key=len, default="")
            names[prefixes.get(ours, "") + name.removeprefix(ours)] = name
    return names


def _our_targets(adapted: set[str], encoder: Encoder) -> list[str]:
    """What `add_lora` would be given: a kind of layer where all blocks have it, whole names elsewhere."""
    kinds = {kind: {name for name in layer_names(encoder) if name.endswith(f".{kind}")} for kind in TARGETS}
    whole = [kind for kind, names in kinds.items() if names <= adapted]
    return whole + sorted(adapted.difference(*(kinds[kind] for kind in whole)))


def _shortest_targets(adapted: list[str], layers: list[str]) -> list[str]:
    """Ends of names, such as ``query``, if these pick the layers `adapted` and no others; else the whole names."""
    ends = sorted({name.rpartition(".layer.")[2].partition(".")[2].removeprefix("attention.self.") for name in adapted})
    picked = [name for name in layers if any(name.endswith(f".{end}") for end in ends)]
    return ends if picked == adapted else adapted
