"""Estimates of the screen compared with exact values: agreement and speed, by cell, kind and tolerance of the curve of moves.

    python benchmarks/bench_screen.py --model default --data kang --cells 4 --out build/screen
    python benchmarks/bench_screen.py --model build/shapes/v1 --data corpus --cells 3 --genes 300 --out build/screen
    python benchmarks/bench_screen.py --figure --out build/screen
    python benchmarks/bench_screen.py --memory 10000

Models of the published shapes come from ``train_shapes.py``. Exact values are kept in ``--out``, so a second call does not compute them again.
Goal states: two cell types other than the cell's own (Kang), or the other two of three clusters of embeddings (data without labels).
Agreement is over all tested genes of one cell and one goal state: rank and linear correlation, slope of the estimate on the exact value, and
how many of the 50 largest exact changes are among the 100 largest estimates (for a sample of n genes: n / 10 and n / 5, if that is less).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from bench_tokenize import SHARED, processor
from pretrain_default import read_sets
from scipy.stats import spearmanr
from sklearn.cluster import KMeans

import scgeneformer as sg
from scgeneformer import engine

TIMED = 4  # number of exact perturbations to time; includes an embedding of the original
KINDS = ("delete", "overexpress", "inhibit", "activate", "absent")


def timed(call) -> float:
    """Seconds that `call` takes, the median of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def read_cells(name: str, pretrained: sg.hub.Pretrained) -> tuple[np.ndarray, np.ndarray | None]:
    """Tokens, and labels if available."""
    if name == "corpus":
        frame = pd.read_parquet(SHARED / "data" / "genecorpus500" / "genecorpus_500.parquet")
        tokens = np.zeros((len(frame), 2048), np.uint16)
        for row, ids in zip(tokens, frame["input_ids"], strict=True):
            row[: len(ids)] = ids
        return tokens, None
    if name == "pbmc5k":  # named by symbols, which a vocabulary from official files may lack
        adata = read_sets(SHARED / "data")["pbmc5k_citeseq/pbmc_5k_protein_v3.h5ad"]
        sg.pp.tokenize(adata, pretrained, gene_ids="ensembl_id")
    else:
        adata = ad.read_h5ad(next((SHARED / "data" / "kang_ifnb_scgen").glob("*.h5ad")))
        sg.pp.tokenize(adata, pretrained)
    labels = adata.obs["cell_type"].astype(str).to_numpy() if "cell_type" in adata.obs else None
    return np.asarray(adata.obsm["geneformer_tokens"]), labels


def goal_states(embedded: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {label: embedded[labels == label].mean(0).astype(np.float64) for label in np.unique(labels)}


def agreement(exact: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    k = min(50, len(exact) // 10)
    top, wide = (np.argsort(-np.abs(x))[:n] for x, n in ((exact, k), (estimate, 2 * k)))
    return {
        "genes": len(exact),
        "spearman": spearmanr(exact, estimate)[0],
        "pearson": np.corrcoef(exact, estimate)[0, 1],
        "slope": np.polyfit(exact, estimate, 1)[0],
        "top": k,
        "recall": np.isin(top, wide).mean(),
    }


def of_cell(
    pretrained: sg.hub.Pretrained,
    row: np.ndarray,
    states: np.ndarray,
    kind: str,
    n_genes: int,
    tolerances: list[float],
    kept: Path,
    options: dict,
    *,
    axes: np.ndarray,
    bfloat16: bool = False,
) -> tuple[list[dict], dict]:
    """Agreement for each state and tolerance, and values to plot."""
    encoder, n_special = pretrained.encoder, pretrained.vocabulary.n_special
    tokens = row[row != 0][None]
    rng = np.random.default_rng(0)
    expressed = tokens[0][tokens[0] >= n_special].astype(np.int64)
    every = np.arange(n_special, len(pretrained.vocabulary))
    pool = np.setdiff1d(every, expressed) if kind == "absent" else np.sort(expressed)
    n_all = len(pool)
    genes = np.sort(rng.choice(pool, min(n_genes, n_all), replace=False))
    perturbation = engine.perturb.Perturbation(
        "overexpress" if kind == "absent" else kind, genes=genes, absent=kind == "absent"
    )
    todo = engine.perturb.enumerate_edits(
        tokens, perturbation, n_special=n_special, max_length=encoder.config.max_length
    )
    if kept.exists():
        exact = np.load(kept)["exact"]
    else:
        exact = engine.perturb.measure(
            encoder, todo, perturbation, states=states, **(options | {"precision": "float32"})
        )
        np.savez(kept, exact=exact)
    few = replace(todo, cells=todo.cells[:TIMED], what=todo.what[:TIMED], targets=todo.targets[:TIMED])
    few = replace(few, rows=todo.rows[:TIMED], of=todo.of[:TIMED])
    seconds = (
        n_all / len(few) * timed(lambda: engine.perturb.measure(encoder, few, perturbation, states=states, **options))
    )
    rows, drawn = [], {}
    if bfloat16:
        lower = options | {"precision": "bfloat16"}
        rough = engine.perturb.measure(encoder, todo, perturbation, states=states, **lower)
        took = (
            n_all / len(few) * timed(lambda: engine.perturb.measure(encoder, few, perturbation, states=states, **lower))
        )
        for s in range(len(states)):
            speed = {"length": tokens.shape[1], "screen_s": took, "exact_s": seconds, "times": seconds / took}
            of_state = {"kind": f"{kind}, exact in bfloat16", "tolerance": np.nan, "state": s}
            rows.append(of_state | agreement(exact[:, s], rough[:, s]) | speed)
        return rows, {}
    for tolerance in tolerances if kind != "absent" else [np.nan]:
        start = time.perf_counter()
        if kind == "absent":
            estimate = engine.perturb.screen_absent(encoder, tokens, every, states, axes=axes, **options)[0]
            estimate = estimate[todo.what - n_special]
        else:
            found = engine.perturb.screen(encoder, tokens, kind, states, axes=axes, tolerance=tolerance, **options)[0]
            at = np.argmax(tokens[0][None] == todo.what[:, None], axis=1)
            estimate = found[at]
        took = time.perf_counter() - start
        for s in range(len(states)):
            speed = {"length": tokens.shape[1], "screen_s": took, "exact_s": seconds, "times": seconds / took}
            rows.append(
                {"kind": kind, "tolerance": tolerance, "state": s} | agreement(exact[:, s], estimate[:, s]) | speed
            )
        drawn = {"exact": exact, "estimate": np.asarray(estimate)}
    return rows, drawn


def measure(args: argparse.Namespace) -> None:
    pretrained = sg.hub.load(args.model)
    name = Path(args.model).name
    tokens, labels = read_cells(args.data, pretrained)
    config = pretrained.encoder.config
    options = {
        "pooling": args.pooling or engine.resolve_pooling(None, config, has_cls=pretrained.vocabulary.has_cls),
        "n_special": pretrained.vocabulary.n_special,
        "emb_layer": engine.resolve_layer(None, config),
        "device": args.device,
        "precision": args.precision,
    }
    rng = np.random.default_rng(0)
    lengths = engine.row_lengths(tokens)
    if labels is None:
        chosen = rng.choice(len(tokens), min(args.embed, len(tokens)), replace=False)
        tokens, lengths = tokens[chosen], lengths[chosen]
    else:  # the centroids of states need some cells of each
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(labels == label))[: args.embed] for label in np.unique(labels)]
        )
        tokens, lengths, labels = tokens[chosen], lengths[chosen], labels[chosen]
    embedded = engine.embed(pretrained.encoder, tokens, **options).cells
    if labels is None:
        labels = KMeans(3, n_init=5, random_state=0).fit_predict(embedded).astype(str)
    positions = goal_states(embedded, labels)
    low, high = np.quantile(lengths, [args.quantile, 1.0])
    cells = rng.permutation(np.flatnonzero((lengths >= low) & (lengths <= high)))[: args.cells]
    table = []
    for cell in cells:
        others = [labels[cell]] if args.own else [state for state in positions if state != labels[cell]][:2]
        states = np.stack([positions[state] for state in others])
        for kind in args.kinds:
            stem = f"{name}_{args.data}{'-own' * args.own}_{options['pooling']}_{args.precision}_{cell}_{kind}_{args.genes}"
            exact = args.out / f"exact_{stem}.npz".replace(args.precision, "float32")
            rows, drawn = of_cell(
                pretrained,
                tokens[cell],
                states,
                kind,
                args.genes,
                args.tolerance,
                exact,
                options,
                axes=rng.normal(size=(args.axes, config.width)),
                bfloat16=args.bfloat16,
            )
            table += [
                {"model": name, "data": args.data, "pooling": options["pooling"], "cell": int(cell)} | row
                for row in rows
            ]
            if drawn:
                np.savez(args.out / f"drawn_{stem}.npz", **drawn)
            print(
                pd.DataFrame(table[-len(rows) :]).round(4).to_string(index=False, header=len(table) == len(rows)),
                flush=True,
            )
    path = (
        args.out
        / f"{'bfloat16' if args.bfloat16 else 'table'}_{name}_{args.data}_{options['pooling']}_{args.precision}.json"
    )
    path.write_text(json.dumps(table, indent=1))
    frame = pd.DataFrame(table)
    columns = ["length", "genes", "spearman", "pearson", "slope", "recall", "times"]
    print(f"{processor()}, {torch.get_num_threads()} threads; medians over cells and states, and minima:")
    print(frame.groupby(["kind", "tolerance"], dropna=False)[columns].median().round(4).to_string())
    print(
        frame.groupby(["kind", "tolerance"], dropna=False)[["spearman", "pearson", "recall", "times"]]
        .min()
        .round(4)
        .to_string()
    )


def memory(n_cells: int, length: int = 1024) -> None:
    """Peak memory of a complete call of ``tl.screen``: random cells of `length` genes, a small random encoder, two states."""
    rng = np.random.default_rng(0)
    n_genes = 20_000
    genes = np.array([f"ENSG{i:011d}" for i in range(n_genes)])
    vocabulary = sg.Vocabulary("random", np.r_[["<pad>", "<mask>"], genes], np.r_[[np.nan] * 2, np.ones(n_genes)], 2048)
    config = sg.nn.EncoderConfig(
        vocab_size=n_genes + 2, n_layers=2, width=32, n_heads=2, feed_forward=32, max_length=2048, emb_layer=0
    )
    torch.manual_seed(0)
    pretrained = sg.hub.Pretrained("random", vocabulary, model=sg.nn.Encoder(config))
    obs = pd.DataFrame({"state": np.where(np.arange(n_cells) % 10, "a", "b")}, index=[f"c{i}" for i in range(n_cells)])
    adata = ad.AnnData(obs=obs, var=pd.DataFrame({"token_id": np.arange(2, n_genes + 2)}, index=genes))
    rows = [rng.permutation(n_genes)[:length] + 2 for _ in range(256)]
    adata.obsm["geneformer_tokens"] = np.array([rows[i % 256] for i in range(n_cells)], dtype=np.uint16)
    adata.uns["geneformer_tokens"] = {"params": {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}}
    start = time.perf_counter()
    sg.tl.screen(adata, pretrained, groupby="state", source="a", target="b", max_state_cells=100)
    took = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # Linux
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1e6
    layer = adata.layers["shift"]
    print(
        f"{n_cells:,} cells of {length:,} genes: {layer.nnz:,} shifts to each of two states, {took:.0f} s, peak memory {peak:.2f} GB, "
        f"of which results {2 * (layer.data.nbytes + layer.indices.nbytes) / 1e9:.2f} GB"
    )


def draw(args: argparse.Namespace) -> None:
    """Plot estimates against exact values, one panel for each model and kind."""
    import matplotlib.pyplot as plt

    files = sorted(args.out.glob("drawn_*.npz"))
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in files:
        name, data, pooling, precision, _, kind, _ = path.stem.removeprefix("drawn_").split("_")
        if precision == "float32" and not data.endswith("-own") and kind in ("delete", "absent"):
            groups.setdefault((f"{name}, {data}, {pooling}", kind), []).append(path)
    models = sorted({model for model, _ in groups})
    figure, axes = plt.subplots(2, len(models), figsize=(3.2 * len(models), 6.4), layout="constrained", squeeze=False)
    for column, model in enumerate(models):
        for ax, (kind, title) in zip(
            axes[:, column], (("delete", "deletion"), ("absent", "insertion at the top")), strict=True
        ):
            ax.set_visible((model, kind) in groups)
            for path in groups.get((model, kind), []):
                drawn = np.load(path)
                exact, estimate = (1e3 * drawn[field][:, 0] for field in ("exact", "estimate"))
                ax.plot(exact, estimate, ".", markersize=3, alpha=0.6, rasterized=True)
            ax.axline((0, 0), slope=1, color="0.3", linewidth=0.8)
            ax.set_title(f"{model}\n{title}", fontsize="small")
            ax.set_xlabel("exact change of cosine × 1,000", fontsize="small")
    for ax in axes[:, 0]:
        ax.set_ylabel("estimate × 1,000", fontsize="small")
    figure.savefig(args.out / "agreement.png", dpi=150)
    print(args.out / "agreement.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", choices=("kang", "pbmc5k", "corpus"), default="kang")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--quantile", type=float, default=0.75, help="use cells at least as long as this quantile")
    parser.add_argument(
        "--embed", type=int, default=60, help="number of cells (of each type) for the centroids of states"
    )
    parser.add_argument(
        "--genes", type=int, default=100_000, help="maximum number of genes per cell to compute exactly"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["delete", "absent"])
    parser.add_argument("--tolerance", nargs="+", type=float, default=[0.2], help="tolerance of the curve of moves")
    parser.add_argument("--pooling", choices=("mean", "cls"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", help="precision of the estimates; exact values are float32")
    parser.add_argument("--axes", type=int, default=0, help="number of axes of movements beside the states (random)")
    parser.add_argument("--own", action="store_true", help="measure towards the state of the cell itself")
    parser.add_argument("--bfloat16", action="store_true", help="compare exact values in bfloat16 instead of estimates")
    parser.add_argument("--memory", type=int, help="measure peak memory with this number of cells instead")
    parser.add_argument("--figure", action="store_true", help="plot the results in --out")
    parser.add_argument("--out", type=Path, default=Path("build/screen"))
    args = parser.parse_args()
    if args.memory:
        memory(args.memory)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args) if args.figure else measure(args)


if __name__ == "__main__":
    main()
