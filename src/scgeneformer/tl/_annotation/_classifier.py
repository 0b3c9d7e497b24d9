"""A trained classifier, given as such, by name or as a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.model import CellClassifier, GeneClassifier


@overload
def load_classifier(
    model: Any, kind: Literal["CellClassifier"], adata: AnnData | MuData | None = None
) -> CellClassifier: ...
@overload
def load_classifier(
    model: Any, kind: Literal["GeneClassifier"], adata: AnnData | MuData | None = None
) -> GeneClassifier: ...
def load_classifier(model: Any, kind: str, adata: AnnData | MuData | None = None) -> Any:
    """The classifier itself, or the one of this name or in this folder.

    Parameters
    ----------
    model
        Classifier, the name of one in :func:`scgeneformer.hub.available`, or a folder that its ``save`` or ``export``, or transformers, has written.
    kind
        Class of :mod:`scgeneformer.model` that it must be of.
    adata
        Data to load a saved classifier with; None for none.

    Raises
    ------
    TypeError, ValueError
        If it is none of them, or of another kind.
    """
    from scgeneformer import model as models

    wanted = getattr(models, kind)
    if isinstance(model, wanted):
        return model
    if not isinstance(model, str | os.PathLike):
        msg = f"model is a {type(model).__name__}, not a {kind} or the folder of one. Train one: `sg.model.{kind}(adata, ...)`."
        raise TypeError(msg)
    if Path(model).is_dir() and (wanted.is_saved(model) or not (Path(model) / "config.json").is_file()):
        return wanted.load(model, adata=False if adata is None else adata)
    return wanted.from_pretrained(model, adata)
