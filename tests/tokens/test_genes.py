from __future__ import annotations

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
    found = resolve_genes(var, vocabulary, gene_ids="ensembl")
    assert found.token_id[0] == -1
    assert found.n_mapped == 59
    var.index = [f"x{i}" for i in range(60)]
    assert resolve_genes(var, vocabulary).source == "ensembl"


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
