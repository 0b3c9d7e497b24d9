"""A model and the tokens it reads, checked against each other, with the options of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _log as logg
from scgeneformer._settings import engine_options
from scgeneformer.tokens import read_tokens, token_ids, token_params

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from scgeneformer.engine import Pooling
    from scgeneformer.hub import Pretrained
    from scgeneformer.tokens import Vocabulary

BUNDLED = "default"


@dataclass(frozen=True)
class ModelInputs:
    """A model and the tokens it reads.

    Attributes
    ----------
    cells
        The tokenized cells.
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
        """Vocabulary of the model and the tokens."""
        return self.pretrained.vocabulary

    @cached_property
    def token_id(self) -> np.ndarray:
        """Token of each gene in `var`, -1 if none, (n_vars,)."""
        return token_ids(self.cells, self.tokens_key, self.vocabulary)

    @property
    def provenance(self) -> dict[str, Any]:
        """What `uns` keeps of a result."""
        return {
            "model": self.pretrained.name,
            "weights_sha256": self.pretrained.sha256,
            "vocabulary": self.vocabulary.name,
            "vocabulary_hash": self.vocabulary.hash,
            "tokens_key": self.tokens_key,
            **{name: self.options[name] for name in ("pooling", "emb_layer", "precision")},
        }


def blocks_of(tokens: Any) -> Iterator[np.ndarray]:
    """Rows of tokens in memory: all at once, or those of a dask array by its chunks."""
    ends = np.cumsum((len(tokens),) if isinstance(tokens, np.ndarray) else tokens.chunks[0])
    return (np.asarray(tokens[first:last]) for first, last in zip([0, *ends[:-1]], ends, strict=True))


def model_inputs(
    cells: AnnData,
    model: Any,
    *,
    tokens_key: str,
    pooling: Pooling | None,
    emb_layer: int | None,
    precision: str | None = None,
) -> ModelInputs:
    """Load the model, check the tokens against it, and fill in the settings.

    Parameters
    ----------
    cells
        The tokenized cells.
    model
        What :func:`scgeneformer.hub.load` takes; None for the model that the tokens were made for.
    tokens_key
        Slot of the tokens in `obsm`.
    pooling, emb_layer
        Defaults to the model's own.
    precision
        Defaults to the setting.

    Raises
    ------
    TypeError
        If `model` is not a model.
    KeyError
        If there are no tokens.
    ValueError
        If the tokens were made for another vocabulary, if pooling, layer, device or precision do not exist, or if `model` is None and the
        vocabulary belongs to no model or to several.
    """
    from scgeneformer import engine, hub

    if isinstance(model, list | tuple | set):
        msg = f"model={model!r} is not a model. The model comes before genes: `sg.tl.perturb(adata, model, genes)`. Or pass the genes as `genes=`."
        raise TypeError(msg)
    pretrained = hub.load(model_of_tokens(cells, tokens_key) if model is None else model)
    vocabulary = pretrained.vocabulary
    tokens = read_tokens(cells, tokens_key, vocabulary, model=pretrained.name)
    options = engine_options(precision=precision)
    del options["progress"]
    options |= {
        "pooling": engine.resolve_pooling(pooling, pretrained.encoder.config, has_cls=vocabulary.has_cls),
        "n_special": vocabulary.n_special,
        "emb_layer": engine.resolve_layer(emb_layer, pretrained.encoder.config),
    }
    engine.check_options(pretrained.encoder, **options)
    return ModelInputs(cells, pretrained, tokens, tokens_key, options)


def model_of_tokens(cells: AnnData, tokens_key: str) -> str:
    """Name or folder of the model that the tokens were made for, else of the one that has their vocabulary.

    Raises
    ------
    KeyError
        If there are no tokens.
    ValueError
        If no model that has a name, or more than one, has this vocabulary.
    """
    from scgeneformer import hub
    from scgeneformer.hub._available import pretrained_of

    run = token_params(cells, tokens_key)
    name = run["vocabulary"]
    if run.get("model", BUNDLED) == BUNDLED and run["vocabulary_hash"] == hub.vocabulary(BUNDLED).hash:
        _introduce_bundled()
        return BUNDLED
    if "model" in run:
        return run["model"]
    names = pretrained_of(name)
    if len(names) == 1:
        return names[0]
    if names:
        msg = (
            f"The tokens in .obsm[{tokens_key!r}] are of vocabulary {name!r}, which several models share: "
            f"{', '.join(map(repr, names))}. Set `model=` to one of them."
        )
    else:
        msg = f"The tokens in .obsm[{tokens_key!r}] are of vocabulary {name!r}, which belongs to no named model. Pass its model as `model=`."
    raise ValueError(msg)


@cache
def _introduce_bundled() -> None:
    """Say once what the model is that is used where none was named."""
    logg.warning(
        "Using the bundled model, a small one for trying things out that was pretrained on blood cells only. "
        "For results to report, name a published model (`sg.hub.available()`) in `pp.tokenize` and here."
    )
