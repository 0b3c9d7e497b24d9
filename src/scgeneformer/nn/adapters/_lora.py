"""Low-rank adapters (LoRA) through peft: put into an encoder, and merged into its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from scgeneformer.nn._decoder import EncoderDecoder
from scgeneformer.nn._heads import MaskedGeneModel
from scgeneformer.nn._quantize import dequantize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from scgeneformer.nn._encoder import Encoder

TARGETS = ("query", "key", "value", "out", "up", "down")
NAME = "default"  # of the one adapter that a model can have


def add_lora(
    model: nn.Module,
    *,
    rank: int = 64,
    alpha: float | None = None,
    dropout: float = 0.1,
    targets: Sequence[str] = ("query", "value"),
) -> None:
    """Put low-rank adapters beside linear layers of an encoder and freeze all of its own weights, in place.

    A layer W x + b becomes W x + b + (alpha / rank) B A x, of which only A (rank, in) and B (out, rank) are trained. B is zero at
    first, so the model computes what it did; A is drawn from torch's global generator. Heads of classifiers stay as trainable as they
    are; what a model was pretrained with, the masked-gene head or a decoder, is frozen like the encoder. The defaults are those of
    official Geneformer.

    Parameters
    ----------
    model
        An :class:`Encoder`, or a module that has one as `.encoder`; quantized or not.
    rank
        Of the adapters.
    alpha
        Their scale is `alpha` / `rank`; None is twice the rank.
    dropout
        Of the adapters' inputs in training.
    targets
        Which layers of each block: ``"query"``, ``"key"``, ``"value"`` and ``"out"`` of the attention, ``"up"`` and ``"down"`` of
        the feed-forward part. For some blocks only, whole names such as ``"blocks.0.attention.query"``.

    Raises
    ------
    ImportError
        If peft is not installed.
    ValueError
        If the model has adapters already, or an argument is out of range.

    Notes
    -----
    The method is of Hu et al. (2022). Names in the state dict depend on `targets` only: to restore a saved one, build the model, call this with
    the same arguments and load it.

    Examples
    --------
    >>> model = sg.hub.load("default").masked_gene_model()
    >>> sg.nn.add_lora(model, rank=4)
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    6144
    """
    known = {*TARGETS, *layer_names(encoder_of(model))}
    if isinstance(targets, str) or not targets or not set(targets) <= known:
        msg = f"targets={targets!r} must list one or more of {TARGETS}, or of whole names such as 'blocks.0.attention.query'."
        raise ValueError(msg)
    if rank < 1 or not 0 <= dropout < 1:
        msg = f"rank={rank} must be 1 or more, and dropout={dropout} at least 0 and below 1."
        raise ValueError(msg)
    inject(model, list(targets), r=rank, lora_alpha=2 * rank if alpha is None else alpha, lora_dropout=dropout)


def draw_adapters(encoder: nn.Module) -> None:
    """Draw the adapters again, if there are any, from torch's global generator: they change nothing then."""
    if hasattr(encoder, "peft_config"):
        for layer in adapted_layers(encoder).values():
            layer.reset_lora_parameters(NAME, init_lora_weights=True)


def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the weights beside them, in place: plain linear layers, plain names, every weight trainable again.

    A quantized model becomes float32: the rounded weights that the adapters were trained with, plus the adapters. It computes the
    same up to the lower precision of arithmetic in quantized layers.

    Parameters
    ----------
    model
        With adapters.

    Raises
    ------
    ValueError
        If the model has no adapters.

    Examples
    --------
    >>> model = sg.hub.load("default").masked_gene_model()
    >>> sg.nn.add_lora(model, rank=4)
    >>> sg.nn.merge_lora(model)
    """
    encoder = encoder_of(model)
    config_of(encoder)
    dequantize(encoder)
    for name, layer in adapted_layers(encoder).items():
        plain = layer.get_base_layer()
        with torch.no_grad():
            plain.weight += layer.get_delta_weight(NAME).to(plain.weight.dtype)
        parent, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(parent), last, plain)
    del encoder.peft_config
    model.requires_grad_(requires_grad=True)
    encoder.embedding.position.requires_grad_(requires_grad=encoder.config.positions == "learned")


def has_trained_heads(model: nn.Module) -> bool:
    """Whether the weights of `model` outside its encoder are trained along with adapters."""
    return hasattr(model, "encoder") and not isinstance(model, MaskedGeneModel | EncoderDecoder)


def inject(model: nn.Module, targets: list[str], **settings: Any) -> None:
    """Put adapters beside the layers whose names end with one of `targets`; `settings` are those of ``peft.LoraConfig``."""
    encoder = encoder_of(model)
    encoder.check_offers("low-rank adapters", "LoRA")
    peft = import_peft()
    if hasattr(encoder, "peft_config"):
        msg = (
            "The model has LoRA adapters already. Merge them with `merge_lora` first, or start from a model without "
            "adapters."
        )
        raise ValueError(msg)
    if not has_trained_heads(model):
        model.requires_grad_(requires_grad=False)
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=targets, **settings), encoder, NAME)
    config_of(encoder).target_modules = set(targets)  # peft rewrites long lists
    for layer in adapted_layers(encoder).values():
        layer.train(encoder.training)
        if layer.lora_A[NAME].weight.dtype in (torch.bfloat16, torch.float16):  # small steps would be rounded away
            layer.lora_A.float()
            layer.lora_B.float()


def import_peft() -> ModuleType:
    """The package, or an error that says how to get it."""
    try:
        import peft
    except ImportError as error:
        msg = "LoRA needs peft. Install it with `pip install 'scgeneformer[lora]'`."
        raise ImportError(msg) from error
    return peft


def encoder_of(model: nn.Module) -> Encoder:
    """The encoder of `model`, or `model` itself."""
    return cast("Encoder", getattr(model, "encoder", model))


def config_of(encoder: nn.Module) -> Any:
    """The ``peft.LoraConfig`` of the adapters; an error if there are none."""
    configs: Any = getattr(encoder, "peft_config", None)
    if configs is None:
        msg = "The model has no LoRA adapters. Add them with `add_lora` or `load_adapter`."
        raise ValueError(msg)
    return configs[NAME]


def layer_names(encoder: Encoder) -> list[str]:
    """The layers that can have adapters."""
    parts = {"attention": TARGETS[:4], "feed_forward": TARGETS[4:]}
    blocks = range(encoder.config.n_layers)
    return [f"blocks.{i}.{part}.{name}" for i in blocks for part, names in parts.items() for name in names]


def adapted_layers(encoder: nn.Module) -> dict[str, Any]:
    """The layers with adapters, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in encoder.named_modules() if isinstance(module, LoraLayer)}
