"""Classes of genes of Theodoris et al. (2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from scgeneformer._arguments import checked

from ._fetch import DataFile, fetch

_REPOSITORY = "https://raw.githubusercontent.com/Stfort52/geneformer-plain"


@dataclass(frozen=True)
class _Table:
    """A table of genes with a column of True and False.

    Attributes
    ----------
    file
        CSV.
    gene, is_class
        Columns of Ensembl ids and of the class.
    classes
        Names of the genes where it is False and where it is True.
    """

    file: DataFile
    gene: str
    is_class: str
    classes: tuple[str, str]


_TABLES = {
    "dosage_sensitivity": _Table(
        DataFile(
            "gene_class_labels/is_dosage_sensitive.csv",
            f"{_REPOSITORY}/32f98e0fa3d3bbd6d36011a4f20bd408de2371f9/data/gene_labels/is_dosage_sensitive.csv",
            "736006d2a2baf8d4f0a416c7ba001f1d8ad1dfaab08c9ff1c8717831ff53eee7",
        ),
        "tf",
        "sensitive",
        ("insensitive", "sensitive"),
    ),
    "bivalent_promoters": _Table(
        DataFile(
            "gene_class_labels/is_bivalent.csv",
            f"{_REPOSITORY}/32f98e0fa3d3bbd6d36011a4f20bd408de2371f9/data/gene_labels/is_bivalent.csv",
            "49e44a3c0c36cee49a525741c14e36c9fade58d71f2a41585bb6f02751c5d402",
        ),
        "tf",
        "H3K27me3",
        ("Lys4 only", "bivalent"),
    ),
    "regulatory_range": _Table(
        DataFile(
            "gene_class_labels/is_longrange_tf.csv",
            f"{_REPOSITORY}/195046b675a97c86a48bd8e506130aa4e9cdcb5e/data/is_longrange_tf.csv",
            "b70f5da237541da961803c3bf160e743e00d9a561182dcb7631420a85b6b04b9",
        ),
        "ensembl_id",
        "is_longrange",
        ("short range", "long range"),
    ),
    "notch1_centrality": _Table(
        DataFile(
            "gene_labels_n1/is_n1_central.csv",
            f"{_REPOSITORY}/3537b90303534245d521995e69f7cd4ebc298948/data/is_n1_central.csv",
            "198e9ef41a614802d2ea7b78ba0e4415c442daf235ec4ba25b3826ff035cf190",
        ),
        "ensembl_id",
        "network_centricity",
        ("peripheral", "central"),
    ),
    "notch1_targets": _Table(
        DataFile(
            "gene_labels_n1/is_n1_activated.csv",
            f"{_REPOSITORY}/32f98e0fa3d3bbd6d36011a4f20bd408de2371f9/data/gene_labels/is_n1_activated.csv",
            "078786fe95586e66b0eb700866b1f99405d680ce16f85ff28b3360da7c645a9c",
        ),
        "ensembl_id",
        "notch1_target",
        ("other", "target"),
    ),
}


@checked
def gene_classes(
    name: Literal[
        "dosage_sensitivity", "bivalent_promoters", "regulatory_range", "notch1_centrality", "notch1_targets"
    ],
) -> dict[str, list[str]]:
    """Gene classes of one of the five tasks of Theodoris et al. (2023), for :class:`scgeneformer.model.GeneClassifier`.

    Parameters
    ----------
    name
        Task:

        ``"dosage_sensitivity"``
            122 dosage-sensitive and 368 insensitive transcription factors.
        ``"bivalent_promoters"``
            96 genes whose promoters have both H3K4me3 and H3K27me3 in embryonic stem cells, and 77 with H3K4me3 alone.
        ``"regulatory_range"``
            46 transcription factors that act over long ranges, and 130 that act over short ranges.
        ``"notch1_centrality"``
            100 central and 195 peripheral genes of the NOTCH1-dependent network of endothelial cells.
        ``"notch1_targets"``
            570 genes activated by NOTCH1 in these cells, and 570 others.

    Returns
    -------
    Ensembl ids of both classes. Scores of two classes, such as the AUC, are for the second class.

    Raises
    ------
    ConnectionError, FileNotFoundError
        If the list is neither available locally nor can be downloaded.
    ValueError
        If the file is not the expected one.

    Notes
    -----
    The lists are read from https://github.com/Stfort52/geneformer-plain, which states no licence, at pinned commits; they are not part of this
    package. According to that repository, they were taken from the official Geneformer (``example_input_files/gene_classification``, Apache-2.0).
    If you use them, cite Theodoris et al. (2023) and the studies that the classes were taken from. Read your own lists with
    :func:`read_gene_sets`, or pass them directly.

    Examples
    --------
    >>> classes = sg.datasets.gene_classes("regulatory_range")
    >>> {name: len(genes) for name, genes in classes.items()}
    {'short range': 130, 'long range': 46}
    """
    task = _TABLES[name]
    table = pd.read_csv(fetch(task.file))
    in_class = table[task.is_class].astype(bool)
    genes = table[task.gene].astype(str)
    return dict(zip(task.classes, (genes[~in_class].tolist(), genes[in_class].tolist()), strict=True))
