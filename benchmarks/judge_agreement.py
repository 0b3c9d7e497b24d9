"""Does a screen correctly report its own agreement with exact values?

    python benchmarks/judge_agreement.py [--models default v1-tiny v1-10m v2-tiny ...] [--cells 40] [--longest 200] [--kinds delete activate] [--out TABLE.md]

For each model, all genes of `--cells` treated monocytes (Kang et al.), truncated to their first tokens, are perturbed exactly and by the screen, towards
the treated and the untreated state. The true agreement is the mean over these cells of the rank correlation over all genes of a cell. The
report of the screen, from eight genes in as many cells as the screen uses, is drawn 200 times: mean of these reports, and
how often their interval contains the true value.

`default` is the bundled model. Other names are folders, or recorded models with random weights in the shared folder, whose attention
is sharp.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from train_shapes import official_vocabulary

import scgeneformer as sg
from scgeneformer import engine
from scgeneformer.engine.perturb import Perturbation, Sample, agreement
from scgeneformer.tl._perturbation._agreement import LEAST_CELLS, MOST_CELLS, ONE_IN

SHARED = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared")
N_GENES, N_REPORTS = 8, 200


def load(name: str) -> sg.hub.Pretrained:
    """The bundled model, one in a folder, or a recorded one with random weights."""
    if name == "default" or Path(name).is_dir():
        return sg.hub.load(name)
    folder = SHARED / "conformance" / "models" / name
    if not folder.is_dir():
        spec = importlib.util.spec_from_file_location("random_models", SHARED / "conformance" / "random_models.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        folder = module.make(name, Path(tempfile.mkdtemp()))
    return sg.hub.load(folder, vocabulary=official_vocabulary("V1-10M" if name.startswith("v1") else "V2-104M"))


def correlations(outcome: engine.perturb.Outcome, exact: engine.perturb.Outcome) -> np.ndarray:
    """Rank correlation over the genes of each cell, for each state, (n_cells, S)."""
    rows = []
    for cell in np.unique(exact.cells):
        of_cell = exact.cells == cell
        pairs = zip(outcome.values[of_cell].T, exact.values[of_cell].T, strict=True)
        rows.append([spearmanr(*pair).statistic for pair in pairs])
    return np.array(rows)


def judge(name: str, kind: str, n_cells: int, longest: int) -> list[dict[str, str]]:
    """Reported and true agreement, one row for each state."""
    pretrained = load(name)
    adata = ad.read_h5ad(SHARED / "data/kang_ifnb_scgen/kang_ifnb_valid.h5ad")
    adata = adata[(adata.obs["cell_type"] == "CD14+Mono").to_numpy()].copy()
    sg.pp.tokenize(adata, pretrained.vocabulary, max_length=longest)
    tokens, condition = adata.obsm["geneformer_tokens"], adata.obs["condition"].to_numpy()
    config, vocabulary = pretrained.encoder.config, pretrained.vocabulary
    options = {
        "pooling": engine.resolve_pooling(None, config, has_cls=vocabulary.has_cls),
        "n_special": vocabulary.n_special,
        "emb_layer": engine.resolve_layer(None, config),
        "precision": "float32",
    }
    rng = np.random.default_rng(0)
    drawn = {state: rng.permutation(np.flatnonzero(condition == state)) for state in ("control", "stimulated")}
    embedded = [engine.embed(pretrained.encoder, tokens[rows[:50]], **options).cells for rows in drawn.values()]
    states = np.stack([of_state.mean(0) for of_state in embedded])
    cells = tokens[drawn["stimulated"][:n_cells]]
    perturbation = Perturbation(kind, genes=np.arange(vocabulary.n_special, len(vocabulary)))
    run = lambda method: engine.perturb.run(
        pretrained.encoder, cells, perturbation, states=states, method=method, **options
    )
    start = time.perf_counter()
    screened = run("screen")
    seconds = time.perf_counter() - start
    exact = run("exact")
    times = (time.perf_counter() - start - seconds) / seconds
    place = {pair: i for i, pair in enumerate(zip(exact.cells.tolist(), exact.what.tolist(), strict=True))}
    order = np.array([place[pair] for pair in zip(screened.cells.tolist(), screened.what.tolist(), strict=True)])
    screened.values[order] = screened.values.copy()
    truth = correlations(screened, exact)
    n_sampled = int(np.clip(-(-n_cells // ONE_IN), LEAST_CELLS, MOST_CELLS))
    members = [np.flatnonzero(exact.cells == cell) for cell in range(n_cells)]
    reports = []
    for _ in range(N_REPORTS):
        pairs = [rng.permutation(members[cell])[:N_GENES] for cell in rng.permutation(n_cells)[:n_sampled]]
        chosen = np.concatenate(pairs)
        reports.append(
            agreement([Sample(exact.cells[chosen], screened.values[chosen].astype(float), exact.values[chosen])])
        )
    rows = []
    for s, state in enumerate(("untreated", "treated")):
        of_state = pd.DataFrame([report.iloc[s] for report in reports])
        value = truth[:, s].mean()
        inside = of_state["spearman_low"].le(value) & of_state["spearman_high"].ge(value)
        rows.append(
            {
                "model": name,
                "kind": kind,
                "towards": state,
                "cells, genes": f"{n_cells}, {len(exact.cells) / n_cells:.0f}",
                "true": f"{value:.3f} (least cell {truth[:, s].min():.2f})",
                "reported, mean": f"{of_state['spearman'].mean():.3f}",
                "interval covers": f"{inside.mean():.0%}",
                "slope": f"{of_state['slope'].mean():.2f}",
                "times": f"{times:.0f}",
            }
        )
    return rows


def main() -> None:
    """Judge and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["default", "v1-10m"])
    parser.add_argument("--kinds", nargs="+", default=["delete"], choices=engine.perturb.KINDS)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--longest", type=int, default=200, help="maximum number of tokens of a cell")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sg.settings.progress = False
    rows: list[dict[str, str]] = []
    for name in args.models:
        for kind in args.kinds:
            rows += judge(name, kind, args.cells, args.longest)
            text = pd.DataFrame(rows).to_markdown(index=False)
            print(text, flush=True)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
