"""Train models of the published shapes for some minutes on real cells, to measure the screen on trained weights.

    python benchmarks/train_shapes.py V1-10M --out build/shapes/v1 --max-minutes 30
    python benchmarks/train_shapes.py V2-104M --out build/shapes/v2 --max-minutes 30

No published weights are needed: training starts from random weights with gene embeddings from co-expression, as in ``pretrain_default.py``, and uses the
masked-gene objective. Such a model knows the main types of blood cells and little more. Reads the PBMC sets of ``pretrain_default.py`` with
the official dictionaries, and for V1 also the 500 full-length cells of Geneformer's own corpus. Writes a folder that ``sg.hub.load`` accepts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from bench_tokenize import SHARED
from pretrain_default import Clock, read_sets, start_at_coexpression, start_at_frequencies, tokenized

import scgeneformer as sg

# published layers, width, heads, feed-forward and positions; suffix of the official dictionaries
SHAPES = {
    "V1-10M": ({"n_layers": 6, "width": 256, "n_heads": 4, "feed_forward": 512}, 2048, "gc30M"),
    "V2-104M": ({"n_layers": 12, "width": 768, "n_heads": 12, "feed_forward": 3072}, 4096, "gc104M"),
}


def official_vocabulary(name: str) -> sg.Vocabulary:
    _, max_length, suffix = SHAPES[name]
    version = name[:2]
    folder = SHARED / "geneformer" / version
    return sg.Vocabulary.from_official(
        folder / f"token_dictionary_{suffix}.pkl",
        folder / f"gene_median_dictionary_{suffix}.pkl",
        name=version,
        max_length=max_length,
    )


def training_cells(name: str, vocabulary: sg.Vocabulary) -> ad.AnnData:
    cells = tokenized(read_sets(SHARED / "data"), vocabulary)
    if name != "V1-10M":
        return cells
    corpus = pd.read_parquet(SHARED / "data" / "genecorpus500" / "genecorpus_500.parquet")
    tokens = np.zeros((len(corpus), vocabulary.max_length), np.uint16)
    for row, ids in zip(tokens, corpus["input_ids"], strict=True):
        row[: len(ids)] = ids
    both = ad.AnnData(obs=pd.DataFrame(index=[*cells.obs_names, *(f"corpus:{i}" for i in range(len(corpus)))]))
    both.obsm["geneformer_tokens"] = np.concatenate([cells.obsm["geneformer_tokens"], tokens])
    both.uns["geneformer_tokens"] = cells.uns["geneformer_tokens"]
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-minutes", type=float, default=30)
    parser.add_argument("--token-budget", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    sizes, _, _ = SHAPES[args.name]
    vocabulary = official_vocabulary(args.name)
    cells = training_cells(args.name, vocabulary)
    sg.model.Geneformer.setup_anndata(cells)
    model = sg.model.Geneformer(cells, vocabulary=vocabulary, dropout=0.0, **sizes)
    start_at_frequencies(model, cells)
    start_at_coexpression(model, cells, 0)
    model.train(
        max_epochs=10**6,  # until the time limit
        validation_size=0.02,
        token_budget=args.token_budget,
        learning_rate=args.learning_rate,
        warmup=20,
        precision="bf16-mixed",
        rng=0,
        plan_kwargs={"total_steps": 10**6},
        callbacks=[Clock(args.max_minutes)],
        enable_progress_bar=False,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    model.export(args.out)
    for name in ("train_loss", "validation_loss"):
        if name in model.history:
            print(name, model.history[name][name].round(3).tolist())


if __name__ == "__main__":
    main()
