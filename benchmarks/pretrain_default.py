"""Recipe of the bundled model: a small Geneformer pretrained on blood cells.

    python benchmarks/pretrain_default.py --data ../shared/data --out build/default --max-minutes 75 --threads 2

Reads the PBMC sets below, makes a vocabulary from them, tokenizes, trains on hidden genes, and writes a folder in the Hugging Face
layout (weights in float16) with the vocabulary, the metrics and a record of where it came from. Sets that the model is judged on are
never read for training; training cells that are also in pbmc_garnett800 are found by their counts and removed.

With ``--max-minutes`` the learning rate follows the clock: it reaches zero when the time is up, however fast the machine is. With
``--max-steps`` (see ``provenance.json`` for the number of a finished run) the run is the same on every machine up to rounding.
``--resume`` goes on from the last checkpoint in ``--out``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import StandardScaler

import scgeneformer as sg

BLOOD = (
    "pbmc_facs_zheng/pbmc_facs_train.h5ad",
    "pbmc_facs_zheng/pbmc_facs_test.h5ad",
    "pbmc3k_clustifyr/pbmc3k.h5ad",
    "pbmc5k_citeseq/pbmc_5k_protein_v3.h5ad",
)
TISSUES = (
    *BLOOD,
    "pbmc_eccite_citefuse/pbmc_eccite500.h5ad",
    "pbmc_frozen_donorA/pbmc_frozen_donorA.h5ad",
    "pbmc_1k_v2/pbmc_1k_v2.h5ad",
    "covid_pbmc_gse149689/fold1_normal5_covid16.h5ad",
    "covid_pbmc_gse149689/fold2_normal14_covid15.h5ad",
    "covid_pbmc_gse149689/fold3_covid1_covid17.h5ad",
    "ipsc_cardiac_scgps/ipsc_cardiac_day2_day5.h5ad",
    "celllines_li_h1esc/hesc_h1_imr90_k562.h5ad",
    "celllines_li_h1esc/gm12878_a549_hct116_h1437.h5ad",
    "hesc_benGRN/hesc_snareseq_chen.h5ad",
    "hesc_benGRN/embryo_sccat_liu.h5ad",
    "fetal_pancreas_cimseq/fetal_pancreas.h5ad",
    "fetal_pancreas_cimseq/sorted_cell_lines.h5ad",
    "tnbc_copykat/tnbc_copykat302.h5ad",
    "thyroid_atc2_numbat/thyroid_atc2.h5ad",
)
JUDGED_ON = "pbmc_garnett800/pbmc_garnett800.h5ad"
TRAINING_SETS = {"blood": BLOOD, "tissues": TISSUES}
NAMES = {"blood": "PBMC-mini", "tissues": "Tissues-mini"}
HELD_OUT = {
    "blood": [JUDGED_ON, "kang_ifnb_scgen", "kang_ifnb_muscat", "scanpy.datasets.pbmc68k_reduced"],
    "tissues": [
        JUDGED_ON,
        "kang_ifnb_scgen",
        "kang_ifnb_muscat",
        "pancreas_baron_h1",
        "mixology_celllines",
        "scanpy.datasets.pbmc68k_reduced",
    ],
}
SIZES = {"n_layers": 4, "width": 128, "n_heads": 4, "feed_forward": 256}
PER_EPOCH = ("train_loss", "validation_loss", "validation_accuracy")
MOST_BYTES = 8_000_000
DEFAULT_DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"


def read_sets(data: Path, names: tuple[str, ...] = BLOOD, min_genes: int = 0) -> dict[str, ad.AnnData]:
    """The training sets, without judged cells, with an Ensembl id for every gene that has one in any set."""
    sets = {name: read_set(data / name, min_genes) for name in names}
    judged = ad.read_h5ad(data / JUDGED_ON)
    for name in names:
        same = same_cells(sets[name], judged)
        print(f"{name}: {int(same.sum())} of {len(same)} cells are in {JUDGED_ON} and are removed")
        sets[name] = sets[name][~same].copy()
    pairs: dict[str, str] = {}
    for adata in sets.values():
        if "ensembl_id" in adata.var:
            known = adata.var["ensembl_id"].astype(str)
            pairs |= {symbol: gene for symbol, gene in known.items() if gene.startswith("ENSG") and symbol not in pairs}
    for name, adata in sets.items():
        own = adata.var["ensembl_id"].astype(str) if "ensembl_id" in adata.var else pd.Series("", index=adata.var_names)
        ids = [gene if gene.startswith("ENSG") else pairs.get(symbol, "") for symbol, gene in own.items()]
        kept = np.array([gene != "" for gene in ids])
        share = float(adata.X[:, kept].sum() / adata.X.sum())
        sets[name] = ad.AnnData(
            adata.X[:, kept],
            obs=adata.obs[[]],
            var=pd.DataFrame({"ensembl_id": np.array(ids)[kept]}, index=adata.var_names[kept]),
        )
        print(
            f"{name}: {adata.n_obs} cells, {kept.sum()} of {len(kept)} genes have an Ensembl id ({share:.1%} of the counts)"
        )
    return sets


def read_set(path: Path, min_genes: int) -> ad.AnnData:
    """Single cells of one file with at least `min_genes` detected genes; wells known to hold several cells are left out."""
    adata = ad.read_h5ad(path)
    chosen = np.asarray((adata.X > 0).sum(1)).ravel() >= min_genes
    if "well" in adata.obs:
        chosen &= (adata.obs["well"] == "single cell").to_numpy()
    return adata[chosen].copy()


def same_cells(adata: ad.AnnData, other: ad.AnnData) -> np.ndarray:
    """Cells of `adata` that are also in `other`, bool (n_obs,).

    Counts of one cell differ a little between sources that were counted with different annotations. Over the genes in common, a pair is
    the same cell if its counts differ in less than 5 % of their sum; two cells of one type differ in about half.
    """
    genes = adata.var_names[~adata.var_names.duplicated()]
    genes = genes.intersection(other.var_names[~other.var_names.duplicated()])
    ours, theirs = (sparse.csr_matrix(cells[:, genes].X, dtype=np.float64) for cells in (adata, other))
    norms = [np.sqrt(counts.multiply(counts).sum(1)).A1 for counts in (ours, theirs)]
    cosine = (ours @ theirs.T).toarray() / np.outer(*norms)
    found = np.zeros(adata.n_obs, dtype=bool)
    for i, j in np.argwhere(cosine > 0.95):
        difference = abs(ours[i] - theirs[j]).sum() / (ours[i].sum() + theirs[j].sum())
        found[i] |= difference < 0.05
    return found


def tokenized(sets: dict[str, ad.AnnData], vocabulary: sg.Vocabulary) -> ad.AnnData:
    """All cells with their tokens, and nothing else."""
    matrices, names = [], []
    for name, adata in sets.items():
        sg.pp.tokenize(adata, vocabulary, gene_ids="ensembl_id")
        tokens = np.asarray(adata.obsm["geneformer_tokens"])
        matrices.append(np.pad(tokens, ((0, 0), (0, vocabulary.max_length - tokens.shape[1]))))
        names += [f"{name}:{cell}" for cell in adata.obs_names]
    cells = ad.AnnData(obs=pd.DataFrame(index=names))
    cells.obsm["geneformer_tokens"] = np.concatenate(matrices)
    cells.uns["geneformer_tokens"] = next(iter(sets.values())).uns["geneformer_tokens"]
    lengths = (cells.obsm["geneformer_tokens"] != 0).sum(1)
    print(
        f"{cells.n_obs} cells, {lengths.sum():,} tokens, median length {int(np.median(lengths))}, longest {lengths.max()}"
    )
    return cells


def start_at_frequencies(model: sg.model.Geneformer, cells: ad.AnnData) -> None:
    """Let the head begin at how often genes occur, which it would otherwise spend its first thousands of steps to find out."""
    tokens = cells.obsm["geneformer_tokens"]
    counts = np.bincount(tokens[tokens != 0].ravel(), minlength=len(model.vocabulary)) + 1.0
    counts[model.vocabulary.special_ids] = 1.0
    with torch.no_grad():
        model.module.network.head.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def start_at_coexpression(model: sg.model.Geneformer, cells: ad.AnnData, rng: int) -> None:
    """Let gene embeddings begin at the leading components of which genes occur together, and high or low, in the training cells.

    A cell's gene scores 1 at the top of its ranking, falling to 0 at the end. Columns are standardized, so that the
    components are those of correlations. Scaled to a standard deviation of 0.05 per entry, near BERT's own start (0.02).
    """
    tokens = cells.obsm["geneformer_tokens"].astype(np.int64)
    row, rank = np.nonzero(tokens)
    scores = 1.0 - rank / (tokens != 0).sum(1)[row]
    table = sparse.csr_matrix(
        (scores.astype(np.float32), (row, tokens[row, rank])), shape=(len(tokens), len(model.vocabulary))
    )
    table = StandardScaler().fit_transform(table.toarray())
    weight = model.module.network.encoder.embedding.gene.weight
    svd = TruncatedSVD(weight.shape[1], random_state=rng).fit(table)
    genes = (svd.components_ * np.sqrt(svd.singular_values_)[:, None]).T  # (V, H)
    n_special = model.vocabulary.n_special
    start = 0.05 * genes[n_special:] / genes[n_special:].std()
    with torch.no_grad():
        weight[n_special:] = torch.from_numpy(start.astype(np.float32))


class Clock(Callback):
    """Reports progress; with a limit, lays the schedule out over the time that is left, and stops when it is over."""

    def __init__(self, minutes: float | None) -> None:
        self.limit = None if minutes is None else minutes * 60
        self.tokens = 0

    def on_train_start(self, trainer, plan) -> None:
        self.start, self.first_step, self.said = time.monotonic(), trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
        now = time.monotonic()
        elapsed, steps = now - self.start, trainer.global_step - self.first_step
        self.tokens += int(batch["lengths"].sum())
        if self.limit is not None:
            if steps >= 10:
                left = max(self.limit - elapsed, 0.0)
                plan._n_steps = trainer.global_step + max(int(left * steps / elapsed), 1)
            if elapsed >= self.limit:
                trainer.should_stop = True
        if now - self.said > 30 or steps in (10, 50):
            self.said = now
            metrics = {name: round(float(value), 3) for name, value in trainer.callback_metrics.items()}
            metrics["learning_rate"] = plan.lr_schedulers().get_last_lr()[0]
            rate = f"{self.tokens / elapsed:,.0f} tokens/s"
            print(
                f"{elapsed / 60:5.1f} min, epoch {trainer.current_epoch}, step {trainer.global_step} of {plan._n_steps}, {rate}",
                metrics,
            )
            sys.stdout.flush()


def write(model: sg.model.Geneformer, out: Path, record: dict) -> None:
    """Export the model, its metrics and its provenance, and check the size."""
    folder = out / "model"
    model.export(folder, dtype="float16")
    record["sha256"] = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != "provenance.json"}
    (folder / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")
    for name, frame in model.history.items():
        frame.to_csv(out / f"{name}.csv")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size:,} bytes")
    if size > MOST_BYTES:
        msg = f"{folder} has {size:,} bytes, more than {MOST_BYTES:,}. Raise --min-cells."
        raise SystemExit(msg)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with the data sets")
    parser.add_argument(
        "--out", type=Path, default=Path("build/default"), help="folder for model, checkpoints and metrics"
    )
    parser.add_argument("--cells", choices=tuple(TRAINING_SETS), default="blood", help="which sets to train on")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--max-minutes", type=float, help="wall time of the training, the schedule follows the clock")
    limit.add_argument("--max-steps", type=int, help="optimizer steps")
    parser.add_argument(
        "--max-epochs", type=int, default=60, help="passes over the cells, if no limit above is reached first"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--token-budget", type=int, default=8192, help="most tokens per step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--mask-probability", type=float, default=0.15)
    parser.add_argument(
        "--start", choices=("coexpression", "random"), default="coexpression", help="of the gene embeddings"
    )
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="a few passes over few cells underfit rather than overfit"
    )
    parser.add_argument(
        "--precision", default="bf16-mixed", help="of Lightning's trainer; 32-true where the processor lacks bfloat16"
    )
    parser.add_argument("--min-cells", type=int, default=10, help="genes in fewer cells are left out of the vocabulary")
    parser.add_argument("--min-genes", type=int, default=0, help="cells with fewer detected genes are left out")
    parser.add_argument("--max-length", type=int, default=1024, help="most tokens in a cell")
    parser.add_argument("--validation-size", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    for name, size in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    return parser.parse_args()


def main() -> None:
    """Run the recipe."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    sets = read_sets(args.data, TRAINING_SETS[args.cells], args.min_genes)
    vocabulary = sg.Vocabulary.from_adata(
        list(sets.values()),
        name=NAMES[args.cells],
        max_length=args.max_length,
        gene_ids="ensembl_id",
        min_cells=args.min_cells,
    )
    print(vocabulary)
    cells = tokenized(sets, vocabulary)
    sg.model.Geneformer.setup_anndata(cells)
    sizes = {name: getattr(args, name) for name in SIZES}
    model = sg.model.Geneformer(
        cells, vocabulary=vocabulary, pooling="mean", emb_layer=0, dropout=args.dropout, **sizes
    )
    start_at_frequencies(model, cells)
    if args.start == "coexpression":
        start_at_coexpression(model, cells, args.seed)
    print(f"{sum(p.numel() for p in model.module.parameters()):,} parameters")
    last = args.out / "checkpoints" / "last.ckpt"
    clock = Clock(args.max_minutes)
    started = time.monotonic()
    model.train(
        max_epochs=args.max_epochs if args.max_minutes is None else 10**6,  # the clock stops it
        max_steps=args.max_steps,
        validation_size=args.validation_size,
        token_budget=args.token_budget,
        mask_probability=args.mask_probability,
        learning_rate=args.learning_rate,
        weight_decay=0.01,
        schedule="linear",
        warmup=args.warmup,
        precision=args.precision,
        checkpoints=last.parent,
        checkpoint_every=200,
        ckpt_path=last if args.resume else None,
        rng=args.seed,
        plan_kwargs={"total_steps": None if args.max_minutes is None else 10**6},
        callbacks=[clock],
        enable_progress_bar=False,
    )
    history = model.history
    record = {
        "recipe": "benchmarks/pretrain_default.py",
        "arguments": {name: value for name, value in vars(args).items() if name not in ("data", "out", "resume")},
        "data": {name: {"sha256": digest(args.data / name), "cells": sets[name].n_obs} for name in sets},
        "held_out": HELD_OUT[args.cells],
        "vocabulary": {"name": vocabulary.name, "tokens": len(vocabulary), "hash": vocabulary.hash},
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "steps": int(history["train_loss_step"].index.max()) + 1,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "tokens_per_second": round(clock.tokens / (time.monotonic() - started)),
        **{name: [round(x, 4) for x in history[name][name]] for name in PER_EPOCH if name in history},
        "versions": {name: version(name) for name in ("torch", "scvi-tools", "lightning", "anndata", "numpy")}
        | {"python": platform.python_version(), "scgeneformer": sg.__version__},
    }
    write(model, args.out, record)


if __name__ == "__main__":
    main()
