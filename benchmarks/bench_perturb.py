"""Exact deletions per second, compared with the computation of the official tool, in one run on one machine.

    python benchmarks/bench_perturb.py [--lengths 519 1139 2048] [--genes 40] [--runs 3] [--model V1-10M|V2-104M]

Deletes the genes of one cell, one at a time, and compares each edited cell with the original (V1: mean over genes of the per-gene cosine, V2: <cls>). Weights
and cells are random in the published shapes, which does not affect speed. "As official" is `transformers`' BertForMaskedLM with all hidden
states, ten edited rows at a time, and the same comparison. The recorded rates are those of the official package on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import numpy as np
import torch
from bench_embed import POOLING, SHAPES, flops, matrix_rate, timed
from bench_tokenize import processor
from torch.nn import functional as F
from transformers import BertForMaskedLM

from scgeneformer import engine, nn

RECORDED = {("V1-10M", 519): 10.55, ("V1-10M", 1139): 4.35, ("V2-104M", 519): 1.42}


def as_official(model, row: np.ndarray, positions: np.ndarray, pooling: str) -> np.ndarray:
    out = []
    with torch.inference_mode():
        tokens = torch.from_numpy(row.astype(np.int64)).to(model.device)
        before = model(tokens[None], output_hidden_states=True).hidden_states[-2][0]
        for batch in np.array_split(positions, max(1, len(positions) // 10)):
            kept = torch.stack([torch.cat([torch.arange(p), torch.arange(p + 1, len(row))]) for p in batch.tolist()])
            kept = kept.to(model.device)
            after = model(tokens[kept], output_hidden_states=True).hidden_states[-2]
            if pooling == "cls":
                out.append(F.cosine_similarity(after[:, 0], before[None, 0], dim=-1))
            else:
                out.append(F.cosine_similarity(after, before[kept], dim=-1).mean(1))
    return torch.cat(out).cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="V1-10M")
    parser.add_argument("--lengths", type=int, nargs="+", default=[519, 1139, 2048])
    parser.add_argument("--genes", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config, (pooling, n_special) = SHAPES[args.model], POOLING[args.model]
    network = nn.MaskedGeneModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:  # both have the same weights
        nn.save_checkpoint(folder, network)
        theirs = BertForMaskedLM.from_pretrained(folder).eval()
    print(f"{processor()}, {args.threads} threads, {args.model} shape, medians of {args.runs} runs")
    rng = np.random.default_rng(0)
    for length in args.lengths:
        row = rng.permutation(np.arange(n_special, config.vocab_size))[:length].astype(np.uint16)
        if n_special == 4:
            row[0], row[-1] = 2, 3
        perturbation = engine.perturb.Perturbation(
            "delete", genes=np.sort(rng.choice(row[1:-1], args.genes, replace=False)).astype(np.int64)
        )
        todo = engine.perturb.enumerate_edits(
            row[None], perturbation, n_special=n_special, max_length=config.max_length
        )
        positions = np.argmax(row[None] == todo.what[:, None], axis=1)
        options = {"pooling": pooling, "n_special": n_special}

        def ours(precision: str, todo=todo, perturbation=perturbation, options=options) -> np.ndarray:
            return engine.perturb.measure(network.encoder, todo, perturbation, precision=precision, **options)[:, 0]

        ways = {
            "float32": lambda ours=ours: ours("float32"),
            "bfloat16": lambda ours=ours: ours("bfloat16"),
            "as official": lambda row=row, at=positions: as_official(theirs, row, at, pooling),
        }
        answers = {name: way() for name, way in ways.items()}
        seconds = {name: [] for name in ways}
        products = {"float32": [], "bfloat16": []}
        for _ in range(args.runs):
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
                products[name].append(matrix_rate(dtype))
            for name, way in ways.items():
                seconds[name].append(timed(way))
        needed = flops(config, np.full(len(todo), length - 1), config.n_layers - 1) / 1e9
        official = np.median(seconds["as official"])
        for name, measured in seconds.items():
            took, product = np.median(measured), np.median(products.get(name, products["float32"]))
            print(
                f"length {length}, {name:12} {len(todo) / took:6.2f} deletions/s, {official / took:.2f} times as official, "
                f"{needed / took / product:.0%} of {product:.0f} GFLOP/s"
            )
        recorded = RECORDED.get((args.model, length))
        print(
            f"length {length}: recorded official {recorded}/s; largest difference to as official "
            f"{np.abs(answers['float32'] - answers['as official']).max():.1e}"
        )


if __name__ == "__main__":
    main()
