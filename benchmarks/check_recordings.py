"""Compare every recorded official embedding, perturbation and effect on genes with ours: largest difference and correlation.

    python benchmarks/check_recordings.py [--shared ../shared] [NAME ...]

The test suite checks a random part of every run; this script checks all runs (about half an hour on two cores), or those named. It omits the values that the
official tool computes wrongly, see ``tests/engine/test_official_defects.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from scgeneformer import Vocabulary, engine, nn
from scgeneformer.engine.perturb import Edits, GeneEffects, Perturbation

SHARED = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared")
N_SPECIAL = {"V1": 2, "V2": 4}
MAX_LENGTH = {"V1": 2048, "V2": 4096}
WRONG = {"edge_v1-tiny_GATA4_overexpress_mix": "e:e1", "edge_v2-tiny_GATA4_overexpress_cls_and_gene_mix": "e:e1"}
POOLING = {"cell": "mean", "cls": "cls", "cls_and_gene": "cls", "cell_and_gene": "mean", "gene": "mean"}


def model_folder(recordings: Path, name: str, made: Path) -> Path:
    """The recorded model, or the same model drawn again from its seed."""
    if (recordings / "models" / name).is_dir():
        return recordings / "models" / name
    spec = importlib.util.spec_from_file_location("random_models", recordings / "random_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make(name, made)


def read_cells(recordings: Path, subset: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Cells of a subset by name, and their tokens."""
    frame = pd.read_parquet(recordings / "subsets" / f"{subset}.parquet")
    tokens = np.zeros((len(frame), frame["length"].max()), dtype=np.uint16)
    for row, ids in zip(tokens, frame["input_ids"], strict=True):
        row[: len(ids)] = ids
    return frame.set_index("cell"), tokens


def compare_embedding(
    run: dict, recorded: dict, cells: pd.Index, tokens: np.ndarray, encoder: nn.Encoder, ids: np.ndarray
) -> str:
    """Largest difference of an embedding run."""
    genes = run["emb_mode"] == "gene"
    options = {
        "pooling": POOLING[run["emb_mode"]],
        "n_special": N_SPECIAL[run["model_version"]],
        "emb_layer": run["emb_layer"],
        "precision": "float32",
    }
    found = engine.embed(encoder, tokens, genes=genes, progress=True, **options)
    if genes:
        keep = ~pd.Index(recorded["gene"]).isin(["<cls>", "<eos>"])
        ours = found.genes[pd.Index(ids).get_indexer(recorded["gene"][keep])]
        theirs = recorded["embedding"][keep]
    else:
        ours, theirs = found.cells[cells.get_indexer(recorded["cell"])], recorded["embedding"]
    return f"{len(ours)} vectors, largest difference {np.abs(ours - theirs).max():.1e}"


def perturbation_of(run: dict, ids: np.ndarray) -> Perturbation:
    """The perturbation of a run of the official tool."""
    tokens = pd.Index(ids)
    if run["genes_to_perturb"] == "all":
        anchor = tokens.get_loc(run["anchor_gene"]) if "anchor_gene" in run else None
        return Perturbation(
            run["perturb_type"], genes=np.arange(N_SPECIAL[run["model_version"]], len(ids)), anchor=anchor
        )
    perturbed = tokens.get_indexer(run["genes_to_perturb"])
    return Perturbation(run["perturb_type"], sets=(perturbed,), every=True, official=True)


def taken_cells(run: dict, cells: pd.DataFrame) -> np.ndarray:
    """The cells that the official tool uses: a slice of those in the start state, longest first."""
    taken = np.argsort(-cells["length"].to_numpy(), kind="stable")
    if "cell_states_to_model" in run:
        taken = taken[cells["cell_type"].iloc[taken] == run["cell_states_to_model"]["start_state"]]
    part = run.get("cell_inds_to_perturb", {"start": None, "end": None})
    return taken[part["start"] : part["end"]]


def enumerate_run(
    name: str, run: dict, recorded: pd.DataFrame, cells: pd.Index, tokens: np.ndarray, perturbation: Perturbation
) -> tuple[Edits, pd.DataFrame]:
    """The perturbations, checked against the recorded ones, and their names."""
    generation = run["model_version"]
    found = engine.perturb.enumerate_edits(
        tokens, perturbation, n_special=N_SPECIAL[generation], max_length=MAX_LENGTH[generation]
    )
    what = found.what.astype(str) if perturbation.genes is not None else "|".join(map(str, perturbation.sets[0]))
    labels = pd.DataFrame({"cell": cells[found.cells], "perturbed": what})
    theirs = recorded[["cell", "perturbed"]].drop_duplicates()
    if set(labels.itertuples(index=False, name=None)) != set(theirs.itertuples(index=False, name=None)):
        msg = f"{name} perturbs {len(theirs)} pairs, ours {len(labels)}, and the pairs differ."
        raise AssertionError(msg)
    right = np.flatnonzero(labels["cell"] != WRONG.get(name, ""))
    parts = {f: getattr(found, f)[right] for f in ("cells", "targets", "rows", "of")}
    # number each, so that effects on genes are not summed over cells
    return replace(found, **parts, what=np.arange(len(right))), labels.iloc[right].reset_index(drop=True)


def compare_perturbations(
    run: dict,
    recorded: pd.DataFrame,
    genes: pd.DataFrame | None,
    found: tuple[Edits, pd.DataFrame],
    tokens: np.ndarray,
    perturbation: Perturbation,
    encoder: nn.Encoder,
    states: dict,
) -> str:
    """Largest differences and correlations of a run of perturbations."""
    edits, labels = found
    effects = None if genes is None else GeneEffects(len(labels), encoder.config.vocab_size)
    with tqdm(total=len(labels)) as bar:
        values = engine.perturb.measure(
            encoder,
            edits,
            perturbation,
            pooling=POOLING[run["emb_mode"]],
            n_special=N_SPECIAL[run["model_version"]],
            emb_layer=run["emb_layer"],
            states=np.stack(list(states.values())) if states else None,
            effects=effects,
            precision="float32",
            bar=bar,
        )
    names = list(states or [""])
    both = pd.concat([labels.assign(state=name, ours=values[:, i]) for i, name in enumerate(names)])
    both = both.merge(recorded, on=["cell", "perturbed", "state"])
    text = f"{len(both)} values, largest difference {np.abs(both['ours'] - both['value']).max():.1e}"
    if states and len(labels) > 2:
        each = [np.corrcoef(part["ours"], part["value"])[0, 1] for _, part in both.groupby("state")]
        text += f", Pearson {min(each):.5f} or more, standard deviation of the recorded {both['value'].std():.1e}"
    if genes is None:
        return text
    ours = effects_table(effects, edits, labels, tokens, perturbation, N_SPECIAL[run["model_version"]])
    if perturbation.genes is not None:
        both = ours.merge(genes, on=["cell", "perturbed", "affected"])
        complete = len(both) == len(ours) == len(genes)
    else:
        both = ours.groupby("affected")["ours"].agg(["size", "mean"]).rename(columns={"mean": "ours"})
        both = both.join(genes.set_index("affected"))
        complete = len(both) == len(genes) and (both["size"] == both["n"]).all()
        both = both[both["size"] == both["n"]]  # without the genes of a cell that was left out
    apart = np.abs(both["ours"] - both["mean"]).max()
    pearson = np.corrcoef(both["ours"], both["mean"])[0, 1]
    part = "all" if complete else "a part of the"
    return f"{text}; {len(both)} ({part}) effects on genes, largest difference {apart:.1e}, Pearson {pearson:.6f}"


def effects_table(
    effects: GeneEffects,
    edits: Edits,
    labels: pd.DataFrame,
    tokens: np.ndarray,
    perturbation: Perturbation,
    n_special: int,
) -> pd.DataFrame:
    """Our effects on genes (cell, perturbed, affected, ours), with the labels of the official tool."""
    stored = effects.stored()
    if perturbation.genes is not None and perturbation.kind == "overexpress":
        # The official tool stores the effect on each gene under the next lower gene that is not perturbed, and loses that on the lowest.
        what, affected, cosines = [], [], []
        ends = np.searchsorted(stored["effect_what"], np.arange(len(labels) + 1))
        for i, (start, stop) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            row = tokens[edits.cells[i]]
            background = row[(row >= n_special) & (row != edits.targets[i, 0])]
            at = start + np.searchsorted(stored["effect_on"][start:stop], background[:-1])
            what.append(np.full(len(at), i))
            affected.append(background[1:])
            cosines.append(stored["effect_sum"][at])
        what, affected, cosines = map(np.concatenate, (what, affected, cosines))
    else:
        what, affected, cosines = stored["effect_what"], stored["effect_on"], stored["effect_sum"]
    return labels.iloc[what].reset_index(drop=True).assign(affected=affected.astype(np.int64), ours=cosines)


def main() -> None:
    """Check all recordings."""
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
            if (args.names and name not in args.names) or not (
                (embedding.is_file() and "emb_mode" in run) or table.is_file()
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
                text = compare_embedding(run, recorded, cells.index, tokens, encoders[model], ids[run["model_version"]])
            else:
                goal = f"states_{model}_L{run['emb_layer']}.npz"
                states = dict(np.load(recordings / "embeddings" / goal)) if "cell_states_to_model" in run else {}
                recorded, genes = pd.read_parquet(table), table.with_suffix(".genes.parquet")
                perturbation, taken = perturbation_of(run, ids[run["model_version"]]), taken_cells(run, cells)
                found = enumerate_run(name, run, recorded, cells.index[taken], tokens[taken], perturbation)
                genes = pd.read_parquet(genes) if genes.is_file() else None
                text = compare_perturbations(
                    run, recorded, genes, found, tokens[taken], perturbation, encoders[model], states
                )
            print(f"{name}: {text} ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
