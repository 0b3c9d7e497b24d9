"""Hugging Face folders to our modules and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scgeneformer._files import write_tensors
from scgeneformer.nn._backbone import Backbone
from scgeneformer.nn._decoder import EncoderDecoder
from scgeneformer.nn._encoder import Encoder
from scgeneformer.nn._heads import CellClassifier, GeneClassifier, MaskedGeneModel
from scgeneformer.nn._llama import Llama, NextGeneModel
from scgeneformer.nn._quantize import is_quantized
from scgeneformer.nn._weights import checked, read_weights, weight_names
from scgeneformer.nn.retention import CellFM

from ._folder import CONFIG, WEIGHTS, read_config, weights_file
from ._layouts import (
    HEAD,
    HF_CLASS,
    POOLING,
    WHAT,
    backbone_of,
    folded_head,
    is_standardised,
    kind_of,
    names_of,
    read_shape,
    root_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

_CLASSIFIERS = (CellClassifier, GeneClassifier)
_HEAD_WEIGHTS = "classifier.weight"


def read_state(model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Weights of `model` from a file with Hugging Face's names, under the model's own names and in its precision.

    Raises
    ------
    KeyError
        If weights are missing.
    ValueError
        If weights have another shape than the model's, occur twice, or are not finite floating-point numbers.

    Examples
    --------
    >>> folder = sg.hub.load("default").folder
    >>> state = sg.nn.read_state(sg.nn.load_encoder(folder), sg.nn.weights_file(folder))
    >>> state["embedding.gene.weight"].shape
    torch.Size([13156, 128])
    """
    return _state(model, read_weights(path), path)


def _state(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    root = root_of(model)
    twice = [name for name in weights if root + name in weights]
    if twice:
        msg = f"{path} has weights {twice[0]!r} and '{root}{twice[0]}', which are the same weights under two names. Keep those of one model."
        raise ValueError(msg)
    if (
        is_standardised(model) and "standardise.mean" not in weights
    ):  # as transformers saves it: without standardisation
        own = {f"standardise.{name}": weights[name] for name in weights if name.startswith("classifier.")}
        width = model.classifier.in_features
        weights = {**weights, **own, "standardise.mean": torch.zeros(width), "standardise.sd": torch.ones(width)}
    names, state = names_of(model), {}
    for ours, value in model.state_dict().items():
        theirs = names[ours]
        if (
            isinstance(model, Backbone) and theirs not in weights
        ):  # a checkpoint with a head keeps the encoder under "bert."
            theirs = root + theirs
        if theirs not in weights:
            others = f", but has {next(iter(weights))!r} and others: is it of another model?" if weights else "."
            msg = f"{path} has no weights {theirs!r}, which the class {type(model).__name__} needs{others}"
            raise KeyError(msg)
        if weights[theirs].shape != value.shape:
            found, expected = tuple(weights[theirs].shape), tuple(value.shape)
            msg = f"Weights {theirs!r} in {path} have shape {found}, but its {CONFIG} asks for {expected}."
            raise ValueError(msg)
        state[ours] = checked(weights[theirs], value.dtype, theirs, path)
    return state


def load_backbone(folder: str | Path) -> Encoder | Llama | CellFM:
    """Load the backbone of any checkpoint in Hugging Face's layout, with whatever head, in evaluation mode and float32.

    Examples
    --------
    >>> sg.nn.load_backbone(sg.hub.load("default").folder).kind
    'BERT encoder'
    """
    return _load(backbone_of(read_config(folder)), folder)


def load_encoder(folder: str | Path) -> Encoder:
    """Load the encoder of any BERT checkpoint, with whatever head, in evaluation mode and float32.

    Examples
    --------
    >>> encoder = sg.nn.load_encoder(sg.hub.load("default").folder)
    >>> encoder.config.width
    128
    """
    return _load(Encoder, folder)


def load_masked_gene_model(folder: str | Path) -> MaskedGeneModel:
    """Load encoder and masked-gene head of a ``BertForMaskedLM`` checkpoint.

    Examples
    --------
    >>> model = sg.nn.load_masked_gene_model(sg.hub.load("default").folder)
    >>> model.head.bias.shape
    torch.Size([13156])
    """
    return _load(MaskedGeneModel, folder)


def load_encoder_decoder(folder: str | Path) -> EncoderDecoder:
    """Load a BERT encoder together with the decoder that is stored beside it.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(100, 2, 8, n_heads=2, feed_forward=16, max_length=64, n_decoder_layers=1)
    >>> sg.nn.save_checkpoint("both", sg.nn.EncoderDecoder(config))
    >>> len(sg.nn.load_encoder_decoder("both").decoder)
    1
    """
    return _load(EncoderDecoder, folder)


def load_next_gene_model(folder: str | Path) -> NextGeneModel:
    """Load a LLaMA and its scores of the next gene, a ``LlamaForCausalLM`` checkpoint.

    Examples
    --------
    >>> config = sg.nn.LlamaConfig(100, 2, 8, n_heads=2, n_kv_heads=1, head_width=4, feed_forward=16, max_length=64)
    >>> sg.nn.save_checkpoint("llama", sg.nn.NextGeneModel(config))
    >>> sg.nn.load_next_gene_model("llama").head.weight.shape
    torch.Size([100, 8])
    """
    return _load(NextGeneModel, folder)


def load_cell_classifier(folder: str | Path) -> CellClassifier:
    """Load a ``BertForSequenceClassification`` checkpoint, or one of ours with another pooling or head.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(vocab_size=100, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=64)
    >>> sg.nn.save_checkpoint("cells", sg.nn.CellClassifier(config, n_outputs=3))
    >>> sg.nn.load_cell_classifier("cells").pooling
    'cls'
    """
    return _load(CellClassifier, folder, _n_classes(folder), *read_config(folder).get(POOLING, ()))


def load_gene_classifier(folder: str | Path) -> GeneClassifier:
    """Load a ``BertForTokenClassification`` checkpoint, with our head if it was saved with it.

    Examples
    --------
    >>> config = sg.nn.EncoderConfig(vocab_size=100, n_layers=2, width=8, n_heads=2, feed_forward=16, max_length=64)
    >>> sg.nn.save_checkpoint("genes", sg.nn.GeneClassifier(config, n_classes=2))
    >>> sg.nn.load_gene_classifier("genes").classifier.out_features
    2
    """
    return _load(GeneClassifier, folder, _n_classes(folder), read_config(folder).get(HEAD, "bert"))


def missing_head(folder: str | Path, names: Collection[str] | None = None) -> str | None:
    """What to say of a folder whose config names a classifier and whose weights, of these `names`, have no head; None of any other."""
    kind = kind_of(read_config(folder), ())
    if kind not in _CLASSIFIERS:
        return None
    if _HEAD_WEIGHTS in (weight_names(weights_file(folder)) if names is None else names):
        return None
    return (
        f"{folder} has no trained head: its {CONFIG} names a {HF_CLASS[kind]}, but {weights_file(folder).name} has no {_HEAD_WEIGHTS!r}. "
        f"Its encoder can be used as it is; train a head with `sg.model.{kind.__name__}(adata, {str(folder)!r})`."
    )


def _n_classes(folder: str | Path) -> int:
    """Number of classes of a classifier; Hugging Face leaves it out of ``config.json`` when it is two."""
    config = read_config(folder)
    n_classes, labels = config.get("num_labels"), config.get("id2label", (0, 1))
    if not isinstance(n_classes, int | None) or not isinstance(labels, dict | list | tuple):
        msg = f"{Path(folder) / CONFIG} does not say how many classes there are: num_labels={n_classes!r}, id2label={labels!r}."
        raise ValueError(msg)
    return n_classes or len(labels)


def _load(cls: type, folder: str | Path, *args: int | str) -> Any:
    """Load a model of the class `cls`; a backbone comes from any that has it.

    Raises
    ------
    TypeError
        If the folder holds a model of another class.
    """
    settings, path = read_config(folder), weights_file(folder)
    try:
        config = read_shape(settings)
    except (TypeError, ValueError) as error:
        msg = f"{Path(folder) / CONFIG} does not describe a model that can be built. {error}"
        raise ValueError(msg) from None
    weights = read_weights(path)
    kind = kind_of(settings, weights)
    if cls not in (backbone_of(settings), kind):
        (what, function), (wanted, _) = WHAT[kind], WHAT[cls]
        msg = f"{folder} holds {what} ({HF_CLASS[kind]}), not {wanted}. Load it with `{function}({str(folder)!r})`."
        if cls in _CLASSIFIERS and kind not in _CLASSIFIERS:
            msg += f" Or train one from it with `sg.model.{cls.__name__}(adata, {str(folder)!r})`."
        raise TypeError(msg)
    if cls in _CLASSIFIERS and (untrained := missing_head(folder, weights)) is not None:
        raise ValueError(untrained)
    with torch.device("meta"):  # nothing is drawn only to be overwritten
        model = cls(config, *args)
    model.load_state_dict(_state(model, weights, path), assign=True)
    return model.eval()


def save_checkpoint(
    folder: str | Path,
    model: Encoder
    | MaskedGeneModel
    | EncoderDecoder
    | CellClassifier
    | GeneClassifier
    | Llama
    | NextGeneModel
    | CellFM,
    *,
    dtype: torch.dtype | None = None,
    labels: list[str] | None = None,
) -> None:
    """Write `model` to `folder` as ``config.json`` and ``model.safetensors``, which `transformers` loads unless it is a CellFM.

    Parameters
    ----------
    folder
        Made if missing.
    model
        The module; its class decides the Hugging Face class that is named in ``config.json``.
    dtype
        Precision on disk; None keeps the model's. Loading always gives float32.
    labels
        Names of a classifier's classes, in the order of its outputs.

    Examples
    --------
    >>> encoder = sg.hub.load("default").encoder
    >>> sg.nn.save_checkpoint("copy", encoder, dtype=torch.float16)
    >>> sg.nn.load_encoder("copy").config == encoder.config
    True
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = model if isinstance(model, Backbone | EncoderDecoder) else model.encoder
    if is_quantized(model) or hasattr(getattr(model, "encoder", model), "peft_config"):
        msg = "The model has adapters or quantized layers. Call `merge_lora` or `dequantize` on a copy of it first."
        raise ValueError(msg)
    config = shape.config.to_hf() | {"architectures": [HF_CLASS[type(model)]]}
    # others read it as a backbone with further weights if its pooling or head is not BERT's, or its backbone is another
    is_bert = not isinstance(shape, Llama | CellFM)
    bare = {"architectures": [HF_CLASS[Encoder if is_bert else type(shape)]]}
    if isinstance(model, CellClassifier) and not (is_bert and (model.pooling, model.head) == ("cls", "bert")):
        config |= bare | {POOLING: [model.pooling, model.n_special, model.head]}
    if isinstance(model, GeneClassifier) and not (is_bert and not is_standardised(model)):
        config |= ({} if is_bert else bare) | {HEAD: model.head}
    if isinstance(model, CellClassifier | GeneClassifier):
        n_classes = model.classifier.out_features
        labels = labels or [f"LABEL_{i}" for i in range(n_classes)]
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    names = names_of(model)
    state = {names[k]: v for k, v in model.state_dict().items()} | folded_head(model)
    write_tensors(folder / WEIGHTS, {name: values.to(dtype or values.dtype) for name, values in state.items()})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
