"""The program: errors and exit statuses, files of options, quiet standard output, help without waiting."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import Mock

import anndata as ad
import pytest

import scgeneformer as sg
from scgeneformer import hub
from scgeneformer.cli import main


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["tokenise", "{counts}", "out.h5ad"], 'Unknown command "tokenise"'),
        ([], "Name a command: tokenize, embed"),
        (["reference"], "Name a command: build, query"),
        (["embed", "{counts}", "out.h5ad", "--pooling", "[red]"], "pooling='[red]' must be"),
        (["reference", "open"], 'Unknown command "open"'),
        (["tokenize", "missing.h5ad", "out.h5ad"], "There is no missing.h5ad"),
        (["tokenize", "{counts}", "out.csv"], "does not end in one of"),
        (["tokenize", "{counts}", "out.h5mu"], "must both be .h5mu"),
        (["tokenize", "{counts}"], "--output"),
        (["tokenize", "{counts}", "out.h5ad", "--lair", "x"], "Unknown option: --lair"),
        (["tokenize", "{counts}", "out.h5ad", "--counts", "logged"], "'raw', 'linear' or 'log1p'"),
        (["tokenize", "{counts}", "out.h5ad", "--max-length", "0"], "max_length=0 must be an integer of at least 1"),
        (["tokenize", "{counts}", "out.h5ad", "--max-length", "many"], "max_length='many' must be an integer"),
        (["tokenize", "{counts}", "out.h5ad", "--layer", "spliced"], "spliced"),
        (["tokenize", "{counts}", "out.h5ad", "--model", "V3"], "V3"),
        (["tokenize", "{counts}", "out.h5ad", "--jobs", "0"], "jobs=0"),
        (["embed", "{counts}", "out.h5ad", "--device", "tpu"], "device='tpu'"),
        (["perturb", "{counts}", "out.h5ad", "--model", "{model}"], "sg.pp.tokenize"),
        (["perturb", "{embedded}", "out.h5ad", "--groupby", "stat", "--source", "a", "--target", "b"], "stat"),
        (["perturb", "{embedded}", "out.h5ad", "--screen"], "tl.screen and tl.rank_shifts needs --target"),
        (
            ["perturb", "{embedded}", "out.h5ad", "--screen", "--target", "b", "--effects"],
            "--effects is not an option of",
        ),
        (["perturb", "{embedded}", "out.h5ad", "--sets", "none.gmt"], "none.gmt"),
        (["perturb", "{embedded}", "out.h5ad", "--refine", "3"], "--refine is not an option of tl.perturb and"),
        (["rank", "{embedded}", "out.h5ad"], "sg.tl.perturb"),
        (["get", "shifts", "{embedded}"], "sg.tl.rank_shifts"),
        (["network", "{embedded}", "out.h5ad", "--edges", "none.csv"], "none.csv"),
        (["annotate", "{embedded}", "out.h5ad", "--model", "{model}"], ""),
        (["reference", "query", "{embedded}", "out.h5ad", "nowhere"], "nowhere"),
        (["reference", "build", "{embedded}", "folder", "--labels", "kind"], "kind"),
        (["train", "cells", "{embedded}", "folder", "--labels-key", "kind", "--model", "{model}"], "kind"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(refused, counts, model, embedded, words, match) -> None:
    error = refused(*(word.format(counts=counts, model=model, embedded=embedded) for word in words))
    assert match in error
    assert list(Path().iterdir()) == []


def test_options_are_checked_before_cells_are_read(refused, embedded, monkeypatch) -> None:
    monkeypatch.setattr("scgeneformer._files.read", lambda path: pytest.fail("read the input"))
    assert "max_cells=0" in refused("perturb", embedded, "out.h5ad", "--max-cells", "0")
    Path("run.yaml").write_text("perturb: {max_cells: 0}")
    assert "max_cells=0" in refused("perturb", embedded, "out.h5ad", "--config", "run.yaml")


def test_outputs_that_exist_are_refused(refused, embedded, counts, monkeypatch) -> None:
    for name in ("out.h5ad", "out.csv", "folder/mine"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    monkeypatch.setattr("scgeneformer._files.read", lambda path: pytest.fail("read the input"))
    for words in (
        ["tokenize", counts, "out.h5ad"],
        ["rank", embedded, "new.h5ad", "--table", "out.csv"],
        ["get", "shifts", embedded, "--table", "out.csv"],
        ["report", embedded, "out.csv"],
        ["reference", "build", embedded, "folder", "--labels", "state"],
        ["train", "cells", embedded, "folder", "--labels-key", "state"],
        ["demo", "--out", "folder"],
    ):
        assert "exists. Give --overwrite" in refused(*words)
    assert Path("out.h5ad").read_text() == Path("out.csv").read_text() == "mine"


def test_the_input_may_be_overwritten(run, counts, model, tmp_path) -> None:
    path = tmp_path / "x.h5ad"
    path.write_bytes(counts.read_bytes())
    assert run("tokenize", path, path, "--model", model, "--overwrite").status == 0
    assert "geneformer_tokens" in ad.read_h5ad(path).obsm


@pytest.mark.parametrize("error", [FloatingPointError("not\nfinite"), ImportError("no peft"), MemoryError()])
def test_errors_beyond_wrong_arguments_are_one_line(error, refused, monkeypatch) -> None:
    monkeypatch.setattr(hub, "available", Mock(side_effect=error))
    told = " ".join(str(error).split()) or "MemoryError"
    assert refused("models") == f"scgeneformer: error: {told}\n"


def test_a_defect_keeps_its_traceback(run, monkeypatch) -> None:
    monkeypatch.setattr(hub, "available", Mock(side_effect=RuntimeError("a defect")))
    with pytest.raises(RuntimeError, match="a defect"):
        run("models")


@pytest.mark.filterwarnings("always")
def test_what_functions_print_is_no_result(run, monkeypatch) -> None:
    def available():
        sys.stdout.write("progress\n")
        warnings.warn("careful", stacklevel=1)
        return sg.model.presets()

    monkeypatch.setattr(hub, "available", available)
    ran = run("models", "--csv")
    assert ran.err == "progress\nscgeneformer: warning: careful\n"
    assert ran.out == sg.model.presets().to_csv()


def test_a_file_of_options(run, refused, counts, model) -> None:
    Path("run.yaml").write_text(
        f"tokenize:\n  model: {model}\n  max-length: 30\n  device: cpu\n"
        f"embed:\n  input: {counts}\n  output: embedded.h5ad\n  model: {model}\n  genes: true\n  emb_layer: 0\n"
    )
    assert run("tokenize", counts, "a.h5ad", "--config", "run.yaml").status == 0
    assert ad.read_h5ad("a.h5ad").uns["geneformer_tokens"]["params"]["max_length"] == 30
    assert run("tokenize", counts, "b.h5ad", "--config", "run.yaml", "--max-length", "20").status == 0
    assert ad.read_h5ad("b.h5ad").uns["geneformer_tokens"]["params"]["max_length"] == 20
    ran = run("embed", "--config", "run.yaml")
    assert ran.status == 0, ran.err
    assert "geneformer" in ad.read_h5ad("embedded.h5ad").varm


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("tokenise: {}", "'tokenise', which is none of: tokenize"),
        ("tokenize: {lair: x}", "'lair', which is none of"),
        ("tokenize: [layer]", "where names and values are expected"),
        ("tokenize: {layer", "not YAML"),
        ("tokenize: {max_length: long}", "max_length='long' must be an integer"),
    ],
)
def test_wrong_files_of_options(refused, counts, text, match) -> None:
    Path("run.yaml").write_text(text)
    assert match in refused("tokenize", counts, "out.h5ad", "--config", "run.yaml")
    assert "No such file" in refused("tokenize", counts, "out.h5ad", "--config", "none.yaml")


def test_help_needs_no_library_of_the_field() -> None:
    heavy = {"torch", "scanpy", "scvi", "anndata", "pandas", "scipy", "numba"}
    code = f"import sys; from scgeneformer.cli import main; print(main(['--help'])); print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-2:] == ["0", "set()"]


def test_version(run) -> None:
    assert run("--version").out == f"{sg.__version__}\n"


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch) -> None:
    closed = Mock(write=Mock(side_effect=BrokenPipeError))
    monkeypatch.setattr(sys, "stdout", closed)
    assert main(["models"]) == 0


def test_pydantic_in_the_process_changes_nothing(run, counts, model):
    """Once pydantic is imported, Cyclopts lets it check values against the types shown in the help."""
    pytest.importorskip("pydantic")
    assert run("tokenize", counts, "tokens.h5ad", "--model", model, "--max-length", "32").status == 0
    ran = run("tokenize", counts, "other.h5ad", "--max-length", "many")
    assert (ran.status, "max_length='many' must be an integer" in ran.err) == (2, True)
    assert "1 validation error" not in ran.err
