"""Gene sets: named lists of genes, from files and tables."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pandas as pd

from ._files import check_no_pipe

SET, GENE = "source", "target"  # columns of a table of sets, as of decoupler
_TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


def read_gene_sets(path: str | Path) -> dict[str, list[str]]:
    r"""Read sets or classes of genes from a file.

    Parameters
    ----------
    path
        ``.gmt``: one set a line, separated by tabs: its name, a description, its genes. ``.csv``, ``.tsv`` or ``.txt`` (separated by tabs): a
        table with a row for each gene of a set, in columns ``source`` (the set) and ``target`` (the gene), as decoupler has them. Each may end in
        ``.gz``.

    Returns
    -------
    The genes of each set, each once, in the order of the file, as :func:`scgeneformer.tl.perturb_sets` and
    :class:`scgeneformer.model.GeneClassifier` take them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If a table lacks one of the two columns.
    ValueError
        If the file is of another kind, has no sets, a set without genes, or two of one name.

    Examples
    --------
    >>> _ = open("sets.gmt", "w").write("ISGF3\tcomplex\tSTAT1\tSTAT2\tIRF9\n")
    >>> sg.datasets.read_gene_sets("sets.gmt")
    {'ISGF3': ['STAT1', 'STAT2', 'IRF9']}
    """
    path = Path(path).expanduser()
    if not path.exists():
        msg = f"There is no file {path} with gene sets."
        raise FileNotFoundError(msg)
    check_no_pipe(path)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".gmt":
        return _of_gmt(path)
    if suffix in _TABLES:
        return sets_of_table(pd.read_csv(path, sep=_TABLES[suffix]), str(path))
    msg = (
        f"{path} is not a file of gene sets: its name must end in .gmt, {', '.join(_TABLES)}, or one of these and .gz."
    )
    raise ValueError(msg)


def as_gene_sets(sets: Any) -> Any:
    """Sets of a table, or of the file at a path, by their names; anything else as it is."""
    if isinstance(sets, pd.DataFrame):
        return sets_of_table(sets)
    return read_gene_sets(sets) if isinstance(sets, str | Path) else sets


def sets_of_table(table: pd.DataFrame, name: str = "`sets`") -> dict[str, list[str]]:
    """Genes (column ``target``) of each set (column ``source``) of a table, which messages call `name`.

    Raises
    ------
    KeyError
        If it lacks one of the two columns.
    ValueError
        If it has no rows.
    """
    missing = [column for column in (SET, GENE) if column not in table]
    if missing:
        msg = f"{name} has no column {missing[0]!r}; it has {list(table)}. Rename: table.rename(columns={{...: {missing[0]!r}}})."
        raise KeyError(msg)
    rows = table[[SET, GENE]].dropna().astype(str).drop_duplicates()
    if rows.empty:
        msg = f"{name} has no rows with a set in {SET!r} and a gene in {GENE!r}."
        raise ValueError(msg)
    return {str(of_set): genes.tolist() for of_set, genes in rows.groupby(SET, sort=False)[GENE]}


def _of_gmt(path: Path) -> dict[str, list[str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [line.rstrip("\r\n").split("\t") for line in lines if line.strip()]
    sets: dict[str, list[str]] = {}
    for number, (name, *rest) in enumerate(rows, start=1):
        genes = list(dict.fromkeys(gene.strip() for gene in rest[1:] if gene.strip()))
        if not genes or name in sets:
            what = (
                "occurs twice"
                if genes
                else "has no genes: a line is its name, a description and genes, separated by tabs"
            )
            msg = f"{path}, line {number}: set {name!r} {what}."
            raise ValueError(msg)
        sets[name] = genes
    if not sets:
        msg = f"{path} has no gene sets."
        raise ValueError(msg)
    return sets
