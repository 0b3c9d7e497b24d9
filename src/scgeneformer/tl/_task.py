"""What every tool that runs a model over tokens needs: both, checked against each other, and the engine's options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scgeneformer._settings import settings
from scgeneformer.tokens import read_tokens, token_ids

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from scgeneformer.hub import Pretrained
    from scgeneformer.tokens import Vocabulary


@dataclass(frozen=True)
class Task:
    """A model and the tokens that it is to read.

    Attributes
    ----------
    cells
        Where the tokens are.
    pretrained
        The model.
    tokens
        uint16 (n_obs, L), NumPy or dask.
    tokens_key
        Their slot in `obsm`.
    options
        Arguments of the functions of :mod:`scgeneformer.engine`.
    """

    cells: AnnData
    pretrained: Pretrained
    tokens: Any
    tokens_key: str
    options: dict[str, Any]

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's and the tokens'."""
        return self.pretrained.vocabulary

    @cached_property
    def token_id(self) -> np.ndarray:
        """Token of each gene in `var`, -1 if none, (n_vars,)."""
        return token_ids(self.cells, self.tokens_key, self.vocabulary)

    @property
    def provenance(self) -> dict[str, Any]:
        """What `uns` is to remember of a result."""
        return {
            "model": self.pretrained.name,
            "weights_sha256": self.pretrained.sha256,
            "vocabulary": self.vocabulary.name,
            "vocabulary_hash": self.vocabulary.hash,
            "tokens_key": self.tokens_key,
            **{name: self.options[name] for name in ("pooling", "emb_layer", "precision")},
        }


def prepare(
    cells: AnnData,
    model: Any,
    *,
    tokens_key: str,
    pooling: str | None,
    emb_layer: int | None,
    device: str | None,
    precision: str | None,
    token_budget: int | None,
) -> Task:
    """Load the model, check the tokens against it, and fill in what was left to the settings.

    Raises
    ------
    TypeError
        If `model` is no model.
    KeyError
        If there are no tokens.
    ValueError
        If they were made for another vocabulary, or pooling, layer, device or precision do not exist.
    """
    from scgeneformer import engine, hub

    if isinstance(model, list | tuple | set):
        msg = f"model={model!r} is no model. It comes before genes: `sg.tl.perturb(adata, model, genes)`, or name them, `genes=`."
        raise TypeError(msg)
    pretrained = hub.load(model)
    vocabulary = pretrained.vocabulary
    tokens = read_tokens(cells, tokens_key, vocabulary, model=pretrained.name)
    options = {
        "pooling": engine.resolve_pooling(pooling, pretrained.encoder.config, has_cls=vocabulary.has_cls),
        "n_special": vocabulary.n_special,
        "emb_layer": engine.resolve_layer(emb_layer, pretrained.encoder.config),
        "device": device or settings.device,
        "precision": precision or settings.precision,
        "token_budget": token_budget or settings.token_budget,
    }
    engine.check_options(pretrained.encoder, **options)
    return Task(cells, pretrained, tokens, tokens_key, options)
