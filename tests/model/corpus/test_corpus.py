from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scgeneformer as sg
from scgeneformer.model.corpus._corpus import Corpus
from scgeneformer.model.corpus._loader import ahead
from scgeneformer.model.data._masking import Masking

SMALL = {"block_cells": 8, "blocks_in_memory": 3, "token_budget": 80}


def counts(n_obs: int, vocabulary: sg.Vocabulary, seed: int = 0, dtype: type = np.float32) -> ad.AnnData:
    """Counts with ties, explicit zeros, empty cells, genes that the vocabulary does not know and genes that are there twice."""
    rng = np.random.default_rng(seed)
    known = vocabulary.ids[vocabulary.n_special :]
    names = [*rng.permutation(known), *(f"{gene}.1" for gene in known[:3]), "unknown1", "unknown2"]
    X = sparse.random(n_obs, len(names), density=0.3, format="csr", random_state=rng)
    X.data = rng.integers(0, 5, X.nnz)
    X = X.multiply(rng.random((n_obs, 1)) < 0.9).tocsr()
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_obs)])
    return ad.AnnData(X.astype(dtype), obs=obs, var=pd.DataFrame(index=names))


def tokenized(adata: ad.AnnData, vocabulary: sg.Vocabulary, **kwargs) -> list[tuple[int, ...]]:
    """Tokens of all cells that have any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sg.pp.tokenize(adata, vocabulary, **kwargs)
    return sorted(tuple(row[row != 0].tolist()) for row in adata.obsm["geneformer_tokens"] if row.any())


def streamed(loader) -> list[tuple[int, ...]]:
    """Cells of a pass, with masked tokens restored."""
    cells = []
    for batch in loader:
        tokens = batch["tokens"].clone()
        tokens[batch["where"]] = batch["targets"]
        assert torch.equal((tokens != 0).sum(1), batch["lengths"])
        cells += [tuple(row[row != 0].tolist()) for row in tokens]
    return sorted(cells)


@pytest.fixture(params=[2, 4], ids=["V1-like", "V2-like"])
def any_vocabulary(request, toy) -> sg.Vocabulary:
    return toy[0](special=request.param)


@pytest.fixture
def folder(vocabulary, tmp_path):
    """Three files of two formats, and one to validate with."""
    sizes = {"a.h5ad": 37, "b.zarr": 20, "c.h5ad": 3, "held_out/d.zarr": 11}
    (tmp_path / "held_out").mkdir()
    for seed, (name, n) in enumerate(sizes.items()):
        adata = counts(n, vocabulary, seed)
        (adata.write_zarr if name.endswith("zarr") else adata.write_h5ad)(tmp_path / name)
    return tmp_path


def read(folder, *names) -> list[ad.AnnData]:
    return [(ad.read_zarr if name.endswith("zarr") else ad.read_h5ad)(folder / name) for name in names]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_tokens_are_those_of_tokenize(any_vocabulary, tmp_path, suffix, dtype):
    adata = counts(50, any_vocabulary, dtype=dtype)
    adata.layers["counts"], adata.X = adata.X, None
    (adata.write_zarr if suffix == "zarr" else adata.write_h5ad)(tmp_path / f"cells.{suffix}")
    corpus = Corpus(tmp_path, any_vocabulary, layer="counts", max_length=15, validation=0, **SMALL)
    assert corpus.longest == 15
    assert streamed(corpus.train_dataloader()) == tokenized(adata, any_vocabulary, layer="counts", max_length=15)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 30), st.integers(1, 4), st.integers(8, 400))
@settings(max_examples=12, deadline=None)
def test_every_cell_once_whatever_the_blocks(tmp_path_factory, seed, n, block_cells, together, budget):
    ids = ["<pad>", "<mask>", "<cls>", "<eos>", *(f"ENSG{i:011d}" for i in range(30))]
    vocabulary = sg.Vocabulary("toy", np.array(ids), np.r_[[np.nan] * 4, np.arange(1.0, 31)], 64)
    path = tmp_path_factory.mktemp("corpus") / "cells.h5ad"
    adata = counts(n, vocabulary, seed)
    adata.X = adata.X + sparse.csr_matrix(([1], ([0], [0])), shape=adata.shape)  # at least one gene in the file
    adata.write_h5ad(path)
    options = {"validation": 0, "block_cells": block_cells, "blocks_in_memory": together, "token_budget": budget}
    loader = Corpus(path, vocabulary, **options).train_dataloader()
    loader.sampler.set_epoch(seed)
    assert streamed(loader) == tokenized(adata, vocabulary)


def test_logarithms_are_undone(vocabulary, tmp_path):
    adata = counts(30, vocabulary)
    expected = tokenized(adata.copy(), vocabulary)
    adata.X.data = np.log2(adata.X.data.astype(np.float64) + 1)
    adata.uns["log1p"] = {"base": 2}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match=r"X of .*cells\.h5ad looks log-normalised.*counts='log1p'"):
        Corpus(tmp_path, vocabulary)
    corpus = Corpus(tmp_path, vocabulary, counts="log1p", validation=0, **SMALL)
    assert streamed(corpus.train_dataloader()) == expected


def test_many_files_and_files_to_validate_with(folder, vocabulary):
    corpus = Corpus(folder, vocabulary, validation=folder / "held_out", **SMALL)
    assert [path.name for path in corpus.files] == ["a.h5ad", "b.zarr", "c.h5ad", "d.zarr"]
    assert (corpus.n_train, corpus.n_val) == (60, 11)
    training = read(folder, "a.h5ad", "b.zarr", "c.h5ad")
    assert streamed(corpus.train_dataloader()) == sorted(sum((tokenized(a, vocabulary) for a in training), []))
    assert streamed(corpus.val_dataloader()) == tokenized(*read(folder, "held_out/d.zarr"), vocabulary)


def test_whole_blocks_are_held_out(folder, vocabulary):
    corpus = Corpus(str(folder / "*.h5ad"), vocabulary, validation=0.4, **SMALL)  # 6 blocks, of which 2
    everything = sorted(sum((tokenized(a, vocabulary) for a in read(folder, "a.h5ad", "c.h5ad")), []))
    training, held_out = streamed(corpus.train_dataloader()), streamed(corpus.val_dataloader())
    assert sorted(training + held_out) == everything
    assert (len(training), len(held_out)) == (corpus.n_train, corpus.n_val)
    blocks = np.array_split(range(37), range(8, 37, 8)) + [range(37, 40)]
    assert {len(blocks[i]) + len(blocks[j]) for i in range(6) for j in range(i)} >= {corpus.n_val}
    other = Corpus(str(folder / "*.h5ad"), vocabulary, validation=0.4, rng=3, **SMALL)
    assert streamed(other.val_dataloader()) != held_out
    assert Corpus(folder / "a.h5ad", vocabulary, validation=0).val_dataloader() is None


def batches(corpus: Corpus, epoch: int, place: int = 0) -> list[dict[str, torch.Tensor]]:
    loader = corpus.train_dataloader()
    loader.sampler.set_epoch(epoch)
    loader.load_state_dict({"place": place})
    return list(loader)


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a
    )


def test_order_and_masks_depend_on_rng_and_epoch_only(folder, vocabulary):
    corpus = Corpus(folder, vocabulary, **SMALL)
    first = batches(corpus, 1)
    assert same(first, batches(corpus, 1))
    assert same(first, batches(Corpus(folder, vocabulary, **SMALL), 1))
    assert not same(first, batches(corpus, 2))
    assert len(batches(corpus, 2)) == len(first) == len(corpus.train_dataloader())
    assert not same(first, batches(Corpus(folder, vocabulary, **SMALL, rng=1), 1))
    assert same(list(corpus.val_dataloader()), list(corpus.val_dataloader()))


@pytest.mark.parametrize("place", [1, 3, 9])
def test_a_loader_resumes_where_another_stopped(folder, vocabulary, place):
    corpus = Corpus(folder, vocabulary, **SMALL)
    expected = batches(corpus, 4)
    first = corpus.train_dataloader()
    first.sampler.set_epoch(4)
    some = iter(first)
    for _ in range(place):
        next(some)
    assert first.state_dict() == {"place": place}
    assert same(batches(corpus, 4, **first.state_dict()), expected[place:])


def test_masks_belong_to_cells(folder, vocabulary):
    """A cell has the same mask in another batch, found by its tokens. Masks differ between epochs, but not between validations."""

    def masks(corpus, epoch):
        found = {}
        for batch in batches(corpus, epoch):
            tokens = batch["tokens"].clone()
            tokens[batch["where"]] = batch["targets"]
            for row, seen, n in zip(tokens.tolist(), batch["tokens"].tolist(), batch["lengths"].tolist(), strict=True):
                found[tuple(row[:n])] = seen[:n]
        return found

    one = Corpus(folder, vocabulary, validation=0, **SMALL)
    other = Corpus(folder, vocabulary, validation=0, batch_size=5, block_cells=20)
    assert masks(one, 3) == masks(other, 3)
    assert masks(one, 3) != masks(one, 4)


def test_cells_known_to_be_empty_only_when_read(toy, tmp_path):
    """With a vocabulary without <cls>, cells of unknown genes have no tokens, and even a whole batch may have none."""
    vocabulary = toy[0](special=2)
    adata = counts(24, vocabulary)
    adata.X[:12] = 0
    adata.X[:12, -1] = 3  # an unknown gene
    adata.X.eliminate_zeros()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    loader = Corpus(tmp_path, vocabulary, validation=0, block_cells=4, batch_size=2).train_dataloader()
    made = list(loader)
    assert len(made) == len(loader)
    fillers = [batch for batch in made if not batch["where"].any() and batch["tokens"][0, 0] == vocabulary.mask_id]
    assert fillers
    rest = [batch for batch in made if not any(batch is filler for filler in fillers)]
    assert streamed(rest) == tokenized(adata, vocabulary)


def test_trains_validates_and_resumes(folder, vocabulary, quick, tmp_path):
    def run(steps, name, **kwargs):
        torch.manual_seed(0)
        model = sg.model.Geneformer(vocabulary=vocabulary, n_layers=1, width=8, n_heads=1, dropout=0.1)
        corpus = Corpus(folder, vocabulary, **SMALL)
        kwargs |= {"checkpoints": tmp_path / name, "plan_kwargs": {"total_steps": 30}, "learning_rate": 1e-2}
        model.train(max_steps=steps, datamodule=corpus, rng=5, **quick, **kwargs)
        return model, len(corpus.train_dataloader())

    quick.pop("token_budget")
    whole, n = run(30, "whole")
    assert 10 < n < 25  # the end lies within the second epoch or behind it
    run(n + 3, "parts")
    resumed, _ = run(30, "parts", ckpt_path=tmp_path / "parts" / "last.ckpt")
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)
    pd.testing.assert_frame_equal(whole.history["train_loss_step"], resumed.history["train_loss_step"])
    pd.testing.assert_frame_equal(whole.history["validation_loss"], resumed.history["validation_loss"])
    whole.save(tmp_path / "saved")
    assert sg.model.Geneformer.load(tmp_path / "saved").vocabulary == vocabulary
    assert whole.history["train_loss_step"].iloc[-5:].mean().item() < whole.history["train_loss_step"].iloc[0].item()


def test_the_plans_masks_are_used(folder, vocabulary):
    corpus = Corpus(folder, vocabulary, **SMALL)
    loader = corpus.train_dataloader()
    loader.masking = Masking.over(vocabulary, rule="geneformer", seed=9)
    hidden = torch.cat([batch["targets"] for batch in loader])
    assert torch.isin(torch.tensor([2, 3]), hidden).all()


def test_a_model_that_does_not_fit(folder, vocabulary, toy):
    corpus = Corpus(folder, vocabulary)
    corpus.check_fits(vocabulary, corpus.longest)
    with pytest.raises(ValueError, match=r"'toy'.*'foreign'"):
        corpus.check_fits(toy[0]("foreign", 41), 64)
    with pytest.raises(ValueError, match=r"positions\..*max_length=10"):
        corpus.check_fits(vocabulary, 10)
    model = sg.model.Geneformer(vocabulary=vocabulary, n_layers=1, width=8, n_heads=1)
    assert Corpus(folder, model).vocabulary is model.vocabulary


def write(tmp_path, adata, name="cells.h5ad"):
    adata.write_h5ad(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    ("form", "message"),
    [(np.asarray, "as a dense array.*Store it as CSR"), (sparse.csc_matrix, r"by genes \(CSC\).*Store it as CSR")],
)
def test_counts_that_cannot_be_read_by_cells(tmp_path, vocabulary, form, message):
    adata = counts(20, vocabulary)
    adata.X = form(adata.X.toarray())
    with pytest.raises(ValueError, match=message):
        Corpus(write(tmp_path, adata), vocabulary)


def test_bad_files(tmp_path, vocabulary):
    adata = counts(20, vocabulary)
    path = write(tmp_path, adata)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Corpus([path, tmp_path / "nowhere.h5ad"], vocabulary)
    with pytest.raises(FileNotFoundError, match=r"\*\.zarr"):
        Corpus(tmp_path / "*.zarr", vocabulary)
    with pytest.raises(ValueError, match="named twice"):
        Corpus([path, tmp_path], vocabulary)
    with pytest.raises(ValueError, match="named twice"):
        Corpus(path, vocabulary, validation=path)
    with pytest.raises(KeyError, match=r"no layers/raw.*`layer=`"):
        Corpus(path, vocabulary, layer="raw")
    with pytest.raises(KeyError, match="No column 'symbol'"):
        Corpus(path, vocabulary, gene_ids="symbol")
    with pytest.raises(ValueError, match=r"1 block\(s\) of 1,024 cells: none can be held out"):
        Corpus(path, vocabulary)
    with pytest.raises(ValueError, match=r"validation=1\.5"):
        Corpus(path, vocabulary, validation=1.5)
    with pytest.raises(ValueError, match="max_length=3"):
        Corpus(path, vocabulary, max_length=3)
    with pytest.raises(ValueError, match="block_cells=0"):
        Corpus(path, vocabulary, block_cells=0)
    adata.var_names = [f"other{i}" for i in range(adata.n_vars)]
    with pytest.raises(
        ValueError, match=r"'toy' knows the genes of 0\.0% of the counts in X of .*strangers.*`gene_ids=`"
    ):
        Corpus(write(tmp_path, adata, "strangers.h5ad"), vocabulary)
    with pytest.raises(ValueError, match="nothing to train on"):
        Corpus(write(tmp_path, counts(3, vocabulary)[:0].copy(), "empty.h5ad"), vocabulary, validation=0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize(
    "read", [Corpus, lambda path, _: sg.Vocabulary.from_adata(path, name="x", max_length=9)], ids=["corpus", "medians"]
)
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path, vocabulary, read):
    os.mkfifo(tmp_path / "pipe.h5ad")
    with pytest.raises(ValueError, match=r"pipe\.h5ad is not a file but a pipe"):
        read(tmp_path / "pipe.h5ad", vocabulary)


def test_a_file_of_which_little_is_known(tmp_path, vocabulary):
    adata = counts(20, vocabulary)
    adata.var_names = [name if i < 15 else f"other{i}" for i, name in enumerate(adata.var_names)]
    share = adata.X[:, :15].sum() / adata.X.sum()
    assert share < 0.5
    with pytest.warns(UserWarning, match=f"{share:.1%} of the counts in X of .*`gene_ids=`") as caught:
        Corpus(write(tmp_path, adata), vocabulary, validation=0)
    ours = [warning for warning in caught if "gene_ids" in str(warning.message)]  # newer zarr warns, too
    assert [Path(warning.filename).name for warning in ours] == ["test_corpus.py"]


def test_values_are_checked_where_they_are_read(tmp_path, vocabulary):
    adata = counts(5000, vocabulary)
    adata.X.data[adata.X.indptr[1000]] = -1  # not in the sample
    corpus = Corpus(write(tmp_path, adata), vocabulary, validation=0)
    with pytest.raises(ValueError, match=r"X of .*cells\.h5ad has negative values"):
        list(corpus.train_dataloader())


def test_a_file_can_be_written_again_after_a_pass(tmp_path, vocabulary):
    path = write(tmp_path, counts(20, vocabulary))
    list(Corpus(path, vocabulary, validation=0).train_dataloader())
    write(tmp_path, counts(20, vocabulary, 1))


def test_ahead_is_the_same_iterator_in_a_thread():
    threads = set()

    def items():
        for i in range(10):
            threads.add(threading.get_ident())
            yield i
        if len(threads) < 99:
            msg = "at the end"
            raise OSError(msg)

    made = ahead(items(), 3)
    assert [next(made) for _ in range(10)] == list(range(10))
    with pytest.raises(OSError, match="at the end"):
        next(made)
    assert threading.get_ident() not in threads
    assert list(ahead(iter([]), 2)) == []


def test_trains_by_a_recipe(folder, vocabulary, quick):
    """The recipe gives the number of cells per batch, which the corpus adopts."""
    quick.pop("token_budget")
    model = sg.model.Geneformer(vocabulary=vocabulary, n_layers=1, width=8, n_heads=1)
    corpus = Corpus(folder, vocabulary, **SMALL)
    recipe = sg.model.recipe("V1-10M") | {"max_epochs": 1, "warmup": 0.1, "accumulate": 1}
    model.train(datamodule=corpus, **recipe, **quick)
    assert corpus.batch_size == 12
    assert len(model.history["train_loss_step"]) == len(corpus.train_dataloader())
