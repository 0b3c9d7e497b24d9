"""The check for machines with a GPU runs on the CPU, and finds its numbers right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_gpu_check_runs_and_writes_its_tables(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--quick", "--device", "cpu", "--out", "found"]
    # without the recordings, which other tests go through
    env = os.environ | {"SCGENEFORMER_SHARED": str(tmp_path / "none"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(row["passed"] for row in found["checks"])
    assert len(found["checks"]) >= 7
    measured = {(row["what"], row["shape"]) for row in found["speeds"]}
    whats = ("embed", "delete, exact", "delete, screen", "embed, as official", "delete, as official")
    assert {(what, shape) for what in whats for shape in ("V1-10M", "V2-104M", "V2-316M")} <= measured
    assert ("train, masked genes", "V2-104M") in measured
    assert all(row["per second"] > 0 for row in found["speeds"])
    assert found["left_out"] == ["recorded official outputs: no shared folder"]
    table = (tmp_path / "found.md").read_text()
    assert table.count("\n|") >= len(found["checks"]) + len(found["speeds"])
