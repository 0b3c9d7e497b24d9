"""Every recorded official embedding and single deletion beside ours: largest difference, and correlation of shifts.

    python benchmarks/check_recordings.py [--shared ../shared] [NAME ...]

The test suite draws a part of the long runs; this goes through all of them (about half an hour on two cores), or those named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from scgeneformer import Vocabulary, engine, nn

SHARED = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared")
N_SPECIAL = {"V1": 2, "V2": 4}
POOLING = {"cell": "mean", "cls": "cls", "cls_and_gene": "cls", "cell_and_gene": "mean", "gene": "mean"}


def model_folder(recordings: Path, name: str, made: Path) -> Path:
    """The recorded model, or the same drawn anew from its seed."""
    if (recordings / "models" / name).is_dir():
        return recordings / "models" / name
    spec = importlib.util.spec_from_file_location("random_models", recordings / "random_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make(name, made)


def read_cells(recordings: Path, subset: str) -> tuple[pd.Index, np.ndarray]:
    """Names and tokens of a subset."""
    frame = pd.read_parquet(recordings / "subsets" / f"{subset}.parquet")
    tokens = np.zeros((len(frame), frame["length"].max()), dtype=np.uint16)
    for row, ids in zip(tokens, frame["input_ids"], strict=True):
        row[: len(ids)] = ids
    return pd.Index(frame["cell"]), tokens


def compare_embedding(
    run: dict, recorded: dict, cells: pd.Index, tokens: np.ndarray, encoder: nn.Encoder, ids: np.ndarray
) -> str:
    """Largest difference of an embedding run."""
    genes = run["emb_mode"] == "gene"
    options = {
        "pooling": POOLING[run["emb_mode"]],
        "n_special": N_SPECIAL[run["model_version"]],
        "emb_layer": run["emb_layer"],
    }
    found = engine.embed(encoder, tokens, genes=genes, progress=True, **options)
    if genes:
        keep = ~pd.Index(recorded["gene"]).isin(["<cls>", "<eos>"])
        ours = found.genes[pd.Index(ids).get_indexer(recorded["gene"][keep])]
        theirs = recorded["embedding"][keep]
    else:
        ours, theirs = found.cells[cells.get_indexer(recorded["cell"])], recorded["embedding"]
    return f"{len(ours)} vectors, largest difference {np.abs(ours - theirs).max():.1e}"


def compare_deletions(
    run: dict, recorded: pd.DataFrame, cells: pd.Index, tokens: np.ndarray, encoder: nn.Encoder, states: dict
) -> str:
    """Largest difference and correlation of a run of single deletions."""
    pairs = recorded[["cell", "perturbed"]].drop_duplicates()
    rows = cells.get_indexer(pairs["cell"])
    positions = np.argmax(tokens[rows] == pairs["perturbed"].astype(int).to_numpy()[:, None], axis=1)
    options = {
        "pooling": POOLING[run["emb_mode"]],
        "n_special": N_SPECIAL[run["model_version"]],
        "emb_layer": run["emb_layer"],
    }
    centers = np.stack(list(states.values())) if states else None
    values = engine.delete_one_by_one(encoder, tokens, rows, positions, states=centers, progress=True, **options)
    ours = pd.DataFrame(values, index=pd.MultiIndex.from_frame(pairs), columns=list(states) or [""]).stack()
    theirs = recorded.set_index(["cell", "perturbed", "state"])["value"]
    both = ours.loc[theirs.index]
    text = f"{len(theirs)} values, largest difference {np.abs(both - theirs).max():.1e}"
    if states:
        each = [np.corrcoef(both.xs(s, level=2), theirs.xs(s, level=2))[0, 1] for s in states]
        text += f", Pearson {min(each):.5f} or more, standard deviation of the recorded {theirs.std():.1e}"
    return text


def main() -> None:
    """Go through the recordings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--shared", type=Path, default=SHARED)
    args = parser.parse_args()
    recordings = args.shared / "conformance"
    runs = {run["name"]: run["args"] for run in json.loads((recordings / "manifest.json").read_text())["runs"]}
    encoders: dict[str, nn.Encoder] = {}
    ids = {}
    for generation, corpus in (("V1", "gc30M"), ("V2", "gc104M")):
        files = [
            args.shared / "geneformer" / generation / f"{kind}_dictionary_{corpus}.pkl"
            for kind in ("token", "gene_median")
        ]
        ids[generation] = Vocabulary.from_official(*files, name=generation, max_length=2048).ids
    with tempfile.TemporaryDirectory() as made:
        for name, run in runs.items():
            embedding = recordings / "embeddings" / f"{name}.npz"
            table = recordings / "perturb" / f"{name}.parquet"
            single = (
                run.get("perturb_type") == "delete" and run.get("genes_to_perturb") == "all" and not run.get("combos")
            )
            if (args.names and name not in args.names) or not (
                (embedding.is_file() and "emb_mode" in run) or (table.is_file() and single)
            ):
                continue
            if name.startswith("states_") or run.get("summary_stat"):
                continue
            model = run["model"]
            if model not in encoders:
                encoders = {model: nn.load_encoder(model_folder(recordings, model, Path(made)))}
            cells, tokens = read_cells(recordings, run["data"])
            start = time.perf_counter()
            if embedding.is_file():
                recorded = dict(np.load(embedding, allow_pickle=True))  # gene names are Python strings
                text = compare_embedding(run, recorded, cells, tokens, encoders[model], ids[run["model_version"]])
            else:
                goal = f"states_{model}_L{run['emb_layer']}.npz"
                states = dict(np.load(recordings / "embeddings" / goal)) if run.get("cell_states_to_model") else {}
                text = compare_deletions(run, pd.read_parquet(table), cells, tokens, encoders[model], states)
            print(f"{name}: {text} ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
