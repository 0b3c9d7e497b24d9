"""``read_official``: which kind of file a path is, and its reader."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scgeneformer._arguments import checked
from scgeneformer._files import check_no_pipe

from . import _embeddings, _perturbation, _statistics, _tokens
from ._tables import read_header

if TYPE_CHECKING:
    from typing import Literal

    import pandas as pd
    from anndata import AnnData

    from scgeneformer.tokens import Vocabulary

_KINDS = "'tokens', 'perturbation', 'statistics' or 'embeddings'"


@checked
def read_official(
    path: str | Path,
    model: str | Path | Vocabulary | Any = None,
    *,
    kind: Literal["tokens", "perturbation", "statistics", "embeddings"] | None = None,
    obs_names: str | None = None,
) -> AnnData | pd.DataFrame:
    """Read a file that official Geneformer wrote: tokenized cells, raw perturbations, statistics or embeddings.

    Nothing in a file is executed: pickles are read as data, and only numbers, names, tuples, lists and dictionaries are admitted.

    Parameters
    ----------
    path
        A ``.dataset`` folder of ``TranscriptomeTokenizer`` (needs pyarrow); a ``*_raw.pickle`` file of ``InSilicoPerturber``, or the
        folder with its files; a ``.csv`` of ``InSilicoPerturberStats`` or of ``EmbExtractor``.
    model
        Model that the file was made with or for: its name in :func:`scgeneformer.hub.available`, ``"V1"`` or ``"V2"``, its folder, or a
        vocabulary. Required for tokens and perturbations, which hold numbers of genes; not used otherwise.
    kind
        What the file is; by default told by its suffix and columns.
    obs_names
        Column with unique names of cells, for tokens and embeddings. By default ``"obs_names"``, which :func:`export_official` writes,
        if there is one, else cells are numbered: official files keep no names, and embeddings are in another order than the tokens.

    Returns
    -------
    What the file holds, under our names:

    tokens
        AnnData of cells and all genes of the vocabulary, without counts: ``.obsm["geneformer_tokens"]``, ``.obs["n_tokens"]``,
        ``.obs["token_vocabulary"]``, ``.var["token_id"]`` and ``.var["gene_symbols"]`` as :func:`scgeneformer.pp.tokenize` writes them, so
        that :func:`scgeneformer.tl.embed` and :func:`scgeneformer.tl.perturb` continue from there; counts, if kept, in
        ``.obsm["geneformer_tokens_counts"]``; the other columns of the data set in ``.obs``.
    perturbation
        DataFrame with a row for each value: ``perturbed`` and ``affected`` (Ensembl id; ids of a set are joined by ``|``; `affected` is
        ``""`` for the cell itself), ``state`` (``""`` without goal states), ``cell`` (number of the cell in the sorted data, if the
        name of the file tells it, else missing), ``position`` (place in the list of values) and ``value``: cosine similarity, or, with
        states, its change. It is not made into layers, since the files do not name cells.
    statistics
        AnnData without cells, with a gene in each row of the table and what :func:`scgeneformer.tl.rank_shifts` writes with
        ``compat="official"`` in ``.varm["shift"]``, for :func:`scgeneformer.get.shifts`, if the mode is ``goal_state_shift`` (of all
        genes), ``vs_null`` or ``mixture_model``; without scores, which official tables do not have and :func:`scgeneformer.pl.shift` needs. The file does
        not name the goal state, which is called ``goal`` here. Without goal states effects are 1 minus the similarities of the file. Tables of other modes are returned as a
        DataFrame: ``aggregate_gene_shifts`` with columns as of :func:`scgeneformer.get.effects` and ``perturbed`` in front,
        ``aggregate_data`` with ``symbol`` and ``cosine``, and ``goal_state_shift`` of listed genes, a row without a name, with
        ``effect`` and ``effect_<state>``.
    embeddings
        AnnData of cells, without genes: ``.obsm["X_geneformer"]``, and the labels in ``.obs``. For embeddings of genes an AnnData without
        cells: ``.varm["geneformer"]``.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the file is of another kind, damaged, of another vocabulary, or needs a `model`; or if a pickle holds anything but numbers.
    ImportError
        If pyarrow is missing, for tokens.

    Notes
    -----
    Tokens of one vocabulary are often valid tokens of another. Some mistakes can be told (special tokens, tokens and lengths that the
    vocabulary does not have), but the file does not name its vocabulary: give the `model` that it was made for.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.export_official(adata, "cells.dataset")
    >>> cells = sg.read_official("cells.dataset", "default")
    >>> sg.tl.embed(cells)
    >>> cells.obsm["X_geneformer"].shape
    (32, 128)
    """
    path = Path(path).expanduser()
    if not path.exists():
        msg = f"There is no file or folder {path}."
        raise FileNotFoundError(msg)
    check_no_pipe(path)
    content = kind or _kind_of(path)
    if content in ("tokens", "perturbation"):
        if model is None:
            msg = f'{path} has numbers of genes, not their names. Name the model that it was made for: `sg.read_official(path, "V2")`.'
            raise ValueError(msg)
        from scgeneformer import hub
        from scgeneformer.hub._available import name_of

        vocabulary = hub.vocabulary(model)
        if content == "tokens":
            return _tokens.read(path, vocabulary, model=name_of(model), obs_names=obs_names)
        return _perturbation.read(path, vocabulary)
    return _statistics.read(path) if content == "statistics" else _embeddings.read(path, obs_names=obs_names)


def _kind_of(path: Path) -> str:
    if path.is_dir():
        if (path / _tokens.STATE).is_file():
            return "tokens"
        if next(path.glob(_perturbation.PATTERN), None) is not None:
            return "perturbation"
        if (path / "dataset_dict.json").is_file():
            msg = f"{path} holds several data sets. Name the folder of one of them, such as {path / 'train'}."
            raise ValueError(msg)
    elif path.suffix in (".pickle", ".pkl"):
        return "perturbation"
    elif path.suffix == ".csv":
        return "statistics" if _statistics.mode_of(read_header(path)) else "embeddings"
    msg = (
        f"Cannot tell what {path} is: neither a data set ({_tokens.STATE} and arrow files), nor raw perturbations "
        f"({_perturbation.PATTERN}), nor a .csv file. Set `kind=` ({_KINDS}) if it is one."
    )
    raise ValueError(msg)
