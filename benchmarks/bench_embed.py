"""Cells embedded per second, compared with the computation of the official tool, in one run on one machine.

    python benchmarks/bench_embed.py [--model V1-10M|V2-104M] [--cells 100] [--runs 3] [--memory]

The cells are the recorded PBMC if the shared folder is available, else random cells of the same range of lengths. The weights are random in
the published shape, which does not affect speed. "As official" is `transformers`' BertForMaskedLM with all hidden states and batches
of ten padded cells, sorted by length, as in the official tool. All variants are measured alternately, so that they share the load of the
machine, together with the rate of plain matrix products. ``--memory`` compares peak memory for 1 and 4 times the cells.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import BertForMaskedLM

from scgeneformer import engine, nn

SHARED = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared")
SHAPES = {
    "V1-10M": nn.EncoderConfig(vocab_size=25_426, n_layers=6, width=256, n_heads=4, feed_forward=512, max_length=2048),
    "V2-104M": nn.EncoderConfig(
        vocab_size=20_275, n_layers=12, width=768, n_heads=12, feed_forward=3072, max_length=4096
    ),
    "V2-316M": nn.EncoderConfig(
        vocab_size=20_275, n_layers=18, width=1152, n_heads=18, feed_forward=4608, max_length=4096
    ),
}
POOLING = {"V1-10M": ("mean", 2), "V2-104M": ("cls", 4), "V2-316M": ("cls", 4)}
OFFICIAL = {"V1-10M": 2.38, "V2-104M": 0.396}  # cells/s, recorded on 2 cores with float32 products at 190 GFLOP/s


def cells(model: str, n: int) -> np.ndarray:
    """Tokens of real cells, or of random ones."""
    path = SHARED / "conformance" / "subsets" / f"sub100_{model[:2]}.parquet"
    if path.is_file():
        import pandas as pd

        rows = pd.read_parquet(path)["input_ids"].tolist()
    else:
        rng = np.random.default_rng(0)
        lengths = rng.integers(500, SHAPES[model].max_length, 100)
        rows = [rng.permutation(np.arange(4, SHAPES[model].vocab_size))[:length] for length in lengths]
    rows = [rows[i % len(rows)] for i in range(n)]
    tokens = np.zeros((n, max(map(len, rows))), dtype=np.uint16)
    for out, row in zip(tokens, rows, strict=True):
        out[: len(row)] = row
    return tokens


def matrix_rate(dtype: torch.dtype, size: int = 2048, device: str | torch.device = "cpu") -> float:
    """GFLOP/s of a square matrix product, the best of five."""
    a = torch.randn(size, size, device=device).to(dtype)
    a @ a
    best = min(timed(lambda: a @ a) for _ in range(5))
    return 2 * size**3 / best / 1e9


def timed(call) -> float:
    """Seconds that `call` takes, including its work on a GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def flops(config: nn.EncoderConfig, lengths: np.ndarray, n_layers: int) -> float:
    """Multiplications and additions of the matrix products in `n_layers` blocks."""
    per_token = 2 * config.width * (4 * config.width + 2 * config.feed_forward) + 4 * config.width * lengths
    return float((n_layers * per_token * lengths).sum())


def as_official(model, tokens: np.ndarray, emb_layer: int = -1) -> np.ndarray:
    """Batches of ten padded cells through the masked-gene model with all hidden states, pooled by mean."""
    lengths = engine.row_lengths(tokens)
    out = np.empty((len(tokens), model.config.hidden_size), dtype=np.float32)
    order = np.argsort(-lengths, kind="stable")
    with torch.inference_mode():
        for rows in np.array_split(order, max(1, len(order) // 10)):
            batch, mask, _ = engine.to_device(tokens[rows], lengths[rows], model.device)
            mask = torch.ones_like(batch) if mask is None else mask.long()
            states = model(batch, attention_mask=mask, output_hidden_states=True).hidden_states[emb_layer - 1]
            out[rows] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
    return out


def peak_memory(model: str, n: int) -> float:
    """Peak resident memory in GB of a process that embeds `n` cells."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import bench_embed as b; b.embed_only({model!r}, {n})"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def embed_only(model: str, n: int) -> None:
    """Embed and print peak memory."""
    pooling, n_special = POOLING[model]
    engine.embed(nn.Encoder(SHAPES[model]), cells(model, n), pooling=pooling, n_special=n_special)
    status = Path(
        "/proc/self/status"
    ).read_text()  # Linux; getrusage would include the memory of the parent process at the fork
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="V1-10M")
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--token-budget", type=int, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config, (pooling, n_special) = SHAPES[args.model], POOLING[args.model]
    masked_gene_model = nn.MaskedGeneModel(config).eval()
    tokens = cells(args.model, args.cells)
    lengths = engine.row_lengths(tokens)
    print(
        f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    )
    print(
        f"{args.model} shape, {args.cells} cells, mean length {lengths.mean():.0f}, second-to-last layer, pooling {pooling}"
    )

    with tempfile.TemporaryDirectory() as folder:  # both have the same weights
        nn.save_checkpoint(folder, masked_gene_model)
        theirs = BertForMaskedLM.from_pretrained(folder).eval()
    encoder = masked_gene_model.encoder
    options = {"pooling": pooling, "n_special": n_special, "token_budget": args.token_budget}
    ways = {
        "float32": lambda: engine.embed(encoder, tokens, precision="float32", **options).cells,
        "bfloat16": lambda: engine.embed(encoder, tokens, precision="bfloat16", **options).cells,
        "as official": lambda: as_official(theirs, tokens),
    }
    answers = {name: way() for name, way in ways.items()}
    seconds = {name: [] for name in ways}
    rates = {"float32": [], "bfloat16": []}
    for _ in range(args.runs):
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            rates[name].append(matrix_rate(dtype))
        for name, way in ways.items():
            seconds[name].append(timed(way))
    needed = flops(config, lengths, config.n_layers - 1) / 1e9
    official = args.cells / np.median(seconds["as official"])
    for name, measured in seconds.items():
        rate = args.cells / np.median(measured)
        product = np.median(rates[name if name in rates else "float32"])
        print(
            f"{name:12} median {rate:6.2f} cells/s (best {args.cells / min(measured):.2f}), {rate / official:.2f} times as official; "
            f"{needed / np.median(measured) / product:.0%} of the rate of matrix products here, {product:.0f} GFLOP/s"
        )
    if args.model in OFFICIAL:
        print(f"recorded official run: {OFFICIAL[args.model]} cells/s with products at 190 GFLOP/s")
    exact, rough = answers["float32"], answers["bfloat16"]
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    print(
        f"bfloat16 against float32: largest difference {np.abs(exact - rough).max():.1e}, minimum cosine {cosine.min():.6f}"
    )
    if pooling == "mean":
        print(f"float32 against as official: largest difference {np.abs(exact - answers['as official']).max():.1e}")
    if args.memory:
        print(
            "peak memory:",
            ", ".join(f"{n} cells {peak_memory(args.model, n):.2f} GB" for n in (args.cells, 4 * args.cells)),
        )


if __name__ == "__main__":
    main()
