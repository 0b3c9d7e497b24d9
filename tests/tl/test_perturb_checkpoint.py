"""Runs that are killed, or stopped by a full disk, are resumed with the results of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scgeneformer as sg
from scgeneformer.engine.perturb import Store, _run
from scgeneformer.nn._encoder import Embedding

GOAL = {"groupby": "state", "source": "sick", "target": "well", "others": ["odd"]}
RUNS = {
    "genes": {"genes": "SYM1 SYM5 SYM7 SYM8".split(), "effects": True},
    "sets": {"sets": {"a/b": ["SYM1", "SYM2"], "c": ["SYM7", "SYM9"], "d": ["SYM5"], "e": ["SYM8"]}, "effects": True},
    "screen+exact": {"refine": 3},
    "in": {"kind": "overexpress", "genes": "vocabulary"},
}


def perturb_by(adata, model, genes=None, **options) -> str:
    """Call the verb that takes these options; the key of its results."""
    if "sets" in options or "anchor" in options:
        sg.tl.perturb_sets(adata, model, options.pop("sets", genes), **options)
        return options.get("key_added", "shift_sets")
    verb = sg.tl.screen if "refine" in options else sg.tl.perturb
    verb(adata, model, genes, **options)
    return options.get("key_added", "shift")


def arrays(adata):
    """All results, by slot; bytes are to be compared."""
    found = {}
    for slot in ("layers", "varp"):
        for name, matrix in getattr(adata, slot).items():
            if name is not None:
                found |= {f"{slot} {name} {part}": getattr(matrix, part) for part in ("data", "indices", "indptr")}
    for slot in ("obsm", "varm"):
        tables = {name: table for name, table in getattr(adata, slot).items() if name.startswith("shift")}
        found |= {f"{slot} {name}": np.asarray(table) for name, table in tables.items()}
    run = adata.uns["shift" if "shift" in adata.uns else "shift_sets"]
    return found | {f"state {name}": vector for name, vector in run.get("centroids", {}).items()}


def assert_same_bytes(found, expected):
    assert set(found) == set(expected)
    assert len(found) >= 6
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def small_parts(monkeypatch):
    for method in ("exact", "screen"):
        monkeypatch.setitem(_run.PART_SIZE, method, 30)


@pytest.fixture
def model_runs(monkeypatch):
    """How often the model ran."""
    forward, runs = Embedding.forward, []
    monkeypatch.setattr(Embedding, "forward", lambda *args: runs.append(1) or forward(*args))
    return runs


# One process imports everything and forks children that compute, so that a run begins at once and may be killed at any moment.
SCRIPT = """
import os, pathlib, signal, sys, time
import anndata as ad, numpy as np, scanpy, torch, torch._dynamo
import scgeneformer as sg
from scgeneformer import engine, hub, nn
from scgeneformer.engine.perturb import _run
from test_perturb_checkpoint import GOAL, RUNS, arrays, perturb_by

work = pathlib.Path(sys.argv[1])
adata = ad.read_h5ad(work / "cells.h5ad")
sg.settings.progress = False
sg.settings.token_budget = 100
_run.PART_SIZE.update(exact=20, screen=20)
os.fsync = lambda file: None  # slow, and nothing that a killed process loses
rng = np.random.default_rng()

def start(result=None, **options):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        perturb_by(adata, work / "model", **GOAL, **RUNS[name], **options)
        if result is not None:
            np.savez(work / f"{name} {result}.npz", **arrays(adata))
        code = 0
    finally:
        os._exit(code)

def end(*pids):
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)

for name in RUNS:
    begin = time.monotonic()
    end(start("once"))
    takes = time.monotonic() - begin
    killed = work / f"{name} killed"
    kills = []
    while len(kills) < 5:
        pid = start("killed", checkpoint=killed)
        time.sleep(rng.uniform(0.1, 0.7) * takes)
        os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, 0)[1] == 0:
            break
        kills.append(len(list(killed.rglob("part-*"))))
    end(start("killed", checkpoint=killed))
    print(name, "parts at each kill", kills, "of", len(list(killed.rglob("part-*"))))
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
def test_killed_processes(tokenized, folder, tmp_path):
    tokenized.write_h5ad(tmp_path / "cells.h5ad")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    sys.stdout.write(done.stdout)
    for name in RUNS:
        once, killed = (dict(np.load(tmp_path / f"{name} {how}.npz")) for how in ("once", "killed"))
        assert_same_bytes(killed, once)


def test_the_same_call_computes_nothing_again(tokenized, folder, tmp_path, model_runs):
    options = {**GOAL, "checkpoint": tmp_path / "parts", "max_state_cells": 5, "rng": 3, "untrained": False}
    sg.tl.perturb(tokenized, folder, **options)
    expected = arrays(tokenized)
    n_runs = len(model_runs)
    # neither how much fits into a batch nor the name of a slot changes what was computed
    with sg.settings.override(token_budget=64):
        again = sg.tl.perturb(tokenized, folder, **options, key_added="again", copy=True)
    assert len(model_runs) - n_runs <= 15  # positions of three states of 5 cells
    assert again.layers["again"].data.tobytes() == expected["layers shift data"].tobytes()


CHANGES = {
    "kind": ({"kind": "inhibit"}, "kind was 'delete' and is 'inhibit'"),
    "quartiles": ({"quartiles": 2}, "rank_shift was 1 and is 2"),
    "genes": ({"genes": ["SYM1", "SYM3"]}, "genes was"),
    "anchor": ({"anchor": "SYM3"}, "anchor was None"),
    "source": ({"source": "odd", "others": ["sick"]}, "tokens of the cells was"),
    "target": (
        {"target": "odd", "others": ["well"]},
        r"states was \['well', 'sick', 'odd'\] and is \['odd', 'sick', 'well'\]",
    ),
    "others": ({"others": ()}, "states was"),
    "centroids": ({"centroids": "median"}, "state_positions was 'mean' and is 'median'"),
    "given": ({"centroids": dict.fromkeys(("well", "sick", "odd"), np.ones(16))}, "is 'given'"),
    "max_state_cells": ({"max_state_cells": 4}, "positions of states was"),
    "cells": ({"cells": "n < 30"}, "tokens of the cells was"),
    "max_cells": ({"max_cells": 3}, "tokens of the cells was"),
    "effects": ({"effects": True}, "effects was False and is True"),
    "positions": ({"positions": "kept"}, "positions was None and is 'kept'"),
    "decompose": ({"decompose": True}, "decompose was None and is True"),
    "compat": ({"compat": "official"}, "compat was None and is 'official'"),
    "pooling": ({"pooling": "mean"}, "pooling was 'cls' and is 'mean'"),
    "emb_layer": ({"emb_layer": 0}, "emb_layer was -1 and is 0"),
    "precision": ({"precision": "bfloat16"}, "precision was 'float32' and is 'bfloat16'"),
}


@pytest.fixture
def half(tokenized, folder, tmp_path, small_parts, interrupted):
    """A run of which one part was done, and the folder of its parts."""
    tokenized.obs["n"] = np.arange(40)
    options = {"genes": ["SYM1", "SYM2", "SYM4", "SYM5"], "checkpoint": tmp_path / "parts", **GOAL}
    interrupted(1, sg.tl.perturb, tokenized, folder, **options)
    assert len(list((tmp_path / "parts" / "genes").glob("part-*"))) == 1
    return tokenized, options


@pytest.mark.parametrize("what", CHANGES)
def test_other_options_are_refused_by_name(half, folder, model_runs, what):
    adata, options = half
    changed, words = CHANGES[what][0].copy(), CHANGES[what][1]
    model_runs.clear()
    refused = pytest.raises(ValueError, match=f"holds parts of another run: .*{words}")
    with sg.settings.override(precision=changed.pop("precision", "auto")), refused:
        perturb_by(adata, folder, **(options | changed))
    assert not model_runs
    assert "shift" not in adata.uns


def test_other_data_and_models_are_refused_by_name(half, folder, tmp_path, model_runs):
    import torch

    adata, options = half
    model_runs.clear()
    refused = lambda words: pytest.raises(ValueError, match=f"another run: .*{words}")
    pretrained = sg.hub.load(folder)
    sg.nn.save_checkpoint(tmp_path / "renamed", pretrained.encoder)
    pretrained.vocabulary.save(tmp_path / "renamed" / "vocabulary.json")
    with refused("model was 'model' and is 'renamed'"):
        sg.tl.perturb(adata, tmp_path / "renamed", **options)
    with torch.no_grad():
        pretrained.encoder.blocks[0].attention.query.bias[0] += 1e-3
    sg.nn.save_checkpoint(folder, pretrained.encoder)
    with refused("weights_sha256 was '.*' and is"):
        sg.tl.perturb(adata, folder, **options)
    for state, name in (("sick", "tokens of the cells"), ("odd", "positions of states")):
        changed = adata.copy()
        row = changed.obsm["geneformer_tokens"][np.flatnonzero(adata.obs["state"] == state)[0]]
        row[1], row[2] = row[2], row[1]
        with refused(f"{name} was"):
            sg.tl.perturb(changed, folder, **options)
    assert not model_runs


def test_sets_have_parts_of_their_own(tokenized, folder, tmp_path):
    sets = {"a": ["SYM1", "SYM2"]}
    sg.tl.perturb(tokenized, folder, ["SYM1"], checkpoint=tmp_path / "parts")
    sg.tl.perturb_sets(tokenized, folder, sets, checkpoint=tmp_path / "parts")
    with pytest.raises(ValueError, match=r"sets was \[\["):
        sg.tl.perturb_sets(tokenized, folder, {"a": ["SYM1", "SYM4"]}, checkpoint=tmp_path / "parts")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "interrupted"]
)
def test_a_full_disk_or_an_interrupt_keeps_what_is_there(tokenized, folder, tmp_path, small_parts, monkeypatch, error):
    write, before = Store.write, set(tokenized.uns)
    options = {**GOAL, "checkpoint": tmp_path / "parts"}

    def stopping(self, part, parts):
        if part == 3:
            raise error
        write(self, part, parts)

    once = sg.tl.perturb(tokenized, folder, **GOAL, copy=True)
    monkeypatch.setattr(Store, "write", stopping)
    with pytest.raises(type(error), match="No space left" if isinstance(error, OSError) else ""):
        sg.tl.perturb(tokenized, folder, **options)
    assert set(tokenized.uns) == before
    assert set(tokenized.layers) - {None} == set()
    assert len(list((tmp_path / "parts" / "genes").glob("part-*"))) == 3
    monkeypatch.setattr(Store, "write", write)
    sg.tl.perturb(tokenized, folder, **options)
    assert_same_bytes(arrays(tokenized), arrays(once))


def test_names_of_files_do_not_grow_with_the_set(tokenized, folder, tmp_path):
    """The official tool writes all genes of a set into a file name, which fails from about 30 genes on, after all computation."""
    genes = [f"SYM{i}" for i in range(27)]
    sg.tl.perturb_sets(tokenized, folder, {"a name " * 60: genes}, n_random=0, checkpoint=tmp_path / "parts")
    assert max(len(path.name) for path in (tmp_path / "parts").rglob("*")) < 30
    assert tokenized.obsm["shift_sets"].notna().any(axis=None)
