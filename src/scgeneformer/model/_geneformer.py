"""Geneformer as an scvi-tools model."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from scgeneformer import hub, nn

from ._base import TransformerModel
from ._presets import preset_named
from ._pretraining import PretrainingMixin
from .objectives._masked import EncoderDecoderModule, GeneformerModule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary


class Geneformer(PretrainingMixin, TransformerModel):
    """Transformer over ranked genes, pretrained by guessing hidden genes (Theodoris 2023, Chen 2024).

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`. None for a model that gets
        its data later.
    vocabulary
        What the tokens mean. None takes the published vocabulary that the tokens of `adata` were made with. It is saved with the
        model.
    n_layers, width, n_heads, feed_forward
        Number of blocks, size of hidden states, attention heads, inner size of the feed-forward part.
    max_length
        Number of positions; None takes the vocabulary's.
    dropout, attention_dropout
        Of hidden states and attention weights in training. CPUs have a fast attention kernel only without `attention_dropout`.
    activation, layer_norm_eps, initializer_range
        As in :class:`scgeneformer.nn.EncoderConfig`.
    pooling, emb_layer
        What stands for a cell unless asked otherwise: ``"mean"`` of its genes or ``"cls"`` (None: cls where the vocabulary has it), and in
        which layer (None: -1, the second to last). Exported with the model.
    positions
        ``"learned"``, or ``"sinusoidal"`` for the fixed table of Vaswani et al. 2017.
    n_decoder_layers
        Above 0, the encoder-decoder variant: the encoder reads the cell with hidden genes, this many decoder blocks write the whole cell,
        each gene from those ranked above it and from the encoder's states (:class:`scgeneformer.nn.EncoderDecoder`). Embeddings and
        perturbations read the encoder.
    registry
        For scvi-tools' ``load``.

    Notes
    -----
    Without a decoder the loss is per hidden gene. With one it is per token of the cells, hidden or not, which the decoder is given one
    after the other; ``train_accuracy`` and ``validation_accuracy`` are shares of the hidden genes in both (means over batches, weighted
    with what the loss is over). The two losses cannot be compared.

    Examples
    --------
    >>> sg.pp.tokenize(adata, vocabulary)
    >>> sg.model.Geneformer.setup_anndata(adata)
    >>> model = sg.model.Geneformer(adata, vocabulary=vocabulary)
    >>> model.train(max_epochs=10)
    >>> adata.obsm["X_geneformer"] = model.get_latent_representation()
    """

    _module_cls = GeneformerModule

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        *,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        n_layers: int = 4,
        width: int = 128,
        n_heads: int = 4,
        feed_forward: int = 256,
        max_length: int | None = None,
        dropout: float = 0.02,
        attention_dropout: float = 0.0,
        activation: str = "relu",
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        pooling: Literal["mean", "cls"] | None = None,
        emb_layer: int | None = None,
        positions: Literal["learned", "sinusoidal"] = "learned",
        n_decoder_layers: int = 0,
        registry: dict[str, Any] | None = None,
    ) -> None:
        vocabulary = self._begin(adata, registry, vocabulary)  # what is saved with the model, instead of the object
        config = nn.EncoderConfig(
            vocab_size=len(self._vocabulary),
            n_layers=n_layers,
            width=width,
            n_heads=n_heads,
            feed_forward=feed_forward,
            max_length=max_length or self._vocabulary.max_length,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation=activation,
            layer_norm_eps=layer_norm_eps,
            initializer_range=initializer_range,
            pad_id=self._vocabulary.pad_id,
            pooling=pooling,
            emb_layer=emb_layer,
            positions=positions,
            n_decoder_layers=n_decoder_layers,
        )
        self.module = EncoderDecoderModule(config) if n_decoder_layers else self._module_cls(config)
        layers = f"{n_layers} + {n_decoder_layers}" if n_decoder_layers else n_layers
        self._model_summary_string = (
            f"Geneformer: {layers} layers, width {width}, {n_heads} heads, feed-forward {feed_forward}, "
            f"{config.max_length} positions, {self._vocabulary!r}"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def from_pretrained(cls, model: Any, adata: AnnData | MuData | None = None) -> Geneformer:
        """Start from a pretrained model, with its masked-gene head or its decoder, to train it further.

        Parameters
        ----------
        model
            Name in :func:`scgeneformer.hub.available`, folder in the Hugging Face layout, or anything that :func:`scgeneformer.hub.load` takes.
        adata
            Data tokenized with that model's vocabulary and registered; None for none yet.

        Raises
        ------
        TypeError
            If the model has neither.
        ValueError
            If the tokens are of another vocabulary.
        """
        pretrained = hub.load(model)
        network = _pretraining_network(pretrained)
        sizes = asdict(network.config if isinstance(network, nn.EncoderDecoder) else network.encoder.config)
        for derived in ("vocab_size", "pad_id", "n_segments"):
            sizes.pop(derived)
        started = cls(adata, vocabulary=pretrained.vocabulary, **sizes)
        started.module.network.load_state_dict(network.state_dict())
        started.module.eval()
        return started

    @classmethod
    def from_preset(
        cls,
        name: str,
        adata: AnnData | MuData | None = None,
        *,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Geneformer:
        """Start with new weights at a published size; :func:`scgeneformer.model.recipe` has the training that goes with it.

        Parameters
        ----------
        name
            Name in :func:`scgeneformer.model.presets`.
        adata
            Tokenized and registered data; None for none yet.
        vocabulary
            What the tokens mean. None takes the published vocabulary that the tokens of `adata` were made with; without `adata`, the
            one of the preset.
        **overrides
            Arguments of :class:`Geneformer` that shall differ, such as ``n_layers=4``.

        Raises
        ------
        ValueError
            If there is no such preset, or the tokens are of another vocabulary.

        Examples
        --------
        >>> model = sg.model.Geneformer.from_preset("V1-10M", adata)
        >>> model.train(**sg.model.recipe("V1-10M"))
        """
        preset = preset_named(name)
        if adata is None and vocabulary is None and preset.generation is not None:
            vocabulary = hub.vocabulary(preset.generation)
        return cls(adata, vocabulary=vocabulary, **preset.shape | overrides)

    def export(self, folder: str | Path, *, dtype: Literal["float32", "float16", "bfloat16"] = "float32") -> None:
        """Write a folder that :func:`scgeneformer.hub.load` and Hugging Face's ``BertForMaskedLM`` load.

        Of an encoder-decoder they load the encoder (``BertModel``); the decoder lies beside it for :meth:`from_pretrained`.

        Parameters
        ----------
        folder
            Made if missing: ``config.json``, ``model.safetensors``, ``vocabulary.json.gz``.
        dtype
            Precision of the weights in the file.
        """
        self._export(folder, self.module.network, dtype)


def _pretraining_network(pretrained: hub.Pretrained) -> nn.MaskedGeneModel | nn.EncoderDecoder:
    """A fresh copy of what was pretrained: the encoder with its decoder, if there is one, else with its masked-gene head."""
    if isinstance(pretrained.model, nn.EncoderDecoder):
        return copy.deepcopy(pretrained.model)
    if pretrained.folder is not None and nn.read_config(pretrained.folder).get("n_decoder_layers"):
        return nn.load_encoder_decoder(pretrained.folder)
    return pretrained.masked_gene_model()
