"""The recipe of the bundled model runs, its learning rate ends with its time, and what it writes can be loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

import scgeneformer as sg

ROOT = Path(__file__).parents[2]
TINY = (
    "--n-layers",
    "1",
    "--width",
    "8",
    "--n-heads",
    "2",
    "--feed-forward",
    "8",
    "--max-length",
    "64",
    "--min-cells",
    "300",
)


def test_the_recipe_of_the_bundled_model_runs_by_the_clock(shared: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "pretrain_default.py"), "--data", str(shared / "data"), *TINY]
    words += ["--max-minutes", "0.05", "--warmup", "2", "--start", "random", "--precision", "32-true", "--threads", "1"]
    ran = subprocess.run(
        [*words, "--out", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    rates = pd.read_csv(tmp_path / "learning_rate.csv", index_col=0)["learning_rate"]
    assert rates.max() > 5e-4
    assert rates.iloc[-1] < 0.3 * rates.max()
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert set(provenance["data"]).isdisjoint(provenance["held_out"])
    pretrained = sg.hub.load(tmp_path / "model")
    assert pretrained.vocabulary.hash == provenance["vocabulary"]["hash"]
    assert pretrained.encoder.config.width == 8
