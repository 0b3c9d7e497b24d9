"""Data sets of tokenized cells: read as recorded, written as the library `datasets` reads them, and back again without a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lists(adata: ad.AnnData, slot: str = "geneformer_tokens") -> list[list]:
    return [row[:n].tolist() for row, n in zip(np.asarray(adata.obsm[slot]), adata.obs["n_tokens"], strict=True)]


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_recorded_tokens_are_those_of_pp_tokenize(
    shared: Path, official: Callable, save_to_disk: Callable, version: str
) -> None:
    """Outside ties, whose order official Geneformer leaves to the processor."""
    recorded = pd.read_parquet(shared / "conformance" / "tokens" / f"csr_f32_keepcounts_{version}.parquet")
    columns = {"input_ids": recorded["input_ids"].tolist(), "counts": recorded["counts"].tolist()}
    columns |= {"cell": recorded["cell"].tolist(), "length": recorded["length"].tolist()}
    path = save_to_disk(columns, input_ids=pa.list_(pa.int32()), counts=pa.list_(pa.float64()))
    theirs = sg.read_official(path, official(version), obs_names="cell")
    assert lists(theirs) == [ids.tolist() for ids in recorded["input_ids"]]

    ours = ad.read_h5ad(shared / "conformance" / "inputs" / "csr_f32.h5ad")
    sg.pp.tokenize(ours, official(version), gene_ids="ensembl_id", keep_counts=True, total_counts="n_counts")
    ours = ours[theirs.obs_names]
    np.testing.assert_array_equal(theirs.obs["n_tokens"], ours.obs["n_tokens"])
    assert theirs.obs["token_vocabulary"].tolist() == ours.obs["token_vocabulary"].tolist()
    a, b = theirs.obsm["geneformer_tokens"], ours.obsm["geneformer_tokens"]
    assert a.dtype == b.dtype == np.uint16
    assert a.shape == b.shape
    np.testing.assert_array_equal(np.sort(a, axis=1), np.sort(b, axis=1))
    assert (a != b).sum() / (a > 0).sum() < 0.02
    # genes in another order are tied
    medians = official(version).medians
    counts = theirs.obsm["geneformer_tokens_counts"] / np.nan_to_num(medians, nan=1)[a]
    others = ours.obsm["geneformer_tokens_counts"] / np.nan_to_num(medians, nan=1)[b]
    np.testing.assert_allclose(counts, others, rtol=1e-5)


def test_tools_go_on_from_what_was_read(cells, vocabulary, tmp_path):
    network = sg.nn.MaskedGeneModel(
        sg.nn.EncoderConfig(n_layers=1, width=8, n_heads=2, feed_forward=8, vocab_size=44, max_length=32)
    )
    sg.nn.save_checkpoint(tmp_path / "model", network)
    vocabulary.save(tmp_path / "model" / "vocabulary.json")
    sg.export_official(cells, tmp_path / "c.dataset", vocabulary)
    read = sg.read_official(tmp_path / "c.dataset", tmp_path / "model")
    for adata in (cells, read):
        sg.tl.embed(adata, None if adata is read else tmp_path / "model", pooling="mean", emb_layer=0)
        sg.tl.perturb(adata, tmp_path / "model", ["ENSG00000000003"], groupby="type", source="T", target="B")
        sg.tl.rank_shifts(adata)
    np.testing.assert_array_equal(read.obsm["X_geneformer"], cells.obsm["X_geneformer"])
    np.testing.assert_array_equal(read.varm["shift"]["effect"], cells.varm["shift"]["effect"])
    read.write_h5ad(tmp_path / "read.h5ad")
    assert lists(ad.read_h5ad(tmp_path / "read.h5ad")) == lists(cells)


def test_round_trip_is_exact(cells, vocabulary, tmp_path):
    sg.export_official(cells, tmp_path / "a.dataset", vocabulary)
    read = sg.read_official(tmp_path / "a.dataset", vocabulary)
    for slot in ("geneformer_tokens", "geneformer_tokens_counts"):
        np.testing.assert_array_equal(read.obsm[slot], cells.obsm[slot])
        assert read.obsm[slot].dtype == cells.obsm[slot].dtype
    assert read.obs_names.tolist() == cells.obs_names.tolist()
    pd.testing.assert_frame_equal(read.obs, cells.obs[read.obs.columns], check_categorical=False, check_dtype=False)
    assert set(read.obs) == set(cells.obs)
    np.testing.assert_array_equal(read.var["token_id"], cells.var["token_id"])
    assert read.var["gene_symbols"].iloc[3] == "S3"
    sg.export_official(read, tmp_path / "b.dataset", vocabulary)
    again = sg.read_official(tmp_path / "b.dataset", vocabulary)
    pd.testing.assert_frame_equal(again.obs, read.obs)
    for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        assert (tmp_path / "b.dataset" / name).is_file()


def test_dask_tokens_and_cells_of_a_mudata(cells, vocabulary, tmp_path):
    import dask.array as da
    import mudata

    whole = lists(cells)
    cells.obsm["geneformer_tokens"] = da.from_array(cells.obsm["geneformer_tokens"], chunks=(8, -1))
    sg.export_official(mudata.MuData({"rna": cells}), tmp_path / "a.dataset", vocabulary)
    assert lists(sg.read_official(tmp_path / "a.dataset", vocabulary)) == whole


def test_the_library_datasets_reads_what_is_written_and_is_read(cells, vocabulary, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    sg.export_official(cells, tmp_path / "ours.dataset", vocabulary)
    loaded = datasets.load_from_disk(str(tmp_path / "ours.dataset"))
    assert [list(ids) for ids in loaded["input_ids"]] == lists(cells)
    assert list(loaded["length"]) == cells.obs["n_tokens"].tolist()
    assert list(loaded["type"]) == cells.obs["type"].tolist()
    selected = loaded.filter(lambda row: row["ill"]).sort("length", reverse=True)
    selected.save_to_disk(str(tmp_path / "theirs.dataset"), num_shards=2)
    read = sg.read_official(tmp_path / "theirs.dataset", vocabulary)
    assert lists(read) == lists(cells[read.obs_names])
    assert read.n_obs == cells.obs["ill"].sum()


def rows(n: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [[2, *(4 + rng.permutation(40)[:9]).tolist(), 3] for _ in range(n)]


IDS = rows()
WRONG = {
    "no tokens": ({"other": [1] * 20}, "no column 'input_ids'"),
    "text": ({"input_ids": [["a"]] * 20}, "must hold lists of tokens"),
    "numbers": ({"input_ids": list(range(20))}, "must hold lists of tokens"),
    "floats": ({"input_ids": [[2.0, 3.0]] * 20}, "must hold lists of tokens"),
    "missing cell": ({"input_ids": [None, *IDS[1:]]}, "missing values"),
    "missing token": ({"input_ids": [[2, None, 3], *IDS[1:]]}, "missing values"),
    "token beyond": ({"input_ids": [[2, 44, 3], *IDS[1:]]}, "has token 44"),
    "huge token": ({"input_ids": [[2, 2**40, 3], *IDS[1:]]}, "has token 1,099,511,627,776"),
    "negative token": ({"input_ids": [[2, -1, 3], *IDS[1:]]}, "has token -1"),
    "padding": ({"input_ids": [[2, 5, 3, 0], *IDS[1:]]}, "has token 0"),
    "gene twice": ({"input_ids": [[2, 5, 5, 3], *IDS[1:]]}, "Cell 0 .* a gene twice"),
    "no special tokens": ({"input_ids": [*IDS[:-1], [5, 6]]}, "Cell 19 .* special tokens"),
    "too long": ({"input_ids": [[2, *range(4, 40), 3], *IDS[1:]]}, "cells of 38 tokens"),
    "other lengths": (
        {"input_ids": IDS, "length": [11] * 19 + [10]},
        "lengths or counts that do not match",
    ),
    "other counts": ({"input_ids": IDS, "counts": [[1.0] * 10] * 20}, "lengths or counts that do not match"),
    "text as counts": ({"input_ids": IDS, "counts": ["a"] * 20}, "must hold lists of numbers"),
    "column of ours": ({"input_ids": IDS, "n_tokens": [1] * 20}, "a column 'n_tokens'"),
    "names twice": ({"input_ids": IDS, "obs_names": ["a"] * 20}, "does not name cells"),
    "no cells": ({"input_ids": []}, "no cells|must hold lists"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_columns_are_refused_by_the_path(save_to_disk, vocabulary, what):
    columns, error = WRONG[what]
    path = save_to_disk(columns)
    with pytest.raises(ValueError, match=error) as raised:
        sg.read_official(path, vocabulary)
    assert str(path) in str(raised.value)


def test_damaged_folders_are_refused(save_to_disk, vocabulary, tmp_path):
    path = save_to_disk({"input_ids": IDS})
    data, state = path / "data-00000-of-00002.arrow", path / "state.json"
    content = data.read_bytes()
    for size in (0, 1, 7, 100, len(content) // 2, len(content) - 60):
        data.write_bytes(content[:size])
        with pytest.raises(ValueError, match="damaged|no column") as raised:
            sg.read_official(path, vocabulary)
        assert str(path) in str(raised.value)
    data.write_bytes(content)
    listed = state.read_text()
    (tmp_path / "outside.arrow").write_bytes(content)
    for text in (
        "",
        "[]",
        '{"_data_files": 3}',
        '{"_data_files": [{"filename": "../outside.arrow"}]}',
        '{"_data_files": [{"filename": "/etc/passwd"}]}',
        listed[:-1] + ', "_indices_data_files": [{"filename": "indices.arrow"}]}',
        "[" * 100_000,
    ):
        state.write_text(text)
        with pytest.raises(ValueError, match="does not list the arrow files"):
            sg.read_official(path, vocabulary)
    state.write_text('{"_data_files": [{"filename": "none.arrow"}]}')
    with pytest.raises(ValueError, match=r"lacks none\.arrow"):
        sg.read_official(path, vocabulary)


def test_changed_bytes_give_an_error_or_valid_tokens(save_to_disk, vocabulary):
    path = save_to_disk({"input_ids": IDS, "length": [11] * 20}, n_files=1)
    data = path / "data-00000-of-00001.arrow"
    content, rng, errors = data.read_bytes(), np.random.default_rng(0), []
    for _ in range(200):
        changed = bytearray(content)
        changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
        data.write_bytes(bytes(changed))
        try:
            read = sg.read_official(path, vocabulary)
        except ValueError as raised:
            errors.append(str(raised))
        else:
            assert read.obsm["geneformer_tokens"].max() < len(vocabulary)
    assert errors
    assert all(str(path) in error for error in errors)


def test_tokens_of_another_vocabulary_are_refused(save_to_disk, cells, vocabulary, tmp_path):
    first = sg.Vocabulary(
        "first", np.r_[vocabulary.ids[:2], vocabulary.ids[4:]], np.r_[vocabulary.medians[:2], np.ones(40)], 32
    )
    path = save_to_disk({"input_ids": [[token for token in row if token < 42] for row in rows()]})
    with pytest.raises(ValueError, match="begin and end with special tokens"):
        sg.read_official(path, first)
    with pytest.raises(ValueError, match="numbers of genes, not their names"):
        sg.read_official(path)
    with pytest.raises(ValueError, match="were made with vocabulary 'toy'"):
        sg.export_official(cells, tmp_path / "a.dataset", first)
    assert not (tmp_path / "a.dataset").exists()


def test_lists_beside_the_tokens_are_left_out_with_a_warning(save_to_disk, vocabulary):
    path = save_to_disk({"input_ids": IDS, "input_ids_uncropped": IDS, "age": list(range(20))}, n_files=1)
    with pytest.warns(UserWarning, match="input_ids_uncropped"):
        read = sg.read_official(path, vocabulary)
    assert read.obs["age"].tolist() == list(range(20))


def test_what_cannot_be_written_is_refused_and_nothing_is_left(cells, vocabulary, tmp_path):
    for name, column, error in (
        ("mixed", [1, "a"] * 15, "cannot be written"),
        ("day", pd.to_datetime(["2020-01-01"] * 30), "cannot be written"),
        ("counts", [1] * 30, "name of a column of the data set"),
        ("obs_names", ["a"] * 30, "names of cells"),
    ):
        adata = cells.copy()
        adata.obs[name] = column
        before = adata.obs.copy()
        with pytest.raises(ValueError, match=error):
            sg.export_official(adata, tmp_path / "a.dataset", vocabulary)
        pd.testing.assert_frame_equal(adata.obs, before)
    with pytest.raises(ValueError, match="must end in '.dataset'"):
        sg.export_official(cells, tmp_path / "a.csv", vocabulary)
    with pytest.raises(ValueError, match="for statistics and embeddings"):
        sg.export_official(cells, tmp_path / "a.dataset", vocabulary, key="shift")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.dataset").mkdir()
    with pytest.raises(FileExistsError, match="is not overwritten"):
        sg.export_official(cells, tmp_path / "a.dataset", vocabulary)
