"""The commands on the page of the command line run as they are printed, from top to bottom, those of pipelines included."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import yaml

import scgeneformer as sg
from scgeneformer.cli import main
from scgeneformer.cli._main import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "command_line.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NOT_RUN = "# not run in the tests: "


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """Each command of the program, and whether it is run."""
    before = ""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            for line in filter(None, block.splitlines()):
                if line.startswith("scgeneformer "):
                    yield line, not before.startswith(NOT_RUN)
                before = line
        elif language in ("text", "groovy"):
            (line,) = re.findall(r'"(scgeneformer .*)"', block)
            for name, value in {
                "{input}": "cells.h5ad",
                "{output}": "snakemake.h5ad",
                "{threads}": "1",
                "${cells}": "cells.h5ad",
                "${cells.baseName}": "cells",
                "${task.cpus}": "1",
            }.items():
                line = line.replace(name, value)
            yield line, True


@pytest.fixture
def folder(make_cells: Callable[..., Any], stand_ins: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The files that the page assumes in the working directory."""
    from scgeneformer.hub import _registry

    monkeypatch.chdir(tmp_path)
    for path in stand_ins:
        Path(path.name).symlink_to(path, target_is_directory=True)
    standing_in = {path.name for path in stand_ins}
    published = {name: model for name, model in _registry.MODELS.items() if name not in standing_in}
    monkeypatch.setattr(_registry, "MODELS", published)
    Path("hearts").mkdir()
    cells, annotated = make_cells(), make_cells(1)
    for number in range(2):
        make_cells(2 + number).write_h5ad(f"hearts/{number}.h5ad")
    cells.write_h5ad("cells.h5ad")
    sg.pp.tokenize(annotated, "V2-104M")
    sg.tl.embed(annotated)
    annotated.write_h5ad("annotated.h5ad")
    names = list(cells.var_names)
    pd.DataFrame({"source": ["STAT1", "STAT2"], "target": ["IRF9", "STAT1"]}).to_csv("interactions.csv", index=False)
    Path("sets.gmt").write_text("ISGF3\tof the page\tSTAT1\tSTAT2\tIRF9\n")
    Path("classes.gmt").write_text("\n".join("\t".join([n, "", *g]) for n, g in (("x", names[:20]), ("y", names[20:]))))
    (text,) = [block for language, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if language == "yaml"]
    Path("run.yaml").write_text(text)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_commands_run_as_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sg.settings.override(device="cpu", precision="float32", progress=False):
        for command, is_run in commands(PAGE):
            words = shlex.split(command, comments=True)
            assert words.pop(0) == "scgeneformer"
            target = None
            if ">" in words:
                *words, _, target = words
            if is_run:
                capsys.readouterr()
                assert main(words) == 0, f"{command}\n{capsys.readouterr().err}"
                if target is not None:
                    Path(target).write_text(capsys.readouterr().out)
    assert len(Path("top.csv").read_text().splitlines()) == 20 + 1


def test_every_command_is_on_the_page() -> None:
    shown = {shlex.split(command)[1] for command, _ in commands(PAGE)}
    assert shown == set(COMMANDS)


def test_the_file_of_options_names_commands() -> None:
    (text,) = [block for language, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if language == "yaml"]
    assert set(yaml.safe_load(text)) <= set(COMMANDS)
