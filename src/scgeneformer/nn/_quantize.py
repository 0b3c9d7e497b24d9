"""Linear layers with weights of 8 or 4 bits, by bitsandbytes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from torch import Tensor

_KINDS = ("int8", "nf4")
_BLOCK = 64  # weights of NF4 that share a scale
_OUTLIER = 6.0  # of LLM.int8(): inputs with larger values are multiplied in float16


def quantize(model: nn.Module, kind: Literal["int8", "nf4"], *, device: torch.device | str | None = None) -> None:
    """Replace the linear layers of an encoder by quantized ones, in place.

    Embeddings, layer norms and heads keep their precision. The encoder is frozen as a whole; heads stay as trainable as they are.

    It saves memory and costs exactness. By their numbers of weights, a V2-104M takes 160 MB (int8) or 119 MB (NF4) instead of 415, of
    which the embeddings are 75. Effects of perturbations in silico are often as small as the errors: compute those in float32.

    The state dict holds the quantized weights. It loads into a model that was built and quantized in the same way.

    Parameters
    ----------
    model
        An :class:`Encoder`, or a module that has one as `.encoder`. Without adapters: those come after (:func:`add_lora`).
    kind
        ``"int8"`` is LLM.int8() (Dettmers et al. 2022), for inference: weights are int8 with one scale for each output, inputs
        are quantized row by row, and input columns with values above 6 stay float16. ``"nf4"`` is the format of QLoRA
        (Dettmers et al. 2023), for training adapters: weights are 4-bit NormalFloat in blocks of 64, their scales are quantized again,
        products are bfloat16.
    device
        Where the model goes, and is quantized; None leaves it where it is.

    Raises
    ------
    ValueError
        If `kind` is unknown, the model is quantized or has adapters already, or ``"nf4"`` is asked for layers whose inputs do not
        fill blocks of 64 (those of published models do).
    ImportError
        If bitsandbytes is not installed.
    RuntimeError
        If it cannot do this on the device. The model is then as it was.

    Examples
    --------
    >>> model = sg.hub.load("default").masked_gene_model()
    >>> sg.nn.quantize(model, "nf4")
    >>> sg.nn.is_quantized(model)
    True
    """
    if kind not in _KINDS:
        msg = f"quantize={kind!r} is not one of {_KINDS}."
        raise ValueError(msg)
    encoder = getattr(model, "encoder", model)
    if is_quantized(encoder):
        msg = "The model is quantized already. Call `dequantize` first."
        raise ValueError(msg)
    if hasattr(encoder, "peft_config"):
        msg = "The model has LoRA adapters. Quantize before you add or load adapters, or merge them first."
        raise ValueError(msg)
    layers = list(_layers(encoder, nn.Linear))
    uneven = sorted({layer.in_features for _, _, layer in layers if layer.in_features % _BLOCK})
    if kind == "nf4" and uneven:  # bitsandbytes 0.50 silently computes nonsense with them on a CPU
        msg = f"quantize='nf4' needs widths that are multiples of {_BLOCK}; this encoder has layers of width {uneven}. Use 'int8'."
        raise ValueError(msg)
    bnb = _bitsandbytes()
    make = _int8 if kind == "int8" else _nf4
    place = next(encoder.parameters()).device if device is None else torch.device(device)
    _check_device(bnb, make, kind, place)
    model.to(place)
    for parent, name, layer in layers:
        setattr(parent, name, make(bnb, layer, place))
    encoder.requires_grad_(requires_grad=False)


def dequantize(model: nn.Module) -> None:
    """Replace quantized layers by plain linear layers in float32, in place. Their weights stay rounded, and frozen.

    Parameters
    ----------
    model
        Any module; without quantized layers it stays as it is.

    Examples
    --------
    >>> model = sg.hub.load("default").masked_gene_model()
    >>> sg.nn.quantize(model, "nf4")
    >>> sg.nn.dequantize(model)
    >>> sg.nn.is_quantized(model)
    False
    """
    for parent, name, layer in list(_layers(model, nn.Linear)):
        if _is_quantized_layer(layer):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            state = {"weight": _float_weight(layer)} | (
                {} if layer.bias is None else {"bias": layer.bias.detach().float()}
            )
            plain.load_state_dict(state, assign=True)
            setattr(parent, name, plain.requires_grad_(requires_grad=False).train(layer.training))


def is_quantized(model: nn.Module) -> bool:
    """Whether `model` has quantized layers.

    Examples
    --------
    >>> sg.nn.is_quantized(sg.hub.load("default").encoder)
    False
    """
    return any(_is_quantized_layer(module) for module in model.modules())


def _is_quantized_layer(module: nn.Module) -> bool:
    return type(module).__module__.startswith("bitsandbytes.")  # without importing it


def _layers(model: nn.Module, kind: type) -> Iterator[tuple[nn.Module, str, Any]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, kind):
                yield parent, name, child


def _bitsandbytes() -> ModuleType:
    try:
        import bitsandbytes
    except ImportError as error:
        msg = "Quantization needs bitsandbytes. Install it with `pip install 'scgeneformer[quantize]'`."
        raise ImportError(msg) from error
    # It says so for every layer and batch; the docstring above says it once.
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    if _not_about_float16 not in logger.filters:
        logger.addFilter(_not_about_float16)
    return bitsandbytes


def _not_about_float16(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in str(record.msg)


def _check_device(bnb: ModuleType, make: Any, kind: str, place: torch.device) -> None:
    """Quantize and run a small layer, so that a machine that cannot do it says so before the model is touched."""
    try:
        small = make(bnb, nn.Linear(64, 64), place).eval()
        small(torch.zeros(1, 1, 64, device=place))
    except (RuntimeError, NotImplementedError, AssertionError, AttributeError, OSError) as error:
        msg = (
            f"bitsandbytes {bnb.__version__} cannot run {kind} layers on device {str(place)!r} of this machine: "
            f"{error} It needs a CUDA GPU, or a build for this processor. Leave out `quantize` to continue in float32."
        )
        raise RuntimeError(msg) from error


def _int8(bnb: ModuleType, layer: nn.Linear, place: torch.device) -> nn.Module:
    quantized = bnb.nn.Linear8bitLt(
        layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False, threshold=_OUTLIER
    )
    quantized.register_forward_pre_hook(_keep_scales_near)
    return _take_over(quantized, layer, place)


def _nf4(bnb: ModuleType, layer: nn.Linear, place: torch.device) -> nn.Module:
    quantized = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
    )
    # On a CPU a validation would pack the weights for inference, and training after it would find no gradients.
    quantized.support_avx512bf16_for_cpu = False
    quantized.register_load_state_dict_pre_hook(_load_scales)
    _take_over(quantized, layer, place)
    if layer.bias is not None:  # what its first call would do, in whatever mode that happens to run
        quantized.bias = nn.Parameter(quantized.bias.detach().bfloat16())
    return quantized


def _take_over(quantized: nn.Module, layer: nn.Linear, place: torch.device) -> nn.Module:
    quantized.load_state_dict(layer.state_dict())
    return quantized.to(place).train(layer.training)  # moving it quantizes it


def _keep_scales_near(module: Any, _: object) -> None:
    """Let the scales of int8 weights follow them to another device: bitsandbytes leaves them behind when a whole model moves."""
    if module.weight.CB is not None:
        module.init_8bit_state()
    if module.state.SCB.device != module.weight.device:
        module.state.CB, module.state.SCB = module.weight.data, module.state.SCB.to(module.weight.device)


def _load_scales(module: Any, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Take the scales of 4-bit weights from a state dict: bitsandbytes writes them there, but does not read them."""
    start = f"{prefix}weight."
    scales = {name.removeprefix(start): state_dict.pop(name) for name in list(state_dict) if name.startswith(start)}
    if scales:
        state = type(module.weight.quant_state).from_dict(scales, module.weight.device)
        module.weight.quant_state = module.quant_state = state


def _float_weight(layer: Any) -> Tensor:
    bnb = _bitsandbytes()
    weight = layer.weight
    if isinstance(layer, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    scales = weight.SCB if layer.state.SCB is None else layer.state.SCB  # the first call moves them to the state
    return bnb.functional.int8_vectorwise_dequant(weight.data, scales)
