"""The command line loses no data: outputs are checked before the computation and replaced as a whole."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scgeneformer as sg
from scgeneformer import hub
from scgeneformer.cli import main
from scgeneformer.nn import EncoderConfig, MaskedGeneModel, save_checkpoint
from scgeneformer.nn._encoder import Embedding

FORMATS = ("h5ad", "h5mu", "zarr")


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    rng = np.random.default_rng(0)
    return ad.AnnData(
        sparse.csr_matrix(rng.poisson(0.7, (24, 40)).astype(np.float32)),
        obs=pd.DataFrame({"state": pd.Categorical(["a", "b", "c"] * 8)}, index=[f"cell{i}" for i in range(24)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(40)]),
        uns={"number": 3, "word": "text"},
    )


@pytest.fixture(scope="module")
def model(cells, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    vocabulary = sg.Vocabulary.from_adata(cells, name="tiny", max_length=64)
    shape = {"n_layers": 2, "width": 16, "n_heads": 2, "feed_forward": 32, "max_length": 64}
    save_checkpoint(folder, MaskedGeneModel(EncoderConfig(vocab_size=len(vocabulary), **shape)))
    vocabulary.save(folder / "vocabulary.json")
    return folder


@pytest.fixture
def no_model(monkeypatch) -> None:
    """Fail where a model or its vocabulary is loaded."""
    for name in ("load", "vocabulary"):
        monkeypatch.setattr(hub, name, lambda *args, **kwargs: pytest.fail("loaded a model"))


def write(cells: ad.AnnData, path: Path) -> Path:
    if path.suffix == ".h5mu":
        mudata.MuData({"rna": cells}).write(path)
    else:
        getattr(cells, f"write_{path.suffix[1:]}")(path)
    return path


def read(path: Path) -> ad.AnnData:
    return mudata.read_h5mu(path)["rna"] if path.suffix == ".h5mu" else getattr(ad, f"read_{path.suffix[1:]}")(path)


def error_of(arguments: list, capsys) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    *warned, error = capsys.readouterr().err.splitlines(keepends=True)
    assert all(
        line.startswith("scgeneformer: warning: ") for line in warned
    )  # mudata's, in whichever test it comes first
    assert error.startswith("scgeneformer: error: ")
    return error


KILLED = """
import os, signal, sys
from anndata._io.specs.registry import Writer
from scgeneformer.cli import main

n_written, write_elem, step = 0, Writer.write_elem, sys.argv[1]

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def rename(source, target, replace=os.replace):
    return kill() if str(target).endswith("x.zarr") else replace(source, target)

def write_some(self, *args, **kwargs):
    global n_written
    n_written += 1
    return kill() if n_written == 12 else write_elem(self, *args, **kwargs)

if step == "write":
    Writer.write_elem = write_some
else:
    os.replace = rename
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("ending", "step"), [*((ending, "write") for ending in FORMATS), ("zarr", "exchange")])
def test_a_process_killed_over_its_own_input_leaves_it_whole(cells, model, tmp_path, capsys, ending, step) -> None:
    path = write(cells, tmp_path / f"x.{ending}")
    command = ["tokenize", str(path), str(path), "--model", str(model), "--overwrite"]
    killed = subprocess.run([sys.executable, "-c", KILLED, step, *command], stdout=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".x.*.unfinished"))
    if step == "write":
        found = read(path)
        assert (found.X != cells.X).nnz == 0
        assert "geneformer_tokens" not in found.obsm
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "unfinished is left from an interrupted run" in told
    assert ("put back" in told) == (step == "exchange")
    assert "geneformer_tokens" in read(path).obsm
    assert (read(path).X != cells.X).nnz == 0


@pytest.mark.parametrize("ending", FORMATS)
def test_a_failing_write_leaves_the_input_and_nothing_else(cells, model, tmp_path, capsys, monkeypatch, ending) -> None:
    path = write(cells, tmp_path / f"x.{ending}")
    kind = mudata.MuData if ending == "h5mu" else ad.AnnData

    def fill_the_disk(self, target) -> None:
        (target.mkdir if ending == "zarr" else target.touch)()
        msg = "no space left\non device"
        raise OSError(msg)

    monkeypatch.setattr(kind, "write" if ending == "h5mu" else f"write_{ending}", fill_the_disk)
    error = error_of(["tokenize", path, path, "--model", model, "--overwrite"], capsys)
    assert "no space left on device" in error
    assert list(tmp_path.iterdir()) == [path]
    assert read(path).shape == cells.shape


def test_links_and_permissions_stay(cells, model, tmp_path) -> None:
    path = write(cells, tmp_path / "x.h5ad")
    path.chmod(0o640)
    link = tmp_path / "link.h5ad"
    link.symlink_to(path)
    assert main(["tokenize", str(path), str(link), "--model", str(model), "--overwrite"]) == 0
    assert link.is_symlink()
    assert "geneformer_tokens" in read(path).obsm
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("foreign", ["notes.txt", "obs/notes.txt", "X/notes.txt", "uns/folder/0", "X/c/notes/0"])
def test_foreign_files_in_a_zarr_store_survive(cells, tmp_path, capsys, no_model, zarr_format, foreign) -> None:
    dense = cells.copy()
    dense.X = dense.X.toarray()
    with ad.settings.override(zarr_write_format=zarr_format):
        path = write(dense, tmp_path / "x.zarr")
    note = path / foreign
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("mine")
    error = error_of(["tokenize", path, path], capsys)
    assert str(path / Path(foreign).parts[0]) in error
    assert note.read_text() == "mine"


def test_a_folder_that_is_no_anndata_survives(cells, tmp_path, capsys, no_model) -> None:
    import zarr

    path, folder, store = write(cells, tmp_path / "x.h5ad"), tmp_path / "photos.zarr", tmp_path / "images.zarr"
    folder.mkdir()
    (folder / "photo").write_text("mine")
    zarr.open_group(store, mode="w").create_group("images")
    for output in (folder, store):
        assert f"{output} is not part of an AnnData in zarr" in error_of(["tokenize", path, output], capsys)
    assert (folder / "photo").read_text() == "mine"
    assert "images" in zarr.open_group(store, mode="r")


def test_an_own_zarr_store_is_replaced(cells, model, tmp_path) -> None:
    path = tmp_path / "x.zarr"
    path.mkdir()  # nothing to lose
    source = write(cells, tmp_path / "x.h5ad")
    for zarr_format in (2, 3):
        with ad.settings.override(zarr_write_format=zarr_format):
            for first in (source, path):
                assert main(["tokenize", str(first), str(path), "--model", str(model), "--overwrite"]) == 0
        assert (path / ("zarr.json" if zarr_format == 3 else ".zgroup")).exists()
    assert {found.name for found in tmp_path.iterdir()} == {"x.zarr", "x.h5ad"}


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        (["none/y.h5ad"], "There is no folder .*none"),
        (["folder.h5ad"], "folder.h5ad is a folder, not a file"),
        (["file.zarr"], "file.zarr is a file, but a zarr store is a folder"),
        (["file.h5ad/y.h5ad"], "There is no folder"),
        (["store.zarr/y.h5ad"], "would be in the zarr store"),
        (["y.h5ad", "--table", "none/y.csv"], "There is no folder .*none"),
        (["y.h5ad", "--table", "folder.h5ad"], "is a folder, not a file"),
        (["y.h5ad", "--table", "x.h5ad"], "would replace the cells"),
        (["y.h5ad", "--table", "./y.h5ad"], "would replace the cells"),
        (["y.h5ad", "--checkpoint", "file.h5ad"], "file.h5ad is a file, not a folder"),
        (["y.h5ad", "--checkpoint", "store.zarr/parts"], "would be in the zarr store"),
    ],
)
def test_outputs_that_cannot_be_written_fail_first(
    cells, tmp_path, capsys, no_model, monkeypatch, outputs, match
) -> None:
    monkeypatch.chdir(tmp_path)
    write(cells, Path("x.h5ad"))
    for name in ("folder.h5ad", "store.zarr"):
        Path(name).mkdir()
    for name in ("file.zarr", "file.h5ad"):
        Path(name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("scgeneformer._files.read", lambda path: pytest.fail("read the input"))
    error = error_of(["perturb", "x.h5ad", *outputs], capsys)
    assert re.search(match, error)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("output", ["y.h5ad", "y.zarr", "y.h5mu"])
def test_a_folder_without_permission_fails_first(cells, tmp_path, capsys, no_model, monkeypatch, output) -> None:
    path = write(cells, tmp_path / f"x.{'h5mu' if output.endswith('h5mu') else 'h5ad'}")

    def refuse(*, dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    error = error_of(["tokenize", path, tmp_path / output], capsys)
    assert f"Cannot write to folder {tmp_path}: Permission denied" in error


def test_a_read_only_file_fails_first(cells, tmp_path, capsys, no_model, monkeypatch) -> None:
    path = write(cells, tmp_path / "x.h5ad")
    monkeypatch.setattr("os.access", lambda *args: False)  # the superuser may write everywhere
    assert "is read-only" in error_of(["tokenize", path, path], capsys)


def test_the_folder_of_the_demonstration_is_checked_first(tmp_path, capsys, no_model) -> None:
    (tmp_path / "demo").write_text("mine")
    assert "demo is a file, not a folder" in error_of(["demo", "--out", tmp_path / "demo"], capsys)


def test_a_checkpoint_resumes(cells, model, tmp_path, monkeypatch) -> None:
    forward, runs = Embedding.forward, []
    monkeypatch.setattr(Embedding, "forward", lambda *args: runs.append(1) or forward(*args))
    path, parts = tmp_path / "x.h5ad", tmp_path / "parts"
    write(cells, path)
    assert main(["tokenize", str(path), str(path), "--model", str(model), "--overwrite"]) == 0

    def perturb(output: Path) -> int:
        runs.clear()
        options = ["--model", str(model), "--checkpoint", str(parts), "--device", "cpu", "--overwrite"]
        assert main(["perturb", str(path), str(output), *options]) == 0
        return len(runs)

    assert perturb(tmp_path / "first.h5ad") > 0
    assert perturb(tmp_path / "again.h5ad") == 0
    first, again = (read(tmp_path / f"{name}.h5ad").layers["shift"] for name in ("first", "again"))
    np.testing.assert_array_equal(first.data, again.data)
    shutil.rmtree(parts)
    assert perturb(tmp_path / "again.h5ad") > 0


def test_the_package_is_a_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "scgeneformer", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage: scgeneformer" in result.stdout
    failed = subprocess.run(
        [sys.executable, "-m", "scgeneformer", "tokenize", "none.h5ad", "out.h5ad"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 2
    assert failed.stderr == "scgeneformer: error: There is no none.h5ad.\n"
