"""The code on every page of the documentation runs as it is printed, from top to bottom.

Folders with the names of published models and small untrained models replace them: nothing is downloaded. A block that begins with
``# not run in the tests: <reason>`` is compiled only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import scgeneformer as sg

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NOT_RUN = "# not run in the tests: "


def blocks(path: Path) -> list[str]:
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def prepare_training(names: dict[str, Any], make_cells: Callable[..., Any]) -> None:
    """New cells to annotate, lists of genes, files of a corpus, and two studies to join."""
    adata = names["adata"]
    names["new"] = make_cells(1)
    sg.pp.tokenize(names["new"], "V2-104M")
    names["sensitive"], names["insensitive"] = list(adata.var_names[:10]), list(adata.var_names[20:30])
    Path("atlas").mkdir()
    for number in range(2):
        make_cells(2 + number).write_h5ad(f"atlas/{number}.h5ad")
    names["vocabulary"] = sg.hub.vocabulary("default")
    names["patients"], names["screen"] = make_cells(4), make_cells(5)
    for study in (names["patients"], names["screen"]):
        study.obs["state"] = study.obs["disease"].cat.rename_categories({"dcm": "disease", "nf": "healthy"})
    guides = np.random.default_rng(0).choice(["STAT1", "IRF9", "control"], names["screen"].n_obs)
    names["screen"].obs["perturbation"] = guides
    names["screen"].obs["donor"] = "cell line"


def prepare_in_silico_perturbation(names: dict[str, Any], make_cells: Callable[..., Any]) -> None:
    """The states and the model of the page."""
    names["states"] = {"groupby": "disease", "source": "dcm", "target": "nf"}
    names["model"] = "V2-104M"
    names["adata"].obs["CD14"] = np.random.default_rng(0).normal(size=names["adata"].n_obs)
    Path("hallmarks.gmt").write_text("ISGF3\tof the page\tSTAT1\tSTAT2\tIRF9\n")


def prepare_gene_pairs(names: dict[str, Any], make_cells: Callable[..., Any]) -> None:
    """Pairs of the genes of the cells, some with an effect, and some to predict."""
    genes, rng = np.array(names["adata"].var_names), np.random.default_rng(0)
    ends = np.column_stack(np.triu_indices(len(genes), 1))
    rows = rng.permutation(ends)[:250]
    names["pairs"] = pd.DataFrame(genes[rows], columns=["source", "target"])
    names["regulation"] = names["pairs"].assign(label=rng.choice(["activation", "repression"], len(rows)))
    names["candidates"] = names["pairs"].head(5)


def prepare_backbones(names: dict[str, Any], make_cells: Callable[..., Any]) -> None:
    """Times of the cells, each in several donors."""
    names["adata"].obs["day"] = np.arange(names["adata"].n_obs) // 2 % 4


def prepare_gallery(names: dict[str, Any], make_cells: Callable[..., Any]) -> None:
    """The types and conditions of the page, more of them than the cells have."""
    obs = names["adata"].obs
    obs["condition"] = obs["disease"].cat.rename_categories({"dcm": "stimulated", "nf": "control"})
    kinds = np.array(["Dendritic", "FCGR3A+Mono", *["CD14+Mono"] * 4])
    obs["cell_type"] = pd.Categorical(kinds[np.arange(len(obs)) % len(kinds)])
    names["adata"].var_names = ["ISG15", "IFI6", "FTH1", "CCL2", *names["adata"].var_names[4:]]


PREPARE = {
    "gallery.md": prepare_gallery,
    "backbones.md": prepare_backbones,
    "from_official.md": prepare_training,
    "gene_pairs.md": prepare_gene_pairs,
    "training.md": prepare_training,
    "in_silico_perturbation.md": prepare_in_silico_perturbation,
}


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path)], ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore")
def test_code_of_a_page_runs(
    path: Path,
    names: dict[str, Any],
    make_cells: Callable[..., Any],
    stand_ins: list[Path],
    monkeypatch: pytest.MonkeyPatch,
):
    from scgeneformer.hub import _registry

    standing_in = {folder.name: folder for folder in stand_ins}
    published = {name: model for name, model in _registry.MODELS.items() if name not in standing_in}
    monkeypatch.setattr(_registry, "MODELS", published)  # a new one, since an entry put back would come last
    for name, folder in standing_in.items():
        Path(name).symlink_to(folder, target_is_directory=True)
    if path.name in PREPARE:
        PREPARE[path.name](names, make_cells)
    for number, source in enumerate(blocks(path)):
        code = compile(source, f"{path.name}, block {number}", "exec")
        if not source.startswith(NOT_RUN):
            exec(code, names)


def test_the_gallery_shows_every_plot():
    text = (ROOT / "docs" / "gallery.md").read_text()
    called = set(re.findall(r"^sg\.pl\.(\w+)\(", text, flags=re.MULTILINE))
    assert called == set(sg.pl.__all__)
    figures = re.findall(r"\{figure\} (_static/gallery/\S+)", text)
    assert {f"_static/gallery/{path.name}" for path in (ROOT / "docs" / "_static" / "gallery").iterdir()} == set(
        figures
    )
    assert all((ROOT / "docs" / figure).stat().st_size > 5000 for figure in figures)


def test_a_block_that_is_not_run_says_why():
    skipped = [source for path in PAGES for source in blocks(path) if "not run" in source]
    assert skipped
    assert all(len(source.splitlines()[0]) > len(NOT_RUN) + 10 for source in skipped)
