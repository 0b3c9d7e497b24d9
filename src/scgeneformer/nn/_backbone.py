"""What the rest of the package needs of a network that reads cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

Ability = Literal[
    "estimates of perturbations",
    "attention weights",
    "derivatives by genes",
    "low-rank adapters",
    "completion of cells",
    "ranks of genes",
    "values of genes",
]


class Shape(Protocol):
    """What every config of a backbone has."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def pooling(self) -> str | None: ...
    @property
    def emb_layer(self) -> int | None: ...
    @property
    def poolings(self) -> tuple[str, ...]: ...


class Backbone(nn.Module, ABC):
    """A network that turns the tokens of cells into states.

    Attributes
    ----------
    kind
        What it is, for messages.
    causal
        Whether the state of a token depends on the tokens before it only.
    abilities
        What it offers beyond states: ``"estimates of perturbations"`` by gates of tokens (:func:`scgeneformer.tl.screen`), ``"attention weights"``
        and ``"derivatives by genes"`` (:func:`scgeneformer.tl.network`), ``"low-rank adapters"`` (:func:`add_lora`),
        ``"completion of cells"`` (:func:`scgeneformer.tl.complete`), ``"ranks of genes"``, by which they can be moved, or ``"values of genes"``, by which
        they can be scaled (:func:`scgeneformer.tl.perturb`).
    checkpoint_activations
        Compute activations again in the backward pass, in place of keeping them.
    config
        Its shape. ``config.poolings`` is what a cell can be read from: the ``"mean"`` of the states of its genes, the state of ``"cls"``, its
        first token, or that of ``"eos"``, its last.

    Examples
    --------
    >>> encoder = sg.hub.load("default").encoder
    >>> encoder.causal, encoder.config.poolings, encoder.token_vectors.shape
    (False, ('mean', 'cls'), torch.Size([13156, 128]))
    """

    kind: ClassVar[str]
    causal: ClassVar[bool]
    abilities: ClassVar[frozenset[Ability]]
    checkpoint_activations: bool
    config: Shape

    @property
    @abstractmethod
    def token_vectors(self) -> Tensor:
        """The vector of each token before the first block, (V, H)."""

    @abstractmethod
    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        *,
        n_layers: int | None = None,
        positions: slice | None = None,
    ) -> Any:
        """Hidden states after `n_layers` blocks, all by default; arguments as of :meth:`Encoder.forward`.

        A backbone with ranks of genes takes ``ranks`` (B, L), one with values ``values`` (B, L).
        """

    def n_to_run(self, n_layers: int | None) -> int:
        """How many blocks `n_layers` asks for, None for all.

        Raises
        ------
        ValueError
            If there are fewer blocks.
        """
        n_blocks = self.config.n_layers
        if n_layers is not None and not 0 <= n_layers <= n_blocks:
            what = "decoder" if self.causal else "encoder"
            msg = f"n_layers={n_layers} is outside 0 to {n_blocks}, the number of blocks of this {what}."
            raise ValueError(msg)
        return n_blocks if n_layers is None else n_layers

    def check_offers(self, ability: Ability, verb: str) -> None:
        """Refuse `verb`, which needs `ability`.

        Raises
        ------
        ValueError
            If this backbone does not offer it.
        """
        if ability not in self.abilities:
            offered = ", ".join(("states", *sorted(self.abilities)))
            msg = f"{verb} needs {ability}, but this model is a {self.kind}, which offers {offered}. Use a model of another kind (`sg.hub.available()`)."
            raise ValueError(msg)
