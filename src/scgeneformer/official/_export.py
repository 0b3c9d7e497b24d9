"""``export_official``: files that the official tool reads, from AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgeneformer import _files
from scgeneformer import _keys as keys
from scgeneformer._arguments import checked
from scgeneformer.tokens import token_params

from . import _embeddings, _statistics, _tokens

if TYPE_CHECKING:
    from typing import Literal

    from anndata import AnnData
    from mudata import MuData

    from scgeneformer.tokens import Vocabulary

_DATA_SET, _TABLE = ".dataset", ".csv"


@checked
def export_official(
    adata: AnnData | MuData,
    path: str | Path,
    model: str | Path | Vocabulary | Any = None,
    *,
    kind: Literal["tokens", "statistics", "embeddings"] | None = None,
    key: str | None = None,
    mod: str = "rna",
) -> None:
    """Write tokens, a ranking or embeddings as official Geneformer writes them, to continue there or to compare.

    Parameters
    ----------
    adata
        Annotated data with the results.
    path
        File or folder to write, which must not exist: a folder that ends in ``.dataset`` for tokens, read by
        ``datasets.load_from_disk`` (written by pyarrow), else a ``.csv`` file.
    model
        Model that the tokens were made for, see :func:`read_official`. For tokens by default the model or vocabulary that they record. For
        statistics required where ``var_names`` are not Ensembl ids.
    kind
        What to write; ``"tokens"`` by default if `path` ends in ``.dataset``.
    key
        Slot of the ranking in ``.varm`` (by default ``"shift"``), or of the embedding in ``.obsm`` (``"X_geneformer"``). Tokens are those in
        ``.obsm["geneformer_tokens"]``.
    mod
        Modality of a MuData.

    Returns
    -------
    ``None``. Writes:

    tokens
        ``input_ids``, ``counts`` if they were kept, all other columns of ``.obs``, names of cells as ``obs_names``, and ``length``.
    statistics
        The table of mode ``goal_state_shift``, ``vs_null`` or ``mixture_model``, for ``test="rank_sum"`` with goal states, ``"vs_null"`` and
        ``"mixture"`` of :func:`scgeneformer.tl.rank_shifts`; the numbers are official if it was called with ``compat="official"``. Genes that were
        perturbed in no cell, and shifts towards the source, are left out.
    embeddings
        Columns ``0``, ``1``, ..., then ``obs_names`` and the columns of ``.obs``, in the order of `adata`.

    Raises
    ------
    FileExistsError
        If there is something at `path`.
    KeyError
        If there are no such results.
    ValueError
        If the path does not fit, the model is of another vocabulary, or the ranking has no official table. Nothing is written then.
    ImportError
        If pyarrow is missing, for tokens.

    Notes
    -----
    What was read by :func:`read_official` is written again as it was: tokens, counts in float32, columns and embeddings exactly; statistics
    up to the last digit of similarities and percentages, which are other numbers here (1 - x, x / 100).

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.export_official(adata, "cells.dataset")
    >>> sg.tl.perturb(adata, genes=["STAT1", "STAT2"], groupby="disease", source="dcm", target="nf")
    >>> sg.tl.rank_shifts(adata, compat="official")
    >>> sg.export_official(adata, "shifts.csv", "default", kind="statistics")
    >>> sg.read_official("shifts.csv").varm["shift"]["n_cells"].tolist()
    [16, 16]
    """
    path, data = Path(path).expanduser(), keys.as_adata(adata, mod)
    suffix = _DATA_SET if kind in (None, "tokens") else _TABLE
    if path.suffix != suffix or not path.parent.is_dir():
        msg = (
            f"{path} must end in {suffix!r} and lie in a folder that exists, for kind={kind or 'tokens'!r}. For a "
            "table, set `kind=` to 'statistics' or 'embeddings'."
        )
        raise ValueError(msg)
    if path.exists():
        msg = f"{path} exists, and is not overwritten. Choose another path, or delete it first."
        raise FileExistsError(msg)
    if kind == "embeddings":
        slot = key or keys.embedding_key(keys.GENEFORMER)
        _files.replace(path, lambda new: _embeddings.write(data, new, slot))
        return
    from scgeneformer import hub
    from scgeneformer.hub._available import name_of

    if kind == "statistics":
        vocabulary = None if model is None else hub.vocabulary(model)
        _files.replace(path, lambda new: _statistics.write(data, new, key or keys.SHIFT, vocabulary))
        return
    if key is not None:
        msg = f"key={key!r} is for statistics and embeddings. Leave it out for tokens."
        raise ValueError(msg)
    run = token_params(data, keys.TOKENS)
    known = run.get("model", run["vocabulary"]) if model is None else model
    vocabulary = hub.vocabulary(known)
    _files.replace(path, lambda new: _tokens.write(data, new, vocabulary, name=name_of(known) or vocabulary.name))
