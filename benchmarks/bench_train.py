"""Tokens per second of training, compared with Hugging Face's `Trainer` with the same model, cells and tokens per batch.

    python benchmarks/bench_train.py [--task masked|cells] [--shape default|V1-10M|V2-104M] [--steps 12] [--runs 3]
                                     [--token-budget 8192] [--attention-dropout 0.0]

Needs `pip install accelerate` (for the `Trainer`). Cells are PBMC (Kang control and interferon) if the shared folder is available, else
random cells of the same lengths. Both sides start from the same weights (random, which does not affect speed), use batches of
similar length with the same mean number of tokens, clip gradients and follow a linear schedule with AdamW. Tokens are counted without
padding, in steps after a warm-up, from the end of one step to the end of another. Rows:

- "HF as official": float32, batches grouped by length, as official Geneformer trains.
- "HF bf16": the same with `bf16=True`, which the official tool does not use.
- "ours float32" and "ours" (`precision="auto"`, bf16 if the processor has instructions for it).

On a GPU the script also prints peak memory, and the share of its bf16 peak (`--peak`, in TFLOP/s) that training uses (model FLOP utilisation: multiplications
and additions of matrix products of the forward pass times three).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch

import scgeneformer as sg
from scgeneformer import nn

SHARED = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared")
SHAPES = {  # vocabulary, layers, width, heads, feed-forward, positions
    "default": (13_156, 3, 128, 4, 256, 1024),
    "V1-10M": (25_426, 6, 256, 4, 512, 2048),
    "V2-104M": (20_275, 12, 768, 12, 3072, 4096),
}
WARM_UP = 3
N_CLASSES = 8


def make_cells(shape: str, length: int | None) -> ad.AnnData:
    """Cells with tokens of a vocabulary of the given size."""
    vocab_size, positions = SHAPES[shape][0], SHAPES[shape][-1]
    rng = np.random.default_rng(0)
    path = SHARED / "data" / "kang_ifnb_scgen" / "kang_ifnb_valid.h5ad"
    if length is not None:
        lengths = np.full(512, length)
    elif path.is_file():
        lengths = np.diff(ad.read_h5ad(path).X.indptr)
    else:
        lengths = rng.integers(250, 900, 2000)
    tokens = np.zeros((len(lengths), positions), dtype=np.uint16)
    genes = np.arange(4, vocab_size, dtype=np.uint16)
    for row, n in zip(tokens, np.minimum(lengths, positions), strict=True):
        row[:n] = np.r_[2, rng.choice(genes, n - 2, replace=False), 3]
    ids = ["<pad>", "<mask>", "<cls>", "<eos>"] + [f"ENSG{i:011d}" for i in range(vocab_size - 4)]
    vocabulary = sg.Vocabulary("synthetic", np.array(ids), np.r_[[np.nan] * 4, np.ones(vocab_size - 4)], positions)
    obs = pd.DataFrame(
        {"type": [f"type {i % N_CLASSES}" for i in range(len(tokens))]}, index=[str(i) for i in range(len(tokens))]
    )
    adata = ad.AnnData(obs=obs, obsm={"geneformer_tokens": tokens})
    params = {"vocabulary": vocabulary.name, "vocabulary_hash": vocabulary.hash}
    adata.uns["geneformer_tokens"] = {"params": params}
    adata.uns["made_with"] = vocabulary
    return adata


class Clock:
    """Tokens and time after the warm-up."""

    def __init__(self) -> None:
        self.steps, self.tokens, self.flops = 0, 0, 0.0

    def count(self, lengths: np.ndarray, config: nn.EncoderConfig, *, head: float) -> None:
        """Count a finished step."""
        self.steps += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.steps == WARM_UP:
            self.start = time.perf_counter()
        elif self.steps > WARM_UP:
            self.tokens += int(lengths.sum())
            self.flops += 3 * forward_flops(config, lengths, head)
            self.seconds = time.perf_counter() - self.start

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def forward_flops(config: nn.EncoderConfig, lengths: np.ndarray, head: float) -> float:
    """Multiplications and additions of the matrix products of one forward pass; `head` is the share of scored tokens."""
    per_token = 2 * config.width * (4 * config.width + 2 * config.feed_forward) + 4 * config.width * lengths
    return float(
        (config.n_layers * per_token * lengths).sum() + head * 2 * config.width * config.vocab_size * lengths.sum()
    )


def ours(task: str, adata: ad.AnnData, folder: Path, precision: str, args: argparse.Namespace) -> Clock:
    """`Geneformer.train` or `CellClassifier.train`."""
    clock = Clock()
    head = 0.15 if task == "masked" else 0.0

    class Count(pl.Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
            clock.count(batch["lengths"].cpu().numpy(), model.encoder.config, head=head)

    vocabulary = adata.uns["made_with"]
    pretrained = sg.hub.load(folder, vocabulary=vocabulary)
    if task == "masked":
        sg.model.Geneformer.setup_anndata(adata)
        model = sg.model.Geneformer.from_pretrained(pretrained, adata)
        kwargs = {"train_size": 1.0}
    else:
        sg.model.CellClassifier.setup_anndata(adata, "type")
        options = {"pooling": "cls", "head": "bert", "attention_dropout": args.attention_dropout}
        model = sg.model.CellClassifier(adata, pretrained, **options)
        kwargs = {"train_size": 1.0, "validation_size": 0.0, "test_size": 0.0, "keep_best": None}
    model.train(
        max_epochs=1000,
        max_steps=args.steps + WARM_UP,
        token_budget=args.token_budget,
        precision=precision,
        checkpoint_activations=args.checkpoint_activations,
        compile=args.compile,
        callbacks=[Count()],
        enable_progress_bar=False,
        **kwargs,
    )
    return clock


def theirs(task: str, adata: ad.AnnData, folder: Path, args: argparse.Namespace, *, bf16: bool) -> Clock:
    """Hugging Face's `Trainer`, with the batches and the masking of the official collators."""
    from transformers import (
        BertForMaskedLM,
        BertForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    clock, tokens = Clock(), adata.obsm["geneformer_tokens"]
    lengths = (tokens != 0).sum(1)
    labels = pd.Categorical(adata.obs["type"]).codes
    rows = [
        {"input_ids": row[:n].astype(np.int64), "length": int(n), "label": int(y)}
        for row, n, y in zip(tokens, lengths, labels, strict=True)
    ]
    cls = BertForMaskedLM if task == "masked" else BertForSequenceClassification
    network = cls.from_pretrained(folder, **({} if task == "masked" else {"num_labels": N_CLASSES}))
    generator = np.random.default_rng(0)
    seen: list[np.ndarray] = []

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(row["length"] for row in batch)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        for out, row in zip(ids, batch, strict=True):
            out[: row["length"]] = row["input_ids"]
        seen.append(np.array([row["length"] for row in batch]))
        found = {"attention_mask": (ids != 0).astype(np.int64)}
        if task == "masked":
            hidden = (generator.random(ids.shape) < 0.15) & (ids > 1)
            found["labels"] = np.where(hidden, ids, -100)
            ids = np.where(hidden, 1, ids)
        else:
            found["labels"] = np.array([row["label"] for row in batch])
        return {name: torch.from_numpy(value) for name, value in {"input_ids": ids, **found}.items()}

    class Count(TrainerCallback):
        def on_step_end(self, args_, state, control, **kwargs) -> None:
            clock.count(seen[clock.steps], config, head=1.0 if task == "masked" else 0.0)

    config = nn.EncoderConfig.from_hf(network.config.to_dict())
    arguments = TrainingArguments(
        tempfile.mkdtemp(),
        max_steps=args.steps + WARM_UP,
        per_device_train_batch_size=max(1, round(args.token_budget / lengths.mean())),
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,
        learning_rate=1e-3,
        weight_decay=1e-3,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    Trainer(model=network, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Count()]).train()
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("masked", "cells"), default="masked")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="default")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--token-budget", type=int, default=8192)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--length", type=int, help="length of all cells instead")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the GPU in bf16, dense")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only-ours", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    sg.settings.progress = False
    adata = make_cells(args.shape, args.length)
    vocab_size, n_layers, width, n_heads, feed_forward, positions = SHAPES[args.shape]
    torch.manual_seed(0)
    config = nn.EncoderConfig(
        vocab_size, n_layers, width, n_heads, feed_forward, positions, attention_dropout=args.attention_dropout
    )
    folder = Path(tempfile.mkdtemp())
    nn.save_checkpoint(folder, nn.MaskedGeneModel(config))
    adata.uns["made_with"].save(folder / "vocabulary.json.gz")
    rows = (
        {}
        if args.only_ours
        else {
            "HF as official": lambda: theirs(args.task, adata, folder, args, bf16=False),
            "HF bf16": lambda: theirs(args.task, adata, folder, args, bf16=True),
        }
    )
    rows |= {
        "ours float32": lambda: ours(args.task, adata, folder, "32-true", args),
        "ours": lambda: ours(args.task, adata, folder, "auto", args),
    }
    found = {name: [] for name in rows}
    for _ in range(args.runs):  # alternately, so that all share the load of the machine
        for name, measure in rows.items():
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            clock = measure()
            peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")
            found[name].append((clock.rate, clock.flops / clock.seconds / 1e12, peak))
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(
        f"\n{args.task}, shape {args.shape}, {args.token_budget} tokens a step, attention dropout {args.attention_dropout}, {machine}"
    )
    print(
        "\n| | tokens/s (median) | minimum | maximum | relative to HF as official | TFLOP/s | GPU memory, GB |\n|---|---|---|---|---|---|---|"
    )
    base = statistics.median(rate for rate, *_ in found.get("HF as official", found["ours float32"]))
    for name, values in found.items():
        rates = [rate for rate, *_ in values]
        middle = statistics.median(rates)
        work = statistics.median(value[1] for value in values)
        share = f" ({100 * work / args.peak:.0f} % of peak)" if torch.cuda.is_available() else ""
        print(
            f"| {name} | {middle:,.0f} | {min(rates):,.0f} | {max(rates):,.0f} | {middle / base:.2f} | {work:.3f}{share} | {values[-1][2]:.1f} |"
        )


if __name__ == "__main__":
    main()
