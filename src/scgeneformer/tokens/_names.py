"""Names of genes and of special tokens."""

from __future__ import annotations

import re

PAD, MASK, CLS, EOS = SPECIAL_TOKENS = ("<pad>", "<mask>", "<cls>", "<eos>")
# ENSG00000141510, ENSG00000141510.18, ENSG00000002586.20_PAR_Y, ENSGR0000002586, ENSMUSG00000059552, ...
ENSEMBL_GENE = re.compile(r"^(ENS[A-Z]*G[A-Z]?\d{6,})(\.\d+)?(_PAR_Y)?$")


def normalise(gene: str) -> str:
    """Upper case, stripped, and without the version if it is an Ensembl gene id (symbols may end in ``.1``)."""
    gene = str(gene).strip().upper()
    match = ENSEMBL_GENE.match(gene)
    return match[1] if match else gene
