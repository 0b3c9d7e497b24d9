from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer._arguments import checked
from scgeneformer._files import check_output
from scgeneformer._run_folder import write_whole
from scgeneformer._version import __version__

from ._results import SECTIONS, embedding
from ._section import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

_BUNDLED = "default"
_MOST_CATEGORIES = 30


@checked
def report(
    adata: AnnData | MuData,
    path: str | Path,
    *,
    title: str = "Analysis with scgeneformer",
    color: Sequence[str] | None = None,
    mod: str = "rna",
    overwrite: bool = False,
) -> None:
    """Write one page about the results in `adata`: coverage, embedding, classifiers beside their baselines, rankings, networks, and warnings.

    The page is a single HTML file without scripts that needs no network, to be sent to people who do not open the cells. It shows what is in
    the slots, and computes nothing but a projection on two principal components where there is no UMAP of the embedding. Every section says
    what a reader has to know before using the result, and the last one which model and version made it.

    Parameters
    ----------
    adata
        Cells with results of this package.
    path
        File to write, ``.html``.
    title
        Heading of the page.
    color
        Columns of ``.obs`` by which the embedding is coloured. Defaults to those that results name: labels of classifiers, predicted labels, states,
        at most two.
    mod
        Modality of a MuData.
    overwrite
        Replace a file that exists.

    Raises
    ------
    FileExistsError
        If the file exists, unless `overwrite`.
    KeyError
        If there is no such column.
    ValueError
        If there is no result of this package, or `path` does not end in ``.html``.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.embed(adata)
    >>> sg.report(adata, "report.html", color=["cell_type"])
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        msg = f"The name of a report must end in .html, not {path.name}."
        raise ValueError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} exists. Pass `overwrite=True`, or choose another name."
        raise FileExistsError(msg)
    check_output(path, overwrite=True)
    cells = keys.as_adata(adata, mod)
    runs = _runs(cells)
    if not runs:
        msg = "There are no results of scgeneformer in .uns. Begin with `sg.pp.tokenize(adata)`."
        raise ValueError(msg)
    missing = [name for name in color or () if name not in cells.obs]
    if missing:
        msg = f"No column {missing[0]!r} in .obs, by which to colour. It has: {', '.join(map(repr, cells.obs))}."
        raise KeyError(msg)
    columns = _columns(cells, runs) if color is None else list(color)
    page = _page(title, cells, _sections(cells, runs, columns))
    write_whole(path, lambda unfinished: unfinished.write_text(page, encoding="utf-8"))


def _runs(cells: AnnData) -> dict[str, dict[str, Any]]:
    """Parameters of the results of this package, by key."""
    params = {key: run["params"] for key, run in cells.uns.items() if isinstance(run, Mapping) and "params" in run}
    return {key: dict(run) for key, run in params.items() if isinstance(run, Mapping) and "verb" in run}


def _columns(cells: AnnData, runs: dict[str, dict[str, Any]]) -> list[str]:
    """Up to two columns by which to colour: labels that were learnt, predicted ones, states."""
    named = [run.get("labels") for run in runs.values()]
    named += [key for key, run in runs.items() if run["verb"] in ("tl.annotate", "tl.transfer")]
    named += [run.get("groupby") for run in runs.values()]
    columns = dict.fromkeys(name for name in named if isinstance(name, str) and name in cells.obs)
    return [name for name in columns if cells.obs[name].nunique() <= _MOST_CATEGORIES][:2]


def _sections(cells: AnnData, runs: dict[str, dict[str, Any]], color: list[str]) -> list[Section]:
    """A section for each result, in the order of an analysis, and one for what made them."""
    sections = []
    for verb in ("pp.tokenize", "tl.embed", *list(SECTIONS)[1:]):
        for key in (key for key, run in runs.items() if run["verb"] == verb):
            if verb != "tl.embed":
                sections.append(SECTIONS[verb](cells, key))
            elif keys.embedding_key(key) in cells.obsm:
                sections.append(embedding(cells, key, color))
    return [*sections, _provenance(runs)]


def _provenance(runs: dict[str, dict[str, Any]]) -> Section:
    """Which call, model and version wrote each result."""
    section = Section("How it was made")
    if any(run.get("model") == _BUNDLED for run in runs.values()):
        section.warnings.append(
            "The bundled model is a small one for trying things out, pretrained on few blood cells. Use a published model for results to report."
        )
    rows = {
        key: {
            "call": f"sg.{run['verb']}",
            "model": run.get("model", ""),
            "sha256 of the weights": str(run.get("weights_sha256", ""))[:12],
            "vocabulary": run.get("vocabulary", ""),
            "version": run.get("version", ""),
        }
        for key, run in runs.items()
    }
    section.add_table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("key"), "Results by their key in .uns")
    return section


def _page(title: str, cells: AnnData, sections: list[Section]) -> str:
    """The page; text is escaped by the template engine."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("scgeneformer.reporting", "."), autoescape=True)
    subtitle = f"{cells.n_obs:,} cells, {cells.n_vars:,} genes. Written by scgeneformer {__version__}."
    template = environment.get_template("page.html.j2")
    return template.render(title=title, subtitle=subtitle, version=__version__, sections=sections)
