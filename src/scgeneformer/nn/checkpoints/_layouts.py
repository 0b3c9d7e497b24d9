"""Where each weight lies in a Hugging Face folder: our names and theirs, for every model that is read or written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from scgeneformer.nn._backbone import Backbone
from scgeneformer.nn._config import EncoderConfig
from scgeneformer.nn._decoder import EncoderDecoder
from scgeneformer.nn._encoder import Encoder
from scgeneformer.nn._heads import CellClassifier, GeneClassifier, MaskedGeneModel
from scgeneformer.nn._llama import Llama, NextGeneModel
from scgeneformer.nn._llama_config import LlamaConfig
from scgeneformer.nn.retention import CellFM, CellFMConfig

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import TypeGuard

    from torch import Tensor, nn

POOLING = "classifier_pooling"  # pooling of a cell classifier, below which id tokens are no genes, and its head, if not BERT's
HEAD = "gene_classifier_head"  # that of a gene classifier, if not BERT's

_LAYER = re.compile(r"((?:encoder\.)?blocks\.)(\d+)")  # of the backbone, in names of ours

# Ours -> Hugging Face's, by the longest matching prefix; "{}" stands for the number of a layer.
BERT = {
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
_LLAMA = {
    "encoder.embedding.": "model.embed_tokens.",
    "encoder.blocks.{}.attention_norm.gain": "model.layers.{}.input_layernorm.weight",
    "encoder.blocks.{}.attention.query.": "model.layers.{}.self_attn.q_proj.",
    "encoder.blocks.{}.attention.key.": "model.layers.{}.self_attn.k_proj.",
    "encoder.blocks.{}.attention.value.": "model.layers.{}.self_attn.v_proj.",
    "encoder.blocks.{}.attention.out.": "model.layers.{}.self_attn.o_proj.",
    "encoder.blocks.{}.feed_forward_norm.gain": "model.layers.{}.post_attention_layernorm.weight",
    "encoder.blocks.{}.feed_forward.gate.": "model.layers.{}.mlp.gate_proj.",
    "encoder.blocks.{}.feed_forward.up.": "model.layers.{}.mlp.up_proj.",
    "encoder.blocks.{}.feed_forward.down.": "model.layers.{}.mlp.down_proj.",
    "encoder.norm.gain": "model.norm.weight",
}
# Names of weights, and what is before theirs where there is a head.
_BACKBONES: dict[type, tuple[dict[str, str], str]] = {
    Encoder: (BERT, "bert."),
    Llama: (_LLAMA, "model."),
    CellFM: ({"encoder.": "cellfm."}, "cellfm."),
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
    NextGeneModel: {"head.": "lm_head."},
}
_STANDARDISED = {
    "classifier.": "standardise.classifier."
}  # of genes, beside the layer for states as they are that BERT reads
HF_CLASS = {
    Encoder: "BertModel",
    MaskedGeneModel: "BertForMaskedLM",
    EncoderDecoder: "BertModel",
    CellClassifier: "BertForSequenceClassification",
    GeneClassifier: "BertForTokenClassification",
    Llama: "LlamaModel",
    NextGeneModel: "LlamaForCausalLM",
    CellFM: "CellFM",
}
WHAT = {  # what a folder holds, and what loads it
    Encoder: ("an encoder without a head", "sg.hub.load"),
    MaskedGeneModel: ("a model with a masked-gene head", "sg.model.Geneformer.from_pretrained"),
    EncoderDecoder: ("an encoder with a decoder", "sg.model.Geneformer.from_pretrained"),
    CellClassifier: ("a classifier of cells", "sg.model.CellClassifier.from_pretrained"),
    GeneClassifier: ("a classifier of genes", "sg.model.GeneClassifier.from_pretrained"),
    Llama: ("a decoder without scores of genes", "sg.hub.load"),
    NextGeneModel: ("a decoder with scores of the next gene", "sg.hub.load"),
    CellFM: ("a CellFM encoder", "sg.hub.load"),
}
_MODEL_TYPES: dict[object, tuple[type, Any]] = {"llama": (Llama, LlamaConfig), "cellfm": (CellFM, CellFMConfig)}


def backbone_of(config: Mapping[str, Any]) -> type[Encoder | Llama | CellFM]:
    """The class of the backbone that a ``config.json`` describes; BERT's, which refuses other types, by default."""
    return _classes_of(config)[0]


def _classes_of(config: Mapping[str, Any]) -> tuple[type, Any]:
    model_type = config.get("model_type")
    return _MODEL_TYPES.get(model_type if isinstance(model_type, str) else None, (Encoder, EncoderConfig))


def root_of(model: nn.Module) -> str:
    """What Hugging Face has before the names of the backbone's weights where the model has a head."""
    return _BACKBONES[type(getattr(model, "encoder", model))][1]


def read_shape(config: dict[str, Any]) -> EncoderConfig | LlamaConfig | CellFMConfig:
    """The shape of the backbone that a ``config.json`` describes."""
    return _classes_of(config)[1].from_hf(config)


def head_prefixes(model: nn.Module) -> dict[str, str]:
    """Prefixes of the names of weights outside the encoder, ours -> Hugging Face's."""
    return _HEADS.get(type(model), {}) | (_STANDARDISED if is_standardised(model) else {})


def folded_head(model: nn.Module) -> dict[str, Tensor]:
    """The layer that reads states as they are and gives the scores of a linear head for genes, by BERT's names; nothing for other models."""
    if not is_standardised(model):
        return {}
    mean, sd, weight, bias = (
        value.detach().cpu().double()
        for value in (model.standardise.mean, model.standardise.sd, model.classifier.weight, model.classifier.bias)
    )
    values = {"classifier.weight": weight / sd, "classifier.bias": bias - (weight / sd) @ mean}
    return {name: value.to(model.classifier.weight.dtype) for name, value in values.items()}


def is_standardised(model: nn.Module) -> TypeGuard[GeneClassifier]:
    return isinstance(model, GeneClassifier) and model.head == "linear"


def names_of(model: nn.Module) -> dict[str, str]:
    """Each parameter name of `model` with its Hugging Face name."""
    backbone, root = _BACKBONES[type(getattr(model, "encoder", model))]
    prefixes = backbone | head_prefixes(model)
    bare = isinstance(model, Backbone)  # its names lack "encoder.", and BertModel's lack "bert."
    table = {}
    for name in model.state_dict():
        theirs = renamed(f"encoder.{name}" if bare else name, prefixes)
        table[name] = theirs.removeprefix(root) if bare else theirs
    return table


def renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """Their name of a weight of ours, by the longest of `prefixes` that matches; "{}" stands for the number of a layer."""
    layer = _LAYER.match(name)
    pattern = name if layer is None else f"{layer[1]}{{}}{name[layer.end(2) :]}"
    ours = max((prefix for prefix in prefixes if pattern.startswith(prefix)), key=len)
    theirs = prefixes[ours] + pattern.removeprefix(ours)
    return theirs if layer is None else theirs.replace("{}", layer[2])


def kind_of(config: Mapping[str, Any], names: Collection[str]) -> type:
    """The class of model that a folder holds: as its config says, else as the `names` of its weights show."""
    if POOLING in config:
        return CellClassifier
    if (backbone := backbone_of(config)) is not Encoder:
        return GeneClassifier if HEAD in config else NextGeneModel if "lm_head.weight" in names else backbone
    if config.get("n_decoder_layers"):
        return EncoderDecoder
    for cls, name in HF_CLASS.items():
        if cls not in (Llama, NextGeneModel, CellFM) and name in (config.get("architectures") or ()):
            return cls
    if any(name.startswith("cls.predictions.") for name in names):
        return MaskedGeneModel
    if "classifier.weight" in names:  # BERT pools before it classifies cells, and not before it classifies tokens
        return CellClassifier if "bert.pooler.dense.weight" in names else GeneClassifier
    return Encoder
