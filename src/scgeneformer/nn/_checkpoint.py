"""Hugging Face BERT folders (``config.json`` and ``model.safetensors``) to our modules and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ._config import EncoderConfig
from ._decoder import EncoderDecoder
from ._encoder import Encoder
from ._heads import CellClassifier, GeneClassifier, MaskedGeneModel
from ._quantize import is_quantized
from ._weights import checked, read_weights

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import TypeGuard

    from torch import Tensor, nn

POOLING = "classifier_pooling"  # pooling of a cell classifier, below which id tokens are no genes, and its head, if not BERT's
HEAD = "gene_classifier_head"  # that of a gene classifier, if not BERT's
CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"

# Ours -> Hugging Face's, by the longest matching prefix; "{}" stands for the number of a layer.
_ENCODER = {
    "encoder.embedding.gene.": "bert.embeddings.word_embeddings.",
    "encoder.embedding.position.": "bert.embeddings.position_embeddings.",
    "encoder.embedding.segment.": "bert.embeddings.token_type_embeddings.",
    "encoder.embedding.norm.": "bert.embeddings.LayerNorm.",
    "encoder.blocks.{}.attention.query.": "bert.encoder.layer.{}.attention.self.query.",
    "encoder.blocks.{}.attention.key.": "bert.encoder.layer.{}.attention.self.key.",
    "encoder.blocks.{}.attention.value.": "bert.encoder.layer.{}.attention.self.value.",
    "encoder.blocks.{}.attention.out.": "bert.encoder.layer.{}.attention.output.dense.",
    "encoder.blocks.{}.attention_norm.": "bert.encoder.layer.{}.attention.output.LayerNorm.",
    "encoder.blocks.{}.feed_forward.up.": "bert.encoder.layer.{}.intermediate.dense.",
    "encoder.blocks.{}.feed_forward.down.": "bert.encoder.layer.{}.output.dense.",
    "encoder.blocks.{}.feed_forward_norm.": "bert.encoder.layer.{}.output.LayerNorm.",
}
_HEADS = {
    MaskedGeneModel: {
        "head.transform.": "cls.predictions.transform.dense.",
        "head.norm.": "cls.predictions.transform.LayerNorm.",
        "head.bias": "cls.predictions.bias",
    },
    EncoderDecoder: {"decoder.": "decoder.", "bias": "decoder.bias"},  # names of ours, which BERT passes over
    # attention pooling and standardised states are ours, and passed over by BERT
    CellClassifier: {
        "pooler.": "bert.pooler.dense.",
        "classifier.": "classifier.",
        "attention.": "attention.",
        "standardise.": "standardise.",
    },
    GeneClassifier: {"classifier.": "classifier.", "standardise.": "standardise."},
}
_STANDARDISED = {
    "classifier.": "standardise.classifier."
}  # of genes, beside the layer for states as they are that BERT reads
_HF_CLASS = {
    Encoder: "BertModel",
    MaskedGeneModel: "BertForMaskedLM",
    EncoderDecoder: "BertModel",
    CellClassifier: "BertForSequenceClassification",
    GeneClassifier: "BertForTokenClassification",
}
_WHAT = {  # what a folder holds, and what loads it
    Encoder: ("an encoder without a head", "sg.hub.load"),
    MaskedGeneModel: ("a model with a masked-gene head", "sg.model.Geneformer.from_pretrained"),
    EncoderDecoder: ("an encoder with a decoder", "sg.model.Geneformer.from_pretrained"),
    CellClassifier: ("a classifier of cells", "sg.model.CellClassifier.from_pretrained"),
    GeneClassifier: ("a classifier of genes", "sg.model.GeneClassifier.from_pretrained"),
}


def head_prefixes(model: nn.Module) -> dict[str, str]:
    """Prefixes of the names of weights outside the encoder, ours -> Hugging Face's."""
    return _HEADS.get(type(model), {}) | (_STANDARDISED if _is_standardised(model) else {})


def folded_head(model: nn.Module) -> dict[str, Tensor]:
    """The layer that reads states as they are and gives the scores of a linear head for genes, by BERT's names; nothing for other models."""
    if not _is_standardised(model):
        return {}
    mean, sd, weight, bias = (
        value.detach().cpu().double()
        for value in (model.standardise.mean, model.standardise.sd, model.classifier.weight, model.classifier.bias)
    )
    values = {"classifier.weight": weight / sd, "classifier.bias": bias - (weight / sd) @ mean}
    return {name: value.to(model.classifier.weight.dtype) for name, value in values.items()}


def _is_standardised(model: nn.Module) -> TypeGuard[GeneClassifier]:
    return isinstance(model, GeneClassifier) and model.head == "linear"


def _names(model: nn.Module) -> dict[str, str]:
    """Each parameter name of `model` with its Hugging Face name."""
    prefixes = _ENCODER | head_prefixes(model)
    bare = isinstance(model, Encoder)  # its names lack "encoder.", and BertModel's lack "bert."
    table = {}
    for name in model.state_dict():
        full = f"encoder.{name}" if bare else name
        layer = full.split(".")[2] if full.startswith("encoder.blocks.") else ""
        pattern = full.replace(f".{layer}.", ".{}.", 1) if layer else full
        ours = max((p for p in prefixes if pattern.startswith(p)), key=len)
        theirs = (prefixes[ours] + pattern.removeprefix(ours)).replace("{}", layer)
        table[name] = theirs.removeprefix("bert.") if bare else theirs
    return table


def read_config(folder: str | Path) -> dict[str, Any]:
    """Content of the ``config.json`` in `folder`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not JSON.

    Examples
    --------
    >>> sg.nn.read_config(sg.hub.load("default").folder)["hidden_size"]
    128
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        msg = f"No {CONFIG} in {folder}. Expected a folder in the Hugging Face layout: {CONFIG} and {WEIGHTS}."
        raise FileNotFoundError(msg)
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError
        return config
    except (ValueError, RecursionError):
        msg = f"{path} is not JSON, or is damaged. Fetch it again from its source."
        raise ValueError(msg) from None


def add_to_config(folder: str | Path, values: dict[str, Any]) -> None:
    """Add keys to the ``config.json`` in `folder`; transformers keeps those that it does not know.

    Examples
    --------
    >>> sg.nn.save_checkpoint("copy", sg.hub.load("default").encoder)
    >>> sg.nn.add_to_config("copy", {"pooling": "cls"})
    >>> sg.nn.load_encoder("copy").config.pooling
    'cls'
    """
    config = read_config(folder) | values
    (Path(folder) / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def weights_file(folder: str | Path) -> Path:
    """The file with the weights in `folder`: safetensors, or the older ``pytorch_model.bin``.

    Examples
    --------
    >>> sg.nn.weights_file(sg.hub.load("default").folder).name
    'model.safetensors'
    """
    for name in (WEIGHTS, OLD_WEIGHTS):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    msg = f"No {WEIGHTS} (nor {OLD_WEIGHTS}) in {folder}."
    raise FileNotFoundError(msg)


def read_state(model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Weights of `model` from a file with Hugging Face's names, under the model's own names and in its precision.

    Raises
    ------
    KeyError
        If weights are missing.
    ValueError
        If weights have another shape than the model's, are there twice, or are not finite floating-point numbers.

    Examples
    --------
    >>> folder = sg.hub.load("default").folder
    >>> state = sg.nn.read_state(sg.nn.load_encoder(folder), sg.nn.weights_file(folder))
    >>> state["embedding.gene.weight"].shape
    torch.Size([13156, 128])
    """
    return _state(model, read_weights(path), path)


def _state(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    twice = [name for name in weights if f"bert.{name}" in weights]
    if twice:
        msg = f"{path} has weights {twice[0]!r} and 'bert.{twice[0]}', which are the same ones by two names. Keep those of one model."
        raise ValueError(msg)
    if (
        _is_standardised(model) and "standardise.mean" not in weights
    ):  # as transformers saves it: without standardisation
        own = {f"standardise.{name}": weights[name] for name in weights if name.startswith("classifier.")}
        width = model.classifier.in_features
        weights = {**weights, **own, "standardise.mean": torch.zeros(width), "standardise.sd": torch.ones(width)}
    names, state = _names(model), {}
    for ours, value in model.state_dict().items():
        theirs = names[ours]
        if (
            isinstance(model, Encoder) and theirs not in weights
        ):  # a checkpoint with a head keeps the encoder under "bert."
            theirs = f"bert.{theirs}"
        if theirs not in weights:
            msg = f"{path} has no weights {theirs!r}, which a {type(model).__name__} needs."
            raise KeyError(msg)
        if weights[theirs].shape != value.shape:
            found, expected = tuple(weights[theirs].shape), tuple(value.shape)
            msg = f"Weights {theirs!r} in {path} have shape {found}, but its {CONFIG} asks for {expected}."
            raise ValueError(msg)
        state[ours] = checked(weights[theirs], value.dtype, theirs, path)
    return state


def _kind(config: Mapping[str, Any], names: Collection[str]) -> type:
    """The class of model that a folder holds: as its config says, else as the `names` of its weights show."""
    if POOLING in config:
        return CellClassifier
    if config.get("n_decoder_layers"):
        return EncoderDecoder
    for cls, name in _HF_CLASS.items():
        if name in (config.get("architectures") or ()):
            return cls
    if any(name.startswith("cls.predictions.") for name in names):
        return MaskedGeneModel
    if "classifier.weight" in names:  # BERT pools before it classifies cells, and not before it classifies tokens
        return CellClassifier if "bert.pooler.dense.weight" in names else GeneClassifier
    return Encoder


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


def _n_classes(folder: str | Path) -> int:
    """Number of classes of a classifier; Hugging Face leaves it out of ``config.json`` when it is two."""
    config = read_config(folder)
    n_classes, labels = config.get("num_labels"), config.get("id2label", (0, 1))
    if not isinstance(n_classes, int | None) or not isinstance(labels, dict | list | tuple):
        msg = f"{Path(folder) / CONFIG} does not say how many classes there are: num_labels={n_classes!r}, id2label={labels!r}."
        raise ValueError(msg)
    return n_classes or len(labels)


def _load(cls: type, folder: str | Path, *args: int | str) -> Any:
    """Load a model of the class `cls`; an encoder comes from any.

    Raises
    ------
    TypeError
        If the folder holds a model of another class.
    """
    settings, path = read_config(folder), weights_file(folder)
    try:
        config = EncoderConfig.from_hf(settings)
    except (TypeError, ValueError) as error:
        msg = f"{Path(folder) / CONFIG} does not describe a model that can be made. {error}"
        raise ValueError(msg) from None
    weights = read_weights(path)
    kind = _kind(settings, weights)
    if cls not in (Encoder, kind):
        (what, function), (wanted, _) = _WHAT[kind], _WHAT[cls]
        msg = f"{folder} holds {what} ({_HF_CLASS[kind]}), not {wanted}. Load it with `{function}({str(folder)!r})`."
        raise TypeError(msg)
    with torch.device("meta"):  # nothing is drawn only to be overwritten
        model = cls(config, *args)
    model.load_state_dict(_state(model, weights, path), assign=True)
    return model.eval()


def save_checkpoint(
    folder: str | Path,
    model: Encoder | MaskedGeneModel | EncoderDecoder | CellClassifier | GeneClassifier,
    *,
    dtype: torch.dtype | None = None,
    labels: list[str] | None = None,
) -> None:
    """Write `model` to `folder` as ``config.json`` and ``model.safetensors``, which `transformers` loads.

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
    shape = model if isinstance(model, Encoder | EncoderDecoder) else model.encoder
    if is_quantized(model) or hasattr(getattr(model, "encoder", model), "peft_config"):
        msg = "The model has adapters or quantized layers. Call `merge_lora` or `dequantize` on a copy of it first."
        raise ValueError(msg)
    config = shape.config.to_hf() | {"architectures": [_HF_CLASS[type(model)]]}
    # with another pooling or head than BERT's it is, to others, an encoder and some more weights
    if isinstance(model, CellClassifier) and (model.pooling, model.head) != ("cls", "bert"):
        config |= {"architectures": ["BertModel"], POOLING: [model.pooling, model.n_special, model.head]}
    if _is_standardised(model):
        config |= {HEAD: model.head}
    if isinstance(model, CellClassifier | GeneClassifier):
        n_classes = model.classifier.out_features
        labels = labels or [f"LABEL_{i}" for i in range(n_classes)]
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    names = _names(model)
    state = {names[k]: v for k, v in model.state_dict().items()} | folded_head(model)
    state = {name: v.detach().to("cpu", dtype or v.dtype).contiguous() for name, v in state.items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
