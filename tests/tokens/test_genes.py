from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgeneformer.tokens import Vocabulary, resolve_genes


@pytest.fixture
def vocabulary(small: Vocabulary) -> Vocabulary:
    genes = small.ids[small.n_special :]
    return replace(small, aliases={f"SYM{i}": gene for i, gene in enumerate(genes)} | {"OLD3": genes[3]})


@pytest.fixture
def var(vocabulary: Vocabulary) -> pd.DataFrame:
    genes = vocabulary.ids[vocabulary.n_special :]
    columns = {
        "chromosome": "1",
        "length": range(60),
        "ensembl": [f"{gene}.{i}" for i, gene in enumerate(genes)],
        "hvg": True,
    }
    return pd.DataFrame(columns, index=[f"Sym{i}" for i in range(60)])


def test_prefers_ids_to_aliases(var: pd.DataFrame, vocabulary: Vocabulary) -> None:
    found = resolve_genes(var, vocabulary)
    assert (found.source, found.n_exact, found.n_mapped, found.n_duplicates) == ("ensembl", 60, 60, 0)
    np.testing.assert_array_equal(found.token_id, np.arange(60) + vocabulary.n_special)
    assert found.token_id.dtype == np.int32


def test_takes_the_column_with_most_hits(var: pd.DataFrame, vocabulary: Vocabulary) -> None:
    var["ensembl"] = var["ensembl"].where(np.arange(60) % 2 == 0, "unknown")
    found = resolve_genes(var, vocabulary)
    assert (found.source, found.n_exact, found.n_mapped) == ("var_names", 0, 60)


@pytest.mark.parametrize("kind", ["object", "string", "category"])
def test_kinds_of_text_and_missing_values(var: pd.DataFrame, vocabulary: Vocabulary, kind: str) -> None:
    column = var["ensembl"].astype(object)
    column.iloc[0] = None
    var["ensembl"] = column.astype(kind)
    genes = resolve_genes(var, vocabulary, gene_ids="ensembl")
    assert (genes.n_mapped, genes.n_fallback) == (60, 1)
    var.index = [f"x{i}" for i in range(60)]
    genes = resolve_genes(var, vocabulary)
    assert (genes.source, genes.token_id[0], genes.n_mapped, genes.n_fallback) == ("ensembl", -1, 59, 0)


@pytest.mark.parametrize("empty", ["", " ", None, np.nan, "nan"], ids=repr)
@pytest.mark.parametrize("gene_ids", ["ensembl", None], ids=["named", "chosen"])
def test_a_gene_without_a_name_in_the_column_is_named_by_another(
    var: pd.DataFrame, vocabulary: Vocabulary, empty: str | float | None, gene_ids: str | None
) -> None:
    expected = resolve_genes(var, vocabulary).token_id
    in_column = var.reset_index(names="symbol")
    for frame in (var, in_column):
        frame.index = frame.index.astype(str)
        frame["ensembl"] = frame["ensembl"].astype(object)
        frame.iloc[[5, 40], frame.columns.get_loc("ensembl")] = empty
        genes = resolve_genes(frame, vocabulary, gene_ids=gene_ids)
        np.testing.assert_array_equal(genes.token_id, expected)
        assert (genes.source, genes.n_exact, genes.n_fallback, genes.n_duplicates) == ("ensembl", 58, 2, 0)


def test_an_unknown_name_is_no_missing_name(var: pd.DataFrame, vocabulary: Vocabulary) -> None:
    """An id that the vocabulary does not have is another gene than the one its symbol was later given to."""
    var.iloc[5, var.columns.get_loc("ensembl")] = "ENSG99999999999"
    genes = resolve_genes(var, vocabulary, gene_ids="ensembl")
    assert (genes.token_id[5], genes.n_mapped, genes.n_fallback) == (-1, 59, 0)


def test_columns_that_name_something_else_do_not_name_genes(var: pd.DataFrame, vocabulary: Vocabulary) -> None:
    """A column of paralogs has ids, too, and the other species' symbols are not those of this vocabulary's genes."""
    ids = var["ensembl"].to_list()
    var["paralog"] = [*ids[1:], ids[0]]
    var.iloc[5, var.columns.get_loc("ensembl")] = ""
    var.index = [f"x{i}" for i in range(60)]
    assert resolve_genes(var, vocabulary, gene_ids="ensembl").token_id[5] == -1
    human = replace(vocabulary, symbols=np.array([*[""] * vocabulary.n_special, *(f"SYM{i}" for i in range(60))]))
    for name, is_gene in (("SYM5", True), ("Sym5", False)):
        var.index = [name if i == 5 else f"x{i}" for i in range(60)]
        assert (resolve_genes(var, human, gene_ids="ensembl").token_id[5] >= 0) == is_gene


def test_column_can_be_named(var: pd.DataFrame, vocabulary: Vocabulary) -> None:
    assert resolve_genes(var, vocabulary, gene_ids="var_names").source == "var_names"
    assert resolve_genes(var, vocabulary, gene_ids="chromosome").n_mapped == 0
    with pytest.raises(KeyError, match="No column 'symbols' in .var"):
        resolve_genes(var, vocabulary, gene_ids="symbols")


def test_duplicates_are_counted(var: pd.DataFrame, vocabulary: Vocabulary) -> None:
    names = [*(f"Sym{i}" for i in range(58)), "OLD3", "sym3"]
    found = resolve_genes(pd.DataFrame(index=names), vocabulary)
    assert (found.n_mapped, found.n_duplicates) == (60, 2)
    assert (found.token_id == found.token_id[3]).sum() == 3


def doubts_of(var: pd.DataFrame, vocabulary: Vocabulary) -> str:
    return " ".join(resolve_genes(var, vocabulary).doubts)


@pytest.fixture
def symbols_of() -> Vocabulary:
    ids = [f"ENSG{i:011d}" for i in range(100)]
    names = np.array(["", "", *(f"STAT{i}" for i in range(100))])
    aliases = dict(zip(names[2:].tolist(), ids, strict=True))
    return Vocabulary(
        "own", np.array(["<pad>", "<mask>", *ids]), np.r_[np.nan, np.nan, np.ones(100)], 50, aliases, names
    )


def test_columns_of_ids_that_disagree_are_reported(symbols_of: Vocabulary) -> None:
    ids = symbols_of.ids[2:].astype(object)
    var = pd.DataFrame({"other": ids}, index=ids)
    assert doubts_of(var, symbols_of) == ""
    var["other"] = np.r_[ids[:60], np.roll(ids[60:], 1)]
    assert "'var_names' and 'other' have ids of different genes for 40 of 100 genes" in doubts_of(var, symbols_of)
    assert resolve_genes(var, symbols_of, gene_ids="other").doubts == ()
    var["other"] = [f"STAT{i}" for i in np.roll(np.arange(100), 1)]  # symbols, which change
    assert doubts_of(var, symbols_of) == ""


@pytest.mark.parametrize("named_by", ["index", "column"])
def test_symbols_of_mouse_genes_are_reported(symbols_of: Vocabulary, named_by: str) -> None:
    human = [f"STAT{i}" for i in range(100)]
    mouse = [f"Stat{i}" for i in range(100)]
    shouted = [f"GM{1000 + i}" for i in range(4)] + ["1700001C02RIK", "A930001A20RIK", "H2-K1", *human[:93]]
    for names, doubt in ((human, ""), (mouse, "spelled like mouse"), (shouted, "7 of 100 .* in mouse only")):
        var = pd.DataFrame({"x": names}) if named_by == "column" else pd.DataFrame(index=names)
        assert re.search(doubt, doubts_of(var, symbols_of)) if doubt else doubts_of(var, symbols_of) == ""
        assert resolve_genes(var, symbols_of, gene_ids="x" if named_by == "column" else "var_names").doubts == (
            resolve_genes(var, symbols_of).doubts
        )
