"""Files and tables of gene sets are read as they were written."""

from __future__ import annotations

import gzip
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer.datasets import read_gene_sets

NAMES = st.text(st.characters(codec="ascii", categories=["Lu", "Nd"]), min_size=1, max_size=5)
SETS = st.dictionaries(NAMES.map("S{}".format), st.lists(NAMES.map("G{}".format), min_size=1, unique=True), min_size=1)


@given(sets=SETS, ending=st.sampled_from(["\n", "\r\n"]))
def test_what_was_written_is_read(tmp_path_factory, sets, ending):
    folder = tmp_path_factory.mktemp("sets")
    lines = ["\t".join([name, "of a test", *genes, genes[0]]) + ending for name, genes in sets.items()]
    (folder / "a.gmt").write_bytes("".join(lines).encode())
    (folder / "a.gmt.gz").write_bytes(gzip.compress("".join(lines).encode()))
    table = pd.Series(sets).explode().rename_axis("source").rename("target").reset_index().assign(weight=1.0)
    table.to_csv(folder / "a.csv", index=False)
    table.to_csv(folder / "a.tsv.gz", sep="\t", index=False)
    for name in ("a.gmt", "a.gmt.gz", "a.csv", "a.tsv.gz"):
        assert read_gene_sets(folder / name) == sets


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.gmt", "", ValueError, "has no gene sets"),
        ("a.gmt", "S1\tna\tA\nS2\tna\n", ValueError, "line 2: set 'S2' has no genes"),
        ("a.gmt", "S1\tna\tA\nS1\tna\tB\n", ValueError, "line 2: set 'S1' occurs twice"),
        ("a.csv", "set,gene\nS1,A\n", KeyError, "no column 'source'.*it has ['set', 'gene']"),
        ("a.csv", "source,target\n", ValueError, "has no rows"),
        ("a.xlsx", "", ValueError, "must end in .gmt"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=re.escape(message).replace(r"\.\*", ".*")):
        read_gene_sets(tmp_path / name)
