"""Vocabularies of a new corpus against loops over its cells."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgeneformer.tokens import Vocabulary, _corpus

if TYPE_CHECKING:
    from pathlib import Path

N_VARS = 30
IDS = [f"ENSG{i:011d}" for i in range(N_VARS)]


def data(seed: int, n_obs: int = 50) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.lognormal(0, 1, N_VARS), (n_obs, N_VARS))
    X[:, -1] = 0
    X[:, -2] = 0
    X[3, -2] = 4
    order = rng.permutation(N_VARS)
    var = pd.DataFrame({"gene_ids": [f"{IDS[i]}.{seed}" for i in order]}, index=[f"Gene{i}" for i in order])
    adata = ad.AnnData(sparse.csr_matrix(X[:, order].astype(np.float32)), var=var)
    adata.obs_names = [f"{seed}-{i}" for i in range(n_obs)]
    adata.obs["n_counts"] = X.sum(axis=1) + 10.0
    return adata


def medians(adatas: list[ad.AnnData], totals: str | None = None) -> dict[str, float]:
    """Gene by gene."""
    values: dict[str, list[float]] = {}
    for adata in adatas:
        X = adata.X.toarray().astype(float)
        n = X.sum(axis=1) if totals is None else adata.obs[totals].to_numpy()
        for column, gene in enumerate(adata.var["gene_ids"]):
            seen = X[:, column] > 0
            values.setdefault(gene.split(".")[0], []).extend(X[seen, column] / n[seen] * 1e4)
    return {gene: float(np.median(found)) for gene, found in values.items() if found}


def check(vocabulary: Vocabulary, expected: dict[str, float], rtol: float = 1e-12) -> None:
    genes = vocabulary.ids[vocabulary.n_special :].tolist()
    assert genes == sorted(expected)
    np.testing.assert_allclose(
        vocabulary.medians[vocabulary.n_special :], [expected[gene] for gene in genes], rtol=rtol
    )


@pytest.fixture(scope="module")
def corpus() -> list[ad.AnnData]:
    return [data(1), data(2), data(3, 7)]


def test_medians_of_several(corpus: list[ad.AnnData]) -> None:
    own = Vocabulary.from_adata(corpus, name="own", max_length=100)
    check(own, medians(corpus))
    assert (own.name, own.max_length, own.has_cls) == ("own", 100, True)
    assert own.tokens_of(["gene3", "GENE3", "Gene29"]).tolist() == [4 + 3, 4 + 3, -1]  # the last gene is not seen
    assert own.symbols[4 + 3] == "Gene3"
    assert Vocabulary.from_adata(corpus, name="own", max_length=100, special_tokens=False).n_special == 2


def test_one_is_several(corpus: list[ad.AnnData]) -> None:
    check(Vocabulary.from_adata(corpus[0], name="own", max_length=100), medians(corpus[:1]))


@pytest.mark.parametrize("form", ["dense", "csc", "backed", "backed dense", "dask"])
def test_every_form(corpus: list[ad.AnnData], form: str, tmp_path: Path) -> None:
    forms = []
    for number, adata in enumerate(corpus):
        adata = adata.copy()
        if "dense" in form:
            adata.X = adata.X.toarray()
        if form == "csc":
            adata.X = adata.X.tocsc()
        if form == "dask":
            import dask.array as da

            adata.X = da.from_array(adata.X.toarray(), chunks=(11, 13))
        if "backed" in form:
            path = tmp_path / f"{number}.h5ad"
            adata.write_h5ad(path)
            adata = str(path) if number else path
        forms.append(adata)
    check(Vocabulary.from_adata(forms, name="own", max_length=100), medians(corpus))


def test_in_groups_of_genes(corpus: list[ad.AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Vocabulary.from_adata(corpus, name="own", max_length=100)
    monkeypatch.setattr(_corpus, "_VALUES_AT_A_TIME", 150)
    assert Vocabulary.from_adata(corpus, name="own", max_length=100) == whole


def test_tdigest(corpus: list[ad.AnnData]) -> None:
    """A sketch is exact up to the values next to the median; with so few values that is some percent."""
    large = [data(seed, 2000) for seed in (4, 5)]
    check(Vocabulary.from_adata(large, name="own", max_length=100, method="tdigest"), medians(large), rtol=0.02)


def test_tdigest_without_crick(corpus: list[ad.AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crick", None)
    with pytest.raises(ImportError, match=r"pip install .scgeneformer\[tdigest\].*method='exact'"):
        Vocabulary.from_adata(corpus, name="own", max_length=100, method="tdigest")


def test_total_counts_and_layer(corpus: list[ad.AnnData]) -> None:
    moved = [adata.copy() for adata in corpus]
    for adata in moved:
        adata.layers["counts"] = adata.X
        adata.X = adata.X * -1.0
    own = Vocabulary.from_adata(moved, name="own", max_length=100, layer="counts", total_counts="n_counts")
    check(own, medians(corpus, "n_counts"))
    with pytest.raises(ValueError, match=r"\.X has negative values"):
        Vocabulary.from_adata(moved, name="own", max_length=100)
    with pytest.raises(KeyError, match="No layer 'x'"):
        Vocabulary.from_adata(moved, name="own", max_length=100, layer="x")
    with pytest.raises(KeyError, match="No column 'n'"):
        Vocabulary.from_adata(corpus, name="own", max_length=100, total_counts="n")


def test_min_cells(corpus: list[ad.AnnData]) -> None:
    few = Vocabulary.from_adata(corpus, name="own", max_length=100, min_cells=4)
    assert IDS[-2] not in few.ids  # seen in three cells
    assert IDS[-2] in Vocabulary.from_adata(corpus, name="own", max_length=100, min_cells=3).ids
    with pytest.raises(ValueError, match="No gene is expressed in 1000"):
        Vocabulary.from_adata(corpus, name="own", max_length=100, min_cells=1000)


def test_genes_with_one_id_are_summed(corpus: list[ad.AnnData]) -> None:
    twice = corpus[0].copy()
    twice.var["gene_ids"] = [name.replace(f"{IDS[1]}.1", f"{IDS[2]}.7") for name in twice.var["gene_ids"]]
    summed = corpus[0].copy()
    one, two = (int(np.flatnonzero(summed.var["gene_ids"] == f"{IDS[i]}.1")[0]) for i in (1, 2))
    X = summed.X.toarray()
    X[:, two] += X[:, one]
    X[:, one] = 0
    totals = corpus[0].X.sum(axis=1)
    assert (X.sum(axis=1, keepdims=True) == totals).all()
    summed.X = sparse.csr_matrix(X)
    own = Vocabulary.from_adata(twice, name="own", max_length=100)
    check(own, medians([summed]))
    assert own.tokens_of(["Gene1", "Gene2"]).tolist() == [own.token_of([IDS[2]])[0]] * 2


def test_genes_without_ids(corpus: list[ad.AnnData]) -> None:
    plain = corpus[0].copy()
    plain.var = plain.var[[]]
    own = Vocabulary.from_adata(plain, name="own", max_length=100)
    assert set(own.ids[4:]) < set(plain.var_names)
    assert own.tokens_of(["GENE3"]) == own.token_of(["Gene3"])
    with pytest.raises(ValueError, match="Some data sets name genes by Ensembl ids and others do not"):
        Vocabulary.from_adata([plain, corpus[1]], name="own", max_length=100)
    assert Vocabulary.from_adata(corpus[0], name="own", max_length=100, gene_ids="var_names") == own


def test_some_genes_without_ids(corpus: list[ad.AnnData]) -> None:
    some = corpus[0].copy()
    gone = some.var["gene_ids"].iloc[0]
    some.var["gene_ids"] = some.var["gene_ids"].replace(gone, "UNMAPPED_1")
    expected = medians(corpus[:1])
    expected.pop(gone.split(".")[0], None)
    check(Vocabulary.from_adata(some, name="own", max_length=100), expected)


def test_ids_in_var_names(corpus: list[ad.AnnData]) -> None:
    turned = corpus[0].copy()
    turned.var["gene_symbols"] = turned.var_names
    turned.var_names = turned.var.pop("gene_ids")
    own = Vocabulary.from_adata(turned, name="own", max_length=100)
    check(own, medians(corpus[:1]))
    assert own.symbols[own.tokens_of(["gene4"])[0]] == "Gene4"


def test_a_symbol_of_two_genes_is_no_alias(corpus: list[ad.AnnData]) -> None:
    swapped = corpus[1].copy()
    swapped.var_names = [{"Gene1": "Gene2", "Gene2": "Gene1"}.get(name, name) for name in swapped.var_names]
    own = Vocabulary.from_adata([corpus[0], swapped], name="own", max_length=100)
    assert own.tokens_of(["Gene1", "Gene2"]).tolist() == [-1, -1]
    assert own.tokens_of(["Gene3"]) >= 4


def test_logarithms_are_refused(corpus: list[ad.AnnData], tmp_path: Path) -> None:
    logarithms = corpus[0].copy()
    logarithms.X = logarithms.X.log1p()
    logarithms.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"\.X of .*a\.h5ad looks log-normalised"):
        Vocabulary.from_adata(tmp_path / "a.h5ad", name="own", max_length=100)
    with pytest.raises(ValueError, match="'exact' or 'tdigest'"):
        Vocabulary.from_adata(corpus, name="own", max_length=100, method="mean")


def test_data_read_lazily(corpus: list[ad.AnnData], tmp_path: Path) -> None:
    corpus[0].write_h5ad(tmp_path / "x.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "x.h5ad")
    vocabulary = Vocabulary.from_adata(lazy, name="own", max_length=50, total_counts="n_counts")
    check(vocabulary, medians(corpus[:1], "n_counts"))
    assert vocabulary == Vocabulary.from_adata(corpus[0], name="own", max_length=50, total_counts="n_counts")
