"""Check this package on a GPU machine, with one command of a few minutes without network: are the results correct, and how fast is it?

    python benchmarks/gpu_check.py [--device auto] [--minutes 8] [--out gpu_check] [--quick]

1. Numbers. A small model with random weights on the device, in float32, in bfloat16 and compiled, compared with float32 on the CPU: embeddings, effects of
   deletions, estimates of the screen, gradients of a training step; and compared with `transformers` on the device.
2. Recorded official outputs of small models, if the shared folder is available, by ``check_recordings.py``.
3. The tests of `nn` and `engine` on the device, if pytest is installed.
4. Speed in the published shapes with random weights, which do not affect it, and with cells of real lengths if the shared folder is available: embedding,
   exact deletions, the screen, and training at 4,096 tokens. Reports cells, deletions or tokens per second, TFLOP/s of the necessary matrix products, their
   share of the rate of one large product (and of ``--peak``), and peak memory; embedding and deletions also as the official tool computes them.

Writes ``OUT.json`` and ``OUT.md`` after each measurement, so that an interrupted run keeps its results. Parts skipped for lack of time are listed. The exit
status is 1 if a number is out of bounds or a test fails. ``--quick`` uses tiny shapes and omits tests and compiling, to check that the script runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bench_embed import POOLING, SHAPES, SHARED, as_official, cells, flops, matrix_rate, timed
from bench_perturb import as_official as deletions_as_official
from torch.nn import functional as F
from transformers import BertForMaskedLM

import scgeneformer as sg
from scgeneformer import engine, nn
from scgeneformer.engine.perturb import Perturbation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SMALL = nn.EncoderConfig(vocab_size=300, n_layers=3, width=64, n_heads=4, feed_forward=128, max_length=256)
TINY = dict.fromkeys(SHAPES, SMALL)
N_SPECIAL = 4
RECORDINGS = (
    "v2-tiny_gene_L-1_short6",
    "v1-tiny_gene_L-1_short6",
    "v2-tiny_cls_L-1_sub100",
    "v2-tiny_all_delete_cls_nk4",
)
HIDDEN = 0.15  # share of tokens that training masks


@dataclass
class Report:
    """Results, written to files after each measurement.

    Attributes
    ----------
    out
        Path of the files, without suffix.
    end
        When to stop, by `time.monotonic`.
    machine
        Properties of the machine.
    checks, speeds, left_out
        Rows of the tables, and parts that were skipped.
    """

    out: Path
    end: float
    machine: dict[str, Any]
    checks: list[dict[str, Any]] = field(default_factory=list)
    speeds: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(row["passed"] for row in self.checks)

    def check(self, name: str, value: float, bound: float, *, least: bool = False) -> None:
        """Check that a number is at most (or, with `least`, at least) `bound`."""
        passed = bool(value >= bound if least else value <= bound)
        self.checks.append(
            {"check": name, "value": value, "bound": f"{'>=' if least else '<='} {bound:g}", "passed": passed}
        )
        self.write()

    @contextmanager
    def part(self, name: str, seconds: float) -> Iterator[bool]:
        """Whether there is time for a part of about this duration. An error in it fails the check, and the other parts continue."""
        has_time = time.monotonic() + seconds < self.end
        if not has_time:
            self.left_out.append(f"{name}: no time left")
        try:
            yield has_time
        except (RuntimeError, ValueError, subprocess.SubprocessError) as error:  # out of memory is a RuntimeError
            text = " ".join(str(error).split())[:300]
            self.checks.append({"check": name, "value": text, "bound": "no error", "passed": False})
        self.write()

    def write(self) -> None:
        content = {"machine": self.machine, "checks": self.checks, "speeds": self.speeds, "left_out": self.left_out}
        self.out.with_suffix(".json").write_text(json.dumps(content, indent=1))
        self.out.with_suffix(".md").write_text(self.text())

    def text(self) -> str:
        """The tables."""
        lines = [", ".join(f"{name} {value}" for name, value in self.machine.items()), ""]
        for rows in (self.checks, self.speeds):
            if rows:
                columns = list(dict.fromkeys(name for row in rows for name in row))
                lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
                lines += [f"| {' | '.join(_shown(row.get(name)) for name in columns)} |" for row in rows]
                lines += [""]
        return "\n".join([*lines, *self.left_out, ""])


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: ""}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def random_cells(n: int, longest: int) -> np.ndarray:
    """Cells for the small model, of several lengths; uint16 (n, longest)."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((n, longest), dtype=np.uint16)
    for row, length in zip(tokens, rng.integers(longest // 4, longest + 1, n), strict=True):
        row[:length] = rng.permutation(np.arange(N_SPECIAL, SMALL.vocab_size))[:length]
        row[0], row[length - 1] = 2, 3
    return tokens


def effects(
    network: nn.Encoder, tokens: np.ndarray, states: np.ndarray, device: str, precision: str, method: str
) -> np.ndarray:
    """Shifts of all deletions, (P, S)."""
    every = Perturbation("delete", genes=np.arange(N_SPECIAL, network.config.vocab_size))
    options = {"pooling": "cls", "emb_layer": -1, "device": device, "precision": precision}
    return engine.perturb.run(
        network, tokens, every, n_special=N_SPECIAL, states=states, method=method, **options
    ).values


def gradients(network: nn.MaskedGeneModel, tokens: np.ndarray, device: torch.device) -> torch.Tensor:
    """Gradient of the masked-gene loss of one step, all parameters in one vector, on the CPU."""
    network = copy.deepcopy(network).to(device)
    batch = engine.to_device(tokens, engine.row_lengths(tokens), device)
    hidden = (batch.tokens >= N_SPECIAL) & (batch.tokens % 7 == 0)
    scores = network(batch.tokens.masked_fill(hidden, 1), batch.mask)
    F.cross_entropy(scores[hidden].float(), batch.tokens[hidden]).backward()
    return torch.cat([p.grad.float().flatten() for p in network.parameters() if p.grad is not None]).cpu()


def check_numbers(report: Report, device: torch.device, *, compile: bool) -> None:
    """Compare the small model on the device with the CPU."""
    torch.manual_seed(0)
    network = nn.MaskedGeneModel(SMALL).eval()
    encoder, tokens = network.encoder, random_cells(24, SMALL.max_length)
    here, options = str(device), {"pooling": "cls", "n_special": N_SPECIAL}
    on_cpu = engine.embed(encoder, tokens, device="cpu", precision="float32", **options).cells
    states = on_cpu[:2]
    few, exact = tokens[:3], effects(encoder, tokens[:3], states, "cpu", "float32", "exact")
    estimated = effects(encoder, few, states, "cpu", "float32", "screen")
    with report.part("embedding", 0):
        found = engine.embed(encoder, tokens, device=here, precision="float32", **options).cells
        report.check("embedding, float32: largest difference from the CPU", float(np.abs(found - on_cpu).max()), 1e-4)
        rough = engine.embed(encoder, tokens, device=here, precision="bfloat16", **options).cells
        cosine = (rough * on_cpu).sum(1) / np.linalg.norm(rough, axis=1) / np.linalg.norm(on_cpu, axis=1)
        report.check(
            "embedding, bfloat16: minimum cosine with the CPU in float32", float(cosine.min()), 0.998, least=True
        )
        one_by_one = np.vstack(
            [engine.embed(encoder, row[None], device=here, precision="float32", **options).cells for row in few]
        )
        report.check(
            "embedding, float32: largest difference between single cells and a batch",
            float(np.abs(one_by_one - found[:3]).max()),
            1e-4,
        )
    with report.part("deletions", 0):
        found = effects(encoder, few, states, here, "float32", "exact")
        report.check("deletions, float32: largest difference from the CPU", float(np.abs(found - exact).max()), 1e-5)
    with report.part("screen", 0):
        found = effects(encoder, few, states, here, "float32", "screen")
        report.check("screen, float32: largest difference from the CPU", float(np.abs(found - estimated).max()), 1e-4)
    with report.part("gradients", 0):
        expected, found = gradients(network, tokens, torch.device("cpu")), gradients(network, tokens, device)
        report.check(
            "gradients, float32: relative difference from the CPU",
            float((found - expected).norm() / expected.norm()),
            1e-3,
        )
    with report.part("transformers", 0), tempfile.TemporaryDirectory() as folder:
        nn.save_checkpoint(folder, network)
        theirs = BertForMaskedLM.from_pretrained(folder).eval().to(device)
        ours = engine.embed(encoder, tokens, device=here, precision="float32", pooling="mean", n_special=1).cells
        report.check(
            "embedding, float32: largest difference from transformers",
            float(np.abs(ours - as_official(theirs, tokens)).max()),
            1e-4,
        )
    if compile:
        with report.part("compiled", 90) as has_time:
            if has_time:
                compiled = copy.deepcopy(encoder).to(device)
                nn.compile_blocks(compiled)
                found = engine.embed(compiled, tokens, device=here, precision="float32", **options).cells
                report.check(
                    "embedding, compiled: largest difference from the CPU", float(np.abs(found - on_cpu).max()), 1e-4
                )


def check_recordings(report: Report, device: torch.device, names: tuple[str, ...]) -> None:
    """Check small recorded official runs, with their script in a separate process."""
    if not (SHARED / "conformance").is_dir():
        report.left_out.append("recorded official outputs: no shared folder")
        return
    with report.part("recordings", 60) as has_time:
        if not has_time:
            return
        words = [sys.executable, str(ROOT / "benchmarks" / "check_recordings.py"), "--shared", str(SHARED), *names]
        env = os.environ | {"SCGENEFORMER_DEVICE": device.type}
        ran = subprocess.run(words, capture_output=True, text=True, check=True, env=env, timeout=300)
        for line in ran.stdout.splitlines():
            name, _, text = line.partition(": ")
            largest = text.partition("largest difference ")[2].split()[0].strip(",;")
            report.check(f"recorded {name}: largest difference", float(largest), 1e-4)


def check_tests(report: Report, device: torch.device) -> None:
    """Run the tests of `nn` and `engine`."""
    with report.part("tests of nn and engine", 240) as has_time:
        if not has_time:
            return
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/nn", "tests/engine"]
        env = os.environ | {"SCGENEFORMER_DEVICE": device.type, "MPLBACKEND": "agg"}
        limit = max(60.0, report.end - time.monotonic())
        ran = subprocess.run(words, capture_output=True, text=True, env=env, cwd=ROOT, timeout=limit, check=False)
        summary = (ran.stdout.splitlines() or [ran.stderr[-300:]])[-1]
        report.checks.append(
            {"check": "tests of nn and engine", "value": summary, "bound": "all pass", "passed": ran.returncode == 0}
        )


@dataclass
class Timer:
    """Measures the speed of calls, relative to the rate of matrix products on the same device."""

    report: Report
    device: torch.device
    peak: float | None
    products: dict[str, float]

    def measure(
        self, what: str, shape: str, precision: str, unit: str, n: float, needed: float, call: Callable[[], Any]
    ) -> None:
        """Median of three calls after a warm-up, for `n` units of work that need `needed` GFLOP."""
        on_gpu = self.device.type == "cuda"
        call()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = float(np.median([timed(call) for _ in range(3)]))
        rate = needed / seconds
        row = {
            "what": what,
            "shape": shape,
            "precision": precision,
            "per second": n / seconds,
            "unit": unit,
            "TFLOP/s": rate / 1e3,
        }
        row["of the matrix rate"] = rate / self.products[precision]
        row["of the peak"] = rate / 1e3 / self.peak if self.peak and precision == "bfloat16" else None
        row["memory, GB"] = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
        self.report.speeds.append(row)
        self.report.write()


def measure_shape(timer: Timer, name: str, config: nn.EncoderConfig, n_cells: int) -> None:
    """Embedding, deletions and screen of one shape."""
    report, here = timer.report, str(timer.device)
    pooling, n_special = POOLING[name]
    with report.part(f"speed of {name}", 45) as has_time:
        if not has_time:
            return
        torch.manual_seed(0)
        network = nn.MaskedGeneModel(config).eval()
        encoder = copy.deepcopy(network.encoder).to(timer.device)
        tokens = cells(name, n_cells) if config is not SMALL else random_cells(n_cells, SMALL.max_length)
        lengths = engine.row_lengths(tokens)
        n_layers = config.n_layers - 1
        needed = flops(config, lengths, n_layers) / 1e9
        options = {"pooling": pooling, "n_special": n_special, "device": here}
        for precision in PRECISIONS:
            placed = copy.deepcopy(encoder).to(PRECISIONS[precision])
            timer.measure(
                *("embed", name, precision, "cells", n_cells, needed),
                lambda placed=placed, precision=precision: engine.embed(placed, tokens, precision=precision, **options),
            )
        row = tokens[np.argsort(lengths)[len(lengths) // 2]]
        row = row[: int((row > 0).sum())]
        genes = np.sort(row[row >= N_SPECIAL][:200]).astype(np.int64)
        deletions = Perturbation("delete", genes=genes)
        of_deletions = flops(config, np.full(len(genes), len(row) - 1), n_layers) / 1e9
        states = np.random.default_rng(0).normal(size=(2, config.width)).astype(np.float32)
        for precision in PRECISIONS:
            settings = options | {"states": states, "precision": precision, "emb_layer": -1}
            placed = copy.deepcopy(encoder).to(PRECISIONS[precision])
            timer.measure(
                *("delete, exact", name, precision, "deletions", len(genes), of_deletions),
                lambda placed=placed, settings=settings: engine.perturb.run(placed, row[None], deletions, **settings),
            )
        every = Perturbation("delete", genes=np.arange(n_special, config.vocab_size))
        few = tokens[: max(1, n_cells // 8)]
        settings = options | {"states": states, "precision": "float32", "emb_layer": -1, "method": "screen"}
        backward = 3 * flops(config, engine.row_lengths(few), n_layers) / 1e9  # one backward pass per state
        timer.measure(
            *("delete, screen", name, "float32", "cells", len(few), len(states) * backward),
            lambda: engine.perturb.run(encoder, few, every, **settings),
        )
        with tempfile.TemporaryDirectory() as folder:
            nn.save_checkpoint(folder, network)
            theirs = BertForMaskedLM.from_pretrained(folder).eval().to(timer.device)
        few = tokens[: max(1, n_cells // 4)]
        timer.measure(
            *(
                "embed, as official",
                name,
                "float32",
                "cells",
                len(few),
                flops(config, engine.row_lengths(few), n_layers) / 1e9,
            ),
            lambda: as_official(theirs, few),
        )
        at = np.flatnonzero(np.isin(row, genes))[:40]
        timer.measure(
            *("delete, as official", name, "float32", "deletions", len(at), of_deletions * len(at) / len(genes)),
            lambda: deletions_as_official(theirs, row, at, pooling),
        )


def measure_training(timer: Timer, name: str, config: nn.EncoderConfig, n_cells: int) -> None:
    """Steps of masked-gene training on cells that fill all positions, in bfloat16 as in `Geneformer.train`."""
    report, device = timer.report, timer.device
    with report.part(f"training of {name}", 60) as has_time:
        if not has_time:
            return
        torch.manual_seed(0)
        network = nn.MaskedGeneModel(config).to(device).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        tokens = torch.randint(N_SPECIAL, config.vocab_size, (n_cells, config.max_length), device=device)
        hidden = torch.rand(tokens.shape, device=device) < HIDDEN
        seen = tokens.masked_fill(hidden, 1)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16):
                scores = network(seen, where=hidden)
            F.cross_entropy(scores.float(), tokens[hidden]).backward()
            optimizer.step()

        lengths = np.full(n_cells, config.max_length)
        head = HIDDEN * 2 * config.width * config.vocab_size * lengths.sum()
        needed = 3 * (flops(config, lengths, config.n_layers) + head) / 1e9
        timer.measure("train, masked genes", name, "bfloat16", "tokens", int(lengths.sum()), needed, step)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--cells", type=int, help="number of cells to embed; by default 400 on a GPU, 8 elsewhere")
    parser.add_argument(
        "--peak",
        type=float,
        help="TFLOP/s of the device in dense bfloat16, by its specification; 989 for an H100 or H200",
    )
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    sg.settings.progress = False
    device = engine.resolve_device(args.device)
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 256 if args.quick else 2048
    products = {name: matrix_rate(dtype, size, device) for name, dtype in PRECISIONS.items()}
    machine = {
        "device": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)",
        "torch": torch.__version__,
        "scgeneformer": sg.__version__,
        **{f"matrix products, {name}, TFLOP/s": round(rate / 1e3, 3) for name, rate in products.items()},
    }
    report = Report(args.out, time.monotonic() + 60 * args.minutes, machine)
    shapes, n_cells = (TINY, 8) if args.quick else (SHAPES, args.cells or (400 if on_gpu else 8))
    check_numbers(report, device, compile=not args.quick and shutil.which(os.environ.get("CXX", "g++")) is not None)
    check_recordings(report, device, RECORDINGS[:1] if args.quick else RECORDINGS)
    timer = Timer(report, device, args.peak, products)
    for name, config in shapes.items():
        measure_shape(timer, name, config, n_cells)
    measure_training(timer, "V2-104M", shapes["V2-104M"], 4 if on_gpu or args.quick else 1)
    if not args.quick:
        check_tests(report, device)
    report.write()
    print(report.text())
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
