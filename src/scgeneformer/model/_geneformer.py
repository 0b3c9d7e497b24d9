"""Geneformer as an scvi-tools model."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from scgeneformer import hub, nn
from scgeneformer._arguments import checked

from ._presets import preset_named
from ._unlabelled_cells import UnlabelledCells
from .corpus._corpus import Corpus
from .data._masking import Masking
from .data._rows import TokenRows
from .data._splits import draw_cells
from .objectives._masked import EncoderDecoderModule, GeneformerModule, MaskedGenes
from .training._options import train_options
from .training._train import loader_options, run_training

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Unpack

    from anndata import AnnData
    from lightning.pytorch import LightningDataModule
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

    from .training._options import TrainOptions

_EPOCHS = 3  # of the published models


class Geneformer(UnlabelledCells):
    """Transformer over ranked genes, pretrained to predict masked genes (Theodoris 2023, Chen 2024).

    Parameters
    ----------
    adata
        Tokenized AnnData or MuData, registered by :meth:`setup_anndata` or :meth:`setup_mudata`. None for a model that gets
        data later.
    vocabulary
        Gene vocabulary of the tokens, saved with the model. Defaults to the published vocabulary that the tokens of `adata` were made
        with.
    n_layers, width, n_heads, feed_forward
        Number of blocks, size of hidden states, number of attention heads, inner size of the feed-forward layers.
    max_length
        Number of positions. Defaults to that of the vocabulary.
    dropout, attention_dropout
        Dropout of hidden states and of attention weights in training. Attention is fast on CPUs only without `attention_dropout`.
    activation, layer_norm_eps, initializer_range
        As in :class:`scgeneformer.nn.EncoderConfig`.
    pooling, emb_layer
        Default embedding of a cell: the ``"mean"`` of its genes or ``"cls"`` (the default if the vocabulary has that
        token), and the layer (-1, the second to last, by default). Exported with the model.
    positions
        ``"learned"``, or ``"sinusoidal"`` for the fixed table of Vaswani et al. 2017.
    n_decoder_layers
        Number of decoder blocks. Above 0, the model is an encoder-decoder: the encoder reads the cell with masked genes, and the decoder predicts the
        whole cell, each gene from those ranked above it and from the states of the encoder (:class:`scgeneformer.nn.EncoderDecoder`). Embeddings and
        perturbations use the encoder.
    registry
        For :meth:`load`.

    Notes
    -----
    Without a decoder, the loss is a mean over masked genes. With a decoder, it is a mean over all tokens, masked or not, which the decoder
    predicts one after the other; the two losses cannot be compared. ``train_accuracy`` and ``validation_accuracy`` are fractions of the
    masked genes in both cases (means over batches, with the weights of the loss).

    Examples
    --------
    A small model with new weights:

    >>> sg.pp.tokenize(adata, "default")
    >>> sg.model.Geneformer.setup_anndata(adata)
    >>> model = sg.model.Geneformer(adata, n_layers=2, width=32, n_heads=2, feed_forward=64)
    >>> model.train(max_epochs=2)
    >>> adata.obsm["X_geneformer"] = model.get_latent_representation()
    >>> adata.obsm["X_geneformer"].shape
    (32, 32)
    """

    _module_cls = GeneformerModule

    @checked
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
        vocabulary = self._init_data(adata, registry, vocabulary)  # the plain values that are saved with the model
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
    @checked
    def from_pretrained(cls, model: Any, adata: AnnData | MuData | None = None) -> Geneformer:
        """Start from a pretrained model, with its masked-gene head or its decoder, for further training.

        Parameters
        ----------
        model
            Name in :func:`scgeneformer.hub.available`, folder in the Hugging Face layout, or anything else that :func:`scgeneformer.hub.load`
            accepts.
        adata
            Registered data, tokenized with the vocabulary of that model. Defaults to none.

        Raises
        ------
        TypeError
            If the model has neither a masked-gene head nor a decoder.
        ValueError
            If the tokens are of another vocabulary.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.Geneformer.setup_anndata(adata)
        >>> model = sg.model.Geneformer.from_pretrained("default", adata)
        >>> model.train(max_epochs=1, learning_rate=1e-4)
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
    @checked
    def from_preset(
        cls,
        name: str,
        adata: AnnData | MuData | None = None,
        *,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Geneformer:
        """Start with random weights at a published size. For the training options of that model see :func:`scgeneformer.model.recipe`.

        Parameters
        ----------
        name
            Name in :func:`scgeneformer.model.presets`.
        adata
            Tokenized and registered data. Defaults to none.
        vocabulary
            Gene vocabulary of the tokens. Defaults to the published vocabulary that the tokens of `adata` were made with; without
            `adata`, to that of the preset.
        **overrides
            Arguments of :class:`Geneformer` that differ from the preset, such as ``n_layers=4``.

        Raises
        ------
        ValueError
            If there is no such preset, or the tokens are of another vocabulary.

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.Geneformer.setup_anndata(adata)
        >>> model = sg.model.Geneformer.from_preset("V1-10M", adata, n_layers=2)
        >>> model.train(**sg.model.recipe("V1-10M") | {"max_epochs": 1})
        """
        preset = preset_named(name)
        if adata is None and vocabulary is None and preset.generation is not None:
            vocabulary = hub.vocabulary(preset.generation)
        return cls(adata, vocabulary=vocabulary, **preset.shape | overrides)

    @train_options()
    def train(
        self,
        max_epochs: int | None = None,
        *,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        masking: Literal["protected", "geneformer"] = "protected",
        mask_probability: float = 0.15,
        datamodule: LightningDataModule | None = None,
        **options: Unpack[TrainOptions],
    ) -> None:
        """Train on masked genes (Theodoris 2023), or continue training.

        Parameters
        ----------
        max_epochs
            Maximum number of passes over the training cells. If neither this nor `max_steps` is given, 3, as for the published models.
        train_size, validation_size
            Fractions of the cells. By default nine tenths are for training and the rest for validation. Validation cells are masked in the same way
            at every check, so that losses can be compared.
        shuffle_set_split
            Draw the sets at random. Otherwise the first cells are the validation cells.
        masking
            ``"protected"`` neither masks special tokens nor replaces genes by them. ``"geneformer"`` is the official rule,
            which treats ``<cls>`` and ``<eos>`` as genes.
        mask_probability
            Fraction of masked positions: 80 % of them become ``<mask>``, 10 % a random token, 10 % are unchanged.
        datamodule
            Data to train on instead of the registered data: a :class:`Corpus` of files, or your own data module, whose batches are dicts
            with ``tokens`` (B, L), right-padded with 0 and not masked.
        {options}
        **trainer_kwargs
            Options of :class:`scvi.train.Trainer`, and thus of the trainer of Lightning.

        Notes
        -----
        Nothing is written to the data. ``history`` has ``train_loss_step``, ``learning_rate``, ``train_loss``, ``train_accuracy``,
        ``validation_loss`` and ``validation_accuracy`` (fraction of masked genes predicted correctly) as DataFrames over optimizer steps.
        An interrupted run leaves the model with the weights of its last step. `external_indexing` of scvi-tools is an option
        in `datasplitter_kwargs`.

        Raises
        ------
        ValueError
            If there are no data, if a cell has more tokens than the model has positions, or if a data module would ignore an argument.
        {raises}

        Examples
        --------
        >>> sg.pp.tokenize(adata, "default")
        >>> sg.model.Geneformer.setup_anndata(adata)
        >>> model = sg.model.Geneformer.from_pretrained("default", adata)
        >>> model.train(max_epochs=2, validation_size=0.25, learning_rate=1e-4)
        >>> len(model.history["validation_loss"])  # one value per epoch
        2
        """
        if isinstance(datamodule, Corpus):
            datamodule.check_fits(self.vocabulary, self.encoder.config.max_length)
        if max_epochs is None:
            max_epochs = _EPOCHS if options["max_steps"] is None else -1
        rule = Masking.over(self.vocabulary, rule=masking, probability=mask_probability, seed=options["rng"])
        objective = MaskedGenes(rule)
        if datamodule is not None:
            _check_datamodule(datamodule, options, train_size=train_size, validation_size=validation_size)
        else:
            tokens, lengths = self._training_tokens()
            loader = loader_options(options)
            sets = draw_cells(
                self.adata_manager,
                len(tokens),
                train_size=_train_size(train_size, validation_size),
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                external_indexing=loader.pop("external_indexing", None),
                rng=options["rng"],
            )
            datamodule = TokenRows(tokens, lengths, sets=sets, targets=objective.targets, **loader)
        run_training(self, objective, datamodule, max_epochs=max_epochs, options=options)

    @checked
    def export(self, folder: str | Path, *, dtype: Literal["float32", "float16", "bfloat16"] = "float32") -> None:
        """Write a folder that :func:`scgeneformer.hub.load` and Hugging Face's ``BertForMaskedLM`` load.

        They load only the encoder of an encoder-decoder (``BertModel``); :meth:`from_pretrained` also loads the decoder.

        Parameters
        ----------
        folder
            Folder for ``config.json``, ``model.safetensors`` and ``vocabulary.json.gz``, created if it does not exist.
        dtype
            Precision of the weights in the file.

        Examples
        --------
        >>> model = sg.model.Geneformer.from_pretrained("default")
        >>> model.export("my_model", dtype="float16")
        >>> sg.pp.tokenize(adata, "my_model")
        >>> sg.tl.embed(adata, "my_model")
        """
        self._export(folder, self.module.network, dtype)


def _pretraining_network(pretrained: hub.Pretrained) -> nn.MaskedGeneModel | nn.EncoderDecoder:
    """A new copy of the pretrained network: the encoder with its decoder, if there is one, or else with its masked-gene head."""
    if isinstance(pretrained.model, nn.EncoderDecoder):
        return copy.deepcopy(pretrained.model)
    if pretrained.folder is not None and nn.read_config(pretrained.folder).get("n_decoder_layers"):
        return nn.load_encoder_decoder(pretrained.folder)
    return pretrained.masked_gene_model()


def _check_datamodule(datamodule: LightningDataModule, options: TrainOptions, **sizes: float | None) -> None:
    """Refuse options that a data module would ignore."""
    without_effect: dict[str, object] = {
        "token_budget": options["token_budget"],
        "datasplitter_kwargs": options["datasplitter_kwargs"],
        **sizes,
    }
    if options["batch_size"] is not None and hasattr(datamodule, "set_batch_size"):
        datamodule.set_batch_size(options["batch_size"])
    else:
        without_effect["batch_size"] = options["batch_size"]
    given = [name for name, value in without_effect.items() if value is not None]
    if given:
        msg = f"{', '.join(given)} have no effect on a data module, which makes its own batches and sets: pass them to that."
        raise ValueError(msg)


def _train_size(train_size: float | None, validation_size: float | None) -> float:
    """Fraction of the cells that train: nine tenths, or all but those that validate."""
    if train_size is not None:
        return train_size
    return 0.9 if validation_size is None else 1 - validation_size
