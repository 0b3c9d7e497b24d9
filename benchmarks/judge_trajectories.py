"""Can a small decoder predict elapsed time and next cells, compared with baselines without one? Days of a cardiac differentiation (Friedman et al. 2018).

    python benchmarks/judge_trajectories.py [--seeds 2] [--first-epochs 6] [--epochs 8] [--out TABLE.md]

590 cells of day 2 and 500 of day 5 of one line, with the 2,000 most variable genes in the training cells among those that both days express; cells are truncated to
their first 64 genes. Each seed holds out a fifth of the cells, half of it to choose the epoch. A decoder of 3 layers and width 96 learns the next gene of the
training cells (first stage), and then trajectories of them (second stage), or the second stage alone. With two days, a trajectory has three cells, and elapsed
times are -3, 0 or 3 days. Each day is one library: predictions may reflect the library.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from torch.nn import functional as F

import scgeneformer as sg
from scgeneformer import evaluation, nn
from scgeneformer.model import TrajectoryModel

DATA = Path(os.environ.get("SCGENEFORMER_SHARED") or Path(__file__).parents[2] / "shared") / "data"
CELLS = "ipsc_cardiac_scgps/ipsc_cardiac_day2_day5.h5ad"
N_GENES, N_READ, ELAPSED = 2000, 64, 3.0


def read_cells() -> ad.AnnData:
    """Counts of the genes that both days express, and the day as a number."""
    cells = ad.read_h5ad(DATA / CELLS)
    cells.obs["time"] = cells.obs["day"].astype(str).str.removeprefix("day").astype(float)
    cells.X = cells.X.astype(np.float32)
    in_both = np.all([np.ravel(cells[cells.obs["time"] == t].X.sum(axis=0)) > 0 for t in (2, 5)], axis=0)
    return cells[:, in_both].copy()


def log_normalised(cells: ad.AnnData) -> ad.AnnData:
    profile = cells.copy()
    sc.pp.normalize_total(profile, target_sum=1e4)
    sc.pp.log1p(profile)
    return profile


def first_stage(vocabulary: sg.Vocabulary, tokens: np.ndarray, epochs: int, seed: int) -> sg.hub.Pretrained:
    """A decoder trained on the next gene of these cells, for this number of epochs."""
    torch.manual_seed(seed)
    shape = {"n_layers": 3, "width": 96, "n_heads": 4, "n_kv_heads": 4, "head_width": 24, "feed_forward": 192}
    network = nn.NextGeneModel(nn.LlamaConfig(len(vocabulary), max_length=N_READ + 2, **shape))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    order = np.random.default_rng(seed)
    for epoch in range(epochs):
        losses = []
        for rows in np.array_split(order.permutation(len(tokens)), len(tokens) // 16):
            batch = torch.from_numpy(tokens[rows].astype(np.int64))
            scores = network(batch[:, :-1]).flatten(0, 1)
            loss = F.cross_entropy(scores, batch[:, 1:].flatten(), ignore_index=0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        print(f"first stage, epoch {epoch + 1}: {np.mean(losses):.2f} nats per gene", flush=True)
    return sg.hub.Pretrained("first stage", vocabulary, model=network.eval())


def judge(cells: ad.AnnData, seed: int, first_epochs: int, epochs: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of elapsed times and of next cells, for each method."""
    times = cells.obs["time"].to_numpy()
    split = evaluation.split(times.astype(np.int64) // 5, rng=seed)
    profile = log_normalised(cells)
    sc.pp.highly_variable_genes(trained := profile[split.train].copy(), n_top_genes=N_GENES)
    chosen = trained.var["highly_variable"].to_numpy()
    cells, profile = cells[:, chosen].copy(), profile[:, chosen].copy()
    vocabulary = sg.Vocabulary.from_adata(cells[split.train].copy(), name="hearts", max_length=N_READ + 2)
    sg.pp.tokenize(cells, vocabulary)
    TrajectoryModel.setup_anndata(cells, "time", time_step=1.0)
    elapsed, following = [], []
    tokens = cells.obsm["geneformer_tokens"][split.train]
    for name, passes in (("two stages", first_epochs), ("second stage only", 0)):
        decoder, start = first_stage(vocabulary, tokens, passes, seed), time.perf_counter()
        model = TrajectoryModel(cells, decoder)
        options = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False, "batch_size": 16}
        model.train(epochs, learning_rate=2e-3, split=split, rng=seed, **options)
        print(f"seed {seed}, {name}: {time.perf_counter() - start:.0f} s\n{model.scores.round(3)}", flush=True)
        elapsed.append(model.scores.rename({"model": name}))
        following.append(model.evaluate_next_cell(ELAPSED).assign(decoder=name))  # each decoder in its own embedding
        print(following[-1].round(3), flush=True)
        if not passes:
            continue
        embedding = embed(decoder, cells)
        sc.pp.pca(profile, n_comps=50)
        for what, features in (("ridge, expression", profile.obsm["X_pca"]), ("ridge, first stage", embedding)):
            told = evaluation.ridge(features[split.train], times[split.train], features[split.test], scaled=False)
            for which, values in ((what, told), (f"{what}, nearest", np.where(told < 3.5, 2, 5))):
                errors = np.abs(values - times[split.test])
                interval = evaluation.bootstrap(lambda rows, e=errors: pd.Series({"mae": e[rows].mean()}), len(errors))
                elapsed.append(pd.DataFrame({"mae": errors.mean(), **interval.loc["mae"]}, index=[which]))
    times_told = pd.concat(elapsed)
    times_told = times_told[~times_told.index.duplicated()]  # baselines are the same for both
    return times_told.assign(seed=seed), pd.concat(following).assign(seed=seed)


def embed(decoder: sg.hub.Pretrained, cells: ad.AnnData) -> np.ndarray:
    """Embedding of the cells by the first stage."""
    embedded = cells.copy()
    sg.tl.embed(embedded, decoder)
    return embedded.obsm["X_geneformer"]


def main() -> None:
    """Train, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sg.settings.progress = False
    logging.getLogger("lightning.pytorch").setLevel("ERROR")
    torch.set_num_threads(1)
    cells = read_cells()
    results = [judge(cells, seed, args.first_epochs, args.epochs) for seed in range(args.seeds)]
    text = [pd.concat(tables).rename_axis("method").reset_index().round(2) for tables in zip(*results, strict=True)]
    text = "\n\n".join(table.to_markdown(index=False) for table in text)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
